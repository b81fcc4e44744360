//! What was evicted lately, in 4 bytes an object.
//!
//! ```text
//!  set    [ ghost | ghost | ... | ghost ]     8 ghosts, 32 bytes
//!  ghost  fingerprint:12 | time:13 | class:7  0: empty
//! ```
//! Sets are by hash; of a full set the ghost makes way that is worth least. Time is that of the last request,
//! coarse and modulo its range. Ghosts older than the range count as younger than they are, so what
//! is older than most of it is forgotten as it is met.

use super::learner::{CLASSES, Class};

const WAYS: usize = 8;
const CLASS_BITS: u32 = 7;
const TIME_BITS: u32 = 13;
const TIME_RANGE: u32 = 1 << TIME_BITS;
/// Units of time in which as many requests pass as the history has entries.
const UNITS_PER_LENGTH: usize = 256;
/// Ghosts that are older, in units, are forgotten.
const OLDEST: u32 = TIME_RANGE - TIME_RANGE / 8;

/// An evicted object: its class, and the time since its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ghost {
    pub class: Class,
    pub age: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry(u32);

impl Entry {
    fn new(fingerprint: u32, time: u32, class: Class) -> Self {
        let time = (time % TIME_RANGE) << CLASS_BITS;
        Self(fingerprint << (TIME_BITS + CLASS_BITS) | time | u32::from(class.number()))
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn fingerprint(self) -> u32 {
        self.0 >> (TIME_BITS + CLASS_BITS)
    }

    /// In units.
    fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 >> CLASS_BITS) % TIME_RANGE
    }

    fn class(self) -> Class {
        Class::of((self.0 % (1 << CLASS_BITS)) as u8)
    }
}

#[derive(Debug)]
pub(super) struct History {
    sets: Box<[[Entry; WAYS]]>,
    /// Times of the caller that make a unit are `1 << shift`.
    shift: u32,
    /// Where the next sample begins.
    hand: usize,
}

impl History {
    pub fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).max(1);
        Self {
            sets: vec![[Entry::default(); WAYS]; sets].into(),
            shift: (sets * WAYS / UNITS_PER_LENGTH).max(1).ilog2(),
            hand: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.sets.len() * WAYS
    }

    pub fn bytes_for(entries: usize) -> usize {
        entries.div_ceil(WAYS).max(1) * size_of::<[Entry; WAYS]>()
    }

    /// Takes a ghost out, if the key has one.
    pub fn take(&mut self, hash: u64, now: u32) -> Option<Ghost> {
        let (now, shift) = (now >> self.shift, self.shift);
        let set = self.set(hash);
        let is_its = |entry: &&mut Entry| entry.fingerprint() == fingerprint(hash);
        let entry = set.iter_mut().find(is_its)?;
        let ghost = ghost(*entry, now, shift);
        *entry = Entry::default();
        ghost
    }

    /// Remembers an object; gives the ghost that is forgotten for it, which is the one worth least.
    pub fn put(
        &mut self,
        hash: u64,
        evicted: Ghost,
        now: u32,
        rank: impl Fn(Ghost) -> f32,
    ) -> Option<Ghost> {
        let (now, shift) = (now >> self.shift, self.shift);
        let time = now.wrapping_sub(evicted.age >> shift);
        let set = self.set(hash);
        let worth = |entry: &&mut Entry| ghost(**entry, now, shift).map_or(-1.0, &rank);
        let least = set
            .iter_mut()
            .min_by(|one, other| worth(one).total_cmp(&worth(other)))?;
        let forgotten = ghost(*least, now, shift);
        *least = Entry::new(fingerprint(hash), time, evicted.class);
        forgotten
    }

    /// Ghosts of up to `most` entries that follow each other, and how many each ghost stands for.
    /// Drops those that are too old to tell their age.
    pub fn sample(&mut self, most: usize, now: u32) -> (impl Iterator<Item = Ghost>, f32) {
        let now = now >> self.shift;
        let shift = self.shift;
        let all = self.sets.len();
        let count = all.min(most / WAYS);
        let first = self.hand;
        self.hand = (first + count) % all;
        for number in first..first + count {
            for entry in &mut self.sets[number % all] {
                if entry.age(now) > OLDEST {
                    *entry = Entry::default();
                }
            }
        }
        let sets = &self.sets;
        let sets = (first..first + count).map(move |number| &sets[number % all]);
        let ghosts = sets
            .flatten()
            .filter_map(move |entry| ghost(*entry, now, shift));
        (ghosts, all as f32 / count as f32)
    }

    fn set(&mut self, hash: u64) -> &mut [Entry; WAYS] {
        let number = (u128::from(hash) * self.sets.len() as u128) >> 64;
        &mut self.sets[number as usize]
    }
}

fn ghost(entry: Entry, now: u32, shift: u32) -> Option<Ghost> {
    (!entry.is_empty()).then(|| Ghost {
        class: entry.class(),
        age: entry.age(now) << shift,
    })
}

/// Never 0, so that no ghost looks empty.
fn fingerprint(hash: u64) -> u32 {
    (hash as u32 & 0xfff).max(1)
}

const _: () = assert!(CLASSES <= 1 << CLASS_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(class: u8, age: u32) -> Ghost {
        Ghost {
            class: Class::of(class),
            age,
        }
    }

    /// What is oldest is worth least.
    fn oldest(ghost: Ghost) -> f32 {
        1.0 / (1.0 + ghost.age as f32)
    }

    #[test]
    fn a_ghost_is_found_once_and_has_aged() {
        let mut history = History::new(4096);
        assert_eq!(history.take(5 << 40 | 77, 10_000), None);
        assert_eq!(
            history.put(5 << 40 | 77, evicted(33, 100), 10_000, oldest),
            None
        );
        assert_eq!(history.take(5 << 40 | 78, 10_000), None);
        let ghost = history.take(5 << 40 | 77, 12_000).unwrap();
        assert_eq!(ghost.class, Class::of(33));
        assert!((2_060..=2_140).contains(&ghost.age), "{ghost:?}");
        assert_eq!(history.take(5 << 40 | 77, 12_000), None);
    }

    #[test]
    fn the_least_of_a_set_makes_way() {
        let mut history = History::new(WAYS);
        for i in 1..=WAYS as u64 {
            assert_eq!(
                history.put(i, evicted(i as u8, 10), i as u32 * 100, oldest),
                None
            );
        }
        let forgotten = history.put(99, evicted(99, 0), 1_000, oldest).unwrap();
        assert_eq!(forgotten.class, Class::of(1));
        assert!(history.take(1, 1_000).is_none() && history.take(2, 1_000).is_some());
    }

    #[test]
    fn samples_go_round_and_drop_what_is_too_old() {
        let mut history = History::new(64 * WAYS);
        for i in 0..64u64 {
            history.put(i << 58, evicted(7, 0), 0, oldest);
        }
        let (ghosts, weight) = history.sample(16 * WAYS, 0);
        assert_eq!((ghosts.count(), weight), (16, 4.0));
        let late = OLDEST * 2 + 2;
        let (ghosts, _) = history.sample(16 * WAYS, late);
        assert_eq!(ghosts.count(), 0);
        let (ghosts, weight) = history.sample(usize::MAX, 0);
        assert_eq!((ghosts.count(), weight), (48, 1.0));
    }
}
