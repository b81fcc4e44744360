//! What probes say of a node.

use std::time::{Duration, Instant};

use super::HealthSettings;
use super::spread::mix;

/// A node counts as healthy until probes say otherwise: at start nothing is known, and refusing to
/// serve for that would be worse than trying.
#[derive(Clone, Debug)]
pub(super) struct Health {
    healthy: bool,
    /// Results in a row that contradict `healthy`.
    against: u32,
    next: Instant,
    /// A probe is under way.
    asked: bool,
    random: u64,
}

impl Health {
    /// `seed` differs from node to node and from process to process.
    pub(super) fn new(now: Instant, seed: u64, settings: &HealthSettings) -> Self {
        let mut health = Self {
            healthy: true,
            against: 0,
            next: now,
            asked: false,
            random: seed,
        };
        // The first one somewhere within the interval.
        health.next = now + settings.interval.mul_f64(health.fraction());
        health
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// When to probe next; `None` while a probe is under way.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.asked).then_some(self.next)
    }

    /// Whether to probe now; the caller then does, and tells the result.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let due = self.next().is_some_and(|next| next <= now);
        self.asked |= due;
        due
    }

    /// The result of a probe. True when it changed what is believed.
    pub(super) fn told(&mut self, now: Instant, ok: bool, settings: &HealthSettings) -> bool {
        self.asked = false;
        self.next = now + self.wait(settings);
        if ok == self.healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = match ok {
            true => settings.healthy_after,
            false => settings.unhealthy_after,
        };
        if self.against < enough.max(1) {
            return false;
        }
        self.healthy = ok;
        self.against = 0;
        true
    }

    fn wait(&mut self, settings: &HealthSettings) -> Duration {
        let spread = f64::from(settings.jitter_percent.min(100)) / 100.0;
        let factor = 1.0 + spread * (2.0 * self.fraction() - 1.0);
        settings.interval.mul_f64(factor)
    }

    /// A number from 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.random) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> HealthSettings {
        HealthSettings {
            interval: Duration::from_secs(10),
            jitter_percent: 20,
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }

    #[test]
    fn thresholds_are_results_in_a_row() {
        let (now, settings) = (Instant::now(), settings());
        let mut health = Health::new(now, 1, &settings);
        let mut tell = |ok| {
            health.told(now, ok, &settings);
            health.is_healthy()
        };
        let believed = [false, false, true, false, false, false].map(&mut tell);
        assert_eq!(believed, [true, true, true, true, true, false]);
        let believed = [true, false, true, true].map(&mut tell);
        assert_eq!(believed, [false, false, false, true]);
    }

    #[test]
    fn one_probe_at_a_time_and_each_at_a_time_of_its_own() {
        let (start, settings) = (Instant::now(), settings());
        let mut health = Health::new(start, 7, &settings);
        let first = health.next().expect("a time");
        assert!(first <= start + settings.interval);
        assert!(!health.ask(first - Duration::from_nanos(1)));
        assert!(health.ask(first));
        assert!(!health.ask(first), "asked already");
        assert_eq!(health.next(), None);
        let mut waits = Vec::new();
        let mut now = first;
        for _ in 0..50 {
            health.told(now, true, &settings);
            let next = health.next().expect("a time");
            waits.push(next - now);
            now = next;
        }
        let (low, high) = (Duration::from_secs(8), Duration::from_secs(12));
        assert!(waits.iter().all(|wait| (low..=high).contains(wait)));
        waits.dedup();
        assert!(waits.len() > 40, "{waits:?}");
    }
}
