//! What is damaged in memory is a miss.

use super::*;

/// Flips a bit of each byte of a record's header in turn, as it would lie in bad memory.
#[test]
fn damaged_records_are_misses() {
    let mut stores = node(1, 8);
    put(&mut stores, &name(0), 300).unwrap();
    let store = &stores[0];
    let hash = store.hash(&name(0));
    let record = store.partitions[0].find(hash, &name(0)).unwrap().record;
    let head = record.header.head_start() as usize;
    let checked = head + record.header.head_len as usize;
    let mut bytes = record.bytes.to_vec();
    for bit in 0..checked * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = super::hit::Record::parse(&bytes);
        let is_served = read.is_some_and(|read| {
            let from = read.header.head_start() as usize;
            let head = &read.bytes[from..from + read.header.head_len as usize];
            read.key() == name(0) && read.header.is_head(head)
        });
        assert!(!is_served, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn damaged_slots_are_misses() {
    let mut stores = node(1, 16);
    put(&mut stores, &name(0), SMALL).unwrap();
    put(&mut stores, &name(1), LARGE).unwrap();
    for bit in 0..64 {
        let store = &mut stores[0];
        let id = slot(store, &name(0));
        store.partitions[0].index.corrupt(id, 1 << bit);
        let found = get(store, &name(0));
        // The hot bit, and bits of the tag that make no difference, may be wrong unnoticed.
        assert!(found.is_none_or(|found| joined(&found) == body(&name(0), SMALL)));
        assert!(get(store, &name(1)).is_some());
        store.partitions[0].index.corrupt(id, 1 << bit);
    }
    // A slot that names another object's record does not drop that object when it is replaced.
    let (mine, other) = (slot(&stores[0], &name(0)), slot(&stores[0], &name(1)));
    let index = Arc::clone(&stores[0].partitions[0].index);
    index.corrupt(
        mine,
        index.get(mine).location() ^ index.get(other).location(),
    );
    assert!(get(&mut stores[0], &name(0)).is_none());
    let entry = index.get(mine);
    let Store {
        partitions, owner, ..
    } = &mut stores[0];
    owner.forget(mine, entry, &partitions[0]);
    turn(&mut stores);
    assert_eq!(
        joined(&get(&mut stores[0], &name(1)).unwrap()),
        body(&name(1), LARGE)
    );
}

#[test]
fn a_slot_may_name_any_place_without_harm() {
    let mut stores = node(1, 16);
    for i in 0..50 {
        put(&mut stores, &name(i), SMALL).unwrap();
    }
    let Store {
        partitions, owner, ..
    } = &mut stores[0];
    let log_bytes = owner.space.log().segments() as u64 * (256 << 10);
    // The log begins with the last segments.
    let places = (log_bytes - 500_000..log_bytes - 1).chain([
        log_bytes - 1,
        log_bytes,
        u64::MAX,
        (1 << 40) - 1,
    ]);
    let mut sound = 0;
    for location in places {
        let place = Place::of(location, partitions[0].log_shift);
        sound += u32::from(partitions[0].record(place).is_some());
        assert!(partitions[0].record_of(place, b"no such key").is_none());
    }
    // 50 records, and perhaps one in 16 million other places.
    assert!((50..60).contains(&sound), "{sound}");
}

#[test]
fn emptying_a_segment_steps_over_what_it_cannot_read() {
    let mut stores = node(1, 16);
    // Bodies that look like the log's own records.
    let Store { partitions, .. } = &mut stores[0];
    let forged = Header::piece(60_000).encode(&[]).1.as_ref().repeat(320);
    let start = Place {
        segment: 0,
        offset: 0,
    };
    assert!(partitions[0].record(start).is_none());
    for i in 0..9_000 {
        let _ = put_chunked(&mut stores[0], &name(i), &forged, i % 2 == 0, 700);
        turn(&mut stores);
        if let Some(found) = get(&mut stores[0], &name(i)) {
            assert_eq!(joined(&found), forged);
        }
    }
    assert!(stores[0].stats().evictions > 1_000);
}
