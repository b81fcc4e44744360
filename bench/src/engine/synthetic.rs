//! Traces made from seeds: what no file is needed for.
//!
//! Sizes follow a log-normal around 4 KiB, each object's from its own number.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::trace::Trace;

const REQUESTS: usize = 400_000;
const SEED: u64 = 0x7061_6765;
/// Objects that are asked for again, in all traces.
const OBJECTS: u64 = 40_000;
/// Objects of the others: scans, loops.
const OTHERS: u64 = 1 << 40;

/// All of them, by name.
pub fn all() -> Vec<Trace> {
    [
        ("synthetic-zipf", zipf as Generator),
        ("synthetic-scan", scans),
        ("synthetic-loop", loops),
        ("synthetic-shift", shifts),
        ("synthetic-churn", churn),
    ]
    .map(|(name, generate)| make(name, generate, size_of))
    .into()
}

/// What policies are led astray by: objects that come once, sets that are hot all of a sudden, sizes that
/// go with popularity either way.
pub fn hard() -> Vec<Trace> {
    [
        ("synthetic-once", once as Generator, size_of as Sizes),
        ("synthetic-burst", bursts, size_of),
        ("synthetic-small-first", zipf, growing),
        ("synthetic-large-first", zipf, shrinking),
    ]
    .map(|(name, generate, size)| make(name, generate, size))
    .into()
}

type Generator = fn(&mut Source);
type Sizes = fn(u64) -> u32;

fn make(name: &str, generate: Generator, size: Sizes) -> Trace {
    let mut source = Source::new(REQUESTS);
    generate(&mut source);
    Trace::new(name, source.keys.iter().map(|key| (*key, size(*key))))
}

/// Where keys come from and go to.
struct Source {
    random: SmallRng,
    popularity: Zipf,
    keys: Vec<u64>,
    wanted: usize,
}

impl Source {
    fn new(wanted: usize) -> Self {
        Self {
            random: SmallRng::seed_from_u64(SEED),
            popularity: Zipf::new(OBJECTS, 0.9),
            keys: Vec::with_capacity(wanted),
            wanted,
        }
    }

    fn popular(&mut self) -> u64 {
        self.popularity.sample(&mut self.random)
    }

    fn is_short(&self) -> bool {
        self.keys.len() < self.wanted
    }
}

fn zipf(source: &mut Source) {
    while source.is_short() {
        let key = source.popular();
        source.keys.push(key);
    }
}

/// Popular objects, with runs of objects that nobody asks for again between them.
fn scans(source: &mut Source) {
    let mut next = OTHERS;
    while source.is_short() {
        for _ in 0..6_000 {
            let key = source.popular();
            source.keys.push(key);
        }
        for _ in 0..3_000 {
            source.keys.push(next);
            next += 1;
        }
    }
}

/// Popular objects beside a loop that is longer than a small cache.
fn loops(source: &mut Source) {
    let mut at = 0;
    while source.is_short() {
        let key = source.popular();
        source.keys.push(key);
        source.keys.push(OTHERS + at % 6_000);
        at += 1;
    }
}

/// Popularity that moves on to other objects a bit at a time.
fn shifts(source: &mut Source) {
    while source.is_short() {
        let moved = source.keys.len() as u64 / 20_000 * 500;
        let key = source.popular() + moved;
        source.keys.push(key);
    }
}

/// Objects that are asked for a few times soon after they are new and then never again, as
/// segments of a stream are.
fn churn(source: &mut Source) {
    let mut newest = 0;
    while source.is_short() {
        newest += 1;
        for _ in 0..source.random.random_range(1..6) {
            let back = source.random.random_range(0..40u64).pow(2);
            source.keys.push(OTHERS + u64::saturating_sub(newest, back));
        }
    }
}

/// As many requests for objects that nobody asks for again as for popular ones.
fn once(source: &mut Source) {
    let mut next = OTHERS;
    while source.is_short() {
        let key = source.popular();
        source.keys.extend([key, next]);
        next += 1;
    }
}

/// Popular objects, and for a while at a time a few that were never seen and have half of all requests.
fn bursts(source: &mut Source) {
    while source.is_short() {
        let set = OTHERS + source.keys.len() as u64 / 25_000 * 1_000;
        let hot = set + source.random.random_range(0..300);
        let key = source.popular();
        source.keys.extend([key, hot]);
    }
}

/// The more popular, the smaller: from 200 bytes to 40 KiB.
fn growing(key: u64) -> u32 {
    200 + key as u32
}

/// The more popular, the larger.
fn shrinking(key: u64) -> u32 {
    200 + (OBJECTS - key) as u32
}

/// Bytes of an object.
fn size_of(key: u64) -> u32 {
    let mut random = SmallRng::seed_from_u64(key ^ SEED);
    // The sum of twelve uniforms is close to a normal of variance 1.
    let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    (4096.0 * (normal * 1.2).exp()).clamp(64.0, 4e6) as u32
}

/// Zipf's law over `0..n` by its cumulative sum.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(n: u64, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(n as usize);
        for rank in 1..=n {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        sums.iter_mut().for_each(|value| *value /= sum);
        Self(sums)
    }

    pub fn sample(&self, random: &mut SmallRng) -> u64 {
        let at = random.random::<f64>();
        self.0
            .partition_point(|sum| *sum < at)
            .min(self.0.len() - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_traces() {
        let (first, second) = ([all(), hard()].concat(), [all(), hard()].concat());
        for (a, b) in first.iter().zip(&second) {
            assert!(a.requests == b.requests && a.requests.len() >= REQUESTS);
            assert!(a.sized && a.footprint > 1 << 20, "{}", a.name);
        }
    }

    #[test]
    fn popularity_follows_the_law() {
        let zipf = Zipf::new(100, 1.0);
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = [0u32; 100];
        (0..100_000).for_each(|_| counts[zipf.sample(&mut random) as usize] += 1);
        let ratio = f64::from(counts[0]) / f64::from(counts[9]);
        assert!((8.0..12.5).contains(&ratio), "{ratio}");
    }
}
