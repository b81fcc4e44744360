//! The policy as a whole, on a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::*;

const ROUTE: RouteId = RouteId(0);

struct World {
    now: Instant,
    policy: Policy,
}

/// `shields` shields before `origins` addresses; the nodes are numbered in this order.
fn world(shields: u16, origins: u16, probed: bool, change: impl FnOnce(&mut Settings)) -> World {
    let now = Instant::now();
    let mut settings = Settings::default();
    change(&mut settings);
    let node = |tier: Tier, n: u16| NodeSpec {
        name: format!("{}-{n}", tier.name()),
        tier,
        probed,
    };
    let nodes: Vec<NodeSpec> = (0..shields)
        .map(|n| node(Tier::Shield, n))
        .chain((0..origins).map(|n| node(Tier::Origin, n)))
        .collect();
    let route = RouteSpec {
        shields: (0..shields).map(NodeId).collect(),
        origins: (shields..shields + origins).map(NodeId).collect(),
    };
    World {
        now,
        policy: Policy::new(settings, &nodes, vec![route], now, 1),
    }
}

impl World {
    fn pick(&mut self, key: u64, tried: &[NodeId]) -> Option<Ticket> {
        self.policy.pick(self.now, ROUTE, key, tried)
    }

    fn node(&mut self, key: u64, tried: &[NodeId]) -> Option<u16> {
        let ticket = self.pick(key, tried)?;
        let node = ticket.node.0;
        self.policy.ended(self.now, ticket, Outcome::Unknown);
        Some(node)
    }

    /// A fetch of each key, which the nodes of `down` fail.
    fn fetch(&mut self, keys: std::ops::Range<u64>, down: &[u16]) -> HashMap<u16, usize> {
        let mut counts = HashMap::new();
        for key in keys {
            let Some(ticket) = self.pick(key, &[]) else {
                continue;
            };
            *counts.entry(ticket.node.0).or_default() += 1;
            let outcome = match down.contains(&ticket.node.0) {
                true => Outcome::Failed,
                false => Outcome::Ok,
            };
            self.policy.ended(self.now, ticket, outcome);
        }
        counts
    }

    fn state(&self, node: u16) -> &'static str {
        self.policy.view(self.now, NodeId(node)).state
    }

    /// Tells every probe that is due by then; the nodes of `down` fail theirs.
    fn probe_for(&mut self, time: Duration, down: &[u16]) {
        let end = self.now + time;
        while let Some(next) = self.policy.next_probe().filter(|next| *next <= end) {
            self.now = next;
            for node in self.policy.probes_due(next) {
                self.policy.probed(next, node, !down.contains(&node.0));
            }
        }
        self.now = end;
    }
}

#[test]
fn a_key_has_one_shield_and_the_origin_comes_last() {
    let mut w = world(3, 1, false, |_| ());
    for key in 0..100 {
        let first = w.node(key, &[]).expect("a shield");
        assert_eq!(w.node(key, &[]), Some(first));
        let second = w.node(key, &[NodeId(first)]).expect("a shield");
        let third = w.node(key, &[NodeId(first), NodeId(second)]);
        let mut shields = [first, second, third.expect("a shield")];
        shields.sort_unstable();
        assert_eq!(shields, [0, 1, 2]);
        let tried = shields.map(NodeId);
        assert_eq!(w.node(key, &tried), Some(3));
        assert_eq!(
            w.node(key, &[tried[0], tried[1], tried[2], NodeId(3)]),
            None
        );
    }
}

#[test]
fn a_popular_key_overflows_to_the_next_shield() {
    let mut w = world(2, 1, false, |s| s.load_floor = 4);
    let mut flying = Vec::new();
    for _ in 0..100 {
        flying.push(w.pick(7, &[]).expect("a shield"));
    }
    let on = |node| flying.iter().filter(|t| t.node == NodeId(node)).count();
    let first = flying[0].node.0;
    // 125 % of the mean of 50 and not more; the origin takes nothing while shields are there.
    assert_eq!((on(first), on(1 - first), on(2)), (63, 37, 0));
}

#[test]
fn a_shield_that_fails_is_ejected_for_longer_each_time_and_loses_only_its_keys() {
    let mut w = world(3, 1, false, |_| ());
    let before: Vec<_> = (0..300).map(|key| w.node(key, &[])).collect();
    let counts = w.fetch(0..300, &[1]);
    assert_eq!((w.state(1), counts[&1]), ("ejected", 5));
    for (key, before) in before.iter().enumerate() {
        let after = w.node(key as u64, &[]);
        assert!(after != Some(1) && (*before == Some(1) || after == *before));
    }
    for seconds in [10, 20, 40] {
        w.now += Duration::from_secs(seconds) - Duration::from_millis(1);
        assert_eq!(w.state(1), "ejected", "{seconds}");
        w.now += Duration::from_millis(1);
        assert_eq!(w.state(1), "up");
        w.fetch(0..300, &[1]);
    }
    let view = w.policy.view(w.now, NodeId(1));
    assert_eq!((view.ejections, view.failures), (4, 20));
}

#[test]
fn no_more_than_the_share_is_ejected_and_the_breaker_takes_the_rest() {
    let mut w = world(4, 1, false, |_| ());
    w.fetch(0..60, &[0, 1, 2, 3]);
    let mut states = [0, 1, 2, 3].map(|node| w.state(node));
    states.sort_unstable();
    assert_eq!(states, ["ejected", "ejected", "open", "open"]);
    let counts = w.fetch(0..10, &[]);
    assert_eq!(counts[&4], 10, "the origin itself");
}

#[test]
fn a_shield_far_below_its_tier_is_ejected_without_failing_in_a_row() {
    let mut w = world(2, 1, false, |s| s.breaker.failure_percent = 101);
    for key in 0..600 {
        let Some(ticket) = w.pick(key, &[]) else {
            continue;
        };
        // A third of its requests.
        let bad = ticket.node.0 == 0 && key % 3 == 0;
        let outcome = if bad { Outcome::Failed } else { Outcome::Ok };
        w.policy.ended(w.now, ticket, outcome);
    }
    assert_eq!((w.state(0), w.state(1)), ("ejected", "up"));
}

#[test]
fn an_origin_with_one_address_is_refused_by_its_breaker_and_tried_again() {
    let mut w = world(0, 1, false, |_| ());
    let counts = w.fetch(0..50, &[0]);
    assert_eq!(counts[&0], 10);
    assert_eq!(w.state(0), "open");
    assert_eq!(w.policy.route_view(ROUTE).unavailable, 40);
    w.now += Duration::from_secs(1);
    assert_eq!(w.fetch(0..3, &[])[&0], 3);
    assert_eq!(w.state(0), "up");
}

#[test]
fn probes_take_a_shield_out_and_bring_it_back() {
    let mut w = world(2, 1, true, |_| ());
    w.probe_for(Duration::from_secs(60), &[0]);
    assert_eq!((w.state(0), w.state(1)), ("unhealthy", "up"));
    assert!(!w.fetch(0..100, &[]).contains_key(&0));
    assert!(w.policy.view(w.now, NodeId(0)).probes_failed > 5);
    w.probe_for(Duration::from_secs(60), &[]);
    assert_eq!(w.state(0), "up");
}

#[test]
fn unhealthy_origins_are_better_than_none() {
    let mut w = world(1, 2, true, |_| ());
    w.probe_for(Duration::from_secs(60), &[0, 1, 2]);
    let counts = w.fetch(0..100, &[]);
    assert!(!counts.contains_key(&0), "a shield is passed over");
    assert_eq!(counts[&1] + counts[&2], 100);
}

#[test]
fn retries_have_a_budget() {
    let mut w = world(2, 1, false, |s| s.retries.per_second = 1);
    for key in 0..100 {
        w.node(key, &[]);
    }
    let granted = (0..200)
        .filter(|_| w.policy.may_retry(w.now, ROUTE, 1))
        .count();
    assert_eq!(granted, 30);
    assert_eq!(w.policy.route_view(ROUTE).retries_refused, 170);
    w.now += Duration::from_secs(10);
    assert!(
        !w.policy.may_retry(w.now, ROUTE, 3),
        "attempts are bounded too"
    );
    assert!(w.policy.may_retry(w.now, ROUTE, 2));
}

#[test]
fn hedges_wait_for_the_slowest_twentieth_and_have_a_budget() {
    let mut w = world(2, 1, false, |_| ());
    let ticket = w.pick(0, &[]).expect("a shield");
    let node = ticket.node;
    assert_eq!(w.policy.hedge_after(node), None, "nothing is known yet");
    for ms in 1..=100 {
        w.policy.answered(&ticket, Duration::from_millis(ms));
    }
    assert_eq!(w.policy.hedge_after(node), Some(Duration::from_millis(95)));
    for key in 0..59 {
        w.node(key, &[]);
    }
    let granted = (0..10).filter(|_| w.policy.may_hedge(w.now, ROUTE)).count();
    assert_eq!(granted, 3, "5 % of 60");
    assert_eq!(w.policy.route_view(ROUTE).hedges_refused, 7);
}

#[test]
fn a_node_that_says_it_is_unwell_is_ejected_but_not_refused() {
    let mut w = world(0, 2, false, |_| ());
    for key in 0..100 {
        let ticket = w.pick(key, &[]).expect("an address");
        w.policy.ended(w.now, ticket, Outcome::Unwell);
    }
    let mut states = [w.state(0), w.state(1)];
    states.sort_unstable();
    assert_eq!(states, ["ejected", "up"]);
}

#[test]
fn a_slow_shield_does_not_send_its_edges_past_it() {
    let mut w = world(2, 1, false, |_| ());
    let first = w.pick(0, &[]).expect("a shield").node;
    let mut beside = |tried: &[NodeId]| {
        let now = w.now;
        let ticket = w.policy.pick_beside(now, (ROUTE, Tier::Shield), 0, tried);
        ticket.map(|ticket| ticket.node)
    };
    assert_eq!(beside(&[first]), Some(NodeId(1 - first.0)));
    assert_eq!(beside(&[NodeId(0), NodeId(1)]), None);
}

#[test]
fn a_cancelled_fetch_teaches_nothing() {
    let mut w = world(0, 1, false, |_| ());
    for _ in 0..100 {
        let ticket = w.pick(0, &[]).expect("the origin");
        w.policy.ended(w.now, ticket, Outcome::Unknown);
    }
    let view = w.policy.view(w.now, NodeId(0));
    assert_eq!((view.state, view.in_flight, view.failures), ("up", 0, 0));
}
