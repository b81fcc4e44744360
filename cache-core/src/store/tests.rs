//! The store's promises, step by step, with a view of its insides.

mod blocks;
mod damage;
mod evictions;
mod fills;
mod pins;
mod purges;

use super::hit::Place;
use super::*;
use crate::purge::Purge;
use crate::record::{EXTENT_BYTES, Header, MAX_CONTIGUOUS};

const SMALL: usize = 5_000;
const LARGE: usize = 3 * EXTENT_BYTES as usize + 777;

fn node(shards: u8, mib: u64) -> Vec<Store> {
    let config = StoreConfig {
        shards,
        ram_bytes: mib << 20,
        pages: PagePolicy::Plain,
        hash_seed: 42,
        ..StoreConfig::default()
    };
    build(&config, Arc::new(Purges::new(1, 1 << 16))).unwrap().0
}

/// Bytes that only this key has.
fn body(key: &[u8], len: usize) -> Vec<u8> {
    let mut state = key.iter().fold(1u64, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn owner_of(stores: &[Store], key: &[u8]) -> usize {
    usize::from(stores[0].owner(stores[0].hash(key)))
}

fn begin(store: &mut Store, key: &[u8], length: Option<usize>) -> Result<Fill, StoreError> {
    begin_tagged(store, key, length, &[])
}

fn begin_tagged(
    store: &mut Store,
    key: &[u8],
    length: Option<usize>,
    tags: &[TagSlot],
) -> Result<Fill, StoreError> {
    let meta = ObjectMeta {
        status: 200,
        stored_unix_ms: 1_764_000_000_000,
        lifetime_s: 60,
        stamp: store.purges().stamp(),
        ..ObjectMeta::default()
    };
    let object = NewObject {
        key,
        meta: &meta,
        head: b"the head",
        tags,
        length: length.map(|n| n as u64),
    };
    store.begin(store.hash(key), &object)
}

fn purge(store: &Store, purge: &Purge, soft: bool) {
    let mut purger = store.purges().writer().unwrap();
    purger.purge(purge, soft).unwrap();
}

/// Stores an object in pieces of `chunk` bytes.
fn put_chunked(
    store: &mut Store,
    key: &[u8],
    body: &[u8],
    known: bool,
    chunk: usize,
) -> Result<(), StoreError> {
    let mut fill = begin(store, key, known.then_some(body.len()))?;
    let mut spans = Vec::new();
    let mut result = Ok(());
    for data in body.chunks(chunk) {
        result = result.and_then(|()| store.append(&mut fill, data, &mut spans));
    }
    let result = result.and_then(|()| store.commit(&mut fill));
    store.release(fill);
    result
}

fn put(stores: &mut [Store], key: &[u8], len: usize) -> Result<(), StoreError> {
    let owner = owner_of(stores, key);
    put_chunked(&mut stores[owner], key, &body(key, len), true, len.max(1))
}

fn get(store: &mut Store, key: &[u8]) -> Option<Body> {
    let hash = store.hash(key);
    store.lookup(hash, key)?.bytes()
}

fn joined(body: &Body) -> Vec<u8> {
    body.iter().flat_map(|piece| piece.to_vec()).collect()
}

fn turn(stores: &mut [Store]) {
    // Announced by all, then reclaimed by all.
    stores.iter_mut().for_each(|store| store.turn(&mut |_| {}));
    stores.iter_mut().for_each(|store| store.turn(&mut |_| {}));
}

fn name(i: usize) -> Vec<u8> {
    format!("https://edge.test/object/{i}").into_bytes()
}

/// The slot of a key.
fn slot(store: &Store, key: &[u8]) -> crate::index::SlotId {
    let hash = store.hash(key);
    let partition = &store.partitions[usize::from(store.owner(hash))];
    partition.find(hash, key).unwrap().id
}

/// Looks without being counted as a hit.
fn is_stored(store: &Store, key: &[u8]) -> bool {
    let hash = store.hash(key);
    let partition = &store.partitions[usize::from(store.owner(hash))];
    partition.find(hash, key).is_some()
}
