//! Bodies as they arrive: whole, in pieces, of known length or not; spans and who may write.

use super::*;

#[test]
fn every_shard_finds_what_the_owner_committed() {
    let mut stores = node(3, 24);
    for len in [
        0,
        1,
        SMALL,
        MAX_CONTIGUOUS as usize,
        MAX_CONTIGUOUS as usize + 1,
        LARGE,
    ] {
        let key = name(len);
        put(&mut stores, &key, len).unwrap();
        for store in &mut stores {
            let hash = store.hash(&key);
            let hit = store.lookup(hash, &key).unwrap();
            assert_eq!((hit.meta().status, hit.meta().body_len), (200, len as u64));
            assert_eq!(hit.head(), Some(&b"the head"[..]));
            assert_eq!(hit.body().is_some(), len as u64 <= MAX_CONTIGUOUS);
            assert!(hit.body().is_none_or(|bytes| bytes == body(&key, len)));
            let bytes = hit.bytes().unwrap();
            assert_eq!(joined(&bytes), body(&key, len), "{len} bytes");
            assert_eq!(bytes.piece(bytes.pieces()), "");
        }
    }
    assert!(get(&mut stores[0], &name(7)).is_none());
}

#[test]
fn a_body_is_whole_however_it_arrives() {
    let mut stores = node(1, 16);
    for len in [1, 100, SMALL, 60_000, LARGE] {
        for (known, chunk) in [
            (true, 999),
            (false, 999),
            (false, 70_000),
            (false, 7),
            (true, 7),
        ] {
            let key = format!("{len} {known} {chunk}").into_bytes();
            let bytes = body(&key, len);
            put_chunked(&mut stores[0], &key, &bytes, known, chunk).unwrap();
            let found = get(&mut stores[0], &key).unwrap();
            assert_eq!(joined(&found), bytes, "{len} {known} {chunk}");
            let contiguous = len as u64 <= MAX_CONTIGUOUS;
            assert_eq!(
                found.pieces(),
                if contiguous {
                    1
                } else {
                    len.div_ceil(EXTENT_BYTES as usize)
                }
            );
            turn(&mut stores);
        }
    }
}

#[test]
fn the_end_of_a_large_body_takes_no_extent() {
    let mut stores = node(1, 16);
    let (full, rest) = (LARGE as u64 / u64::from(EXTENT_BYTES), 777);
    let mut taken = |key: &[u8], len: usize| {
        put(&mut stores, key, len).unwrap();
        turn(&mut stores);
        let stats = stores[0].stats();
        let per_block = (256 << 10) / EXTENT_BYTES;
        assert_eq!(joined(&get(&mut stores[0], key).unwrap()), body(key, len));
        (stats.bytes, per_block - stats.extents_free % per_block)
    };
    let (bytes, extents) = taken(b"with a rest", LARGE);
    assert_eq!(u64::from(extents), full);
    assert!(bytes < LARGE as u64 + 150, "{bytes}");
    let (both, extents) = taken(b"without", LARGE - rest);
    assert_eq!(u64::from(extents), 2 * full);
    assert!(both - bytes < (LARGE - rest) as u64 + 150, "{both}");
}

#[test]
fn spans_are_seen_by_other_shards_until_the_release() {
    let mut stores = node(2, 16);
    for (known, len) in [(true, SMALL), (false, SMALL), (false, LARGE), (true, LARGE)] {
        let key = format!("{known} {len}").into_bytes();
        let owner = owner_of(&stores, &key);
        let bytes = body(&key, len);
        let mut fill = begin(&mut stores[owner], &key, known.then_some(len)).unwrap();
        let mut seen = Vec::new();
        for data in bytes.chunks(3_000) {
            let mut spans = Vec::new();
            stores[owner].append(&mut fill, data, &mut spans).unwrap();
            turn(&mut stores);
            for span in spans {
                let view = stores[1 - owner].view(&span).unwrap();
                assert_eq!(view.len(), span.len());
                seen.extend_from_slice(&view);
            }
        }
        assert_eq!(seen, bytes);
        assert!(get(&mut stores[owner], &key).is_none(), "not committed yet");
        stores[owner].release(fill);
        assert!(get(&mut stores[owner], &key).is_none());
    }
    assert_eq!(stores[0].stats().fills, 0);
}

#[test]
fn a_span_of_memory_that_was_reused_is_refused() {
    let mut stores = node(1, 8);
    let mut fill = begin(&mut stores[0], b"old", Some(LARGE)).unwrap();
    let mut spans = Vec::new();
    stores[0]
        .append(&mut fill, &body(b"old", LARGE), &mut spans)
        .unwrap();
    stores[0].release(fill);
    turn(&mut stores);
    for i in 0..40 {
        put(&mut stores, &name(i), LARGE).unwrap();
        turn(&mut stores);
    }
    for span in &spans {
        assert_eq!(stores[0].view(span), None);
    }
}

#[test]
fn a_newer_object_takes_the_place_of_the_older() {
    let mut stores = node(1, 16);
    for (old, new) in [
        (SMALL, 300),
        (LARGE, SMALL),
        (SMALL, LARGE),
        (LARGE, LARGE + 5),
    ] {
        put(&mut stores, b"key", old).unwrap();
        put(&mut stores, b"key", new).unwrap();
        let found = get(&mut stores[0], b"key").unwrap();
        assert_eq!(joined(&found), body(b"key", new));
        assert_eq!(stores[0].stats().objects, 1);
    }
    turn(&mut stores);
    let hash = stores[0].hash(b"key");
    assert!(stores[0].purge(hash, b"key"));
    turn(&mut stores);
    let stats = stores[0].stats();
    assert_eq!((stats.objects, stats.bytes), (0, 0));
    assert_eq!((stats.extents_retired, stats.evictions), (0, 0));
}

#[test]
fn a_length_that_is_not_kept_is_not_stored() {
    let mut stores = node(1, 8);
    let expected = Err(StoreError::Length {
        expected: 10,
        got: 9,
    });
    let mut fill = begin(&mut stores[0], b"short", Some(10)).unwrap();
    stores[0]
        .append(&mut fill, &[1; 9], &mut Vec::new())
        .unwrap();
    assert_eq!(stores[0].commit(&mut fill), expected);
    stores[0].release(fill);

    let mut fill = begin(&mut stores[0], b"long", Some(10)).unwrap();
    let mut spans = Vec::new();
    let error = stores[0].append(&mut fill, &[1; 11], &mut spans);
    assert!(matches!(error, Err(StoreError::Length { got: 11, .. })) && spans.is_empty());
    let ended = Err(StoreError::NotOwner { shard: 0 });
    assert_eq!(stores[0].commit(&mut fill), ended);
    stores[0].release(fill);
    assert!(get(&mut stores[0], b"short").is_none() && get(&mut stores[0], b"long").is_none());
}

#[test]
fn what_is_too_large_is_refused_at_once_or_when_it_shows() {
    let mut stores = node(1, 8);
    let max = 2 << 20;
    let error = begin(&mut stores[0], b"x", Some(1 << 30)).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { length, .. } if length == 1 << 30));
    let error = put_chunked(&mut stores[0], b"x", &vec![0; 2 * max], false, 100_000);
    assert!(
        matches!(error, Err(StoreError::TooLarge { .. })),
        "{error:?}"
    );
    let hash = stores[0].hash(b"x");
    let meta = ObjectMeta::default();
    let head = vec![0; 100_000];
    let object = NewObject {
        key: b"x",
        meta: &meta,
        head: &head,
        tags: &[],
        length: None,
    };
    let error = stores[0].begin(hash, &object).unwrap_err();
    assert_eq!(error, StoreError::HeadTooLarge);
    turn(&mut stores);
    let stats = stores[0].stats();
    assert_eq!(
        (stats.fills, stats.extents_retired, stats.objects),
        (0, 0, 0)
    );
}

#[test]
fn only_the_owner_writes() {
    let mut stores = node(2, 16);
    let key = name(1);
    let owner = owner_of(&stores, &key);
    let other = 1 - owner;
    let error = begin(&mut stores[other], &key, None).unwrap_err();
    assert_eq!(error, StoreError::NotOwner { shard: other as u8 });
    let mut fill = begin(&mut stores[owner], &key, None).unwrap();
    assert!(
        stores[other]
            .append(&mut fill, b"x", &mut Vec::new())
            .is_err()
    );
    assert!(stores[other].commit(&mut fill).is_err());
    stores[other].release(fill);
    assert_eq!(stores[owner].stats().fills, 1);
    put(&mut stores, &key, 10).unwrap();
    let hash = stores[0].hash(&key);
    assert!(!stores[other].purge(hash, &key));
    assert!(stores[owner].purge(hash, &key));
}

#[test]
fn a_variant_is_kept_by_the_owner_of_its_resource() {
    let mut stores = node(3, 64);
    for i in 0..300u32 {
        let base = format!("edge.test/{i}");
        let variant = [base.as_bytes(), &[0], &i.to_be_bytes()].concat();
        let owner = owner_of(&stores, base.as_bytes());
        let store = &mut stores[owner];
        let hash = store.hash_variant(&variant);
        assert_eq!(usize::from(store.owner(hash)), owner, "{base}");
        assert_ne!(hash, store.hash(base.as_bytes()));
        assert_eq!(
            store.hash_variant(base.as_bytes()),
            store.hash(base.as_bytes())
        );
    }
}
