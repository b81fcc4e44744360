//! Hits on a shard's own objects that its policy has not been told of yet.
//!
//! Whether a hit is sampled is as good as random, so that a branch on it is guessed wrong half of the
//! time; and what the policy does then would keep the core from the next look-up's memory. So a
//! hit is written down without a branch, and the policy hears of many in a row, when their entries have
//! been brought near. Up to [`ROOM`] requests later it takes them for a little later than they were.

use super::owner::Owner;
use crate::index::SlotId;

/// Hits that wait at most.
const ROOM: usize = 64;

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
            owner.note_hit(*slot);
        }
        self.len = 0;
    }
}
