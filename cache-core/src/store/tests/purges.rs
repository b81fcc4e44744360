//! Purges, and what they leave.

use super::*;

#[test]
fn a_purge_reaches_fills_that_are_going_on() {
    let mut stores = node(1, 16);
    let store = &mut stores[0];
    let hash = store.hash(b"key");
    for (len, all) in [(SMALL, false), (LARGE, false), (SMALL, true), (LARGE, true)] {
        let mut fill = begin(store, b"key", Some(len)).unwrap();
        let mut other = begin(store, b"other", Some(0)).unwrap();
        let bytes = body(b"key", len);
        store
            .append(&mut fill, &bytes[..100], &mut Vec::new())
            .unwrap();
        match all {
            true => purge(store, &Purge::All, false),
            false => assert!(!store.purge(hash, b"key")),
        }
        // Those who wait for it are still served.
        store
            .append(&mut fill, &bytes[100..], &mut Vec::new())
            .unwrap();
        assert_eq!(store.commit(&mut fill), Err(StoreError::Purged));
        assert_eq!(store.commit(&mut other).is_err(), all);
        store.release(fill);
        store.release(other);
        assert!(store.lookup(hash, b"key").is_none());
    }
}

#[test]
fn a_purge_of_all_is_seen_by_every_shard_at_once() {
    let mut stores = node(2, 16);
    for i in 0..200 {
        put(
            &mut stores,
            &name(i),
            if i % 50 == 0 { LARGE } else { SMALL },
        )
        .unwrap();
    }
    purge(&stores[0], &Purge::All, false);
    let purged: u64 = stores.iter_mut().map(Store::purged_all).sum();
    assert_eq!(purged, 200);
    for i in 0..200 {
        assert!(
            stores
                .iter_mut()
                .all(|store| get(store, &name(i)).is_none())
        );
    }
    for store in &stores {
        assert_eq!((store.stats().objects, store.stats().bytes), (0, 0));
    }
    put(&mut stores, &name(3), SMALL).unwrap();
    assert!(get(&mut stores[0], &name(3)).is_some());
    assert_eq!(
        stores
            .iter()
            .map(|store| store.stats().objects)
            .sum::<u64>(),
        1
    );
}

#[test]
fn purges_by_tag_reach_what_carries_it_and_nothing_later() {
    let mut stores = node(2, 16);
    let slots: Vec<TagSlot> = (0..40).map(TagSlot).collect();
    let cases: [(&[u8], &[TagSlot]); 4] = [
        (b"none", &[]),
        (b"one", &slots[7..8]),
        (b"most", &slots[..32]),
        (b"too many", &slots),
    ];
    for len in [SMALL, LARGE] {
        for (key, tags) in cases {
            let owner = owner_of(&stores, key);
            let store = &mut stores[owner];
            let mut fill = begin_tagged(store, key, Some(len), tags).unwrap();
            let bytes = body(key, len);
            store.append(&mut fill, &bytes, &mut Vec::new()).unwrap();
            store.commit(&mut fill).unwrap();
            store.release(fill);
            let hash = store.hash(key);
            let kept: Vec<_> = store.lookup(hash, key).unwrap().tags().collect();
            match tags.len() > 32 {
                true => assert_eq!(kept, [TagSlot::ANY]),
                false => assert_eq!(kept, tags),
            }
        }
        let found = |stores: &mut [Store]| cases.map(|(key, _)| get(&mut stores[1], key).is_some());
        purge(&stores[0], &Purge::Tag(slots[7]), true);
        for (key, tags) in cases {
            let hash = stores[0].hash(key);
            let hit = stores[0].lookup(hash, key).unwrap();
            assert_eq!(hit.purged_softly(), !tags.is_empty());
        }
        purge(&stores[0], &Purge::Tag(slots[8]), false);
        assert_eq!(found(&mut stores), [true, true, false, false]);
        purge(&stores[0], &Purge::Tag(slots[7]), false);
        assert_eq!(found(&mut stores), [true, false, false, false]);
        purge(&stores[0], &Purge::All, false);
        assert_eq!(found(&mut stores), [false; 4]);
    }
}

#[test]
fn a_soft_purge_of_a_key_marks_its_object_and_no_later_one() {
    let mut stores = node(2, 16);
    for len in [0, SMALL, LARGE] {
        let key = format!("key of {len}").into_bytes();
        let owner = owner_of(&stores, &key);
        let hash = stores[owner].hash(&key);
        assert!(!stores[owner].purge_softly(hash, &key), "nothing there");
        put(&mut stores, &key, len).unwrap();
        let before = stores[owner].stats();
        assert!(!stores[1 - owner].purge_softly(hash, &key), "not its own");
        for _ in 0..3 {
            assert!(stores[owner].purge_softly(hash, &key));
            turn(&mut stores);
        }
        for store in &mut stores {
            let hit = store.lookup(hash, &key).unwrap();
            assert!(hit.purged_softly() && hit.head() == Some(b"the head"));
            assert_eq!(joined(&hit.bytes().unwrap()), body(&key, len));
        }
        let after = stores[owner].stats();
        assert_eq!(after.objects, before.objects);
        assert!((before.bytes..before.bytes + 8).contains(&after.bytes));
        put(&mut stores, &key, len).unwrap();
        assert!(!stores[owner].lookup(hash, &key).unwrap().purged_softly());
        assert!(stores[owner].purge(hash, &key));
        assert!(!stores[owner].purge_softly(hash, &key));
    }
    assert!(stores.iter().all(|store| store.stats().objects == 0));
    assert!(stores.iter().all(|store| store.stats().bytes == 0));
}

#[test]
fn a_soft_purge_of_a_key_keeps_its_fill_from_being_committed() {
    let mut stores = node(1, 16);
    let store = &mut stores[0];
    let mut fill = begin(store, b"key", None).unwrap();
    store.append(&mut fill, b"body", &mut Vec::new()).unwrap();
    store.purge_softly(store.hash(b"key"), b"key");
    assert_eq!(store.commit(&mut fill), Err(StoreError::Purged));
    store.release(fill);
}

#[test]
fn what_was_purged_is_not_copied_on() {
    let mut stores = node(1, 8);
    let tags = [TagSlot(1)];
    let store = &mut stores[0];
    let mut fill = begin_tagged(store, b"key", Some(SMALL), &tags).unwrap();
    store
        .append(&mut fill, &body(b"key", SMALL), &mut Vec::new())
        .unwrap();
    store.commit(&mut fill).unwrap();
    store.release(fill);
    (0..10).for_each(|_| drop(get(store, b"key")));
    purge(store, &Purge::Tag(TagSlot(1)), false);
    for i in 0..3_000 {
        put(&mut stores, &name(i), SMALL).unwrap();
        turn(&mut stores);
    }
    assert!(!is_stored(&stores[0], b"key"));
}
