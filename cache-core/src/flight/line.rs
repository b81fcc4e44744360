//! Slices that are to be fetched: so many at a time, the others in the order in which they were wanted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::io::FetchId;

/// The slices of all large objects of one owner. A thousand clients that want as many slices at once
/// cost a wait, not a thousand connections and their memory.
#[derive(Debug, Default)]
pub struct Line {
    asking: usize,
    waiting: VecDeque<(FetchId, Instant)>,
}

impl Line {
    /// True: it may be fetched now. Else it waits for [`Self::next`].
    pub fn enter(&mut self, id: FetchId, now: Instant, max: usize) -> bool {
        if self.asking < max {
            self.asking += 1;
            return true;
        }
        self.waiting.push_back((id, now));
        false
    }

    /// One that was fetched has come to its end.
    pub fn leave(&mut self) {
        debug_assert!(self.asking > 0, "a place is left that nobody has");
        self.asking -= 1;
    }

    /// The one whose turn it is.
    pub fn next(&mut self, max: usize) -> Option<FetchId> {
        if self.asking >= max {
            return None;
        }
        let (id, _) = self.waiting.pop_front()?;
        self.asking += 1;
        Some(id)
    }

    /// Takes out one that has waited for longer than `patience`.
    pub fn take_overdue(&mut self, now: Instant, patience: Duration) -> Option<FetchId> {
        let (id, _) = self
            .waiting
            .pop_front_if(|(_, since)| *since + patience <= now)?;
        Some(id)
    }

    /// When the first one is overdue.
    pub fn due(&self, patience: Duration) -> Option<Instant> {
        self.waiting.front().map(|(_, since)| *since + patience)
    }

    /// Slices that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_a_time_and_the_others_in_order() {
        let mut line = Line::default();
        let start = Instant::now();
        let entered = (1..=4).map(|n| line.enter(FetchId(n), start, 2));
        assert_eq!(entered.collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(line.next(2), None);
        line.leave();
        assert_eq!(line.next(2), Some(FetchId(3)));
        assert_eq!(line.next(2), None);
        line.leave();
        line.leave();
        assert_eq!((line.next(2), line.next(2)), (Some(FetchId(4)), None));
    }

    #[test]
    fn who_waits_too_long_is_taken_out() {
        let mut line = Line::default();
        let (start, patience) = (Instant::now(), Duration::from_secs(5));
        line.enter(FetchId(1), start, 0);
        line.enter(FetchId(2), start + patience, 0);
        assert_eq!(line.due(patience), Some(start + patience));
        assert_eq!(line.take_overdue(start, patience), None);
        let later = start + patience;
        assert_eq!(line.take_overdue(later, patience), Some(FetchId(1)));
        assert_eq!(line.take_overdue(later, patience), None);
        assert_eq!(line.len(), 1);
    }
}
