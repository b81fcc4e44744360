//! What the tables of flights hold to.

use std::time::Duration;

use super::*;
use crate::http::routes::RouteId;
use crate::io::{FetchId, ShardId};
use crate::purge::{Purge, Purger};

fn target(key: &'static str) -> Target {
    Target {
        key: Bytes::from_static(key.as_bytes()),
        hash: KeyHash(1),
        origin: OriginId(0),
        authority: Bytes::from_static(b"edge.test"),
        path: Bytes::from_static(b"/"),
        headers: Arc::default(),
        route: RouteId::default(),
        revalidate: false,
        stale_if_error_s: 0,
        stored_only: false,
        extent: Extent::Whole,
    }
}

fn subscriber(shard: ShardId) -> Subscriber {
    Subscriber {
        shard,
        ticket: Ticket(u64::from(shard) + 1),
    }
}

fn lead(flights: &mut Flights, id: FetchId, key: &'static str, shard: ShardId, stamp: u32) {
    let first = subscriber(shard);
    flights.open(id, target(key), Supply::Upstream, Some(first), 0, stamp);
}

fn purges() -> (Arc<Purges>, Purger) {
    let purges = Arc::new(Purges::new(1, 64));
    let purger = purges.writer().expect("the only one");
    (purges, purger)
}

fn head(stamp: u32, tags: Vec<TagSlot>) -> Arc<FlightHead> {
    let meta = ObjectMeta {
        stamp,
        ..ObjectMeta::default()
    };
    Arc::new(FlightHead {
        meta,
        encoded: Bytes::new(),
        own: None,
        tags,
        length: None,
        stored: true,
        alone: false,
        age_s: None,
        confirmed: false,
        variant: None,
        tier_ttl: None,
    })
}

#[test]
fn a_flight_is_not_joined_after_a_purge_that_may_cover_it() {
    let (purges, mut purger) = purges();
    let (mut locals, mut flights) = (Locals::default(), Flights::default());
    locals.open(target("a"), purges.stamp());
    lead(&mut flights, FetchId(1), "a", 0, purges.stamp());
    purger
        .purge(&Purge::Prefix(Bytes::from_static(b"b")), false)
        .unwrap();
    assert!(locals.joinable(b"a", &purges).is_some());
    assert!(flights.joinable(b"a", &purges).is_some());
    // No head: which keys it will have is not known.
    purger.purge(&Purge::Tag(TagSlot(3)), true).unwrap();
    assert_eq!(locals.joinable(b"a", &purges), None);
    assert_eq!(flights.joinable(b"a", &purges), None);
    assert!(!flights.is_latest(FetchId(1), b"a"));
}

#[test]
fn a_flight_with_a_head_is_judged_by_its_surrogate_keys() {
    let (purges, mut purger) = purges();
    let (mut locals, mut flights) = (Locals::default(), Flights::default());
    let ticket = locals.open(target("a"), purges.stamp());
    lead(&mut flights, FetchId(1), "a", 0, purges.stamp());
    let head = head(purges.stamp(), vec![TagSlot(5)]);
    locals.get_mut(ticket).expect("open").head = Some(Arc::clone(&head));
    flights.get_mut(FetchId(1)).expect("open").head = Some(head);
    purger.purge(&Purge::Tag(TagSlot(3)), false).unwrap();
    assert_eq!(locals.joinable(b"a", &purges), Some(ticket));
    assert_eq!(flights.joinable(b"a", &purges), Some(FetchId(1)));
    purger.purge(&Purge::Tag(TagSlot(5)), false).unwrap();
    assert_eq!(locals.joinable(b"a", &purges), None);
    assert_eq!(flights.joinable(b"a", &purges), None);
}

#[test]
fn a_flight_is_joinable_until_it_ends() {
    let (purges, _) = purges();
    let mut locals = Locals::default();
    let ticket = locals.open(target("a"), 0);
    locals.follow(ticket);
    assert_eq!(locals.joinable(b"a", &purges), Some(ticket));
    locals.end(ticket, Outcome::Complete);
    assert_eq!(locals.joinable(b"a", &purges), None);
    assert!(locals.get(ticket).is_some(), "its follower still reads");
    locals.unfollow(ticket, 0);
    assert!(locals.get(ticket).is_none());
    assert_eq!(locals.followers(), 0);
}

#[test]
fn a_closed_flight_keeps_its_first_subscriber_and_is_still_the_latest() {
    let (purges, _purger) = purges();
    let mut flights = Flights::default();
    lead(&mut flights, FetchId(1), "a", 0, purges.stamp());
    if let Some(flight) = flights.get_mut(FetchId(1)) {
        flight.subscribers.push(subscriber(1));
    }
    assert_eq!(flights.close(FetchId(1)), [subscriber(1)]);
    assert_eq!(flights.joinable(b"a", &purges), None);
    assert!(flights.is_latest(FetchId(1), b"a"));
    lead(&mut flights, FetchId(2), "a", 1, purges.stamp());
    assert!(!flights.is_latest(FetchId(1), b"a"));
}

#[test]
fn a_purge_of_a_resource_is_one_of_its_variants() {
    let (purges, _purger) = purges();
    let (mut locals, mut flights) = (Locals::default(), Flights::default());
    let keys = ["a\0x", "a\0y", "ab\0x", "a"];
    for (i, key) in keys.into_iter().enumerate() {
        locals.open(target(key), purges.stamp());
        lead(&mut flights, FetchId(i as u64), key, 0, purges.stamp());
    }
    locals.close_variants(b"a");
    flights.purge_variants(b"a");
    for (i, (key, purged)) in keys.into_iter().zip([true, true, false, false]).enumerate() {
        assert_eq!(flights.joinable(key.as_bytes(), &purges).is_none(), purged);
        assert_eq!(locals.joinable(key.as_bytes(), &purges).is_none(), purged);
        assert_eq!(flights.get_mut(FetchId(i as u64)).unwrap().purged, purged);
    }
}

#[test]
fn a_closed_key_gets_a_flight_of_its_own() {
    let (purges, _) = purges();
    let mut locals = Locals::default();
    let old = locals.open(target("a"), 0);
    locals.follow(old);
    locals.close_key(b"a");
    let new = locals.open(target("a"), 0);
    locals.end(old, Outcome::Complete);
    assert_eq!(
        locals.joinable(b"a", &purges),
        Some(new),
        "the old end closes only itself"
    );
}

#[test]
fn an_owned_fill_is_kept_until_every_subscriber_is_done() {
    let mut flights = Flights::default();
    let id = FetchId(7);
    lead(&mut flights, id, "a", 0, 0);
    if let Some(flight) = flights.get_mut(id) {
        flight.subscribers.push(subscriber(1));
    }
    let ended = flights.end(id).map(|flight| flight.subscribers);
    flights.settle(id, None, &ended.unwrap_or_default());
    assert_eq!(flights.settling(), 1);
    flights.done(id, 1);
    assert_eq!(flights.settling(), 1);
    flights.done(id, 0);
    assert_eq!(flights.settling(), 0);
}

#[test]
fn a_purge_detaches_the_flight_from_its_key() {
    let (purges, _) = purges();
    let mut flights = Flights::default();
    lead(&mut flights, FetchId(1), "a", 0, 0);
    flights.purge(b"a");
    assert_eq!(flights.joinable(b"a", &purges), None);
    assert!(
        flights
            .get_mut(FetchId(1))
            .is_some_and(|flight| flight.purged)
    );
}

#[test]
fn uncacheable_marks_expire_and_are_bounded() {
    let mut marks = Uncacheable::new(2, Duration::from_secs(10));
    marks.mark(KeyHash(1), 0);
    marks.mark(KeyHash(2), 1_000);
    marks.mark(KeyHash(3), 2_000);
    assert!(!marks.contains(KeyHash(1), 2_000), "the oldest made room");
    assert!(marks.contains(KeyHash(2), 10_999));
    assert!(!marks.contains(KeyHash(2), 11_000));
    assert!(marks.contains(KeyHash(3), 11_999));
}
