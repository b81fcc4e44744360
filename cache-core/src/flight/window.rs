//! A body that is longer than what may be held of it: the owner keeps no more than a window, which
//! moves with the slowest of those who follow.
//!
//! ```text
//!  upstream --credit--> owner: Window --pieces--> shards: Pace --> requests
//!                         ^  the least of all        |  the least of its own
//!                         '---------- Taken ---------'
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Subscriber;
use crate::io::{FetchId, ShardId};

/// The owner's side.
#[derive(Debug)]
pub struct Window {
    /// Bytes on the heap of every piece that is kept, the oldest first.
    kept: VecDeque<u64>,
    /// Pieces dropped.
    dropped: u64,
    /// How many pieces each shard has taken.
    taken: Vec<(Subscriber, u64)>,
    /// Bytes that the fetch may still deliver.
    open: u64,
}

impl Window {
    /// `kept`: bytes on the heap of the pieces so far. `open`: bytes that the fetch may still deliver.
    pub fn new(subscribers: &[Subscriber], kept: impl Iterator<Item = u64>, open: u32) -> Self {
        Self {
            kept: kept.collect(),
            dropped: 0,
            taken: subscribers.iter().map(|&one| (one, 0)).collect(),
            open: u64::from(open),
        }
    }

    /// A piece has come, of so many bytes on the heap.
    pub fn push(&mut self, heap: u64) {
        self.kept.push_back(heap);
        self.open = self.open.saturating_sub(heap);
    }

    /// A shard has taken so many pieces. Returns the bytes on the heap that nobody needs any more.
    pub fn advance(&mut self, who: Subscriber, pieces: u64) -> u64 {
        for (subscriber, taken) in &mut self.taken {
            if *subscriber == who {
                *taken = pieces.max(*taken);
            }
        }
        let least = self.taken.iter().map(|(_, taken)| *taken).min();
        let mut freed = 0;
        while self.dropped < least.unwrap_or(u64::MAX)
            && let Some(heap) = self.kept.pop_front()
        {
            self.dropped += 1;
            freed += heap;
        }
        freed
    }

    /// Nobody follows any more.
    pub fn is_deserted(&self) -> bool {
        self.taken.iter().all(|(_, taken)| *taken == Pace::GONE)
    }

    /// Bytes that the fetch may deliver beyond those that it may already, if that is worth saying.
    pub fn grant(&mut self, size: u32) -> Option<u32> {
        let held: u64 = self.kept.iter().sum();
        let grant = u64::from(size).saturating_sub(held + self.open);
        if grant == 0 || (grant < u64::from(size) / 4 && held > 0) {
            return None;
        }
        self.open += grant;
        Some(grant as u32)
    }
}

/// A following shard's side: how far its own requests have come.
#[derive(Debug)]
pub struct Pace {
    pub owner: ShardId,
    pub fetch: FetchId,
    /// Pieces that all have taken, as the owner was told.
    pub told: usize,
    /// When the slowest last took something, or had nothing to take.
    pub since: Instant,
}

impl Pace {
    /// Pieces taken by a shard without requests that follow.
    pub const GONE: u64 = u64::MAX;

    pub fn due(&self, patience: Duration) -> Instant {
        self.since + patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::Ticket;

    fn subscriber(shard: ShardId) -> Subscriber {
        Subscriber {
            shard,
            ticket: Ticket(1),
        }
    }

    #[test]
    fn the_slowest_moves_the_window() {
        let both = [subscriber(0), subscriber(1)];
        let mut window = Window::new(&both, [10, 0, 20].into_iter(), 100);
        window.push(100);
        assert_eq!(window.advance(both[0], 4), 0);
        assert_eq!(window.grant(100), None, "130 are held");
        assert_eq!(window.advance(both[1], 1), 10);
        assert_eq!(window.advance(both[1], 4), 120);
        assert_eq!(window.grant(100), Some(100));
        assert_eq!(window.grant(100), None);
    }

    #[test]
    fn who_has_left_holds_nothing_up() {
        let both = [subscriber(0), subscriber(1)];
        let mut window = Window::new(&both, [5, 5].into_iter(), 0);
        assert_eq!(window.advance(both[0], Pace::GONE), 0);
        assert_eq!(window.advance(both[1], 1), 5);
        assert!(!window.is_deserted());
        assert_eq!(window.advance(both[1], Pace::GONE), 5);
        assert!(window.is_deserted());
    }

    #[test]
    fn small_grants_are_saved_up() {
        let one = subscriber(0);
        let mut window = Window::new(&[one], std::iter::repeat_n(10, 10), 0);
        window.advance(one, 1);
        assert_eq!(window.grant(100), None);
        window.advance(one, 3);
        assert_eq!(window.grant(100), Some(30));
    }
}
