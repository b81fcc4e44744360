//! Memory that goes from small objects to large ones and back.

use super::*;

/// What a store of 16 MiB holds of large bodies, where they may take nearly all.
fn node_for_both() -> Vec<Store> {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        hash_seed: 42,
        large_share: 0.9,
        ..StoreConfig::default()
    };
    build(&config, Arc::new(Purges::new(1, 16))).unwrap().0
}

/// Stores objects and asks for each of them four times soon after.
fn ask_for(stores: &mut [Store], numbers: std::ops::Range<usize>, len: usize) {
    for i in numbers.clone() {
        let _ = put(stores, &name(i), len);
        turn(stores);
        for back in [1, 2, 3, 5] {
            let key = name(i.saturating_sub(back).max(numbers.start));
            drop(get(&mut stores[0], &key));
        }
    }
}

/// Bytes of the bodies that are there.
fn kept(stores: &[Store], numbers: std::ops::Range<usize>, len: usize) -> usize {
    let there = numbers.filter(|i| is_stored(&stores[0], &name(*i)));
    there.count() * len
}

#[test]
fn either_kind_can_have_most_of_the_memory() {
    let mut stores = node_for_both();
    ask_for(&mut stores, 0..4_000, SMALL);
    assert!(kept(&stores, 0..4_000, SMALL) > 13 << 20);
    ask_for(&mut stores, 10_000..10_600, LARGE);
    let large = kept(&stores, 10_000..10_600, LARGE);
    assert!(large > 8 << 20, "{large}");
    ask_for(&mut stores, 20_000..28_000, SMALL);
    let small = kept(&stores, 20_000..28_000, SMALL);
    assert!(small > 11 << 20, "{small}");
    assert!(stores[0].stats().full < 20, "{:?}", stores[0].stats());
}

#[test]
fn large_objects_are_whole_after_their_extents_moved() {
    let mut stores = node_for_both();
    // Tags and a pin go with the record.
    let pinned = stores[0].hash(b"pinned");
    stores[0].pin(pinned, b"pinned").unwrap();
    put(&mut stores, b"pinned", LARGE).unwrap();
    ask_for(&mut stores, 0..120, LARGE);
    let held = get(&mut stores[0], &name(100)).unwrap();
    let place = |store: &Store, i: usize| {
        let hash = store.hash(&name(i));
        let found = store.partitions[0].find(hash, &name(i))?;
        Some(found.slot.location())
    };
    let before: Vec<_> = (0..120).map(|i| place(&stores[0], i)).collect();
    // What is asked for once more is kept while small objects take the place of the others.
    for i in 1_000..6_000 {
        let _ = put(&mut stores, &name(i), SMALL);
        turn(&mut stores);
        drop(get(&mut stores[0], &name(i)));
        drop(get(&mut stores[0], &name(i % 40)));
    }
    let mut moved = 0;
    for (i, before) in before.iter().enumerate() {
        let now = place(&stores[0], i);
        if let Some(found) = get(&mut stores[0], &name(i)) {
            assert_eq!(joined(&found), body(&name(i), LARGE), "{i}");
            moved += u32::from(now != *before);
        }
    }
    assert!(moved > 0);
    let found = get(&mut stores[0], b"pinned").unwrap();
    assert_eq!(joined(&found), body(b"pinned", LARGE));
    assert_eq!(joined(&held), body(&name(100), LARGE));
    drop((held, found));
    // All of it can be had back.
    stores[0].unpin(pinned, b"pinned");
    ask_for(&mut stores, 30_000..38_000, SMALL);
    assert!(kept(&stores, 30_000..38_000, SMALL) > 11 << 20);
}

#[test]
fn blocks_with_bytes_that_are_held_or_filled_wait() {
    let mut stores = node_for_both();
    ask_for(&mut stores, 0..100, LARGE);
    let held: Vec<_> = (60..100)
        .filter_map(|i| Some((i, get(&mut stores[0], &name(i))?)))
        .collect();
    let mut fill = begin(&mut stores[0], b"slow", Some(LARGE)).unwrap();
    let bytes = body(b"slow", LARGE);
    let mut spans = Vec::new();
    let (first, rest) = bytes.split_at(50_000);
    stores[0].append(&mut fill, first, &mut spans).unwrap();
    ask_for(&mut stores, 1_000..5_000, SMALL);
    for (i, held) in &held {
        assert_eq!(joined(held), body(&name(*i), LARGE));
    }
    stores[0].append(&mut fill, rest, &mut spans).unwrap();
    stores[0].commit(&mut fill).unwrap();
    stores[0].release(fill);
    let found = get(&mut stores[0], b"slow").unwrap();
    assert_eq!(joined(&found), bytes);
    let seen: Vec<u8> = spans
        .iter()
        .flat_map(|span| stores[0].view(span).unwrap().to_vec())
        .collect();
    assert_eq!(seen, bytes);
}

#[test]
fn a_turn_copies_few_extents_and_what_is_on_its_way_stays_whole() {
    // Blocks of 512 KiB, two turns' worth of extents.
    let config = StoreConfig {
        ram_bytes: 130 << 20,
        pages: PagePolicy::Plain,
        hash_seed: 42,
        large_share: 0.9,
        ..StoreConfig::default()
    };
    let (mut stores, report) = build(&config, Arc::new(Purges::new(1, 16))).unwrap();
    assert_eq!(report.log_segment_bytes, 512 << 10);
    let len = 10 * LARGE;
    ask_for(&mut stores, 0..160, len);
    let mut versions = [0; 160];
    let (mut most, mut moved, mut purged) = (0, 0, 0);
    for i in 1_000..35_000 {
        let _ = put(&mut stores, &name(i), SMALL);
        let before = stores[0].stats().extents_moved;
        stores[0].turn(&mut |_| {});
        moved = stores[0].stats().extents_moved;
        most = most.max(moved - before);
        drop(get(&mut stores[0], &name(i)));
        let kept = i % 120;
        drop(get(&mut stores[0], &name(kept)));
        // Some of what may be half copied goes, or comes anew.
        if moved != before && i % 3 == 0 {
            let hash = stores[0].hash(&name(kept));
            if stores[0].purge(hash, &name(kept)) {
                purged += 1;
                versions[kept] += 1;
                let _ = put(&mut stores, &name(kept), len - versions[kept]);
            }
        }
    }
    assert_eq!(
        most,
        u64::from(super::super::blocks::EXTENTS_MOVED_PER_TURN)
    );
    assert!(moved > 100 && purged >= 3, "{moved} {purged}");
    let mut left = 0;
    for (i, version) in versions.iter().enumerate() {
        if let Some(found) = get(&mut stores[0], &name(i)) {
            assert_eq!(joined(&found), body(&name(i), len - version), "{i}");
            left += 1;
        }
    }
    assert!(left > 0);
}
