//! What is worth keeping: learned from how soon objects of each kind were asked for again.
//!
//! ```text
//!              touch (resident)               class and age at which it came back
//!  request --> admit (known to history) ----------------------------.
//!              admit (new)                                          v
//!  evict ----> evicted --> History --> forgotten at an age --> Learner --> rank(class, age)
//!                                                                   ^
//!  now and then: learn <--- those that wait, resident or not -------'
//! ```
//! An object's class says how often it was asked for and how long it had waited the last times, or how
//! large it is if it came once. For each class the owner counts after what time requests came,
//! whether the object was still there or not, and from that works out how many hits for its time and
//! room an object of each age still brings. The least rank goes first. Where recency decides, ranks
//! fall with age and this is LRU; where frequency does, classes differ and ages do not; in a loop ranks rise
//! with age and what came last goes first. None of it is set beforehand, and what was learned fades.
//!
//! Time is counted in requests. Nothing here allocates after [`Policy::new`], reads a clock or
//! draws from anything but the seed. All memory is 4 bytes an entry of history, three entries for four
//! objects that the cache is expected to hold, and about 100 KiB of tables.

mod history;
mod learner;

use history::{Ghost, History};
use learner::{CLASSES, Class, Learner, Waiting};

/// Entries of history for four objects that the cache is expected to hold. More made no fewer misses.
const HISTORY_PER_FOUR: usize = 3;
const MIN_HISTORY: usize = 4096;
/// A round of learning begins after this part of the history's length in requests: one in.
const ROUND_SHARE: u64 = 3;
const MIN_ROUND: u64 = 256;
/// Part of all requests so far that starts a round while the history is not full: one in.
const EARLY_SHARE: u64 = 4;
/// Residents, and entries of history, looked at in a round.
pub const MAX_OBSERVED: usize = 16 << 10;
/// Requests that 24 bits of time cover, in lengths of the history.
const SPAN: u64 = 384;
/// Of the hits of hot objects one in so many is reported.
pub(crate) const HITS_PER_SAMPLE: u32 = 8;
/// An object becomes hot when it comes back within this part of the history's length: one in.
const HOT_SHARE: u64 = 64;
/// It stays hot while what is reported of it comes within so many times that: twice as long as its sampled hits
/// are apart at the limit. Else chance, or what is told in batches, would turn it off and on, and each
/// turn writes to the index, which all cores read.
const STAYS_HOT: u64 = 2 * HITS_PER_SAMPLE as u64;

/// What is known of a resident object: 4 bytes that its owner keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta(u32);

const TIME_BITS: u32 = 24;
const TIME: u32 = (1 << TIME_BITS) - 1;

impl Meta {
    /// Of an object that must stay: its rank is above all others and nothing is learned from it.
    pub const PINNED: Self = Self(u32::MAX);

    pub fn is_pinned(self) -> bool {
        self == Self::PINNED
    }

    fn new(time: u32, class: Class) -> Self {
        Self(u32::from(class.number()) << TIME_BITS | time & TIME)
    }

    /// How often the object was asked for, the first time included: counted up to 4, about right above.
    pub fn requests(self) -> u8 {
        self.class().requests()
    }

    fn time(self) -> u32 {
        self.0 & TIME
    }

    fn class(self) -> Class {
        Class::of((self.0 >> TIME_BITS) as u8)
    }
}

/// Counters of one partition's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyStats {
    /// Objects that came back while only history knew them.
    pub ghost_hits: u64,
    /// Times that ranks were worked out anew.
    pub rounds: u64,
}

#[derive(Debug)]
pub struct Policy {
    learner: Learner,
    history: History,
    /// Requests so far, and their number at which the next round is due.
    requests: u64,
    due: u64,
    /// Requests from the last round to the one that is due.
    round: u64,
    /// Requests of a unit of time are `1 << unit_shift`.
    unit_shift: u32,
    size_weight: SizeWeight,
    random: u32,
    stats: PolicyStats,
}

impl Policy {
    /// For a cache that holds about `objects`.
    pub fn new(objects: usize, seed: u64) -> Self {
        let history = History::new(history_for(objects));
        let span = history.len() as u64 * SPAN;
        Self {
            learner: Learner::new(),
            requests: 0,
            due: MIN_ROUND,
            round: MIN_ROUND,
            unit_shift: (span >> TIME_BITS).checked_ilog2().map_or(0, |log| log + 1),
            history,
            size_weight: SizeWeight::new(),
            random: seed as u32 ^ (seed >> 32) as u32 | 1,
            stats: PolicyStats::default(),
        }
    }

    /// Counts requests, which is how time passes.
    #[inline]
    pub fn pass(&mut self, requests: u32) {
        self.requests += u64::from(requests);
    }

    /// Whether it is time for [`Policy::learn`]. It can wait as long as no rank is asked for.
    pub fn is_due(&self) -> bool {
        self.requests >= self.due
    }

    /// A resident object was asked for. Says whether it is hot from now on: asked for so often that a part
    /// of its requests tells enough of it.
    pub fn touch(&mut self, meta: &mut Meta, was_hot: bool) -> bool {
        if meta.is_pinned() {
            return true;
        }
        let age = self.age(*meta);
        let random = self.random();
        let class = self.learner.came_back(meta.class(), age, random);
        *meta = Meta::new(self.now(), class);
        let limit = self.history.len() as u64 / HOT_SHARE * if was_hot { STAYS_HOT } else { 1 };
        class.is_frequent() && u64::from(age) < limit
    }

    /// An object that was not resident is brought in. `hash` is its key's.
    pub fn admit(&mut self, hash: u64, size: u32) -> Meta {
        self.size_weight.missed(size);
        let now = self.now();
        let Some(ghost) = self.history.take(hash, now) else {
            return Meta::new(now, Class::new(size));
        };
        self.stats.ghost_hits += 1;
        let random = self.random();
        Meta::new(now, self.learner.came_back(ghost.class, ghost.age, random))
    }

    /// A resident object was evicted, and may be remembered.
    pub fn evicted(&mut self, hash: u64, meta: Meta) {
        let ghost = Ghost {
            class: meta.class(),
            age: self.age(meta),
        };
        let now = self.now();
        let learner = &self.learner;
        let rank = |ghost: Ghost| learner.rank(ghost.class, ghost.age);
        if let Some(forgotten) = self.history.put(hash, ghost, now, rank) {
            self.learner.gave_up(forgotten.class, forgotten.age);
        }
    }

    /// What an object of `size` bytes is worth: the less, the sooner it should go. Comparable
    /// between objects at the same time.
    pub fn rank(&self, meta: Meta, size: u32) -> f32 {
        if meta.is_pinned() {
            return f32::INFINITY;
        }
        self.learner.rank(meta.class(), self.age(meta)) * self.size_weight.of(size)
    }

    /// Works out ranks anew. Each of `residents` stands for `weight` objects; they are picked without
    /// regard to what is known of them, and up to [`MAX_OBSERVED`] are enough.
    pub fn learn(&mut self, residents: impl Iterator<Item = Meta>, weight: f32) {
        let mut waiting = Waiting::new();
        for meta in residents.filter(|meta| !meta.is_pinned()) {
            waiting.add(meta.class(), self.age(meta), weight);
        }
        let now = self.now();
        let (ghosts, weight) = self.history.sample(MAX_OBSERVED, now);
        for ghost in ghosts {
            waiting.add(ghost.class, ghost.age, weight);
        }
        let late = self.requests.saturating_sub(self.due) / self.round;
        self.learner.learn(&waiting, 1 + late as u32);
        self.stats.rounds += 1;
        let full = self.history.len() as u64 / ROUND_SHARE;
        let early = self.requests / EARLY_SHARE;
        self.round = full.min(early).max(MIN_ROUND);
        self.due = self.requests + self.round;
    }

    pub fn stats(&self) -> PolicyStats {
        self.stats
    }

    /// Bytes of heap of a policy for so many objects.
    pub fn bytes_for(objects: usize) -> usize {
        History::bytes_for(history_for(objects)) + Learner::BYTES
    }

    fn now(&self) -> u32 {
        (self.requests >> self.unit_shift) as u32
    }

    /// In requests.
    fn age(&self, meta: Meta) -> u32 {
        let units = self.now().wrapping_sub(meta.time()) & TIME;
        units << self.unit_shift
    }

    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

/// What a hit is worth for each byte of room that it takes, where a miss costs something for
/// itself and something for each of its bytes.
///
/// The least misses of objects want the inverse of the size, the least misses of bytes want nothing of it. The sum
/// serves both: below the average size of what is missed the first rules, above it the second.
#[derive(Debug)]
struct SizeWeight {
    /// Of what was missed lately.
    average: f32,
}

/// Requests over which sizes are averaged.
const AVERAGED: f32 = 4096.0;
/// What a miss of average size costs for its bytes, where it costs 1 for itself.
const BYTES_SHARE: f32 = 1.5;

impl SizeWeight {
    fn new() -> Self {
        Self { average: 0.0 }
    }

    fn missed(&mut self, size: u32) {
        let size = size.max(1) as f32;
        match self.average {
            0.0 => self.average = size,
            average => self.average += (size - average) / AVERAGED,
        }
    }

    fn of(&self, size: u32) -> f32 {
        1.0 / size.max(1) as f32 + BYTES_SHARE / self.average.max(1.0)
    }
}

fn history_for(objects: usize) -> usize {
    (objects / 4 * HISTORY_PER_FOUR).max(MIN_HISTORY)
}

const _: () = assert!(CLASSES < 1 << (32 - TIME_BITS));

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A cache of objects of one size that evicts the least of all ranks.
    struct Cache {
        policy: Policy,
        room: usize,
        residents: VecDeque<(u64, Meta)>,
        misses: u32,
    }

    const SIZE: u32 = 1000;

    impl Cache {
        fn new(room: usize) -> Self {
            Self {
                policy: Policy::new(room, 7),
                room,
                residents: VecDeque::new(),
                misses: 0,
            }
        }

        fn request(&mut self, key: u64) {
            let count = self.residents.len();
            self.policy.pass(1);
            if self.policy.is_due() {
                let metas = self.residents.iter().map(|(_, meta)| *meta);
                self.policy.learn(metas, 1.0);
            }
            let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let policy = &mut self.policy;
            if let Some((_, meta)) = self.residents.iter_mut().find(|(h, _)| *h == hash) {
                policy.touch(meta, false);
                return;
            }
            self.misses += 1;
            self.residents.push_back((hash, policy.admit(hash, SIZE)));
            if self.residents.len() > self.room {
                let rank = |i: &usize| policy.rank(self.residents[*i].1, SIZE);
                let least = (0..=count).min_by(|a, b| rank(a).total_cmp(&rank(b)));
                let (hash, meta) = self.residents.remove(least.unwrap()).unwrap();
                policy.evicted(hash, meta);
            }
        }

        fn misses_of(&mut self, keys: impl Iterator<Item = u64>) -> u32 {
            let before = self.misses;
            keys.for_each(|key| self.request(key));
            self.misses - before
        }
    }

    #[test]
    fn a_loop_that_does_not_fit_keeps_a_part() {
        // LRU would miss every time; the best that can be is one in four.
        let mut cache = Cache::new(75);
        cache.misses_of((0..10_000).map(|i| i % 100));
        let misses = cache.misses_of((0..10_000).map(|i| i % 100));
        assert!(misses < 4_000, "{misses}");
    }

    #[test]
    fn what_is_recent_stays_where_recency_decides() {
        // Each object is asked for three times within 40 requests of its first, then never.
        let keys = |from: u64, to: u64| (from..to).flat_map(|i| [i, i - 12]).map(|k| k + 100);
        let mut cache = Cache::new(30);
        cache.misses_of(keys(20, 8_000));
        let misses = cache.misses_of(keys(8_000, 10_000));
        assert!(misses <= 2_000 * 102 / 100, "{misses}");
    }

    #[test]
    fn scans_do_not_wash_out_what_is_asked_for_often() {
        let mut scan = 1_000;
        let mut keys = || {
            let mut keys = Vec::new();
            for _ in 0..50 {
                keys.extend((0..50).chain(0..50));
                keys.extend(scan..scan + 200);
                scan += 200;
            }
            keys
        };
        let mut cache = Cache::new(60);
        cache.misses_of(keys().into_iter());
        let misses = cache.misses_of(keys().into_iter());
        // The scans' own misses are 10,000; LRU has 2,500 more.
        assert!(misses < 10_300, "{misses}");
    }

    #[test]
    fn of_two_that_are_asked_for_alike_the_larger_goes() {
        let mut policy = Policy::new(100, 1);
        let meta = policy.admit(1, 4096);
        assert!(policy.rank(meta, 100) > policy.rank(meta, 100_000));
    }

    #[test]
    fn the_same_seed_and_requests_make_the_same_ranks() {
        let keys = || (0..5_000u64).map(|i| i * i % 331);
        let (mut a, mut b) = (Cache::new(50), Cache::new(50));
        assert_eq!(a.misses_of(keys()), b.misses_of(keys()));
        assert_eq!(a.residents, b.residents);
        assert!(a.policy.stats().ghost_hits > 0 && a.policy.stats().rounds > 3);
    }

    #[test]
    fn what_comes_back_at_once_again_and_again_is_hot() {
        let mut policy = Policy::new(10_000, 1);
        let mut meta = policy.admit(1, 100);
        let hot: Vec<bool> = (0..5)
            .map(|_| {
                policy.pass(10);
                policy.touch(&mut meta, false)
            })
            .collect();
        assert_eq!(hot[..3], [false, false, true]);
        policy.pass(10_000);
        assert!(!policy.touch(&mut meta, false));
    }

    #[test]
    fn what_is_hot_stays_so_while_its_samples_come() {
        let mut policy = Policy::new(10_000, 1);
        let limit = history_for(10_000) as u32 / HOT_SHARE as u32;
        let mut meta = policy.admit(1, 100);
        for _ in 0..4 {
            policy.touch(&mut meta, false);
        }
        // One hit in eight is seen of it, now and then after twice as long.
        for gap in [limit - 1, 8 * limit, 15 * limit, 1] {
            policy.pass(gap);
            assert!(policy.touch(&mut meta, true), "{gap}");
        }
        policy.pass(limit + 1);
        assert!(!policy.touch(&mut meta, false));
        policy.pass(16 * limit);
        assert!(!policy.touch(&mut meta, true));
    }

    #[test]
    fn memory_is_bound() {
        let bytes = Policy::bytes_for(100_000);
        assert!(bytes <= 4 * 100_000 + (100 << 10), "{bytes}");
    }
}
