//! The caches, filled.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};
use bytes::Bytes;
use cache_core::purge::Purges;
use cache_core::store::{self, HitNote, HitNotes, NewObject, ObjectMeta, Store, StoreConfig};
use foyer::CacheBuilder;
use hugepages::{PagePolicy, Reservation, reserve_2m};
use quick_cache::sync::Cache as Quick;
use tinyufo::TinyUfo;

use super::probe::Probe;
use super::{Contender, HEAD, Key, Objects, Worker, key};
use crate::figures::POPCACHE;

const HUGE_PAGE: u64 = 2 << 20;
/// Memory of the store for each byte of objects: the rest of the log is kept free, a tenth of all is
/// extents.
const ROOM: f64 = 1.3;
const LARGE_SHARE: f32 = 0.1;
/// Messages with notes of hits that may wait for an owner.
const LANE: usize = 256;

/// All caches, and the pages they lie in.
pub struct Contenders {
    pub list: Vec<Contender>,
    reservation: Option<Reservation>,
}

impl Contenders {
    /// Gives the pages back.
    ///
    /// # Errors
    /// `vm.nr_hugepages` that can no longer be written.
    pub fn release(self) -> Result<()> {
        drop(self.list);
        let released = self.reservation.map_or(Ok(()), Reservation::release);
        released.context("cannot put vm.nr_hugepages back")
    }
}

/// Every cache with all objects, for `threads` threads, on 2 MiB pages where they can be reserved.
///
/// # Errors
/// Memory that cannot be had.
pub fn all(objects: Objects, threads: usize, bodies: &[Bytes]) -> Result<Contenders> {
    let bytes = store_bytes(objects) + Probe::bytes(objects);
    let pages = bytes.div_ceil(HUGE_PAGE) + 8;
    let (reservation, policy) = match reserve_2m(pages) {
        Ok(reservation) => (Some(reservation), PagePolicy::Huge2M),
        Err(error) => {
            // The probe's pages are as popcache's, so that the two can be compared all the same.
            eprintln!("popcache-bench: transparent hugepages: {error}");
            (None, PagePolicy::Thp)
        }
    };
    let list = fill(objects, threads, bodies, policy)?;
    Ok(Contenders { list, reservation })
}

/// Every cache, on such pages.
pub fn fill(
    objects: Objects,
    threads: usize,
    bodies: &[Bytes],
    policy: PagePolicy,
) -> Result<Vec<Contender>> {
    let ram = store_bytes(objects);
    let mut list = vec![popcache(objects, threads, ram, policy)?];
    let probe = Arc::new(Probe::new(objects, policy)?);
    list.push(shared("raw-probe", threads, probe, |probe, object| {
        probe.get(&key(object))
    }));
    list.extend(crates(objects, threads, bodies));
    Ok(list)
}

fn store_bytes(objects: Objects) -> u64 {
    let bytes = (objects.bytes() as f64 * ROOM) as u64;
    bytes.max(64 << 20).next_multiple_of(HUGE_PAGE)
}

fn popcache(
    objects: Objects,
    threads: usize,
    ram_bytes: u64,
    pages: PagePolicy,
) -> Result<Contender> {
    let config = StoreConfig {
        shards: threads as u8,
        ram_bytes,
        pages,
        large_share: LARGE_SHARE,
        mean_object: objects.bytes() / u64::from(objects.count),
        ..StoreConfig::default()
    };
    let (mut stores, report) = store::build(&config, Arc::new(Purges::new(1, 1 << 16)))?;
    eprintln!(
        "popcache-bench: {} {}",
        report.backing.kind, report.backing.note
    );
    let body = vec![0; 8_001];
    for object in 0..objects.count {
        put(&mut stores, object, &body[..objects.size(object)])?;
    }
    let (lanes, inboxes): (Vec<_>, Vec<_>) = stores.iter().map(|_| sync_channel(LANE)).unzip();
    let shards = stores.into_iter().zip(inboxes);
    Ok(Contender {
        name: POPCACHE,
        workers: shards
            .map(|(store, inbox)| shard(store, inbox, lanes.clone()))
            .collect(),
    })
}

/// Stores an object as a shard does.
pub fn put(stores: &mut [Store], object: u32, body: &[u8]) -> Result<()> {
    let key = key(object);
    let hash = stores[0].hash(&key);
    let owner = usize::from(stores[0].owner(hash));
    let meta = ObjectMeta {
        status: 200,
        stored_unix_ms: 1_764_000_000_000,
        lifetime_s: 3_600,
        ..ObjectMeta::default()
    };
    let store = &mut stores[owner];
    let object = NewObject {
        key: &key,
        meta: &meta,
        head: &HEAD,
        tags: &[],
        length: Some(body.len() as u64),
    };
    let mut fill = store.begin(hash, &object)?;
    store.append(&mut fill, body, &mut Vec::new())?;
    store.commit(&mut fill)?;
    store.release(fill);
    store.turn(&mut |_| {});
    Ok(())
}

/// A shard's part of its loop: lookups, notes of hits on others' objects, the turn.
fn shard(
    mut store: Store,
    inbox: Receiver<Vec<HitNote>>,
    lanes: Vec<SyncSender<Vec<HitNote>>>,
) -> Worker {
    let mut notes = HitNotes::new(lanes.len() as u8);
    Box::new(move |objects| {
        let mut found = 0;
        for object in objects {
            let key = key(*object);
            let hash = store.hash(&key);
            if let Some(hit) = store.lookup(hash, &key) {
                found += u64::from(hit.body().is_some());
                if let Some(note) = hit.note {
                    notes.push(note);
                }
            }
        }
        for (owner, notes) in notes.due() {
            // An owner that is behind loses them, as in a full lane.
            let _full = lanes[usize::from(owner)].try_send(notes);
        }
        while let Ok(notes) = inbox.try_recv() {
            store.note_hits(&notes);
        }
        store.turn(&mut |_| {});
        found
    })
}

type Moka = moka::sync::Cache<Key, Bytes>;
type Foyer = foyer::Cache<Key, Bytes>;

fn crates(objects: Objects, threads: usize, bodies: &[Bytes]) -> Vec<Contender> {
    let body = |object: u32| bodies[object as usize].clone();
    vec![
        shared("moka", threads, moka(objects, body), |cache, object| {
            cache.get(&key(object)).is_some()
        }),
        shared(
            "foyer-s3fifo",
            threads,
            foyer(objects, body),
            |cache, object| cache.get(&key(object)).is_some(),
        ),
        shared(
            "quick_cache",
            threads,
            quick(objects, body),
            |cache, object| cache.get(&key(object)).is_some(),
        ),
        shared("tinyufo", threads, ufo(objects, body), |cache, object| {
            cache.get(&key(object)).is_some()
        }),
    ]
}

/// Bytes that the allocator has in use for each crate's cache with objects whose bodies take none.
pub fn crates_in_use(objects: Objects) -> Vec<(&'static str, u64)> {
    fn used<T>(make: impl FnOnce() -> T) -> u64 {
        let before = in_use();
        let made = make();
        let used = in_use().saturating_sub(before);
        drop(made);
        used
    }
    let none = |_| Bytes::new();
    vec![
        ("moka", used(|| moka(objects, none))),
        ("foyer-s3fifo", used(|| foyer(objects, none))),
        ("quick_cache", used(|| quick(objects, none))),
        ("tinyufo", used(|| ufo(objects, none))),
    ]
}

fn in_use() -> u64 {
    // SAFETY: reads the allocator's own counters, under its locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

fn moka(objects: Objects, body: impl Fn(u32) -> Bytes) -> Arc<Moka> {
    let cache = Moka::new(room(objects) as u64);
    for object in 0..objects.count {
        cache.insert(key(object), body(object));
    }
    cache.run_pending_tasks();
    Arc::new(cache)
}

fn foyer(objects: Objects, body: impl Fn(u32) -> Bytes) -> Arc<Foyer> {
    let cache = CacheBuilder::new(room(objects))
        .with_eviction_config(foyer::S3FifoConfig::default())
        .build();
    for object in 0..objects.count {
        cache.insert(key(object), body(object));
    }
    Arc::new(cache)
}

fn quick(objects: Objects, body: impl Fn(u32) -> Bytes) -> Arc<Quick<Key, Bytes>> {
    let cache = Quick::new(room(objects));
    for object in 0..objects.count {
        cache.insert(key(object), body(object));
    }
    Arc::new(cache)
}

fn ufo(objects: Objects, body: impl Fn(u32) -> Bytes) -> Arc<TinyUfo<Key, Bytes>> {
    let cache = TinyUfo::new(room(objects), objects.count as usize);
    for object in 0..objects.count {
        cache.put(key(object), body(object), 1);
    }
    Arc::new(cache)
}

/// Objects that a crate may hold: enough that none of its shards runs over.
fn room(objects: Objects) -> usize {
    objects.count as usize * 5 / 4 + 1_000
}

/// A cache that all threads have in common.
fn shared<C: Send + Sync + 'static>(
    name: &'static str,
    threads: usize,
    cache: Arc<C>,
    get: fn(&C, u32) -> bool,
) -> Contender {
    let worker = |_| -> Worker {
        let cache = Arc::clone(&cache);
        Box::new(move |objects| objects.iter().map(|o| u64::from(get(&cache, *o))).sum())
    };
    Contender {
        name,
        workers: (0..threads).map(worker).collect(),
    }
}
