//! Flights: one fetch for any number of requests that want the same missing object.
//!
//! The shard that owns a key's partition leads its flight ([`Owned`]): it asks the upstream, writes
//! the arena and tells every shard that joined. On each of those shards a [`Local`] flight holds
//! the requests of its own clients and the pieces they are streamed from. Nothing here does I/O or
//! touches the store: the shard carries out what these tables say.
//!
//! ```text
//!  request --miss--> Local (this shard) --Join--> Owned (owner shard) --Fetch--> upstream
//!                      ^    waiters                  |  spans in the arena
//!                      '--- Head, Pieces, End -------'
//!                      '--- Done ------------------->   the fill may be released
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::HeaderMap;
use quinn_proto::StreamId;

use crate::conn::quic::ConnId;
use crate::http::vary::{self, Rule};
use crate::io::{FetchErrorKind, FetchId, OriginId, ShardId};
use crate::purge::{Purges, TagSlot, Verdict};
use crate::store::{Fill, KeyHash, ObjectMeta, Span};

/// Names a [`Local`] flight of one shard; never reused while the shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What to ask an origin for, the same for every request of one cache key.
#[derive(Clone, Debug)]
pub struct Target {
    pub key: Bytes,
    pub hash: KeyHash,
    pub origin: OriginId,
    pub authority: Bytes,
    pub path: Bytes,
    /// The fields to ask with.
    pub headers: Arc<HeaderMap>,
}

/// The head of the response that a flight brings.
#[derive(Debug)]
pub struct FlightHead {
    pub meta: ObjectMeta,
    /// Encoded fields, see [`crate::conn::h3::head`].
    pub encoded: Bytes,
    /// Slots of the surrogate keys.
    pub tags: Vec<TagSlot>,
    /// The declared length of the body.
    pub length: Option<u64>,
    /// Whether the object is meant to be kept.
    pub stored: bool,
    /// For the request alone that began the flight, on the shard that joined first.
    pub alone: bool,
    /// The Age that it came with.
    pub age_s: Option<u64>,
    /// The origin confirmed a stored object (304).
    pub confirmed: bool,
    /// For which requests it is, where it is not for all.
    pub variant: Option<Variant>,
    /// It was read from the second tier, with so many seconds of freshness left.
    pub tier_ttl: Option<i64>,
}

/// One variant of a resource.
#[derive(Clone, Debug)]
pub struct Variant {
    pub rule: Arc<Rule>,
    pub key: Bytes,
    pub hash: KeyHash,
}

/// A part of the body, in order.
#[derive(Debug)]
pub enum Piece {
    /// In the owner's arena; valid until the shard says Done.
    Span(Span),
    /// On the heap, where the arena had no room.
    Heap(Bytes),
}

/// What an owner tells the shards that joined.
#[derive(Debug)]
pub enum FlightEvent {
    Head(Arc<FlightHead>),
    /// The resource has variants: whoever waits asks for the one that it selects.
    Varies(Arc<Rule>),
    Pieces(Vec<Piece>),
    End(Outcome),
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All pieces were told.
    Complete,
    /// The response is for one request only: each waiter asks for itself, and so does whoever comes
    /// in the next time.
    Private,
    /// Likewise, but the next request may confirm what was kept.
    Alone,
    /// The answer is another variant than the one asked for.
    Varies,
    /// The origin failed, and a stale object may be served instead.
    ServeStale,
    /// The owner found the object stored when the join arrived.
    Present,
    /// The owner has `max_flights` already.
    Refused,
    Failed(FetchErrorKind),
}

/// A request that has taken every piece there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub conn: ConnId,
    pub stream: StreamId,
}

/// The waiters' side of a flight on one shard.
pub struct Local {
    pub target: Target,
    /// [`Purges::stamp`] when it was opened here; the owner's is in the head.
    stamp: u32,
    pub head: Option<Arc<FlightHead>>,
    pub pieces: Vec<Bytes>,
    pub outcome: Option<Outcome>,
    /// The request that began it.
    pub leader: Option<Waiter>,
    /// Requests that have nothing to write until the next event.
    idle: Vec<Waiter>,
    /// Requests to be served after an event.
    ready: Vec<Waiter>,
    /// Requests that still take pieces from here (idle, ready, or blocked by flow control).
    followers: usize,
    queued: bool,
}

/// All local flights of a shard.
#[derive(Default)]
pub struct Locals {
    by_key: HashMap<Bytes, Ticket, RandomState>,
    flights: HashMap<Ticket, Local, RandomState>,
    ready: VecDeque<Ticket>,
    next: u64,
    followers: usize,
}

impl Locals {
    /// Requests that follow any flight.
    pub fn followers(&self) -> usize {
        self.followers
    }

    /// Flights going on, and ended ones that still have followers.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// The flight that a new request for this key may join: one that no purge covers.
    pub fn joinable(&mut self, key: &[u8], purges: &Purges) -> Option<Ticket> {
        let ticket = self.by_key.get(key).copied()?;
        let flight = self.flights.get(&ticket)?;
        // The owner judges its flight when we join it. Of what was purged later, our own stamp
        // tells until the head is there.
        let head = flight.head.as_deref();
        let stamp = head.map_or(flight.stamp, |head| head.meta.stamp);
        if is_valid(purges, stamp, head, key) {
            return Some(ticket);
        }
        self.by_key.remove(key);
        None
    }

    /// `stamp` is [`Purges::stamp`].
    pub fn open(&mut self, target: Target, stamp: u32) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.by_key.insert(target.key.clone(), ticket);
        self.flights.insert(
            ticket,
            Local {
                target,
                stamp,
                head: None,
                pieces: Vec::new(),
                outcome: None,
                leader: None,
                idle: Vec::new(),
                ready: Vec::new(),
                followers: 0,
                queued: false,
            },
        );
        ticket
    }

    pub fn get(&self, ticket: Ticket) -> Option<&Local> {
        self.flights.get(&ticket)
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Local> {
        self.flights.get_mut(&ticket)
    }

    pub fn follow(&mut self, ticket: Ticket) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.followers += 1;
            self.followers += 1;
        }
    }

    /// The request that began the flight.
    pub fn lead(&mut self, ticket: Ticket, leader: Waiter) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.leader = Some(leader);
        }
    }

    /// A follower has taken every piece so far.
    pub fn wait(&mut self, ticket: Ticket, waiter: Waiter) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.idle.push(waiter);
        }
    }

    /// A follower is finished or gone. The flight is forgotten with its last follower once it has
    /// ended.
    pub fn unfollow(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        flight.followers -= 1;
        self.followers -= 1;
        if flight.followers == 0 && flight.outcome.is_some() {
            self.flights.remove(&ticket);
        }
    }

    /// Something new is to be read by the waiters.
    pub fn wake(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        flight.ready.append(&mut flight.idle);
        if !flight.ready.is_empty() && !flight.queued {
            flight.queued = true;
            self.ready.push_back(ticket);
        }
    }

    /// The next waiter to serve.
    pub fn next_ready(&mut self) -> Option<(Ticket, Waiter)> {
        while let Some(&ticket) = self.ready.front() {
            if let Some(flight) = self.flights.get_mut(&ticket) {
                if let Some(waiter) = flight.ready.pop() {
                    return Some((ticket, waiter));
                }
                flight.queued = false;
            }
            self.ready.pop_front();
        }
        None
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes no more requests into this one. Those that follow go on.
    pub fn close(&mut self, ticket: Ticket) {
        if let Some(flight) = self.flights.get(&ticket)
            && self.by_key.get(&flight.target.key) == Some(&ticket)
        {
            self.by_key.remove(&flight.target.key);
        }
    }

    /// Takes no more requests into any variant of a resource.
    pub fn close_variants(&mut self, base: &[u8]) {
        self.by_key.retain(|key, _| !is_variant(key, base));
    }

    /// Takes no more requests in. Those that follow go on.
    pub fn close_key(&mut self, key: &[u8]) {
        self.by_key.remove(key);
    }

    /// The flight has ended: new requests look for the object in the index, or try again.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        flight.outcome = Some(outcome);
        if self.by_key.get(&flight.target.key) == Some(&ticket) {
            self.by_key.remove(&flight.target.key);
        }
        if flight.followers == 0 {
            self.flights.remove(&ticket);
        }
    }
}

/// A shard that joined, and its name for the flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub shard: ShardId,
    pub ticket: Ticket,
}

/// Where the bytes of a flight come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    Upstream,
    /// The second tier has the object.
    Tier,
}

/// The leading side of a flight.
pub struct Owned {
    pub target: Target,
    pub supply: Supply,
    pub subscribers: Vec<Subscriber>,
    pub head: Option<Arc<FlightHead>>,
    /// Where the body goes; `None` before the head, and when there was no room for it.
    pub fill: Option<Fill>,
    /// Every piece so far, for those who join late.
    pub pieces: Vec<LedPiece>,
    pub received: u64,
    /// A purge of the key came after the fetch began: what arrives is not kept.
    pub purged: bool,
    /// Body bytes on the heap.
    pub heap: u64,
    /// When the fetch began, milliseconds since the Unix epoch.
    pub sent_unix_ms: u64,
    /// [`crate::purge::Purges::stamp`] when the fetch began.
    pub stamp: u32,
    /// The arena took no more: what follows goes to the heap and the object is not kept.
    pub full: bool,
    /// The fetch asks the origin to confirm a stored object.
    pub validating: bool,
    /// Nobody joins any more.
    pub closed: bool,
}

/// A [`Piece`] as its owner remembers it.
#[derive(Clone, Debug)]
pub enum LedPiece {
    Span(Span),
    Heap(Bytes),
}

impl LedPiece {
    pub fn told(&self) -> Piece {
        match self {
            Self::Span(span) => Piece::Span(*span),
            Self::Heap(bytes) => Piece::Heap(bytes.clone()),
        }
    }
}

/// All flights that a shard leads.
#[derive(Default)]
pub struct Flights {
    by_key: HashMap<Bytes, FetchId, RandomState>,
    flights: HashMap<FetchId, Owned, RandomState>,
    /// Ended flights whose spans other shards may still have to look at.
    settling: HashMap<FetchId, (Option<Fill>, Vec<ShardId>), RandomState>,
}

impl Flights {
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Flights whose fill is not released yet, beside those that are going on.
    pub fn settling(&self) -> usize {
        self.settling.len()
    }

    /// The flight that another shard or request may join: one that no purge covers.
    pub fn joinable(&mut self, key: &[u8], purges: &Purges) -> Option<FetchId> {
        let id = self.by_key.get(key).copied()?;
        let flight = self.flights.get(&id).filter(|flight| !flight.closed)?;
        if is_valid(purges, flight.stamp, flight.head.as_deref(), key) {
            return Some(id);
        }
        self.by_key.remove(key);
        None
    }

    /// Whether what a flight brings may take the place of what is stored: not if another flight of
    /// its key has begun since, because of a purge.
    pub fn is_latest(&self, id: FetchId, key: &[u8]) -> bool {
        self.by_key.get(key) == Some(&id)
    }

    pub fn open(
        &mut self,
        id: FetchId,
        target: Target,
        supply: Supply,
        first: Subscriber,
        now_ms: u64,
        stamp: u32,
    ) {
        self.by_key.insert(target.key.clone(), id);
        self.flights.insert(
            id,
            Owned {
                target,
                supply,
                subscribers: vec![first],
                head: None,
                fill: None,
                pieces: Vec::new(),
                received: 0,
                purged: false,
                heap: 0,
                sent_unix_ms: now_ms,
                stamp,
                full: false,
                validating: false,
                closed: false,
            },
        );
    }

    pub fn get_mut(&mut self, id: FetchId) -> Option<&mut Owned> {
        self.flights.get_mut(&id)
    }

    /// Ends a flight. What it returns is told to the subscribers by the shard, and each of them
    /// answers with [`Flights::done`].
    pub fn end(&mut self, id: FetchId) -> Option<Owned> {
        let flight = self.flights.remove(&id)?;
        if self.by_key.get(&flight.target.key) == Some(&id) {
            self.by_key.remove(&flight.target.key);
        }
        Some(flight)
    }

    /// Keeps an ended flight's fill until every subscriber is done with its spans.
    pub fn settle(&mut self, id: FetchId, fill: Option<Fill>, subscribers: &[Subscriber]) {
        let shards = subscribers.iter().map(|s| s.shard).collect();
        self.settling.insert(id, (fill, shards));
    }

    /// A subscriber has no more use for spans; the last one's answer gives the fill back.
    pub fn done(&mut self, id: FetchId, shard: ShardId) -> Option<Fill> {
        let (_, shards) = self.settling.get_mut(&id)?;
        if let Some(at) = shards.iter().position(|&s| s == shard) {
            shards.swap_remove(at);
        }
        if !shards.is_empty() {
            return None;
        }
        self.settling.remove(&id)?.0
    }

    /// Lets no more shards join; returns those that joined after the first one.
    pub fn close(&mut self, id: FetchId) -> Vec<Subscriber> {
        let Some(flight) = self.flights.get_mut(&id) else {
            return Vec::new();
        };
        flight.closed = true;
        flight
            .subscribers
            .split_off(flight.subscribers.len().min(1))
    }

    /// What flights of any variant of a resource bring is not kept.
    pub fn purge_variants(&mut self, base: &[u8]) {
        let keys: Vec<Bytes> = self.by_key.keys().cloned().collect();
        for key in keys.iter().filter(|key| is_variant(key, base)) {
            self.purge(key);
        }
    }

    /// What a flight of this key brings is not kept, and no new request joins it.
    pub fn purge(&mut self, key: &[u8]) {
        if let Some(flight) = self
            .by_key
            .remove(key)
            .and_then(|id| self.flights.get_mut(&id))
        {
            flight.purged = true;
        }
    }
}

fn is_variant(key: &[u8], base: &[u8]) -> bool {
    key.len() > base.len() && vary::base(key) == base
}

/// Whether no purge covers what a flight brings. Before there is a head its surrogate keys are not
/// known: it may have any.
fn is_valid(purges: &Purges, stamp: u32, head: Option<&FlightHead>, key: &[u8]) -> bool {
    let verdict = match head {
        Some(head) => purges.judge(stamp, head.tags.iter().copied(), key),
        None => purges.judge(stamp, [TagSlot::ANY], key),
    };
    verdict == Verdict::Valid
}

/// Keys whose last answer was for one request only, so that their requests do not queue behind
/// each other. Bounded: the oldest mark is forgotten first, at the cost of one more collapsed fetch.
pub struct Uncacheable {
    until: HashMap<KeyHash, u64, RandomState>,
    order: VecDeque<(KeyHash, u64)>,
    max: usize,
    ttl_ms: u64,
}

impl Uncacheable {
    pub fn new(max: usize, ttl: std::time::Duration) -> Self {
        Self {
            until: HashMap::default(),
            order: VecDeque::new(),
            max,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub fn len(&self) -> usize {
        self.until.len()
    }

    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    pub fn mark(&mut self, hash: KeyHash, now_ms: u64) {
        let until = now_ms.saturating_add(self.ttl_ms);
        self.until.insert(hash, until);
        self.order.push_back((hash, until));
        while self.order.len() > self.max {
            self.forget_oldest();
        }
    }

    pub fn contains(&mut self, hash: KeyHash, now_ms: u64) -> bool {
        while self
            .order
            .front()
            .is_some_and(|&(_, until)| until <= now_ms)
        {
            self.forget_oldest();
        }
        self.until.contains_key(&hash)
    }

    pub fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
    }

    fn forget_oldest(&mut self) {
        let Some((hash, until)) = self.order.pop_front() else {
            return;
        };
        // A later mark of the same key keeps it.
        if self.until.get(&hash) == Some(&until) {
            self.until.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::{Purge, Purger};
    use std::time::Duration;

    fn target(key: &'static str) -> Target {
        Target {
            key: Bytes::from_static(key.as_bytes()),
            hash: KeyHash(1),
            origin: OriginId(0),
            authority: Bytes::from_static(b"edge.test"),
            path: Bytes::from_static(b"/"),
            headers: Arc::default(),
        }
    }

    fn subscriber(shard: ShardId) -> Subscriber {
        Subscriber {
            shard,
            ticket: Ticket(u64::from(shard) + 1),
        }
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
        flights.open(
            FetchId(1),
            target("a"),
            Supply::Upstream,
            subscriber(0),
            0,
            purges.stamp(),
        );
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
        flights.open(
            FetchId(1),
            target("a"),
            Supply::Upstream,
            subscriber(0),
            0,
            purges.stamp(),
        );
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
        locals.unfollow(ticket);
        assert!(locals.get(ticket).is_none());
        assert_eq!(locals.followers(), 0);
    }

    #[test]
    fn a_closed_flight_keeps_its_first_subscriber_and_is_still_the_latest() {
        let (purges, _purger) = purges();
        let mut flights = Flights::default();
        flights.open(
            FetchId(1),
            target("a"),
            Supply::Upstream,
            subscriber(0),
            0,
            purges.stamp(),
        );
        if let Some(flight) = flights.get_mut(FetchId(1)) {
            flight.subscribers.push(subscriber(1));
        }
        assert_eq!(flights.close(FetchId(1)), [subscriber(1)]);
        assert_eq!(flights.joinable(b"a", &purges), None);
        assert!(flights.is_latest(FetchId(1), b"a"));
        flights.open(
            FetchId(2),
            target("a"),
            Supply::Upstream,
            subscriber(1),
            0,
            purges.stamp(),
        );
        assert!(!flights.is_latest(FetchId(1), b"a"));
    }

    #[test]
    fn a_purge_of_a_resource_is_one_of_its_variants() {
        let (purges, _purger) = purges();
        let (mut locals, mut flights) = (Locals::default(), Flights::default());
        let keys = ["a\0x", "a\0y", "ab\0x", "a"];
        for (i, key) in keys.into_iter().enumerate() {
            locals.open(target(key), purges.stamp());
            flights.open(
                FetchId(i as u64),
                target(key),
                Supply::Upstream,
                subscriber(0),
                0,
                purges.stamp(),
            );
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
        flights.open(id, target("a"), Supply::Upstream, subscriber(0), 0, 0);
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
        flights.open(FetchId(1), target("a"), Supply::Tier, subscriber(0), 0, 0);
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
}
