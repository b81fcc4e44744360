//! The tier at start: its devices, its journal, and what every shard finds again.
//!
//! ```text
//!  devices (open, locked, recognised) -> journal -> purges as they were -> segments -> tiers
//! ```
//! Purges come first: what they cover is not found again.
//!
//! Who takes over from a node that runs gets the devices from it, and reads the journal twice: while that node still
//! purges, for what is found again, and once it does not any more.

use std::fs::File;
use std::sync::Arc;

use cache_core::purge::Purges;
use cache_core::store::{Store, hash_of, owner_of};

use super::random;
use crate::config::{Config, MemoryConfig};
use crate::journal::{self, JournalFile, MAX_PURGE_SLOTS};
use crate::tier_files::{OpenTier, ShardTier, Wanted};

/// What a node knows from before, or begins with.
pub struct Memory {
    /// Of the key hash and of the purge table.
    pub seed: u64,
    pub purges: Arc<Purges>,
    /// With a tier.
    pub journal: Option<JournalFile>,
    tier: Option<OpenTier>,
}

impl Memory {
    /// Opens the tier, if there is one, and makes the purges as they were.
    ///
    /// # Errors
    /// One line that says which device, what is wrong, and what to do.
    pub fn open(config: &Config, shards: u8, format: bool) -> anyhow::Result<Self> {
        if config.tier.devices.is_empty() {
            return Self::without_tier(&config.memory);
        }
        let wanted = Wanted {
            shards,
            tag_slots: config.memory.purge_slots.min(MAX_PURGE_SLOTS),
            format,
        };
        let tier = OpenTier::open(&config.tier, &wanted)?;
        let (journal, purges) = journal::of_tier(&tier, config.memory.purge_prefixes)?;
        Ok(Self::of(tier, journal, purges))
    }

    /// The same of the open devices of a node that runs, which goes on reading from them.
    ///
    /// # Errors
    /// The same.
    pub fn take_over(config: &Config, shards: u8, drives: Vec<File>) -> anyhow::Result<Self> {
        if drives.is_empty() {
            return Self::without_tier(&config.memory);
        }
        let tier = OpenTier::adopt(&config.tier, drives, shards)?;
        let (journal, purges) = journal::of_another(&tier, config.memory.purge_prefixes)?;
        Ok(Self::of(tier, journal, purges))
    }

    fn of(tier: OpenTier, journal: JournalFile, purges: Arc<Purges>) -> Self {
        Self {
            // What is on the drives names slots of tags, and is found by the hash.
            seed: tier.hash_seed,
            purges,
            journal: Some(journal),
            tier: Some(tier),
        }
    }

    /// The node before this one purges and pins no more: what it did since [`Self::take_over`] holds here too.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn catch_up(&mut self, tiers: &mut [Option<ShardTier>]) -> anyhow::Result<()> {
        let (Some(tier), Some(known)) = (&self.tier, &self.journal) else {
            return Ok(());
        };
        let journal = journal::again(tier)?;
        let shards = tiers.len() as u8;
        let owner = |hash| usize::from(owner_of(hash, shards));
        for hash in self.purges.catch_up(journal.state()) {
            if let Some(shard) = &mut tiers[owner(hash)] {
                shard.tier.forget(hash);
            }
        }
        for key in known.state().pins.difference(&journal.state().pins) {
            let hash = hash_of(self.seed, key);
            if let Some(shard) = &mut tiers[owner(hash)] {
                shard.tier.unpin(hash);
            }
        }
        self.journal = Some(journal);
        Ok(())
    }

    /// Pins what the journal says is pinned, so that it is kept from the first time that it is stored.
    /// Nothing is there yet; it is fetched once the shards run
    /// ([`crate::node::NodeHandle::fetch_pins`]).
    pub fn pin_again(&self, stores: &mut [Store]) {
        let journal = self.journal.iter();
        for key in journal.flat_map(|journal| &journal.state().pins) {
            let hash = hash_of(self.seed, key);
            let owner = owner_of(hash, stores.len() as u8);
            if let Err(error) = stores[usize::from(owner)].pin(hash, key) {
                let key = String::from_utf8_lossy(key);
                tracing::warn!(%key, %error, "a pin of the journal does not hold");
            }
        }
    }

    /// The open devices, to be given to a successor.
    pub fn drives(&self) -> Vec<Arc<File>> {
        let devices = self.tier.iter().flat_map(|tier| &tier.devices);
        devices.map(|device| Arc::clone(&device.file)).collect()
    }

    fn without_tier(memory: &MemoryConfig) -> anyhow::Result<Self> {
        let seed = u64::from_ne_bytes(random()?);
        Ok(Self {
            seed,
            purges: Arc::new(
                Purges::new(seed, memory.purge_slots).with_prefixes(memory.purge_prefixes),
            ),
            journal: None,
            tier: None,
        })
    }

    /// Every shard's part of the tier, in the order of the shards; `None` for each without a tier.
    ///
    /// # Errors
    /// No memory.
    pub fn recover(&self, config: &Config, shards: u8) -> anyhow::Result<Vec<Option<ShardTier>>> {
        let (Some(tier), Some(journal)) = (&self.tier, &self.journal) else {
            return Ok((0..shards).map(|_| None).collect());
        };
        let judges = |_| journal::judges(journal, &self.purges, self.seed);
        let tiers = tier.recover(&config.tier, &self.purges, judges)?;
        Ok(tiers.into_iter().map(Some).collect())
    }
}
