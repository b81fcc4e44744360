//! Ranks of classes at ages, from what was seen.
//!
//! For each class and age there are counts of the objects that came back, of those that were forgotten and
//! of those that still wait. They give the likelihood that an object that has waited so long comes
//! in the next interval of age (a hazard, as Kaplan and Meier estimate it from observations that are
//! cut off). A class that was seldom seen leans on all classes of its frequency, and these on all. The
//! rank of an age is the most hits per unit of time that waiting brings from there on, whenever one
//! stops waiting (Gittins' index).

use std::array;

const FREQUENCIES: usize = 8;
const GAPS: usize = 13;
/// Objects asked for once are told apart by size instead, in octaves from 256 bytes.
const SMALLEST_OCTAVE: u32 = 8;
pub(super) const CLASSES: usize = FREQUENCIES * GAPS;
/// Intervals of age: four an octave.
const AGES: usize = 80;
/// Counts lose this part every round.
const KEEP: f32 = 0.97;
/// A class with so many observations weighs as much as what it leans on.
const LEAN: f32 = 20.0;
/// So many that were expected to come weigh as much as that a class comes as often as what it leans on.
const LEVEL: f32 = 5.0;
/// What an interval of age counts in this at the next.
const NEAR: f32 = 0.8;
/// Part of what is seen at an age that counts at each of the next younger and older ones: where little is
/// seen, chance would have peaks, and ranks are the most of what follows.
const SPREAD: f32 = 0.33;

/// How often an object was asked for, and how long it had waited each time: the mean of the powers of four,
/// the last times counting most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u8);

impl Class {
    /// Asked for once: what is known is the size, in bytes.
    pub fn new(size: u32) -> Self {
        let octave = size.max(1).ilog2().saturating_sub(SMALLEST_OCTAVE);
        Self((octave as usize).min(GAPS - 1) as u8)
    }

    pub fn of(number: u8) -> Self {
        Self(number.min(CLASSES as u8 - 1))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// About how many requests it takes to get here.
    pub fn requests(self) -> u8 {
        match self.frequency() as u32 {
            f @ 0..=3 => f as u8 + 1,
            f => 2 + (1 << (f - 2)),
        }
    }

    /// Asked for four times or more.
    pub fn is_frequent(self) -> bool {
        self.frequency() >= 3
    }

    fn frequency(self) -> usize {
        usize::from(self.0) / GAPS
    }

    /// The class after a request that came at `age`. Frequencies above 2 are doublings: each is
    /// reached by chance, as often as by counting.
    fn next(self, age: u32, random: u32) -> Self {
        let frequency = self.frequency();
        let odds = match frequency {
            0..=2 => 1,
            f => 1 << (f - 2).min(8),
        };
        let more = usize::from(random.is_multiple_of(odds));
        // One time alone is mostly chance: the new one counts as much as all before it. Half a step is rounded by
        // chance, as often up as down.
        let gap = match self.frequency() {
            0 => gap(age),
            _ => (usize::from(self.0) % GAPS + gap(age) + (random >> 31) as usize) / 2,
        };
        let frequency = (frequency + more).min(FREQUENCIES - 1);
        Self((frequency * GAPS + gap) as u8)
    }
}

/// Powers of four.
fn gap(age: u32) -> usize {
    ((age.max(1).ilog2() / 2) as usize).min(GAPS - 1)
}

/// The interval of an age.
fn interval(age: u32) -> usize {
    if age < 4 {
        return age as usize;
    }
    let octave = age.ilog2();
    let quarter = (age >> (octave - 2)) & 3;
    (octave as usize * 4 + quarter as usize - 4).min(AGES - 1)
}

/// The least age of an interval.
const fn begin(interval: usize) -> f32 {
    match interval {
        0..4 => interval as f32,
        i => ((4 + i as u64 % 4) << (i / 4 - 1)) as f32,
    }
}

/// Lengths of the intervals.
const LENGTHS: ByAge = {
    let mut lengths = [0.0; AGES];
    let mut i = 0;
    while i < AGES {
        lengths[i] = begin(i + 1) - begin(i);
        i += 1;
    }
    lengths
};

type ByAge = [f32; AGES];

/// What became of objects of some classes, by the age at which it did.
#[derive(Clone, Copy, Debug)]
struct Fates {
    came: ByAge,
    left: ByAge,
}

impl Fates {
    const NONE: Fates = Fates {
        came: [0.0; AGES],
        left: [0.0; AGES],
    };

    fn is_none(&self) -> bool {
        is_zero(&self.came) && is_zero(&self.left)
    }

    fn fade(&mut self, keep: f32) {
        for count in self.came.iter_mut().chain(&mut self.left) {
            *count *= keep;
        }
    }
}

#[derive(Debug)]
pub(super) struct Learner {
    fates: Box<[Fates]>,
    ranks: Box<[ByAge]>,
}

/// Objects that wait now, by class and age. As large as a third of all else here, and wanted for
/// the length of a round only: it is kept on the stack.
#[derive(Debug)]
pub(super) struct Waiting([ByAge; CLASSES]);

impl Waiting {
    pub fn new() -> Self {
        Self([[0.0; AGES]; CLASSES])
    }

    /// Objects, `weight` of them, wait at an age.
    pub fn add(&mut self, class: Class, age: u32, weight: f32) {
        self.0[usize::from(class.0)][interval(age)] += weight;
    }
}

impl Learner {
    pub const BYTES: usize = CLASSES * (size_of::<Fates>() + size_of::<ByAge>());

    pub fn new() -> Self {
        // Until something is known: hits over age.
        let guess = |class: usize| {
            let hits = (1 + class / GAPS) as f32;
            array::from_fn(|age| hits / (begin(age) + 8.0))
        };
        Self {
            fates: vec![Fates::NONE; CLASSES].into(),
            ranks: (0..CLASSES).map(guess).collect(),
        }
    }

    /// An object was asked for at an age; gives its class from now on.
    pub fn came_back(&mut self, class: Class, age: u32, random: u32) -> Class {
        self.fates[usize::from(class.0)].came[interval(age)] += 1.0;
        class.next(age, random)
    }

    /// An object was forgotten at an age.
    pub fn gave_up(&mut self, class: Class, age: u32) {
        self.fates[usize::from(class.0)].left[interval(age)] += 1.0;
    }

    #[inline]
    pub fn rank(&self, class: Class, age: u32) -> f32 {
        self.ranks[usize::from(class.0)][interval(age)]
    }

    /// Works out all ranks and lets what was counted over so many rounds fade.
    pub fn learn(&mut self, waiting: &Waiting, rounds: u32) {
        let keep = kept_of(rounds);
        let mut all = Hazards::NONE;
        let mut by_frequency = [Hazards::NONE; FREQUENCIES];
        let mut by_class = [Hazards::NONE; CLASSES];
        for (class, own) in by_class.iter_mut().enumerate() {
            let (fates, waiting) = (&mut self.fates[class], &waiting.0[class]);
            if fates.is_none() && is_zero(waiting) {
                continue;
            }
            *own = Hazards::new(fates, waiting);
            fates.fade(keep);
            by_frequency[class / GAPS].add(own);
            all.add(own);
        }
        let all = all.lean(&[0.0; AGES], 2.0);
        let by_frequency = by_frequency.map(|frequency| frequency.lean(&all, LEAN));
        // Classes of which nothing is known, most of them in a small cache, have those of their frequency.
        let unknown = by_frequency.map(|frequency| ranks(&Hazards::NONE.lean(&frequency, LEAN)));
        for (class, own) in by_class.iter().enumerate() {
            self.ranks[class] = match own.is_none() {
                true => unknown[class / GAPS],
                false => ranks(&own.lean(&by_frequency[class / GAPS], LEAN)),
            };
        }
    }
}

/// Objects that came at an age, out of those that had waited so long.
#[derive(Clone, Copy)]
struct Hazards {
    came: ByAge,
    waited: ByAge,
}

impl Hazards {
    const NONE: Hazards = Hazards {
        came: [0.0; AGES],
        waited: [0.0; AGES],
    };

    fn new(fates: &Fates, waiting: &ByAge) -> Self {
        let went: ByAge = array::from_fn(|age| fates.left[age] + waiting[age]);
        let (all_came, went) = (spread(&fates.came), spread(&went));
        let mut hazards = Self::NONE;
        let mut older = 0.0;
        for age in (0..AGES).rev() {
            let (came, gone) = (all_came[age], went[age]);
            hazards.came[age] = came;
            // Those that went within the interval have waited half of it.
            hazards.waited[age] = older + came + gone / 2.0;
            older += came + gone;
        }
        hazards
    }

    /// Nobody came and nobody waited.
    fn is_none(&self) -> bool {
        is_zero(&self.waited)
    }

    fn add(&mut self, other: &Self) {
        for age in 0..AGES {
            self.came[age] += other.came[age];
            self.waited[age] += other.waited[age];
        }
    }

    /// The likelihoods, as if `weight` more objects had been seen that behaved as `others`, but came as much
    /// more or less often than they do as these did at the ages before.
    fn lean(&self, others: &ByAge, weight: f32) -> ByAge {
        let (mut came, mut expected) = (0.0, 0.0);
        array::from_fn(|age| {
            let level = (came + LEVEL) / (expected + LEVEL);
            let prior = (level * others[age]).min(1.0);
            let hazard = (self.came[age] + weight * prior) / (self.waited[age] + weight);
            came = came * NEAR + self.came[age];
            expected = expected * NEAR + self.waited[age] * others[age];
            hazard.min(1.0)
        })
    }
}

/// Lets counts count at the ages beside theirs too.
fn spread(counts: &ByAge) -> ByAge {
    array::from_fn(|age| {
        let beside = counts[age.saturating_sub(1)] + counts[(age + 1).min(AGES - 1)];
        (1.0 - 2.0 * SPREAD) * counts[age] + SPREAD * beside
    })
}

/// What is left of counts that came evenly over so many rounds.
fn kept_of(rounds: u32) -> f32 {
    let rounds = rounds.clamp(1, 1 << 20);
    let left = 1.0 - KEEP.powi(rounds as i32);
    KEEP * left / ((1.0 - KEEP) * rounds as f32)
}

fn is_zero(counts: &ByAge) -> bool {
    counts.iter().sum::<f32>() == 0.0
}

/// The most hits per unit of time, from each age on.
///
/// From the last age to the first: waiting through what follows is worth it as long as it brings
/// more for its time than what came before. So each age is one step.
fn ranks(hazards: &ByAge) -> ByAge {
    let mut ranks = [0.0; AGES];
    let mut later = [Stretch::default(); AGES];
    let mut depth = 0;
    for age in (0..AGES).rev() {
        let mut stretch = Stretch::of(hazards[age], LENGTHS[age]);
        while depth > 0 && later[depth - 1].beats(&stretch) {
            depth -= 1;
            stretch = stretch.then(&later[depth]);
        }
        later[depth] = stretch;
        depth += 1;
        // What nobody came back for goes by age.
        ranks[age] = stretch.hits / stretch.time + 1e-12 / (1.0 + begin(age));
    }
    ranks
}

/// Ages to be waited through at a stretch: what to expect of it for an object at its begin.
#[derive(Clone, Copy, Default)]
struct Stretch {
    hits: f32,
    time: f32,
    /// The part of objects that still waits at the end.
    left: f32,
}

impl Stretch {
    fn of(hazard: f32, length: f32) -> Self {
        Self {
            hits: hazard,
            time: (1.0 - hazard / 2.0) * length,
            left: 1.0 - hazard,
        }
    }

    fn beats(&self, other: &Self) -> bool {
        self.hits * other.time > other.hits * self.time
    }

    fn then(&self, next: &Self) -> Self {
        Self {
            hits: self.hits + self.left * next.hits,
            time: self.time + self.left * next.time,
            left: self.left * next.left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_begin_where_they_say() {
        for age in (0..10_000).chain([1 << 20, (1 << 20) - 1]) {
            let i = interval(age);
            let range = begin(i)..begin(i + 1);
            assert!(range.contains(&(age as f32)), "{age} in {i}: {range:?}");
        }
        assert_eq!(interval(u32::MAX), AGES - 1);
    }

    #[test]
    fn classes_count_up_and_stop() {
        let mut class = Class::new(u32::MAX);
        assert_eq!(class.frequency(), 0);
        for _ in 0..20 {
            class = class.next(u32::MAX, 0);
        }
        assert_eq!(
            (class.frequency(), class),
            (FREQUENCIES - 1, Class::of(255))
        );
        assert_eq!((Class::new(9).requests(), class.requests()), (1, 34));
        // By chance 1: the doublings are not reached.
        let slow = (0..20).fold(Class::new(1), |class, _| class.next(5, 1));
        assert_eq!((slow.frequency(), slow.requests()), (3, 4));
    }

    #[test]
    fn ranks_follow_what_was_seen() {
        let mut learner = Learner::new();
        let (steady, fading) = (Class::of(20), Class::of(60));
        for _ in 0..300 {
            // One kind comes back after 1,000 requests, the other at once or never.
            learner.came_back(steady, 1_000, 1);
            learner.came_back(fading, 3, 1);
            learner.gave_up(fading, 5_000);
        }
        learner.learn(&Waiting::new(), 1);
        assert!(learner.rank(steady, 900) > 2.0 * learner.rank(steady, 10));
        assert!(learner.rank(fading, 2) > 10.0 * learner.rank(fading, 100));
        assert!(learner.rank(steady, 900) > learner.rank(fading, 900));
    }

    /// The definition, tried for every end.
    fn ranks_by_trial(hazards: &ByAge) -> ByAge {
        array::from_fn(|age| {
            let mut all = Stretch {
                left: 1.0,
                ..Stretch::default()
            };
            let mut best: f32 = 0.0;
            for end in age..AGES {
                all = all.then(&Stretch::of(hazards[end], LENGTHS[end]));
                best = best.max(all.hits / all.time);
            }
            best
        })
    }

    #[test]
    fn ranks_are_the_most_over_all_ends() {
        let mut random = 12_345u32;
        for _ in 0..50 {
            let hazards: ByAge = array::from_fn(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((random >> 8) as f32 / (1 << 24) as f32).powi(3)
            });
            let (fast, slow) = (ranks(&hazards), ranks_by_trial(&hazards));
            for age in 0..AGES {
                assert!((fast[age] / slow[age] - 1.0).abs() < 1e-3, "age {age}");
            }
        }
    }

    #[test]
    fn late_rounds_keep_what_as_many_in_time_would() {
        assert!((kept_of(1) - KEEP).abs() < 1e-6);
        for rounds in [2, 30, 500] {
            let each = 1_000.0;
            let in_time = (0..rounds).fold(0.0, |kept, _| (kept + each) * KEEP);
            let late = each * rounds as f32 * kept_of(rounds);
            assert!((late / in_time - 1.0).abs() < 1e-3, "{late} {in_time}");
        }
        assert!(kept_of(u32::MAX) > 0.0);
    }

    #[test]
    fn what_waits_counts_against_a_class() {
        let rank = |waiting: f32| {
            let mut learner = Learner::new();
            for _ in 0..50 {
                learner.came_back(Class::of(0), 10, 1);
            }
            let mut waits = Waiting::new();
            waits.add(Class::of(0), 2_000, waiting);
            learner.learn(&waits, 1);
            learner.rank(Class::of(0), 5)
        };
        assert!(rank(0.0) > 2.0 * rank(1_000.0));
    }
}
