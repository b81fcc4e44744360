//! What a load run found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::engine::{Completion, Failure};
use super::plot::Curve;
use super::qpack::CacheStatus;

/// Longest latency kept apart, nanoseconds; a longer one counts as this.
const LONGEST: u64 = 600_000_000_000;

/// Figures of one run. Times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Requests that succeeded in the measured time.
    pub requests: u64,
    /// Requests that failed at any time of the run.
    pub failed: u64,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// The measured time.
    pub seconds: f64,
    pub rps: f64,
    /// Body bytes of the successes.
    pub bytes: u64,
    /// From the intended start to the last byte.
    pub latency_us: Distribution,
    /// From the intended start to the first byte.
    pub first_byte_us: Distribution,
    pub handshake_us: Distribution,
    /// The three distributions in full, where they have anything.
    #[serde(default)]
    pub curves: Vec<Curve>,
    /// New connections whose first flight could carry requests: those whose server took them, and
    /// those whose server did not.
    #[serde(default)]
    pub early_accepted: u64,
    #[serde(default)]
    pub early_rejected: u64,
    /// What Cache-Status said.
    pub hits: u64,
    pub forwarded: u64,
    /// Processor time of the watched processes in the measured time, by request.
    pub server_cpu_us_per_request: Option<f64>,
    pub client_cpu_us_per_request: f64,
    /// The share of the measured time that the client's thread was on a processor.
    pub client_busy: f64,
}

/// A histogram's points.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "requests   {} in {:.2} s, {:.0}/s, {:.1} MiB/s, {} failed",
            self.requests,
            self.seconds,
            self.rps,
            mib / self.seconds.max(1e-9),
            self.failed
        )?;
        for (name, d) in [
            ("latency", &self.latency_us),
            ("first byte", &self.first_byte_us),
            ("handshake", &self.handshake_us),
        ] {
            writeln!(
                f,
                "{name:<10} p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us, mean {:.0} us ({})",
                d.p50, d.p90, d.p99, d.p999, d.max, d.mean, d.count
            )?;
        }
        writeln!(
            f,
            "cache      {} hits, {} forwarded",
            self.hits, self.forwarded
        )?;
        if self.early_accepted + self.early_rejected > 0 {
            writeln!(
                f,
                "early data {} connections accepted, {} rejected",
                self.early_accepted, self.early_rejected
            )?;
        }
        let server = self.server_cpu_us_per_request;
        let server = server.map_or("not watched".to_owned(), |us| {
            format!("{us:.2} us a request")
        });
        writeln!(
            f,
            "processor  server {server}; client {:.2} us a request, busy {:.0} %",
            self.client_cpu_us_per_request,
            self.client_busy * 100.0
        )?;
        for (kind, count) in &self.errors {
            writeln!(f, "error      {kind}: {count}")?;
        }
        Ok(())
    }
}

/// Counts while a run goes on.
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) hits: u64,
    pub(super) forwarded: u64,
    pub(super) early_accepted: u64,
    pub(super) early_rejected: u64,
    errors: BTreeMap<Failure, u64>,
    pub(super) latency: Histogram<u64>,
    pub(super) first_byte: Histogram<u64>,
    pub(super) handshake: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are valid");
        Self {
            requests: 0,
            bytes: 0,
            hits: 0,
            forwarded: 0,
            early_accepted: 0,
            early_rejected: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            first_byte: histogram(),
            handshake: histogram(),
        }
    }

    /// Counts a success that ended at `now`.
    pub(super) fn succeeded(
        &mut self,
        done: &Completion,
        cache: CacheStatus,
        now: std::time::Instant,
    ) {
        self.requests += 1;
        self.bytes += done.body_bytes;
        match cache {
            CacheStatus::Hit => self.hits += 1,
            CacheStatus::Forwarded => self.forwarded += 1,
            CacheStatus::Absent => {}
        }
        record(
            &mut self.latency,
            now.saturating_duration_since(done.intended),
        );
        if let Some(first) = done.first_byte {
            record(
                &mut self.first_byte,
                first.saturating_duration_since(done.intended),
            );
        }
    }

    pub(super) fn failed(&mut self, failure: Failure, count: u64) {
        if count > 0 {
            *self.errors.entry(failure).or_default() += count;
        }
    }

    pub(super) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(super) fn curves(&self) -> Vec<Curve> {
        [
            ("latency", &self.latency),
            ("first byte", &self.first_byte),
            ("handshake", &self.handshake),
        ]
        .into_iter()
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(name, histogram)| Curve::of(name, histogram))
        .collect()
    }

    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors
            .iter()
            .map(|(failure, count)| (failure.to_string(), *count))
            .collect()
    }
}

pub(super) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST).max(1));
}

pub(super) fn distribution(histogram: &Histogram<u64>) -> Distribution {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Distribution {
        count: histogram.len(),
        mean: histogram.mean() / 1000.0,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1000.0,
    }
}
