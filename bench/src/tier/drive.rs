//! Memory in place of a drive, for what is counted in bytes and not in time.

use anyhow::{Result, anyhow};
use cache_core::tier::format::{DATA_START, Geometry, SetId, SetPlan, Superblock};
use cache_core::tier::{DiskCommand, DiskDone};

pub struct Drive {
    bytes: Vec<u8>,
}

impl Drive {
    /// With room for `data` bytes of segments, and the geometry of a tier of one shard on it.
    ///
    /// # Errors
    /// Sizes that no tier has.
    pub fn new(data: u64, segment_bytes: u32) -> Result<(Self, Geometry)> {
        let size = DATA_START + data;
        let plan = SetPlan {
            id: SetId([1; 16]),
            shards: 1,
            segment_bytes,
            hash_seed: 0,
            tag_slots: 1024,
        };
        let superblocks = Superblock::plan(&[size], &plan).map_err(|e| anyhow!("{e}"))?;
        let geometry = Geometry::assemble(&superblocks).map_err(|e| anyhow!("{e}"))?;
        let bytes = vec![0; size as usize];
        Ok((Self { bytes }, geometry))
    }

    pub fn read(&self, offset: u64, len: u32) -> &[u8] {
        &self.bytes[offset as usize..][..len as usize]
    }

    /// Does what a drive would, at once.
    pub fn carry_out(&mut self, mut command: DiskCommand) -> DiskDone {
        let done = match &mut command {
            DiskCommand::Read {
                offset, len, block, ..
            } => {
                block[..*len as usize].copy_from_slice(self.read(*offset, *len));
                *len
            }
            DiskCommand::Write {
                offset, len, block, ..
            } => {
                let len = *len as usize;
                self.bytes[*offset as usize..][..len].copy_from_slice(&block[..len]);
                len as u32
            }
            DiskCommand::Flush { .. } | DiskCommand::Discard { .. } => 0,
        };
        command.answer(Ok(done))
    }
}
