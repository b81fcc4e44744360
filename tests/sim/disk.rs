//! The node's disk: bytes in memory that take their time, fail and rot.

use std::sync::Arc;
use std::time::Duration;

use cache_core::io::ShardId;
use cache_core::purge::Purges;
use cache_core::tier::format::{Geometry, SetId, SetPlan, Superblock};
use cache_core::tier::{DEFAULT_BLOCK_BYTES, DiskCommand, DiskDone, Recovery, Tier, TierConfig};
use hugepages::blocks::Pool;
use hugepages::{Backing, PagePolicy};
use rand::Rng;
use rand::rngs::StdRng;

use crate::plan::DiskPlan;

/// What a failing disk says.
const EIO: i32 = 5;

/// Bytes of a segment, and segments of a shard: a few, so that they are soon used again.
const SEGMENT_BYTES: u32 = 1 << 20;
const SEGMENTS: u64 = 6;
/// What lies before the first segment.
const FRONT_BYTES: u64 = 16 << 20;

pub struct Disk {
    plan: DiskPlan,
    geometry: Geometry,
    /// Where the first segment begins, and the bytes from there on: nothing else is read or written
    /// by a tier.
    front: u64,
    bytes: Vec<u8>,
    purges: Arc<Purges>,
}

impl Disk {
    pub fn new(plan: DiskPlan, shards: u8, purges: &Arc<Purges>) -> Result<Self, String> {
        let segments = u64::from(shards) * SEGMENTS;
        let size = FRONT_BYTES + segments * u64::from(SEGMENT_BYTES);
        let set = SetPlan {
            id: SetId([7; 16]),
            shards,
            segment_bytes: SEGMENT_BYTES,
            hash_seed: 1,
            tag_slots: purges.slots(),
        };
        let superblocks = Superblock::plan(&[size], &set).map_err(|error| error.to_string())?;
        let geometry = Geometry::assemble(&superblocks).map_err(|error| error.to_string())?;
        let front = (0..shards).map(|shard| geometry.place(shard, 0).1).min();
        let front = front.unwrap_or(0);
        Ok(Self {
            plan,
            geometry,
            front,
            bytes: vec![0; (size - front) as usize],
            purges: Arc::clone(purges),
        })
    }

    /// A shard's part, as recovery finds it.
    pub fn tier(&self, shard: ShardId) -> Result<Tier, String> {
        let config = TierConfig {
            max_reads: 8,
            max_write_blocks: 12,
            max_objects: 1 << 10,
            ..TierConfig::default()
        };
        let bytes = config.blocks(1) * DEFAULT_BLOCK_BYTES;
        let (region, _) =
            Backing::map(bytes, PagePolicy::Plain).map_err(|error| error.to_string())?;
        let pool = Pool::new(region, DEFAULT_BLOCK_BYTES).map_err(|error| error.to_string())?;
        let purges = Arc::clone(&self.purges);
        let mut recovery = Recovery::new(self.geometry.clone(), shard, config, purges, pool);
        while let Some(read) = recovery.next_read() {
            let range = self.range(read.offset, u64::from(read.len));
            recovery.done(read, &self.bytes[range]);
        }
        Ok(recovery.finish())
    }

    fn range(&self, offset: u64, len: u64) -> std::ops::Range<usize> {
        let from = (offset - self.front) as usize;
        from..from + len as usize
    }

    /// Carries a command out; what it came to is known after a while.
    pub fn carry_out(&mut self, command: DiskCommand, rng: &mut StdRng) -> (Duration, DiskDone) {
        let micros = self.plan.latency.as_micros() as u64;
        let mut delay = Duration::from_micros(rng.random_range(1..=micros));
        if rng.random_range(0..100) < self.plan.slow {
            delay *= 100;
        }
        let fails = rng.random_range(0..1_000) < self.plan.failing;
        (delay, self.done(command, fails, rng))
    }

    fn done(&mut self, mut command: DiskCommand, fails: bool, rng: &mut StdRng) -> DiskDone {
        let done = match &mut command {
            DiskCommand::Read {
                offset, len, block, ..
            } => {
                let range = self.range(*offset, u64::from(*len));
                block[..*len as usize].copy_from_slice(&self.bytes[range]);
                if rng.random_range(0..1_000) < self.plan.rotten {
                    let at = rng.random_range(0..*len as usize);
                    block[at] ^= 1 << rng.random_range(0..8);
                }
                *len
            }
            DiskCommand::Write {
                offset, len, block, ..
            } => {
                // A write that failed may have written a part.
                let written = match fails {
                    true => rng.random_range(0..=*len),
                    false => *len,
                };
                let range = self.range(*offset, u64::from(written));
                self.bytes[range].copy_from_slice(&block[..written as usize]);
                *len
            }
            DiskCommand::Flush { .. } => 0,
            DiskCommand::Discard { offset, len, .. } => {
                let range = self.range(*offset, *len);
                self.bytes[range].fill(0);
                return command.answer(Ok(0));
            }
        };
        command.answer(if fails { Err(EIO) } else { Ok(done) })
    }
}
