//! The rate that the devices are to bear, in bytes a second.

use std::time::Instant;

use super::TierConfig;
use super::format::Geometry;
use super::io::Bypass;

/// Bursts of the two limits, in seconds' worth.
const BURST_SECONDS: f64 = 1.0;
const DAILY_BURST_SECONDS: f64 = 3_600.0;
const DAY_SECONDS: f64 = 86_400.0;

/// One shard's part of the two limits.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: Option<Rate>,
    per_day: Option<Rate>,
}

impl Rates {
    pub fn new(config: &TierConfig, geometry: &Geometry) -> Self {
        let shards = f64::from(geometry.shards());
        let per_second = config.write_bytes_per_second.map(|all| all as f64 / shards);
        let capacity = geometry.shard_bytes() as f64;
        let times = config.drive_writes_per_day;
        let per_day = times.map(|times| times * capacity / DAY_SECONDS);
        Self {
            per_second: Rate::new(per_second, BURST_SECONDS),
            per_day: Rate::new(per_day, DAILY_BURST_SECONDS),
        }
    }

    /// Whether an object of so many bytes may be written now.
    pub fn allow(&mut self, now: Instant, bytes: u64, bypass: Bypass) -> bool {
        let allows =
            |rate: &mut Option<Rate>| rate.as_mut().is_none_or(|rate| rate.allows(now, bytes));
        match bypass {
            Bypass::Pinned => true,
            // Nobody's read waits any more, but drives wear out as before.
            Bypass::Stop => allows(&mut self.per_day),
            Bypass::No | Bypass::Prewarmed => {
                allows(&mut self.per_second) && allows(&mut self.per_day)
            }
        }
    }

    pub fn spend(&mut self, bytes: u64) {
        let rates = [&mut self.per_second, &mut self.per_day];
        rates
            .into_iter()
            .flatten()
            .for_each(|rate| rate.spend(bytes));
    }

    /// What each would let through, as of the latest offer; 0 where there is no limit.
    pub fn left(&self) -> (u64, u64) {
        let left =
            |rate: &Option<Rate>| rate.as_ref().map_or(0.0, |rate| rate.level.max(0.0)) as u64;
        (left(&self.per_second), left(&self.per_day))
    }
}

/// Lets a number of bytes a second through, in bursts of up to a number of seconds' worth.
#[derive(Debug)]
struct Rate {
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
