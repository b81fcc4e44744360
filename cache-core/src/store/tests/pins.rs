//! Pinned objects and budgets of classes.

use super::*;

fn pinning(pinned_kib: u64, max_pins: u32) -> Vec<Store> {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        hash_seed: 42,
        pinned_bytes: pinned_kib << 10,
        max_pins,
        ..StoreConfig::default()
    };
    build(&config, Arc::new(Purges::new(1, 1 << 16))).unwrap().0
}

fn pin(stores: &mut [Store], key: &[u8]) -> Result<Pinned, StoreError> {
    let hash = stores[0].hash(key);
    stores[0].pin(hash, key)
}

fn unpin(stores: &mut [Store], key: &[u8]) -> bool {
    let hash = stores[0].hash(key);
    stores[0].unpin(hash, key)
}

/// Stores so much else that what is not pinned is gone.
fn flood(stores: &mut [Store], from: usize) {
    for i in from..from + 4_000 {
        let len = if i % 20 == 0 { LARGE } else { SMALL };
        put(stores, &name(i), len).unwrap();
        turn(stores);
    }
}

#[test]
fn pinned_objects_stay_and_others_go() {
    let mut stores = pinning(1024, 100);
    for (key, len) in [(b"small", SMALL), (b"large", LARGE), (b"other", SMALL)] {
        put(&mut stores, key, len).unwrap();
    }
    let Ok(Pinned::Kept { bytes }) = pin(&mut stores, b"small") else {
        panic!()
    };
    assert!(bytes as usize >= SMALL && (bytes as usize) < SMALL + 512);
    let Ok(Pinned::Kept { bytes: large }) = pin(&mut stores, b"large") else {
        panic!()
    };
    assert_eq!(
        pin(&mut stores, b"large"),
        Ok(Pinned::Kept { bytes: large })
    );
    flood(&mut stores, 0);
    for (key, len) in [(b"small", SMALL), (b"large", LARGE)] {
        let found = get(&mut stores[0], key).unwrap();
        assert_eq!(joined(&found), body(key, len));
    }
    assert!(!is_stored(&stores[0], b"other"));
    let stats = stores[0].pinned();
    assert_eq!((stats.pins, stats.kept, stats.bytes), (2, 2, bytes + large));
    assert!(unpin(&mut stores, b"small") && unpin(&mut stores, b"large"));
    assert!(!unpin(&mut stores, b"small"));
    assert_eq!(stores[0].pinned().bytes, 0);
    flood(&mut stores, 10_000);
    assert!(!is_stored(&stores[0], b"large"));
}

#[test]
fn a_pin_past_the_budget_is_refused_with_the_figures() {
    let mut stores = pinning(18, 100);
    for i in 0..6 {
        put(&mut stores, &name(i), SMALL).unwrap();
    }
    let kept = (0..6).filter(|i| pin(&mut stores, &name(*i)).is_ok());
    assert_eq!(kept.count(), 3);
    let error = pin(&mut stores, &name(5)).unwrap_err();
    let StoreError::PinBudget {
        budget,
        used,
        needed,
    } = error
    else {
        panic!("{error}")
    };
    assert!(budget == 18 << 10 && used + needed > budget && used <= budget);
    assert_eq!(stores[0].pinned().refused, 4);
    // What was refused is not remembered.
    assert_eq!(stores[0].pinned().pins, 3);
    assert!(unpin(&mut stores, &name(0)));
    assert!(matches!(
        pin(&mut stores, &name(5)),
        Ok(Pinned::Kept { .. })
    ));
}

#[test]
fn a_pin_of_what_is_not_there_waits_for_it() {
    let mut stores = pinning(20, 4);
    assert_eq!(pin(&mut stores, b"late"), Ok(Pinned::Awaited));
    assert_eq!(pin(&mut stores, b"too large"), Ok(Pinned::Awaited));
    put(&mut stores, b"late", SMALL).unwrap();
    assert_eq!(stores[0].pinned().kept, 1);
    // Stored, but not kept: it does not fit.
    put(&mut stores, b"too large", 60_000).unwrap();
    assert!(is_stored(&stores[0], b"too large"));
    let stats = stores[0].pinned();
    assert_eq!((stats.pins, stats.kept, stats.refused), (2, 1, 1));
    flood(&mut stores, 0);
    assert!(is_stored(&stores[0], b"late") && !is_stored(&stores[0], b"too large"));
    put(&mut stores, b"too large", 100).unwrap();
    assert_eq!(stores[0].pinned().kept, 2);
    for key in [b"c", b"d"] {
        pin(&mut stores, key).unwrap();
    }
    let error = Err(StoreError::TooManyPins { max: 4 });
    assert_eq!(pin(&mut stores, b"e"), error);
    assert_eq!(pin(&mut stores, b"d"), Ok(Pinned::Awaited));
}

#[test]
fn purged_and_replaced_objects_give_their_budget_back_and_stay_pinned() {
    let mut stores = pinning(1024, 10);
    pin(&mut stores, b"key").unwrap();
    for len in [SMALL, LARGE, 100] {
        put(&mut stores, b"key", len).unwrap();
        let bytes = stores[0].stats().bytes;
        assert_eq!(
            (stores[0].pinned().bytes, stores[0].pinned().kept),
            (bytes, 1)
        );
    }
    let hash = stores[0].hash(b"key");
    assert!(stores[0].purge(hash, b"key"));
    let awaited = |store: &Store| (store.pinned().kept, store.pinned().bytes) == (0, 0);
    assert!(awaited(&stores[0]));
    put(&mut stores, b"key", SMALL).unwrap();
    assert_eq!(stores[0].pinned().kept, 1);
    purge(&stores[0], &Purge::All, false);
    stores[0].purged_all();
    assert!(awaited(&stores[0]));
    put(&mut stores, b"key", SMALL).unwrap();
    flood(&mut stores, 0);
    assert!(is_stored(&stores[0], b"key") && stores[0].pinned().kept == 1);
}

#[test]
fn pinned_segments_are_emptied_of_what_is_pinned_no_more() {
    let mut stores = pinning(2048, 1_000);
    let keys: Vec<_> = (50_000..50_300).map(name).collect();
    for key in &keys {
        put(&mut stores, key, SMALL).unwrap();
        pin(&mut stores, key).unwrap();
        turn(&mut stores);
    }
    // One in ten stays, scattered over all segments; and each is stored anew many times.
    for (i, key) in keys.iter().enumerate() {
        assert!(i % 10 == 0 || unpin(&mut stores, key));
    }
    for i in 0..2 {
        for key in keys.iter().step_by(10) {
            put(&mut stores, key, SMALL).unwrap();
        }
        flood(&mut stores, i * 10_000);
    }
    assert_eq!(stores[0].pinned().kept, 30);
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(is_stored(&stores[0], key), i % 10 == 0, "{i}");
    }
    // Thirty objects in at most two segments of 256 KiB, all others hold what is not pinned.
    let bytes = stores[0].stats().bytes;
    assert!(bytes > 11 << 20, "{bytes}");
}

#[test]
fn a_full_index_keeps_its_pinned_objects() {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        mean_object: 1 << 20,
        max_pins: 1_000,
        ..StoreConfig::default()
    };
    let (mut stores, report) = build(&config, Arc::new(Purges::new(1, 16))).unwrap();
    assert_eq!(report.slots, 512);
    for i in 0..400 {
        put(&mut stores, &name(i), 10).unwrap();
    }
    // Pinned ones take the place of the others, then of nothing.
    let mut full = 0;
    for i in 1_000..1_700 {
        pin(&mut stores, &name(i)).unwrap();
        match put(&mut stores, &name(i), if i % 350 == 0 { LARGE } else { 10 }) {
            Ok(()) => assert!(is_stored(&stores[0], &name(i))),
            error => {
                assert_eq!(error, Err(StoreError::Full));
                full += 1;
            }
        }
        turn(&mut stores);
    }
    let kept = (1_000..1_700).filter(|i| is_stored(&stores[0], &name(*i)));
    assert_eq!(kept.count(), 700 - full);
    assert!((188..220).contains(&full), "{full}");
    assert_eq!(stores[0].stats().extents_retired, 0);
}

#[test]
fn a_class_over_its_budget_gives_way_to_others() {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        class_bytes: vec![0, 1 << 20],
        ..StoreConfig::default()
    };
    let mut stores = build(&config, Arc::new(Purges::new(1, 1 << 16))).unwrap().0;
    let put_class = |stores: &mut [Store], i: usize, class: u8| {
        let key = name(i);
        let len = if i % 40 < 2 { LARGE } else { SMALL };
        let meta = ObjectMeta {
            class,
            stamp: stores[0].purges().stamp(),
            ..ObjectMeta::default()
        };
        let object = NewObject {
            key: &key,
            meta: &meta,
            head: b"",
            tags: &[],
            length: Some(len as u64),
        };
        let hash = stores[0].hash(&key);
        let mut fill = stores[0].begin(hash, &object).unwrap();
        let bytes = body(&key, len);
        stores[0]
            .append(&mut fill, &bytes, &mut Vec::new())
            .unwrap();
        stores[0].commit(&mut fill).unwrap();
        stores[0].release(fill);
        turn(stores);
    };
    for i in 0..6_000 {
        put_class(&mut stores, i, (i % 2) as u8);
    }
    let used = stores[0].stats().class_bytes;
    // Those that came since room was last made are there beside the budget.
    assert!(used[1] < 3 << 20 && used[0] > 8 << 20, "{used:?}");
    for i in 6_000..12_000 {
        put_class(&mut stores, i, 0);
    }
    assert!(stores[0].stats().class_bytes[1] <= 1 << 20);
    purge(&stores[0], &Purge::All, false);
    stores[0].purged_all();
    assert_eq!(stores[0].stats().class_bytes, [0, 0]);
}
