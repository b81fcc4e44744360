//! The nodes that fetches go to: their connections, and the policy that chooses among them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cache_core::io::{FetchError, FetchErrorKind};
use cache_core::upstream::{
    NodeId, NodeSpec, NodeView, Outcome, Policy, RouteId, RouteSpec, RouteView, Ticket, Tier,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::{Endpoint, UpstreamConfig, UpstreamError};
use super::connect::Dialer;
use super::pool::Pool;
use super::stats::NodeStats;

/// See the module's description.
pub(super) struct Fleet {
    pub(super) nodes: Vec<Node>,
    policy: Mutex<Policy>,
    /// A probe has ended, so that the next one has a time.
    pub(super) probed: Notify,
}

/// One shield, or one address of an origin.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) tier: Tier,
    pub(super) pool: Arc<Pool>,
    pub(super) stats: Arc<NodeStats>,
    /// What a probe asks for.
    pub(super) health_path: Option<String>,
}

impl Fleet {
    /// Reads the files that the configuration names. Connects to nothing yet.
    pub(super) fn new(config: &UpstreamConfig, seed: u64) -> Result<Self, UpstreamError> {
        let mut endpoints = Vec::new();
        let mut number = |endpoint: Endpoint| {
            endpoints.push(endpoint);
            // Their number was checked.
            NodeId((endpoints.len() - 1) as u16)
        };
        let shields: Vec<NodeId> = config
            .shields
            .iter()
            .map(|shield| number(shield.endpoint.clone()))
            .collect();
        let mut routes = Vec::new();
        for origin in &config.origins {
            let serves = config.shields.iter().zip(&shields);
            let serves = serves.filter(|(shield, _)| shield.serves(&origin.name));
            routes.push(RouteSpec {
                shields: serves.map(|(_, id)| *id).collect(),
                origins: origin.endpoints().map(&mut number).collect(),
            });
        }
        let specs: Vec<NodeSpec> = endpoints.iter().map(spec).collect();
        let nodes = endpoints
            .into_iter()
            .map(|endpoint| Node::new(endpoint, config));
        let now = Instant::now().into_std();
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            policy: Mutex::new(Policy::new(
                config.policy.clone(),
                &specs,
                routes,
                now,
                seed,
            )),
            probed: Notify::new(),
        })
    }

    /// The next node for a fetch, if there is one that was not tried.
    pub(super) fn pick(
        self: &Arc<Self>,
        route: RouteId,
        key: u64,
        tried: &[NodeId],
    ) -> Option<Going> {
        let ticket = self.policy().pick(now(), route, key, tried)?;
        Some(self.going(ticket))
    }

    /// A second node of the same tier.
    pub(super) fn pick_beside(
        self: &Arc<Self>,
        first: (RouteId, Tier),
        key: u64,
        tried: &[NodeId],
    ) -> Option<Going> {
        let ticket = self.policy().pick_beside(now(), first, key, tried)?;
        Some(self.going(ticket))
    }

    fn going(self: &Arc<Self>, ticket: Ticket) -> Going {
        Going {
            fleet: self.clone(),
            node: ticket.node,
            ticket: Some(ticket),
        }
    }

    pub(super) fn may_retry(&self, route: RouteId, attempts: u32) -> bool {
        self.policy().may_retry(now(), route, attempts)
    }

    pub(super) fn may_hedge(&self, route: RouteId) -> bool {
        self.policy().may_hedge(now(), route)
    }

    pub(super) fn hedge_after(&self, node: NodeId) -> Option<Duration> {
        self.policy().hedge_after(node)
    }

    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.policy().next_probe().map(Instant::from_std)
    }

    pub(super) fn probes_due(&self) -> Vec<NodeId> {
        self.policy().probes_due(now())
    }

    pub(super) fn probed(&self, node: NodeId, ok: bool) {
        if self.policy().probed(now(), node, ok) {
            let Node { name, tier, .. } = self.node(node);
            let tier = tier.name();
            match ok {
                true => tracing::info!(tier, node = name, "healthy again"),
                false => tracing::warn!(tier, node = name, "unhealthy: left out"),
            }
        }
        self.probed.notify_one();
    }

    pub(super) fn view(&self, node: NodeId) -> NodeView {
        self.policy().view(now(), node)
    }

    pub(super) fn route_view(&self, route: RouteId) -> RouteView {
        self.policy().route_view(route)
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        // No code panics half-way through a change under this lock.
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Shields are hashed by their names, which edges agree on; an origin's addresses by their URLs.
fn spec(endpoint: &Endpoint) -> NodeSpec {
    NodeSpec {
        name: match endpoint.tier {
            Tier::Shield => endpoint.name.clone(),
            Tier::Origin => endpoint.url.to_string(),
        },
        tier: endpoint.tier,
        probed: endpoint.health_path.is_some(),
    }
}

impl Node {
    fn new(endpoint: Endpoint, config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let dialer = Dialer::new(&endpoint, config.connect_timeout, config.dns_ttl)?;
        let stats = Arc::new(NodeStats::default());
        let patience = config.connect_timeout;
        Ok(Self {
            pool: Pool::new(dialer, config.max_connections, patience, stats.clone()),
            stats,
            name: endpoint.name,
            tier: endpoint.tier,
            health_path: endpoint.health_path,
        })
    }
}

/// A fetch on its way to a node. Dropped before its end is told, it has taught nothing.
pub(super) struct Going {
    fleet: Arc<Fleet>,
    pub(super) node: NodeId,
    ticket: Option<Ticket>,
}

impl Going {
    pub(super) fn node(&self) -> &Node {
        self.fleet.node(self.node)
    }

    /// The head of an answer has come.
    pub(super) fn answered(&self, after: Duration) {
        if let Some(ticket) = &self.ticket {
            self.fleet.policy().answered(ticket, after);
        }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    pub(super) fn failed(self, error: &FetchError) {
        let outcome = match error.kind {
            // Bounds of our own, and clients that are slow.
            FetchErrorKind::LimitReached | FetchErrorKind::RequestStalled => Outcome::Unknown,
            _ => Outcome::Failed,
        };
        self.end(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.fleet.policy().ended(now(), ticket, outcome);
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.tell(Outcome::Unknown);
    }
}
