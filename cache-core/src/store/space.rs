//! The room of a partition, as its owner hands it out.

use std::collections::BTreeMap;

use hugepages::Writer;

use super::hit::Place;
use super::layout::Writers;
use super::{ShardId, StoreError};
use crate::evict::{SOURCES, Sealed, Source};

/// Free segments that only survivors of an emptied segment may take, so that emptying never waits
/// for itself.
const SURVIVOR_RESERVE: u32 = 1;
/// Segments kept free ahead of need: one in this many, and at least so many.
pub(super) const LOG_RESERVE_SHARE: u32 = 32;
const MIN_LOG_RESERVE: u32 = 3;
const EXTENT_RESERVE_SHARE: u32 = 16;
const MIN_EXTENT_RESERVE: u32 = 4;
/// Retired segments that readers hold count as coming free up to one in this many of all.
/// Past it others are evicted no further on their account.
const HELD_SHARE: u32 = 4;

#[derive(Debug)]
pub(super) struct Space {
    log: Writer,
    extents: Writer,
    /// Segments being written, by source.
    open: [Option<u32>; SOURCES],
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
            pins: vec![0; writers.log.segments() as usize],
            sealed: Sealed::new(writers.log.segments()),
            log: writers.log,
            extents: writers.extents,
            open: [None; SOURCES],
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
        if let Some(segment) = self.open[source as usize]
            && let Some(place) = self.append_to(segment, parts)
        {
            return Ok(place);
        }
        let fresh = self.open_log(source)?;
        if let Some(full) = self.open[source as usize].replace(fresh) {
            self.log.seal(full);
            match source {
                Source::Fills | Source::Survivors => self.sealed.push(full),
                Source::Pins => self.push_if_few_pinned(full),
            }
        }
        self.append_to(fresh, parts).ok_or(StoreError::Full)
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

    pub fn retire_extents(&mut self, extents: &[u32]) {
        for extent in extents {
            self.extents.retire(*extent);
        }
    }

    pub fn reclaim(&mut self) {
        self.log.reclaim();
        self.extents.reclaim();
    }

    /// Whether the log has fewer free segments than it should, with those that come free.
    pub fn log_is_short(&self) -> bool {
        coming(&self.log) < log_reserve(&self.log)
    }

    /// Whether not even the next turn can be waited for.
    pub fn log_is_out(&self) -> bool {
        self.log.free_segments() <= SURVIVOR_RESERVE
    }

    /// Whether `wanted` extents beside the reserve are neither free nor come free.
    pub fn extents_are_short(&self, wanted: u32) -> bool {
        let reserve = extent_reserve(&self.extents).saturating_add(wanted);
        coming(&self.extents) < reserve.min(self.extents.segments())
    }

    /// Readers to wait for, where free segments run short. Each is named once per retirement.
    pub fn laggards(&mut self) -> Vec<ShardId> {
        let mut named = Vec::new();
        if self.log.free_segments() < log_reserve(&self.log) {
            name_laggards(&self.log, &mut self.nudged_log, &mut named);
        }
        if self.extents.free_segments() < extent_reserve(&self.extents) {
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

    fn open_extent(&mut self) -> Result<u32, StoreError> {
        if self.extents.free_segments() == 0 {
            self.extents.reclaim();
        }
        self.extents.open().ok_or(StoreError::Full)
    }
}

fn log_reserve(log: &Writer) -> u32 {
    (log.segments() / LOG_RESERVE_SHARE).max(MIN_LOG_RESERVE)
}

fn extent_reserve(extents: &Writer) -> u32 {
    (extents.segments() / EXTENT_RESERVE_SHARE).max(MIN_EXTENT_RESERVE)
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
