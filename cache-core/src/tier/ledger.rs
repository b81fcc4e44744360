//! What lies where: known to the writing and to the reading side.

use std::sync::Arc;

use super::format::Geometry;
use super::index::{Entry, Index, Inserted, SlotId};
use super::record::UNIT;
use super::space::Space;
use super::{TierConfig, TierStats};
use crate::io::ShardId;
use crate::purge::Purges;
use crate::store::KeyHash;

#[derive(Debug)]
pub(super) struct Ledger {
    pub geometry: Geometry,
    pub shard: ShardId,
    pub config: TierConfig,
    pub purges: Arc<Purges>,
    pub index: Index,
    pub space: Space,
    pub stats: TierStats,
    /// Objects in the index.
    pub objects: u64,
}

impl Ledger {
    pub fn new(
        geometry: Geometry,
        shard: ShardId,
        config: TierConfig,
        purges: Arc<Purges>,
    ) -> Self {
        Self {
            index: Index::new(config.max_objects),
            space: Space::new(&geometry, shard),
            stats: TierStats::default(),
            objects: 0,
            geometry,
            shard,
            config,
            purges,
        }
    }

    pub fn find(&self, hash: KeyHash) -> Option<(SlotId, Entry)> {
        self.index.find(hash, |entry| self.space.is_alive(entry))
    }

    /// Whether one object more is within the bound. The index may still be full where the hash
    /// belongs.
    pub fn has_room(&self) -> bool {
        self.objects < self.config.max_objects
    }

    /// Names a record for a hash, in place of what it named before.
    pub fn insert(&mut self, hash: KeyHash, entry: Entry) -> Inserted {
        self.insert_newer(hash, entry, |_, _| true)
    }

    /// As [`Self::insert`], if the record is newer than the one named before.
    pub fn insert_newer(
        &mut self,
        hash: KeyHash,
        entry: Entry,
        newer: impl Fn(&Space, Entry) -> bool,
    ) -> Inserted {
        let space = &self.space;
        let alive = |entry| space.is_alive(entry);
        let inserted = self
            .index
            .insert(hash, entry, alive, |old| newer(space, old));
        match inserted {
            Inserted::Full | Inserted::Older => return inserted,
            Inserted::New => self.objects += 1,
            Inserted::Replaced(old) => self.space.sub(old),
        }
        self.space.add(entry);
        inserted
    }

    pub fn remove(&mut self, hash: KeyHash) -> bool {
        let Some((slot, entry)) = self.find(hash) else {
            return false;
        };
        self.index.remove(slot);
        self.space.sub(entry);
        self.objects = self.objects.saturating_sub(1);
        true
    }

    /// As [`Self::remove`], if the hash still names the record at that place.
    pub fn remove_at(&mut self, hash: KeyHash, segment: u32, at: u32) {
        let here = self.find(hash).map(|(_, entry)| self.space.locate(entry));
        if here == Some((segment, at)) {
            self.remove(hash);
        }
    }

    /// A segment to write to: a free one, or the least worth.
    pub fn take_segment(&mut self) -> Option<TakenSegment> {
        if let Some(segment) = self.space.take_free() {
            return Some(TakenSegment {
                segment,
                was_full: false,
            });
        }
        let victim = self.space.victim()?;
        let lost = self.release(victim);
        self.stats.evicted_segments += 1;
        self.stats.evicted_objects += lost.objects;
        self.stats.evicted_bytes += lost.units * u64::from(UNIT);
        let segment = self.space.take_free()?;
        Some(TakenSegment {
            segment,
            was_full: true,
        })
    }

    /// Frees a segment and forgets what it held.
    pub fn release(&mut self, segment: u32) -> super::space::Lost {
        let lost = self.space.release(segment);
        self.objects = self.objects.saturating_sub(lost.objects);
        // All of the index is swept several times before the lives of a segment come round.
        let (space, parts) = (&self.space, 4 * self.space.len());
        self.index.sweep(parts, |entry| space.is_alive(entry));
        lost
    }

    /// Device and byte of a place in a segment.
    pub fn place(&self, segment: u32, at: u32) -> (u8, u64) {
        let (device, start) = self.geometry.place(self.shard, segment);
        (device, start + u64::from(at))
    }

    pub fn most_pinned_segments(&self) -> u32 {
        let share = u64::from(self.space.len()) * u64::from(self.config.pinned_percent) / 100;
        (share as u32).max(1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TakenSegment {
    pub segment: u32,
    /// It held objects until now.
    pub was_full: bool,
}
