//! foyer's hybrid cache, with as little memory as makes it read from the drive.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use foyer::{
    BlockEngineConfig, DeviceBuilder as _, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    IoEngineConfig, UringIoEngineConfig,
};
use hdrhistogram::Histogram;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const DEPTH: usize = 32;
/// So little that hardly a read is answered from it.
const MEMORY: usize = 1 << 20;
const BLOCK: usize = 16 << 20;
/// Bodies are of the same sizes as those that popcache's probe writes.
const MIN_BODY: u64 = 1 << 10;
const MAX_BODY: u64 = 8 << 10;
/// Objects that are read between two looks at the clock.
const BATCH: u64 = 64;

type Cache = HybridCache<u64, Vec<u8>>;

pub struct Peer {
    runtime: Runtime,
    cache: Cache,
    objects: u64,
    /// How long it took to open it again after it was closed in order.
    pub reopened_s_per_gb: f64,
    /// Bytes that the drive was given for each byte of an object.
    pub amplification: f64,
    _dir: TempDir,
}

impl Peer {
    /// Fills three quarters of `bytes` below `dir`, closes and reopens.
    pub fn fill(dir: &Path, bytes: u64) -> Result<Self> {
        let dir = tempfile::tempdir_in(dir).context("cannot make a directory for foyer")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (objects, written, amplification) = runtime.block_on(write(dir.path(), bytes))?;
        let began = Instant::now();
        let cache = runtime.block_on(open(dir.path(), bytes))?;
        let took = began.elapsed().as_secs_f64();
        Ok(Self {
            runtime,
            cache,
            objects,
            reopened_s_per_gb: took * 1e9 / written as f64,
            amplification,
            _dir: dir,
        })
    }

    /// Median of a get in microseconds, one at a time, and gets a second, 32 at a time.
    pub fn round(&self, part: Duration) -> Result<(f64, f64)> {
        let p50 = self.runtime.block_on(self.one_by_one(part))?;
        let iops = self.runtime.block_on(self.many_at_once(part))?;
        Ok((p50, iops))
    }

    async fn one_by_one(&self, part: Duration) -> Result<f64> {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        let began = Instant::now();
        let mut number = mixed(began.elapsed().as_nanos() as u64);
        while began.elapsed() < part {
            number = mixed(number);
            let start = Instant::now();
            if get(&self.cache, number % self.objects).await? {
                times.saturating_record(start.elapsed().as_nanos() as u64);
            }
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1e3)
    }

    async fn many_at_once(&self, part: Duration) -> Result<f64> {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..DEPTH as u64 {
            let (cache, objects) = (self.cache.clone(), self.objects);
            tasks.spawn(async move {
                let (mut number, mut done) = (mixed(task), 0_u64);
                while began.elapsed() < part {
                    for _ in 0..BATCH {
                        number = mixed(number);
                        done += u64::from(get(&cache, number % objects).await?);
                    }
                }
                Ok::<_, anyhow::Error>(done)
            });
        }
        let mut done = 0;
        while let Some(task) = tasks.join_next().await {
            done += task??;
        }
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }
}

/// Whether it was there: foyer drops what it cannot flush in time, and what it does not have is found
/// out without a read, so that only what was read counts.
async fn get(cache: &Cache, number: u64) -> Result<bool> {
    let found = cache
        .get(&number)
        .await
        .map_err(|e| anyhow!("foyer: {e}"))?;
    match found {
        Some(entry) if entry.value().len() == body_len(number) => Ok(true),
        Some(_) => Err(anyhow!("foyer gave object {number} with another length")),
        None => Ok(false),
    }
}

/// Objects written, their bytes, and bytes written for one of them.
async fn write(dir: &Path, bytes: u64) -> Result<(u64, u64, f64)> {
    let cache = open(dir, bytes).await?;
    let noise: Vec<u8> = (0..MAX_BODY / 8)
        .flat_map(|n| mixed(n).to_le_bytes())
        .collect();
    let (mut number, mut written) = (0, 0);
    while written < bytes / 4 * 3 {
        let length = body_len(number);
        let entry = cache
            .storage_writer(number)
            .force()
            .insert(noise[..length].to_vec());
        if entry.is_none() {
            return Err(anyhow!("foyer refused object {number}"));
        }
        (number, written) = (number + 1, written + length as u64);
        if number % 256 == 0 {
            // What is not flushed yet is dropped when its buffers are full.
            cache.storage().wait().await;
        }
    }
    cache.storage().wait().await;
    let device = cache.statistics().disk_write_bytes();
    cache.close().await.map_err(|e| anyhow!("foyer: {e}"))?;
    Ok((number, written, device as f64 / written as f64))
}

async fn open(dir: &Path, bytes: u64) -> Result<Cache> {
    let device = FsDeviceBuilder::new(dir)
        .with_capacity(bytes as usize)
        .with_direct(true)
        .build()
        .map_err(|e| anyhow!("foyer: {e}"))?;
    let ring: Box<dyn IoEngineConfig> = Box::new(UringIoEngineConfig::new());
    HybridCacheBuilder::new()
        .memory(MEMORY)
        .with_weighter(|_: &u64, value: &Vec<u8>| value.len())
        .storage()
        .with_io_engine_config(ring)
        .with_engine_config(BlockEngineConfig::new(device).with_block_size(BLOCK))
        .build()
        .await
        .map_err(|e| anyhow!("foyer: {e}"))
}

fn body_len(number: u64) -> usize {
    (MIN_BODY + mixed(number ^ 0x5bd1_e995) % (MAX_BODY - MIN_BODY)) as usize
}

/// SplitMix64's output function.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
