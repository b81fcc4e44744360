//! Reads of the tier and of the drive under it, by turns.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cache_core::io::FetchId;
use cache_core::store::KeyHash;
use cache_core::tier::TierEvent;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::objects::{Objects, mixed};
use crate::config::TierConfig;
use crate::rt::disk::raw::{Extent, RawReads};
use crate::tier_files::{ShardTier, disk_plan};

const DEPTH: usize = 32;
/// Objects that are read, in ever new orders.
const SAMPLE: usize = 20_000;
/// Reads between two looks at the clock.
const BATCH: usize = 64;

/// What one round found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Median of reading an object, one at a time: from the question to its last byte, checked.
    pub qd1_us: f64,
    pub raw_qd1_us: f64,
    /// Objects a second, 32 at a time.
    pub qd32_iops: f64,
    pub raw_qd32_iops: f64,
    pub objects_read: u64,
}

/// An object and where it lies.
struct Sampled {
    number: u64,
    key: Bytes,
    hash: KeyHash,
    extent: Extent,
}

pub struct Prober {
    driver: Driver,
    one: RawReads,
    many: RawReads,
    sample: Vec<Sampled>,
    objects: Objects,
    seed: u64,
}

impl Prober {
    pub fn new(shard: ShardTier, config: &TierConfig) -> anyhow::Result<Self> {
        let devices = shard.disk.devices.clone();
        let raw = |depth| -> anyhow::Result<RawReads> {
            let plan = disk_plan(config, devices.clone(), config.size)?;
            RawReads::new(plan, depth).context("cannot make an io_uring for raw reads")
        };
        let mut prober = Self {
            one: raw(1)?,
            many: raw(DEPTH)?,
            driver: Driver::new(shard)?,
            sample: Vec::new(),
            objects: Objects::new(),
            seed: 1,
        };
        prober.choose()?;
        Ok(prober)
    }

    pub fn into_driver(self) -> Driver {
        self.driver
    }

    /// Finds objects that are there, and where.
    fn choose(&mut self) -> anyhow::Result<()> {
        let stats = self.driver.tier.stats();
        let written = 3 * stats.objects;
        let mut number = 0;
        while self.sample.len() < SAMPLE.min(stats.objects as usize / 2) && number < written {
            let candidate = mixed(number) % written;
            number += 1;
            if let Some(extent) = self.locate(candidate)? {
                self.sample.push(Sampled {
                    number: candidate,
                    key: Objects::key(candidate),
                    hash: Objects::hash(candidate),
                    extent,
                });
            }
        }
        match self.sample.is_empty() {
            true => bail!("no object of the scratch file can be read"),
            false => Ok(()),
        }
    }

    /// Where the object lies, if it is there and in one piece.
    fn locate(&mut self, number: u64) -> anyhow::Result<Option<Extent>> {
        let begun = self
            .driver
            .fetch(Objects::hash(number), Objects::key(number));
        let Some(id) = begun else {
            return Ok(None);
        };
        self.driver.read = Some(Vec::new());
        let mut found = false;
        loop {
            self.driver.turn();
            for (of, event) in self.driver.events.drain(..) {
                match event {
                    TierEvent::End if of == id => found = true,
                    TierEvent::Missing if of == id => {
                        self.driver.read = None;
                        return Ok(None);
                    }
                    _ => {}
                }
            }
            if found {
                let extents = self.driver.read.take();
                return Ok(match extents.as_deref() {
                    Some([extent]) => Some(*extent),
                    _ => None,
                });
            }
            self.driver.wait();
        }
    }

    /// Measures each part for about `part`.
    pub fn round(&mut self, number: usize, part: Duration) -> anyhow::Result<Round> {
        let mut round = Round {
            qd1_us: 0.0,
            raw_qd1_us: 0.0,
            qd32_iops: 0.0,
            raw_qd32_iops: 0.0,
            objects_read: 0,
        };
        for step in 0..4 {
            // Who goes first takes turns.
            match (step + number % 2 * 2) % 4 / 2 == 0 {
                true if step % 2 == 0 => round.qd1_us = self.one_by_one(part, &mut round)?,
                true => round.qd32_iops = self.many_at_once(part, &mut round)?,
                false if step % 2 == 0 => round.raw_qd1_us = self.raw_one_by_one(part)?,
                false => round.raw_qd32_iops = self.raw_many_at_once(part)?,
            }
        }
        Ok(round)
    }

    fn one_by_one(&mut self, part: Duration, round: &mut Round) -> anyhow::Result<f64> {
        let mut times = times()?;
        let began = Instant::now();
        while began.elapsed() < part {
            for index in self.order() {
                let start = Instant::now();
                self.get_all(&[index], 1)?;
                times.saturating_record(start.elapsed().as_nanos() as u64);
                round.objects_read += 1;
            }
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1e3)
    }

    fn many_at_once(&mut self, part: Duration, round: &mut Round) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut done = 0;
        while began.elapsed() < part {
            let order: Vec<usize> = (0..8).flat_map(|_| self.order()).collect();
            self.get_all(&order, DEPTH)?;
            done += order.len();
        }
        round.objects_read += done as u64;
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    fn raw_one_by_one(&mut self, part: Duration) -> anyhow::Result<f64> {
        let mut times = times()?;
        let began = Instant::now();
        while began.elapsed() < part {
            let extents = self.extents(1);
            self.one
                .run(&extents, |took| {
                    times.saturating_record(took.as_nanos() as u64);
                })
                .context("cannot read the scratch file")?;
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1e3)
    }

    fn raw_many_at_once(&mut self, part: Duration) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut done = 0;
        while began.elapsed() < part {
            let extents = self.extents(8);
            self.many
                .run(&extents, |_| {})
                .context("cannot read the scratch file")?;
            done += extents.len();
        }
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// Some of the sample, in an order that does not come again.
    fn order(&mut self) -> Vec<usize> {
        let len = self.sample.len() as u64;
        self.seed += 1;
        let seed = self.seed << 20;
        (0..BATCH as u64)
            .map(|n| (mixed(seed + n) % len) as usize)
            .collect()
    }

    fn extents(&mut self, batches: usize) -> Vec<Extent> {
        let order: Vec<usize> = (0..batches).flat_map(|_| self.order()).collect();
        order
            .iter()
            .map(|index| self.sample[*index].extent)
            .collect()
    }

    /// Reads objects of the sample to their end, `depth` at a time, and checks what comes.
    fn get_all(&mut self, order: &[usize], depth: usize) -> anyhow::Result<()> {
        let mut under_way = Vec::with_capacity(depth);
        let mut next = 0;
        while next < order.len() || !under_way.is_empty() {
            while next < order.len() && under_way.len() < depth {
                let Sampled {
                    number, key, hash, ..
                } = &self.sample[order[next]];
                let Some(id) = self.driver.fetch(*hash, key.clone()) else {
                    bail!("an object that was there is not any more");
                };
                under_way.push(Reading {
                    id,
                    number: *number,
                    got: 0,
                });
                next += 1;
            }
            self.driver.turn();
            if self.driver.events.is_empty() {
                self.driver.wait();
                self.driver.turn();
            }
            for (id, event) in self.driver.events.drain(..) {
                check(&self.objects, &mut under_way, id, event)?;
            }
        }
        Ok(())
    }
}

/// An object that is on its way, and how many bytes of it have come.
struct Reading {
    id: FetchId,
    number: u64,
    got: usize,
}

/// Bodies must come whole and in order.
fn check(
    objects: &Objects,
    under_way: &mut Vec<Reading>,
    id: FetchId,
    event: TierEvent,
) -> anyhow::Result<()> {
    let Some(at) = under_way.iter().position(|reading| reading.id == id) else {
        return Ok(());
    };
    let reading = &mut under_way[at];
    let (number, body) = (reading.number, objects.body(reading.number));
    match event {
        TierEvent::Head { .. } => {}
        TierEvent::Body(bytes) => {
            let expected = body.get(reading.got..reading.got + bytes.len());
            // The first bytes are enough: the tier has compared checksums.
            if expected.map(|e| &e[..e.len().min(64)]) != Some(&bytes[..bytes.len().min(64)]) {
                bail!("object {number} has other bytes than were written");
            }
            reading.got += bytes.len();
        }
        TierEvent::End if reading.got == body.len() => {
            under_way.swap_remove(at);
        }
        TierEvent::End => bail!("object {number} is cut short"),
        TierEvent::Missing => bail!("object {number} cannot be read"),
    }
    Ok(())
}

fn times() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).context("bounds of a histogram")
}
