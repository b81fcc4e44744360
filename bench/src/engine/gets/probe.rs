//! The least that a lookup can do: a line of an index, then the first line of a record.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};
use foldhash::quality::FixedState;
use hugepages::{Backing, PagePolicy, Table};

use super::{HEAD, KEY_BYTES, Key, Objects, key};

const LINE: u64 = 64;
const SLOTS: u64 = 8;
/// Slots that are used of eight, so that next to no line is full.
const USED: u64 = 4;
const TAG_SHIFT: u32 = 40;

/// An index whose slots hold a tag and a line of the records, and records of which the first word
/// is the hash. What finds no slot in its line is not there, and found by nobody: a few objects.
pub struct Probe {
    hasher: FixedState,
    index: Table,
    records: Table,
}

impl Probe {
    /// Bytes that it takes.
    pub fn bytes(objects: Objects) -> u64 {
        index_bytes(objects) + record_bytes(objects)
    }

    pub fn new(objects: Objects, pages: PagePolicy) -> Result<Self> {
        let bytes = Self::bytes(objects) as usize;
        let (mut region, _) = Backing::map(bytes, pages)?;
        let index = region.take(index_bytes(objects) as usize);
        let records = region.take(record_bytes(objects) as usize);
        let probe = Self {
            hasher: FixedState::with_seed(1),
            index: Table::new(index.context("too little memory")?)?,
            records: Table::new(records.context("too little memory")?)?,
        };
        let mut at = 0;
        for object in 0..objects.count {
            probe.put(&key(object), at);
            at += lines_of(objects.size(object));
        }
        Ok(probe)
    }

    fn put(&self, key: &Key, at: u64) {
        let hash = self.hasher.hash_one(key);
        let slots = &self.index.lines()[self.line(hash)].0;
        if let Some(free) = slots.iter().find(|slot| slot.load(Relaxed) == 0) {
            free.store(tag(hash) | (at + 1), Relaxed);
        }
        self.records.lines()[at as usize].0[0].store(hash, Relaxed);
    }

    /// Whether the key is there. One that found no slot is said to be.
    pub fn get(&self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut full = true;
        for slot in &self.index.lines()[self.line(hash)].0 {
            let slot = slot.load(Relaxed);
            full &= slot != 0;
            if slot >> TAG_SHIFT == tag(hash) >> TAG_SHIFT {
                let at = (slot & ((1 << TAG_SHIFT) - 1)) - 1;
                if self.records.lines()[at as usize].0[0].load(Relaxed) == hash {
                    return true;
                }
            }
        }
        full
    }

    fn line(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.index.lines().len() as u64) >> 32) as usize
    }
}

fn tag(hash: u64) -> u64 {
    // Not zero, as an empty slot is.
    (hash >> TAG_SHIFT | 1) << TAG_SHIFT
}

fn index_bytes(objects: Objects) -> u64 {
    (u64::from(objects.count) * SLOTS / USED).div_ceil(SLOTS) * LINE
}

fn record_bytes(objects: Objects) -> u64 {
    (0..objects.count)
        .map(|object| lines_of(objects.size(object)) * LINE)
        .sum()
}

/// A record: 16 bytes of header, key, head, body.
fn lines_of(size: usize) -> u64 {
    (16 + KEY_BYTES + HEAD.len() + size).div_ceil(LINE as usize) as u64
}
