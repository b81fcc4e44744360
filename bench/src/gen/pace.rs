//! When how many packets are due.

use std::time::Duration;

/// How long a sender may lag behind its rate and still make up for it.
const MOST_LAG: Duration = Duration::from_millis(100);

/// The least time that is worth sleeping for.
const NAP: Duration = Duration::from_micros(500);

/// A rate over time. Without a rate, everything is due at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    per_second: Option<f64>,
    /// Packets that were due but given up, since the sender could not keep up.
    pub missed: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Packets(u64),
    Wait(Duration),
}

impl Pace {
    pub const fn new(per_second: Option<f64>) -> Self {
        Self {
            per_second,
            missed: 0,
        }
    }

    /// `elapsed` after the start, with `sent` packets on their way.
    pub fn due(&mut self, elapsed: Duration, sent: u64) -> Due {
        let Some(rate) = self.per_second else {
            return Due::Packets(u64::MAX);
        };
        let should = (elapsed.as_secs_f64() * rate) as u64 + 1;
        let behind = should.saturating_sub(sent + self.missed);
        let most = (MOST_LAG.as_secs_f64() * rate) as u64 + 1;
        self.missed += behind.saturating_sub(most);
        match behind.min(most) {
            0 => {
                let next = (sent + self.missed) as f64 / rate;
                let wait = Duration::from_secs_f64(next).saturating_sub(elapsed);
                Due::Wait(wait.max(NAP))
            }
            due => Due::Packets(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn packets_come_due_at_the_rate() {
        let mut pace = Pace::new(Some(1000.0));
        assert_eq!(pace.due(millis(0), 0), Due::Packets(1));
        assert_eq!(pace.due(millis(0), 1), Due::Wait(millis(1)));
        assert_eq!(pace.due(millis(50), 1), Due::Packets(50));
        assert_eq!(pace.due(millis(50), 51), Due::Wait(millis(1)));
        assert_eq!(pace.missed, 0);
    }

    #[test]
    fn who_falls_behind_does_not_burst() {
        let mut pace = Pace::new(Some(1000.0));
        assert_eq!(pace.due(millis(10_000), 0), Due::Packets(101));
        assert_eq!(pace.missed, 9900);
        assert_eq!(pace.due(millis(10_001), 101), Due::Packets(1));
    }

    #[test]
    fn without_a_rate_all_is_due() {
        assert_eq!(Pace::new(None).due(millis(0), 7), Due::Packets(u64::MAX));
    }
}
