//! popcache's policy by itself: which objects it gives up, one at a time.
//!
//! This is [`cache_core::policy`] with exact books beside it. Of a few objects picked by chance and
//! the newest, the one of the least rank goes. The store gives room back by the segment; what that changes is not in
//! these figures.

use cache_core::policy::{MAX_OBSERVED, Meta, Policy};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::replay::Cache;
use super::trace::{Request, Trace};

/// Objects compared to find one to evict.
const COMPARED: usize = 32;
const SEED: u64 = 11;

pub struct Own {
    policy: Policy,
    capacity: u64,
    used: u64,
    residents: Vec<Resident>,
    /// By object: its place among the residents.
    places: Vec<Option<u32>>,
    random: SmallRng,
}

#[derive(Clone, Copy)]
struct Resident {
    request: Request,
    meta: Meta,
}

impl Own {
    /// With room for `capacity` bytes.
    pub fn new(trace: &Trace, capacity: u64) -> Self {
        let expected = capacity as f64 * f64::from(trace.objects) / trace.footprint as f64;
        Self {
            policy: Policy::new(expected as usize, SEED),
            capacity,
            used: 0,
            residents: Vec::new(),
            places: vec![None; trace.objects as usize],
            random: SmallRng::seed_from_u64(SEED),
        }
    }

    fn learn(&mut self) {
        let all = self.residents.len();
        let observed = all.min(MAX_OBSERVED);
        // Places are by chance, for what fills a gap came last.
        let metas = self.residents[..observed].iter().map(|r| r.meta);
        self.policy
            .learn(metas, all as f32 / observed.max(1) as f32);
    }

    fn insert(&mut self, request: Request) {
        let meta = self.policy.admit(hash(request.object), request.size);
        self.places[request.object as usize] = Some(self.residents.len() as u32);
        self.residents.push(Resident { request, meta });
        self.used += u64::from(request.size);
        while self.used > self.capacity {
            let victim = self.victim();
            self.evict(victim);
        }
    }

    fn victim(&mut self) -> usize {
        let all = self.residents.len();
        let newest = all - 1;
        let random = &mut self.random;
        let mut pick = |i| match all <= COMPARED {
            true => i,
            false => random.random_range(0..all),
        };
        let picked = (0..all.min(COMPARED)).map(&mut pick);
        let ranked = picked.chain([newest]).map(|place| {
            let Resident { request, meta } = self.residents[place];
            (self.policy.rank(meta, request.size), place)
        });
        let least = ranked.min_by(|a, b| a.0.total_cmp(&b.0));
        least.map_or(newest, |(_, place)| place)
    }

    fn evict(&mut self, place: usize) {
        let Resident { request, meta } = self.residents.swap_remove(place);
        self.places[request.object as usize] = None;
        if let Some(moved) = self.residents.get(place) {
            self.places[moved.request.object as usize] = Some(place as u32);
        }
        self.used -= u64::from(request.size);
        self.policy.evicted(hash(request.object), meta);
    }
}

impl Cache for Own {
    fn request(&mut self, request: Request) -> bool {
        self.policy.pass(1);
        if self.policy.is_due() {
            self.learn();
        }
        if let Some(place) = self.places[request.object as usize] {
            let meta = &mut self.residents[place as usize].meta;
            self.policy.touch(meta);
            return true;
        }
        if u64::from(request.size) <= self.capacity {
            self.insert(request);
        }
        false
    }
}

/// As even as a key's hash.
fn hash(object: u32) -> u64 {
    let mut hash = (u64::from(object) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xd6e8_feb8_6659_fd93, 0x9e37_79b9_7f4a_7c15] {
        hash = (hash ^ (hash >> 32)).wrapping_mul(factor);
    }
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::super::replay::replay;
    use super::*;

    #[test]
    fn the_books_balance_and_runs_repeat() {
        let keys = (0..30_000u64).map(|i| ((i * i) % 977 + i / 100 % 300, (i % 50) as u32 + 1));
        let trace = Trace::new("t", keys);
        let capacity = trace.footprint / 10;
        let mut first = Own::new(&trace, capacity);
        let misses = replay(&trace, &mut first);
        let used: u64 = first
            .residents
            .iter()
            .map(|r| u64::from(r.request.size))
            .sum();
        assert!(used == first.used && used <= capacity && !first.residents.is_empty());
        for (place, resident) in first.residents.iter().enumerate() {
            assert_eq!(
                first.places[resident.request.object as usize],
                Some(place as u32)
            );
        }
        assert_eq!(misses, replay(&trace, &mut Own::new(&trace, capacity)));
    }
}
