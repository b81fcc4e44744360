//! From what the devices hold to the tiers of the shards: a few threads a shard, before any of them
//! runs.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use cache_core::io::ShardId;
use cache_core::purge::Purges;
use cache_core::tier::{PinJudge, Recovery, RecoveryRead, Tier, TierStats, UrlJudge};
use hugepages::blocks::Pool;
use hugepages::{Backing, PagePolicy};

use super::{Buffer, OpenTier, random};
use crate::config::TierConfig;
use crate::config::tier::BLOCK_BYTES;
use crate::rt::disk::{Device, DiskPlan};

/// How long it may take before a line says how far it is, and how often another one does.
const PATIENCE: Duration = Duration::from_secs(1);

/// One shard's part of the tier, and the way to its devices.
pub struct ShardTier {
    pub tier: Tier,
    pub disk: DiskPlan,
}

/// What decides which objects are found again, beside the purges.
#[derive(Default)]
pub struct Judges {
    pub url_purged: Option<UrlJudge>,
    pub is_pinned: Option<PinJudge>,
}

impl OpenTier {
    /// Reads what every shard needs to know of its segments. `purges` must be as the journal has
    /// them. Returns the tiers in the order of the shards.
    ///
    /// # Errors
    /// No memory for blocks. Segments that cannot be read are counted and taken as empty.
    pub fn recover(
        &self,
        config: &TierConfig,
        purges: &Arc<Purges>,
        judges: impl Fn(ShardId) -> Judges,
    ) -> anyhow::Result<Vec<ShardTier>> {
        let began = Instant::now();
        let life = u64::from_ne_bytes(random()?);
        let mut recoveries = Vec::new();
        let mut plans = Vec::new();
        for shard in 0..self.geometry.shards() {
            let plan = disk_plan(config, self.devices.clone(), self.geometry.shard_bytes())?;
            let recovery = Recovery::new(
                self.geometry.clone(),
                shard,
                config.of_shard(self.geometry.shard_bytes(), life),
                purges.clone(),
                plan.pool.clone(),
            );
            recoveries.push(judged(recovery, judges(shard)));
            plans.push(plan);
        }
        let tiers = self.read_all(recoveries)?;
        let mut found = TierStats::default();
        tiers.iter().for_each(|tier| found.add(&tier.stats()));
        tracing::info!(
            objects = found.recovered_objects,
            bytes = found.object_bytes,
            footers = found.recovered_footers,
            scans = found.recovered_scans,
            unreadable = found.recovered_read_errors,
            seconds = began.elapsed().as_secs_f32(),
            "tier recovered"
        );
        let both = tiers.into_iter().zip(plans);
        Ok(both.map(|(tier, disk)| ShardTier { tier, disk }).collect())
    }

    fn read_all(&self, recoveries: Vec<Recovery>) -> anyhow::Result<Vec<Tier>> {
        let total = recoveries.len() as u64 * u64::from(self.geometry.segments());
        let files: Vec<&File> = self.devices.iter().map(|device| &*device.file).collect();
        let (done, files) = (AtomicU64::new(0), files.as_slice());
        thread::scope(|scope| {
            let (ended, ends) = mpsc::channel::<()>();
            let threads: Vec<_> = recoveries
                .into_iter()
                .map(|recovery| {
                    let (ended, done) = (ended.clone(), &done);
                    scope.spawn(move || {
                        let tier = read_one(recovery, files, done);
                        drop(ended);
                        tier
                    })
                })
                .collect();
            drop(ended);
            while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(PATIENCE) {
                let read = done.load(Ordering::Relaxed);
                tracing::info!(reads = read, segments = total, "recovering the tier");
            }
            let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<Tier>>| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread that read the tier panicked")))
            };
            threads.into_iter().map(join).collect()
        })
    }
}

/// The blocks of a shard for all that it may have under way, and the devices.
///
/// # Errors
/// No memory.
pub fn disk_plan(
    config: &TierConfig,
    devices: Vec<Device>,
    shard_bytes: u64,
) -> anyhow::Result<DiskPlan> {
    let bounds = config.of_shard(shard_bytes, 0);
    let bytes = bounds.blocks(devices.len() as u8) * BLOCK_BYTES;
    let (region, _) =
        Backing::map(bytes, PagePolicy::Auto).context("tier.max_reads and tier.write_buffer")?;
    let pool = Pool::new(region, BLOCK_BYTES).context("tier.write_buffer")?;
    Ok(DiskPlan {
        devices,
        pool,
        stats: Arc::default(),
    })
}

fn judged(mut recovery: Recovery, judges: Judges) -> Recovery {
    if let Some(url_purged) = judges.url_purged {
        recovery = recovery.with_purged_urls(url_purged);
    }
    if let Some(is_pinned) = judges.is_pinned {
        recovery = recovery.with_pins(is_pinned);
    }
    recovery
}

/// Reads of one shard that are under way at a time.
const READERS: usize = 8;

/// `done` counts reads.
fn read_one(recovery: Recovery, files: &[&File], done: &AtomicU64) -> anyhow::Result<Tier> {
    let reading = Reading {
        recovery: Mutex::new(recovery),
        answered: Condvar::new(),
        files,
        done,
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS)
            .map(|_| scope.spawn(|| reading.read_all()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread that read the tier panicked")))
        };
        threads.into_iter().try_for_each(join)
    })?;
    let recovery = reading.recovery.into_inner();
    let recovery = recovery.map_err(|_| anyhow!("a thread that read the tier panicked"))?;
    Ok(recovery.finish())
}

/// One shard's recovery, as its readers share it.
struct Reading<'a> {
    recovery: Mutex<Recovery>,
    /// There may be something to be read again, or it is over.
    answered: Condvar,
    files: &'a [&'a File],
    done: &'a AtomicU64,
}

impl Reading<'_> {
    fn read_all(&self) -> anyhow::Result<()> {
        let mut buffer = Buffer::new(BLOCK_BYTES).context("memory to read the tier")?;
        while let Some(wanted) = self.next() {
            let len = wanted.len as usize;
            let file = self.files[usize::from(wanted.device)];
            let read = match len <= buffer.bytes().len() {
                true => Ok(()),
                false => Buffer::new(len).map(|larger| buffer = larger),
            };
            let read = read.and_then(|()| buffer.read(file, wanted.offset, len));
            self.answer(wanted, read);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// None also if another reader panicked, which is told of where it is joined.
    fn next(&self) -> Option<RecoveryRead> {
        let mut recovery = self.recovery.lock().ok()?;
        loop {
            let next = recovery.next_read();
            if next.is_some() || recovery.is_over() {
                return next;
            }
            recovery = self.answered.wait_timeout(recovery, PATIENCE).ok()?.0;
        }
    }

    fn answer(&self, wanted: RecoveryRead, read: io::Result<&[u8]>) {
        let Ok(mut recovery) = self.recovery.lock() else {
            return;
        };
        match read {
            Ok(bytes) if bytes.len() == wanted.len as usize => recovery.done(wanted, bytes),
            Ok(_) => recovery.failed(wanted),
            Err(error) => {
                tracing::warn!(%error, device = wanted.device, offset = wanted.offset, "cannot read");
                recovery.failed(wanted);
            }
        }
        self.answered.notify_all();
    }
}
