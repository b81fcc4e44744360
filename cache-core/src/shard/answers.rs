//! Writing answers: from the store, from a flight, or of our own making.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use quinn_proto::{StreamId, WriteError};

use super::Shard;
use super::requests::Miss;
use crate::conn::client::Client;
use crate::conn::h3::error::H3_INTERNAL_ERROR;
use crate::conn::h3::head::{self, Dynamic};
use crate::conn::stream::{PassRequest, Response, Source, Written, write};
use crate::flight::{Outcome, Target, Ticket, Waiter};
use crate::http::cache_control::RequestDirectives;
use crate::http::cache_status::{self, CacheStatus, Forward};
use crate::http::conditional::Conditions;
use crate::http::freshness::{self, Flags, Freshness, Lifetime, State};
use crate::http::proxy_status;
use crate::http::vary;
use crate::http::wants::{self, Use};
use crate::io::{FetchErrorKind, Now, Outbox};
use crate::store::{Hit, KeyHash, ObjectMeta};

/// Bodies up to this size are copied behind their head, into the one buffer that QUIC keeps until
/// it is acknowledged: cheaper than a second reference-counted piece.
const COPY_BODY: usize = 8 << 10;

/// Room for frame headers, Age and Cache-Status.
const DYNAMIC_ROOM: usize = 128;

/// Answers with larger bodies give way to smaller ones of the same connection.
const SMALL_BODY: u64 = 64 << 10;

/// Times a request looks again for an object that its owner has said to be there.
const MAX_ATTEMPTS: u8 = 2;

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Other methods are passed on too.
const ALLOWED: &str = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE";

/// What of a request an answer from the store depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    pub head_only: bool,
    pub conditions: Conditions<'a>,
    /// Its Cache-Control, as far as it counts.
    pub directives: RequestDirectives,
}

/// An answer from the store.
pub(super) struct Answered {
    /// What flow control holds back.
    pub rest: Option<Response>,
    /// It was served stale while it should be revalidated.
    pub revalidate: bool,
}

/// What the next step of an answer is.
pub(super) enum Step {
    /// Write `rest`, then ask again.
    Write,
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
        wanted: &Wanted<'_>,
        now: Now,
    ) -> Result<Answered, Forward> {
        let Wanted {
            head_only,
            conditions,
            directives,
        } = wanted;
        let Some(mut hit) = self.store.lookup(hash, &self.scratch.key) else {
            return Err(Forward::UriMiss);
        };
        let meta = hit.meta;
        let fresh = standing(&hit, now);
        let stale = fresh.state != State::Fresh;
        let revalidate = match wants::judge(directives, &lifetime(&meta), fresh) {
            Use::Serve => false,
            Use::ServeAndRevalidate => true,
            Use::TooOld => return Err(Forward::Stale),
            Use::NotAskedFor => return Err(Forward::Request),
        };
        let Some(stored) = hit.head() else {
            return Err(Forward::UriMiss);
        };
        let status = &mut self.scratch.status;
        status.clear();
        let verdict = CacheStatus::Hit { ttl: fresh.ttl_s };
        cache_status::write(status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: Some(fresh.age_s),
            cache_status: status,
        };
        if let Some(note) = hit.note {
            self.hits[usize::from(note.owner)].push(note);
        }
        if !conditions.is_empty() && is_not_modified(conditions, stored, meta.status) {
            self.stats.not_modified.inc();
            self.stats.hits.inc();
            let mut fields = Vec::with_capacity(stored.len());
            head::write_not_modified(stored, &mut fields);
            let mut buffer = Vec::with_capacity(fields.len() + DYNAMIC_ROOM);
            head::write_response(&mut buffer, &fields, dynamic, None);
            let rest = write_one(conn, id, buffer);
            return Ok(Answered { rest, revalidate });
        }
        let body_len = (!head_only && meta.body_len > 0).then_some(meta.body_len);
        let copied = hit
            .body()
            .filter(|body| body_len.is_some() && body.len() <= COPY_BODY);
        let room = stored.len() + DYNAMIC_ROOM + copied.map_or(0, <[u8]>::len);
        let mut buffer = Vec::with_capacity(room);
        head::write_response(&mut buffer, stored, dynamic, body_len);
        let rest = match (body_len, copied) {
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
        if stale {
            self.stats.hits_stale.inc();
        } else {
            self.stats.hits.inc();
        }
        self.stats.body_bytes.add(body_len.unwrap_or(0));
        let Some(body) = rest else {
            let rest = write_one(conn, id, buffer);
            return Ok(Answered { rest, revalidate });
        };
        if meta.body_len > SMALL_BODY {
            conn.put_last(id);
        }
        let mut pieces = VecDeque::with_capacity(1 + body.pieces());
        pieces.push_back(Bytes::from(buffer));
        pieces.extend(body.iter().cloned());
        let rest = write_rest(conn, id, pieces);
        Ok(Answered { rest, revalidate })
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
        let mut buffer = Vec::with_capacity(fields.len() + DYNAMIC_ROOM);
        head::write_response(&mut buffer, &fields, dynamic, None);
        write_one(conn, id, buffer)
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
        if news && let Source::Flight { waiting, .. } = &mut response.source {
            *waiting = false;
        }
        let left = self.advance(conn, id, response, now, out);
        let stream = conn.streams().entry(id).or_default();
        stream.response = left;
        if stream.is_over() {
            conn.streams().remove(&id);
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
            match self.step(conn, id, &mut response, out) {
                Step::Write => {}
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
        out: &mut Outbox,
    ) -> Step {
        match response.source {
            Source::Done => Step::Finish,
            Source::Pass { fetch } => self.step_pass(fetch, response, out),
            Source::Flight { ticket, .. } => {
                let waiter = Waiter {
                    conn: conn.id(),
                    stream: id,
                };
                self.step_flight(ticket, waiter, response)
            }
        }
    }

    fn step_flight(&mut self, ticket: Ticket, waiter: Waiter, response: &mut Response) -> Step {
        let Source::Flight {
            next,
            why,
            collapsed,
            waiting,
            ..
        } = &mut response.source
        else {
            return Step::Finish;
        };
        let Some(flight) = self.locals.get(ticket) else {
            return Step::Abort;
        };
        let outcome = flight.outcome;
        let leads = flight.leader == Some(waiter);
        let Some(head) = &flight.head else {
            return match outcome {
                Some(outcome) => Step::Elsewhere(outcome),
                None => self.starve(ticket, waiter, waiting),
            };
        };
        let framed = head.length.is_some();
        match *next {
            None if head.alone && !leads => Step::Elsewhere(match head.stored {
                true => Outcome::Alone,
                false => Outcome::Private,
            }),
            None if head.variant.as_ref().is_some_and(|variant| {
                let base = vary::base(&flight.target.key);
                let asked = response.asked.as_ref().map(|asked| &asked.headers);
                let headers = asked.unwrap_or(&flight.target.headers);
                variant.rule.key(base, headers).as_deref() != Some(&variant.key[..])
            }) =>
            {
                Step::Elsewhere(Outcome::Varies)
            }
            None => {
                let verdict = match head.tier_ttl {
                    Some(ttl) => CacheStatus::TierHit { ttl },
                    None => CacheStatus::Forwarded {
                        why: *why,
                        stored: head.stored,
                        collapsed: *collapsed,
                        confirmed: head.confirmed,
                        detail: None,
                    },
                };
                self.scratch.status.clear();
                cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
                let dynamic = Dynamic {
                    age: head.age_s,
                    cache_status: &self.scratch.status,
                };
                let conditions = response.asked.as_ref().map(|asked| asked.conditions());
                let unchanged = conditions.is_some_and(|conditions| {
                    !conditions.is_empty()
                        && is_not_modified(&conditions, &head.encoded, head.meta.status)
                });
                let mut not_modified = Vec::new();
                let fields = if unchanged {
                    self.stats.not_modified.inc();
                    head::write_not_modified(&head.encoded, &mut not_modified);
                    &not_modified[..]
                } else {
                    &head.encoded[..]
                };
                let bodiless = response.head_only || unchanged;
                let body_len = head.length.filter(|&len| len > 0 && !bodiless);
                let mut buffer = Vec::with_capacity(fields.len() + DYNAMIC_ROOM);
                head::write_response(&mut buffer, fields, dynamic, body_len);
                response.rest.push_back(Bytes::from(buffer));
                *next = Some(0);
                if bodiless {
                    self.locals.unfollow(ticket);
                    response.source = Source::Done;
                }
                Step::Write
            }
            Some(at) => match (flight.pieces.get(at as usize), outcome) {
                (Some(piece), _) => {
                    if !framed {
                        response.rest.push_back(data_header(piece.len()));
                    }
                    response.rest.push_back(piece.clone());
                    *next = Some(at + 1);
                    Step::Write
                }
                (None, None) => self.starve(ticket, waiter, waiting),
                (None, Some(outcome)) => {
                    self.locals.unfollow(ticket);
                    match outcome {
                        Outcome::Complete => Step::Finish,
                        _ => Step::Abort,
                    }
                }
            },
        }
    }

    fn starve(&mut self, ticket: Ticket, waiter: Waiter, waiting: &mut bool) -> Step {
        if !*waiting {
            *waiting = true;
            self.locals.wait(ticket, waiter);
        }
        Step::Wait
    }

    /// Answers a request whose flight ended before it had a head.
    fn elsewhere(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        response: Response,
        outcome: Outcome,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        let Source::Flight {
            ticket,
            why,
            attempts,
            ..
        } = response.source
        else {
            return None;
        };
        let target = self.locals.get(ticket).map(|flight| flight.target.clone());
        self.locals.unfollow(ticket);
        let Response {
            head_only, asked, ..
        } = response;
        let Some(mut target) = target else {
            return self.answer_busy(conn, id, "flight");
        };
        let wants = asked.as_ref().map(|asked| asked.wants).unwrap_or_default();
        if let Some(asked) = &asked {
            target.headers = Arc::clone(&asked.headers);
        }
        match outcome {
            Outcome::Private | Outcome::Alone => {
                let request = PassRequest::shared(target, head_only, why);
                self.pass(conn, id, request, now, out)
            }
            Outcome::Refused => {
                self.stats.flights_refused.inc();
                self.answer_busy(conn, id, "flights")
            }
            Outcome::Present | Outcome::Complete | Outcome::Varies => {
                if !self.select(&mut target) {
                    let request = PassRequest::shared(target, head_only, why);
                    return self.pass(conn, id, request, now, out);
                }
                self.scratch.key.clear();
                self.scratch.key.extend_from_slice(&target.key);
                let conditions = asked.as_ref().map(|asked| asked.conditions());
                let wanted = Wanted {
                    head_only,
                    conditions: conditions.unwrap_or_default(),
                    directives: wants,
                };
                match self.answer_hit(conn, id, target.hash, &wanted, now) {
                    Ok(answered) => answered.rest,
                    Err(_) if attempts >= MAX_ATTEMPTS => self.answer_busy(conn, id, "evicted"),
                    Err(why) => {
                        let miss = Miss {
                            target,
                            head_only,
                            why,
                            attempts: attempts + 1,
                            asked,
                        };
                        self.miss(conn, id, miss, now, out)
                    }
                }
            }
            Outcome::ServeStale => self
                .answer_stale(conn, id, &target, head_only, &wants, now)
                .unwrap_or_else(|| self.answer_busy(conn, id, "evicted")),
            Outcome::Failed(kind) => self
                .answer_stale(conn, id, &target, head_only, &wants, now)
                .unwrap_or_else(|| self.answer_failed(conn, id, kind)),
        }
    }

    /// stale-if-error (RFC 5861 section 4): `None` when there is nothing that may be served.
    fn answer_stale(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        target: &Target,
        head_only: bool,
        wants: &RequestDirectives,
        now: Now,
    ) -> Option<Option<Response>> {
        let mut hit = self.store.lookup(target.hash, &target.key)?;
        let meta = hit.meta;
        let fresh = standing(&hit, now);
        if !wants::may_stand_in(wants, &lifetime(&meta), fresh) {
            return None;
        }
        let body = hit.bytes()?;
        let stored = hit.head()?;
        let body_len = (!head_only && meta.body_len > 0).then_some(meta.body_len);
        self.scratch.status.clear();
        let verdict = CacheStatus::Hit { ttl: fresh.ttl_s };
        cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: Some(fresh.age_s),
            cache_status: &self.scratch.status,
        };
        let mut buffer = Vec::with_capacity(stored.len() + DYNAMIC_ROOM);
        head::write_response(&mut buffer, stored, dynamic, body_len);
        self.stats.hits_stale.inc();
        let mut pieces = VecDeque::from([Bytes::from(buffer)]);
        if body_len.is_some() {
            pieces.extend(body.iter().cloned());
        }
        Some(write_rest(conn, id, pieces))
    }

    /// Leaves what an answer follows.
    pub(super) fn drop_response(&mut self, response: Option<Response>, out: &mut Outbox) {
        match response.map(|response| response.source) {
            Some(Source::Flight { ticket, .. }) => self.locals.unfollow(ticket),
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
pub(super) fn standing(hit: &Hit<'_>, now: Now) -> Freshness {
    let meta = &hit.meta;
    let fresh = freshness::fresh_at(&lifetime(meta), meta.stored_unix_ms, now.unix_ms);
    match hit.purged_softly {
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

/// Longest entity tag or date that is compared; a longer one gets the whole response.
const MAX_VALIDATOR: usize = 256;

fn is_not_modified(conditions: &Conditions<'_>, stored_head: &[u8], status: u16) -> bool {
    let (mut etag, mut modified) = ([0; MAX_VALIDATOR], [0; MAX_VALIDATOR]);
    let etag = head::find_field(stored_head, b"etag", &mut etag);
    // RFC 9111 section 4.3.2: Date stands in for Last-Modified.
    let modified = match head::find_field(stored_head, b"last-modified", &mut modified) {
        Some(len) => Some(len.len()),
        None => head::find_field(stored_head, b"date", &mut modified).map(<[u8]>::len),
    }
    .map(|len| &modified[..len]);
    StatusCode::from_u16(status).is_ok_and(|status| conditions.not_modified(status, etag, modified))
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
        FetchErrorKind::DnsError
        | FetchErrorKind::ConnectionRefused
        | FetchErrorKind::ConnectionTerminated
        | FetchErrorKind::TlsError
        | FetchErrorKind::TlsCertificate
        | FetchErrorKind::ResponseIncomplete
        | FetchErrorKind::ProtocolError => StatusCode::BAD_GATEWAY,
    }
}
