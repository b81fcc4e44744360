//! From key hash to record: 12 bytes a slot, eight slots a bucket, two buckets a hash.
//!
//! ```text
//!  slot   fingerprint u32 | word u64
//!  word   [ version 14 | pinned 1 | life 5 | length 10 | location 34 ]     0: empty
//! ```
//! *Location* is the record's place in units of 64 bytes of all of the shard's segments, *length*
//! its rounded-up length, *life* the low bits of how often its segment was begun anew: an entry
//! whose segment has another life is dead, so that freeing a segment touches no entry. Dead entries
//! are overwritten by insertions and swept a few at a time, before their segment's life comes round.
//!
//! An entry is a hint. The record says what it is, with its whole key.

use crate::store::{KeyHash, ObjectMeta};

const SLOTS: usize = 8;
pub(super) const LIVES: u8 = 32;

/// Ready-made place of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// In units of 64 bytes, over all segments of the shard.
    pub location: u64,
    /// At least what the record takes, in units of 64 bytes.
    pub units: u32,
    pub life: u8,
    pub pinned: bool,
    pub version: u16,
}

/// What tells two objects of one key apart, for most purposes.
pub(super) fn version(meta: &ObjectMeta) -> u16 {
    let mixed = meta.stored_unix_ms
        ^ meta.body_len.rotate_left(40)
        ^ u64::from(meta.stamp).rotate_left(20)
        ^ u64::from(meta.status).rotate_left(50);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16
}

impl Entry {
    fn encode(self) -> u64 {
        self.location
            | u64::from(encode_units(self.units)) << 34
            | u64::from(self.life) << 44
            | u64::from(self.pinned) << 49
            | u64::from(self.version) << 50
    }

    fn decode(word: u64) -> Self {
        Self {
            location: word & ((1 << 34) - 1),
            units: decode_units((word >> 34) as u16 & 0x3ff),
            life: (word >> 44) as u8 & (LIVES - 1),
            pinned: word >> 49 & 1 == 1,
            version: (word >> 50) as u16,
        }
    }
}

/// Four bits of exponent, six of mantissa, rounded up.
fn encode_units(units: u32) -> u16 {
    let shift = (32 - units.leading_zeros()).saturating_sub(6);
    let mantissa = units.div_ceil(1 << shift);
    match mantissa {
        64 => (shift as u16 + 1) << 6 | 32,
        _ => (shift as u16) << 6 | mantissa as u16,
    }
}

fn decode_units(code: u16) -> u32 {
    u32::from(code & 63) << (code >> 6)
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    fingerprint: u32,
    word: [u32; 2],
}

impl Slot {
    fn word(self) -> u64 {
        u64::from(self.word[1]) << 32 | u64::from(self.word[0])
    }

    fn new(fingerprint: u32, word: u64) -> Self {
        Self {
            fingerprint,
            word: [word as u32, (word >> 32) as u32],
        }
    }
}

/// A slot's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId(usize);

#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<Slot>,
    buckets: usize,
    /// Where sweeping goes on.
    swept: usize,
}

/// What came of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    Replaced(Entry),
    /// What is there is newer.
    Older,
    /// Both buckets are full of living entries.
    Full,
}

impl Index {
    /// With room for `objects`: five sixths of the slots, which two buckets a hash can fill.
    pub fn new(objects: u64) -> Self {
        let slots = usize::try_from(objects).unwrap_or(usize::MAX / 64);
        let buckets = (slots / 5 * 6 / SLOTS).max(2);
        Self {
            slots: vec![Slot::default(); buckets * SLOTS],
            buckets,
            swept: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        (self.slots.len() * size_of::<Slot>()) as u64
    }

    /// The object's entry, if it is alive.
    pub fn find(&self, hash: KeyHash, alive: impl Fn(Entry) -> bool) -> Option<(SlotId, Entry)> {
        let name = Name::of(hash, self.buckets);
        for slot in name.slots() {
            let found = self.slots[slot];
            if found.fingerprint == name.fingerprint && found.word() != 0 {
                let entry = Entry::decode(found.word());
                if alive(entry) {
                    return Some((SlotId(slot), entry));
                }
            }
        }
        None
    }

    /// Puts an entry in, in place of a living one of the same hash if it is `newer` than that.
    pub fn insert(
        &mut self,
        hash: KeyHash,
        entry: Entry,
        alive: impl Fn(Entry) -> bool,
        newer: impl Fn(Entry) -> bool,
    ) -> Inserted {
        let name = Name::of(hash, self.buckets);
        let new = Slot::new(name.fingerprint, entry.encode());
        if let Some((SlotId(slot), old)) = self.find(hash, &alive) {
            if !newer(old) {
                return Inserted::Older;
            }
            self.slots[slot] = new;
            return Inserted::Replaced(old);
        }
        let Some(slot) = self.make_room(&name, &alive) else {
            return Inserted::Full;
        };
        self.slots[slot] = new;
        Inserted::New
    }

    /// A slot of one of the two buckets, the emptier one, or one that is emptied by moving what it
    /// names to its other bucket.
    fn make_room(&mut self, name: &Name, alive: &impl Fn(Entry) -> bool) -> Option<usize> {
        let [first, second] = name.buckets.map(|bucket| self.room(bucket, alive));
        if let Some((_, slot)) = first.max(second) {
            return Some(slot);
        }
        let moved = name.slots().find_map(|slot| {
            let bucket = slot / SLOTS;
            let other = other_bucket(self.slots[slot].fingerprint, bucket, self.buckets);
            Some((slot, self.room(other, alive)?.1))
        });
        let (slot, free) = moved?;
        self.slots[free] = self.slots[slot];
        Some(slot)
    }

    /// How many slots of a bucket are free, and one of them.
    /// Whether entries live is asked only where no slot is empty.
    fn room(&self, bucket: usize, alive: &impl Fn(Entry) -> bool) -> Option<(usize, usize)> {
        let slots = bucket * SLOTS..(bucket + 1) * SLOTS;
        let mut empty = slots.clone().filter(|slot| self.slots[*slot].word() == 0);
        if let Some(slot) = empty.next() {
            return Some((1 + empty.count(), slot));
        }
        let mut free = slots.filter(|slot| !self.is_alive(*slot, alive));
        let slot = free.next()?;
        Some((1 + free.count(), slot))
    }

    /// To be told of before a hash is inserted or found.
    pub fn bring_near(&self, hash: KeyHash) {
        for bucket in Name::of(hash, self.buckets).buckets {
            let slots = &self.slots[bucket * SLOTS..(bucket + 1) * SLOTS];
            hugepages::prefetch(&slots[0]);
            hugepages::prefetch(&slots[SLOTS - 1]);
        }
    }

    pub fn set(&mut self, SlotId(slot): SlotId, entry: Entry) {
        let fingerprint = self.slots[slot].fingerprint;
        self.slots[slot] = Slot::new(fingerprint, entry.encode());
    }

    pub fn remove(&mut self, SlotId(slot): SlotId) {
        self.slots[slot] = Slot::default();
    }

    /// Empties dead slots of the next part of the index, one `parts`th of it.
    pub fn sweep(&mut self, parts: u32, alive: impl Fn(Entry) -> bool) {
        let count = self.slots.len().div_ceil(parts.max(1) as usize);
        for _ in 0..count {
            if !self.is_alive(self.swept, &alive) {
                self.slots[self.swept] = Slot::default();
            }
            self.swept = (self.swept + 1) % self.slots.len();
        }
    }

    /// Every entry, dead or alive.
    #[cfg(test)]
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let taken = self.slots.iter().filter(|slot| slot.word() != 0);
        taken.map(|slot| Entry::decode(slot.word()))
    }

    fn is_alive(&self, slot: usize, alive: &impl Fn(Entry) -> bool) -> bool {
        let word = self.slots[slot].word();
        word != 0 && alive(Entry::decode(word))
    }
}

/// Where a hash may lie.
struct Name {
    fingerprint: u32,
    buckets: [usize; 2],
}

impl Name {
    /// The owner of a key is chosen by the hash's upper bits, so all are mixed.
    fn of(hash: KeyHash, buckets: usize) -> Self {
        let mixed = (hash.0 ^ hash.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let fingerprint = hash.0 as u32;
        let first = scale((mixed >> 32) as u32, buckets);
        Self {
            fingerprint,
            buckets: [first, other_bucket(fingerprint, first, buckets)],
        }
    }

    fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        let [first, second] = self.buckets;
        let both = (first * SLOTS..(first + 1) * SLOTS).chain(second * SLOTS..(second + 1) * SLOTS);
        both.take(if first == second { SLOTS } else { 2 * SLOTS })
    }
}

/// The other bucket of an entry: the two add up to a number that the fingerprint gives, so that each
/// gives the other.
fn other_bucket(fingerprint: u32, bucket: usize, buckets: usize) -> usize {
    let sum = scale(
        fingerprint.wrapping_mul(0x85eb_ca6b).rotate_left(13),
        buckets,
    );
    match sum.checked_sub(bucket) {
        Some(other) => other,
        None => sum + buckets - bucket,
    }
}

fn scale(part: u32, buckets: usize) -> usize {
    ((u64::from(part) * buckets as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn entry(location: u64) -> Entry {
        Entry {
            location,
            units: 63,
            life: (location % 32) as u8,
            pinned: location.is_multiple_of(3),
            version: (location % (1 << 14)) as u16,
        }
    }

    #[test]
    fn entries_survive_their_encoding() {
        for location in [64, 65, 1 << 20, (1 << 34) - 1] {
            assert_eq!(Entry::decode(entry(location).encode()), entry(location));
        }
    }

    #[test]
    fn lengths_are_rounded_up_by_a_thirty_second_at_most() {
        for units in (1..5_000)
            .chain((5_000..1 << 20).step_by(997))
            .chain([1 << 20])
        {
            let code = encode_units(units);
            assert!(code < 1 << 10);
            let back = decode_units(code);
            assert!(
                back >= units && back <= units + units / 32,
                "{units}: {back}"
            );
        }
    }

    fn hash(number: u64) -> KeyHash {
        KeyHash(number.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(23) ^ number << 7)
    }

    #[test]
    fn it_holds_what_it_was_made_for_and_says_when_it_is_full() {
        let objects = 10_000;
        let mut index = Index::new(objects);
        for number in 1..=objects {
            let inserted = index.insert(hash(number), entry(number), |_| true, |_| true);
            assert_eq!(inserted, Inserted::New, "{number} of {objects}");
        }
        for number in 1..=objects {
            let found = index.find(hash(number), |_| true).unwrap();
            assert_eq!(found.1, entry(number));
        }
        let more = objects + 1..objects * 2;
        let refused = more
            .filter(|number| {
                index.insert(hash(*number), entry(*number), |_| true, |_| true) == Inserted::Full
            })
            .count();
        assert!(refused > 0);
        assert!(index.bytes() / objects <= 16);
    }

    #[test]
    fn dead_entries_are_not_found_and_give_room() {
        let mut index = Index::new(1_000);
        for number in 1..=1_000 {
            index.insert(hash(number), entry(number), |_| true, |_| true);
        }
        let alive = |entry: Entry| entry.life != 3;
        let mut model: HashMap<u64, u64> = (1..=1_000).map(|number| (number, number)).collect();
        model.retain(|_, location| *location % 32 != 3);
        for number in 1..=1_000 {
            let found = index
                .find(hash(number), alive)
                .map(|found| found.1.location);
            assert_eq!(found, model.get(&number).copied());
        }
        index.sweep(1, alive);
        assert_eq!(index.entries().count(), model.len());
        let replaced = index.insert(hash(4), entry(5), alive, |_| true);
        assert_eq!(replaced, Inserted::Replaced(entry(4)));
        let refused = index.insert(hash(4), entry(6), alive, |_| false);
        assert_eq!(refused, Inserted::Older);
    }

    #[test]
    fn a_removed_entry_is_gone() {
        let mut index = Index::new(100);
        index.insert(hash(1), entry(100), |_| true, |_| true);
        let (slot, _) = index.find(hash(1), |_| true).unwrap();
        index.remove(slot);
        assert_eq!(index.find(hash(1), |_| true), None);
    }
}
