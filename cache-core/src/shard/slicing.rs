//! Large objects as their owner keeps them: finding out that an object is large, and fetching its slices.
//!
//! ```text
//!  miss --Range of a slice--> 206: a slice -----------------> note kept, waiters look again,
//!       '-without---> 200 that is long, ranges offered -----> the slice is a flight of its own
//!                          '- 206: the whole, 200: as any object
//!  slice --Range, If-Range--> 206 of the same version -> filled as any object
//!                             anything else -----------> the note goes, waiters begin anew
//! ```

use std::sync::Arc;

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Shard;
use super::flights::{NO_FETCH, Received, meta};
use super::shapes::with_validators;
use super::variants::Place;
use crate::conn::h3::head;
use crate::flight::{Extent, FlightEvent, FlightHead, Outcome, Slice, Supply, Target};
use crate::http::freshness::{self, RequestFacts, Storage};
use crate::http::range;
use crate::http::routes::RouteId;
use crate::http::slices::{self, Found, Probe, SLICE, SLICED, Sliced};
use crate::http::surrogate_key::SurrogateKeys;
use crate::io::{FetchCommand, FetchErrorKind, FetchId, Now, Outbox};
use crate::purge::TagSlot;
use crate::store::{KeyHash, NewObject, ObjectMeta};

/// A large object that was found.
pub(super) struct Large {
    pub length: u64,
    /// The slice that the response begins with, or is.
    pub slice: Option<u32>,
}

/// The head of a large object, to be kept with its note.
pub(super) struct Note<'a> {
    pub key: &'a [u8],
    pub hash: KeyHash,
    pub meta: ObjectMeta,
    pub head: &'a [u8],
    pub tags: &'a [TagSlot],
}

impl Shard {
    /// The part that a fetch asks for in case its object is large: the one that the client wants of
    /// something unknown, the first one of what was large before.
    pub(super) fn probe(&mut self, now: Now, target: &Target) -> Option<Probe> {
        let size = self.config.caching.slice_size;
        let asked = match &target.extent {
            Extent::Slice(_) => return None,
            Extent::Part(spec) => Some(slices::probe(*spec, size)),
            Extent::Whole => None,
        };
        if !self.may_be_sliced(now, target) {
            return None;
        }
        match self.store.peek(target.hash, &target.key) {
            Some(stored) if stored.flags & SLICED == 0 => None,
            Some(_) => Some(asked.unwrap_or(Probe::Slice(0))),
            None => asked,
        }
    }

    fn may_be_sliced(&mut self, now: Now, target: &Target) -> bool {
        self.config.caching.slice_size > 0
            && !self.store.is_pinned(&target.key)
            && !self.unsliceable.contains(target.hash, now.unix_ms)
    }

    /// Adds what makes a fetch one of a part.
    pub(super) fn ask_for_part(
        &self,
        target: &Target,
        probe: Option<Probe>,
        headers: &mut HeaderMap,
    ) {
        let field = match (target.slice(), probe) {
            (Some(slice), _) => {
                if let Ok(value) = HeaderValue::from_bytes(&slice.validator) {
                    headers.insert(IF_RANGE, value);
                }
                Probe::Slice(slice.index).field(slice.sliced.slice)
            }
            (None, Some(probe)) => probe.field(self.config.caching.slice_size),
            (None, None) => return,
        };
        if let Ok(value) = HeaderValue::from_str(&field) {
            headers.insert(RANGE, value);
        }
    }

    /// What a 206 to a probe is.
    pub(super) fn found(&self, probe: Probe, headers: &HeaderMap) -> Found {
        let size = self.config.caching.slice_size;
        slices::found(probe, headers, size, strong_validator(headers).is_some())
    }

    /// Whether the whole that begins to come is large enough to be fetched in slices instead.
    pub(super) fn is_to_be_sliced(
        &mut self,
        now: Now,
        id: FetchId,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> bool {
        let is_large = length.is_some_and(|length| length > self.config.caching.slice_above);
        if !is_large || !slices::is_offered(headers) || strong_validator(headers).is_none() {
            return false;
        }
        let target = self.flights.get_mut(id).map(|flight| flight.target.clone());
        target.is_some_and(|target| self.may_be_sliced(now, &target))
    }

    /// The origin does not answer ranges of this as it should: those who wait ask again, for the
    /// whole.
    pub(super) fn ask_for_whole(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        if let Some(flight) = self.flights.get_mut(id) {
            self.unsliceable.mark(flight.target.hash, now.unix_ms);
        }
        out.fetches.push(FetchCommand::Cancel { id });
        self.end_flight(now, id, Outcome::Present, out);
    }

    /// Keeps a note of a large object; those who wait for it look again and follow its slices. What the
    /// fetch still brings is one of them. False: it must not be kept, or there is no room.
    pub(super) fn begin_sliced(
        &mut self,
        now: Now,
        id: FetchId,
        headers: &HeaderMap,
        large: &Large,
        out: &mut Outbox,
    ) -> bool {
        let Some(slice) = self.keep_large(now, id, headers, large) else {
            return false;
        };
        let Some(flight) = self.flights.end(id) else {
            return false;
        };
        // No piece was told: nobody has to be done with any.
        for subscriber in flight.subscribers {
            let event = FlightEvent::End(Outcome::Sliced);
            self.tell(now, subscriber, NO_FETCH, event, out);
        }
        let Some(index) = large.slice else {
            out.fetches.push(FetchCommand::Cancel { id });
            return true;
        };
        let target = slice_target(self, &flight.target, &slice, index);
        let enough = slice.sliced.range(index);
        self.flights.open(
            id,
            target,
            Supply::Upstream,
            None,
            flight.sent_unix_ms,
            flight.stamp,
        );
        if let Some(flight) = self.flights.get_mut(id) {
            flight.enough = Some(enough.end - enough.start);
        }
        self.begin_slice(now, id, out);
        true
    }

    /// Keeps head and note of a large object whose head a flight has brought.
    fn keep_large(
        &mut self,
        now: Now,
        id: FetchId,
        headers: &HeaderMap,
        large: &Large,
    ) -> Option<Arc<Slice>> {
        let fields = slices::fields_of_whole(headers, large.length);
        let validator = strong_validator(headers)?;
        let place = self.place(now, id, &fields);
        let flight = self.flights.get_mut(id)?;
        let (target, stamp, purged) = (flight.target.clone(), flight.stamp, flight.purged);
        let (key, hash) = match place {
            Place::Asked => (target.key.clone(), target.hash),
            Place::Variant(variant) => (variant.key, variant.hash),
            Place::Nowhere => return None,
        };
        let facts = RequestFacts {
            authorization: false,
            sent_unix_ms: flight.sent_unix_ms,
            withholds: false,
        };
        let caching = &self.config.caching;
        let rules = caching.routes.rules_of(target.route, &target.key);
        let status = StatusCode::OK;
        let decision = freshness::policy(facts, status, &fields, now.unix_ms, caching, rules);
        let class = rules.class;
        let Storage::Store(times) = decision.storage else {
            return None;
        };
        let too_large = large.length > self.config.limits.max_sliced;
        if too_large || decision.alone || purged || !self.flights.is_latest(id, &target.key) {
            return None;
        }
        let sliced = Sliced {
            generation: self.next_generation(now),
            length: large.length,
            slice: self.config.caching.slice_size,
        };
        let keys = SurrogateKeys::read(&fields, self.store.purges());
        let meta = ObjectMeta {
            stamp,
            class,
            ..meta(StatusCode::OK, times, None, now)
        };
        let encoded = head::encode_static(StatusCode::OK, &fields);
        let note = Note {
            key: &key,
            hash,
            meta,
            head: &encoded,
            tags: &keys.slots,
        };
        if !self.keep_note(&note, &sliced) {
            return None;
        }
        self.stats.objects_sliced.inc();
        Some(Arc::new(Slice {
            whole: key,
            sliced,
            index: 0,
            validator,
            meta,
            tags: keys.slots,
        }))
    }

    /// Milliseconds, so that a restart does not find the slices of an earlier life.
    fn next_generation(&mut self, now: Now) -> u64 {
        self.last_generation = now.unix_ms.max(self.last_generation + 1);
        self.last_generation
    }

    /// Keeps the head of a large object, with the note of how it is cut in place of its body.
    pub(super) fn keep_note(&mut self, note: &Note<'_>, sliced: &Sliced) -> bool {
        let meta = ObjectMeta {
            flags: note.meta.flags & !SLICE | SLICED,
            ..note.meta
        };
        let body = sliced.encode();
        let object = NewObject {
            key: note.key,
            meta: &meta,
            head: note.head,
            tags: note.tags,
            length: Some(body.len() as u64),
        };
        self.store_whole(note.hash, &object, [&body[..]].into_iter())
    }

    /// The response to the fetch of a slice.
    pub(super) fn slice_head(
        &mut self,
        now: Now,
        id: FetchId,
        received: &Received<'_>,
        out: &mut Outbox,
    ) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let route = flight.target.route;
        let Some(slice) = flight.target.slice().cloned() else {
            return;
        };
        let same = strong_validator(received.headers).as_ref() == Some(&slice.validator);
        if same
            && received.status == StatusCode::PARTIAL_CONTENT
            && self.suits(&slice, route, received, now)
        {
            return self.begin_slice(now, id, out);
        }
        out.fetches.push(FetchCommand::Cancel { id });
        self.stats.fetches_failed.inc();
        if received.status.is_server_error() {
            let outcome = Outcome::Failed(FetchErrorKind::ProtocolError);
            return self.end_flight(now, id, outcome, out);
        }
        // Versions that do not last, as of servers that each have their own, are none to go by.
        let age_ms = now.unix_ms.saturating_sub(slice.sliced.generation);
        let is_young = u128::from(age_ms) < self.config.limits.uncacheable_ttl.as_millis();
        if is_young || (same && received.status == StatusCode::OK) {
            let hash = self.store.hash_variant(&slice.whole);
            self.unsliceable.mark(hash, now.unix_ms);
        }
        self.stats.slices_changed.inc();
        self.forget_version(&slice);
        self.end_flight(now, id, Outcome::Changed, out);
    }

    /// Whether these are the bytes that were asked for, and anyone may have them.
    fn suits(&self, slice: &Slice, route: RouteId, received: &Received<'_>, now: Now) -> bool {
        let range = slice.sliced.range(slice.index);
        let value = received.headers.get(http::header::CONTENT_RANGE);
        let got = value.and_then(|value| range::parse_content_range(value.as_bytes()));
        let length = range.end - range.start;
        let facts = RequestFacts::default();
        let caching = &self.config.caching;
        let (headers, status) = (received.headers, StatusCode::OK);
        let rules = caching.routes.rules_of(route, &slice.whole);
        let decision = freshness::policy(facts, status, headers, now.unix_ms, caching, rules);
        got == Some((range, Some(slice.sliced.length)))
            && received.length.is_none_or(|declared| declared == length)
            && decision.storage != Storage::Private
    }

    /// False: others are fetched first.
    pub(super) fn enter_line(&mut self, now: Now, id: FetchId) -> bool {
        let max = self.config.limits.max_slice_fetches;
        let is_next = self.line.enter(id, now.mono, max);
        if !is_next {
            self.stats.slices_queued.inc();
        }
        is_next
    }

    /// A slice has come to its end: those that wait follow.
    pub(super) fn leave_line(&mut self, now: Now, out: &mut Outbox) {
        self.line.leave();
        while let Some(id) = self.line.next(self.config.limits.max_slice_fetches) {
            let flight = self.flights.get_mut(id);
            debug_assert!(flight.is_some(), "a slice ended before it was asked for");
            let Some(flight) = flight else {
                self.line.leave();
                continue;
            };
            flight.sent_unix_ms = now.unix_ms;
            flight.in_line = true;
            let target = flight.target.clone();
            self.ask_upstream(now, id, &target, out);
        }
    }

    /// Slices that have waited for too long are not fetched for those who wait.
    pub(super) fn expire_slices(&mut self, now: Now, out: &mut Outbox) {
        let patience = self.config.limits.slice_wait;
        while let Some(id) = self.line.take_overdue(now.mono, patience) {
            self.stats.slices_refused.inc();
            let outcome = Outcome::Failed(FetchErrorKind::LimitReached);
            self.end_flight(now, id, outcome, out);
        }
    }

    fn slice_of(&mut self, id: FetchId) -> Option<Arc<Slice>> {
        self.flights.get_mut(id)?.target.slice().cloned()
    }

    /// Makes room for a slice that begins to come.
    fn begin_slice(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        let Some(slice) = self.slice_of(id) else {
            return;
        };
        let stamp = self.flights.get_mut(id).map_or(0, |flight| flight.stamp);
        let range = slice.sliced.range(slice.index);
        let meta = ObjectMeta {
            flags: slice.meta.flags & !SLICED | SLICE,
            stamp,
            ..slice.meta
        };
        let head = FlightHead {
            meta,
            encoded: Bytes::new(),
            own: None,
            tags: slice.tags.clone(),
            length: Some(range.end - range.start),
            stored: true,
            alone: false,
            age_s: None,
            confirmed: false,
            variant: None,
            tier_ttl: None,
        };
        self.begin_fill(now, id, head, out);
    }

    /// Whether the object of a slice is still kept in the same generation.
    pub(super) fn is_current(&mut self, slice: &Slice) -> bool {
        let hash = self.store.hash_variant(&slice.whole);
        let Some(hit) = self.store.lookup(hash, &slice.whole) else {
            return false;
        };
        let is_sliced = hit.meta().flags & SLICED != 0;
        let kept = hit.body().filter(|_| is_sliced).and_then(Sliced::decode);
        kept.is_some_and(|kept| kept.generation == slice.sliced.generation)
    }

    /// The origin has another version: what is kept of this one is found no more.
    fn forget_version(&mut self, slice: &Slice) {
        if self.is_current(slice) {
            let hash = self.store.hash_variant(&slice.whole);
            self.store.purge(hash, &slice.whole);
            if let Some(tier) = &mut self.tier {
                tier.forget(hash);
            }
        }
    }
}

/// What to ask for a slice of the object that `whole` is about.
pub(super) fn slice_target(
    shard: &Shard,
    whole: &Target,
    slice: &Arc<Slice>,
    index: u32,
) -> Target {
    let key = Bytes::from(slice.sliced.key(&slice.whole, index));
    let slice = Slice {
        index,
        ..Slice::clone(slice)
    };
    Target {
        hash: shard.store.hash_variant(&key),
        key,
        extent: Extent::Slice(Arc::new(slice)),
        revalidate: false,
        stored_only: false,
        ..whole.clone()
    }
}

/// The validator that tells any two versions of a response apart.
fn strong_validator(headers: &HeaderMap) -> Option<Bytes> {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    let validators = range::Validators {
        etag: value(http::header::ETAG),
        last_modified: value(http::header::LAST_MODIFIED),
        date: value(http::header::DATE),
    };
    validators.strong().map(Bytes::copy_from_slice)
}

/// The same of a static head.
pub(super) fn strong_of(head: &[u8]) -> Option<Bytes> {
    with_validators(head, |own| own.strong().map(Bytes::copy_from_slice))
}
