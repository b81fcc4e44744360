//! popcache's own store under a replay: arena, index, log, extents, as a shard has them.
//!
//! The store is made for memories of 64 MiB and more, and the traces at hand are small: a thousandth
//! of their footprint is less than the two segments that are written at any time. So several
//! *copies* of a trace are played at once, request by request in turn, each with objects of its own, in
//! a store so many times as large. For a cache that is [`ENOUGH`] large there is one copy; a long
//! trace has fewer copies, but as many as make [`LEAST`]. What is said is the mean over the copies. An object that would not fit into the cache of one copy is
//! not stored.
//!
//! The room is that of log and extents, with what headers, keys, rounding to extents and free segments take of
//! it; the index lies beside it. Where sizes are not known, all bodies have the same, which makes the store large
//! enough with few copies.

use std::array;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cache_core::purge::Purges;
use cache_core::store::{self, KeyHash, NewObject, ObjectMeta, Store, StoreConfig, StoreReport};
use hugepages::PagePolicy;

use super::replay::{Cache, Misses};
use super::trace::{Request, Trace};

/// Bytes of room that need no further copies.
const ENOUGH: u64 = 64 << 20;
/// Room below which the segments being written and kept free would take too much of it.
const LEAST: u64 = 16 << 20;
/// Requests of all copies together, about, where that makes the room no less than the least.
const MOST_REQUESTS: u64 = 3_000_000;
/// Largest body that lies in the log.
const SMALL: u32 = 64 << 10;
/// What bodies above that may take, at most.
const LARGE_SHARE: f32 = 0.95;
/// Of a record beside its body, about.
const RECORD: u64 = 32;
const MIB: u64 = 1 << 20;
/// Memory is mapped in steps of this.
const STEP: u64 = 2 * MIB;
/// Copies tried, as a part of those wanted, to come close to a step.
const SLACK: f64 = 0.75;

pub struct Own {
    store: Store,
    copies: u64,
    /// Bytes of the body where sizes are not known.
    body: Option<u32>,
    largest: u64,
    bytes: Vec<u8>,
}

/// The store that a trace is played on.
struct Plan {
    copies: u64,
    body: Option<u32>,
    /// Of log and extents.
    room: u64,
    mean_object: u64,
    largest: u64,
}

impl Own {
    /// Of the trace that are played at once.
    pub fn copies(&self) -> u64 {
        self.copies
    }

    /// With room for `capacity` bytes of a copy, or objects where sizes are not known.
    ///
    /// # Errors
    /// Memory that cannot be mapped.
    pub fn new(trace: &Trace, capacity: u64) -> Result<Self> {
        let plan = Plan::new(trace, capacity);
        let (store, _) = build(&plan)?;
        Ok(Self {
            store,
            copies: plan.copies,
            body: plan.body,
            largest: plan.largest,
            bytes: vec![0x5a; plan.largest as usize],
        })
    }

    /// Misses of one copy, on average.
    pub fn replay(&mut self, trace: &Trace) -> Misses {
        let mut misses = Misses::default();
        for request in &trace.requests {
            for copy in 0..self.copies {
                if !self.request_of(copy, *request) {
                    misses.add(request.size);
                }
            }
        }
        Misses {
            objects: misses.objects / self.copies,
            bytes: misses.bytes / self.copies,
        }
    }

    fn request_of(&mut self, copy: u64, request: Request) -> bool {
        let key = key(copy << 32 | u64::from(request.object));
        let hash = self.store.hash(&key);
        let found = self.store.lookup(hash, &key).is_some();
        if !found {
            let size = self.body.unwrap_or(request.size);
            if u64::from(size) <= self.largest {
                self.put(hash, &key, size as usize);
            }
        }
        self.store.turn(&mut |_| {});
        found
    }

    fn put(&mut self, hash: KeyHash, key: &[u8], size: usize) {
        let meta = ObjectMeta {
            status: 200,
            lifetime_s: 86_400,
            stored_unix_ms: 1_700_000_000_000,
            ..ObjectMeta::default()
        };
        let object = NewObject {
            key,
            meta: &meta,
            head: &[],
            tags: &[],
            length: Some(size as u64),
        };
        // No room is a miss again later.
        if let Ok(mut fill) = self.store.begin(hash, &object) {
            let store = &mut self.store;
            let appended = store.append(&mut fill, &self.bytes[..size], &mut Vec::new());
            if appended.is_ok() {
                let _ = store.commit(&mut fill);
            }
            store.release(fill);
        }
    }
}

impl Cache for Own {
    fn request(&mut self, request: Request) -> bool {
        self.request_of(0, request)
    }
}

impl Plan {
    fn new(trace: &Trace, capacity: u64) -> Self {
        let most = (MOST_REQUESTS / trace.requests.len().max(1) as u64).max(1);
        if trace.sized {
            let (copies, room) = copies(capacity, most);
            return Self {
                copies,
                body: None,
                room,
                mean_object: mean_object(trace),
                largest: capacity,
            };
        }
        let each = (ENOUGH / most / capacity).clamp(512, 32 << 10);
        let each = 1 << each.ilog2();
        let (copies, room) = copies(capacity * each, most);
        let body = each - RECORD;
        Self {
            copies,
            body: Some(body as u32),
            room,
            mean_object: each,
            largest: body,
        }
    }
}

/// The key of a number. Without zero bytes, which mark variants.
fn key(number: u64) -> [u8; 11] {
    array::from_fn(|i| b'0' + (number >> (6 * i) & 63) as u8)
}

/// As many copies as make the room enough, or a few less where the room of all is then closer to a step
/// of memory.
fn copies(capacity: u64, most: u64) -> (u64, u64) {
    let most = most.max(LEAST.div_ceil(capacity));
    let wanted = ENOUGH.div_ceil(capacity).clamp(1, most);
    let least = (wanted as f64 * SLACK).ceil() as u64;
    let lost = |copies: &u64| (copies * capacity % STEP) as f64 / (copies * capacity) as f64;
    let copies = (least.max(1)..=wanted).min_by(|a, b| lost(a).total_cmp(&lost(b)));
    let copies = copies.unwrap_or(1);
    (copies, copies * capacity)
}

/// A quarter of what small objects take on average, for those that stay are rather the smaller ones.
fn mean_object(trace: &Trace) -> u64 {
    let small = trace
        .requests
        .iter()
        .filter(|request| request.size <= SMALL);
    let (count, bytes) = small.fold((0, 0), |(count, bytes), request| {
        (count + 1, bytes + u64::from(request.size) + RECORD)
    });
    (bytes / u64::max(count, 1) / 4).clamp(256, MIB)
}

/// The largest store whose log and extents do not exceed the room.
fn build(plan: &Plan) -> Result<(Store, StoreReport)> {
    let mut ram = (plan.room + plan.room / 16).next_multiple_of(STEP);
    while ram >= STEP {
        let config = StoreConfig {
            ram_bytes: ram,
            pages: PagePolicy::Plain,
            max_object: plan.largest,
            large_share: LARGE_SHARE,
            hash_seed: 1,
            pinned_bytes: 0,
            mean_object: plan.mean_object,
            ..StoreConfig::default()
        };
        let purges = Arc::new(Purges::new(1, 64));
        let (mut stores, report) = store::build(&config, purges)
            .with_context(|| format!("a store of {ram} bytes for a room of {}", plan.room))?;
        if room_of(&report) <= plan.room
            && let Some(store) = stores.pop()
        {
            return Ok((store, report));
        }
        ram -= STEP;
    }
    bail!("no store is as small as {} bytes", plan.room)
}

fn room_of(report: &StoreReport) -> u64 {
    u64::from(report.log_segments) * u64::from(report.log_segment_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(size: u32) -> Trace {
        let keys = (0..20_000u64).map(|i| ((i * i) % 977 + i / 100 % 300, size));
        Trace::new("t", keys)
    }

    #[test]
    fn what_fits_is_missed_once_and_runs_repeat() {
        let keys = (0..1_500u64).map(|i| (i * i % 97 + i / 300 * 10, 60_000));
        let sized = Trace::new("t", keys);
        let replay = |capacity| Own::new(&sized, capacity).unwrap().replay(&sized);
        let roomy = replay(2 * sized.footprint);
        assert_eq!(roomy.objects, u64::from(sized.objects));
        assert_eq!(roomy.bytes, sized.footprint);
        let small = replay(sized.footprint / 4);
        assert!(small.objects > 2 * roomy.objects);
        assert_eq!(small, replay(sized.footprint / 4));
    }

    #[test]
    fn keys_are_no_variants_and_differ() {
        let numbers = (0..5_000).chain((1..5_000).map(|copy| copy << 32 | 7));
        let keys: std::collections::HashSet<_> = numbers.map(key).collect();
        assert_eq!(keys.len(), 9_999);
        assert!(keys.iter().all(|key| !key.contains(&0)));
    }

    #[test]
    fn stores_are_as_large_as_they_may_be() {
        for (size, capacity) in [(1, 20), (1, 30_000), (5_000, 300 << 10), (90_000, 20 << 20)] {
            let plan = Plan::new(&trace(size), capacity);
            let (_, report) = build(&plan).unwrap();
            let got = room_of(&report);
            assert!(
                got <= plan.room && got > plan.room * 9 / 10,
                "{got} of {}",
                plan.room
            );
            assert_eq!(report.max_object.min(plan.largest), plan.largest);
        }
    }

    #[test]
    fn long_traces_have_room_enough_in_the_smallest_cache() {
        for body in [1, 700] {
            let mut long = trace(body);
            long.requests = long.requests.repeat(1 + MOST_REQUESTS as usize / 20_000);
            let plan = Plan::new(&long, long.footprint.div_ceil(1000));
            assert!(plan.room >= LEAST * 3 / 4 && build(&plan).is_ok(), "{body}");
        }
    }
}
