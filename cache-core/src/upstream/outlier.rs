//! Ejection of one node that does worse than its tier.

use std::time::Instant;

use super::OutlierSettings;
use super::window::{Window, doubled};

#[derive(Clone, Debug)]
pub(super) struct Outlier {
    consecutive: u32,
    /// (succeeded, failed)
    window: Window,
    until: Option<Instant>,
    /// How often it was ejected without a long good time between.
    times: u32,
    pub(super) ejections: u64,
}

impl Outlier {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            consecutive: 0,
            window: Window::new(now),
            until: None,
            times: 0,
            ejections: 0,
        }
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    pub(super) fn record(&mut self, now: Instant, ok: bool, settings: &OutlierSettings) {
        if self.is_ejected(now) {
            // Requests from before.
            return;
        }
        self.window.add(now, (u32::from(ok), u32::from(!ok)));
        match ok {
            true => self.consecutive = 0,
            false => self.consecutive = self.consecutive.saturating_add(1),
        }
        // Well for as long again as the last ejection would be doubled to: forgiven.
        let calm = doubled(settings.ejection, self.times, settings.max_ejection);
        if ok && self.until.is_some_and(|until| now >= until + calm) {
            self.times = 0;
        }
    }

    pub(super) fn fails_in_a_row(&self, settings: &OutlierSettings) -> bool {
        self.consecutive >= settings.consecutive.max(1)
    }

    /// (succeeded, failed) of the last ten seconds.
    pub(super) fn recent(&mut self, now: Instant) -> (u32, u32) {
        self.window.sums(now)
    }

    pub(super) fn eject(&mut self, now: Instant, settings: &OutlierSettings) {
        let length = doubled(settings.ejection, self.times, settings.max_ejection);
        self.until = Some(now + length);
        self.times = self.times.saturating_add(1);
        self.ejections += 1;
        self.consecutive = 0;
        self.window.clear();
    }
}

/// Whether a node with these (succeeded, failed) lies too far below the others of its tier together.
pub(super) fn is_below(own: (u32, u32), others: (u32, u32), settings: &OutlierSettings) -> bool {
    let all = |counts: (u32, u32)| u64::from(counts.0) + u64::from(counts.1);
    let least = u64::from(settings.min_requests.max(1));
    if all(own) < least || all(others) < least {
        return false;
    }
    let rate = |counts: (u32, u32)| u64::from(counts.0) * 100 / all(counts);
    rate(own) + u64::from(settings.success_gap) <= rate(others)
}
