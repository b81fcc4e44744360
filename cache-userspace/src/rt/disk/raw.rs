//! Reads with nothing around them, by the same kind of ring: what the drive itself can do.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hugepages::blocks::Block;
use io_uring::{opcode, types};

use super::{DiskPlan, Ring};

/// A piece of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub device: u8,
    pub offset: u64,
    pub len: u32,
}

/// Belongs to the thread that made it.
pub struct RawReads {
    ring: Ring,
    blocks: Vec<Block>,
    fixed: bool,
    plan: DiskPlan,
}

impl RawReads {
    /// For `depth` reads at a time; the plan's pool has as many blocks at least.
    ///
    /// # Errors
    /// As [`super::Disk::new`]; too few blocks.
    pub fn new(plan: DiskPlan, depth: usize) -> io::Result<Self> {
        let ring = Ring::new(depth.next_power_of_two() as u32)?;
        let files: Vec<_> = plan.devices.iter().map(|d| d.file.as_raw_fd()).collect();
        ring.register_files(&files)?;
        let blocks: Vec<Block> = (0..depth).filter_map(|_| plan.pool.take()).collect();
        if blocks.len() < depth {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let memory = libc::iovec {
            iov_base: plan.pool.as_ptr().cast(),
            iov_len: plan.pool.len(),
        };
        // SAFETY: the plan, and with it the pool, is dropped after the ring.
        let fixed = unsafe { ring.register_memory(memory) }.is_ok();
        Ok(Self {
            ring,
            blocks,
            fixed,
            plan,
        })
    }

    /// Reads every extent, as many at a time as the depth says, and tells how long each took.
    ///
    /// # Errors
    /// A read fails or is short.
    pub fn run(&mut self, extents: &[Extent], mut took: impl FnMut(Duration)) -> io::Result<()> {
        let mut began = vec![Instant::now(); self.blocks.len()];
        let mut of_slot = vec![0; self.blocks.len()];
        let mut free: Vec<usize> = (0..self.blocks.len()).collect();
        let (mut next, mut under_way) = (0, 0);
        let mut failure = None;
        while under_way > 0 || (next < extents.len() && failure.is_none()) {
            while next < extents.len() && failure.is_none() {
                let Some(slot) = free.pop() else { break };
                began[slot] = Instant::now();
                of_slot[slot] = extents[next].len;
                self.begin(slot, extents[next]);
                (next, under_way) = (next + 1, under_way + 1);
            }
            // An error here leaves reads under way in blocks of ours, which stay where they are.
            self.ring.submit(1)?;
            self.ring.reap(|completion| {
                let slot = completion.token as usize;
                took(began[slot].elapsed());
                if completion.result != of_slot[slot].cast_signed() {
                    failure = Some(completion.result);
                }
                free.push(slot);
                under_way -= 1;
            })?;
        }
        match failure {
            None => Ok(()),
            Some(result @ ..0) => Err(io::Error::from_raw_os_error(-result)),
            Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn begin(&mut self, slot: usize, extent: Extent) {
        let file = types::Fixed(u32::from(extent.device));
        let start = self.blocks[slot][..extent.len as usize].as_mut_ptr();
        let entry = match self.fixed {
            true => opcode::ReadFixed::new(file, start, extent.len, 0)
                .offset(extent.offset)
                .build(),
            false => opcode::Read::new(file, start, extent.len)
                .offset(extent.offset)
                .build(),
        };
        // SAFETY: the block is one of `blocks`, of a slot that nothing else uses until its completion
        // was reaped; blocks are not given back before the ring is quiet, see `drop`.
        let pushed = unsafe { self.ring.push(&entry.user_data(slot as u64)) };
        assert!(pushed, "the ring has an entry for every block");
    }
}

impl Drop for RawReads {
    /// Blocks of reads that an error left under way are not given back.
    fn drop(&mut self) {
        if self.ring.cancel_all(Duration::from_secs(1)).is_err() {
            std::mem::forget(std::mem::take(&mut self.blocks));
        }
        let _ = &self.plan;
    }
}
