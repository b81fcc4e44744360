//! Asking origins to confirm stale objects, and serving those when origins fail.

use http::{HeaderMap, StatusCode};

use super::Shard;
use super::answers::{lifetime, standing};
use super::flights::Received;
use crate::conn::h3::head;
use crate::flight::{Outcome, Target};
use crate::http::cache_control::RequestDirectives;
use crate::http::slices::SLICED;
use crate::http::{freshen, wants};
use crate::io::{FetchCommand, FetchId, Now, Outbox};
use crate::purge::TagSlot;
use crate::store::Body;

/// Longest validator that is sent; an object with a longer one is fetched whole.
const MAX_VALIDATOR: usize = 256;

/// A stored object, taken out to be kept anew.
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    tags: Vec<TagSlot>,
    body_len: u64,
    /// Of its `SLICED`.
    flags: u32,
    body: Option<Body>,
}

impl Shard {
    /// The fields to ask the origin with, and whether they ask to confirm the object that is here.
    pub(super) fn fields_to_ask_with(&mut self, target: &Target) -> (HeaderMap, bool) {
        let mut headers = HeaderMap::clone(&target.headers);
        if target.slice().is_some() {
            return (headers, false);
        }
        let Some(hit) = self.store.lookup(target.hash, &target.key) else {
            return (headers, false);
        };
        let head = hit.head().filter(|_| hit.meta().status == 200);
        let (mut etag, mut modified) = ([0; MAX_VALIDATOR], [0; MAX_VALIDATOR]);
        let etag = head.and_then(|head| head::find_field(head, b"etag", &mut etag));
        let modified =
            head.and_then(|head| head::find_field(head, b"last-modified", &mut modified));
        let conditional = freshen::add_conditions(&mut headers, etag, modified);
        (headers, conditional)
    }

    /// The origin has confirmed the object of a flight: it is kept anew with the fields of the 304
    /// (RFC 9111 section 4.3.4), and answers those who wait.
    pub(super) fn confirmed(
        &mut self,
        now: Now,
        id: FetchId,
        headers: &HeaderMap,
        out: &mut Outbox,
    ) {
        let target = self.flights.get_mut(id).map(|flight| flight.target.clone());
        let kept = target.as_ref().and_then(|target| self.take_out(target));
        let (Some(target), Some(kept)) = (target, kept) else {
            // It went meanwhile: whoever waits asks again, for the whole.
            return self.end_flight(now, id, Outcome::Present, out);
        };
        self.stats.confirmed.inc();
        let merged = freshen::merge(&kept.headers, headers);
        let received = Received {
            status: kept.status,
            headers: &merged,
            length: Some(kept.body_len),
            confirmed: Some(&kept.tags),
            flags: kept.flags,
        };
        if !self.begin_answer(now, id, received, out) {
            // It must not be kept any more.
            self.store.purge(target.hash, &target.key);
        }
        for piece in kept.body.iter().flat_map(Body::iter) {
            if !self.take_body(now, id, piece.clone(), out) {
                return;
            }
        }
    }

    fn take_out(&mut self, target: &Target) -> Option<Kept> {
        let hit = self.store.lookup(target.hash, &target.key)?;
        let body_len = hit.meta().body_len;
        Some(Kept {
            status: StatusCode::from_u16(hit.meta().status).ok()?,
            headers: head::decode_static(hit.head()?)?,
            tags: hit.tags().collect(),
            body_len,
            flags: hit.meta().flags & SLICED,
            body: match body_len {
                0 => None,
                _ => Some(hit.bytes()?),
            },
        })
    }

    /// RFC 5861 section 4: an answer that only says that the origin is in trouble is dropped when there
    /// is a stale object that may stand in for it. True when it was.
    pub(super) fn serve_stale_instead(
        &mut self,
        now: Now,
        id: FetchId,
        status: StatusCode,
        out: &mut Outbox,
    ) -> bool {
        let trouble = matches!(status.as_u16(), 500 | 502 | 503 | 504);
        let target = self.flights.get_mut(id).map(|flight| flight.target.clone());
        let Some(target) = target.filter(|_| trouble) else {
            return false;
        };
        let usable = self
            .store
            .lookup(target.hash, &target.key)
            .is_some_and(|hit| {
                let wants = RequestDirectives {
                    stale_if_error: Some(target.stale_if_error_s),
                    ..RequestDirectives::default()
                };
                let meta = hit.meta();
                let times = lifetime(&meta);
                meta.status < 500 && wants::may_stand_in(&wants, &times, standing(&hit, &meta, now))
            });
        if usable {
            out.fetches.push(FetchCommand::Cancel { id });
            self.end_flight(now, id, Outcome::ServeStale, out);
        }
        usable
    }
}
