//! Every interleaving (up to a bound of preemptions) of the retire, announce, view and reuse
//! protocol. Under loom the arena's bytes have shadow cells, so that a read that is not ordered
//! before a later write of the same line is reported even if its value happens to be right.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hugepages --release --test loom --target-dir target/loom`
#![cfg(loom)]

use hugepages::blocks::Pool;
use hugepages::{Arena, Backing, PagePolicy, Reader, Writer};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const SEGMENT: u32 = 64;
/// The index entry that says: nothing here.
const EMPTY: u32 = u32::MAX;

fn arena(segments: u32, segment_bytes: u32, readers: u16) -> (Writer, Vec<Reader>) {
    let bytes = (segments * segment_bytes) as usize;
    let (mut region, _) = Backing::map(bytes, PagePolicy::Plain).unwrap();
    // A mapping is whole pages; a model wants few segments.
    let region = region.take(bytes).unwrap();
    Arena::split(region, segment_bytes, readers).unwrap()
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// Writes generation after generation into the only segment, as reuse allows.
fn write_lives(writer: &mut Writer, index: &AtomicU32, lives: u8) {
    for life in 1..=lives {
        writer.reclaim();
        let Some(segment) = writer.open() else {
            return;
        };
        writer.append(segment, &[&[life; 8]]).unwrap();
        index.store(segment, Ordering::Release);
        index.store(EMPTY, Ordering::Release);
        writer.retire(segment);
    }
}

#[test]
fn a_borrow_never_sees_a_later_life() {
    model(|| {
        let (mut writer, mut readers) = arena(1, SEGMENT, 1);
        let index = Arc::new(AtomicU32::new(EMPTY));
        let mut reader = readers.pop().unwrap();
        let shared = Arc::clone(&index);
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                let segment = shared.load(Ordering::Acquire);
                if let Some(bytes) = reader.read(segment, 0, 8) {
                    let first = bytes[0];
                    thread::yield_now();
                    let again = reader.read(segment, 0, 8).unwrap();
                    assert_eq!(again, [first; 8]);
                }
                reader.quiesce();
            }
        });
        write_lives(&mut writer, &index, 3);
        reading.join().unwrap();
    });
}

#[test]
fn a_view_never_sees_a_later_life() {
    model(|| {
        let (mut writer, mut readers) = arena(1, SEGMENT, 1);
        let index = Arc::new(AtomicU32::new(EMPTY));
        let mut reader = readers.pop().unwrap();
        let shared = Arc::clone(&index);
        let reading = thread::spawn(move || {
            let view = reader.view(shared.load(Ordering::Acquire), 0, 8);
            let first = view.as_ref().map(|view| view[0]);
            reader.quiesce();
            // The cache has let go by now if the segment is retired; the view has not.
            if let Some(view) = view {
                assert!(view.iter().all(|byte| Some(*byte) == first));
            }
            reader.quiesce();
        });
        write_lives(&mut writer, &index, 3);
        reading.join().unwrap();
    });
}

#[test]
fn a_view_dropped_by_a_stranger_is_waited_for() {
    model(|| {
        let (mut writer, mut readers) = arena(1, SEGMENT, 1);
        let reader = readers.pop().unwrap();
        let segment = writer.open().unwrap();
        writer.append(segment, &[&[1; 8]]).unwrap();
        let view = reader.view(segment, 0, 8).unwrap();
        writer.retire(segment);
        drop(reader);
        let stranger = thread::spawn(move || assert_eq!(&view[..], [1; 8]));
        writer.reclaim();
        if let Some(segment) = writer.open() {
            writer.append(segment, &[&[2; 8]]).unwrap();
        }
        stranger.join().unwrap();
        writer.reclaim();
        assert_eq!(writer.retired_segments(), 0);
    });
}

#[test]
fn two_readers_are_both_waited_for() {
    model(|| {
        let (mut writer, mut readers) = arena(1, SEGMENT, 2);
        let segment = writer.open().unwrap();
        writer.append(segment, &[&[1; 8]]).unwrap();
        let mut other = readers.pop().unwrap();
        let mut reader = readers.pop().unwrap();
        let reading = thread::spawn(move || {
            if let Some(bytes) = reader.read(segment, 0, 8) {
                assert_eq!(bytes, [1; 8]);
            }
            reader.quiesce();
        });
        writer.retire(segment);
        other.quiesce();
        writer.reclaim();
        if let Some(segment) = writer.open() {
            writer.append(segment, &[&[2; 8]]).unwrap();
        }
        reading.join().unwrap();
    });
}

#[test]
fn what_is_read_on_ends_with_the_published_bytes() {
    model(|| {
        let (mut writer, mut readers) = arena(1, 128, 1);
        let mut reader = readers.pop().unwrap();
        let segment = writer.open().unwrap();
        writer.append(segment, &[&[1; 64]]).unwrap();
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                if let Some(bytes) = reader.read_on(segment, 0) {
                    let (first, rest) = bytes.split_at(64);
                    assert_eq!(first, [1; 64]);
                    assert!(rest.is_empty() || rest == [2; 64]);
                }
                reader.quiesce();
            }
        });
        writer.append(segment, &[&[2; 64]]).unwrap();
        writer.retire(segment);
        writer.reclaim();
        if let Some(segment) = writer.open() {
            // Of another life: nobody reads it who has not seen that the former one ended.
            writer.append(segment, &[&[1; 64]]).unwrap();
        }
        reading.join().unwrap();
    });
}

#[test]
fn published_bytes_are_whole_while_the_segment_grows() {
    model(|| {
        let (mut writer, mut readers) = arena(1, 128, 1);
        let reader = readers.pop().unwrap();
        let segment = writer.open().unwrap();
        writer.append(segment, &[&[1; 64]]).unwrap();
        let reading = thread::spawn(move || {
            let first = reader.view(segment, 0, 64).unwrap();
            if let Some(second) = reader.view(segment, 64, 64) {
                assert_eq!(&second[..], [2; 64]);
            }
            assert_eq!(&first[..], [1; 64]);
        });
        writer.append(segment, &[&[2; 64]]).unwrap();
        reading.join().unwrap();
    });
}

/// A coarse segment that was read becomes fine ones, and the other way round, while a reader of both is at it.
#[test]
fn a_segment_that_changes_arenas_is_not_read_as_what_it_was() {
    model(|| {
        let (mut region, _) = Backing::map(128, PagePolicy::Plain).unwrap();
        let region = region.take(128).unwrap();
        let mut both = Arena::overlay(region, (128, 64), 128, 1).unwrap();
        let (mut coarse, mut fine) = both.readers.pop().unwrap();
        let segment = both.coarse.open().unwrap();
        both.coarse.append(segment, &[&[1; 128]]).unwrap();
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                if let Some(bytes) = coarse.read(segment, 64, 64) {
                    assert_eq!(bytes, [1; 64]);
                }
                if let Some(bytes) = fine.read(1, 0, 64) {
                    assert_eq!(bytes, [2; 64]);
                }
                coarse.quiesce();
                fine.quiesce();
            }
        });
        both.coarse.retire(segment);
        both.coarse.reclaim();
        if both.coarse.cut_for(&mut both.fine).is_some() {
            let pieces = [both.fine.open().unwrap(), both.fine.open().unwrap()];
            both.fine.append(pieces[1], &[&[2; 64]]).unwrap();
            pieces
                .iter()
                .for_each(|piece| assert!(both.fine.retire(*piece)));
            assert!(both.coarse.call_back(&mut both.fine, segment));
            both.fine.reclaim();
            if both.coarse.take_back(&mut both.fine) == 1 {
                assert_eq!(both.coarse.open(), Some(segment));
                both.coarse.append(segment, &[&[1; 128]]).unwrap();
            }
        }
        reading.join().unwrap();
    });
}

/// Takes a block and gives it back, twice; nobody else may have it meanwhile.
fn hold_in_turn(pool: &Pool, held: &[AtomicU32; 2]) {
    for _ in 0..2 {
        let Some(block) = pool.take() else { continue };
        let mine = &held[usize::from(block.index())];
        // Not ordered by this: what the last holder did is, by the list.
        assert_eq!(mine.swap(1, Ordering::Relaxed), 0);
        mine.store(0, Ordering::Relaxed);
        drop(block);
    }
}

#[test]
fn no_block_has_two_holders() {
    model(|| {
        let (region, _) = Backing::map(8 << 10, PagePolicy::Plain).unwrap();
        let pool = Pool::new(region, 4 << 10).unwrap();
        let held = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let (others, theirs) = (pool.clone(), Arc::clone(&held));
        let other = thread::spawn(move || hold_in_turn(&others, &theirs));
        hold_in_turn(&pool, &held);
        other.join().unwrap();
        assert_eq!(pool.free(), 2);
    });
}
