//! What second-hit admission saves: traces through a real Store and Tier, beside a tier that takes
//! everything. Bytes are counted, not time, so the drive is memory.
//!
//! Sizes are scaled so that every trace has about [`FOOTPRINT`]; where they are not known, all objects
//! are of one size. Memory and drive are the same shares of it for all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use cache_core::io::{FetchId, Now};
use cache_core::purge::Purges;
use cache_core::store::{self, KeyHash, NewObject, ObjectMeta, Store, StoreConfig};
use cache_core::tier::{Bypass, DEFAULT_BLOCK_BYTES, Recovery, Tier, TierConfig, TierEvent};
use hugepages::blocks::Pool;
use hugepages::{Backing, PagePolicy};

use super::Options;
use super::drive::Drive;
use crate::engine::synthetic;
use crate::engine::trace::{self, Request, Trace};
use crate::figures::{Better, Metric, POPCACHE, Row, Samples};

/// Bytes of all objects of a trace together.
const FOOTPRINT: u64 = 256 << 20;
/// 3 % of the footprint in memory, 10 % on the drive.
const RAM: u64 = 8 << 20;
const DRIVE: u64 = 26 << 20;
const SEGMENT: u32 = 1 << 20;
const MAX_BODY: u64 = 1 << 20;
/// Requests of a trace that a quick run replays.
const QUICK: usize = 60_000;

const ADMIT_ALL: &str = "admit-all";

const METRICS: [Metric; 3] = [
    Metric {
        name: "bytes_written_per_byte_missed",
        unit: "bytes/byte",
        better: Better::Lower,
    },
    Metric {
        name: "object_misses",
        unit: "ratio",
        better: Better::Lower,
    },
    Metric {
        name: "byte_misses",
        unit: "ratio",
        better: Better::Lower,
    },
];

/// A row for each trace and metric.
///
/// # Errors
/// Traces that cannot be read.
pub fn rows(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for path in trace::files(options.traces.as_deref())? {
        let trace = Trace::read(&path)?;
        rows.extend(compare(&trace, options));
    }
    for trace in synthetic::all() {
        rows.extend(compare(&trace, options));
    }
    Ok(rows)
}

fn compare(trace: &Trace, options: &Options) -> Vec<Row> {
    let case = format!("admission/{}", trace.name);
    if !options.wants(&case) {
        return Vec::new();
    }
    eprintln!("popcache-bench: {case}");
    let mut samples = Samples::default();
    for (name, bypass) in [(POPCACHE, Bypass::No), (ADMIT_ALL, Bypass::Prewarmed)] {
        match replay(trace, bypass, options.quick) {
            Ok(found) => {
                samples.add(0, 0, name, found.written as f64 / found.missed_bytes as f64);
                samples.add(0, 1, name, found.missed as f64 / found.requests as f64);
                samples.add(0, 2, name, found.missed_bytes as f64 / found.bytes as f64);
            }
            Err(error) => return vec![Row::failure(&case, format!("{name}: {error:#}"))],
        }
    }
    samples.rows(&[&case], &METRICS)
}

/// What came of a trace.
#[derive(Debug, Default)]
struct Found {
    requests: u64,
    bytes: u64,
    missed: u64,
    missed_bytes: u64,
    /// To the drive.
    written: u64,
}

fn replay(trace: &Trace, bypass: Bypass, quick: bool) -> Result<Found> {
    let mut node = Node::new(bypass)?;
    let scale = FOOTPRINT as f64 / trace.footprint as f64;
    let mut found = Found::default();
    let wanted = if quick { QUICK } else { usize::MAX };
    for request in trace.requests.iter().take(wanted) {
        let size = scaled(request, scale);
        found.requests += 1;
        found.bytes += size;
        if !node.get(request.object, size)? {
            found.missed += 1;
            found.missed_bytes += size;
        }
    }
    found.written = node.tier.stats().written_bytes;
    Ok(found)
}

fn scaled(request: &Request, scale: f64) -> u64 {
    ((f64::from(request.size) * scale) as u64).clamp(16, MAX_BODY)
}

/// A shard's store and tier, without the shard.
struct Node {
    store: Store,
    tier: Tier,
    drive: Drive,
    bypass: Bypass,
    noise: Vec<u8>,
    started: Instant,
    turns: u64,
}

impl Node {
    fn new(bypass: Bypass) -> Result<Self> {
        let purges = Arc::new(Purges::new(0, 1024));
        let config = StoreConfig {
            ram_bytes: RAM,
            max_object: MAX_BODY,
            pages: PagePolicy::Plain,
            ..StoreConfig::default()
        };
        let (mut stores, _) = store::build(&config, purges.clone())?;
        let (drive, geometry) = Drive::new(DRIVE, SEGMENT)?;
        let limits = TierConfig {
            discard: false,
            life: 1,
            ..TierConfig::default()
        };
        let bytes = limits.blocks(1) * DEFAULT_BLOCK_BYTES;
        let (region, _) = Backing::map(bytes, PagePolicy::Plain)?;
        let pool = Pool::new(region, DEFAULT_BLOCK_BYTES)?;
        let mut recovery = Recovery::new(geometry, 0, limits, purges, pool);
        while let Some(read) = recovery.next() {
            recovery.done(drive.read(read.offset, read.len));
        }
        Ok(Self {
            store: stores
                .pop()
                .ok_or_else(|| anyhow!("a store without shards"))?,
            tier: recovery.finish(),
            drive,
            bypass,
            noise: (0..MAX_BODY).map(|n| (n ^ (n >> 7)) as u8).collect(),
            started: Instant::now(),
            turns: 0,
        })
    }

    /// Whether memory or the drive had it. Either way it is in memory afterwards.
    fn get(&mut self, object: u32, size: u64) -> Result<bool> {
        let key = Bytes::from(format!("trace/{object:08x}"));
        let hash = self.store.hash(&key);
        let in_memory = self.store.lookup(hash, &key).is_some();
        let on_drive = !in_memory && self.fetch(hash, &key, size)?;
        if !in_memory {
            self.keep(hash, &key, size);
        }
        self.turn();
        Ok(in_memory || on_drive)
    }

    fn now(&self) -> Now {
        Now {
            mono: self.started + Duration::from_micros(100 * self.turns),
            unix_ms: self.turns / 10,
        }
    }

    /// Reads the object from the drive to its end.
    fn fetch(&mut self, hash: KeyHash, key: &Bytes, size: u64) -> Result<bool> {
        let id = FetchId(self.turns);
        if !self.tier.fetch(self.now(), id, hash, key.clone()) {
            return Ok(false);
        }
        let mut got = 0;
        for _ in 0..10_000 {
            for (_, event) in self.turn_tier() {
                match event {
                    TierEvent::Head { .. } => {}
                    TierEvent::Body(bytes) => {
                        got += bytes.len() as u64;
                        self.tier.credit(id, bytes.len() as u32);
                    }
                    TierEvent::End if got == size => return Ok(true),
                    TierEvent::End => bail!("{got} bytes of {size} came from the drive"),
                    TierEvent::Missing => return Ok(false),
                }
            }
        }
        bail!("a read from the drive does not end")
    }

    /// What does not fit is not kept, as on a real node.
    fn keep(&mut self, hash: KeyHash, key: &[u8], size: u64) {
        let meta = ObjectMeta {
            status: 200,
            lifetime_s: u32::MAX,
            ..ObjectMeta::default()
        };
        let object = NewObject {
            key,
            meta: &meta,
            head: &self.noise[..64],
            tags: &[],
            length: Some(size),
        };
        let Ok(mut fill) = self.store.begin(hash, &object) else {
            return;
        };
        let body = &self.noise[..size as usize];
        let whole = self.store.append(&mut fill, body, &mut Vec::new());
        if whole.is_ok() {
            // Refused only if it was purged.
            let _ = self.store.commit(&mut fill);
        }
        self.store.release(fill);
    }

    fn turn(&mut self) {
        self.turns += 1;
        let (now, tier, bypass) = (self.now(), &mut self.tier, self.bypass);
        self.store.turn(&mut |evicted| {
            tier.offer(now, &evicted, bypass);
        });
        self.turn_tier();
    }

    fn turn_tier(&mut self) -> Vec<(FetchId, TierEvent)> {
        let (mut commands, mut events) = (Vec::new(), Vec::new());
        loop {
            let now = self.now();
            self.tier.turn(now, &mut commands, &mut events);
            if commands.is_empty() {
                return events;
            }
            for command in commands.drain(..) {
                let done = self.drive.carry_out(command);
                self.tier.done(now, done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the requests are for objects that come once.
    fn trace() -> Trace {
        let requests = (0..40_000_u64).map(|n| match n % 2 {
            0 => (n / 2 % 3_000, 20_000),
            _ => (1_000_000 + n, 20_000),
        });
        Trace::new("half-once", requests)
    }

    #[test]
    fn what_comes_once_is_not_written() {
        let trace = trace();
        let second = replay(&trace, Bypass::No, false).expect("replayed");
        let all = replay(&trace, Bypass::Prewarmed, false).expect("replayed");
        assert_eq!((second.requests, all.requests), (40_000, 40_000));
        assert!(
            second.missed >= 23_000 && second.missed <= all.missed,
            "{second:?} {all:?}"
        );
        assert!(2 * second.written < all.written, "{second:?} {all:?}");
        assert!(second.written > 0);
    }
}
