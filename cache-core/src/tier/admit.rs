//! What is worth writing: objects asked for twice, at the rate that the devices are to bear.

use std::time::Instant;

use crate::store::KeyHash;

const WAYS: usize = 8;

/// Hashes of objects that were offered and not taken, the latest ones. A set of eight forgets its
/// oldest first.
#[derive(Debug)]
pub(super) struct Ghosts {
    sets: Vec<[u32; WAYS]>,
}

impl Ghosts {
    /// For about `objects` hashes.
    pub fn new(objects: usize) -> Self {
        Self {
            sets: vec![[0; WAYS]; objects.div_ceil(WAYS).max(1)],
        }
    }

    /// Whether the hash was noted not long ago; if so it is forgotten, else it is noted.
    pub fn take_or_note(&mut self, hash: KeyHash) -> bool {
        let mixed = hash.0.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let set = (((mixed >> 32) * self.sets.len() as u64) >> 32) as usize;
        let name = (mixed as u32 ^ hash.0 as u32).max(1);
        let set = &mut self.sets[set];
        match set.iter().position(|ghost| *ghost == name) {
            Some(at) => {
                set[at..].rotate_left(1);
                set[WAYS - 1] = 0;
                true
            }
            None => {
                set.rotate_right(1);
                set[0] = name;
                false
            }
        }
    }
}

/// Lets a number of bytes a second through, in bursts of up to a number of seconds' worth.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Option<Instant>,
}

impl Rate {
    /// `None` lets everything through.
    pub fn new(per_second: Option<f64>, burst_seconds: f64) -> Option<Self> {
        let per_second = per_second?;
        let burst = per_second * burst_seconds;
        Some(Self {
            per_second,
            burst,
            level: burst,
            at: None,
        })
    }

    /// Whether bytes may be written now. A record longer than the whole burst passes when the burst is
    /// unspent, and is paid for after.
    pub fn allows(&mut self, now: Instant, bytes: u64) -> bool {
        self.refill(now);
        self.level >= (bytes as f64).min(self.burst)
    }

    /// Takes bytes, also those that nobody asked about: it can go into debt.
    pub fn spend(&mut self, bytes: u64) {
        self.level -= bytes as f64;
    }

    fn refill(&mut self, now: Instant) {
        let past = self.at.map(|at| now.saturating_duration_since(at));
        let seconds = past.unwrap_or_default().as_secs_f64();
        self.level = (self.level + seconds * self.per_second).min(self.burst);
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn hash(number: u64) -> KeyHash {
        KeyHash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_second_offer_is_known_once() {
        let mut ghosts = Ghosts::new(100);
        assert!(!ghosts.take_or_note(hash(1)));
        assert!(!ghosts.take_or_note(hash(2)));
        assert!(ghosts.take_or_note(hash(1)));
        assert!(!ghosts.take_or_note(hash(1)));
    }

    #[test]
    fn the_history_is_bounded_and_forgets_the_oldest() {
        let mut ghosts = Ghosts::new(1_000);
        for number in 0..20_000 {
            ghosts.take_or_note(hash(number));
        }
        let known = |ghosts: &Ghosts, number| {
            let mut copy = Ghosts {
                sets: ghosts.sets.clone(),
            };
            copy.take_or_note(hash(number))
        };
        let recent = (19_700..20_000).filter(|n| known(&ghosts, *n)).count();
        let old = (0..10_000).filter(|n| known(&ghosts, *n)).count();
        assert!(recent > 270, "{recent}");
        assert!(old < 10, "{old}");
    }

    #[test]
    fn a_rate_holds_over_time_and_bursts_are_bounded() {
        let start = Instant::now();
        let mut rate = Rate::new(Some(1_000.0), 2.0).unwrap();
        let mut through = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            if rate.allows(now, 100) {
                rate.spend(100);
                through += 100;
            }
        }
        assert!((11_800..=12_000).contains(&through), "{through}");
        assert!(Rate::new(None, 1.0).is_none());
    }

    #[test]
    fn what_is_larger_than_the_burst_is_paid_for_after() {
        let start = Instant::now();
        let mut rate = Rate::new(Some(100.0), 1.0).unwrap();
        assert!(rate.allows(start, 1_000));
        rate.spend(1_000);
        assert!(!rate.allows(start + Duration::from_secs(9), 1));
        assert!(rate.allows(start + Duration::from_secs(10), 100));
    }
}
