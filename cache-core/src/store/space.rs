//! The room of a partition, as its owner hands it out.
//!
//! Memory is blocks: each is a segment of the log, or cut in extents, and goes from one to the other
//! as they are wanted. Extents that are wanted take a free block; a block comes back from the extents
//! when those that are left in it have moved to others (see [`super::blocks`]).

use std::collections::BTreeMap;

use hugepages::Writer;

use super::hit::Place;
use super::layout::Writers;
use super::{ShardId, StoreError};
use crate::evict::{SOURCES, Sealed, Source};

/// Free segments that only survivors of an emptied segment may take, so that emptying never waits
/// for itself.
const SURVIVOR_RESERVE: u32 = 1;
/// Blocks kept free ahead of need, or as many in free extents: one in this many, and at least so many.
const RESERVE_SHARE: u32 = 64;
const MIN_RESERVE: u32 = 4;
/// Of these, blocks that the log can take without waiting for extents to move.
const LOG_RESERVE: u32 = 3;
/// With fewer segments a log does not keep any open for small records only.
const MANY_SEGMENTS: u32 = 64;
/// Extents kept free where no more can be cut.
const EXTENT_RESERVE: i64 = 8;
/// Retired segments that readers hold count as coming free up to one in this many of all.
/// Past it others are evicted no further on their account.
const HELD_SHARE: u32 = 4;

/// No large object: the extent is free, or part of a fill.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Space {
    log: Writer,
    extents: Writer,
    /// Extents that a block is cut in.
    pub(super) per_block: u32,
    /// By extent, the large object that it is part of, or [`NOBODY`].
    users: Vec<u32>,
    /// Segments being written, by source.
    open: [Option<u32>; SOURCES],
    /// Those before them: a record that did not fit has left room there for smaller ones.
    nearly_full: [Option<u32>; SOURCES],
    sealed: Sealed,
    /// Bytes of pinned records by segment, of those that hold or held some. Segments that hold too
    /// few of them are among the sealed ones too.
    pinned: BTreeMap<u32, u32>,
    /// The segment that is being emptied.
    emptied: Option<u32>,
    /// Per log segment, spans of fills that may be on their way.
    pins: Vec<u32>,
    /// Retirements for which [`Space::laggards`] has named shards.
    nudged_log: u64,
    nudged_extents: u64,
}

impl Space {
    pub fn new(writers: Writers) -> Self {
        Self {
            per_block: writers.log.segment_bytes() / writers.extents.segment_bytes(),
            users: vec![NOBODY; writers.extents.segments() as usize],
            pins: vec![0; writers.log.segments() as usize],
            sealed: Sealed::new(writers.log.segments()),
            log: writers.log,
            extents: writers.extents,
            open: [None; SOURCES],
            nearly_full: [None; SOURCES],
            pinned: BTreeMap::new(),
            emptied: None,
            nudged_log: 0,
            nudged_extents: 0,
        }
    }

    pub fn log(&self) -> &Writer {
        &self.log
    }

    pub fn extents(&self) -> &Writer {
        &self.extents
    }

    /// Writes a record at the end of the log.
    pub fn append_log(&mut self, source: Source, parts: &[&[u8]]) -> Result<Place, StoreError> {
        let open = [&self.nearly_full, &self.open].map(|segments| segments[source as usize]);
        for segment in open.into_iter().flatten() {
            if let Some(place) = self.append_to(segment, parts) {
                return Ok(place);
            }
        }
        let fresh = self.open_log(source)?;
        let former = self.open[source as usize].replace(fresh);
        if let Some(full) = self.next_sealed(source, former) {
            self.log.seal(full);
            match source {
                Source::Fills | Source::Survivors => self.sealed.push(full),
                Source::Pins => self.push_if_few_pinned(full),
            }
        }
        self.append_to(fresh, parts).ok_or(StoreError::Full)
    }

    /// What is to be sealed now that a record did not fit in `former`.
    fn next_sealed(&mut self, source: Source, former: Option<u32>) -> Option<u32> {
        let is_kept = source != Source::Pins && self.log.segments() >= MANY_SEGMENTS;
        match is_kept {
            true => std::mem::replace(&mut self.nearly_full[source as usize], former),
            false => former,
        }
    }

    /// Writes to the last of a fill's extents, as much as goes in, and says where and how much.
    pub fn append_extent(
        &mut self,
        list: &mut Vec<u32>,
        data: &[u8],
    ) -> Result<(Place, u32), StoreError> {
        let last = list.last().copied();
        let segment = match last.filter(|extent| self.extents.room(*extent) > 0) {
            Some(extent) => extent,
            None => {
                let fresh = self.open_extent()?;
                list.push(fresh);
                fresh
            }
        };
        let len = data.len().min(self.extents.room(segment) as usize);
        let offset = self.extents.append(segment, &[&data[..len]]);
        let offset = offset.ok_or(StoreError::Full)?;
        Ok((Place { segment, offset }, len as u32))
    }

    pub fn pin(&mut self, segment: u32) {
        self.pins[segment as usize] += 1;
    }

    pub fn unpin(&mut self, segment: u32) {
        self.pins[segment as usize] -= 1;
    }

    /// Takes a segment out of the sealed ones to be emptied.
    pub fn begin_emptying(&mut self, segment: u32) {
        self.sealed.remove(segment);
        self.emptied = Some(segment);
    }

    /// Puts it back: its pinned records have nowhere to go.
    pub fn stop_emptying(&mut self, segment: u32) {
        self.emptied = None;
        self.sealed.push(segment);
    }

    pub fn sealed(&mut self) -> &mut Sealed {
        &mut self.sealed
    }

    /// The log segment to empty next, and its value.
    pub fn least(&self) -> Option<(u32, f32)> {
        let pins = &self.pins;
        self.sealed.least(|segment| pins[segment as usize] != 0)
    }

    /// A pinned record was written to a segment.
    pub fn pinned(&mut self, segment: u32, bytes: u32) {
        *self.pinned.entry(segment).or_default() += bytes;
    }

    /// A record of a segment is pinned no more, or was copied to another.
    pub fn unpinned(&mut self, segment: u32, bytes: u32) {
        if let Some(pinned) = self.pinned.get_mut(&segment) {
            *pinned -= bytes;
            if self.open[Source::Pins as usize] != Some(segment) {
                self.push_if_few_pinned(segment);
            }
        }
    }

    /// Lets a segment be emptied of which half is not pinned any more.
    fn push_if_few_pinned(&mut self, segment: u32) {
        let pinned = self.pinned.get(&segment).copied().unwrap_or(0);
        let is_few = pinned <= self.log.committed(segment) / 2;
        if is_few && !self.sealed.contains(segment) && self.emptied != Some(segment) {
            self.sealed.push(segment);
        }
    }

    pub fn retire_log(&mut self, segment: u32) {
        self.pinned.remove(&segment);
        self.emptied = None;
        self.log.retire(segment);
    }

    /// Says which large object an extent is part of.
    pub fn set_user(&mut self, extent: u32, large: u32) {
        self.users[extent as usize] = large;
    }

    pub fn user(&self, extent: u32) -> Option<u32> {
        let user = self.users.get(extent as usize).copied();
        user.filter(|user| *user != NOBODY)
    }

    pub fn retire_extents(&mut self, extents: &[u32]) {
        for extent in extents {
            self.users[*extent as usize] = NOBODY;
            self.extents.retire(*extent);
        }
    }

    pub fn reclaim(&mut self) {
        self.log.reclaim();
        self.extents.reclaim();
        self.log.take_back(&mut self.extents);
    }

    /// Lets a block come back to the log, of which all extents that are used are about to be retired.
    pub fn call_back(&mut self, block: u32) -> bool {
        self.log.call_back(&mut self.extents, block)
    }

    /// Whether less memory is free, or comes free, than should be: beside `announced` extents.
    pub fn is_short(&self, announced: u32) -> bool {
        let spare = self.spare_extents(announced) / i64::from(self.per_block);
        i64::from(self.coming_blocks()) + spare < i64::from(reserve(&self.log))
    }

    /// Whether extents run short and cannot become more: there are as many as there may be, or what is
    /// free cannot be cut.
    pub fn extents_are_out(&self, announced: u32) -> bool {
        self.spare_extents(announced) < EXTENT_RESERVE && !self.log.can_cut()
    }

    /// Whether the log should have a block back from the extents, which have one to spare.
    pub fn wants_block(&self, announced: u32) -> bool {
        self.coming_blocks() < LOG_RESERVE
            && self.spare_extents(announced) >= i64::from(self.per_block)
    }

    /// Extents that are free, or come free, beyond those announced.
    fn spare_extents(&self, announced: u32) -> i64 {
        let leaving = self.extents.leaving() * self.per_block;
        i64::from(coming(&self.extents).saturating_sub(leaving)) - i64::from(announced)
    }

    /// Log segments that are free, or will be without anything else being evicted.
    fn coming_blocks(&self) -> u32 {
        coming(&self.log) + self.extents.leaving()
    }

    /// Whether not even the next turn can be waited for.
    pub fn log_is_out(&self) -> bool {
        self.log.free_segments() <= SURVIVOR_RESERVE
    }

    /// Readers to wait for, where free segments run short. Each is named once per retirement.
    pub fn laggards(&mut self) -> Vec<ShardId> {
        let mut named = Vec::new();
        if self.log.free_segments() < reserve(&self.log) {
            name_laggards(&self.log, &mut self.nudged_log, &mut named);
            name_laggards(&self.extents, &mut self.nudged_extents, &mut named);
        }
        named.sort_unstable();
        named.dedup();
        named
    }

    fn append_to(&mut self, segment: u32, parts: &[&[u8]]) -> Option<Place> {
        let offset = self.log.append(segment, parts)?;
        Some(Place { segment, offset })
    }

    fn open_log(&mut self, source: Source) -> Result<u32, StoreError> {
        let reserve = match source {
            Source::Fills => SURVIVOR_RESERVE,
            Source::Survivors | Source::Pins => 0,
        };
        if self.log.free_segments() <= reserve {
            self.log.reclaim();
        }
        let has_room = self.log.free_segments() > reserve;
        let segment = has_room.then(|| self.log.open()).flatten();
        segment.ok_or(StoreError::Full)
    }

    /// One that is free, or one of a block that is.
    pub(super) fn open_extent(&mut self) -> Result<u32, StoreError> {
        if let Some(extent) = self.extents.open() {
            return Ok(extent);
        }
        self.extents.reclaim();
        if self.extents.free_segments() == 0 && !self.log_is_out() {
            self.log.cut_for(&mut self.extents);
        }
        self.extents.open().ok_or(StoreError::Full)
    }

    /// Writes a whole extent, of a large object that moves.
    pub fn copy_extent(&mut self, bytes: &[u8]) -> Option<u32> {
        let extent = self.extents.open()?;
        self.extents.append(extent, &[bytes])?;
        Some(extent)
    }
}

fn reserve(log: &Writer) -> u32 {
    reserve_of(log.segments())
}

/// Of so many blocks, those that are kept free.
pub(super) fn reserve_of(blocks: u32) -> u32 {
    (blocks / RESERVE_SHARE).max(MIN_RESERVE)
}

/// Segments that are free or will be without further eviction.
fn coming(writer: &Writer) -> u32 {
    let held = writer.held_segments();
    let stuck = held.min(writer.segments() / HELD_SHARE);
    writer.free_segments() + writer.retired_segments() - stuck
}

fn name_laggards(writer: &Writer, nudged: &mut u64, named: &mut Vec<ShardId>) {
    let Some((oldest, laggards)) = writer.laggards() else {
        return;
    };
    if oldest >= *nudged {
        *nudged = oldest + 1;
        named.extend(laggards.map(|reader| reader as ShardId));
    }
}
