//! Where an object's record is: cache lines of eight slots, read by all shards.
//!
//! ```text
//!  line   [ slot | slot | slot | slot | slot | slot | slot | slot ]     64 bytes
//!  slot   used:1 | hot:1 | second:1 | tag:21 | location:40               8 bytes
//! ```
//! A key has two lines, by its hash: it is in its first one, unless that was full when it came. The
//! tag is another part of the hash: a slot whose tag differs is not looked at further. The location is
//! the record's place in the log in bytes. `hot` tells readers that few of the hits need to be
//! reported. Readers load; only the owner of the partition stores.
//!
//! **The second line** follows from the first and the tag, and the first from the second in the same
//! way, so that the owner can move an entry without its key. A reader looks at it only where the first has
//! no empty slot. So that this stays true while keys are in their second lines, the owner counts
//! these for each first line, and leaves there, instead of an empty slot, one that is merely free.
//!
//! **When both lines are full** an entry of either moves to its other line, if need be after one of
//! that line has moved to its own other line. More than 19 slots in 20 can be used before
//! that fails; see the test. A reader that looks at both lines while an entry moves from the second back to
//! the first may miss it, which costs a question to the owner and nothing else.

use std::sync::atomic::{AtomicU8, Ordering};

use hugepages::{Table, Word};

use crate::store::KeyHash;

pub(crate) const SLOTS_PER_LINE: u64 = 8;
const LANES: usize = SLOTS_PER_LINE as usize;
/// Part of the slots that are used before objects go for want of one, in percent.
pub(crate) const LOAD_PERCENT: u64 = 95;

const USED: u64 = 1 << 63;
const HOT: u64 = 1 << 62;
/// The slot's line is the second of its key.
const SECOND: u64 = 1 << 61;
const TAG_SHIFT: u32 = 40;
const TAG: u64 = ((1 << 21) - 1) << TAG_SHIFT;
const LOCATION: u64 = (1 << TAG_SHIFT) - 1;
const _: () = assert!(TAG_SHIFT >= 32);
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

    fn line(self) -> usize {
        self.0 / LANES
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u64);

impl Slot {
    /// Nothing was here, or nothing that matters to keys of this line.
    const EMPTY: Slot = Slot(0);
    /// Nothing is here, but a key of this line may be in its second one.
    const FREE: Slot = Slot(HOT);

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

    fn is_second(self) -> bool {
        self.0 & SECOND != 0
    }

    fn tag(self) -> u64 {
        self.0 & TAG
    }
}

/// A slot for a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// To be set at once: if entries moved, it still holds what the last of them was.
    pub slot: SlotId,
    /// Entries that were copied to make room, from one slot to another, one after the other.
    pub moves: [Option<(SlotId, SlotId)>; 2],
}

#[derive(Debug)]
pub(crate) struct Index {
    table: Table,
    /// Per line, keys that it is the first of and that are in their second. Stored by the owner. It
    /// does not leave its highest value.
    elsewhere: Box<[AtomicU8]>,
}

impl Index {
    pub fn new(table: Table) -> Self {
        Self {
            elsewhere: table.lines().iter().map(|_| AtomicU8::new(0)).collect(),
            table,
        }
    }

    pub fn slots(&self) -> usize {
        self.table.lines().len() * LANES
    }

    /// Bytes of heap beside the table.
    pub fn side_bytes(slots: u64) -> u64 {
        slots / SLOTS_PER_LINE
    }

    /// The slots that may hold the key.
    #[inline(always)]
    pub fn candidates(&self, hash: KeyHash) -> Candidates<'_> {
        let line = self.first_line(hash);
        let wanted = USED | tag(hash);
        Candidates {
            index: self,
            line,
            matches: self.scan(line, wanted),
            second: Some(wanted | SECOND),
        }
    }

    /// All slots of the key's two lines.
    pub fn lines(&self, hash: KeyHash) -> impl Iterator<Item = (SlotId, Slot)> {
        let first = self.first_line(hash);
        let second = self.other_line(first, tag(hash));
        let second = (second != first).then_some(second);
        let ids = std::iter::once(first).chain(second).flat_map(slots_of);
        ids.map(|id| (id, self.get(id)))
    }

    /// The slot that holds this very record.
    pub fn find(&self, hash: KeyHash, location: u64) -> Option<SlotId> {
        let mut candidates = self.candidates(hash);
        let found = candidates.find(|(_, slot)| slot.location() == location);
        found.map(|(id, _)| id)
    }

    /// Room for a new entry. `None`: both lines are full, and nobody in them can move. Owner only.
    pub fn room(&self, hash: KeyHash) -> Option<Room> {
        let mut ids = self.lines(hash).map(|(id, _)| id);
        let found = ids.find(|id| !self.get(*id).is_used());
        let free = |slot| Room {
            slot,
            moves: [None; 2],
        };
        let found = found.map(free);
        let found = found.or_else(|| self.lines(hash).find_map(|(id, _)| self.room_by_move(id)));
        found.or_else(|| self.lines(hash).find_map(|(id, _)| self.room_by_two(id)))
    }

    /// Moves an entry to its other line, if there is room.
    fn room_by_move(&self, id: SlotId) -> Option<Room> {
        let to = self
            .slots_of_other(id)
            .find(|id| !self.get(*id).is_used())?;
        Some(Room {
            slot: id,
            moves: [Some(self.copy(id, to)), None],
        })
    }

    /// Moves an entry to its other line, after it moved one of those there to its own.
    fn room_by_two(&self, id: SlotId) -> Option<Room> {
        let room = self
            .slots_of_other(id)
            .find_map(|id| self.room_by_move(id))?;
        Some(Room {
            slot: id,
            moves: [room.moves[0], Some(self.copy(id, room.slot))],
        })
    }

    fn copy(&self, from: SlotId, to: SlotId) -> (SlotId, SlotId) {
        self.store(to, Slot(self.get(from).0 ^ SECOND));
        (from, to)
    }

    /// Slots of the line where a slot's entry may be too. None where that is the same.
    fn slots_of_other(&self, id: SlotId) -> impl Iterator<Item = SlotId> {
        let other = self.other_line(id.line(), self.get(id).tag());
        slots_of(other).filter(move |_| other != id.line())
    }

    /// Owner only; the slot is one of the hash's lines.
    pub fn set(&self, id: SlotId, hash: KeyHash, location: u64, hot: bool) {
        let hot = if hot { HOT } else { 0 };
        let is_second = id.line() != self.first_line(hash);
        let second = if is_second { SECOND } else { 0 };
        self.store(id, Slot(Slot::new(hash, location).0 | hot | second));
    }

    /// Owner only.
    pub fn clear(&self, id: SlotId) {
        let line = id.line();
        let matters = self.elsewhere[line].load(Ordering::Relaxed) > 0;
        self.store(id, if matters { Slot::FREE } else { Slot::EMPTY });
    }

    /// Owner only.
    pub fn set_hot(&self, id: SlotId, hot: bool) {
        let slot = self.get(id);
        if slot.is_used() && slot.is_hot() != hot {
            self.word(id).store(slot.0 ^ HOT, Ordering::Release);
        }
    }

    pub fn get(&self, id: SlotId) -> Slot {
        Slot(self.word(id).load(Ordering::Acquire))
    }

    /// Writes a slot and keeps the counts of keys that are in their second lines.
    fn store(&self, id: SlotId, slot: Slot) {
        let old = self.get(id);
        if slot.is_second() {
            self.count(self.other_line(id.line(), slot.tag()), 1);
        }
        self.word(id).store(slot.0, Ordering::Release);
        if old.is_second() {
            self.count(self.other_line(id.line(), old.tag()), -1);
        }
    }

    fn count(&self, line: usize, change: i8) {
        let elsewhere = &self.elsewhere[line];
        let before = elsewhere.load(Ordering::Relaxed);
        if before == u8::MAX {
            return;
        }
        let after = before.saturating_add_signed(change);
        elsewhere.store(after, Ordering::Relaxed);
        if after == 0 {
            let free = slots_of(line).filter(|id| self.get(*id) == Slot::FREE);
            free.for_each(|id| self.word(id).store(Slot::EMPTY.0, Ordering::Release));
        }
    }

    /// The lanes of a line whose slots agree with `wanted` but for the hot bit and the location, a bit
    /// each.
    #[inline(always)]
    fn scan(&self, line: usize, wanted: u64) -> u8 {
        // All of it lies in the upper half.
        let mask = ((USED | SECOND | TAG) >> 32) as u32;
        self.table.lines()[line].matches(mask, (wanted >> 32) as u32)
    }

    /// Whether keys of this line may be in their second ones.
    fn is_full(&self, line: usize) -> bool {
        let words = self.table.lines()[line].0.iter();
        words
            .map(|word| word.load(Ordering::Acquire))
            .all(|word| word != Slot::EMPTY.0)
    }

    #[inline(always)]
    fn first_line(&self, hash: KeyHash) -> usize {
        let lines = self.table.lines().len() as u64;
        (((hash.0 & 0xffff_ffff) * lines) >> 32) as usize
    }

    /// The second line of a key by its first, and the first by the second.
    #[inline]
    fn other_line(&self, line: usize, tag: u64) -> usize {
        let lines = self.table.lines().len() as u64;
        let mixed = ((tag >> TAG_SHIFT) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        // A line and its other add up to this, modulo the lines.
        let sum = (mixed * lines) >> 32;
        let other = (sum + lines - line as u64) % lines;
        other as usize
    }

    fn word(&self, id: SlotId) -> &Word {
        &self.table.lines()[id.line()].0[id.0 % LANES]
    }

    /// Damages a slot as a bad memory module would.
    #[cfg(test)]
    pub fn corrupt(&self, id: SlotId, mask: u64) {
        let word = self.word(id);
        word.store(word.load(Ordering::Relaxed) ^ mask, Ordering::Release);
    }
}

/// Slots that may hold a key: those of its first line, then those of its second.
pub(crate) struct Candidates<'a> {
    index: &'a Index,
    line: usize,
    /// Lanes of the line still to be given, a bit each.
    matches: u8,
    /// What to look for in the second line, once the first is through.
    second: Option<u64>,
}

impl Candidates<'_> {
    #[inline(never)]
    fn turn_to_second(&mut self) -> Option<()> {
        let wanted = self.second.take()?;
        if self.index.is_full(self.line) {
            self.line = self.index.other_line(self.line, wanted & TAG);
            self.matches = self.index.scan(self.line, wanted);
        }
        Some(())
    }
}

impl Iterator for Candidates<'_> {
    type Item = (SlotId, Slot);

    #[inline(always)]
    fn next(&mut self) -> Option<(SlotId, Slot)> {
        if self.matches == 0 {
            self.turn_to_second()?;
        }
        if self.matches == 0 {
            return None;
        }
        let lane = self.matches.trailing_zeros() as usize;
        self.matches &= self.matches - 1;
        let id = SlotId(self.line * LANES + lane);
        let word = &self.index.table.lines()[self.line].0[lane % LANES];
        Some((id, Slot(word.load(Ordering::Acquire))))
    }
}

fn slots_of(line: usize) -> impl Iterator<Item = SlotId> {
    (line * LANES..(line + 1) * LANES).map(SlotId)
}

fn tag(hash: KeyHash) -> u64 {
    (hash.0 >> 32) << TAG_SHIFT & TAG
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use hugepages::{Backing, PagePolicy};

    use super::*;

    fn index_of(lines: usize) -> Index {
        let (mut region, _) = Backing::map(lines * 64, PagePolicy::Plain).unwrap();
        Index::new(Table::new(region.take(lines * 64).unwrap()).unwrap())
    }

    fn index() -> Index {
        index_of(64)
    }

    /// A hash of the given line (of 64) and tag.
    fn hash(line: u64, tag: u64) -> KeyHash {
        KeyHash(tag << 32 | line << 26)
    }

    /// Well spread.
    fn nth(n: u64) -> KeyHash {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        KeyHash((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// Adds an entry where there is room for it.
    fn add(index: &Index, hash: KeyHash, location: u64) -> bool {
        let Some(room) = index.room(hash) else {
            return false;
        };
        index.set(room.slot, hash, location, false);
        true
    }

    #[test]
    fn a_slot_is_found_by_tag_and_location() {
        let index = index();
        let (id, _) = index.lines(hash(5, 1)).nth(3).unwrap();
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
        let (id, _) = index.lines(hash(0, 0)).next().unwrap();
        index.set(id, hash(0, 0), 0, false);
        assert_eq!(index.candidates(hash(0, 0)).count(), 1);
    }

    #[test]
    fn the_hot_bit_changes_nothing_else() {
        let index = index();
        let (id, _) = index.lines(hash(9, 77)).next().unwrap();
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
    fn hashes_spread_over_all_lines_and_the_other_of_the_other_is_the_first() {
        for lines in [1, 7, 64] {
            let index = index_of(lines);
            let mut seen = vec![[0u32; 2]; lines];
            for hash in (0..4096).map(nth) {
                let first = index.first_line(hash);
                let second = index.other_line(first, tag(hash));
                assert_eq!(index.other_line(second, tag(hash)), first);
                seen[first][0] += 1;
                seen[second][1] += 1;
            }
            assert!(seen.iter().all(|[first, second]| *first > 0 && *second > 0));
        }
    }

    #[test]
    fn a_full_line_spills_to_second_lines_and_takes_back_the_emptiness() {
        let index = index();
        // Nine keys of one line: the ninth goes to its second line.
        let keys: Vec<_> = (1..10).map(|tag| hash(5, tag)).collect();
        for (location, key) in keys.iter().enumerate() {
            assert!(add(&index, *key, location as u64));
        }
        let slot = |n: usize| index.find(keys[n], n as u64);
        let ninth = slot(8).unwrap();
        assert_ne!(ninth.line(), slot(0).unwrap().line());
        // It is found too when others leave, and a free slot is used again.
        let first = slot(0).unwrap();
        index.clear(first);
        assert_eq!(index.get(first), Slot::FREE);
        assert_eq!(slot(8), Some(ninth));
        assert_eq!(index.room(keys[0]).unwrap().slot, first);
        index.clear(ninth);
        assert_eq!(index.get(first), Slot::EMPTY);
        assert_eq!(slot(8), None);
    }

    #[test]
    fn nineteen_slots_in_twenty_are_used_before_one_is_wanting() {
        let index = index_of(2_000);
        let slots = index.slots() as u64;
        let added = (0..slots).take_while(|n| add(&index, nth(*n), *n)).count() as u64;
        assert!(
            added * 100 >= slots * (LOAD_PERCENT + 1),
            "{added} of {slots}"
        );
        for n in 0..added {
            assert!(index.find(nth(n), n).is_some(), "{n} was lost");
        }
    }

    #[test]
    fn entries_come_and_go_at_high_load_and_none_is_lost() {
        let index = index_of(100);
        let load = index.slots() as u64 * LOAD_PERCENT / 100;
        let mut present: HashMap<u64, ()> = HashMap::new();
        for n in 0..40_000u64 {
            assert!(add(&index, nth(n), n));
            present.insert(n, ());
            if present.len() as u64 > load {
                let gone = *present.keys().next().unwrap();
                present.remove(&gone);
                index.clear(index.find(nth(gone), gone).unwrap());
            }
        }
        assert!(present.keys().all(|n| index.find(nth(*n), *n).is_some()));
        for n in present.keys() {
            index.clear(index.find(nth(*n), *n).unwrap());
        }
        let slots = (0..index.slots()).map(SlotId::of);
        assert!(slots.clone().all(|id| index.get(id) == Slot::EMPTY));
        assert!(
            index
                .elsewhere
                .iter()
                .all(|n| n.load(Ordering::Relaxed) == 0)
        );
    }
}
