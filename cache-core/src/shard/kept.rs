//! Copies of answers that were fetched for one request and that others may have too: to requests with
//! Authorization (RFC 9111 section 3.5) and to POST (RFC 9110 section 9.3.3), on routes that say so.
//!
//! The answer goes by as that of any pass, and nobody waits for it. What may be kept is copied, within
//! `limits.max_kept_pass`, and goes to the owner of its key when it is whole.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, VARY};
use http::{HeaderMap, Method, StatusCode};

use super::flights::meta;
use super::{LaneMessage, Shard};
use crate::conn::h3::head;
use crate::flight::{Supply, Target};
use crate::http::freshness::{self, RequestFacts, Storage};
use crate::http::invalidate;
use crate::http::routes::RouteId;
use crate::http::surrogate_key::SurrogateKeys;
use crate::io::{FetchEvent, FetchId, Now, Outbox};
use crate::purge::TagSlot;
use crate::store::{KeyHash, NewObject, ObjectMeta};

/// What of a pass bears on keeping its answer.
pub(super) struct Keeping {
    pub target: Target,
    pub stamp: u32,
    pub sent_unix_ms: u64,
    pub copy: Option<Box<Copied>>,
}

/// A response that is being copied, or on its way to the owner of its key.
#[derive(Debug)]
pub struct Copied {
    key: Bytes,
    hash: KeyHash,
    route: RouteId,
    meta: ObjectMeta,
    head: Bytes,
    tags: Vec<TagSlot>,
    declared: Option<u64>,
    body: Vec<Bytes>,
    bytes: u64,
}

impl Shard {
    /// Decides about the answer to a pass whose head has come.
    pub(super) fn begin_copy(
        &mut self,
        now: Now,
        fetch: FetchId,
        event: &FetchEvent,
    ) -> Option<Box<Copied>> {
        let FetchEvent::Head {
            status,
            headers,
            length,
        } = event
        else {
            return None;
        };
        let pass = self.passes.get(&fetch)?;
        let keeping = pass.keeping.as_ref()?;
        let target = &keeping.target;
        let posted = pass.method == Method::POST;
        if posted && (*status != StatusCode::OK || !invalidate::is_of(&target.key, headers)) {
            return None;
        }
        let caching = &self.config.caching;
        let rules = caching.routes.rules_of(target.route, &target.key);
        let facts = RequestFacts {
            authorization: !posted,
            sent_unix_ms: keeping.sent_unix_ms,
            withholds: false,
        };
        let decision = freshness::policy(facts, *status, headers, now.unix_ms, caching, rules);
        let Storage::Store(times) = decision.storage else {
            return None;
        };
        let implied = posted && decision.reason != "explicit";
        if decision.alone || implied || !suits_everyone(headers) {
            return None;
        }
        if length.is_some_and(|length| length > self.config.limits.max_kept_pass) {
            self.stats.passes_not_kept.inc();
            return None;
        }
        Some(Box::new(Copied {
            key: target.key.clone(),
            hash: target.hash,
            route: target.route,
            meta: ObjectMeta {
                stamp: keeping.stamp,
                class: rules.class,
                ..meta(*status, times, *length, now)
            },
            head: Bytes::from(head::encode_for(self.config.role, *status, headers)),
            tags: SurrogateKeys::read(headers, self.store.purges()).slots,
            declared: *length,
            body: Vec::new(),
            bytes: 0,
        }))
    }

    /// Copies what comes of the body; at its end the copy goes to its owner.
    pub(super) fn go_on_copying(
        &mut self,
        now: Now,
        fetch: FetchId,
        event: &FetchEvent,
        out: &mut Outbox,
    ) {
        let limits = &self.config.limits;
        let keeping = self.passes.get_mut(&fetch);
        let keeping = keeping.and_then(|pass| pass.keeping.as_mut());
        let Some(copy) = keeping.and_then(|keeping| keeping.copy.as_mut()) else {
            return;
        };
        match event {
            FetchEvent::Body(bytes) => {
                let more = bytes.len() as u64;
                let fits = copy.bytes + more <= limits.max_kept_pass
                    && self.heap_bytes + more <= limits.max_heap_fill;
                if !fits {
                    self.stats.passes_not_kept.inc();
                    return self.stop_copying(fetch);
                }
                self.heap_bytes += more;
                copy.bytes += more;
                copy.body.push(bytes.clone());
            }
            FetchEvent::End => {
                if copy.declared.is_some_and(|length| length != copy.bytes) {
                    return self.stop_copying(fetch);
                }
                if let Some(copy) = self.take_copy(fetch) {
                    self.send_copy(now, copy, out);
                }
            }
            FetchEvent::Failed(_) => self.stop_copying(fetch),
            FetchEvent::Head { .. } | FetchEvent::Hints(_) | FetchEvent::Room(_) => {}
        }
    }

    fn take_copy(&mut self, fetch: FetchId) -> Option<Box<Copied>> {
        let keeping = self.passes.get_mut(&fetch)?.keeping.as_mut()?;
        let copy = keeping.copy.take()?;
        self.heap_bytes -= copy.bytes;
        Some(copy)
    }

    /// What was copied of the answer to a pass is dropped.
    pub(super) fn stop_copying(&mut self, fetch: FetchId) {
        self.take_copy(fetch);
    }

    /// The same of all answers for a key: what it names has changed.
    pub(super) fn stop_copying_key(&mut self, key: &[u8]) {
        let of_key = |keeping: &Keeping| keeping.copy.is_some() && keeping.target.key == key;
        let passes = self.passes.iter();
        let fetches: Vec<FetchId> = passes
            .filter(|(_, pass)| pass.keeping.as_deref().is_some_and(of_key))
            .map(|(&fetch, _)| fetch)
            .collect();
        for fetch in fetches {
            self.stop_copying(fetch);
        }
    }

    fn send_copy(&mut self, now: Now, copy: Box<Copied>, out: &mut Outbox) {
        let owner = self.store.owner(copy.hash);
        match owner == self.config.shard {
            true => self.keep_copy(now, &copy),
            false => out.lanes.push((owner, LaneMessage::Keep(copy))),
        }
    }

    /// Stores what was copied, unless anything was purged since it was asked for: of the purge of one
    /// URL nothing is left to compare with.
    pub(super) fn keep_copy(&mut self, now: Now, copy: &Copied) {
        let purged = copy.meta.stamp != self.store.purges().stamp();
        if purged || self.rule_of(&copy.key).is_some() {
            return;
        }
        let object = NewObject {
            key: &copy.key,
            meta: &copy.meta,
            head: &copy.head,
            tags: &copy.tags,
            length: copy.declared,
        };
        if self.store_whole(copy.hash, &object, copy.body.iter().map(|piece| &piece[..])) {
            self.stats.passes_kept.inc();
            self.count_by_class(copy.route).fills.inc();
            self.offer_pinned(now, copy.hash, &copy.key);
        }
    }

    /// Stores an object that is there as a whole. False: there is no room, or it was purged.
    pub(super) fn store_whole<'a>(
        &mut self,
        hash: KeyHash,
        object: &NewObject<'_>,
        body: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let Ok(mut fill) = self.store.begin(hash, object) else {
            self.stats.fills_without_room.inc();
            return false;
        };
        let mut spans = Vec::new();
        let mut body = body;
        let written = body.try_for_each(|piece| self.store.append(&mut fill, piece, &mut spans));
        let kept = written.and_then(|()| self.store.commit(&mut fill)).is_ok();
        self.store.release(fill);
        if kept {
            self.stats.fills_stored.inc();
            self.stored_from(Supply::Upstream, hash);
        }
        kept
    }
}

/// Whether an answer depends on nothing of its request but the coding, which is always asked for as it
/// is: the origin saw more than the key has.
fn suits_everyone(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(VARY).iter();
    let mut names = fields.flat_map(|value| value.as_bytes().split(|&b| b == b','));
    let coding = ACCEPT_ENCODING.as_str().as_bytes();
    names.all(|name| {
        let name = name.trim_ascii();
        name.is_empty() || name.eq_ignore_ascii_case(coding)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CACHE_CONTROL, CONTENT_LOCATION};

    use super::*;
    use crate::config::Limits;
    use crate::http::routes::{Route, Routes, Rules};
    use crate::io::RequestBody;
    use crate::shard::lone::Lone;

    const MOST: u64 = 1_000;

    /// Whether the answer to a POST of this length is kept for GET, where it is `declared`.
    fn is_kept(length: usize, declared: bool) -> bool {
        let mut lone = Lone::with_limits(Limits {
            max_kept_pass: MOST,
            ..Limits::default()
        });
        let rules = Rules {
            store_posted: true,
            ..Rules::default()
        };
        lone.shard.config.caching.routes = Routes::new(vec![Route {
            name: "any".to_owned(),
            hosts: Vec::new(),
            paths: Vec::new(),
            extensions: Vec::new(),
            methods: Vec::new(),
            rules,
        }]);
        let body = RequestBody::Whole(Bytes::from_static(b"asked"));
        lone.request(1, Method::POST, body);
        let fetch = lone.fetch().expect("a fetch");
        let fields = [(CACHE_CONTROL, "max-age=60"), (CONTENT_LOCATION, "/emote")];
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        lone.bring(
            fetch,
            FetchEvent::Head {
                status: StatusCode::OK,
                headers: HeaderMap::from_iter(fields),
                length: declared.then_some(length as u64),
            },
        );
        for part in vec![7; length].chunks(300) {
            lone.bring(fetch, FetchEvent::Body(Bytes::copy_from_slice(part)));
        }
        lone.bring(fetch, FetchEvent::End);
        lone.get(2);
        let holdings = lone.shard.holdings();
        assert_eq!((holdings.heap_bytes, holdings.passes), (0, 0));
        let kept = lone.fetch().is_none();
        assert_eq!(lone.shard.stats.passes_kept.get(), u64::from(kept));
        assert_eq!(lone.shard.stats.passes_not_kept.get(), u64::from(!kept));
        kept
    }

    #[test]
    fn a_copy_is_as_long_as_may_be_and_no_longer() {
        for declared in [true, false] {
            assert!(is_kept(MOST as usize, declared), "{declared}");
            assert!(!is_kept(MOST as usize + 1, declared), "{declared}");
        }
    }
}
