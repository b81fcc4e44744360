//! What goes first: frequencies that saturate and age, and a clock over the segments of the log.
//!
//! ```text
//!   new objects ->  young segments --(frequency >= threshold)--> old segments --.
//!                        | else                                   ^   |  ^       |
//!                        v                                        |   |  '-------' halved
//!                     evicted                                     '---'---> evicted
//! ```
//! When memory is needed the oldest young segment is emptied while the young ones take more than
//! their share, else the oldest old one. What was asked for often enough is copied to the old
//! segments and its frequency is halved; the rest goes. So an object that was asked for once leaves
//! after a walk through the young segments, and a hot one stays as long as it is hot. A young
//! segment of which nearly everything is wanted becomes an old one as it is; of an old one the
//! least frequent objects go, so that emptying always frees memory.

use std::collections::VecDeque;

use crate::index::SlotId;

/// Frequencies stop here: an object can miss four walks of the clock before it goes.
const MAX_FREQUENCY: u8 = 15;
/// From here on only one hit in [`HITS_PER_SAMPLE`] is reported.
const HOT_FREQUENCY: u8 = 2;
const HITS_PER_SAMPLE: u32 = 8;
/// Share of the segments that young objects may take when memory is needed: one in this many.
const YOUNG_SHARE: usize = 4;
/// Most of a segment that is copied on, in percent.
const SURVIVOR_PERCENT: u32 = 75;

/// How often each slot's object was hit, as far as it was reported. Known to the owner alone.
#[derive(Debug)]
pub(crate) struct Frequencies(Box<[u8]>);

impl Frequencies {
    pub fn new(slots: usize) -> Self {
        Self(vec![0; slots].into())
    }

    pub fn get(&self, slot: SlotId) -> u8 {
        self.0[slot.number()]
    }

    pub fn is_hot(&self, slot: SlotId) -> bool {
        self.get(slot) >= HOT_FREQUENCY
    }

    pub fn set(&mut self, slot: SlotId, frequency: u8) {
        self.0[slot.number()] = frequency;
    }

    /// Counts a hit; returns whether the object is hot.
    pub fn note(&mut self, slot: SlotId) -> bool {
        let frequency = &mut self.0[slot.number()];
        *frequency = (*frequency + 1).min(MAX_FREQUENCY);
        self.is_hot(slot)
    }

    /// Halves a frequency; returns whether the object is still hot.
    pub fn age(&mut self, slot: SlotId) -> bool {
        let frequency = &mut self.0[slot.number()];
        *frequency /= 2;
        self.is_hot(slot)
    }

    pub fn reset_all(&mut self) {
        self.0.fill(0);
    }
}

/// Chooses one in eight hits of hot objects, and every hit of the others, which are few. The
/// choice does not follow the order of requests, so that no pattern of them escapes it.
#[derive(Debug)]
pub(crate) struct Sampler(u32);

impl Sampler {
    pub fn new(seed: u8) -> Self {
        Self(0x9e37_79b9 ^ u32::from(seed))
    }

    #[inline]
    pub fn takes(&mut self, hot: bool) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        !hot || self.0.is_multiple_of(HITS_PER_SAMPLE)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Young,
    Old,
}

/// Sealed segments of the log, oldest first.
#[derive(Debug, Default)]
pub(crate) struct SegmentClock {
    young: VecDeque<u32>,
    old: VecDeque<u32>,
}

impl SegmentClock {
    pub fn push(&mut self, age: Age, segment: u32) {
        self.queue(age).push_back(segment);
    }

    /// Takes the segment to empty next, of `segments` in all. Pinned ones are passed over.
    pub fn pick(&mut self, segments: u32, is_pinned: impl Fn(u32) -> bool) -> Option<(Age, u32)> {
        let young_is_due = self.young.len() >= segments as usize / YOUNG_SHARE;
        let order = match young_is_due {
            true => [Age::Young, Age::Old],
            false => [Age::Old, Age::Young],
        };
        order.into_iter().find_map(|age| {
            let queue = self.queue(age);
            let at = queue.iter().position(|segment| !is_pinned(*segment))?;
            queue.remove(at).map(|segment| (age, segment))
        })
    }

    fn queue(&mut self, age: Age) -> &mut VecDeque<u32> {
        match age {
            Age::Young => &mut self.young,
            Age::Old => &mut self.old,
        }
    }
}

/// Bytes of a segment by the frequency of the object they belong to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census([u32; MAX_FREQUENCY as usize + 1]);

impl Census {
    pub fn add(&mut self, frequency: u8, bytes: u32) {
        self.0[usize::from(frequency.min(MAX_FREQUENCY))] += bytes;
    }

    /// For what must stay as long as there is room.
    pub fn add_wanted(&mut self, bytes: u32) {
        self.add(MAX_FREQUENCY, bytes);
    }

    /// The lowest frequency from which objects can survive within `budget` bytes: at least one
    /// hit after the one that brought the object in.
    pub fn threshold(&self, budget: u32) -> u8 {
        let mut left = budget;
        let mut threshold = MAX_FREQUENCY + 1;
        while threshold > 1 {
            let bytes = self.0[usize::from(threshold) - 1];
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => break,
            }
            threshold -= 1;
        }
        threshold.min(MAX_FREQUENCY)
    }

    /// Whether more is asked for than may be copied.
    pub fn exceeds(&self, budget: u32) -> bool {
        self.0[1..].iter().sum::<u32>() > budget
    }
}

/// Bytes that may be copied out of a segment.
pub(crate) fn survivor_budget(segment_bytes: u32) -> u32 {
    segment_bytes / 100 * SURVIVOR_PERCENT
}

#[cfg(test)]
mod tests {
    use hugepages::{Backing, PagePolicy, Table};

    use super::*;
    use crate::index::Index;
    use crate::store::KeyHash;

    #[test]
    fn frequencies_saturate_and_age() {
        let (region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        let index = Index::new(Table::new(region).unwrap());
        let (slot, _) = index.line(KeyHash(1)).nth(1).unwrap();
        let mut frequencies = Frequencies::new(index.slots());
        assert!(!frequencies.note(slot));
        assert!(frequencies.note(slot));
        for _ in 0..300 {
            frequencies.note(slot);
        }
        assert_eq!(frequencies.get(slot), MAX_FREQUENCY);
        let hot: Vec<bool> = (0..4).map(|_| frequencies.age(slot)).collect();
        assert_eq!(hot, [true, true, false, false]);
        assert_eq!(frequencies.get(slot), 0);
    }

    #[test]
    fn hits_of_hot_objects_are_sampled_in_every_pattern() {
        let mut sampler = Sampler::new(3);
        assert!((0..100).all(|_| sampler.takes(false)));
        // Eight objects asked for in turn: each must be noticed about as often.
        let mut taken = [0u32; 8];
        for i in 0..80_000 {
            taken[i % 8] += u32::from(sampler.takes(true));
        }
        assert!(
            taken.iter().all(|n| (1_000..1_500).contains(n)),
            "{taken:?}"
        );
    }

    #[test]
    fn young_segments_go_first_while_they_exceed_their_share() {
        let mut clock = SegmentClock::default();
        (0..4).for_each(|segment| clock.push(Age::Old, segment));
        (10..13).for_each(|segment| clock.push(Age::Young, segment));
        let mut order = Vec::new();
        while let Some((_, segment)) = clock.pick(8, |_| false) {
            order.push(segment);
        }
        assert_eq!(order, [10, 11, 0, 1, 2, 3, 12]);
    }

    #[test]
    fn pinned_segments_are_passed_over() {
        let mut clock = SegmentClock::default();
        clock.push(Age::Young, 1);
        clock.push(Age::Young, 2);
        clock.push(Age::Old, 3);
        assert_eq!(clock.pick(4, |segment| segment == 1), Some((Age::Young, 2)));
        assert_eq!(clock.pick(4, |segment| segment == 1), Some((Age::Old, 3)));
        assert_eq!(clock.pick(4, |segment| segment == 1), None);
        assert_eq!(clock.pick(4, |_| false), Some((Age::Young, 1)));
    }

    #[test]
    fn the_least_frequent_go_when_not_all_can_stay() {
        let mut census = Census::default();
        assert_eq!(census.threshold(100), 1);
        census.add(0, 1_000);
        census.add(1, 50);
        census.add(7, 40);
        assert_eq!((census.threshold(100), census.exceeds(100)), (1, false));
        census.add_wanted(20);
        assert_eq!((census.threshold(100), census.exceeds(100)), (2, true));
        census.add_wanted(50);
        assert_eq!(census.threshold(100), 8);
        census.add_wanted(50);
        assert_eq!(census.threshold(100), MAX_FREQUENCY);
    }
}
