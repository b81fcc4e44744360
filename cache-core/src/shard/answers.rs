//! Writing answers: from the store, from a flight, or of our own making.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use quinn_proto::{StreamId, WriteError};

use super::Shard;
use super::shapes::{self, Shape, Whole, Wish};
use super::slices::FoundSliced;
use super::slicing::strong_of;
use crate::conn::client::Client;
use crate::conn::h3::error::{H3_INTERNAL_ERROR, H3_NO_ERROR};
use crate::conn::h3::head::{self, Dynamic};
use crate::conn::stream::{Response, Source, Written, write};
use crate::flight::{Outcome, Waiter};
use crate::http::cache_status::{self, CacheStatus, Forward};
use crate::http::freshness::{self, Flags, Freshness, Lifetime, State};
use crate::http::proxy_status;
use crate::http::range::Cut;
use crate::http::slices::{SLICED, Sliced};
use crate::http::wants::{self, Use};
use crate::io::{FetchErrorKind, Now, Outbox};
use crate::store::{Body, Hit, KeyHash, ObjectMeta};

/// Bodies up to this size are copied behind their head, into the one buffer that QUIC keeps until
/// it is acknowledged: cheaper than a second reference-counted piece.
const COPY_BODY: usize = 8 << 10;

/// Answers with larger bodies give way to smaller ones of the same connection and urgency.
pub(super) const SMALL_BODY: u64 = 64 << 10;

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Other methods are passed on too.
const ALLOWED: &str = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE";

/// An answer from the store.
pub(super) struct Answered {
    /// What flow control holds back.
    pub rest: Option<Response>,
    /// It was served stale while it should be revalidated.
    pub revalidate: bool,
    /// The object is large: its slices are still to be answered with.
    pub sliced: Option<Box<FoundSliced>>,
}

impl Answered {
    fn with(rest: Option<Response>, revalidate: bool) -> Self {
        Self {
            rest,
            revalidate,
            sliced: None,
        }
    }
}

/// What the next step of an answer is.
pub(super) enum Step {
    /// Write `rest`, then ask again.
    Write,
    /// The same, where the head of a large body is in it.
    WriteLarge,
    /// Nothing to write until news arrives.
    Wait,
    Finish,
    /// The rest will never come.
    Abort,
    /// Nothing was written, and nothing will come.
    Failed(FetchErrorKind),
    /// The flight has ended without an answer for this request.
    Elsewhere(Outcome),
}

impl Shard {
    /// Answers from the store with the object of the key in the scratch. `Err` says why the request
    /// must be forwarded.
    pub(super) fn answer_hit(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        hash: KeyHash,
        wish: &Wish<'_>,
        now: Now,
    ) -> Result<Answered, Forward> {
        let Some(hit) = self.store.lookup(hash, &self.scratch.key) else {
            return Err(Forward::UriMiss);
        };
        let meta = hit.meta();
        let fresh = standing(&hit, &meta, now);
        let stale = fresh.state != State::Fresh;
        let revalidate = match judge(wish, &lifetime(&meta), fresh) {
            Use::Serve => false,
            Use::ServeAndRevalidate => true,
            Use::TooOld => return Err(Forward::Stale),
            Use::NotAskedFor => return Err(Forward::Request),
        };
        let Some(stored) = hit.head() else {
            return Err(Forward::UriMiss);
        };
        // Its slices may have to be fetched.
        if meta.flags & SLICED != 0 && conn.is_early() {
            return Err(Forward::UriMiss);
        }
        let status = &mut self.scratch.status;
        status.clear();
        let verdict = CacheStatus::Hit { ttl: fresh.ttl_s };
        cache_status::write(status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: Some(fresh.age_s),
            cache_status: status,
        };
        if let Some(note) = hit.note {
            self.hits.push(note);
        }
        let sliced = match meta.flags & SLICED != 0 {
            true => Some(
                hit.body()
                    .and_then(Sliced::decode)
                    .ok_or(Forward::UriMiss)?,
            ),
            false => None,
        };
        let whole = Whole {
            head: stored,
            status: meta.status,
            length: Some(sliced.map_or(meta.body_len, |sliced| sliced.length)),
        };
        let mut shape = shapes::shape(whole, wish);
        if let Some(sliced) = sliced
            && let Some(cut) = shape.cut(sliced.length)
        {
            let found = FoundSliced {
                sliced,
                cut,
                fields: shapes::fields(whole, &shape).0.into_owned(),
                validator: strong_of(stored).ok_or(Forward::UriMiss)?,
                tags: hit.tags().collect(),
                meta,
                fresh,
            };
            self.count_shape(&shape);
            return Ok(Answered {
                rest: None,
                revalidate,
                sliced: Some(Box::new(found)),
            });
        }
        let copied = hit
            .body()
            .filter(|body| matches!(shape, Shape::Whole) && body.len() <= COPY_BODY);
        let behind = copied.map_or(0, <[u8]>::len);
        let (mut buffer, body_len) = shapes::head_of(whole, &shape, dynamic, behind);
        let body = match (body_len, copied) {
            (Some(_), Some(body)) => {
                buffer.extend_from_slice(body);
                None
            }
            (Some(_), None) => match hit.bytes() {
                Some(body) => Some(body),
                None => return Err(Forward::UriMiss),
            },
            (None, _) => None,
        };
        self.count_shape(&shape);
        match stale {
            true => self.stats.hits_stale.inc(),
            false => self.stats.hits.inc(),
        }
        self.stats.body_bytes.add(body_len.unwrap_or(0));
        let Some(body) = body else {
            let rest = write_one(conn, id, buffer);
            return Ok(Answered::with(rest, revalidate));
        };
        if body_len > Some(SMALL_BODY) {
            conn.put_last(id);
        }
        let mut pieces = VecDeque::with_capacity(1 + body.pieces());
        pieces.push_back(Bytes::from(buffer));
        match &mut shape {
            Shape::Parts(parts) => cut_out(&mut parts.cut, &body, &mut pieces),
            _ => pieces.extend(body.iter().cloned()),
        }
        let rest = write_rest(conn, id, pieces);
        Ok(Answered::with(rest, revalidate))
    }

    /// An answer of our own: a status and why.
    pub(super) fn answer_own(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        status: StatusCode,
        detail: &'static str,
    ) -> Option<Response> {
        self.answer_with(conn, id, status, detail, HeaderMap::with_capacity(3))
    }

    fn answer_with(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        status: StatusCode,
        detail: &'static str,
        mut headers: HeaderMap,
    ) -> Option<Response> {
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static(ALLOWED));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, self.config.limits.retry_after.into());
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let fields = head::encode_static(status, &headers);
        self.scratch.status.clear();
        let verdict = CacheStatus::Own { detail };
        cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: None,
            cache_status: &self.scratch.status,
        };
        write_one(conn, id, head::response(&fields, dynamic, None, 0))
    }

    /// 503 with Retry-After: a bound was reached.
    pub(super) fn answer_busy(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        bound: &'static str,
    ) -> Option<Response> {
        self.answer_own(conn, id, StatusCode::SERVICE_UNAVAILABLE, bound)
    }

    /// 502 or 504: the origin could not be asked.
    pub(super) fn answer_failed(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        kind: FetchErrorKind,
    ) -> Option<Response> {
        let mut headers = HeaderMap::with_capacity(3);
        if let Some(value) = proxy_status::value(&self.config.node_name, kind) {
            headers.insert(PROXY_STATUS, value);
        }
        self.answer_with(conn, id, failure(kind), proxy_status::error(kind), headers)
    }

    /// Goes on with an answer that had to wait: for room (`news` false) or for its flight.
    pub(super) fn resume(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        news: bool,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(stream) = conn.streams().get_mut(&id) else {
            return;
        };
        let Some(mut response) = stream.response.take() else {
            return;
        };
        if news && let Some((_, _, waiting)) = response.source.followed() {
            *waiting = false;
        }
        let left = self.advance(conn, id, response, now, out);
        let stream = conn.streams().entry(id).or_default();
        stream.response = left;
        // Answered before all of the body was read (RFC 9114 section 4.1).
        let is_early =
            stream.uploads && stream.response.is_none() && stream.reader.take().is_some();
        if stream.is_over() {
            conn.streams().remove(&id);
        }
        if is_early {
            conn.stop(id, H3_NO_ERROR);
        }
    }

    /// Writes as much of an answer as there is and as flow control takes. Returns what is left.
    pub(super) fn advance(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        mut response: Response,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        loop {
            let (written, bytes) = write(conn, id, &mut response.rest);
            self.stats.body_bytes.add(bytes);
            match written {
                Written::All => {}
                Written::Blocked => return Some(response),
                Written::Stopped => {
                    self.drop_response(Some(response), out);
                    return None;
                }
            }
            match self.step(conn, id, &mut response, now, out) {
                Step::Write => {}
                Step::WriteLarge => conn.put_last(id),
                Step::Wait => return Some(response),
                Step::Finish => {
                    conn.finish(id);
                    return None;
                }
                Step::Abort => {
                    self.stats.responses_aborted.inc();
                    conn.reset(id, H3_INTERNAL_ERROR);
                    return None;
                }
                Step::Failed(kind) => return self.answer_failed(conn, id, kind),
                Step::Elsewhere(outcome) => {
                    return self.elsewhere(conn, id, response, outcome, now, out);
                }
            }
        }
    }

    fn step(
        &mut self,
        conn: &impl Client,
        id: StreamId,
        response: &mut Response,
        now: Now,
        out: &mut Outbox,
    ) -> Step {
        let waiter = Waiter {
            conn: conn.id(),
            stream: id,
        };
        match response.source {
            Source::Done => Step::Finish,
            Source::Pass { fetch } => self.step_pass(fetch, response, out),
            Source::Flight(_) => self.step_flight(waiter, response),
            Source::Slices(_) => self.step_slices(waiter, response, now, out),
        }
    }

    /// Leaves what an answer follows.
    pub(super) fn drop_response(&mut self, response: Option<Response>, out: &mut Outbox) {
        match response.map(|response| response.source) {
            Some(mut source @ (Source::Flight(_) | Source::Slices(_))) => {
                if let Some((ticket, at, _)) = source.followed() {
                    self.locals.unfollow(ticket, at);
                }
            }
            Some(Source::Pass { fetch }) => self.cancel_pass(fetch, out),
            Some(Source::Done) | None => {}
        }
    }
}

/// Writes a whole answer from one piece without a queue, unless flow control blocks.
fn write_one(conn: &mut impl Client, id: StreamId, buffer: Vec<u8>) -> Option<Response> {
    let mut piece = [Bytes::from(buffer)];
    match conn.write_chunks(id, &mut piece) {
        Ok(written) if written.chunks == 1 => {
            conn.finish(id);
            None
        }
        Ok(_) | Err(WriteError::Blocked) => write_rest(conn, id, piece.into()),
        Err(WriteError::Stopped(_) | WriteError::ClosedStream) => None,
    }
}

/// Writes a whole answer; what flow control holds back is left.
fn write_rest(conn: &mut impl Client, id: StreamId, mut rest: VecDeque<Bytes>) -> Option<Response> {
    match write(conn, id, &mut rest).0 {
        Written::All => {
            conn.finish(id);
            None
        }
        Written::Blocked => Some(Response {
            rest,
            source: Source::Done,
            head_only: false,
            asked: None,
        }),
        Written::Stopped => None,
    }
}

pub(super) fn data_header(len: usize) -> Bytes {
    let mut header = Vec::with_capacity(9);
    head::data_frame_header(&mut header, len as u64);
    Bytes::from(header)
}

/// How an object stands now. A soft purge ends its lifetime, so that the windows of RFC 5861 begin.
pub(super) fn standing(hit: &Hit<'_>, meta: &ObjectMeta, now: Now) -> Freshness {
    let fresh = freshness::fresh_at(&lifetime(meta), meta.stored_unix_ms, now.unix_ms);
    match hit.purged_softly() {
        true => freshness::ended(&lifetime(meta), fresh),
        false => fresh,
    }
}

pub(super) fn lifetime(meta: &ObjectMeta) -> Lifetime {
    Lifetime {
        lifetime_s: meta.lifetime_s,
        initial_age_s: meta.age_at_store_s,
        swr_s: meta.stale_while_revalidate_s,
        sie_s: meta.stale_if_error_s,
        flags: Flags(meta.flags as u8),
    }
}

/// What to do with a stored response. One that may stand in for a failing origin is asked for when that
/// has failed (RFC 5861 section 4).
fn judge(wish: &Wish<'_>, times: &Lifetime, stands: Freshness) -> Use {
    match wish.origin_fails {
        false => wants::judge(&wish.directives, times, stands),
        true if wants::may_stand_in(&wish.directives, times, stands) => Use::Serve,
        true => Use::TooOld,
    }
}

/// Adds what of a whole body goes into an answer.
fn cut_out(cut: &mut Cut, body: &Body, into: &mut VecDeque<Bytes>) {
    while let Some(want) = cut.wants() {
        let mut at = 0;
        let piece = body.iter().find(|piece| {
            let has = want < at + piece.len() as u64;
            at += if has { 0 } else { piece.len() as u64 };
            has
        });
        // Ranges end where the body does.
        if !piece.is_some_and(|piece| cut.take(at, piece, into)) {
            return;
        }
    }
}

/// The status that says how the origin failed.
fn failure(kind: FetchErrorKind) -> StatusCode {
    match kind {
        FetchErrorKind::ConnectionTimeout
        | FetchErrorKind::ResponseTimeout
        | FetchErrorKind::BodyTimeout => StatusCode::GATEWAY_TIMEOUT,
        FetchErrorKind::LimitReached | FetchErrorKind::Unavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FetchErrorKind::LoopDetected => StatusCode::LOOP_DETECTED,
        FetchErrorKind::RequestStalled => StatusCode::REQUEST_TIMEOUT,
        FetchErrorKind::DnsError
        | FetchErrorKind::ConnectionRefused
        | FetchErrorKind::ConnectionTerminated
        | FetchErrorKind::TlsError
        | FetchErrorKind::TlsCertificate
        | FetchErrorKind::ResponseIncomplete
        | FetchErrorKind::ProtocolError => StatusCode::BAD_GATEWAY,
    }
}
