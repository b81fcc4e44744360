//! A drive in memory that forgets, tears and reorders what was not flushed.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;

pub const PAGE: u64 = 4096;
/// What a drive writes whole or not at all.
const ATOM: usize = 512;

#[derive(Clone, Default)]
pub struct Disk {
    /// What survives a crash.
    pages: BTreeMap<u64, Box<[u8]>>,
    /// Written since, in order.
    unflushed: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (page, part) in (offset / PAGE..).zip(bytes.chunks_mut(PAGE as usize)) {
            if let Some(stored) = self.pages.get(&page) {
                part.copy_from_slice(&stored[..part.len()]);
            }
        }
        for (at, written) in &self.unflushed {
            let start = (*at).max(offset);
            let end = (at + written.len() as u64).min(offset + len as u64);
            if start < end {
                let from = &written[(start - at) as usize..(end - at) as usize];
                bytes[(start - offset) as usize..(end - offset) as usize].copy_from_slice(from);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.unflushed.push((offset, bytes.to_vec()));
    }

    pub fn flush(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.unflushed) {
            self.store(offset, &bytes);
        }
    }

    /// Any part of what was not flushed is there afterwards, in any order.
    pub fn crash(&mut self, rng: &mut SmallRng) {
        let mut atoms: Vec<(u64, Vec<u8>)> = Vec::new();
        for (offset, bytes) in std::mem::take(&mut self.unflushed) {
            // Whole writes that are lost or kept are as likely as torn ones.
            let keep = [0.0, 0.5, 0.97, 1.0][rng.random_range(0..4)];
            for (number, atom) in bytes.chunks(ATOM).enumerate() {
                if rng.random_bool(keep) {
                    let at = offset + (number * ATOM) as u64;
                    let place = rng.random_range(0..=atoms.len());
                    atoms.insert(place, (at, atom.to_vec()));
                }
            }
        }
        for (offset, atom) in atoms {
            self.store(offset, &atom);
        }
    }

    /// Flips one bit of something that was ever written.
    pub fn flip(&mut self, rng: &mut SmallRng) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        if pages.is_empty() {
            return;
        }
        let page = pages[rng.random_range(0..pages.len())];
        if let Some(bytes) = self.pages.get_mut(&page) {
            let bit = rng.random_range(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let inside = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - inside));
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| vec![0; PAGE as usize].into());
            page[inside..inside + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
    }
}
