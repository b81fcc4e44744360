//! How often objects left memory lately: 12 bytes an object, of the latest and most frequent ones.
//!
//! ```text
//!  set of eight, chosen by the hash     entry   name u32 | at u32 (s) | tick u16 | count u16 (1/256)
//! ```
//! A count halves with each half-life of bytes that left memory, so that what was popular once makes
//! room. Where a set is full, the object of the least count goes, of those alike the oldest.

use crate::store::KeyHash;

const WAYS: usize = 8;
/// Steps of time in a half-life.
const TICKS: u64 = 64;
/// What a count of one is kept as.
const ONE: f32 = 256.0;
/// Bytes that an object is remembered at.
pub const BYTES_PER_GHOST: u64 = size_of::<Ghost>() as u64;

#[derive(Clone, Copy, Debug, Default)]
struct Ghost {
    /// Of the hash; 0: nobody.
    name: u32,
    /// Unix seconds when it left memory last.
    at: u32,
    tick: u16,
    count: u16,
}

/// What is known of an object that leaves memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sight {
    /// How often it left lately, this time included.
    pub count: f32,
    /// Seconds since it left the time before, if that is remembered.
    pub gap_s: Option<u32>,
}

#[derive(Debug)]
pub(super) struct History {
    sets: Vec<[Ghost; WAYS]>,
    bytes: u64,
    bytes_per_tick: u64,
}

impl History {
    /// For about `objects`, whose counts halve after `half_life` bytes.
    pub fn new(objects: usize, half_life: u64) -> Self {
        Self {
            sets: vec![[Ghost::default(); WAYS]; objects.div_ceil(WAYS).max(1)],
            bytes: 0,
            bytes_per_tick: (half_life / TICKS).max(1),
        }
    }

    /// Counts an object that leaves memory.
    pub fn see(&mut self, hash: KeyHash, bytes: u64, now_s: u32) -> Sight {
        self.bytes += bytes;
        let tick = self.tick();
        let mixed = hash.0.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let set = (((mixed >> 32) * self.sets.len() as u64) >> 32) as usize;
        let name = (mixed as u32 ^ hash.0 as u32).max(1);
        let set = &mut self.sets[set];
        let found = set.iter_mut().find(|ghost| ghost.name == name);
        let sight = match &found {
            Some(ghost) => Sight {
                count: ghost.aged(tick) + 1.0,
                gap_s: Some(now_s.saturating_sub(ghost.at)),
            },
            None => Sight {
                count: 1.0,
                gap_s: None,
            },
        };
        let place = match found {
            Some(ghost) => ghost,
            None => least(set, tick),
        };
        *place = Ghost {
            name,
            at: now_s,
            tick,
            count: (sight.count * ONE).min(f32::from(u16::MAX)) as u16,
        };
        sight
    }

    /// Comes round after a thousand half-lives: what is as old as that has left its set.
    fn tick(&self) -> u16 {
        (self.bytes / self.bytes_per_tick) as u16
    }
}

impl Ghost {
    fn aged(&self, tick: u16) -> f32 {
        let ticks = f32::from(tick.wrapping_sub(self.tick));
        f32::from(self.count) / ONE * (-ticks / TICKS as f32).exp2()
    }
}

/// The one to be forgotten.
fn least(set: &mut [Ghost; WAYS], tick: u16) -> &mut Ghost {
    let mut least = 0;
    for at in 1..WAYS {
        if set[at].aged(tick) < set[least].aged(tick) {
            least = at;
        }
    }
    &mut set[least]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> KeyHash {
        KeyHash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn objects_are_counted_and_their_gaps_told() {
        let mut history = History::new(1_000, 1 << 40);
        assert_eq!(history.see(hash(1), 1, 50).gap_s, None);
        history.see(hash(2), 1, 60);
        let sight = history.see(hash(1), 1, 75);
        assert_eq!((sight.count, sight.gap_s), (2.0, Some(25)));
        // A clock that is set back is no reason to panic.
        assert_eq!(history.see(hash(1), 1, 10).gap_s, Some(0));
    }

    #[test]
    fn counts_halve_with_what_leaves_memory() {
        let mut history = History::new(1_000, 64_000);
        for _ in 0..8 {
            history.see(hash(1), 1, 0);
        }
        history.see(hash(2), 64_000, 0);
        let count = history.see(hash(1), 1, 0).count;
        assert!((4.9..5.1).contains(&count), "{count}");
    }

    #[test]
    fn the_bound_holds_and_the_popular_stay_through_a_scan() {
        let mut history = History::new(1_000, 1 << 20);
        let entries = history.sets.len() * WAYS;
        for number in 0..100 {
            (0..3).for_each(|_| _ = history.see(hash(number), 100, 0));
        }
        for number in 1_000..9_000 {
            history.see(hash(number), 100, 0);
        }
        assert_eq!(history.sets.len() * WAYS, entries);
        let known = (0..100).filter(|n| history.see(hash(*n), 1, 0).count > 1.5);
        assert!(known.count() > 95);
        let old = (1_000..2_000).filter(|n| history.see(hash(*n), 1, 0).count > 1.0);
        assert!(old.count() < 100);
    }
}
