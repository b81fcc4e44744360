//! Hits that the policy of the objects' owner has not been told of yet.
//!
//! [`HitNotes`] are a shard's on others' objects: they go to the owners by messages, which are few.
//! [`Noted`] are those on its own.
//!
//! Whether a hit is sampled is as good as random, so that a branch on it is guessed wrong half of the
//! time; and what the policy does then would keep the core from the next look-up's memory. So a
//! hit is written down without a branch, and the policy hears of many in a row, when their entries have
//! been brought near. Up to [`ROOM`] requests later it takes them for a little later than they were.

use super::owner::Owner;
use super::{KeyHash, ShardId};
use crate::index::SlotId;

/// Hits that wait at most.
const ROOM: usize = 64;
/// Sampled hits on objects of one owner that make a message.
const HITS_PER_MESSAGE: u32 = 64;

/// Says that an object of another partition was hit; for its owner's [`super::Store::note_hits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitNote {
    pub owner: ShardId,
    /// The object is hot: each hit stands for several.
    pub(super) hot: bool,
    /// Hits one after the other.
    pub(super) hits: u16,
    pub(super) hash: KeyHash,
    /// The record, in bytes of the log.
    pub(super) location: u64,
}

/// Notes for each owner until they are worth a message.
#[derive(Debug)]
pub struct HitNotes(Vec<ForOwner>);

#[derive(Clone, Debug, Default)]
struct ForOwner {
    notes: Vec<HitNote>,
    /// Of all notes.
    hits: u32,
}

impl HitNotes {
    pub fn new(shards: u8) -> Self {
        Self(vec![ForOwner::default(); usize::from(shards)])
    }

    /// Takes a note; one of the same object as the last for its owner adds to that.
    pub fn push(&mut self, note: HitNote) {
        let of = &mut self.0[usize::from(note.owner)];
        of.hits += u32::from(note.hits);
        match of.notes.last_mut() {
            Some(last) if last.is_same(&note) => last.hits = last.hits.saturating_add(note.hits),
            _ => of.notes.push(note),
        }
    }

    /// Messages that are due, and to whom: 64 hits or more each.
    pub fn due(&mut self) -> impl Iterator<Item = (ShardId, Vec<HitNote>)> {
        let due = |of: &&mut ForOwner| of.hits >= HITS_PER_MESSAGE;
        self.0.iter_mut().filter(due).filter_map(|of| {
            of.hits = 0;
            let notes = std::mem::take(&mut of.notes);
            Some((notes.first()?.owner, notes))
        })
    }
}

impl HitNote {
    fn is_same(&self, other: &Self) -> bool {
        self.location == other.location && self.hot == other.hot
    }
}

#[derive(Debug)]
pub(super) struct Noted {
    slots: [SlotId; ROOM],
    len: usize,
}

impl Noted {
    pub fn new() -> Self {
        Self {
            slots: [SlotId::of(0); ROOM],
            len: 0,
        }
    }

    /// Writes a hit down if it is wanted; says whether it is time to [`Noted::tell`].
    #[inline(always)]
    pub fn push_if(&mut self, wanted: bool, slot: SlotId) -> bool {
        self.slots[self.len % ROOM] = slot;
        self.len += usize::from(wanted);
        self.len == ROOM
    }

    /// Tells the policy. The owner's slots must be as they were when the hits came.
    pub fn tell(&mut self, owner: &mut Owner) {
        for slot in &self.slots[..self.len] {
            owner.note_hits(*slot, 1);
        }
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: ShardId, location: u64) -> HitNote {
        HitNote {
            owner,
            hot: true,
            hits: 1,
            hash: KeyHash(location),
            location,
        }
    }

    #[test]
    fn hits_of_one_object_in_a_row_are_one_note() {
        let mut notes = HitNotes::new(3);
        for location in [5, 5, 6, 5] {
            notes.push(note(1, location));
            notes.push(note(2, 9));
        }
        assert_eq!(notes.due().count(), 0);
        for _ in 4..64 {
            notes.push(note(1, 5));
        }
        let due: Vec<_> = notes.due().collect();
        let [(1, due)] = &due[..] else {
            panic!("{due:?}");
        };
        let hits: Vec<_> = due.iter().map(|n| (n.location, n.hits)).collect();
        assert_eq!(hits, [(5, 2), (6, 1), (5, 61)]);
        assert_eq!(notes.due().count(), 0);
    }

    #[test]
    fn one_object_however_hot_takes_one_note() {
        let mut notes = HitNotes::new(1);
        for _ in 0..100_000 {
            notes.push(note(0, 5));
        }
        let [(0, ref due)] = notes.due().collect::<Vec<_>>()[..] else {
            panic!("{notes:?}");
        };
        assert_eq!((due.len(), due[0].hits), (1, u16::MAX));
    }
}
