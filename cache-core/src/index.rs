//! Where an object's record is: cache lines of eight slots, read by all shards.
//!
//! ```text
//!  line   [ slot | slot | slot | slot | slot | slot | slot | slot ]     64 bytes
//!  slot   used:1 | hot:1 | tag:22 | location:40                          8 bytes
//! ```
//! A key has one line, by its hash, and may be in any of the line's slots. The tag is
//! another part of the hash: a slot whose tag differs is not looked at further. The location is the
//! record's place in the log in bytes. `hot` tells readers that few of the hits need
//! to be reported. Readers load; only the owner of the partition stores.

use std::sync::atomic::Ordering;

use hugepages::Table;

use crate::store::KeyHash;

pub(crate) const SLOTS_PER_LINE: u64 = 8;

const USED: u64 = 1 << 63;
const HOT: u64 = 1 << 62;
const TAG_SHIFT: u32 = 40;
const TAG: u64 = ((1 << 22) - 1) << TAG_SHIFT;
const LOCATION: u64 = (1 << TAG_SHIFT) - 1;
/// Log bytes that a location can name.
pub(crate) const MAX_LOG_BYTES: u64 = 1 << TAG_SHIFT;

/// A slot's number in its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(usize);

impl SlotId {
    /// The slot of a number below [`Index::slots`].
    pub fn of(number: usize) -> Self {
        Self(number)
    }

    pub fn number(self) -> usize {
        self.0
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u64);

impl Slot {
    const EMPTY: Slot = Slot(0);

    fn new(hash: KeyHash, location: u64) -> Self {
        debug_assert!(location <= LOCATION);
        Self(USED | tag(hash) | location & LOCATION)
    }

    pub fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    pub fn is_hot(self) -> bool {
        self.0 & HOT != 0
    }

    /// Whether a key of this hash may be meant.
    pub fn is_of(self, hash: KeyHash) -> bool {
        self.0 & (USED | TAG) == USED | tag(hash)
    }

    /// In bytes of the log.
    pub fn location(self) -> u64 {
        self.0 & LOCATION
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    table: Table,
}

impl Index {
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    pub fn slots(&self) -> usize {
        self.table.lines().len() * SLOTS_PER_LINE as usize
    }

    /// The slots that may hold the key.
    #[inline]
    pub fn candidates(&self, hash: KeyHash) -> impl Iterator<Item = (SlotId, Slot)> {
        self.line(hash).filter(move |(_, slot)| slot.is_of(hash))
    }

    /// All slots of the key's line.
    #[inline]
    pub fn line(&self, hash: KeyHash) -> impl Iterator<Item = (SlotId, Slot)> {
        let lines = self.table.lines();
        let number = (((hash.0 & 0xffff_ffff) * lines.len() as u64) >> 32) as usize;
        lines[number].0.iter().enumerate().map(move |(i, word)| {
            let id = SlotId(number * SLOTS_PER_LINE as usize + i);
            (id, Slot(word.load(Ordering::Acquire)))
        })
    }

    /// The slot that holds this very record.
    pub fn find(&self, hash: KeyHash, location: u64) -> Option<SlotId> {
        let mut candidates = self.candidates(hash);
        let found = candidates.find(|(_, slot)| slot.location() == location);
        found.map(|(id, _)| id)
    }

    /// Owner only.
    pub fn set(&self, id: SlotId, hash: KeyHash, location: u64, hot: bool) {
        let hot = if hot { HOT } else { 0 };
        self.store(id, Slot(Slot::new(hash, location).0 | hot));
    }

    /// Owner only.
    pub fn clear(&self, id: SlotId) {
        self.store(id, Slot::EMPTY);
    }

    /// Owner only.
    pub fn set_hot(&self, id: SlotId, hot: bool) {
        let slot = self.get(id);
        if slot.is_used() && slot.is_hot() != hot {
            self.store(id, Slot(slot.0 ^ HOT));
        }
    }

    pub fn get(&self, id: SlotId) -> Slot {
        Slot(self.word(id).load(Ordering::Acquire))
    }

    fn store(&self, id: SlotId, slot: Slot) {
        self.word(id).store(slot.0, Ordering::Release);
    }

    fn word(&self, id: SlotId) -> &std::sync::atomic::AtomicU64 {
        let lane = id.0 % SLOTS_PER_LINE as usize;
        &self.table.lines()[id.0 / SLOTS_PER_LINE as usize].0[lane]
    }

    /// Damages a slot as a bad memory module would.
    #[cfg(test)]
    pub fn corrupt(&self, id: SlotId, mask: u64) {
        self.store(id, Slot(self.get(id).0 ^ mask));
    }
}

fn tag(hash: KeyHash) -> u64 {
    (hash.0 >> 32) << TAG_SHIFT & TAG
}

#[cfg(test)]
mod tests {
    use hugepages::{Backing, PagePolicy};

    use super::*;

    fn index() -> Index {
        let (region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        Index::new(Table::new(region).unwrap())
    }

    /// A hash of the given line (of 64) and tag.
    fn hash(line: u64, tag: u64) -> KeyHash {
        KeyHash(tag << 32 | line << 26)
    }

    #[test]
    fn a_slot_is_found_by_tag_and_location() {
        let index = index();
        let (id, _) = index.line(hash(5, 1)).nth(3).unwrap();
        index.set(id, hash(5, 1), LOCATION, false);
        assert_eq!(index.find(hash(5, 1), LOCATION), Some(id));
        assert_eq!(index.find(hash(5, 1), 0), None);
        assert_eq!(index.find(hash(5, 2), LOCATION), None);
        assert_eq!(index.find(hash(6, 1), LOCATION), None);
        index.clear(id);
        assert_eq!(index.candidates(hash(5, 1)).count(), 0);
    }

    #[test]
    fn tag_zero_at_location_zero_is_not_empty() {
        let index = index();
        let (id, _) = index.line(hash(0, 0)).next().unwrap();
        index.set(id, hash(0, 0), 0, false);
        assert_eq!(index.candidates(hash(0, 0)).count(), 1);
    }

    #[test]
    fn the_hot_bit_changes_nothing_else() {
        let index = index();
        let (id, _) = index.line(hash(9, 77)).next().unwrap();
        index.set_hot(id, true);
        assert!(!index.get(id).is_used());
        index.set(id, hash(9, 77), 1234, false);
        index.set_hot(id, true);
        assert!(index.get(id).is_hot());
        assert_eq!(index.find(hash(9, 77), 1234), Some(id));
        index.set_hot(id, false);
        assert!(!index.get(id).is_hot());
    }

    #[test]
    fn hashes_spread_over_all_lines() {
        let index = index();
        let mut seen = [false; 64];
        for i in 0..4096u64 {
            let (id, _) = index.line(KeyHash(i << 20)).next().unwrap();
            seen[id.number() / 8] = true;
        }
        assert!(seen.iter().all(|line| *line));
    }
}
