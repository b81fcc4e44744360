//! Blocks that go back from extents to the log.
//!
//! The log lacks a block while extents enough for one are free, but not in one block: the large
//! objects that have extents in the block with the fewest used move to others, a few extents a turn. When all of an
//! object's are copied its record is written anew with the new list, as readers may be at the old one, whose
//! extents stay until they have passed.

use std::collections::BTreeSet;

use super::evicted::Sink;
use super::hit::{Place, Record};
use super::owner::Owner;
use super::{KeyHash, Partition};
use crate::evict::Source;
use crate::index::SlotId;
use crate::purge::TagSlot;
use crate::record::{self, EXTENT_BYTES, Form, Tail};

/// Blocks looked at for one with few used extents.
const COMPARED: u32 = 64;
/// Blocks on their way at a time.
const MOST_LEAVING: u32 = 4;
/// Extents copied in one turn: 256 KiB.
pub(super) const EXTENTS_MOVED_PER_TURN: u32 = 8;

/// A block on its way back to the log, and who is still in it.
#[derive(Debug)]
pub(super) struct Moving {
    block: u32,
    /// Large objects that were not looked at yet.
    users: Vec<u32>,
    copying: Option<Copying>,
}

/// A large object on its way out of a block.
#[derive(Debug)]
struct Copying {
    id: u32,
    /// Its extents. While it has these it is the same object: those of the block are not used again.
    before: Vec<u32>,
    /// The first of them, with the copies of those that must go.
    after: Vec<u32>,
}

/// What became of an object in a turn.
enum Copied {
    Partly,
    Wholly,
    /// There is no room, or it is damaged, or purged.
    Not,
}

impl Owner {
    /// Lets one block go back to the log if it wants one and the extents have it to spare: as far as it
    /// comes in this turn.
    pub(super) fn return_block(&mut self, partition: &Partition, sink: Sink<'_>) {
        let Some(mut moving) = self.moving.take().or_else(|| self.next_block()) else {
            return;
        };
        let mut left = EXTENTS_MOVED_PER_TURN;
        while left > 0 {
            let next = moving.copying.take();
            let Some(mut copying) = next.or_else(|| self.next_copying(&mut moving)) else {
                return;
            };
            let has_moved =
                match self.copy_extents(&mut copying, moving.block, &mut left, partition) {
                    Copied::Partly => {
                        moving.copying = Some(copying);
                        break;
                    }
                    Copied::Wholly => self.rewrite(&copying, partition),
                    Copied::Not => false,
                };
            if !has_moved && !self.give_up(&copying, partition, sink) {
                moving.users.insert(0, copying.id);
                break;
            }
        }
        self.moving = Some(moving);
    }

    /// Calls a block back, if it is time.
    fn next_block(&mut self) -> Option<Moving> {
        let is_wanted = self.space.wants_block(self.announced);
        if !is_wanted || self.space.extents().leaving() >= MOST_LEAVING {
            return None;
        }
        let block = self.emptiest_block()?;
        let users = self.users_of(block);
        self.space.call_back(block).then(|| Moving {
            block,
            users: users.into_iter().collect(),
            copying: None,
        })
    }

    /// The next object that is still in the block.
    fn next_copying(&mut self, moving: &mut Moving) -> Option<Copying> {
        loop {
            let id = moving.users.pop()?;
            let leaving = self.extents_of(moving.block);
            let large = self.larges.get(id as usize);
            let large = large.filter(|large| large.extents.iter().any(|e| leaving.contains(e)));
            if let Some(large) = large {
                return Some(Copying {
                    id,
                    before: large.extents.clone(),
                    after: Vec::with_capacity(large.extents.len()),
                });
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

    /// The slot and the record of an object that is being copied; `None`: it is not there any more, or not
    /// worth it.
    fn copied<'a>(
        &self,
        copying: &Copying,
        partition: &'a Partition,
    ) -> Option<(SlotId, KeyHash, Record<'a>)> {
        let large = self.larges.get(copying.id as usize)?;
        if large.extents != copying.before {
            return None;
        }
        let slot = self.index.find(large.hash, large.location)?;
        let record = partition.record(Place::of(large.location, partition.log_shift))?;
        let is_its = record.header.form == Form::Extents && record.header.large == copying.id;
        (is_its && !self.is_purged(&record)).then_some((slot, large.hash, record))
    }

    /// Copies what the object has in the block, but no more than `left` extents.
    fn copy_extents(
        &mut self,
        copying: &mut Copying,
        block: u32,
        left: &mut u32,
        partition: &Partition,
    ) -> Copied {
        if self.copied(copying, partition).is_none() {
            return Copied::Not;
        }
        let leaving = self.extents_of(block);
        while let Some(extent) = copying.before.get(copying.after.len()).copied() {
            if !leaving.contains(&extent) {
                copying.after.push(extent);
                continue;
            }
            let Some(rest) = left.checked_sub(1) else {
                return Copied::Partly;
            };
            *left = rest;
            let bytes = partition.extents.read(extent, 0, EXTENT_BYTES);
            let Some(copy) = bytes.and_then(|bytes| self.space.copy_extent(bytes)) else {
                return Copied::Not;
            };
            self.counts.extents_moved += 1;
            copying.after.push(copy);
        }
        Copied::Wholly
    }

    /// Lets a new record list the copies.
    fn rewrite(&mut self, copying: &Copying, partition: &Partition) -> bool {
        let Some((slot, hash, record)) = self.copied(copying, partition) else {
            return false;
        };
        let Some(place) = self.write_list(slot, &record, &copying.after) else {
            return false;
        };
        let entry = self.index.get(slot);
        let location = place.location(partition.log_shift);
        if self.metas.get(slot).is_pinned() {
            self.pin_moved(record.key(), place, partition);
        }
        self.move_large(&record.header, entry.location(), location);
        self.index.set(slot, hash, location, entry.is_hot());
        let (old, new) = copying.moved();
        for extent in &new {
            self.space.set_user(*extent, copying.id);
        }
        self.larges[copying.id as usize].extents = copying.after.clone();
        self.space.retire_extents(&old);
        true
    }

    /// What cannot move is evicted, if it is still there. `false`: it is pinned, and to be tried again.
    fn give_up(&mut self, copying: &Copying, partition: &Partition, sink: Sink<'_>) -> bool {
        let (_, new) = copying.moved();
        self.space.retire_extents(&new);
        let found = self.copied(copying, partition);
        if found.is_some_and(|(slot, ..)| self.metas.get(slot).is_pinned()) {
            return false;
        }
        let id = copying.id as usize;
        let large = self.larges.get(id);
        if large.is_some_and(|large| large.extents == copying.before) {
            self.evict_large(id, partition, sink);
        }
        true
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
        let (_, rest) = Tail::of(record.header.meta.body_len).split(record.tail());
        let parts = [fixed.as_ref(), record.key(), head, &list, rest];
        self.space.append_log(source, &parts).ok()
    }
}

impl Copying {
    /// Extents of which there are copies, and these.
    fn moved(&self) -> (Vec<u32>, Vec<u32>) {
        let both = self.before.iter().zip(&self.after);
        both.filter(|(old, new)| old != new).unzip()
    }
}
