//! What goes for room, what stays, and what a sink is shown of it.

use super::*;

#[test]
fn views_outlive_eviction_and_say_whom_they_hold_up() {
    let mut stores = node(2, 16);
    let keys: Vec<_> = (0..)
        .map(name)
        .filter(|key| owner_of(&stores, key) == 0)
        .take(2)
        .collect();
    put(&mut stores, &keys[0], SMALL).unwrap();
    put(&mut stores, &keys[1], LARGE).unwrap();
    let small = get(&mut stores[1], &keys[0]).unwrap();
    let large = get(&mut stores[1], &keys[1]).unwrap();
    assert!(!stores[1].holds_up(&small.piece(0)));
    let mut i = 1000;
    while keys.iter().any(|key| is_stored(&stores[0], key)) {
        i += 1;
        let _ = put(
            &mut stores,
            &name(i),
            if i % 10 == 0 { LARGE } else { SMALL },
        );
        turn(&mut stores);
        assert!(i < 100_000, "never evicted");
    }
    // The rest of the segment is walked as well.
    (0..4).for_each(|_| turn(&mut stores));
    assert_eq!(joined(&small), body(&keys[0], SMALL));
    assert_eq!(joined(&large), body(&keys[1], LARGE));
    let held = stores[0].stats().held_up;
    assert!(held[0] == 0 && held[1] >= large.pieces() as u32, "{held:?}");
    assert!(stores[1].holds_up(&small.piece(0)) && stores[1].holds_up(&large.piece(1)));
    drop((small, large));
    turn(&mut stores);
    assert_eq!(stores[0].stats().held_up, [0, 0]);
}

#[test]
fn what_large_records_leave_of_a_segment_small_ones_take() {
    let mut stores = node(1, 64);
    let mut i = 0;
    while stores[0].stats().evictions == 0 {
        put(
            &mut stores,
            &name(i),
            if i % 8 == 0 { 60_000 } else { 3_000 },
        )
        .unwrap();
        turn(&mut stores);
        i += 1;
    }
    // Of 60 KB that do not fit into 256 KiB a quarter of them would be lost on average.
    let used = stores[0].stats().bytes as f64 / f64::from(64 << 20);
    assert!(used > 0.955, "{used}");
}

#[test]
fn a_shard_that_never_announces_stops_storing_and_is_named_once() {
    let mut stores = node(2, 16);
    let mut full = false;
    for i in 0..4_000 {
        if owner_of(&stores, &name(i)) == 0 {
            full |= put(&mut stores, &name(i), SMALL) == Err(StoreError::Full);
            stores[0].turn(&mut |_| {});
        }
    }
    assert!(full && stores[0].stats().full > 0);
    assert_eq!(stores[0].laggards(), [1]);
    assert_eq!(stores[0].laggards(), []);
    turn(&mut stores);
    let key = (9_000..)
        .map(name)
        .find(|key| owner_of(&stores, key) == 0)
        .unwrap();
    put(&mut stores, &key, SMALL).unwrap();
    assert_eq!(stores[0].laggards(), []);
}

#[test]
fn a_hot_set_stays_under_a_scan() {
    let mut stores = node(1, 16);
    let hot: Vec<_> = (0..300).map(name).collect();
    for key in &hot {
        put(&mut stores, key, SMALL).unwrap();
        turn(&mut stores);
    }
    for i in 0..20_000 {
        put(&mut stores, &name(1_000 + i), SMALL).unwrap();
        turn(&mut stores);
        get(&mut stores[0], &hot[i % hot.len()]);
    }
    let left = hot
        .iter()
        .filter(|key| get(&mut stores[0], key).is_some())
        .count();
    assert!(left >= 295, "{left} of 300");
    assert!(stores[0].stats().evictions > 15_000);
}

#[test]
fn hits_on_another_shard_keep_an_object() {
    let mut stores = node(2, 16);
    let key = name(0);
    let owner = owner_of(&stores, &key);
    put(&mut stores, &key, SMALL).unwrap();
    let hash = stores[0].hash(&key);
    for i in 0..20_000 {
        let note = stores[1 - owner].lookup(hash, &key).unwrap().note;
        if let Some(note) = note {
            assert_eq!(usize::from(note.owner), owner);
            stores[owner].note_hits(&[note]);
        }
        put(&mut stores, &name(1 + i), SMALL).unwrap();
        turn(&mut stores);
    }
}

/// What all cores read is not written for hits of a hot object, whoever has them.
#[test]
fn hits_of_a_hot_object_leave_its_line_alone() {
    let mut stores = node(2, 16);
    let key = name(0);
    let owner = owner_of(&stores, &key);
    put(&mut stores, &key, SMALL).unwrap();
    let hash = stores[0].hash(&key);
    let slot = |stores: &[Store]| stores[0].partitions[owner].find(hash, &key).unwrap().slot;
    let mut notes = HitNotes::new(2);
    let (mut messages, mut written, mut changes) = (0, 0, 0);
    let mut before = slot(&stores);
    for turn_number in 0..1_000 {
        for _ in 0..64 {
            assert!(stores[owner].lookup(hash, &key).is_some());
            let note = stores[1 - owner].lookup(hash, &key).unwrap().note;
            note.into_iter().for_each(|note| notes.push(note));
        }
        for (to, notes) in notes.due() {
            assert_eq!(usize::from(to), owner);
            stores[owner].note_hits(&notes);
            messages += 1;
            written += notes.len();
        }
        turn(&mut stores);
        let now = slot(&stores);
        changes += u32::from(turn_number > 0 && now != before);
        before = now;
    }
    assert!(before.is_hot());
    assert_eq!(changes, 0);
    // One hit in eight is noted, 64 of them a message, and a message is one note.
    assert!((100..150).contains(&messages), "{messages}");
    assert!(written <= messages + 1, "{written}");
}

#[test]
fn hot_large_objects_stay_while_others_stream_through() {
    let mut stores = node(1, 16);
    put(&mut stores, b"hot", LARGE).unwrap();
    for i in 0..500 {
        put(&mut stores, &name(i), LARGE).unwrap();
        turn(&mut stores);
        let found = get(&mut stores[0], b"hot").unwrap();
        assert_eq!(found.pieces(), 4);
    }
    assert!(stores[0].stats().evictions > 400);
}

/// A node whose index has 64 lines.
fn node_of_few_slots() -> Vec<Store> {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        hash_seed: 42,
        mean_object: 1 << 20,
        ..StoreConfig::default()
    };
    let (stores, report) = build(&config, Arc::new(Purges::new(1, 16))).unwrap();
    assert_eq!(report.slots, 512);
    stores
}

#[test]
fn a_full_index_gives_up_what_is_asked_for_least() {
    let mut stores = node_of_few_slots();
    for i in 0..460 {
        put(&mut stores, &name(i), 10).unwrap();
        (0..4).for_each(|_| drop(get(&mut stores[0], &name(i))));
    }
    assert_eq!(stores[0].stats().evictions, 0);
    for i in 460..1_000 {
        put(&mut stores, &name(i), 10).unwrap();
        let some = (0..8).map(|n| (i * 8 + n) % 460);
        some.for_each(|i| drop(get(&mut stores[0], &name(i))));
    }
    let stats = stores[0].stats();
    assert_eq!(stats.objects + stats.evictions, 1_000);
    assert!(stats.objects > 480, "{}", stats.objects);
    let mut left = |keys: std::ops::Range<usize>| {
        let left = keys.filter(|i| get(&mut stores[0], &name(*i)).is_some());
        left.count()
    };
    let hot = left(0..460);
    // A choice at random would leave 170.
    assert!(hot > 250, "{hot}");
    assert_eq!((hot + left(460..1_000)) as u64, stats.objects);
}

/// What a sink is shown, as key, body and requests.
fn shown(store: &mut Store) -> Vec<(Vec<u8>, Vec<u8>, u8)> {
    let mut shown = Vec::new();
    store.turn(&mut |object: Evicted<'_>| {
        assert_eq!((object.head, object.meta.status), (&b"the head"[..], 200));
        assert_eq!(object.meta.body_len as usize, object.body.concat().len());
        shown.push((object.key.to_vec(), object.body.concat(), object.requests));
    });
    shown
}

#[test]
fn what_is_evicted_is_shown_whole_and_once() {
    let mut stores = node(1, 16);
    let mut gone = std::collections::HashSet::new();
    let mut taken_for_others = 0;
    for i in 0..6_000 {
        let len = if i % 20 == 0 { LARGE } else { SMALL };
        put(&mut stores, &name(i), len).unwrap();
        for (key, bytes, requests) in shown(&mut stores[0]) {
            assert!(bytes == body(&key, body_len(&key)));
            // Ghosts are known by few bits: one may be taken for another's.
            taken_for_others += u32::from(requests != 1);
            assert!(!is_stored(&stores[0], &key) && gone.insert(key));
        }
    }
    assert!(taken_for_others < 10, "{taken_for_others}");
    assert_eq!(gone.len() as u64, stores[0].stats().evictions);
    for i in 0..6_000 {
        assert!(is_stored(&stores[0], &name(i)) != gone.contains(&name(i)));
    }
}

/// Of the objects of the test above.
fn body_len(key: &[u8]) -> usize {
    let number = key.rsplit(|byte| *byte == b'/').next().unwrap();
    let number: usize = std::str::from_utf8(number).unwrap().parse().unwrap();
    if number.is_multiple_of(20) {
        LARGE
    } else {
        SMALL
    }
}

#[test]
fn what_was_purged_or_replaced_is_not_shown() {
    let mut stores = node(1, 16);
    let old: Vec<_> = (0..400).map(name).collect();
    for key in &old {
        put(&mut stores, key, SMALL).unwrap();
    }
    put(&mut stores, b"large", LARGE).unwrap();
    for key in &old[..100] {
        put(&mut stores, key, 10).unwrap();
        let hash = stores[0].hash(key);
        assert!(stores[0].purge(hash, key));
    }
    purge(&stores[0], &Purge::All, false);
    stores[0].purged_all();
    for i in 1_000..9_000 {
        put(&mut stores, &name(i), SMALL).unwrap();
        for (key, ..) in shown(&mut stores[0]) {
            assert!(!old.contains(&key) && key != b"large");
        }
    }
}

#[test]
fn what_a_full_index_gives_up_is_shown_at_the_next_turn_with_its_requests() {
    let mut stores = node_of_few_slots();
    for i in 0..540 {
        put(&mut stores, &name(i), 10).unwrap();
        let hits = if i % 2 == 0 { 2 } else { 0 };
        (0..hits).for_each(|_| drop(get(&mut stores[0], &name(i))));
    }
    let gone: Vec<_> = (0..540)
        .filter(|i| !is_stored(&stores[0], &name(*i)))
        .collect();
    assert!(gone.len() > 3 && gone.len() as u64 == stores[0].stats().evictions);
    // What comes back or is purged before the turn is not shown.
    put(&mut stores, &name(gone[0]), 10).unwrap();
    let hash = stores[0].hash(&name(gone[1]));
    stores[0].purge(hash, &name(gone[1]));
    let shown = shown(&mut stores[0]);
    assert!(shown.len() >= gone.len() - 2);
    for (key, bytes, requests) in shown {
        assert_eq!(bytes, body(&key, 10));
        let is_gone = gone[2..].iter().find(|i| name(**i) == key);
        if let Some(i) = is_gone {
            assert_eq!(requests, if i % 2 == 0 { 3 } else { 1 });
        }
        assert!(key != name(gone[0]) && key != name(gone[1]));
    }
}

/// Header and index beside keys, heads and bodies, in a store that is as full as it gets. What the
/// policy remembers comes on top; the benchmark `metadata` adds everything up.
#[test]
fn an_object_costs_24_bytes_of_header_and_index() {
    let size = |i: usize| 1_000 + i * 7_919 % 7_001;
    let key_and_head = name(10_000).len() + b"the head".len();
    let config = StoreConfig {
        ram_bytes: 256 << 20,
        pages: PagePolicy::Plain,
        large_share: 0.1,
        mean_object: (4_500 + key_and_head + 16) as u64,
        ..StoreConfig::default()
    };
    let (mut stores, report) = build(&config, Arc::new(Purges::new(1, 16))).unwrap();
    let (mut i, mut payload) = (10_000, 0);
    let bytes = vec![7; 8_001];
    while stores[0].stats().evictions == 0 {
        put_chunked(&mut stores[0], &name(i), &bytes[..size(i)], true, 8_001).unwrap();
        stores[0].turn(&mut |_| {});
        payload += size(i) + key_and_head;
        i += 1;
    }
    let stats = stores[0].stats();
    let objects = stats.objects as f64;
    // What went is taken as of mean size.
    let payload = payload as f64 * objects / (i - 10_000) as f64;
    let header = (stats.bytes as f64 - payload) / objects;
    let index = (report.slots * 8 + Index::side_bytes(report.slots)) as f64 / objects;
    assert!((14.0..16.0).contains(&header), "{header}");
    assert!(header + index <= 24.0, "{header} + {index}");
}

#[test]
fn what_is_not_shown_for_want_of_a_turn_is_counted() {
    let mut stores = node_of_few_slots();
    for i in 0..2_000 {
        put(&mut stores, &name(i), 10).unwrap();
    }
    let before = stores[0].stats();
    let shown = shown(&mut stores[0]).len() as u64;
    assert!(shown > 0 && before.evictions_unshown > 1_000);
    assert_eq!(before.evictions, shown + before.evictions_unshown);
    put(&mut stores, &name(2_000), 10).unwrap();
    assert_eq!(
        stores[0].stats().evictions_unshown,
        before.evictions_unshown
    );
}
