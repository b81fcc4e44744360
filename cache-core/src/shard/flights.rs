//! Joining and leading flights: what the upstream brings is written to the arena and told to every
//! shard that waits.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::slicing::Large;
use super::variants::Place;
use super::{LaneMessage, Shard};
use crate::conn::h3::head;
use crate::flight::{
    FlightEvent, FlightHead, LedPiece, Outcome, Owned, Piece, Subscriber, Supply, Target, Ticket,
};
use crate::http::freshness::{self, Lifetime, RequestFacts, State, Storage};
use crate::http::slices::{self, Found, Probe};
use crate::http::surrogate_key::SurrogateKeys;
use crate::http::{vary, withheld};
use crate::io::{
    FetchCommand, FetchError, FetchErrorKind, FetchEvent, FetchId, FetchRequest, Now, Outbox,
    RequestBody, ShardId,
};
use crate::purge::TagSlot;
use crate::store::{NewObject, ObjectMeta, StoreError};

/// A response head, from the origin or from the store and confirmed by the origin.
pub(super) struct Received<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// Of the body, where it is known.
    pub length: Option<u64>,
    /// The surrogate keys of the stored object that the origin confirmed.
    pub confirmed: Option<&'a [TagSlot]>,
    /// Kept with it beside those of its own.
    pub flags: u32,
}

/// What the fetch of a flight asks for.
#[derive(Clone, Copy)]
pub(super) struct AskedFor {
    /// To confirm the object that is here.
    validating: bool,
    probe: Option<Probe>,
}

/// Names no fetch: an owner answers a join at once.
pub(super) const NO_FETCH: FetchId = FetchId(0);

impl Shard {
    /// A shard (perhaps this one) wants an object that we own.
    pub(super) fn join(
        &mut self,
        now: Now,
        from: ShardId,
        ticket: Ticket,
        target: Target,
        out: &mut Outbox,
    ) {
        let subscriber = Subscriber {
            shard: from,
            ticket,
        };
        let joinable = self.flights.joinable(&target.key, self.store.purges());
        // What the tier is read for is not what the origin says now.
        let suits = |flight: &mut Owned| match flight.supply {
            Supply::Upstream => !target.stored_only,
            Supply::Tier => !target.revalidate,
        };
        let suitable = joinable.filter(|&id| self.flights.get_mut(id).is_some_and(suits));
        if let Some(id) = suitable {
            return self.catch_up(now, id, subscriber, out);
        }
        let end = |outcome| FlightEvent::End(outcome);
        if joinable.is_some() && target.stored_only {
            return self.tell(now, subscriber, NO_FETCH, end(Outcome::NotStored), out);
        }
        if target.slice().is_none()
            && let Some(rule) = self.rule_of(&target.key)
            && rule.key(vary::base(&target.key), &target.headers) != Some(target.key.to_vec())
        {
            // Its shard has not heard of it, or of its latest.
            self.tell(now, subscriber, NO_FETCH, FlightEvent::Varies(rule), out);
            return self.tell(now, subscriber, NO_FETCH, end(Outcome::Varies), out);
        }
        if from != self.config.shard && !target.revalidate && self.is_fresh(&target, now) {
            return self.tell(now, subscriber, NO_FETCH, end(Outcome::Present), out);
        }
        let going_on = self.flights.len() + self.flights.settling();
        if going_on >= self.config.limits.max_flights {
            return self.tell(now, subscriber, NO_FETCH, end(Outcome::Refused), out);
        }
        let id = self.fetch_id();
        let in_tier = !target.revalidate && self.read_tier(now, id, &target);
        if target.stored_only && !in_tier {
            return self.tell(now, subscriber, NO_FETCH, end(Outcome::NotStored), out);
        }
        let supply = match in_tier {
            true => Supply::Tier,
            false => Supply::Upstream,
        };
        let stamp = self.store.purges().stamp();
        let first = Some(subscriber);
        self.flights
            .open(id, target.clone(), supply, first, now.unix_ms, stamp);
        if !in_tier {
            self.ask_in_turn(now, id, &target, out);
        }
    }

    /// Starts the fetch of a flight; that of a slice when it is its turn.
    pub(super) fn ask_in_turn(&mut self, now: Now, id: FetchId, target: &Target, out: &mut Outbox) {
        let is_slice = target.slice().is_some();
        if is_slice && !self.enter_line(now, id) {
            return;
        }
        let AskedFor { validating, probe } = self.ask_upstream(now, id, target, out);
        if let Some(flight) = self.flights.get_mut(id) {
            flight.validating = validating;
            flight.probe = probe;
            flight.in_line = is_slice;
        }
    }

    pub(super) fn ask_upstream(
        &mut self,
        now: Now,
        id: FetchId,
        target: &Target,
        out: &mut Outbox,
    ) -> AskedFor {
        self.stats.fetches_started.inc();
        let probe = self.probe(now, target);
        let (mut headers, validating) = self.fields_to_ask_with(target);
        self.ask_for_part(target, probe, &mut headers);
        out.fetches.push(FetchCommand::Start {
            id,
            request: Box::new(FetchRequest {
                origin: target.origin,
                method: Method::GET,
                authority: target.authority.clone(),
                target: target.path.clone(),
                headers,
                compress: (self.config.caching.routes)
                    .rules_of(target.route, &target.key)
                    .compress,
                body: RequestBody::default(),
                window: self.config.limits.fetch_window,
            }),
        });
        AskedFor { validating, probe }
    }

    fn is_fresh(&mut self, target: &Target, now: Now) -> bool {
        let Some(hit) = self.store.lookup(target.hash, &target.key) else {
            return false;
        };
        // The object says whether its slices may be served.
        if target.slice().is_some() {
            return true;
        }
        let meta = hit.meta();
        let times = Lifetime {
            lifetime_s: meta.lifetime_s,
            initial_age_s: meta.age_at_store_s,
            ..Lifetime::default()
        };
        let fresh = freshness::fresh_at(&times, meta.stored_unix_ms, now.unix_ms);
        fresh.state == State::Fresh && !hit.purged_softly()
    }

    /// Tells a late subscriber what the others know.
    fn catch_up(&mut self, now: Now, id: FetchId, subscriber: Subscriber, out: &mut Outbox) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        flight.subscribers.push(subscriber);
        let head = flight.head.clone();
        let pieces: Vec<Piece> = flight.pieces.iter().map(LedPiece::told).collect();
        if let Some(head) = head {
            self.tell(now, subscriber, id, FlightEvent::Head(head), out);
        }
        if !pieces.is_empty() {
            self.tell(now, subscriber, id, FlightEvent::Pieces(pieces), out);
        }
    }

    pub(super) fn tell(
        &mut self,
        now: Now,
        to: Subscriber,
        fetch: FetchId,
        event: FlightEvent,
        out: &mut Outbox,
    ) {
        if to.shard == self.config.shard {
            self.flight_event(now, to.shard, to.ticket, fetch, event, out);
        } else {
            let message = LaneMessage::Flight {
                ticket: to.ticket,
                fetch,
                event,
            };
            out.lanes.push((to.shard, message));
        }
    }

    /// News of a flight that this shard joined: its waiters are woken.
    pub(super) fn flight_event(
        &mut self,
        now: Now,
        owner: ShardId,
        ticket: Ticket,
        fetch: FetchId,
        event: FlightEvent,
        out: &mut Outbox,
    ) {
        match event {
            FlightEvent::Hints(hints) => {
                if let Some(flight) = self.locals.get_mut(ticket) {
                    flight.hints.push(hints);
                }
                self.locals.wake(ticket);
            }
            FlightEvent::Head(head) => {
                if head.alone {
                    self.locals.close(ticket);
                }
                if let Some(variant) = &head.variant {
                    self.learn_variants(&variant.key, &variant.rule);
                    self.locals.close(ticket);
                }
                if let Some(flight) = self.locals.get_mut(ticket) {
                    if head.alone && !head.stored {
                        self.uncacheable.mark(flight.target.hash, now.unix_ms);
                    }
                    flight.head = Some(head);
                }
                self.locals.wake(ticket);
            }
            FlightEvent::Varies(rule) => {
                let target = self.locals.get(ticket).map(|flight| &flight.target);
                if let Some(key) = target.map(|target| target.key.clone()) {
                    self.learn_variants(&key, &rule);
                }
            }
            FlightEvent::Pieces(pieces) => self.flight_pieces(now, ticket, pieces),
            FlightEvent::Window => self.keep_pace(now, (owner, ticket, fetch), out),
            FlightEvent::End(outcome) => {
                if outcome == Outcome::Private
                    && let Some(flight) = self.locals.get(ticket)
                {
                    self.uncacheable.mark(flight.target.hash, now.unix_ms);
                }
                self.locals.wake(ticket);
                self.locals.end(ticket, outcome);
                if fetch != NO_FETCH {
                    self.answer_done(owner, fetch, out);
                }
            }
        }
    }

    fn flight_pieces(&mut self, now: Now, ticket: Ticket, pieces: Vec<Piece>) {
        for piece in pieces {
            let bytes = match piece {
                Piece::Heap(bytes) => Some(bytes),
                Piece::Span(span) => self.store.view(&span),
            };
            match bytes {
                Some(bytes) => self.locals.push(ticket, bytes, now.mono),
                // The owner keeps spans until we say Done: this is a bug of ours. Cut the answers
                // off rather than leave a hole in them.
                None => {
                    debug_assert!(false, "a span of a fill that is not released");
                    let outcome = Outcome::Failed(FetchErrorKind::ResponseIncomplete);
                    self.locals.wake(ticket);
                    self.locals.end(ticket, outcome);
                    return;
                }
            }
        }
        self.locals.wake(ticket);
    }

    fn answer_done(&mut self, owner: ShardId, fetch: FetchId, out: &mut Outbox) {
        if owner == self.config.shard {
            self.flight_done(fetch, owner);
        } else {
            out.lanes.push((owner, LaneMessage::Done { fetch }));
        }
    }

    pub(super) fn flight_done(&mut self, fetch: FetchId, from: ShardId) {
        if let Some(fill) = self.flights.done(fetch, from) {
            self.store.release(fill);
        }
    }

    /// News from the upstream.
    pub(super) fn fetch_event(
        &mut self,
        now: Now,
        id: FetchId,
        event: FetchEvent,
        out: &mut Outbox,
    ) {
        if self.passes.contains_key(&id) {
            return self.pass_event(now, id, event, out);
        }
        // A fetch that was cancelled may still have news on its way.
        if self.flights.get_mut(id).is_none() {
            return;
        }
        match event {
            FetchEvent::Hints(headers) => self.fetched_hints(now, id, &headers, out),
            FetchEvent::Head {
                status,
                headers,
                length,
            } => self.fetched_head(now, id, status, &headers, length, out),
            FetchEvent::Body(bytes) => self.fetched_body(now, id, bytes, out),
            // What flights ask with has no body.
            FetchEvent::Room(_) => {}
            FetchEvent::End => self.fetched_end(now, id, out),
            FetchEvent::Failed(FetchError { kind, detail }) => {
                self.stats.fetches_failed.inc();
                tracing::warn!(?kind, %detail, "fetch failed");
                self.end_flight(now, id, Outcome::Failed(kind), out);
            }
        }
    }

    /// A 103 for everyone who waits. What asks for one slice of many has sent its head, or has it.
    fn fetched_hints(&mut self, now: Now, id: FetchId, headers: &HeaderMap, out: &mut Outbox) {
        let flight = self.flights.get_mut(id);
        if flight.is_none_or(|flight| flight.head.is_some() || flight.target.slice().is_some()) {
            return;
        }
        self.stats.early_hints.inc();
        let hints = head::interim(StatusCode::EARLY_HINTS, headers);
        self.tell_all(now, id, out, || FlightEvent::Hints(hints.clone()));
    }

    fn fetched_head(
        &mut self,
        now: Now,
        id: FetchId,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        out: &mut Outbox,
    ) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let (validating, probe) = (flight.validating, flight.probe);
        if flight.target.slice().is_some() {
            let received = Received {
                status,
                headers,
                length,
                confirmed: None,
                flags: 0,
            };
            return self.slice_head(now, id, &received, out);
        }
        if status == StatusCode::NOT_MODIFIED {
            if validating {
                return self.confirmed(now, id, headers, out);
            }
            // Nobody asked whether anything was modified.
            out.fetches.push(FetchCommand::Cancel { id });
            self.stats.fetches_failed.inc();
            let outcome = Outcome::Failed(FetchErrorKind::ProtocolError);
            return self.end_flight(now, id, outcome, out);
        }
        if self.serve_stale_instead(now, id, status, out) {
            return;
        }
        match (status, probe) {
            (StatusCode::PARTIAL_CONTENT, Some(probe)) => {
                self.fetched_part(now, id, self.found(probe, headers), headers, out);
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => self.ask_for_whole(now, id, out),
            _ => self.fetched_whole(now, id, (status, length), headers, out),
        }
    }

    /// A 206 to a fetch that asked for a part, in case that the object is large.
    fn fetched_part(
        &mut self,
        now: Now,
        id: FetchId,
        found: Found,
        headers: &HeaderMap,
        out: &mut Outbox,
    ) {
        let large = match found {
            Found::Whole(length) => {
                let fields = slices::fields_of_whole(headers, length);
                let whole = (StatusCode::OK, Some(length));
                return self.fetched_whole(now, id, whole, &fields, out);
            }
            Found::Useless => return self.ask_for_whole(now, id, out),
            Found::Slice(index, length) => Large {
                length,
                slice: Some(index),
            },
            Found::Large(length) => Large {
                length,
                slice: None,
            },
        };
        if !self.begin_sliced(now, id, headers, &large, out) {
            self.abandon(now, id, out);
        }
    }

    fn fetched_whole(
        &mut self,
        now: Now,
        id: FetchId,
        (status, length): (StatusCode, Option<u64>),
        headers: &HeaderMap,
        out: &mut Outbox,
    ) {
        if let Some(large) = length.filter(|_| status == StatusCode::OK)
            && self.is_to_be_sliced(now, id, headers, length)
        {
            let large = Large {
                length: large,
                slice: Some(0),
            };
            if self.begin_sliced(now, id, headers, &large, out) {
                return;
            }
        }
        let received = Received {
            status,
            headers,
            length,
            confirmed: None,
            flags: 0,
        };
        self.begin_answer(now, id, received, out);
    }

    /// Tells those who wait what they get, and begins to keep it if it may be. False when it may not.
    pub(super) fn begin_answer(
        &mut self,
        now: Now,
        id: FetchId,
        received: Received<'_>,
        out: &mut Outbox,
    ) -> bool {
        let Received {
            status,
            headers,
            length,
            confirmed,
            flags,
        } = received;
        let place = self.place(now, id, headers);
        let Some(flight) = self.flights.get_mut(id) else {
            return false;
        };
        let facts = RequestFacts {
            authorization: false,
            sent_unix_ms: flight.sent_unix_ms,
            withholds: true,
        };
        let caching = &self.config.caching;
        let target = &flight.target;
        let rules = caching.routes.rules_of(target.route, &target.key);
        let withheld = withheld::fields(headers);
        let shared = withheld::without(headers, &withheld);
        let decision = freshness::policy(facts, status, &shared, now.unix_ms, caching, rules);
        if length.is_some_and(|length| length > self.config.limits.max_object) {
            self.abandon(now, id, out);
            return false;
        }
        let alone = decision.alone || matches!(place, Place::Nowhere);
        let times = match decision.storage {
            Storage::Store(times) if !matches!(place, Place::Nowhere) => Some(times),
            _ => None,
        };
        let variant = match place {
            Place::Variant(variant) => Some(variant),
            Place::Asked | Place::Nowhere => None,
        };
        let own = meta(status, times.unwrap_or_default(), length, now);
        let meta = ObjectMeta {
            stamp: flight.stamp,
            class: rules.class,
            flags: own.flags | flags,
            ..own
        };
        let mut keys = SurrogateKeys::read(headers, self.store.purges());
        if keys.slots.is_empty() {
            // A 304 seldom repeats them.
            keys.slots.extend_from_slice(confirmed.unwrap_or_default());
        }
        if keys.excess.is_some() {
            self.stats.surrogate_keys_exceeded.inc();
        }
        let role = self.config.role;
        let first = flight.subscribers.first().filter(|_| !withheld.is_empty());
        let own = first.map(|&first| (first, head::encode_for(role, status, headers).into()));
        let head = FlightHead {
            meta,
            encoded: head::encode_for(role, status, &shared).into(),
            own,
            tags: keys.slots,
            length,
            stored: times.is_some(),
            alone,
            age_s: freshness::received_age(headers),
            confirmed: confirmed.is_some(),
            variant,
            tier_ttl: None,
        };
        self.begin_fill(now, id, head, out);
        times.is_some()
    }

    /// Makes room for what a flight brings, and tells its head.
    pub(super) fn begin_fill(
        &mut self,
        now: Now,
        id: FetchId,
        mut head: FlightHead,
        out: &mut Outbox,
    ) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let (key, hash) = match &head.variant {
            Some(variant) => (&variant.key, variant.hash),
            None => (&flight.target.key, flight.target.hash),
        };
        let object = NewObject {
            key,
            meta: &head.meta,
            head: &head.encoded,
            tags: &head.tags,
            length: head.length,
        };
        match self.store.begin(hash, &object) {
            Ok(fill) => {
                flight.fill = Some(fill);
                head.stored &= !flight.purged;
            }
            Err(error) => {
                without_room(&self.stats, flight, &error);
                head.stored = false;
                let supply = flight.supply;
                let heap = self.heap_bytes + head.length.unwrap_or(0);
                if heap > self.config.limits.max_heap_fill {
                    // Held back, it would be cut off in the end: each waiter is passed its own.
                    self.stop_supply(id, supply, out);
                    return self.end_flight(now, id, Outcome::Private, out);
                }
            }
        }
        let head = Arc::new(head);
        flight.head = Some(Arc::clone(&head));
        if head.alone {
            self.keep_from_others(now, id, head.stored, out);
        }
        self.tell_all(now, id, out, || FlightEvent::Head(Arc::clone(&head)));
    }

    /// The answer is for the request that began the flight: nobody else joins, and the shards that
    /// joined after the first one ask for themselves.
    fn keep_from_others(&mut self, now: Now, id: FetchId, stored: bool, out: &mut Outbox) {
        let outcome = if stored {
            Outcome::Alone
        } else {
            Outcome::Private
        };
        for other in self.flights.close(id) {
            self.tell(now, other, NO_FETCH, FlightEvent::End(outcome), out);
        }
    }

    fn fetched_body(&mut self, now: Now, id: FetchId, bytes: Bytes, out: &mut Outbox) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let wanted = flight.enough.map(|enough| enough - flight.received);
        let last = wanted.is_some_and(|wanted| wanted <= bytes.len() as u64);
        let bytes = match wanted {
            Some(wanted) if last => bytes.slice(..wanted as usize),
            _ => bytes,
        };
        let credit = bytes.len() as u32;
        if !self.take_body(now, id, bytes, out) {
            return;
        }
        if last {
            out.fetches.push(FetchCommand::Cancel { id });
            return self.fetched_end(now, id, out);
        }
        // Of a window as much is wanted as those who follow have taken.
        let flight = self.flights.get_mut(id);
        if flight.is_some_and(|flight| flight.window.is_none()) {
            out.fetches.push(FetchCommand::Credit { id, bytes: credit });
        }
    }

    /// Keeps the next bytes of a body and tells those who wait of them. False when they ended the flight.
    pub(super) fn take_body(
        &mut self,
        now: Now,
        id: FetchId,
        bytes: Bytes,
        out: &mut Outbox,
    ) -> bool {
        let limits = &self.config.limits;
        let Some(flight) = self.flights.get_mut(id) else {
            return false;
        };
        flight.received += bytes.len() as u64;
        let mut spans = Vec::new();
        let mut in_arena = false;
        if let Some(fill) = flight.fill.as_mut().filter(|_| !flight.full) {
            match self.store.append(fill, &bytes, &mut spans) {
                Ok(()) => in_arena = true,
                Err(error) => without_room(&self.stats, flight, &error),
            }
        }
        let (supply, hash) = (flight.supply, flight.target.hash);
        let declared = flight.head.as_ref().and_then(|head| head.length);
        if declared.is_some_and(|length| flight.received > length) {
            self.stop_supply(id, supply, out);
            self.incomplete(now, id, out);
            return false;
        }
        let heap = self.heap_bytes + bytes.len() as u64;
        let too_large = flight.received > limits.max_object;
        let outgrown = too_large || (!in_arena && heap > limits.max_heap_fill / 2);
        let opens = outgrown && flight.window.is_none() && supply == Supply::Upstream;
        let is_lost = outgrown && supply == Supply::Tier;
        if is_lost || (!in_arena && heap > limits.max_heap_fill) {
            self.stop_supply(id, supply, out);
            self.uncacheable.mark(hash, now.unix_ms);
            self.stats.fetches_failed.inc();
            let outcome = Outcome::Failed(FetchErrorKind::LimitReached);
            self.end_flight(now, id, outcome, out);
            return false;
        }
        if opens {
            self.begin_window(now, id, out);
        }
        let Some(flight) = self.flights.get_mut(id) else {
            return false;
        };
        let new: Vec<LedPiece> = if in_arena {
            spans.into_iter().map(LedPiece::Span).collect()
        } else {
            flight.heap += bytes.len() as u64;
            self.heap_bytes += bytes.len() as u64;
            // What the tier has read lies in a block that it needs for the next read.
            let bytes = match supply {
                Supply::Upstream => bytes,
                Supply::Tier => Bytes::copy_from_slice(&bytes),
            };
            vec![LedPiece::Heap(bytes)]
        };
        match &mut flight.window {
            Some(window) => new.iter().for_each(|piece| window.push(piece.heap_bytes())),
            None => flight.pieces.extend(new.iter().cloned()),
        }
        self.tell_all(now, id, out, || {
            FlightEvent::Pieces(new.iter().map(LedPiece::told).collect())
        });
        true
    }

    pub(super) fn fetched_end(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let declared = flight.head.as_ref().map(|head| head.length);
        if declared.is_none_or(|length| length.is_some_and(|length| length != flight.received)) {
            return self.incomplete(now, id, out);
        }
        if self.is_to_be_kept(id) {
            self.keep(now, id);
        }
        self.end_flight(now, id, Outcome::Complete, out);
    }

    /// Whether the object that has arrived is to be stored. What a hard purge covers the store
    /// refuses itself; what a soft one covers is stored if nothing newer has come instead.
    fn is_to_be_kept(&mut self, id: FetchId) -> bool {
        let Some(flight) = self.flights.get_mut(id) else {
            return false;
        };
        let stored = flight.head.as_ref().is_some_and(|head| head.stored);
        let keep = stored && !flight.purged && !flight.full;
        let (key, slice) = (flight.target.key.clone(), flight.target.slice().cloned());
        keep && self.flights.is_latest(id, &key)
            && slice.is_none_or(|slice| self.is_current(&slice))
    }

    fn keep(&mut self, now: Now, id: FetchId) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let (supply, route) = (flight.supply, flight.target.route);
        let variant = flight.head.as_ref().and_then(|head| head.variant.as_ref());
        let (key, hash) = match variant {
            Some(variant) => (variant.key.clone(), variant.hash),
            None => (flight.target.key.clone(), flight.target.hash),
        };
        let Some(fill) = flight.fill.as_mut() else {
            return;
        };
        match self.store.commit(fill) {
            Ok(()) => {
                self.stats.fills_stored.inc();
                if supply == Supply::Upstream {
                    self.count_by_class(route).fills.inc();
                }
                self.stored_from(supply, hash);
                self.offer_pinned(now, hash, &key);
            }
            Err(StoreError::Full) => self.stats.fills_without_room.inc(),
            Err(error) => tracing::debug!(%error, "object not kept"),
        }
    }

    /// The body did not come as declared: what was told of it is cut off, and it is not kept.
    fn incomplete(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        self.stats.fetches_failed.inc();
        let outcome = Outcome::Failed(FetchErrorKind::ResponseIncomplete);
        self.end_flight(now, id, outcome, out);
    }

    /// The response is for one request only: every waiter asks for itself.
    pub(super) fn abandon(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        out.fetches.push(FetchCommand::Cancel { id });
        self.end_flight(now, id, Outcome::Private, out);
    }

    pub(super) fn end_flight(&mut self, now: Now, id: FetchId, outcome: Outcome, out: &mut Outbox) {
        let Some(flight) = self.flights.end(id) else {
            return;
        };
        self.heap_bytes -= flight.heap;
        if flight.subscribers.is_empty() {
            if let Some(fill) = flight.fill {
                self.store.release(fill);
            }
        } else {
            self.flights.settle(id, flight.fill, &flight.subscribers);
            for subscriber in flight.subscribers {
                self.tell(now, subscriber, id, FlightEvent::End(outcome), out);
            }
        }
        if flight.in_line {
            self.leave_line(now, out);
        }
    }

    pub(super) fn tell_all(
        &mut self,
        now: Now,
        id: FetchId,
        out: &mut Outbox,
        event: impl Fn() -> FlightEvent,
    ) {
        let count = self
            .flights
            .get_mut(id)
            .map_or(0, |flight| flight.subscribers.len());
        for index in 0..count {
            let subscriber = self
                .flights
                .get_mut(id)
                .and_then(|flight| flight.subscribers.get(index).copied());
            if let Some(subscriber) = subscriber {
                self.tell(now, subscriber, id, event(), out);
            }
        }
    }
}

pub(super) fn meta(
    status: StatusCode,
    times: Lifetime,
    length: Option<u64>,
    now: Now,
) -> ObjectMeta {
    ObjectMeta {
        status: status.as_u16(),
        stored_unix_ms: now.unix_ms,
        age_at_store_s: times.initial_age_s,
        lifetime_s: times.lifetime_s,
        stale_while_revalidate_s: times.swr_s,
        stale_if_error_s: times.sie_s,
        flags: u32::from(times.flags.0),
        body_len: length.unwrap_or(0),
        ..ObjectMeta::default()
    }
}

/// From now on the body goes to the heap and the object is not kept.
fn without_room(stats: &crate::stats::ShardStats, flight: &mut Owned, error: &StoreError) {
    flight.full = true;
    stats.fills_without_room.inc();
    tracing::debug!(%error, "object not kept");
}
