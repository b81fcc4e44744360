//! The owner's side of a partition: fills, the index, large objects, purges.

use std::sync::Arc;

use slab::Slab;

use super::blocks::Moving;
use super::classes::Classes;
use super::evicted::Leaving;
use super::fill::{ArenaKind, FillState, Filling, Piece, Stage};
use super::hit::{Place, Record};
use super::layout::Writers;
use super::pins::Pins;
use super::reclaim::Making;
use super::space::Space;
use super::{Fill, KeyHash, KeyHasher, NewObject, Partition, Span, StoreError, StoreStats};
use crate::evict::{Metas, Source};
use crate::index::{Index, LOAD_PERCENT, Slot, SlotId};
use crate::io::ShardId;
use crate::policy::{Meta, Policy};
use crate::purge::{Purges, TagSlot, Verdict};
use crate::record::{self, EXTENT_BYTES, Form, Header, MAX_CONTIGUOUS, MAX_HEAD, MAX_KEY, Tail};

/// Pieces of one body in the log; a body that comes in smaller pieces goes to an extent.
const MAX_PIECES: usize = 64;
/// Objects that may be evicted by commits between two turns and still be shown at the next; others
/// go without, and are counted.
const MAX_DISPLACED: usize = 64;
/// Hits of one object at the same time that the policy is told of; more tell nothing.
const MOST_TOUCHES: u16 = 64;

#[derive(Debug)]
pub(super) struct Owner {
    pub shard: ShardId,
    pub hasher: KeyHasher,
    pub index: Arc<Index>,
    pub purges: Arc<Purges>,
    pub space: Space,
    pub policy: Policy,
    pub metas: Metas,
    /// The first slot of the next residents to learn from.
    pub learn_hand: usize,
    /// Evictions until ranks were last worked out.
    pub evictions_learned: u64,
    /// The next block to be looked at for how many of its extents are free.
    pub block_hand: u32,
    /// The block that large objects are moving out of.
    pub moving: Option<Moving>,
    pub larges: Slab<Large>,
    /// Where the clock over large objects stands, in `larges`.
    pub large_hand: usize,
    pub making: Making,
    /// Extents that fills are still expected to take.
    pub announced: u32,
    /// Evicted since the last turn.
    pub displaced: Vec<Leaving>,
    pub counts: Counts,
    pub pins: Pins,
    pub classes: Classes,
    fills: Slab<Filling>,
    max_object: u64,
    /// Objects of a smaller stamp are not in the books: everything was purged since.
    books_since: u32,
}

/// What a partition keeps at most.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub max_object: u64,
    pub pinned_bytes: u64,
    pub max_pins: u32,
    pub class_bytes: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub objects: u64,
    pub bytes: u64,
    pub evictions: u64,
    /// Of the evicted, those that were not shown.
    pub unshown: u64,
    pub full: u64,
    pub extents_moved: u64,
}

/// A large object's extents, all of them full.
#[derive(Debug)]
pub(super) struct Large {
    pub hash: KeyHash,
    pub location: u64,
    pub class: u8,
    pub extents: Vec<u32>,
    /// Its fill was not released yet.
    pub pinned: bool,
    /// Not in the index any more, but pinned.
    pub dead: bool,
}

impl Owner {
    pub fn new(
        shard: ShardId,
        hasher: KeyHasher,
        index: Arc<Index>,
        purges: Arc<Purges>,
        writers: Writers,
        bounds: &Bounds,
    ) -> Self {
        Self {
            shard,
            hasher,
            policy: Policy::new(
                expected_objects(index.slots() as u64) as usize,
                u64::from(shard),
            ),
            metas: Metas::new(index.slots()),
            learn_hand: 0,
            evictions_learned: 0,
            block_hand: 0,
            moving: None,
            index,
            purges,
            space: Space::new(writers),
            larges: Slab::new(),
            large_hand: 0,
            making: Making::default(),
            announced: 0,
            displaced: Vec::with_capacity(MAX_DISPLACED),
            counts: Counts::default(),
            pins: Pins::new(bounds.pinned_bytes, bounds.max_pins),
            classes: Classes::new(bounds.class_bytes.iter().copied()),
            fills: Slab::new(),
            max_object: bounds.max_object,
            books_since: 0,
        }
    }

    pub fn begin(&mut self, hash: KeyHash, object: &NewObject<'_>) -> Result<Fill, StoreError> {
        let NewObject { key, head, .. } = *object;
        if key.len() > MAX_KEY || head.len() > MAX_HEAD {
            return Err(StoreError::HeadTooLarge);
        }
        let mut stage = Stage::Pieces(Vec::new());
        let mut announced = 0;
        if let Some(length) = object.length {
            self.check_size(length)?;
            if length > MAX_CONTIGUOUS {
                stage = Stage::Extents;
                announced = length.div_ceil(u64::from(EXTENT_BYTES)) as u32;
            }
        }
        self.announced += announced;
        let id = self.fills.insert(Filling {
            hash,
            key: key.into(),
            head: head.into(),
            meta: *object.meta,
            tags: object.tags.into(),
            length: object.length,
            written: 0,
            stage,
            pins: Vec::new(),
            extents: Vec::new(),
            announced,
            large: None,
            state: FillState::Open,
        });
        Ok(Fill {
            owner: self.shard,
            id,
        })
    }

    pub fn append(
        &mut self,
        fill: &Fill,
        data: &[u8],
        partition: &Partition,
        spans: &mut Vec<Span>,
    ) -> Result<(), StoreError> {
        let mut writing = self.writing(fill)?;
        let result = writing.append(data, partition, spans);
        if result.is_err() {
            writing.filling.state = FillState::Dead;
        }
        self.count(result)
    }

    pub fn commit(&mut self, fill: &Fill, partition: &Partition) -> Result<(), StoreError> {
        let purges = Arc::clone(&self.purges);
        let mut writing = self.writing(fill)?;
        let result = writing.finish(&purges, partition);
        writing.filling.state = FillState::Dead;
        let written = self.count(result)?;
        let result = self.publish(fill.id, written, partition);
        self.count(result)
    }

    /// Lets a written record be found.
    fn publish(
        &mut self,
        fill: usize,
        (place, header): (Place, Header),
        partition: &Partition,
    ) -> Result<(), StoreError> {
        let hash = self.fills[fill].hash;
        self.displaced.retain(|leaving| leaving.hash != hash);
        let (slot, former) = self.slot_for(hash, fill, partition)?;
        let location = place.location(partition.log_shift);
        let filling = &mut self.fills[fill];
        filling.state = FillState::Committed;
        let large = filling.large.map(|id| id as usize);
        if let Some(large) = large.and_then(|id| self.larges.get_mut(id)) {
            large.location = location;
            // The end of the body is in the record by now: its extent goes when the fill is released.
            let full = (filling.written / u64::from(EXTENT_BYTES)) as usize;
            let rest = filling.extents.split_off(full);
            large.extents = std::mem::replace(&mut filling.extents, rest);
            for extent in &large.extents {
                self.space
                    .set_user(*extent, filling.large.unwrap_or_default());
            }
        }
        // What a former object of the key was asked for holds for the new one.
        self.pass(1);
        let meta = former.unwrap_or_else(|| self.policy.admit(hash.0, header.size()));
        self.metas.set(slot, meta);
        self.index.set(slot, hash, location, false);
        self.counts.objects += 1;
        self.counts.bytes += header.footprint();
        self.classes.add(&header);
        if !self.pins.is_empty() {
            let key = self.fills[fill].key.clone();
            self.keep_if_pinned(hash, &key, partition);
        }
        Ok(())
    }

    pub fn release(&mut self, fill: Fill) {
        if fill.owner != self.shard {
            return;
        }
        let Some(filling) = self.fills.try_remove(fill.id) else {
            return;
        };
        for segment in filling.pins {
            self.space.unpin(segment);
        }
        self.space.retire_extents(&filling.extents);
        self.announced -= filling.announced;
        let Some(large) = filling.large else { return };
        if let Some(large) = self.larges.get_mut(large as usize) {
            large.pinned = false;
        }
        let committed = filling.state == FillState::Committed;
        if !committed || self.larges.get(large as usize).is_some_and(|l| l.dead) {
            self.drop_large(large);
        }
    }

    pub fn purge(&mut self, hash: KeyHash, key: &[u8], partition: &Partition) -> bool {
        self.stop_fills(hash, key);
        let mut was_there = false;
        self.displaced.retain(|leaving| leaving.hash != hash);
        for (slot, entry) in self.index.clone().candidates(hash) {
            let place = Place::of(entry.location(), partition.log_shift);
            if partition.record_of(place, key).is_some() {
                was_there |= self.forget(slot, entry, partition);
                self.index.clear(slot);
            }
        }
        was_there
    }

    pub fn purge_softly(&mut self, hash: KeyHash, key: &[u8], partition: &Partition) -> bool {
        self.stop_fills(hash, key);
        let Some(found) = partition.find(hash, key) else {
            return false;
        };
        let (slot, entry, record) = (found.id, found.slot, found.record);
        if self.is_purged(&record) || self.mark_stale(slot, entry, hash, &record, partition) {
            return !self.is_purged(&record);
        }
        self.purge(hash, key, partition)
    }

    /// Writes the record anew with the mark of a soft purge, as readers may be at the old one.
    fn mark_stale(
        &mut self,
        slot: SlotId,
        entry: Slot,
        hash: KeyHash,
        record: &Record<'_>,
        partition: &Partition,
    ) -> bool {
        if record.header.marks.purged_softly {
            return true;
        }
        let Some(head) = record.head() else {
            return false;
        };
        let mut header = record.header;
        header.marks.purged_softly = true;
        let tags: Vec<TagSlot> = record.tags().collect();
        let (header, fixed) = header.encode(&tags);
        let parts = [fixed.as_ref(), record.key(), head, record.tail()];
        let is_pinned = self.metas.get(slot).is_pinned();
        let source = match is_pinned {
            true => Source::Pins,
            false => Source::Survivors,
        };
        let Ok(place) = self.space.append_log(source, &parts) else {
            return false;
        };
        let location = place.location(partition.log_shift);
        if is_pinned {
            self.pin_moved(record.key(), place, partition);
        }
        self.move_large(&header, entry.location(), location);
        self.index.set(slot, hash, location, entry.is_hot());
        if header.meta.stamp >= self.books_since {
            let before = record.header.footprint();
            self.counts.bytes += header.footprint().saturating_sub(before);
        }
        true
    }

    /// What is being fetched of a key was asked for before its purge.
    fn stop_fills(&mut self, hash: KeyHash, key: &[u8]) {
        for (_, filling) in &mut self.fills {
            if filling.hash == hash && *filling.key == *key && filling.state == FillState::Open {
                filling.state = FillState::Purged;
            }
        }
    }

    /// Starts the books anew after everything was purged.
    pub fn purged_all(&mut self, partition: &Partition) -> u64 {
        self.books_since = self.purges.stamp();
        self.space.sealed().reset_all();
        self.displaced.clear();
        self.pins_lost(partition);
        self.classes.clear();
        self.counts.bytes = 0;
        std::mem::take(&mut self.counts.objects)
    }

    /// An object of this partition was asked for and found.
    pub fn pass(&mut self, requests: u32) {
        self.policy.pass(requests);
    }

    /// An object was hit so many times about now.
    pub fn note_hits(&mut self, slot: SlotId, hits: u16) {
        let mut meta = self.metas.get(slot);
        let was_hot = self.index.get(slot).is_hot();
        let mut is_hot = was_hot;
        for _ in 0..hits.min(MOST_TOUCHES) {
            is_hot = self.policy.touch(&mut meta, is_hot);
        }
        self.metas.set(slot, meta);
        if is_hot != was_hot {
            self.index.set_hot(slot, is_hot);
        }
    }

    pub fn stats(&self, shards: usize) -> StoreStats {
        let (log, extents) = (self.space.log(), self.space.extents());
        let held = |shard| log.held_by(shard) + extents.held_by(shard);
        StoreStats {
            objects: self.counts.objects,
            bytes: self.counts.bytes,
            evictions: self.counts.evictions,
            evictions_unshown: self.counts.unshown,
            full: self.counts.full,
            extents_moved: self.counts.extents_moved,
            log_segments_free: log.free_segments(),
            log_segments_retired: log.retired_segments(),
            extents_free: extents.free_segments(),
            extents_retired: extents.retired_segments(),
            fills: self.fills.len() as u32,
            held_up: (0..shards as u16).map(held).collect(),
            class_bytes: self.classes.used(),
        }
    }

    /// Whether no lookup finds this object any more.
    pub fn is_purged(&self, record: &Record<'_>) -> bool {
        let stamp = record.header.meta.stamp;
        self.purges.judge(stamp, record.tags(), record.key()) == Verdict::Hard
    }

    /// Takes an object out of the books; its slot is left to the caller. Says whether it was there
    /// to be found.
    pub fn forget(&mut self, slot: SlotId, entry: Slot, partition: &Partition) -> bool {
        if self.metas.get(slot).is_pinned() {
            self.metas.set(slot, Meta::default());
            self.pin_lost(entry.location(), partition);
        }
        let Some((record, _)) = self.record_of_slot(entry, partition) else {
            // Damaged: how large the object was is not known, so the books keep its bytes.
            self.counts.objects = self.counts.objects.saturating_sub(1);
            return true;
        };
        let header = record.header;
        let was_there = !self.is_purged(&record);
        if header.meta.stamp >= self.books_since {
            self.counts.objects = self.counts.objects.saturating_sub(1);
            self.counts.bytes = self.counts.bytes.saturating_sub(header.footprint());
            self.classes.remove(&header);
        }
        let large = self.larges.get(header.large as usize);
        let is_its = |large: &Large| large.location == entry.location();
        if header.form == Form::Extents && large.is_some_and(is_its) {
            self.drop_large(header.large);
        }
        was_there
    }

    /// The record that a slot names, if its key belongs to the slot, and the key's hash.
    pub fn record_of_slot<'a>(
        &self,
        entry: Slot,
        partition: &'a Partition,
    ) -> Option<(Record<'a>, KeyHash)> {
        let place = Place::of(entry.location(), partition.log_shift);
        let record = partition.record(place)?;
        let hash = self.hasher.of(record.key());
        let is_its = record.header.form != Form::Piece && entry.is_of(hash);
        is_its.then_some((record, hash))
    }

    /// Gives the extents of a large object up, or marks it for its release.
    pub fn drop_large(&mut self, id: u32) {
        let Some(large) = self.larges.get_mut(id as usize) else {
            return;
        };
        if large.pinned {
            large.dead = true;
            return;
        }
        let large = self.larges.remove(id as usize);
        self.space.retire_extents(&large.extents);
    }

    /// The slot for a committed fill: that of the key's former object, with what was known of it,
    /// an empty one, or that of the object of the least worth in the key's lines, which is evicted.
    fn slot_for(
        &mut self,
        hash: KeyHash,
        fill: usize,
        partition: &Partition,
    ) -> Result<(SlotId, Option<Meta>), StoreError> {
        let index = Arc::clone(&self.index);
        let mut former = None;
        for (slot, entry) in index.candidates(hash) {
            let place = Place::of(entry.location(), partition.log_shift);
            if partition.record_of(place, &self.fills[fill].key).is_none() {
                continue;
            }
            let meta = self.metas.get(slot);
            let was_there = self.forget(slot, entry, partition);
            let meta = (was_there && !meta.is_pinned()).then_some(meta);
            match former {
                None => former = Some((slot, meta)),
                Some(_) => index.clear(slot),
            }
        }
        match former.or_else(|| self.room(hash).map(|slot| (slot, None))) {
            Some(slot) => Ok(slot),
            None => Ok((self.evict_from_lines(hash, partition)?, None)),
        }
    }

    /// A slot that is free, or becomes free because its object moves to another.
    fn room(&mut self, hash: KeyHash) -> Option<SlotId> {
        let room = self.index.room(hash)?;
        for (from, to) in room.moves.into_iter().flatten() {
            self.metas.set(to, self.metas.get(from));
        }
        Some(room.slot)
    }

    /// An object that is worth least of the key's lines makes way; none where all are pinned.
    fn evict_from_lines(
        &mut self,
        hash: KeyHash,
        partition: &Partition,
    ) -> Result<SlotId, StoreError> {
        let index = Arc::clone(&self.index);
        let ranked = index.lines(hash).map(|(slot, entry)| {
            let found = self.record_of_slot(entry, partition);
            let rank = found.map_or(0.0, |(record, _)| self.rank_of(slot, &record));
            (rank, slot, found)
        });
        let least = ranked.min_by(|a, b| a.0.total_cmp(&b.0));
        let (rank, slot, found) = least.ok_or(StoreError::Full)?;
        if rank == f32::INFINITY {
            return Err(StoreError::Full);
        }
        let hash = found.map_or(hash, |(_, hash)| hash);
        let leaving = self.evict(slot, hash, partition);
        self.show_later(leaving);
        Ok(slot)
    }

    /// Keeps an object that a commit evicted for the next turn to show.
    pub(super) fn show_later(&mut self, leaving: Option<Leaving>) {
        match self.displaced.len() < MAX_DISPLACED {
            true => self.displaced.extend(leaving),
            false => self.counts.unshown += u64::from(leaving.is_some()),
        }
    }

    fn writing(&mut self, fill: &Fill) -> Result<Writing<'_>, StoreError> {
        let shard = self.shard;
        let error = StoreError::NotOwner { shard };
        if fill.owner != shard {
            return Err(error);
        }
        let filling = self.fills.get_mut(fill.id).ok_or(error.clone())?;
        if !matches!(filling.state, FillState::Open | FillState::Purged) {
            return Err(error);
        }
        Ok(Writing {
            shard,
            filling,
            space: &mut self.space,
            announced: &mut self.announced,
            larges: &mut self.larges,
            max_object: self.max_object,
        })
    }

    fn check_size(&self, length: u64) -> Result<(), StoreError> {
        let max = self.max_object;
        match length > max {
            true => Err(StoreError::TooLarge { length, max }),
            false => Ok(()),
        }
    }

    fn count<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Full)) {
            self.counts.full += 1;
        }
        result
    }
}

/// Objects that an index of so many slots is expected to hold.
pub(super) fn expected_objects(slots: u64) -> u64 {
    slots * LOAD_PERCENT / 100
}

/// A fill and what it writes to.
struct Writing<'a> {
    shard: ShardId,
    filling: &'a mut Filling,
    space: &'a mut Space,
    announced: &'a mut u32,
    larges: &'a mut Slab<Large>,
    max_object: u64,
}

impl Writing<'_> {
    fn append(
        &mut self,
        data: &[u8],
        partition: &Partition,
        spans: &mut Vec<Span>,
    ) -> Result<(), StoreError> {
        if data.is_empty() {
            return Ok(());
        }
        let total = self.filling.written + data.len() as u64;
        self.check_total(total)?;
        let pieces = match &self.filling.stage {
            Stage::Record(..) => 1,
            Stage::Pieces(pieces) => pieces.len(),
            Stage::Extents => usize::MAX,
        };
        if total <= MAX_CONTIGUOUS && pieces < MAX_PIECES {
            self.append_piece(data, spans)?;
        } else {
            self.move_to_extents(partition)?;
            self.append_extents(data, spans)?;
        }
        self.filling.written = total;
        Ok(())
    }

    fn check_total(&self, got: u64) -> Result<(), StoreError> {
        match self.filling.length {
            Some(expected) if got > expected => Err(StoreError::Length { expected, got }),
            None if got > self.max_object => Err(StoreError::TooLarge {
                length: got,
                max: self.max_object,
            }),
            _ => Ok(()),
        }
    }

    /// Writes to the log: the whole record where this may be the whole body, else a piece.
    fn append_piece(&mut self, data: &[u8], spans: &mut Vec<Span>) -> Result<(), StoreError> {
        let len = data.len() as u64;
        let filling = &mut *self.filling;
        let may_be_whole = filling.written == 0 && filling.length.is_none_or(|all| all == len);
        let mut pieces = filling.take_log_pieces();
        let (start, header) = if may_be_whole {
            let (header, fixed) = filling.header(Form::Contiguous, len, 0);
            let parts = [fixed.as_ref(), &filling.key, &filling.head, data];
            (self.space.append_log(Source::Fills, &parts)?, header)
        } else {
            let (header, fixed) = Header::piece(data.len()).encode(&[]);
            let parts = [fixed.as_ref(), data];
            (self.space.append_log(Source::Fills, &parts)?, header)
        };
        let piece = Piece {
            place: Place {
                offset: start.offset + header.tail_start(),
                ..start
            },
            len: data.len() as u32,
        };
        filling.stage = if may_be_whole {
            Stage::Record(start, Box::new(header))
        } else {
            pieces.push(piece);
            Stage::Pieces(pieces)
        };
        self.pin(start.segment);
        let generation = self.space.log().generation(start.segment);
        spans.push(Span::new(self.shard, ArenaKind::Log, generation, piece));
        Ok(())
    }

    fn pin(&mut self, segment: u32) {
        if self.filling.pins.last() != Some(&segment) {
            self.filling.pins.push(segment);
            self.space.pin(segment);
        }
    }

    /// Copies what came so far from the log to extents. The spans in the log stay valid.
    fn move_to_extents(&mut self, partition: &Partition) -> Result<(), StoreError> {
        let pieces = self.filling.take_log_pieces();
        self.filling.stage = Stage::Extents;
        for piece in pieces {
            let bytes = read_log(partition, piece)?;
            self.append_extents(bytes, &mut Vec::new())?;
        }
        Ok(())
    }

    fn append_extents(&mut self, data: &[u8], spans: &mut Vec<Span>) -> Result<(), StoreError> {
        let mut rest = data;
        while !rest.is_empty() {
            let list = &mut self.filling.extents;
            let before = list.len();
            let (place, len) = self.space.append_extent(list, rest)?;
            if list.len() > before && self.filling.announced > 0 {
                self.filling.announced -= 1;
                *self.announced -= 1;
            }
            let generation = self.space.extents().generation(place.segment);
            let piece = Piece { place, len };
            spans.push(Span::new(self.shard, ArenaKind::Extents, generation, piece));
            rest = &rest[len as usize..];
        }
        Ok(())
    }

    /// Writes the record, if it is not there already.
    fn finish(
        &mut self,
        purges: &Purges,
        partition: &Partition,
    ) -> Result<(Place, Header), StoreError> {
        let filling = &*self.filling;
        let tags = filling.tags.iter().copied();
        let verdict = purges.judge(filling.meta.stamp, tags, &filling.key);
        if filling.state == FillState::Purged || verdict == Verdict::Hard {
            return Err(StoreError::Purged);
        }
        let got = filling.written;
        if let Some(expected) = filling.length.filter(|length| *length != got) {
            return Err(StoreError::Length { expected, got });
        }
        match &filling.stage {
            Stage::Record(place, header) => Ok((*place, **header)),
            _ if got <= MAX_CONTIGUOUS => self.join(partition),
            _ => self.list(partition),
        }
    }

    /// Copies the pieces of a small body into one record.
    fn join(&mut self, partition: &Partition) -> Result<(Place, Header), StoreError> {
        let filling = &*self.filling;
        let (header, fixed) = filling.header(Form::Contiguous, filling.written, 0);
        let mut parts: Vec<&[u8]> = vec![fixed.as_ref(), &filling.key, &filling.head];
        if let Stage::Pieces(pieces) = &filling.stage {
            for piece in pieces {
                parts.push(read_log(partition, *piece)?);
            }
        }
        for (i, extent) in filling.extents.iter().enumerate() {
            let len = record::extent_len(filling.written, i);
            let bytes = partition.extents.read(*extent, 0, len);
            parts.push(bytes.ok_or(StoreError::Full)?);
        }
        let place = self.space.append_log(Source::Fills, &parts)?;
        Ok((place, header))
    }

    /// Writes the record of a large object, which lists the extents that are full and has the rest.
    fn list(&mut self, partition: &Partition) -> Result<(Place, Header), StoreError> {
        let filling = &mut *self.filling;
        let entry = self.larges.vacant_entry();
        let large = entry.key() as u32;
        let (header, fixed) = filling.header(Form::Extents, filling.written, large);
        let extents = self.space.extents();
        let listed = |extent: &u32| record::listed(*extent, extents.generation(*extent));
        let Tail { rest, .. } = Tail::of(filling.written);
        let (full, last) = filling.extents.split_at(header.extents() as usize);
        let list: Vec<u8> = full.iter().flat_map(listed).collect();
        let rest = last.first().map(|extent| {
            partition
                .extents
                .read(*extent, 0, rest as u32)
                .ok_or(StoreError::Full)
        });
        let rest = rest.transpose()?.unwrap_or_default();
        let parts = [fixed.as_ref(), &filling.key, &filling.head, &list, rest];
        let place = self.space.append_log(Source::Fills, &parts)?;
        filling.large = Some(large);
        entry.insert(Large {
            hash: filling.hash,
            location: u64::MAX,
            class: filling.meta.class,
            extents: Vec::new(),
            pinned: true,
            dead: false,
        });
        Ok((place, header))
    }
}

/// Bytes of a fill in the log. It is pinned, so that they are there.
fn read_log(partition: &Partition, piece: Piece) -> Result<&[u8], StoreError> {
    let Place { segment, offset } = piece.place;
    let bytes = partition.log.read(segment, offset, piece.len);
    debug_assert!(bytes.is_some(), "a fill's piece was given up");
    bytes.ok_or(StoreError::Full)
}
