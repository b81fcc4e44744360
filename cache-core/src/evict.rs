//! What goes first, in the terms of [`crate::policy`]: what is known of each slot's object, and what
//! segments of the log are worth.
//!
//! ```text
//!   sealed segments, each with the value it had when it was last looked through
//!      |                ^
//!      | a few a round  | census of ranks
//!      '----------------'
//!      | the least value
//!      v
//!   emptied: the better half is copied on, the rest is evicted
//! ```
//! The value of a segment is what its worse half is worth for each byte that emptying it would free. A
//! segment keeps its value until its turn comes to be looked through again; before it is emptied it
//! is looked through once more, so that a value that is out of date costs a walk and no object.

use std::collections::VecDeque;

use crate::index::SlotId;
pub(crate) use crate::policy::HITS_PER_SAMPLE;
use crate::policy::Meta;

/// Most of a segment that is copied on, in percent.
const SURVIVOR_PERCENT: u32 = 50;

/// What the policy knows of each slot's object. Known to the owner alone.
#[derive(Debug)]
pub(crate) struct Metas(Box<[Meta]>);

impl Metas {
    pub fn new(slots: usize) -> Self {
        Self(vec![Meta::default(); slots].into())
    }

    pub fn get(&self, slot: SlotId) -> Meta {
        self.0[slot.number()]
    }

    /// To be told of before it is asked for.
    #[inline]
    pub fn bring_near(&self, slot: SlotId) {
        hugepages::prefetch(&self.0[slot.number()]);
    }

    pub fn set(&mut self, slot: SlotId, meta: Meta) {
        self.0[slot.number()] = meta;
    }

    /// Bytes that `slots` take.
    pub fn bytes(slots: u64) -> u64 {
        slots * size_of::<Meta>() as u64
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
        // Not `||`: the bit is as good as random, and a branch on it would be guessed.
        !hot | self.0.is_multiple_of(HITS_PER_SAMPLE)
    }
}

/// What a segment of the log is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Fills,
    Survivors,
    Pins,
}

pub(crate) const SOURCES: usize = 3;

/// Sealed segments of the log and what they are worth.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// By segment; `None`: not sealed.
    values: Box<[Option<f32>]>,
    /// Those that were never looked through.
    unknown: VecDeque<u32>,
    /// The next to be looked through again.
    hand: usize,
}

impl Sealed {
    pub fn new(segments: u32) -> Self {
        Self {
            values: vec![None; segments as usize].into(),
            unknown: VecDeque::new(),
            hand: 0,
        }
    }

    /// Takes a segment in that was just sealed.
    pub fn push(&mut self, segment: u32) {
        self.values[segment as usize] = Some(f32::INFINITY);
        self.unknown.push_back(segment);
    }

    pub fn contains(&self, segment: u32) -> bool {
        self.values[segment as usize].is_some()
    }

    /// Keeps what a segment was found to be worth.
    pub fn set(&mut self, segment: u32, value: f32) {
        if let Some(known) = &mut self.values[segment as usize] {
            *known = value;
        }
    }

    /// All segments are worth nothing until they are looked through.
    pub fn reset_all(&mut self) {
        self.values.iter_mut().flatten().for_each(|v| *v = 0.0);
    }

    /// A segment that was never looked through, the oldest first. Given once.
    pub fn unknown(&mut self) -> Option<u32> {
        while let Some(segment) = self.unknown.pop_front() {
            if self.values[segment as usize].is_some() {
                return Some(segment);
            }
        }
        None
    }

    /// The segment to be looked through again next: all take turns.
    pub fn stalest(&mut self) -> Option<u32> {
        let all = self.values.len();
        let order = (self.hand..all).chain(0..self.hand);
        let found = order.into_iter().find(|i| self.values[*i].is_some())?;
        self.hand = (found + 1) % all;
        Some(found as u32)
    }

    /// The segment of the least value, and that value, leaving out the pinned ones.
    pub fn least(&self, is_pinned: impl Fn(u32) -> bool) -> Option<(u32, f32)> {
        let valued = self.values.iter().enumerate();
        valued
            .filter_map(|(segment, value)| Some((segment as u32, (*value)?)))
            .filter(|(segment, _)| !is_pinned(*segment))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    pub fn remove(&mut self, segment: u32) {
        self.values[segment as usize] = None;
    }
}

/// Ranks are told apart in so many steps, four an octave.
const STEPS: usize = 256;
/// What a rank's bits are shifted by to leave its exponent and the two bits below.
const STEP_SHIFT: u32 = 21;
/// The step of ranks up to 2^-61; those above 2^3 share the last.
const FIRST_STEP: u32 = (127 - 61) << 2;

fn step(rank: f32) -> usize {
    let step = (rank.max(0.0).to_bits() >> STEP_SHIFT).saturating_sub(FIRST_STEP);
    (step as usize).min(STEPS - 1)
}

/// Bytes of a segment by the rank of the object that they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    bytes: [u32; STEPS],
    worth: [f32; STEPS],
}

/// Which objects of a segment are copied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    step: usize,
    /// Bytes left for objects above the step, and for those on it.
    above: u32,
    on: u32,
}

impl Census {
    pub fn new() -> Self {
        Self {
            bytes: [0; STEPS],
            worth: [0.0; STEPS],
        }
    }

    pub fn add(&mut self, rank: f32, bytes: u32) {
        let step = step(rank);
        self.bytes[step] += bytes;
        self.worth[step] += rank * bytes as f32;
    }

    /// Of a segment of so many bytes: what is to be kept, and what the rest is worth for each
    /// byte that is freed.
    pub fn judge(&self, segment_bytes: u32) -> (Keep, f32) {
        let budget = segment_bytes / 100 * SURVIVOR_PERCENT;
        let (mut left, mut step) = (budget, STEPS - 1);
        // What is on the last step is worth nothing, and not kept.
        while step > 1 && self.bytes[step] <= left {
            left -= self.bytes[step];
            step -= 1;
        }
        let on = left.min(self.bytes[step]);
        let keep = Keep {
            step,
            above: budget - left,
            on,
        };
        let split = f64::from(self.bytes[step] - on) / f64::from(self.bytes[step].max(1));
        let below: f64 = self.worth[..step].iter().copied().map(f64::from).sum();
        let lost = below + f64::from(self.worth[step]) * split;
        let freed = f64::from((segment_bytes - keep.above - on).max(1));
        (keep, (lost / freed) as f32)
    }
}

impl Keep {
    /// Whether a record of this rank and length is copied on; takes it out of what is left.
    pub fn takes(&mut self, rank: f32, bytes: u32) -> bool {
        match step(rank).cmp(&self.step) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => take(&mut self.on, bytes),
            std::cmp::Ordering::Greater => {
                take(&mut self.above, bytes) || take(&mut self.on, bytes)
            }
        }
    }
}

fn take(left: &mut u32, bytes: u32) -> bool {
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_least_value_goes_and_pinned_segments_are_passed_over() {
        let mut sealed = Sealed::new(8);
        assert_eq!((sealed.stalest(), sealed.unknown()), (None, None));
        assert_eq!(sealed.least(|_| false), None);
        [5, 2, 7].into_iter().for_each(|s| sealed.push(s));
        sealed.set(5, 3.0);
        sealed.set(2, 1.0);
        sealed.set(0, 0.5);
        assert_eq!(sealed.least(|_| false), Some((2, 1.0)));
        assert_eq!(sealed.least(|s| s == 2), Some((5, 3.0)));
        sealed.remove(2);
        assert_eq!(sealed.least(|s| s == 5), Some((7, f32::INFINITY)));
        sealed.reset_all();
        assert_eq!(sealed.least(|_| false), Some((5, 0.0)));
    }

    #[test]
    fn all_segments_are_looked_through_in_turn() {
        let mut sealed = Sealed::new(4);
        [3, 0, 1].into_iter().for_each(|s| sealed.push(s));
        sealed.remove(0);
        let new = [(); 3].map(|()| sealed.unknown());
        assert_eq!(new, [Some(3), Some(1), None]);
        let again = [(); 3].map(|()| sealed.stalest());
        assert_eq!(again, [Some(1), Some(3), Some(1)]);
    }

    #[test]
    fn the_better_half_stays() {
        let mut census = Census::new();
        census.add(0.001, 3_000);
        census.add(0.1, 4_000);
        census.add(0.5, 2_000);
        let (mut keep, value) = census.judge(10_000);
        // 3,000 of the middle fit; 1,000 of them and all that is below are lost.
        let lost = 0.1 * 1_000.0 + 0.001 * 3_000.0;
        assert!((value - lost / 5_000.0).abs() < 1e-4, "{value}");
        assert!(keep.takes(0.1, 2_000) && keep.takes(0.5, 2_000));
        assert!(keep.takes(0.1, 1_000) && !keep.takes(0.1, 1) && !keep.takes(0.001, 1));
        assert!(!keep.takes(0.5, 1));
    }

    #[test]
    fn what_is_worth_nothing_is_not_kept() {
        let mut census = Census::new();
        census.add(0.0, 8_000);
        census.add(0.1, 500);
        let (mut keep, value) = census.judge(10_000);
        assert!(keep.takes(0.1, 500) && !keep.takes(0.0, 1) && value == 0.0);
    }

    #[test]
    fn ranks_of_any_size_have_a_step() {
        let ranks = [-1.0, 0.0, 1e-30, 1e-12, 1e-6, 0.1, 0.12, 1.0, 7.9, 1e30];
        let steps = ranks.map(step);
        assert!(steps.is_sorted() && steps[9] == STEPS - 1 && steps[3] > 0);
        assert_eq!(step(f32::NAN), 0);
    }
}
