//! What happened at each origin, counted for `status` and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cache_core::io::FetchErrorKind;
use cache_core::upstream::{NodeId, NodeView, RouteId, Tier};
use serde::{Deserialize, Serialize};

use super::fleet::{Fleet, Node};

/// A handle on the counters of every origin and node; cheap to clone, readable from any thread.
#[derive(Clone)]
pub struct UpstreamStats {
    origins: Vec<Arc<OriginStats>>,
    fleet: Arc<Fleet>,
}

impl UpstreamStats {
    pub(super) fn new(origins: Vec<Arc<OriginStats>>, fleet: Arc<Fleet>) -> Self {
        Self { origins, fleet }
    }

    /// The counters as they are now, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<OriginSnapshot> {
        let origins = (0..).zip(&self.origins);
        origins
            .map(|(number, origin)| {
                let mut snapshot = origin.snapshot();
                let route = self.fleet.route_view(RouteId(number));
                snapshot.retries_refused = route.retries_refused;
                snapshot.hedges_refused = route.hedges_refused;
                let own = |node: &&Node| node.tier == Tier::Origin && node.name == snapshot.name;
                for node in self.fleet.nodes.iter().filter(own) {
                    snapshot.reused += read(&node.stats.reused);
                    snapshot.connections_made += read(&node.stats.connections_made);
                    snapshot.connections_open += read(&node.stats.connections_open);
                }
                snapshot
            })
            .collect()
    }

    /// What is known of every node: the shields, then the addresses of the origins.
    pub fn nodes(&self) -> Vec<NodeSnapshot> {
        let nodes = (0..).zip(&self.fleet.nodes);
        nodes
            .map(|(number, node)| node_snapshot(node, self.fleet.view(NodeId(number))))
            .collect()
    }
}

/// The counters of one origin. Those of fetches add up:
/// `started = ok + failed + cancelled + those in flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginSnapshot {
    pub name: String,
    /// Fetches asked for, the refused ones included.
    pub started: u64,
    /// Fetches that ended as their framing said.
    pub ok: u64,
    /// Failed fetches by kind (names in the style of RFC 9209); `limit_reached` is our own bounds.
    pub failed: BTreeMap<String, u64>,
    /// Fetches that the shard cancelled, or whose shard went away.
    pub cancelled: u64,
    /// Body bytes delivered.
    pub bytes: u64,
    /// Answers that a shield gave, those of them that it had (`hit` in its Cache-Status), and their
    /// body bytes. The rest is the origin's own.
    pub shield_answers: u64,
    pub shield_hits: u64,
    pub shield_bytes: u64,
    /// Answers after which bytes came that belong to none; their connections were closed.
    pub surplus: u64,
    /// Requests sent on a connection that had carried another.
    pub reused: u64,
    /// Requests sent a second time because a pooled connection had closed.
    pub retried: u64,
    /// Requests sent to another node because one failed.
    pub failed_over: u64,
    /// The same that the budget refused.
    pub retries_refused: u64,
    /// Second requests for slow answers, those that were faster, and those the budget refused.
    pub hedged: u64,
    pub hedges_won: u64,
    pub hedges_refused: u64,
    /// Connections made to its own addresses since start.
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

/// One shield, or one address of an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    pub name: String,
    /// `shield` or `origin`.
    pub tier: String,
    pub url: String,
    /// `up`, `unhealthy`, `ejected`, `open` or `half_open` (the circuit breaker).
    pub state: String,
    pub in_flight: u64,
    /// Requests sent, hedges included.
    pub requests: u64,
    pub failures: u64,
    pub probes_failed: u64,
    pub ejections: u64,
    pub breaker_opened: u64,
    /// Answers whose Cache-Status says that the node had them.
    pub hits: u64,
    /// Body bytes.
    pub bytes: u64,
    /// Microseconds to the first byte of recent answers; absent with fewer than twenty.
    pub p50_us: Option<u64>,
    pub p95_us: Option<u64>,
    pub reused: u64,
    pub connections_made: u64,
    pub connections_open: u64,
    /// Look-ups of its name that failed while older addresses were known.
    pub dns_stale: u64,
}

fn node_snapshot(node: &Node, view: NodeView) -> NodeSnapshot {
    let micros = |time: Option<Duration>| time.map(|time| time.as_micros() as u64);
    let stats = &node.stats;
    NodeSnapshot {
        name: node.name.clone(),
        tier: node.tier.name().to_owned(),
        url: node.pool.dialer.url.clone(),
        state: view.state.to_owned(),
        in_flight: u64::from(view.in_flight),
        requests: read(&stats.requests),
        failures: view.failures,
        probes_failed: view.probes_failed,
        ejections: view.ejections,
        breaker_opened: view.breaker_opened,
        hits: read(&stats.hits),
        bytes: read(&stats.bytes),
        p50_us: micros(view.p50),
        p95_us: micros(view.p95),
        reused: read(&stats.reused),
        connections_made: read(&stats.connections_made),
        connections_open: read(&stats.connections_open),
        dns_stale: node.pool.dialer.dns_stale(),
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
    pub(super) shield_answers: AtomicU64,
    pub(super) shield_hits: AtomicU64,
    pub(super) shield_bytes: AtomicU64,
    pub(super) surplus: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) failed_over: AtomicU64,
    pub(super) hedged: AtomicU64,
    pub(super) hedges_won: AtomicU64,
}

/// The live counters behind a [`NodeSnapshot`].
#[derive(Debug, Default)]
pub(super) struct NodeStats {
    pub(super) requests: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) reused: AtomicU64,
    connections_made: AtomicU64,
    connections_open: AtomicU64,
}

impl NodeStats {
    pub(super) fn connection_opened(&self) {
        count(&self.connections_made);
        count(&self.connections_open);
    }

    pub(super) fn connection_closed(&self) {
        self.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OriginStats {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn failed(&self, kind: FetchErrorKind) {
        count(&self.failed[kind as usize]);
    }

    fn snapshot(&self) -> OriginSnapshot {
        let failed = FetchErrorKind::ALL.iter().zip(&self.failed);
        OriginSnapshot {
            name: self.name.clone(),
            started: read(&self.started),
            ok: read(&self.ok),
            failed: failed
                .map(|(kind, counter)| (kind.name().to_owned(), read(counter)))
                .collect(),
            cancelled: read(&self.cancelled),
            bytes: read(&self.bytes),
            shield_answers: read(&self.shield_answers),
            shield_hits: read(&self.shield_hits),
            shield_bytes: read(&self.shield_bytes),
            surplus: read(&self.surplus),
            retried: read(&self.retried),
            failed_over: read(&self.failed_over),
            hedged: read(&self.hedged),
            hedges_won: read(&self.hedges_won),
            ..OriginSnapshot::default()
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
