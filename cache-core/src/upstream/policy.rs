//! The rules together: which node next, and what its outcome teaches.

use std::time::{Duration, Instant};

use super::breaker::{Breaker, Kind};
use super::budget::Budget;
use super::health::Health;
use super::latency::Latency;
use super::outlier::{self, Outlier};
use super::{NodeId, RouteId, Settings, Tier, spread};

/// Of first-byte times, the one after which a fetch counts as slow.
const SLOW_PERCENTILE: usize = 95;

/// A node as the configuration has it.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Decides which keys it gets, so edges that should agree must call it the same.
    pub name: String,
    pub tier: Tier,
    /// It is to be probed.
    pub probed: bool,
}

/// The nodes of one origin.
#[derive(Clone, Debug, Default)]
pub struct RouteSpec {
    pub shields: Vec<NodeId>,
    /// At least one.
    pub origins: Vec<NodeId>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    nodes: Vec<Node>,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Node {
    tier: Tier,
    hash: u64,
    in_flight: u32,
    health: Option<Health>,
    outlier: Outlier,
    breaker: Breaker,
    latency: Latency,
    failures: u64,
    probes_failed: u64,
}

#[derive(Debug)]
struct Route {
    tiers: [Vec<NodeId>; 2],
    retries: Budget,
    hedges: Budget,
    retries_refused: u64,
    hedges_refused: u64,
    unavailable: u64,
}

/// A fetch on its way to a node. To be given back by [`Policy::ended`], exactly once.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    pub node: NodeId,
    pub route: RouteId,
    pub tier: Tier,
    kind: Kind,
}

/// What a fetch taught about its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, whatever it said.
    Ok,
    /// It answered that it cannot (502, 503, 504): others of its tier may do better, but as long as
    /// it says so itself there is no need to refuse in its place.
    Unwell,
    Failed,
    /// The fetch was given up for reasons that are not the node's.
    Unknown,
}

/// A node as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// `up`, `unhealthy`, `ejected`, `open` or `half_open`.
    pub state: &'static str,
    pub in_flight: u32,
    pub failures: u64,
    pub probes_failed: u64,
    pub ejections: u64,
    pub breaker_opened: u64,
    /// Time to the first byte of the recent answers; `None` with fewer than twenty.
    pub p50: Option<Duration>,
    pub p95: Option<Duration>,
}

/// Bounds that a route reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteView {
    pub retries_refused: u64,
    pub hedges_refused: u64,
    /// Fetches for which no node was left.
    pub unavailable: u64,
}

impl Policy {
    /// `seed` shifts the probes of this process against those of others.
    ///
    /// # Panics
    /// A route names a node that is not there: a bug of ours.
    pub fn new(
        settings: Settings,
        nodes: &[NodeSpec],
        routes: Vec<RouteSpec>,
        now: Instant,
        seed: u64,
    ) -> Self {
        let nodes: Vec<Node> = nodes
            .iter()
            .map(|spec| Node::new(spec, &settings, now, seed))
            .collect();
        let known = |id: &NodeId| usize::from(id.0) < nodes.len();
        let routes = routes.into_iter().map(|route| {
            assert!(route.shields.iter().chain(&route.origins).all(known));
            Route {
                tiers: [route.shields, route.origins],
                retries: Budget::new(settings.retries, now),
                hedges: Budget::new(settings.hedges.budget, now),
                retries_refused: 0,
                hedges_refused: 0,
                unavailable: 0,
            }
        });
        Self {
            routes: routes.collect(),
            nodes,
            settings,
        }
    }

    /// The node for a fetch of `key`, other than those that were tried: the first usable one of the
    /// key's order among the shields, then among the origin's own. Where none of the origin's is
    /// usable, one that is unhealthy or ejected is better than none; one whose breaker is open is
    /// not.
    pub fn pick(
        &mut self,
        now: Instant,
        route: RouteId,
        key: u64,
        tried: &[NodeId],
    ) -> Option<Ticket> {
        let state = &mut self.routes[usize::from(route.0)];
        if tried.is_empty() {
            state.retries.request(now);
            state.hedges.request(now);
        }
        let tiers = &self.routes[usize::from(route.0)].tiers;
        let usable = |id: NodeId| self.node(id).is_usable(now, &self.settings);
        let closed = |id: NodeId| self.node(id).breaker.admits(now, &self.settings.breaker);
        let node = tiers
            .iter()
            .find_map(|tier| self.choose(tier, key, tried, usable))
            .or_else(|| self.choose(&tiers[1], key, tried, closed));
        if node.is_none() && tried.is_empty() {
            self.routes[usize::from(route.0)].unavailable += 1;
        }
        node.map(|id| self.begin(route, id))
    }

    /// A second node for a fetch whose first is slow: of the same tier, so that a slow shield does not
    /// send its edges past it.
    pub fn pick_beside(
        &mut self,
        now: Instant,
        first: (RouteId, Tier),
        key: u64,
        tried: &[NodeId],
    ) -> Option<Ticket> {
        let (route, tier) = first;
        let usable = |id: NodeId| self.node(id).is_usable(now, &self.settings);
        let tier = &self.routes[usize::from(route.0)].tiers[tier as usize];
        let node = self.choose(tier, key, tried, usable)?;
        Some(self.begin(route, node))
    }

    /// A node began to answer after `time`.
    pub fn answered(&mut self, ticket: &Ticket, time: Duration) {
        self.node_mut(ticket.node).latency.record(time);
    }

    /// A fetch is over.
    pub fn ended(&mut self, now: Instant, ticket: Ticket, outcome: Outcome) {
        let breaker = self.settings.breaker.clone();
        let node = self.node_mut(ticket.node);
        node.in_flight = node.in_flight.saturating_sub(1);
        let (answered, ok) = match outcome {
            Outcome::Ok => (Some(true), Some(true)),
            Outcome::Unwell => (Some(true), Some(false)),
            Outcome::Failed => (Some(false), Some(false)),
            Outcome::Unknown => (None, None),
        };
        node.breaker.ended(now, ticket.kind, answered, &breaker);
        node.failures += u64::from(ok == Some(false));
        let Some(ok) = ok else { return };
        self.nodes[usize::from(ticket.node.0)]
            .outlier
            .record(now, ok, &self.settings.outlier);
        if !ok {
            self.maybe_eject(now, &ticket);
        }
    }

    /// Whether a fetch that failed may go to another node; takes it from the budget.
    pub fn may_retry(&mut self, now: Instant, route: RouteId, attempts: u32) -> bool {
        if attempts >= self.settings.max_attempts {
            return false;
        }
        let route = &mut self.routes[usize::from(route.0)];
        let may = route.retries.take(now);
        route.retries_refused += u64::from(!may);
        may
    }

    /// After what time without an answer a second request is worth its cost; `None`: never, or too
    /// little is known.
    pub fn hedge_after(&self, node: NodeId) -> Option<Duration> {
        let hedges = &self.settings.hedges;
        if hedges.budget.percent == 0 && hedges.budget.per_second == 0 {
            return None;
        }
        let slow = self.node(node).latency.percentile(SLOW_PERCENTILE)?;
        Some(slow.max(hedges.min_delay))
    }

    /// Whether there may be a second request now; takes it from the budget.
    pub fn may_hedge(&mut self, now: Instant, route: RouteId) -> bool {
        let route = &mut self.routes[usize::from(route.0)];
        let may = route.hedges.take(now);
        route.hedges_refused += u64::from(!may);
        may
    }

    /// The nodes to probe now. Each result is then told by [`Policy::probed`].
    pub fn probes_due(&mut self, now: Instant) -> Vec<NodeId> {
        let nodes = (0..).zip(&mut self.nodes);
        let due =
            nodes.filter_map(|(id, node)| node.health.as_mut()?.ask(now).then_some(NodeId(id)));
        due.collect()
    }

    /// When the next probe is due; `None`: not before the result of one under way.
    pub fn next_probe(&self) -> Option<Instant> {
        let healths = self.nodes.iter().filter_map(|node| node.health.as_ref());
        healths.filter_map(Health::next).min()
    }

    /// The result of a probe. True when the node became healthy or unhealthy by it.
    pub fn probed(&mut self, now: Instant, node: NodeId, ok: bool) -> bool {
        let node = &mut self.nodes[usize::from(node.0)];
        node.probes_failed += u64::from(!ok);
        let health = node.health.as_mut();
        health.is_some_and(|health| health.told(now, ok, &self.settings.health))
    }

    pub fn view(&self, now: Instant, node: NodeId) -> NodeView {
        let node = self.node(node);
        NodeView {
            state: node.state(now),
            in_flight: node.in_flight,
            failures: node.failures,
            probes_failed: node.probes_failed,
            ejections: node.outlier.ejections,
            breaker_opened: node.breaker.opened,
            p50: node.latency.percentile(50),
            p95: node.latency.percentile(SLOW_PERCENTILE),
        }
    }

    pub fn route_view(&self, route: RouteId) -> RouteView {
        let route = &self.routes[usize::from(route.0)];
        RouteView {
            retries_refused: route.retries_refused,
            hedges_refused: route.hedges_refused,
            unavailable: route.unavailable,
        }
    }

    fn begin(&mut self, route: RouteId, id: NodeId) -> Ticket {
        let node = self.node_mut(id);
        node.in_flight += 1;
        Ticket {
            node: id,
            route,
            tier: node.tier,
            kind: node.breaker.begin(),
        }
    }

    /// The best of a tier for this key that has room.
    fn choose(
        &self,
        tier: &[NodeId],
        key: u64,
        tried: &[NodeId],
        usable: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let (mut nodes, mut flying) = (0, 0_u32);
        for &id in tier.iter().filter(|id| usable(**id)) {
            nodes += 1;
            flying = flying.saturating_add(self.node(id).in_flight);
        }
        let Settings {
            load_percent,
            load_floor,
            ..
        } = self.settings;
        let most = spread::capacity(flying, nodes, load_percent, load_floor);
        let open = tier
            .iter()
            .copied()
            .filter(|id| usable(*id) && !tried.contains(id));
        // One with room, and among those the heaviest; where all are full, the heaviest.
        open.max_by_key(|id| {
            let node = self.node(*id);
            (node.in_flight < most, spread::weight(node.hash, key))
        })
    }

    /// Ejects the node that has just failed, if it does badly and its tier can spare it.
    fn maybe_eject(&mut self, now: Instant, ticket: &Ticket) {
        let settings = &self.settings.outlier;
        let tier = &self.routes[usize::from(ticket.route.0)].tiers[ticket.tier as usize];
        let mut others = (0, 0);
        let mut ejected = 0;
        for id in tier.iter().filter(|id| **id != ticket.node) {
            let outlier = &mut self.nodes[usize::from(id.0)].outlier;
            let (succeeded, failed) = outlier.recent(now);
            others = (others.0 + succeeded, others.1 + failed);
            ejected += usize::from(outlier.is_ejected(now));
        }
        let share = settings.max_ejected_percent.min(100) as usize;
        let spare = (ejected + 1) * 100 <= share * tier.len();
        let outlier = &mut self.nodes[usize::from(ticket.node.0)].outlier;
        let bad = outlier.fails_in_a_row(settings)
            || outlier::is_below(outlier.recent(now), others, settings);
        if bad && spare && !outlier.is_ejected(now) {
            outlier.eject(now, settings);
            // That answers these failures; the breaker is for the nodes that cannot be spared.
            self.nodes[usize::from(ticket.node.0)].breaker.forget();
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.0)]
    }
}

impl Node {
    fn new(spec: &NodeSpec, settings: &Settings, now: Instant, seed: u64) -> Self {
        let hash = spread::stable_hash(&[spec.name.as_bytes()]);
        let health = spec
            .probed
            .then(|| Health::new(now, seed ^ hash, &settings.health));
        Self {
            tier: spec.tier,
            hash,
            in_flight: 0,
            health,
            outlier: Outlier::new(now),
            breaker: Breaker::new(now),
            latency: Latency::default(),
            failures: 0,
            probes_failed: 0,
        }
    }

    fn is_usable(&self, now: Instant, settings: &Settings) -> bool {
        self.health.as_ref().is_none_or(Health::is_healthy)
            && !self.outlier.is_ejected(now)
            && self.breaker.admits(now, &settings.breaker)
    }

    fn state(&self, now: Instant) -> &'static str {
        if self
            .health
            .as_ref()
            .is_some_and(|health| !health.is_healthy())
        {
            return "unhealthy";
        }
        if self.outlier.is_ejected(now) {
            return "ejected";
        }
        match self.breaker.state(now) {
            "closed" => "up",
            state => state,
        }
    }
}
