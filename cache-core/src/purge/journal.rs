//! The journal of purges and pins: what a node with a tier must not forget.
//!
//! ```text
//!  area 0  | snapshot blocks ... | entries | copy | entries | copy | ...        generation 7
//!  area 1  | snapshot blocks ... | entries | copy | ...                         generation 8
//! ```
//! There are two areas of equal size, written in turns. [`Journal::append`] gives blocks of
//! [`BLOCK`] bytes to be written behind the last ones; a purge or pin holds only once they are
//! written and flushed ([`Journal::confirm`]). When an area is full, the whole [`State`] is written to
//! the other one as a snapshot, and entries follow it there. The former area stays as it is until then.
//!
//! Each block has a checksum, its generation and, for entries, a number that counts on
//! through all generations. Entries are written twice, side by side, so that one damaged block loses
//! nothing. No block is ever written again within its generation, and each start of the node begins a new
//! one, so that remains of writes that were never confirmed cannot come back.
//!
//! # What [`Journal::open`] makes of what it finds
//! - It takes the youngest complete snapshot and the entries that follow it, over both areas.
//! - What is missing at the end was never confirmed (the write was torn, or lost): it is dropped.
//! - What is missing before something that was appended later had been confirmed: [`Found::Damaged`].
//!   Then everything up to a number that is surely higher than any that was lost counts as purged. Pins that were read hold.
//! - A block of another node, version or format is as good as none.

mod block;
mod item;
mod recover;

use bytes::Bytes;

use super::state::{COARSE_URLS, Entry, MAX_URLS, State};
use super::{MAX_PREFIX, MAX_PREFIXES};
use block::{Block, Kind, PAYLOAD};
use item::Item;
use recover::{Area, recover};

pub use block::BLOCK;

/// Entries of one append.
pub const MAX_ENTRIES: usize = 64;

/// Blocks that one append may need behind a snapshot: an entry each, written twice.
const ROOM_FOR_ENTRIES: u64 = 2 * MAX_ENTRIES as u64;

/// Bytes of the cache key of a pinned object.
pub const MAX_PIN: usize = 1340;

/// Bytes of all pinned keys together, three more for each.
pub const MAX_PINS_BYTES: usize = 1 << 20;

/// A write to one of the areas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalWrite {
    /// 0 or 1.
    pub area: u8,
    /// Within the area; a multiple of [`BLOCK`], as is the length.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error(
        "a journal area has {bytes} bytes where {needed} are needed for a tag table of {slots} slots"
    )]
    AreaTooSmall { bytes: u64, needed: u64, slots: u32 },
    #[error("the cache key of a pin has {length} bytes; at most {MAX_PIN} are kept")]
    PinTooLong { length: usize },
    #[error(
        "the keys of all pins would have more than {MAX_PINS_BYTES} bytes; unpin something first"
    )]
    PinsFull,
}

/// What there was to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Every confirmed entry.
    Whole,
    /// Confirmed entries are lost: what was stored before counts as purged.
    Damaged,
}

/// The writing side. It knows what is on the devices; the shell writes.
#[derive(Debug)]
pub struct Journal {
    identity: u64,
    state: State,
    area_blocks: u32,
    generation: u64,
    /// The area that a restart could begin from; the other one may be written over.
    good: u8,
    /// Where the next entries go, in blocks of the good area. `None`: a new generation must begin.
    next: Option<u32>,
    /// Number of the next block of entries.
    number: u64,
    /// All blocks before this one were confirmed. What was read at the start may not have been: the
    /// write that takes its place says so, or its loss would look like damage.
    sure: u64,
    pending: Option<Pending>,
}

/// An append that was not confirmed yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    area: u8,
    generation: u64,
    next: u32,
    number: u64,
}

impl Journal {
    /// A journal for areas that were never used, and the write that makes it one.
    ///
    /// # Errors
    /// The areas are too small for the table.
    pub fn format(
        identity: u64,
        fresh: State,
        area_bytes: u64,
    ) -> Result<(Self, JournalWrite), JournalError> {
        let mut journal = Self::new(identity, fresh, area_bytes)?;
        let write = journal.append(&[])?;
        Ok((journal, write))
    }

    /// Reads both areas. `fresh` is the state where nothing can be read.
    ///
    /// # Errors
    /// The areas are too small for the table.
    pub fn open(
        identity: u64,
        fresh: State,
        area0: &[u8],
        area1: &[u8],
    ) -> Result<(Self, Found), JournalError> {
        let areas = [Area::read(identity, area0), Area::read(identity, area1)];
        let recovered = recover(&areas, fresh);
        let area_bytes = area0.len().min(area1.len()) as u64;
        let mut journal = Self::new(identity, recovered.state, area_bytes)?;
        journal.generation = areas.iter().map(|area| area.generation).max().unwrap_or(0);
        journal.good = recovered.area;
        journal.number = recovered.next;
        journal.sure = recovered.sure;
        Ok((journal, recovered.found))
    }

    fn new(identity: u64, state: State, area_bytes: u64) -> Result<Self, JournalError> {
        let needed = worst_snapshot_blocks(state.slots) + ROOM_FOR_ENTRIES;
        let area_blocks = u32::try_from(area_bytes / BLOCK as u64).unwrap_or(u32::MAX);
        if u64::from(area_blocks) < needed {
            return Err(JournalError::AreaTooSmall {
                bytes: area_bytes,
                needed: needed * BLOCK as u64,
                slots: state.slots,
            });
        }
        Ok(Self {
            identity,
            state,
            area_blocks,
            generation: 0,
            good: 1,
            next: None,
            number: 1,
            sure: 1,
            pending: None,
        })
    }

    /// All that is journalled, what is not confirmed yet included.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes at most [`MAX_ENTRIES`] in and says what to write. They hold once that is written and
    /// flushed: then [`Self::confirm`], or [`Self::failed`]. An append that was neither failed.
    ///
    /// # Errors
    /// A pin too long or too many of them; nothing was taken in then.
    ///
    /// # Panics
    /// On more than [`MAX_ENTRIES`].
    pub fn append(&mut self, entries: &[Entry]) -> Result<JournalWrite, JournalError> {
        assert!(entries.len() <= MAX_ENTRIES);
        self.check_pins(entries)?;
        if self.pending.is_some() {
            self.failed();
        }
        let payloads = item::pack(entries.iter().map(Item::of_entry));
        let copies = 2 * payloads.len() as u32;
        let in_place = self.next.filter(|next| next + copies <= self.area_blocks);
        let (area, generation, start, mut bytes) = match in_place {
            Some(next) => (self.good, self.generation, next, Vec::new()),
            None => {
                let generation = self.generation + 1;
                (1 - self.good, generation, 0, self.snapshot(generation))
            }
        };
        for (i, payload) in payloads.iter().enumerate() {
            let block = Block {
                kind: Kind::Entries,
                generation,
                number: self.number + i as u64,
                group: self.sure.min(self.number),
                covers: 0,
                payload,
            };
            let encoded = block.encode(self.identity);
            bytes.extend_from_slice(&encoded);
            bytes.extend_from_slice(&encoded);
        }
        for entry in entries {
            self.state.apply(entry);
        }
        self.pending = Some(Pending {
            area,
            generation,
            next: start + (bytes.len() / BLOCK) as u32,
            number: self.number + payloads.len() as u64,
        });
        Ok(JournalWrite {
            area,
            offset: u64::from(start) * BLOCK as u64,
            bytes,
        })
    }

    /// The last append is written and flushed.
    pub fn confirm(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.good = pending.area;
            self.generation = pending.generation;
            self.next = Some(pending.next);
            self.number = pending.number;
            self.sure = pending.number;
        }
    }

    /// The last append could not be written or flushed; it may be there in part. What it said may
    /// come true all the same: a purge too many costs a miss. The next append begins a new generation.
    pub fn failed(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.generation = pending.generation;
        }
        self.next = None;
    }

    fn snapshot(&self, generation: u64) -> Vec<u8> {
        let payloads = item::pack(item::of_state(&self.state));
        let mut bytes = Vec::with_capacity(payloads.len() * BLOCK);
        for (number, payload) in payloads.iter().enumerate() {
            let block = Block {
                kind: Kind::Snapshot,
                generation,
                number: number as u64,
                group: payloads.len() as u64,
                covers: self.number - 1,
                payload,
            };
            bytes.extend_from_slice(&block.encode(self.identity));
        }
        bytes
    }

    fn check_pins(&self, entries: &[Entry]) -> Result<(), JournalError> {
        let mut total: Option<usize> = None;
        for entry in entries {
            let Entry::Pin(key) = entry else { continue };
            let length = key.len();
            if length > MAX_PIN {
                return Err(JournalError::PinTooLong { length });
            }
            let cost = |key: &Bytes| key.len() + item::PIN;
            let total = total.get_or_insert_with(|| self.state.pins.iter().map(cost).sum());
            *total += cost(key);
            if *total > MAX_PINS_BYTES {
                return Err(JournalError::PinsFull);
            }
        }
        Ok(())
    }
}

/// Blocks that the largest state takes as a snapshot.
fn worst_snapshot_blocks(slots: u32) -> u64 {
    let per_block = |item: usize| (PAYLOAD / item) as u64;
    let blocks = |count: usize, item: usize| (count as u64).div_ceil(per_block(item));
    // Pins may leave a part of each block unused: less than the longest takes.
    let pins = (MAX_PINS_BYTES as u64).div_ceil((PAYLOAD - MAX_PIN - item::PIN) as u64);
    1 + blocks(slots as usize, item::MARK)
        + blocks(MAX_PREFIXES, item::PREFIX + MAX_PREFIX)
        + blocks(MAX_URLS, item::URL)
        + blocks(COARSE_URLS, item::COARSE)
        + pins
}

#[cfg(test)]
mod tests;
