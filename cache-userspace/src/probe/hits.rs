//! What writing costs those who are served from memory meanwhile.
//!
//! One thread does what a core's loop does, without packets: requests for objects in memory come at
//! fixed times and are answered when the loop gets to them; between them it turns the tier, which is
//! given objects at the limit of writing. The time of a request counts from when it was due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cache_core::purge::Purges;
use cache_core::store::{self, Evicted, NewObject, ObjectMeta, Store, StoreConfig};
use cache_core::tier::Bypass;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::objects::{Objects, mixed};
use crate::config::TierConfig;
use crate::rt::clock;

/// 50,000 requests a second.
const BETWEEN: Duration = Duration::from_micros(20);
const KEPT: u64 = 2_000;
/// Bytes written a second: the default of `tier.write_limit`.
fn limit() -> f64 {
    TierConfig::without_devices().write_limit as f64
}

/// Requests answered from memory while the tier writes, and while it does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hits {
    pub writing_p99_us: f64,
    pub quiet_p99_us: f64,
    /// Given to the drive meanwhile, in bytes a second.
    pub written_per_s: f64,
    /// No others follow.
    pub last: bool,
}

pub struct Hitter {
    store: Store,
    objects: Objects,
    next: u64,
    seed: u64,
}

impl Hitter {
    /// # Errors
    /// No memory.
    pub fn new() -> anyhow::Result<Self> {
        let config = StoreConfig {
            ram_bytes: 128 << 20,
            ..StoreConfig::default()
        };
        let purges = Arc::new(Purges::new(0, 1024));
        let (mut stores, _) = store::build(&config, purges)?;
        let mut hitter = Self {
            store: stores.pop().context("a store without shards")?,
            objects: Objects::new(),
            // Beyond all that the scratch file was filled with.
            next: 1 << 50,
            seed: 0,
        };
        for number in 0..KEPT {
            hitter.keep(number)?;
        }
        Ok(hitter)
    }

    fn keep(&mut self, number: u64) -> anyhow::Result<()> {
        let (key, body) = (Objects::key(number), self.objects.body(number));
        let hash = self.store.hash(&key);
        let meta = ObjectMeta::default();
        let object = NewObject {
            key: &key,
            meta: &meta,
            head: b"head",
            tags: &[],
            length: Some(body.len() as u64),
        };
        let mut fill = self.store.begin(hash, &object)?;
        self.store.append(&mut fill, body, &mut Vec::new())?;
        self.store.commit(&mut fill)?;
        self.store.release(fill);
        Ok(())
    }

    /// Measures for `part` without writes, then with them.
    pub fn measure(&mut self, driver: &mut Driver, part: Duration) -> anyhow::Result<Hits> {
        let quiet_p99_us = self.run(driver, part, 0.0)?;
        let before = driver.tier.stats().written_bytes;
        let began = Instant::now();
        let writing_p99_us = self.run(driver, part, limit())?;
        let written = driver.tier.stats().written_bytes - before;
        Ok(Hits {
            writing_p99_us,
            quiet_p99_us,
            written_per_s: written as f64 / began.elapsed().as_secs_f64(),
            last: false,
        })
    }

    fn run(&mut self, driver: &mut Driver, part: Duration, rate: f64) -> anyhow::Result<f64> {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        let mut copy = Vec::new();
        let began = Instant::now();
        let (mut due, mut offered) = (began, 0);
        while due.duration_since(began) < part {
            while due <= Instant::now() {
                self.answer(&mut copy)?;
                times.saturating_record(due.elapsed().as_nanos() as u64);
                due += BETWEEN;
            }
            // What a turn of the store may evict is not much either.
            if (offered as f64) < rate * began.elapsed().as_secs_f64() {
                let (next, tier) = (self.next, &mut driver.tier);
                let take =
                    |object: &Evicted<'_>| tier.offer(clock::now(), object, Bypass::Prewarmed);
                offered += self.objects.leave(next, take).1;
                self.next += 1;
            }
            driver.poll();
            driver.turn_at_once();
        }
        Ok(times.value_at_quantile(0.99) as f64 / 1e3)
    }

    /// Finds an object and copies its body, as an answer of its size is copied.
    fn answer(&mut self, copy: &mut Vec<u8>) -> anyhow::Result<()> {
        self.seed += 1;
        let key = Objects::key(mixed(self.seed) % KEPT);
        let hash = self.store.hash(&key);
        let hit = self.store.lookup(hash, &key);
        let hit = hit.context("an object went from memory")?;
        copy.clear();
        if let Some(body) = hit.body() {
            copy.extend_from_slice(body);
        }
        Ok(())
    }
}
