//! What the tier's admission saves: traces through a real Store and Tier, beside a tier that takes
//! everything and one that knows the future. Bytes are counted, not time, so the drive is memory.
//!
//! Sizes are scaled so that every trace has about [`FOOTPRINT`]; where they are not known, all objects
//! are of one size. Memory and drive are the same shares of it for all.
//!
//! The oracle takes what memory will miss often enough within a time. Of several numbers and times
//! it shows the one that writes least for a byte missed without missing more than admit-all: not
//! the best that can be, but what the same log can reach with the right choice.

use std::collections::HashMap;
use std::ops::Range;
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
/// Longer traces are left out of a quick run. The begin of one would show how an empty drive fills.
const QUICK: usize = 150_000;

const ADMIT_ALL: &str = "admit-all";
const ORACLE: &str = "oracle";
/// Misses to come, and the part of the trace in which, for which the oracle takes an object.
const ORACLES: [(usize, f64); 10] = [
    (1, 0.03),
    (1, 0.25),
    (2, 0.03),
    (2, 0.25),
    (3, 0.25),
    (3, 1.0),
    (4, 0.5),
    (4, 1.0),
    (8, 0.5),
    (16, 0.5),
];

/// Bytes written for each byte missed, without more misses than admit-all, on every trace.
const GOAL: f64 = 0.15;

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
    let mut verdicts = Verdicts::default();
    trace::each(options.traces.as_deref(), synthetic::all(), |trace| {
        rows.extend(compare(trace, options, &mut verdicts));
    })?;
    verdicts.print();
    Ok(rows)
}

fn compare(trace: &Trace, options: &Options, verdicts: &mut Verdicts) -> Vec<Row> {
    let case = format!("admission/{}", trace.name);
    if !options.wants(&case) {
        return Vec::new();
    }
    if options.quick && trace.requests.len() > QUICK {
        eprintln!("popcache-bench: {case} is too long for a quick run");
        return Vec::new();
    }
    eprintln!("popcache-bench: {case}");
    let found = match contenders(trace, options.quick) {
        Ok(found) => found,
        Err(error) => return vec![Row::failure(&case, format!("{error:#}"))],
    };
    verdicts.judge(&trace.name, &found);
    let mut samples = Samples::default();
    for (name, found) in found {
        samples.add(0, 0, name, found.written_per_missed());
        samples.add(0, 1, name, found.missed as f64 / found.requests as f64);
        samples.add(0, 2, name, found.missed_bytes as f64 / found.bytes as f64);
    }
    samples.rows(&[&case], &METRICS)
}

/// popcache, admit-all, and the oracle unless it has to be quick.
fn contenders(trace: &Trace, quick: bool) -> Result<Vec<(&'static str, Found)>> {
    let play = |chooser| replay(trace, chooser);
    let own = play(Chooser::Tier)?;
    let all = play(Chooser::All)?;
    let mut found = vec![(POPCACHE, own), (ADMIT_ALL, all)];
    if !quick {
        let future = Future::of(trace)?;
        let oracles = ORACLES.into_iter().map(|(misses, part)| {
            play(Chooser::Oracle {
                future: &future,
                misses,
                within: (trace.requests.len() as f64 * part) as usize,
            })
        });
        let oracles = oracles.collect::<Result<Vec<_>>>()?;
        let cost = |oracle: &Found| match oracle.is_no_worse(&all) {
            true => (false, oracle.written_per_missed()),
            false => (true, oracle.missed_bytes as f64),
        };
        let best = oracles.into_iter().min_by(|one, other| {
            let (one, other) = (cost(one), cost(other));
            one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
        });
        found.extend(best.map(|best| (ORACLE, best)));
    }
    Ok(found)
}

/// Which traces reach the goal.
#[derive(Default)]
struct Verdicts {
    met: Vec<String>,
    missed: Vec<String>,
}

impl Verdicts {
    fn judge(&mut self, trace: &str, found: &[(&'static str, Found)]) {
        let [(_, own), (_, all), ..] = found else {
            return;
        };
        let written = own.written_per_missed();
        if written <= GOAL && own.is_no_worse(all) {
            return self.met.push(trace.to_owned());
        }
        self.missed.push(format!(
            "{trace} (writes {written:.3}, misses {:.4} x the objects and {:.4} x the bytes of {ADMIT_ALL})",
            own.missed as f64 / all.missed as f64,
            own.missed_bytes as f64 / all.missed_bytes as f64,
        ));
    }

    fn print(&self) {
        let all = self.met.len() + self.missed.len();
        if all == 0 {
            return;
        }
        println!(
            "admission: {} of {all} traces write <= {GOAL} bytes for a byte missed at misses <= {ADMIT_ALL}: {}",
            self.met.len(),
            self.met.join(", ")
        );
        for missed in &self.missed {
            println!("admission: not {missed}");
        }
    }
}

/// Who decides what is written.
#[derive(Clone, Copy)]
enum Chooser<'a> {
    Tier,
    All,
    /// What memory misses so often within so many requests.
    Oracle {
        future: &'a Future,
        misses: usize,
        within: usize,
    },
}

impl Chooser<'_> {
    fn bypass(self, hash: KeyHash, request: usize) -> Option<Bypass> {
        match self {
            Self::Tier => Some(Bypass::No),
            Self::All => Some(Bypass::Prewarmed),
            Self::Oracle {
                future,
                misses,
                within,
            } => {
                let wanted = future.misses(hash, request..request + within) >= misses;
                wanted.then_some(Bypass::Prewarmed)
            }
        }
    }
}

/// When memory misses each object: the same whatever the tier has.
struct Future(HashMap<u64, Vec<usize>>);

impl Future {
    fn of(trace: &Trace) -> Result<Self> {
        let mut node = Node::new(Chooser::Tier)?;
        let mut missed: HashMap<u64, Vec<usize>> = HashMap::new();
        for (number, request) in trace.requests.iter().enumerate() {
            let key = key_of(request);
            let hash = node.store.hash(&key);
            if node.store.lookup(hash, &key).is_none() {
                missed.entry(hash.0).or_default().push(number);
                node.keep(hash, &key, scaled(trace, request));
            }
            node.store.turn(&mut |_| {});
        }
        Ok(Self(missed))
    }

    fn misses(&self, hash: KeyHash, requests: Range<usize>) -> usize {
        let all = self.0.get(&hash.0).map(Vec::as_slice).unwrap_or_default();
        let before = |end: usize| all.partition_point(|request| *request <= end);
        before(requests.end) - before(requests.start)
    }
}

/// What came of a trace.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    requests: u64,
    bytes: u64,
    missed: u64,
    missed_bytes: u64,
    /// To the drive.
    written: u64,
}

impl Found {
    fn written_per_missed(&self) -> f64 {
        self.written as f64 / self.missed_bytes as f64
    }

    fn is_no_worse(&self, than: &Self) -> bool {
        self.missed <= than.missed && self.missed_bytes <= than.missed_bytes
    }
}

fn replay(trace: &Trace, chooser: Chooser<'_>) -> Result<Found> {
    let mut node = Node::new(chooser)?;
    let mut found = Found::default();
    for request in &trace.requests {
        let size = scaled(trace, request);
        found.requests += 1;
        found.bytes += size;
        if !node.get(&key_of(request), size)? {
            found.missed += 1;
            found.missed_bytes += size;
        }
    }
    found.written = node.tier.stats().written_bytes;
    Ok(found)
}

fn scaled(trace: &Trace, request: &Request) -> u64 {
    let scale = FOOTPRINT as f64 / trace.footprint as f64;
    ((f64::from(request.size) * scale) as u64).clamp(16, MAX_BODY)
}

fn key_of(request: &Request) -> Bytes {
    Bytes::from(format!("trace/{:08x}", request.object))
}

/// A shard's store and tier, without the shard.
struct Node<'a> {
    store: Store,
    tier: Tier,
    drive: Drive,
    chooser: Chooser<'a>,
    noise: Vec<u8>,
    started: Instant,
    turns: u64,
}

impl<'a> Node<'a> {
    fn new(chooser: Chooser<'a>) -> Result<Self> {
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
        while let Some(read) = recovery.next_read() {
            recovery.done(read, drive.read(read.offset, read.len));
        }
        Ok(Self {
            store: stores
                .pop()
                .ok_or_else(|| anyhow!("a store without shards"))?,
            tier: recovery.finish(),
            drive,
            chooser,
            noise: (0..MAX_BODY).map(|n| (n ^ (n >> 7)) as u8).collect(),
            started: Instant::now(),
            turns: 0,
        })
    }

    /// Whether memory or the drive had it. Either way it is in memory afterwards.
    fn get(&mut self, key: &Bytes, size: u64) -> Result<bool> {
        let hash = self.store.hash(key);
        let in_memory = self.store.lookup(hash, key).is_some();
        let on_drive = !in_memory && self.fetch(hash, key, size)?;
        if !in_memory {
            self.keep(hash, key, size);
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
        let (now, request) = (self.now(), self.turns as usize);
        self.turns += 1;
        let (tier, chooser) = (&mut self.tier, self.chooser);
        self.store.turn(&mut |evicted| {
            if let Some(bypass) = chooser.bypass(evicted.hash, request) {
                tier.offer(now, &evicted, bypass);
            }
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
        let second = replay(&trace, Chooser::Tier).expect("replayed");
        let all = replay(&trace, Chooser::All).expect("replayed");
        assert_eq!((second.requests, all.requests), (40_000, 40_000));
        assert!(
            second.missed >= 23_000 && second.missed <= all.missed,
            "{second:?} {all:?}"
        );
        assert!(2 * second.written < all.written, "{second:?} {all:?}");
        assert!(second.written > 0);
    }
}
