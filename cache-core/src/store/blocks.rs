//! Blocks that go back from extents to the log.
//!
//! The log lacks a block while extents enough for one are free, but not in one block: the large
//! objects that have extents in the block with the fewest used move to others. An object's record is written
//! anew with the new list, as readers may be at the old one, whose extents stay until they have passed.

use std::collections::BTreeSet;

use super::hit::{Place, Record};
use super::owner::Owner;
use super::{KeyHash, Partition};
use crate::evict::Source;
use crate::index::SlotId;
use crate::purge::TagSlot;
use crate::record::{self, Form};

/// Blocks looked at for one with few used extents.
const COMPARED: u32 = 256;
/// Blocks on their way at a time.
const MOST_LEAVING: u32 = 4;

impl Owner {
    /// Lets one block go back to the log if it wants one and the extents have it to spare.
    pub(super) fn return_block(&mut self, partition: &Partition) {
        if !self.space.wants_block(self.announced) || self.space.extents().leaving() >= MOST_LEAVING
        {
            return;
        }
        let Some(block) = self.emptiest_block() else {
            return;
        };
        let users = self.users_of(block);
        if self.space.call_back(block) {
            for large in users {
                self.move_extents(large, block, partition);
            }
        }
    }

    /// The block with the most free extents of those that are next in turn, if all others of it can
    /// move or wait to be free.
    fn emptiest_block(&mut self) -> Option<u32> {
        let per_block = self.space.per_block;
        let blocks = self.space.extents().segments() / per_block;
        let mut best: Option<(u32, u32)> = None;
        for _ in 0..blocks.min(COMPARED) {
            self.block_hand = (self.block_hand + 1) % blocks;
            let block = self.block_hand;
            let extents = block * per_block..(block + 1) * per_block;
            let free = self.space.extents().free_among(extents);
            if free > best.map_or(0, |(most, _)| most) && self.can_be_emptied(block) {
                best = Some((free, block));
            }
        }
        let (free, block) = best?;
        // The others must have room elsewhere.
        let elsewhere = self.space.extents().free_segments() - free;
        (per_block - free <= elsewhere).then_some(block)
    }

    fn extents_of(&self, block: u32) -> std::ops::Range<u32> {
        block * self.space.per_block..(block + 1) * self.space.per_block
    }

    /// Whether no fill is at one of its extents.
    fn can_be_emptied(&self, block: u32) -> bool {
        self.extents_of(block)
            .all(|extent| match self.space.user(extent) {
                Some(large) => {
                    let large = self.larges.get(large as usize);
                    large.is_some_and(|large| !large.pinned)
                }
                None => !self.space.extents().is_in_use(extent),
            })
    }

    fn users_of(&self, block: u32) -> BTreeSet<u32> {
        let users = self.extents_of(block);
        users.filter_map(|extent| self.space.user(extent)).collect()
    }

    /// Moves what a large object has in a block to other extents. What cannot move is forgotten.
    fn move_extents(&mut self, id: u32, block: u32, partition: &Partition) {
        let Some(large) = self.larges.get(id as usize) else {
            return;
        };
        let (hash, location) = (large.hash, large.location);
        let place = Place::of(location, partition.log_shift);
        let found = self.index.find(hash, location).zip(partition.record(place));
        let moved = found.is_some_and(|(slot, record)| {
            record.header.form == Form::Extents
                && record.header.large == id
                && self.rewrite(slot, hash, &record, block, partition)
        });
        if moved {
            return;
        }
        if let Some(slot) = self.index.find(hash, location) {
            let entry = self.index.get(slot);
            self.index.clear(slot);
            self.forget(slot, entry, partition);
        }
        self.drop_large(id);
    }

    /// Copies extents and lets a new record list them.
    fn rewrite(
        &mut self,
        slot: SlotId,
        hash: KeyHash,
        record: &Record<'_>,
        block: u32,
        partition: &Partition,
    ) -> bool {
        let id = record.header.large as usize;
        let before = self.larges[id].extents.clone();
        let Some(after) = self.copy_extents(&before, block, record, partition) else {
            return false;
        };
        let is_new = |(old, new): &(&u32, &u32)| old != new;
        let (old, new): (Vec<u32>, Vec<u32>) = before.iter().zip(&after).filter(is_new).unzip();
        let Some(place) = self.write_list(slot, record, &after) else {
            self.space.retire_extents(&new);
            return false;
        };
        let from = self.index.get(slot).location();
        let location = place.location(partition.log_shift);
        if self.metas.get(slot).is_pinned() {
            self.pin_moved(record.key(), place, partition);
        }
        self.move_large(&record.header, from, location);
        let is_hot = self.index.get(slot).is_hot();
        self.index.set(slot, hash, location, is_hot);
        for extent in &new {
            self.space.set_user(*extent, record.header.large);
        }
        self.larges[id].extents = after;
        self.space.retire_extents(&old);
        true
    }

    /// The extents of a body with those of a block copied; `None`: there is no room, and none are.
    fn copy_extents(
        &mut self,
        extents: &[u32],
        block: u32,
        record: &Record<'_>,
        partition: &Partition,
    ) -> Option<Vec<u32>> {
        let leaving = self.extents_of(block);
        let mut after = Vec::with_capacity(extents.len());
        for (i, extent) in extents.iter().enumerate() {
            if !leaving.contains(extent) {
                after.push(*extent);
                continue;
            }
            let len = record::extent_len(record.header.meta.body_len, i);
            let bytes = partition.extents.read(*extent, 0, len);
            let Some(copy) = bytes.and_then(|bytes| self.space.copy_extent(bytes)) else {
                let copies = after.iter().zip(extents).filter(|(new, old)| new != old);
                let copies: Vec<u32> = copies.map(|(new, _)| *new).collect();
                self.space.retire_extents(&copies);
                return None;
            };
            after.push(copy);
        }
        Some(after)
    }

    fn write_list(&mut self, slot: SlotId, record: &Record<'_>, extents: &[u32]) -> Option<Place> {
        let head = record.head()?;
        let tags: Vec<TagSlot> = record.tags().collect();
        let (_, fixed) = record.header.encode(&tags);
        let writer = self.space.extents();
        let listed = |extent: &u32| record::listed(*extent, writer.generation(*extent));
        let list: Vec<u8> = extents.iter().flat_map(listed).collect();
        let source = match self.metas.get(slot).is_pinned() {
            true => Source::Pins,
            false => Source::Survivors,
        };
        let parts = [fixed.as_ref(), record.key(), head, &list];
        self.space.append_log(source, &parts).ok()
    }
}
