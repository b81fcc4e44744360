//! Writer, readers and strangers that drop views, on real threads. Every byte is a function of
//! its segment's generation, so that bytes of another life are noticed.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use hugepages::{Arena, Backing, PagePolicy, Reader, Writer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEGMENT: u32 = 4096;
const RECORD: u32 = 256;
const SEGMENTS: u32 = 16;
const READERS: u16 = 3;
const LIVES: u64 = 5_000;

/// A place is what a writer leaves for readers: `segment:32 | offset:32` of a whole record.
const NOTHING: u64 = u64::MAX;

fn check(record: &[u8]) {
    assert_eq!(record.len(), RECORD as usize);
    let first = record[0];
    assert!(record.iter().all(|byte| *byte == first), "torn record");
}

static DONE: AtomicBool = AtomicBool::new(false);

/// Fills segments with records, publishing the place of each, and retires them in a random order.
fn write(mut writer: Writer, places: &[AtomicU64]) {
    let mut random = SmallRng::seed_from_u64(1);
    let mut live = Vec::new();
    let mut lives = 0;
    while lives < LIVES {
        writer.reclaim();
        let Some(segment) = writer.open() else {
            if live.is_empty() {
                thread::yield_now();
            } else {
                retire_one(&mut writer, &mut live, &mut random, places);
            }
            continue;
        };
        lives += 1;
        fill(&mut writer, segment, lives as u8, places, &mut random);
        writer.seal(segment);
        live.push(segment);
    }
}

fn fill(writer: &mut Writer, segment: u32, byte: u8, places: &[AtomicU64], random: &mut SmallRng) {
    let record = [byte; RECORD as usize];
    while let Some(offset) = writer.append(segment, &[&record[..100], &record[100..]]) {
        let place = &places[random.random_range(0..places.len())];
        place.store(
            u64::from(segment) << 32 | u64::from(offset),
            Ordering::Release,
        );
    }
}

fn retire_one(
    writer: &mut Writer,
    live: &mut Vec<u32>,
    random: &mut SmallRng,
    places: &[AtomicU64],
) {
    let segment = live.swap_remove(random.random_range(0..live.len()));
    for place in places {
        if place.load(Ordering::Relaxed) >> 32 == u64::from(segment) {
            place.store(NOTHING, Ordering::Release);
        }
    }
    assert!(writer.retire(segment));
}

/// Reads, keeps some views for a while, gives some away, and announces now and then. Returns how
/// many of the last places it could read.
fn read(
    mut reader: Reader,
    places: &[AtomicU64],
    stranger: &mpsc::SyncSender<Bytes>,
    seed: u64,
) -> usize {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut kept: Vec<(Bytes, u8)> = Vec::new();
    while !DONE.load(Ordering::Acquire) {
        let (segment, offset) = split(&places[random.random_range(0..places.len())]);
        if let Some(record) = reader.read(segment, offset, RECORD) {
            check(record);
        }
        if random.random_ratio(1, 8)
            && let Some(view) = reader.view(segment, offset, RECORD)
        {
            check(&view);
            kept.push((view.clone(), view[0]));
            let _ = stranger.try_send(view);
        }
        if random.random_ratio(1, 4) && !kept.is_empty() {
            let (view, byte) = kept.swap_remove(random.random_range(0..kept.len()));
            assert_eq!(view[0], byte, "a view changed under its holder");
            check(&view);
        }
        if random.random_ratio(1, 4) {
            reader.quiesce();
        }
    }
    let readable = |place: &&AtomicU64| {
        let (segment, offset) = split(place);
        reader.read(segment, offset, RECORD).is_some()
    };
    places.iter().filter(readable).count()
}

fn split(place: &AtomicU64) -> (u32, u32) {
    let place = place.load(Ordering::Acquire);
    ((place >> 32) as u32, place as u32)
}

#[test]
fn views_never_change_while_segments_are_reused() {
    let (region, _) = Backing::map((SEGMENT * SEGMENTS) as usize, PagePolicy::Plain).unwrap();
    let (writer, readers) = Arena::split(region, SEGMENT, READERS).unwrap();
    let places: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(NOTHING)).collect();
    let (send, receive) = mpsc::sync_channel::<Bytes>(4);
    thread::scope(|scope| {
        let places = &places;
        let writing = scope.spawn(move || write(writer, places));
        let reading: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(seed, reader)| {
                let send = send.clone();
                scope.spawn(move || read(reader, places, &send, seed as u64))
            })
            .collect();
        drop(send);
        scope.spawn(move || receive.iter().for_each(|view| check(&view)));
        writing.join().unwrap();
        DONE.store(true, Ordering::Release);
        for reader in reading {
            assert!(reader.join().unwrap() > 0, "a reader found nothing");
        }
    });
}
