//! Time per get: a million objects of 1 to 8 KB in memory, none of them evicted.
//!
//! ```text
//! zipf-1t     one thread; ns_per_get
//! zipf-2t     two threads, each asks for any object; ns_per_get of each
//! hot-key-2t  two threads ask for one object; scaling: gets of both over gets of one alone
//! ```
//! All caches hold the same objects under the same keys; those of the crates share one set of bodies
//! on the heap. A get finds the object and has its body in hand, of which nothing is read: of popcache a
//! borrowed slice, of the crates a clone of a `Bytes`. popcache compares the whole key, checks the header
//! and tells its policy; reading the rest of the header and the head is left to who asks for them. `raw-probe` is
//! the least that a lookup can do: the hash, a line of an index, the first line of a record, on the
//! pages that popcache has; it compares a hash in place of the key and checks nothing. Threads are pinned. Times are CPU time of the thread, so that other work of
//! the machine does not count; rounds of all caches are interleaved.

mod contenders;
mod probe;

pub use contenders::{crates_in_use, put};

use std::sync::{Arc, Barrier};
use std::thread;

use anyhow::Result;
use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Options;
use super::synthetic::Zipf;
use crate::cpu;
use crate::figures::{Better, Metric, Row, Samples};

/// Gets between two turns of a shard's loop.
const BATCH: usize = 64;
const EXPONENT: f64 = 0.99;
/// Prime, so that popular objects are spread over the order in which they were stored.
const SPREAD: u64 = 1_000_003;
pub const KEY_BYTES: usize = 28;
pub const HEAD: [u8; 64] = [b'h'; 64];

pub type Key = [u8; KEY_BYTES];

/// What a thread of a cache does: gets the objects of these numbers, and says how many it found.
pub type Worker = Box<dyn FnMut(&[u32]) -> u64 + Send>;

/// A cache with all objects in it.
pub struct Contender {
    pub name: &'static str,
    /// One a thread.
    pub workers: Vec<Worker>,
}

/// The objects.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    pub count: u32,
}

impl Objects {
    /// From 1 to 8 KB, the same for the same object.
    pub fn size(self, object: u32) -> usize {
        let mixed = (u64::from(object) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        1_000 + (mixed % 7_001) as usize
    }

    pub fn bytes(self) -> u64 {
        (0..self.count).map(|object| self.size(object) as u64).sum()
    }
}

pub fn key(object: u32) -> Key {
    let mut key = *b"https://edge.test/o/00000000";
    let mut rest = object;
    for digit in key[KEY_BYTES - 8..].iter_mut() {
        *digit = b'a' + (rest & 15) as u8;
        rest >>= 4;
    }
    key
}

#[derive(Clone, Copy)]
struct Plan {
    objects: Objects,
    gets: usize,
    rounds: usize,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let (count, gets, rounds) = match quick {
            true => (100_000, 500_000, 3),
            false => (1_000_000, 4_000_000, 5),
        };
        Self {
            objects: Objects { count },
            gets,
            rounds,
        }
    }

    /// What a thread asks for.
    fn requests(self, seed: u64) -> Arc<[u32]> {
        let count = u64::from(self.objects.count);
        let zipf = Zipf::new(count, EXPONENT);
        let mut random = SmallRng::seed_from_u64(seed);
        let sample = |_| (zipf.sample(&mut random) * SPREAD % count) as u32;
        (0..self.gets).map(sample).collect()
    }
}

const CASES: [&str; 3] = ["zipf-1t", "zipf-2t", "hot-key-2t"];
const METRICS: [Metric; 2] = [
    Metric {
        name: "ns_per_get",
        unit: "ns",
        better: Better::Lower,
    },
    Metric {
        name: "scaling",
        unit: "ratio",
        better: Better::Higher,
    },
];

/// A row for each case that is wanted.
///
/// # Errors
/// Memory that cannot be had, a machine of one core.
pub fn rows(options: &Options) -> Result<Vec<Row>> {
    let plan = Plan::new(options.quick);
    let mut samples = Samples::default();
    let wanted = |case: usize| options.wants(CASES[case]);
    if wanted(0) {
        measure_zipf(plan, 1, 0, &mut samples)?;
    }
    if wanted(1) {
        measure_zipf(plan, 2, 1, &mut samples)?;
    }
    if wanted(2) {
        measure_hot_key(plan, &mut samples)?;
    }
    Ok(samples.rows(&CASES, &METRICS))
}

fn measure_zipf(plan: Plan, threads: usize, case: usize, samples: &mut Samples) -> Result<()> {
    eprintln!("popcache-bench: {}: {:?}", CASES[case], plan.objects);
    let mut contenders = contenders::all(plan.objects, threads, &bodies(plan.objects))?;
    let requests: Vec<_> = (0..threads as u64)
        .map(|seed| plan.requests(seed))
        .collect();
    // The first round warms up.
    for round in 0..=plan.rounds {
        for contender in &mut contenders.list {
            let ns = run(&mut contender.workers, &requests)?;
            if round > 0 {
                samples.add(case, 0, contender.name, ns);
            }
        }
    }
    contenders.release()
}

fn measure_hot_key(plan: Plan, samples: &mut Samples) -> Result<()> {
    eprintln!("popcache-bench: {}", CASES[2]);
    let objects = Objects { count: 1_000 };
    let mut contenders = contenders::all(objects, 2, &bodies(objects))?;
    let hot: Arc<[u32]> = vec![7; plan.gets].into();
    for round in 0..=plan.rounds {
        for contender in &mut contenders.list {
            let alone = run(&mut contender.workers[..1], std::slice::from_ref(&hot))?;
            let both = run(&mut contender.workers, &[hot.clone(), hot.clone()])?;
            if round > 0 {
                samples.add(2, 1, contender.name, 2.0 * alone / both);
            }
        }
    }
    contenders.release()
}

/// Bodies on the heap, for the crates.
fn bodies(objects: Objects) -> Vec<Bytes> {
    let body = |object| Bytes::from(vec![object as u8; objects.size(object)]);
    (0..objects.count).map(body).collect()
}

/// Lets every worker make its gets at the same time, each on its core, and gives the mean CPU time
/// of a get in nanoseconds.
fn run(workers: &mut [Worker], requests: &[Arc<[u32]>]) -> Result<f64> {
    let barrier = Barrier::new(workers.len());
    let mut times = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .zip(requests)
            .enumerate()
            .map(|(core, (worker, requests))| {
                let barrier = &barrier;
                scope.spawn(move || {
                    cpu::pin(core)?;
                    barrier.wait();
                    gets(worker, requests)
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(time) => times.push(time?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    Ok(times.iter().sum::<f64>() / times.len() as f64)
}

fn gets(worker: &mut Worker, requests: &[u32]) -> Result<f64> {
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let before = clock()?;
    let found: u64 = requests.chunks(BATCH).map(worker).sum();
    let spent = clock()? - before;
    anyhow::ensure!(found == requests.len() as u64, "objects are missing");
    let ns = spent.tv_sec() as f64 * 1e9 + spent.tv_nsec() as f64;
    Ok(ns / requests.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cache_finds_every_object() {
        let objects = Objects { count: 2_000 };
        let all: Arc<[u32]> = (0..objects.count).collect();
        let pages = hugepages::PagePolicy::Plain;
        let contenders = contenders::fill(objects, 2, &bodies(objects), pages).unwrap();
        for mut contender in contenders {
            for worker in &mut contender.workers {
                let ns = gets(worker, &all);
                assert!(ns.is_ok(), "{}: {ns:?}", contender.name);
            }
        }
    }
}
