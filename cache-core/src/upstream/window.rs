//! Two counts over the last ten seconds, by the second.

use std::time::{Duration, Instant};

/// Seconds that are remembered.
pub(super) const SECONDS: u32 = 10;

/// What a pair of counts means is its user's business.
#[derive(Clone, Debug)]
pub(super) struct Window {
    start: Instant,
    /// The second of the newest slot, from `start` on.
    newest: u64,
    slots: [(u32, u32); SECONDS as usize],
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            start: now,
            newest: 0,
            slots: Default::default(),
        }
    }

    pub(super) fn add(&mut self, now: Instant, counts: (u32, u32)) {
        self.turn(now);
        let slot = &mut self.slots[(self.newest % u64::from(SECONDS)) as usize];
        slot.0 = slot.0.saturating_add(counts.0);
        slot.1 = slot.1.saturating_add(counts.1);
    }

    pub(super) fn sums(&mut self, now: Instant) -> (u32, u32) {
        self.turn(now);
        self.slots.iter().fold((0, 0), |sum, slot| {
            (sum.0.saturating_add(slot.0), sum.1.saturating_add(slot.1))
        })
    }

    pub(super) fn clear(&mut self) {
        self.slots = Default::default();
    }

    /// Forgets what is too old. Time that went backwards counts as the newest second.
    fn turn(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        if second <= self.newest {
            return;
        }
        let gone = (second - self.newest).min(u64::from(SECONDS));
        for step in 1..=gone {
            self.slots[((self.newest + step) % u64::from(SECONDS)) as usize] = (0, 0);
        }
        if gone == u64::from(SECONDS) {
            self.clear();
        }
        self.newest = second;
    }
}

/// `base` doubled `times` times, at most `most`.
pub(super) fn doubled(base: Duration, times: u32, most: Duration) -> Duration {
    base.saturating_mul(1 << times.min(20)).min(most.max(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ten_seconds_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = Window::new(start);
        window.add(at(0), (1, 0));
        window.add(at(4), (1, 2));
        assert_eq!(window.sums(at(9)), (2, 2));
        assert_eq!(window.sums(at(10)), (1, 2));
        assert_eq!(window.sums(at(14)), (0, 0));
        window.add(at(1_000), (3, 3));
        window.add(at(5), (1, 0));
        assert_eq!(window.sums(at(1_000)), (4, 3), "a clock that went back");
    }

    #[test]
    fn doubling_stops_at_the_most() {
        let (base, most) = (Duration::from_secs(1), Duration::from_secs(30));
        let lengths = [0, 1, 4, 5, 99].map(|times| doubled(base, times, most).as_secs());
        assert_eq!(lengths, [1, 2, 16, 30, 30]);
    }
}
