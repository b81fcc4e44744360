//! The arena's promises, one thread at a time.
#![cfg(not(loom))]

use bytes::Bytes;
use hugepages::{Arena, Backing, PagePolicy, Reader, Writer};

const SEGMENT: u32 = 4096;

fn arena(segments: u32, readers: u16) -> (Writer, Vec<Reader>) {
    let bytes = (segments * SEGMENT) as usize;
    let (region, _) = Backing::map(bytes, PagePolicy::Plain).unwrap();
    Arena::split(region, SEGMENT, readers).unwrap()
}

/// Announces for all readers, then reclaims.
fn pass(writer: &mut Writer, readers: &mut [Reader]) -> usize {
    readers.iter_mut().for_each(Reader::quiesce);
    writer.reclaim()
}

/// A segment of a one-segment arena that was filled, retired and is open again.
fn reopen(writer: &mut Writer, readers: &mut [Reader]) -> u32 {
    let segment = writer.open().unwrap();
    writer.append(segment, &[&[1; 100]]).unwrap();
    assert!(writer.retire(segment));
    assert_eq!(pass(writer, readers), 1);
    writer.open().unwrap()
}

#[test]
fn only_committed_bytes_can_be_read() {
    let (mut writer, mut readers) = arena(2, 1);
    let reader = &mut readers[0];
    assert_eq!(reader.read(0, 0, 1), None);
    let segment = writer.open().unwrap();
    assert_eq!(reader.view(segment, 0, 1), None);
    assert_eq!(writer.append(segment, &[b"ab", b"", b"cde"]), Some(0));
    assert_eq!(reader.read(segment, 1, 4), Some(&b"bcde"[..]));
    assert_eq!(reader.read(segment, 1, 5), None);
    assert_eq!(reader.read(segment, u32::MAX, 2), None);
    assert_eq!(reader.read(7, 0, 0), None);
    assert_eq!(reader.view(u32::MAX, 0, 0), None);
}

#[test]
fn a_view_of_an_open_segment_grows_with_it() {
    let (mut writer, readers) = arena(1, 1);
    let segment = writer.open().unwrap();
    writer.append(segment, &[b"first"]).unwrap();
    let first = readers[0].view(segment, 0, 5).unwrap();
    writer.pad(segment, 64);
    assert_eq!(writer.append(segment, &[b"second"]), Some(64));
    let second = readers[0].view(segment, 64, 6).unwrap();
    assert_eq!((&first[..], &second[..]), (&b"first"[..], &b"second"[..]));
}

#[test]
fn appends_end_at_the_segment() {
    let (mut writer, _readers) = arena(1, 1);
    let segment = writer.open().unwrap();
    assert!(writer.append(segment, &[&[0; 4000]]).is_some());
    assert_eq!(writer.append(segment, &[&[0; 96], &[0]]), None);
    assert!(writer.append(segment, &[&[0; 96]]).is_some());
    assert_eq!(writer.room(segment), 0);
    writer.pad(segment, 64);
    assert!(writer.seal(segment) && !writer.seal(segment));
    assert_eq!(writer.append(segment, &[b"x"]), None);
    assert_eq!(writer.open(), None);
}

#[test]
fn calls_on_segments_in_another_state_do_nothing() {
    let (mut writer, _readers) = arena(1, 1);
    assert!(!writer.retire(0) && !writer.seal(0));
    assert_eq!(writer.append(0, &[b"x"]), None);
    assert_eq!(
        (writer.room(9), writer.committed(9), writer.generation(9)),
        (0, 0, 0)
    );
    assert!(!writer.retire(9));
    let segment = writer.open().unwrap();
    assert!(writer.retire(segment) && !writer.retire(segment));
    assert_eq!(writer.append(segment, &[b"x"]), None);
}

#[test]
fn reuse_waits_for_every_reader() {
    let (mut writer, mut readers) = arena(1, 2);
    let segment = writer.open().unwrap();
    writer.append(segment, &[b"old"]).unwrap();
    writer.retire(segment);
    // Found in an index a moment ago: still there until the reader announces.
    assert_eq!(readers[1].read(segment, 0, 3), Some(&b"old"[..]));
    assert_eq!(writer.reclaim(), 0);
    let lagging = |writer: &Writer| {
        let laggards = writer.laggards().into_iter();
        let lagging: Vec<u16> = laggards.flat_map(|(_, readers)| readers).collect();
        lagging
    };
    assert_eq!(lagging(&writer), [0, 1]);
    readers[0].quiesce();
    assert_eq!(lagging(&writer), [1]);
    assert_eq!(readers[0].read(segment, 0, 3), None);
    assert_eq!(readers[0].view(segment, 0, 3), None);
    assert_eq!(writer.reclaim(), 0);
    readers[1].quiesce();
    assert_eq!(writer.reclaim(), 1);
    assert!(writer.laggards().is_none());
    assert_eq!(writer.open(), Some(segment));
    assert_eq!(readers[1].read(segment, 0, 1), None);
}

#[test]
fn reuse_waits_for_every_view_and_says_who_holds_it() {
    let (mut writer, mut readers) = arena(1, 2);
    let segment = writer.open().unwrap();
    writer.append(segment, &[b"kept"]).unwrap();
    let view = readers[1].view(segment, 1, 3).unwrap();
    let copy = view.clone();
    assert!(!readers[0].is_retired(&view));
    writer.retire(segment);
    assert!(readers[0].is_retired(&view) && !readers[0].is_retired(b"elsewhere"));
    assert_eq!(pass(&mut writer, &mut readers), 0);
    assert_eq!(
        (writer.held_by(0), writer.held_by(1), writer.held_by(2)),
        (0, 1, 0)
    );
    assert_eq!(writer.retired_segments(), 1);
    drop(view);
    assert_eq!(writer.reclaim(), 0);
    assert_eq!(&copy[..], b"ept");
    std::thread::spawn(move || drop(copy)).join().unwrap();
    assert_eq!(writer.reclaim(), 1);
    assert_eq!((writer.held_by(1), writer.free_segments()), (0, 1));
}

#[test]
fn a_cached_view_alone_does_not_hold_a_segment() {
    let (mut writer, mut readers) = arena(1, 1);
    let segment = writer.open().unwrap();
    writer.append(segment, &[b"x"]).unwrap();
    drop(readers[0].view(segment, 0, 1).unwrap());
    writer.retire(segment);
    assert_eq!(writer.held_by(0), 1);
    assert_eq!(pass(&mut writer, &mut readers), 1);
}

#[test]
fn a_new_generation_shows_nothing_of_the_old() {
    let (mut writer, mut readers) = arena(1, 1);
    let before = readers[0].generation(0).unwrap();
    let segment = reopen(&mut writer, &mut readers);
    assert_eq!(readers[0].generation(segment).unwrap(), before + 2);
    assert_eq!(readers[0].read(segment, 0, 1), None);
    writer.append(segment, &[b"new"]).unwrap();
    assert_eq!(
        readers[0].view_of(segment, before + 2, 0, 3).unwrap(),
        "new"
    );
    assert_eq!(readers[0].view_of(segment, before + 1, 0, 3), None);
}

#[test]
fn a_dropped_reader_holds_nothing_up_but_its_views_do() {
    let (mut writer, mut readers) = arena(2, 2);
    let segments = [writer.open().unwrap(), writer.open().unwrap()];
    for segment in segments {
        writer.append(segment, &[b"data"]).unwrap();
    }
    let view = readers[1].view(segments[0], 0, 4).unwrap();
    drop(readers[1].view(segments[1], 0, 4).unwrap());
    readers.truncate(1);
    assert!(segments.iter().all(|segment| writer.retire(*segment)));
    assert_eq!(pass(&mut writer, &mut readers), 1);
    assert_eq!(&view[..], b"data");
    drop(view);
    assert_eq!(writer.reclaim(), 1);
}

#[test]
fn forgotten_readers_and_views_only_stop_reuse() {
    let (mut writer, mut readers) = arena(2, 2);
    let segment = writer.open().unwrap();
    writer.append(segment, &[b"data"]).unwrap();
    std::mem::forget(readers[0].view(segment, 0, 4).unwrap());
    writer.retire(segment);
    assert_eq!(pass(&mut writer, &mut readers), 0);
    std::mem::forget(readers.pop().unwrap());
    let other = writer.open().unwrap();
    writer.retire(other);
    assert_eq!(pass(&mut writer, &mut readers), 0);
    assert_eq!(writer.free_segments(), 0);
}

#[test]
fn segments_that_share_the_place_of_a_cached_view_have_their_own_bytes() {
    // Sixteen times as many segments as places.
    let (mut writer, mut readers) = arena(1024, 2);
    let segments: Vec<u32> = std::iter::from_fn(|| writer.open()).collect();
    for segment in &segments {
        writer.append(*segment, &[&segment.to_le_bytes()]).unwrap();
    }
    let view = |reader: &Reader, segment: u32| reader.view(segment, 0, 4).unwrap();
    let kept = view(&readers[0], 5);
    for segment in segments.iter().chain(segments.iter().rev()) {
        for reader in &readers {
            assert_eq!(view(reader, *segment), segment.to_le_bytes()[..]);
        }
    }
    assert_eq!(kept, 5u32.to_le_bytes()[..]);
    assert!(segments.iter().all(|segment| writer.retire(*segment)));
    // None but the view in hand holds anything, although many were cached.
    assert_eq!(pass(&mut writer, &mut readers), 1023);
    assert_eq!((writer.free_segments(), writer.held_segments()), (1023, 1));
    assert_eq!((writer.held_by(0), writer.held_by(1)), (1, 0));
    // What is closed stays so, and is forgotten when it is used again.
    for _ in 0..300 {
        let segment = writer.open().unwrap();
        assert_eq!(readers[0].read(segment, 0, 1), None);
        writer.append(segment, &[b"n"]).unwrap();
        assert_eq!(readers[0].view(segment, 0, 1).unwrap(), "n");
        writer.retire(segment);
        pass(&mut writer, &mut readers);
        assert_eq!(readers[0].read(segment, 0, 1), None);
        assert_eq!(readers[0].read(5, 0, 1), None);
    }
}

#[test]
fn views_outlive_everything() {
    let view: Bytes = {
        let (mut writer, readers) = arena(1, 1);
        let segment = writer.open().unwrap();
        writer.append(segment, &[&[42; 4096]]).unwrap();
        readers[0].view(segment, 0, 4096).unwrap()
    };
    assert!(view.iter().all(|byte| *byte == 42));
}

#[test]
fn a_writer_without_readers_reuses_at_once() {
    let (mut writer, readers) = arena(1, 0);
    assert!(readers.is_empty());
    for _ in 0..100 {
        let segment = writer.open().unwrap();
        writer.append(segment, &[b"x"]).unwrap();
        writer.retire(segment);
        assert_eq!(writer.reclaim(), 1);
    }
}

fn overlay(blocks: u32, may_be_fine: u32) -> hugepages::Overlay {
    let (region, _) = Backing::map((blocks * SEGMENT) as usize, PagePolicy::Plain).unwrap();
    let may_be_fine = (may_be_fine * SEGMENT) as usize;
    Arena::overlay(region, (SEGMENT, 1024), may_be_fine, 1).unwrap()
}

#[test]
fn segments_go_to_the_other_arena_and_come_back() {
    let mut both = overlay(3, 2);
    let (coarse, fine) = &mut both.readers[0];
    assert_eq!((both.fine.open(), both.fine.segments()), (None, 8));
    // Those that cannot be cut are used first.
    let first = both.coarse.open().unwrap();
    assert_eq!(first, 2);
    let second = both.coarse.open().unwrap();
    both.coarse.append(second, &[&[1; 4096]]).unwrap();
    let view = coarse.view(second, 1024, 8).unwrap();
    both.coarse.retire(second);
    let cut = both.coarse.cut_for(&mut both.fine).unwrap();
    assert_eq!((cut, both.coarse.cut_for(&mut both.fine)), (0, None));
    let held = both.fine.open().unwrap();
    both.fine.append(held, &[b"held"]).unwrap();
    let bytes = fine.view(held, 0, 4).unwrap();
    assert_eq!((&view[..], &bytes[..]), (&[1; 8][..], &b"held"[..]));
    assert!(!coarse.is_retired(&bytes) && coarse.is_retired(&view));
    drop(view);
    coarse.quiesce();
    assert_eq!(both.coarse.reclaim(), 1);

    // Of the block, three pieces are free and go at once; the last when nobody reads it any more.
    assert!(!both.coarse.call_back(&mut both.fine, second));
    assert!(both.coarse.call_back(&mut both.fine, cut));
    assert!(!both.coarse.call_back(&mut both.fine, cut));
    assert_eq!((both.fine.open(), both.fine.leaving()), (None, 1));
    both.fine.retire(held);
    fine.quiesce();
    both.fine.reclaim();
    assert_eq!(both.coarse.take_back(&mut both.fine), 0);
    drop(bytes);
    assert_eq!(both.fine.reclaim(), 1);
    assert_eq!(both.coarse.take_back(&mut both.fine), 1);
    assert_eq!(
        (fine.read(held, 0, 1), both.fine.free_segments()),
        (None, 0)
    );
    let all: Vec<_> = std::iter::from_fn(|| both.coarse.open()).collect();
    assert_eq!((all.len(), both.coarse.free_segments()), (2, 0));
}

#[test]
#[should_panic(expected = "not the two arenas of one overlay")]
fn arenas_of_two_memories_do_not_exchange_segments() {
    let (mut one, mut other) = (overlay(2, 2), overlay(2, 2));
    one.coarse.cut_for(&mut other.fine);
}

#[test]
fn overlays_that_cannot_work_are_refused() {
    for (sizes, may_be_fine) in [
        ((1024, 4096), 8192),
        ((4096, 1024), 1000),
        ((4096, 48), 8192),
    ] {
        let (region, _) = Backing::map(8192, PagePolicy::Plain).unwrap();
        let error = Arena::overlay(region, sizes, may_be_fine, 1).unwrap_err();
        assert!(matches!(error, hugepages::Error::Layout { .. }), "{error}");
    }
}
