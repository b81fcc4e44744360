//! The circuit breaker of one node.
//!
//! ```text
//!  closed --failures--> open --time--> half open --trials succeed--> closed
//!                        ^------ a trial fails ------'
//! ```

use std::time::Instant;

use super::BreakerSettings;
use super::window::{Window, doubled};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// Trials that are under way, and those that succeeded.
    HalfOpen {
        flying: u32,
        succeeded: u32,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: State,
    consecutive: u32,
    /// (succeeded, failed)
    window: Window,
    /// How often in a row it opened.
    times: u32,
    /// How often it opened since start.
    pub(super) opened: u64,
}

/// What the request that was let through was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// One that decides whether the breaker closes.
    Trial,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            consecutive: 0,
            window: Window::new(now),
            times: 0,
            opened: 0,
        }
    }

    /// Whether a request may go through now.
    pub(super) fn admits(&self, now: Instant, settings: &BreakerSettings) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } => until <= now,
            State::HalfOpen { flying, succeeded } => flying + succeeded < settings.trials.max(1),
        }
    }

    /// Lets one through that [`Breaker::admits`] allowed.
    pub(super) fn begin(&mut self) -> Kind {
        match &mut self.state {
            State::Closed => return Kind::Plain,
            State::Open { .. } => {
                self.state = State::HalfOpen {
                    flying: 1,
                    succeeded: 0,
                };
            }
            State::HalfOpen { flying, .. } => *flying += 1,
        }
        Kind::Trial
    }

    /// How a request that was let through ended; `None`: nothing was learned.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        kind: Kind,
        ok: Option<bool>,
        settings: &BreakerSettings,
    ) {
        match (kind, &mut self.state) {
            (Kind::Trial, State::HalfOpen { flying, succeeded }) => {
                *flying = flying.saturating_sub(1);
                match ok {
                    Some(true) => {
                        *succeeded += 1;
                        if *succeeded >= settings.trials.max(1) {
                            self.close();
                        }
                    }
                    Some(false) => self.open(now, settings),
                    None => {}
                }
            }
            (Kind::Plain, State::Closed) => self.count(now, ok, settings),
            // From before it opened, or of a half-open time that is over.
            _ => {}
        }
    }

    /// Forgets the failures that have not opened it.
    pub(super) fn forget(&mut self) {
        if self.state == State::Closed {
            self.close();
        }
    }

    pub(super) fn state(&self, now: Instant) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { until } if until > now => "open",
            State::Open { .. } | State::HalfOpen { .. } => "half_open",
        }
    }

    fn count(&mut self, now: Instant, ok: Option<bool>, settings: &BreakerSettings) {
        match ok {
            None => {}
            Some(true) => {
                self.consecutive = 0;
                self.window.add(now, (1, 0));
            }
            Some(false) => {
                self.consecutive += 1;
                self.window.add(now, (0, 1));
                if self.is_too_much(now, settings) {
                    self.open(now, settings);
                }
            }
        }
    }

    fn is_too_much(&mut self, now: Instant, settings: &BreakerSettings) -> bool {
        if self.consecutive >= settings.consecutive.max(1) {
            return true;
        }
        let (succeeded, failed) = self.window.sums(now);
        let all = u64::from(succeeded) + u64::from(failed);
        all >= u64::from(settings.min_requests.max(1))
            && u64::from(failed) * 100 >= all * u64::from(settings.failure_percent)
    }

    fn open(&mut self, now: Instant, settings: &BreakerSettings) {
        let until = now + doubled(settings.open, self.times, settings.max_open);
        self.state = State::Open { until };
        self.times = self.times.saturating_add(1);
        self.opened += 1;
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.consecutive = 0;
        self.times = 0;
        self.window.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> BreakerSettings {
        BreakerSettings {
            consecutive: 5,
            failure_percent: 50,
            min_requests: 20,
            open: Duration::from_secs(1),
            max_open: Duration::from_secs(3),
            trials: 2,
        }
    }

    struct World {
        now: Instant,
        breaker: Breaker,
        settings: BreakerSettings,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                now,
                breaker: Breaker::new(now),
                settings: settings(),
            }
        }

        fn admits(&self) -> bool {
            self.breaker.admits(self.now, &self.settings)
        }

        fn request(&mut self, ok: Option<bool>) {
            assert!(self.admits());
            let kind = self.breaker.begin();
            self.end(kind, ok);
        }

        fn end(&mut self, kind: Kind, ok: Option<bool>) {
            self.breaker.ended(self.now, kind, ok, &self.settings);
        }

        fn state(&self) -> &'static str {
            self.breaker.state(self.now)
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_trials_close_it() {
        let mut w = World::new();
        for ok in [false, false, false, false, true, false, false, false, false] {
            w.request(Some(ok));
        }
        assert_eq!(w.state(), "closed");
        w.request(None);
        w.request(Some(false));
        assert!(!w.admits());
        w.now += Duration::from_secs(1);
        assert_eq!(w.state(), "half_open");
        let (a, b) = (w.breaker.begin(), w.breaker.begin());
        assert!(!w.admits(), "two trials at a time");
        w.end(a, None);
        assert!(w.admits(), "a trial that was cancelled is another's");
        w.end(b, Some(true));
        w.request(Some(true));
        assert_eq!(w.state(), "closed");
        assert_eq!(w.breaker.opened, 1);
    }

    #[test]
    fn a_trial_that_fails_opens_it_for_longer() {
        let mut w = World::new();
        for _ in 0..5 {
            w.request(Some(false));
        }
        for seconds in [1, 2, 3, 3] {
            w.now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(!w.admits(), "{seconds}");
            w.now += Duration::from_millis(1);
            w.request(Some(false));
        }
        assert_eq!(w.breaker.opened, 5);
    }

    #[test]
    fn half_of_many_failing_opens_it() {
        let mut w = World::new();
        for n in 0..19 {
            w.request(Some(n % 2 == 0));
        }
        assert_eq!(w.state(), "closed", "too few to judge");
        w.request(Some(false));
        assert_eq!(w.state(), "open");
    }

    #[test]
    fn what_began_before_it_opened_decides_nothing() {
        let mut w = World::new();
        let old = w.breaker.begin();
        for _ in 0..5 {
            w.request(Some(false));
        }
        w.end(old, Some(true));
        assert!(!w.admits());
    }
}
