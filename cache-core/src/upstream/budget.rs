//! How many requests there may be beside those that were asked for.

use std::time::Instant;

use super::BudgetSettings;
use super::window::{SECONDS, Window};

/// Extra requests over the last ten seconds, bounded by the plain ones.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    settings: BudgetSettings,
    /// (plain, extra)
    window: Window,
}

impl Budget {
    pub(super) fn new(settings: BudgetSettings, now: Instant) -> Self {
        Self {
            settings,
            window: Window::new(now),
        }
    }

    pub(super) fn request(&mut self, now: Instant) {
        self.window.add(now, (1, 0));
    }

    /// Takes one, or says that there is none left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let (plain, extra) = self.window.sums(now);
        let BudgetSettings {
            percent,
            per_second,
        } = self.settings;
        let most = u64::from(plain) * u64::from(percent) / 100
            + u64::from(per_second) * u64::from(SECONDS);
        let may = u64::from(extra) < most;
        if may {
            self.window.add(now, (0, 1));
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(budget: &mut Budget, now: Instant) -> usize {
        (0..1_000).take_while(|_| budget.take(now)).count()
    }

    #[test]
    fn a_part_of_the_requests_and_some_a_second() {
        let start = Instant::now();
        let settings = BudgetSettings {
            percent: 20,
            per_second: 1,
        };
        let mut budget = Budget::new(settings, start);
        assert_eq!(taken(&mut budget, start), 10);
        for _ in 0..100 {
            budget.request(start);
        }
        assert_eq!(taken(&mut budget, start), 20);
        let later = start + Duration::from_secs(10);
        assert_eq!(
            taken(&mut budget, later),
            10,
            "what was long ago is forgiven"
        );
    }

    #[test]
    fn none_means_none() {
        let start = Instant::now();
        let settings = BudgetSettings {
            percent: 0,
            per_second: 0,
        };
        let mut budget = Budget::new(settings, start);
        budget.request(start);
        assert!(!budget.take(start));
    }
}
