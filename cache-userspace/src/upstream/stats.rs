//! What happened at each origin, counted for `status` and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cache_core::io::FetchErrorKind;
use serde::Serialize;

/// A handle on the counters of every origin; cheap to clone, readable from any thread.
#[derive(Clone, Debug)]
pub struct UpstreamStats {
    origins: Vec<Arc<OriginStats>>,
}

impl UpstreamStats {
    pub(super) fn new(origins: Vec<Arc<OriginStats>>) -> Self {
        Self { origins }
    }

    /// The counters as they are now, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<OriginSnapshot> {
        self.origins
            .iter()
            .map(|origin| origin.snapshot())
            .collect()
    }
}

/// The counters of one origin. Those of fetches add up:
/// `started = ok + failed + cancelled + those in flight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginSnapshot {
    pub name: String,
    /// Fetches asked for, the refused ones included.
    pub started: u64,
    /// Fetches that ended as their framing said.
    pub ok: u64,
    /// Failed fetches by kind (names in the style of RFC 9209); `limit_reached` is our own bounds.
    pub failed: BTreeMap<&'static str, u64>,
    /// Fetches that the shard cancelled, or whose shard went away.
    pub cancelled: u64,
    /// Body bytes delivered.
    pub bytes: u64,
    /// Requests sent on a connection that had carried another.
    pub reused: u64,
    /// Requests sent a second time because a pooled connection had closed.
    pub retried: u64,
    /// Connections made since start.
    pub connections_made: u64,
    /// Connections open now, idle ones included.
    pub connections_open: u64,
}

impl OriginSnapshot {
    /// Failed fetches of every kind.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The live counters behind an [`OriginSnapshot`].
#[derive(Debug, Default)]
pub(super) struct OriginStats {
    name: String,
    pub(super) started: AtomicU64,
    pub(super) ok: AtomicU64,
    /// In the order of [`FetchErrorKind::ALL`].
    failed: [AtomicU64; FetchErrorKind::ALL.len()],
    pub(super) cancelled: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) retried: AtomicU64,
    connections_made: AtomicU64,
    connections_open: AtomicU64,
}

impl OriginStats {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn failed(&self, kind: FetchErrorKind) {
        count(&self.failed[kind as usize]);
    }

    pub(super) fn connection_opened(&self) {
        count(&self.connections_made);
        count(&self.connections_open);
    }

    pub(super) fn connection_closed(&self) {
        self.connections_open.fetch_sub(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> OriginSnapshot {
        let failed = FetchErrorKind::ALL
            .iter()
            .zip(&self.failed)
            .map(|(kind, counter)| (kind.name(), read(counter)))
            .collect();
        OriginSnapshot {
            name: self.name.clone(),
            started: read(&self.started),
            ok: read(&self.ok),
            failed,
            cancelled: read(&self.cancelled),
            bytes: read(&self.bytes),
            reused: read(&self.reused),
            retried: read(&self.retried),
            connections_made: read(&self.connections_made),
            connections_open: read(&self.connections_open),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place() {
        for (index, kind) in FetchErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        let stats = OriginStats::new("demo");
        stats.failed(FetchErrorKind::BodyTimeout);
        stats.failed(FetchErrorKind::LimitReached);
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.failed["body_timeout"], 1);
        assert_eq!(snapshot.failed["limit_reached"], 1);
        assert_eq!(snapshot.failed_total(), 2);
    }
}
