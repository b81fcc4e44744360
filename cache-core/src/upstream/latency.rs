//! The recent times to a first byte of one node.

use std::time::Duration;

/// Times remembered.
const SAMPLES: usize = 128;
/// Fewer than this say nothing about the slowest twentieth.
const MIN_SAMPLES: usize = 20;

#[derive(Clone, Debug)]
pub(super) struct Latency {
    /// Microseconds, the oldest overwritten first.
    samples: [u32; SAMPLES],
    seen: usize,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            samples: [0; SAMPLES],
            seen: 0,
        }
    }
}

impl Latency {
    pub(super) fn record(&mut self, time: Duration) {
        self.samples[self.seen % SAMPLES] = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.seen += 1;
    }

    /// The time that `percent` of the recent answers did not exceed; `None` with too few.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let known = self.seen.min(SAMPLES);
        if known < MIN_SAMPLES {
            return None;
        }
        let mut sorted = self.samples;
        let sorted = &mut sorted[..known];
        let rank = (known * percent).div_ceil(100).clamp(1, known) - 1;
        let (_, time, _) = sorted.select_nth_unstable(rank);
        Some(Duration::from_micros(u64::from(*time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_samples() {
        let mut latency = Latency::default();
        for ms in 1..20 {
            latency.record(Duration::from_millis(ms));
        }
        assert_eq!(latency.percentile(95), None, "too few");
        latency.record(Duration::from_millis(20));
        assert_eq!(latency.percentile(95), Some(Duration::from_millis(19)));
        assert_eq!(latency.percentile(50), Some(Duration::from_millis(10)));
        for _ in 0..SAMPLES {
            latency.record(Duration::from_secs(9_999_999));
        }
        let most = Duration::from_micros(u64::from(u32::MAX));
        assert_eq!(latency.percentile(50), Some(most));
    }
}
