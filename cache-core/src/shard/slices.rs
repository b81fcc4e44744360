//! Answers that go from slice to slice of a large object: a stored slice is taken from the arena, a missing
//! one is a flight that all who want it join, and a few slices ahead are fetched meanwhile.
//!
//! The head goes out with the first bytes, so that an object that has changed, or an origin that does
//! not answer, can still be told of. After that a slice that cannot be had cuts the answer off: bytes
//! of another version never follow.

use std::sync::Arc;

use bytes::Bytes;
use quinn_proto::StreamId;

use super::Shard;
use super::answers::Step;
use super::following::MAX_ATTEMPTS;
use super::slicing::slice_target;
use crate::conn::client::Client;
use crate::conn::h3::head::{self, Dynamic};
use crate::conn::stream::{Asked, Current, Cursor, Response, SlicedHead, Slicing, Source};
use crate::flight::{Extent, Outcome, Slice, Target, Waiter};
use crate::http::cache_status::{self, CacheStatus, Forward};
use crate::http::freshness::Freshness;
use crate::http::range::Cut;
use crate::http::slices::Sliced;
use crate::io::{FetchErrorKind, Now, Outbox};
use crate::purge::TagSlot;
use crate::store::{Body, ObjectMeta};

/// A large object that a look-up has found, and what of it goes into the answer.
pub(super) struct FoundSliced {
    pub sliced: Sliced,
    pub cut: Cut,
    /// Of the answer.
    pub fields: Vec<u8>,
    pub validator: Bytes,
    pub tags: Vec<TagSlot>,
    pub meta: ObjectMeta,
    pub fresh: Freshness,
}

/// The object that a request is about.
pub(super) struct Object {
    pub target: Target,
    pub asked: Option<Box<Asked>>,
    /// Why it was asked for, if it was not there.
    pub why: Option<Forward>,
}

/// Whether bytes of the slice that an answer needs are there.
enum Had {
    Bytes,
    /// A flight brings them.
    Followed,
    /// `limits.max_waiters` is reached.
    Busy,
    /// It is stored without them.
    Nothing,
}

impl Shard {
    pub(super) fn answer_slices(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        found: FoundSliced,
        object: Object,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        let Object {
            mut target,
            asked,
            why,
        } = object;
        target.extent = Extent::Whole;
        let slice = Slice {
            whole: target.key.clone(),
            sliced: found.sliced,
            index: 0,
            validator: found.validator,
            meta: found.meta,
            tags: found.tags,
        };
        let slicing = Slicing {
            target,
            slice: Arc::new(slice),
            cut: found.cut,
            head: Some(SlicedHead {
                fields: found.fields,
                age_s: found.fresh.age_s,
                ttl_s: found.fresh.ttl_s,
                why,
            }),
            current: None,
            ahead: 0,
            attempts: 0,
        };
        conn.put_last(id);
        let response = Response {
            rest: Default::default(),
            source: Source::Slices(Box::new(slicing)),
            head_only: false,
            asked,
        };
        self.advance(conn, id, response, now, out)
    }

    pub(super) fn step_slices(
        &mut self,
        waiter: Waiter,
        response: &mut Response,
        now: Now,
        out: &mut Outbox,
    ) -> Step {
        let Source::Slices(slicing) = &mut response.source else {
            return Step::Finish;
        };
        let rest = &mut response.rest;
        let Some(want) = slicing.cut.wants() else {
            self.leave_slice(slicing);
            return Step::Finish;
        };
        let index = slicing.slice.sliced.index_of(want);
        if slicing
            .current
            .is_some_and(|current| current.index != index)
        {
            self.leave_slice(slicing);
        }
        if slicing.current.is_none() {
            match self.have_slice(slicing, index, rest, now, out) {
                Had::Bytes => {
                    self.fetch_ahead(slicing, index, now, out);
                    return Step::Write;
                }
                Had::Followed => self.fetch_ahead(slicing, index, now, out),
                Had::Busy => {
                    self.stats.waiters_refused.inc();
                    return give_up(slicing, Outcome::Refused);
                }
                Had::Nothing => return Step::Abort,
            }
        }
        self.step_slice(waiter, slicing, rest)
    }

    /// Takes what there is of a slice that is on its way.
    fn step_slice(
        &mut self,
        waiter: Waiter,
        slicing: &mut Slicing,
        rest: &mut std::collections::VecDeque<Bytes>,
    ) -> Step {
        let (Some(want), Some(current)) = (slicing.cut.wants(), &mut slicing.current) else {
            return Step::Finish;
        };
        let base = slicing.slice.sliced.range(current.index).start;
        let Some(flight) = self.locals.get(current.ticket) else {
            return Step::Abort;
        };
        current.cursor.seek(&flight.pieces, want - base);
        let outcome = flight.outcome;
        if flight.pieces.is_gone(current.cursor.piece) {
            return Step::Abort;
        }
        if let Some(piece) = flight.pieces.get(current.cursor.piece) {
            let (piece, at) = (piece.clone(), base + current.cursor.at);
            let next = current.cursor.piece + 1;
            self.locals.moved(current.ticket, &mut current.at, next);
            self.write_sliced_head(slicing, true, rest);
            slicing.cut.take(at, &piece, rest);
            return Step::Write;
        }
        match outcome {
            None => {
                if !std::mem::replace(&mut current.waiting, true) {
                    self.locals.wait(current.ticket, waiter);
                }
                Step::Wait
            }
            // It is stored, or was a moment ago.
            Some(Outcome::Present) if slicing.attempts < MAX_ATTEMPTS => {
                slicing.attempts += 1;
                self.leave_slice(slicing);
                Step::Write
            }
            Some(outcome) => {
                self.leave_slice(slicing);
                give_up(slicing, outcome)
            }
        }
    }

    /// Takes a slice from the store, or follows the flight that brings it.
    fn have_slice(
        &mut self,
        slicing: &mut Slicing,
        index: u32,
        rest: &mut std::collections::VecDeque<Bytes>,
        now: Now,
        out: &mut Outbox,
    ) -> Had {
        let target = slice_target(self, &slicing.target, &slicing.slice, index);
        if let Some(body) = self.stored_slice(&target) {
            let left = slicing.cut.len();
            self.write_sliced_head(slicing, false, rest);
            let mut at = slicing.slice.sliced.range(index).start;
            for piece in body.iter() {
                slicing.cut.take(at, piece, rest);
                at += piece.len() as u64;
            }
            // A slice is stored with the length that it must have.
            debug_assert!(slicing.cut.len() < left, "a slice without what it is for");
            return match slicing.cut.len() < left {
                true => Had::Bytes,
                false => Had::Nothing,
            };
        }
        self.stats.misses.inc();
        if self.locals.followers() >= self.config.limits.max_waiters {
            return Had::Busy;
        }
        let joined = self.locals.joinable(&target.key, self.store.purges());
        let ticket = joined.unwrap_or_else(|| self.open_local(&target));
        self.locals.follow(ticket);
        slicing.current = Some(Current {
            index,
            ticket,
            cursor: Cursor::default(),
            at: 0,
            waiting: false,
        });
        match joined {
            Some(_) => self.stats.collapsed.inc(),
            None => self.depart(ticket, target, now, out),
        }
        Had::Followed
    }

    fn stored_slice(&mut self, target: &Target) -> Option<Body> {
        let hit = self.store.lookup(target.hash, &target.key)?;
        if let Some(note) = hit.note {
            self.hits.push(note);
        }
        hit.bytes()
    }

    /// Begins the fetches of a few slices that come next. Nobody follows them yet, and none is missed.
    fn fetch_ahead(&mut self, slicing: &mut Slicing, index: u32, now: Now, out: &mut Outbox) {
        let Some(until) = slicing.cut.until() else {
            return;
        };
        let last = slicing.slice.sliced.index_of(until - 1);
        let end = index
            .saturating_add(self.config.caching.slices_ahead)
            .min(last);
        for next in slicing.ahead.max(index + 1)..=end {
            let target = slice_target(self, &slicing.target, &slicing.slice, next);
            let is_there = self.store.peek(target.hash, &target.key).is_some();
            if !is_there
                && self
                    .locals
                    .joinable(&target.key, self.store.purges())
                    .is_none()
            {
                self.stats.slices_ahead.inc();
                let ticket = self.open_local(&target);
                self.depart(ticket, target, now, out);
            }
        }
        slicing.ahead = end.saturating_add(1);
    }

    fn leave_slice(&mut self, slicing: &mut Slicing) {
        if let Some(current) = slicing.current.take() {
            self.locals.unfollow(current.ticket, current.at);
        }
    }

    /// Writes the head, if that was not done, before the first bytes of the body.
    fn write_sliced_head(
        &mut self,
        slicing: &mut Slicing,
        is_fetched: bool,
        rest: &mut std::collections::VecDeque<Bytes>,
    ) {
        let Some(head) = slicing.head.take() else {
            return;
        };
        let forwarded = |why| CacheStatus::Forwarded {
            why,
            stored: true,
            collapsed: false,
            confirmed: false,
            detail: None,
        };
        let verdict = match (head.why, is_fetched) {
            (Some(why), _) => forwarded(why),
            (None, true) => forwarded(Forward::Partial),
            (None, false) => {
                self.stats.hits.inc();
                CacheStatus::Hit { ttl: head.ttl_s }
            }
        };
        self.scratch.status.clear();
        cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: Some(head.age_s),
            cache_status: &self.scratch.status,
        };
        let buffer = head::response(&head.fields, dynamic, Some(slicing.cut.len()), 0);
        rest.push_back(Bytes::from(buffer));
    }
}

/// A slice cannot be had: before the head there is an answer for that, after it the rest never comes.
fn give_up(slicing: &Slicing, outcome: Outcome) -> Step {
    if slicing.head.is_none() {
        return Step::Abort;
    }
    match outcome {
        Outcome::Failed(kind) => Step::Failed(kind),
        Outcome::Changed => Step::Elsewhere(Outcome::Changed),
        _ => Step::Failed(FetchErrorKind::LimitReached),
    }
}
