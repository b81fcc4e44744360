//! A tier and its drives, turned as a core's loop turns them, without a shard around them.

use anyhow::Context as _;
use bytes::Bytes;
use cache_core::io::{FetchId, Now};
use cache_core::store::KeyHash;
use cache_core::tier::{DiskCommand, Tier, TierEvent};

use crate::rt::clock;
use crate::rt::disk::Disk;
use crate::rt::disk::raw::Extent;
use crate::tier_files::ShardTier;

pub struct Driver {
    pub tier: Tier,
    disk: Disk,
    commands: Vec<DiskCommand>,
    pub events: Vec<(FetchId, TierEvent)>,
    /// Where turns have read, while somebody wants to know.
    pub read: Option<Vec<Extent>>,
    fetches: u64,
    /// As of the latest look at the drives, as in a core's loop.
    now: Now,
}

impl Driver {
    pub fn new(shard: ShardTier) -> anyhow::Result<Self> {
        Ok(Self {
            tier: shard.tier,
            disk: Disk::new(shard.disk).context("cannot make the drives' io_uring")?,
            commands: Vec::new(),
            events: Vec::new(),
            read: None,
            fetches: 0,
            now: clock::now(),
        })
    }

    /// Begins a read; `None`: it is not there.
    pub fn fetch(&mut self, hash: KeyHash, key: Bytes) -> Option<FetchId> {
        self.fetches += 1;
        let id = FetchId(self.fetches);
        let begun = self.tier.fetch(self.now, id, hash, key);
        begun.then_some(id)
    }

    /// Gives the tier's commands to the drives, which begin with them at the next [`Self::wait`], and
    /// collects events.
    pub fn turn(&mut self) {
        self.tier
            .turn(self.now, &mut self.commands, &mut self.events);
        if let Some(read) = &mut self.read {
            read.extend(self.commands.iter().filter_map(extent));
        }
        self.disk.queue(&mut self.commands);
    }

    /// The same, and the drives begin at once.
    pub fn turn_at_once(&mut self) {
        self.tier
            .turn(self.now, &mut self.commands, &mut self.events);
        if !self.commands.is_empty() {
            self.disk.submit(&mut self.commands);
        }
    }

    /// Waits for an answer of a drive, if any is to come, and gives what is there to the tier. It waits as
    /// the raw reads do: a limit would be a timer set at every wait.
    pub fn wait(&mut self) {
        self.disk.wait_for_one();
        self.poll();
    }

    /// Gives the tier what the drives have answered.
    pub fn poll(&mut self) {
        self.now = clock::now();
        let (tier, now) = (&mut self.tier, self.now);
        self.disk.reap(|done| tier.done(now, done));
    }
}

fn extent(command: &DiskCommand) -> Option<Extent> {
    match *command {
        DiskCommand::Read {
            device,
            offset,
            len,
            ..
        } => Some(Extent {
            device,
            offset,
            len,
        }),
        _ => None,
    }
}
