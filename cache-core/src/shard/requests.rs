//! From connection events to requests, and from a request to a hit, a miss or a pass.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use quinn_proto::{Dir, Event, ReadError, StreamEvent, StreamId, VarInt};

use super::answers::{Answered, lifetime, standing};
use super::slices::Object;
use super::{LaneMessage, Shard};
use crate::config::ShardConfig;
use crate::conn::client::{Client, varint};
use crate::conn::h3::error::{H3_ID_ERROR, H3_NO_ERROR, H3_REQUEST_REJECTED};
use crate::conn::h3::head;
use crate::conn::h3::{self, FieldSection, H3Error, Progress, RequestReader, Scope};
use crate::conn::quic::{Conn, Farewell};
use crate::conn::stream::{Asked, Following, PassRequest, Response, Source, Stream};
use crate::flight::{Extent, Target, Ticket, Waiter};
use crate::http::cache_status::Forward;
use crate::http::conditional::Conditions;
use crate::http::explain::{self, Plan};
use crate::http::forward::{self, Shown};
use crate::http::key::{self, BadRequest};
use crate::http::loops;
use crate::http::request::Handling;
use crate::http::routes::RouteId;
use crate::http::vary;
use crate::http::wants;
use crate::io::{FetchErrorKind, FetchId, Now, OriginId, Outbox, RequestBody};
use crate::stats::ClassStats;
use crate::store::KeyHash;

/// What reading a request stream came to.
enum Read {
    /// More may come.
    Open,
    /// There is more than was asked for.
    Partly,
    Finished,
    /// The client took its request back.
    Reset,
    Failed(H3Error),
}

/// What became of a request.
pub(super) enum Begun {
    /// Answered, but for what is left to be done.
    Answered(Option<Response>),
    /// To be passed on with its body.
    HasBody(Box<PassRequest>),
    /// Memory alone does not answer it, and its client's handshake goes on: what it asks for may have been
    /// asked for before.
    TooEarly,
}

/// A request that the cache has no answer for.
pub(super) struct Miss {
    pub target: Target,
    pub head_only: bool,
    pub why: Forward,
    /// How often it was told that the object is there, and it was gone again.
    pub attempts: u8,
    pub asked: Option<Box<Asked>>,
}

impl Shard {
    /// Reads everything that a connection has to say.
    pub(super) fn connection_events(&mut self, conn: &mut Conn, now: Now, out: &mut Outbox) {
        while let Some(event) = conn.quic.poll() {
            match event {
                // Settings go with the server's first flight, and with the answers to early data.
                Event::HandshakeDataReady => open_control(conn),
                Event::Connected => {
                    open_control(conn);
                    self.begin_delayed(conn, now, out);
                }
                Event::ConnectionLost { .. } => {
                    self.stats.connections_lost.inc();
                    self.forget_streams(conn, out);
                }
                Event::Stream(event) if !conn.quic.is_closed() => {
                    self.stream_event(conn, event, now, out);
                }
                _ => {}
            }
        }
    }

    fn stream_event(&mut self, conn: &mut Conn, event: StreamEvent, now: Now, out: &mut Outbox) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => {
                while let Some(id) = conn.quic.streams().accept(Dir::Bi) {
                    self.accept_request(conn, id, now, out);
                }
            }
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = conn.quic.streams().accept(Dir::Uni) {
                    self.read_uni(conn, id, now, out);
                }
            }
            StreamEvent::Readable { id } if id.dir() == Dir::Uni => {
                self.read_uni(conn, id, now, out);
            }
            StreamEvent::Readable { id } => self.read_request(conn, id, now, out),
            StreamEvent::Writable { id } => self.resume(conn, id, false, now, out),
            StreamEvent::Stopped { id, .. } => self.stopped(conn, id, out),
            StreamEvent::Available { dir: Dir::Uni } if conn.control.is_none() => {
                open_control(conn);
            }
            StreamEvent::Available { .. } | StreamEvent::Finished { .. } => {}
        }
    }

    fn read_uni(&mut self, conn: &mut Conn, id: StreamId, now: Now, out: &mut Outbox) {
        let mut events = std::mem::take(&mut self.scratch.uni_events);
        if let Err(error) = read_uni_stream(conn, id, &mut events) {
            self.violation(conn, None, error, now, out);
        }
        for event in events.drain(..) {
            if let Err(error) = self.uni_event(conn, event) {
                self.violation(conn, None, error, now, out);
            }
        }
        self.scratch.uni_events = events;
    }

    fn uni_event(&mut self, conn: &mut Conn, event: h3::Event) -> Result<(), H3Error> {
        match event {
            h3::Event::StopSending { stream, code } => {
                if let Ok(stream) = VarInt::from_u64(stream) {
                    let _already_closed = conn.quic.recv_stream(stream.into()).stop(varint(code));
                }
            }
            h3::Event::Priority { stream, priority } => {
                let max_streams = self.config.limits.max_streams_per_connection;
                if !conn.update_priority(stream, priority, max_streams, &self.stats) {
                    let reason = "PRIORITY_UPDATE of a stream past the limit";
                    return Err(H3Error::connection(H3_ID_ERROR, reason));
                }
            }
            h3::Event::Settings { .. } | h3::Event::GoAway { .. } => {}
        }
        Ok(())
    }

    fn accept_request(&mut self, conn: &mut Conn, id: StreamId, now: Now, out: &mut Outbox) {
        if conn.farewell == Farewell::Said {
            reject(conn, id, H3_REQUEST_REJECTED);
            return;
        }
        conn.requests_seen += 1;
        let stream = Stream {
            reader: Some(RequestReader::keeping(self.config.limits.max_request_body)),
            ..Stream::default()
        };
        self.read_stream(conn, id, stream, now, out);
    }

    pub(super) fn read_request(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        now: Now,
        out: &mut Outbox,
    ) {
        if let Some(stream) = conn.streams.remove(&id) {
            self.read_stream(conn, id, stream, now, out);
        }
    }

    /// Reads what is there of a request stream, and what may be passed on of its body; a request whose
    /// head became complete is answered. The common case, a request in one frame and an answer that fits
    /// the window, leaves no trace in the connection's stream table.
    pub(super) fn read_stream(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        mut stream: Stream,
        now: Now,
        out: &mut Outbox,
    ) {
        if stream.delayed.is_some() {
            conn.streams.insert(id, stream);
            return;
        }
        while let Some(mut reader) = stream.reader.take() {
            let most = match upload_of(&stream) {
                None => self.config.limits.upload_window,
                Some(fetch) => self.upload_room(fetch).unwrap_or(0),
            };
            if most == 0 {
                stream.reader = Some(reader);
                break;
            }
            let mut complete = None;
            let read = self.read_chunks(conn, id, &mut reader, &mut complete, most as usize);
            match read {
                Read::Open | Read::Partly | Read::Finished => {}
                Read::Reset => {
                    self.drop_response(stream.response.take(), out);
                    reject(conn, id, h3::error::H3_REQUEST_CANCELLED);
                    return;
                }
                Read::Failed(error) => {
                    self.drop_response(stream.response.take(), out);
                    self.violation(conn, Some(id), error, now, out);
                    return;
                }
            }
            let is_whole = matches!(read, Read::Finished);
            if let Some(progress) = complete {
                let reading = (&mut reader, is_whole);
                let is_read_on =
                    self.head_complete(conn, id, &mut stream, progress, reading, (now, &mut *out));
                if stream.delayed.is_some() {
                    stream.reader = Some(reader);
                    break;
                }
                if !is_read_on {
                    break;
                }
            }
            if stream.uploads
                && !self.read_body(conn, id, &mut stream, (&mut reader, is_whole), out)
            {
                break;
            }
            if !is_whole {
                stream.reader = Some(reader);
            }
            if matches!(read, Read::Open) {
                break;
            }
        }
        if !stream.is_over() {
            conn.streams.insert(id, stream);
        }
    }

    /// Answers a request whose head is complete. False: nothing more of it is read.
    fn head_complete(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        stream: &mut Stream,
        progress: Progress,
        (reader, is_whole): (&mut RequestReader, bool),
        (now, out): (Now, &mut Outbox),
    ) -> bool {
        self.stats.requests.inc();
        if conn.is_early() {
            self.stats.early_requests.inc();
        }
        if progress == Progress::TooLarge {
            self.stats.requests_refused.inc();
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            stream.response = self.answer_own(conn, id, status, "field-section-too-large");
            conn.stop(id, H3_NO_ERROR);
            return false;
        }
        let section = std::mem::take(&mut self.scratch.section);
        let begun = self.request(conn, id, &section, now, out);
        if matches!(begun, Begun::TooEarly) {
            return self.delay(conn, id, stream, (section, is_whole));
        }
        self.scratch.section = section;
        self.begun(conn, id, stream, begun, (reader, is_whole), (now, out))
    }

    /// Goes on with a request as it was judged. False: nothing more of it is read.
    pub(super) fn begun(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        stream: &mut Stream,
        begun: Begun,
        (reader, is_whole): (&mut RequestReader, bool),
        (now, out): (Now, &mut Outbox),
    ) -> bool {
        let mut request = match begun {
            Begun::Answered(response) => {
                stream.response = response;
                return true;
            }
            Begun::HasBody(request) => request,
            // Of a client whose handshake is complete nothing is too early.
            Begun::TooEarly => return false,
        };
        if reader.is_body_too_large() {
            stream.response = self.refuse_body(conn, id);
            return false;
        }
        request.body = match is_whole {
            true => RequestBody::Whole(Bytes::from(reader.take_body())),
            false => RequestBody::Streamed {
                length: reader.content_length(),
            },
        };
        stream.response = self.pass(conn, id, *request, now, out);
        stream.uploads = !is_whole;
        true
    }

    /// Passes on what was read of a body. False: no more of it is wanted.
    pub(super) fn read_body(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        stream: &mut Stream,
        (reader, is_whole): (&mut RequestReader, bool),
        out: &mut Outbox,
    ) -> bool {
        let Some(fetch) = upload_of(stream) else {
            // It was answered without all of it (RFC 9114 section 4.1).
            conn.stop(id, H3_NO_ERROR);
            return false;
        };
        if reader.is_body_too_large() {
            let has_begun = self.has_begun(fetch);
            self.drop_response(stream.response.take(), out);
            match has_begun {
                true => reject(conn, id, h3::error::H3_EXCESSIVE_LOAD),
                false => stream.response = self.refuse_body(conn, id),
            }
            return false;
        }
        let bytes = Bytes::from(reader.take_body());
        self.upload(fetch, bytes, is_whole, out);
        true
    }

    fn refuse_body(&mut self, conn: &mut Conn, id: StreamId) -> Option<Response> {
        self.stats.request_bodies_too_large.inc();
        conn.stop(id, H3_NO_ERROR);
        self.answer_own(conn, id, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    }

    fn read_chunks(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        reader: &mut RequestReader,
        complete: &mut Option<Progress>,
        mut most: usize,
    ) -> Read {
        let mut recv = conn.quic.recv_stream(id);
        let Ok(mut chunks) = recv.read(true) else {
            return Read::Finished;
        };
        let section = &mut self.scratch.section;
        let read = loop {
            if most == 0 {
                break Read::Partly;
            }
            let progress = match chunks.next(most) {
                Ok(Some(chunk)) => {
                    most = most.saturating_sub(chunk.bytes.len());
                    reader.push(&chunk.bytes, false, section)
                }
                Ok(None) => match reader.push(&[], true, section) {
                    Ok(_) => break Read::Finished,
                    Err(error) => Err(error),
                },
                Err(ReadError::Blocked) => break Read::Open,
                Err(ReadError::Reset(_)) => break Read::Reset,
            };
            match progress {
                Ok(done @ (Progress::Request | Progress::TooLarge)) => *complete = Some(done),
                Ok(_) => {}
                Err(error) => break Read::Failed(error),
            }
        };
        let _flow_control_is_sent_anyway = chunks.finalize();
        read
    }

    /// Answers a request, or returns what is left to be done for it.
    pub(super) fn request(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        section: &FieldSection,
        now: Now,
        out: &mut Outbox,
    ) -> Begun {
        let plan = explain::plan(
            section,
            &self.config.caching.routes,
            self.config.limits.max_target,
            &mut self.scratch.key,
            &mut self.scratch.spare_key,
        );
        let Plan { handling, route } = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let status = match error {
                    BadRequest::TooLong { .. } => StatusCode::URI_TOO_LONG,
                    BadRequest::Authority(_) | BadRequest::Target(_) => StatusCode::BAD_REQUEST,
                };
                return Begun::Answered(self.refuse(conn, id, status, "bad-request"));
            }
        };
        if handling == Handling::MethodNotAllowed {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return Begun::Answered(self.refuse(conn, id, status, "method"));
        }
        let Some(origin) = self.routes.find(key::host(&self.scratch.key)) else {
            let status = StatusCode::MISDIRECTED_REQUEST;
            return Begun::Answered(self.refuse(conn, id, status, "unknown-host"));
        };
        let urgency = self.config.caching.routes.rules(route).urgency;
        conn.prioritize(id, section.get(b"priority"), urgency);
        let hash = self.store.hash(&self.scratch.key);
        match handling {
            Handling::Lookup { head_only } => {
                let place = (hash, origin, route);
                self.look_up(conn, id, section, place, head_only, now, out)
            }
            // What changes something, or goes upstream for this request alone.
            _ if conn.is_early() => Begun::TooEarly,
            Handling::Authorized { head_only } if self.is_for_everyone(section, hash, now) => {
                let place = (hash, origin, route);
                self.look_up(conn, id, section, place, head_only, now, out)
            }
            Handling::Authorized { .. } | Handling::Bypass { .. } | Handling::PassOn
                if self.is_loop(section) =>
            {
                Begun::Answered(self.refuse_loop(conn, id))
            }
            Handling::Authorized { head_only } if Conditions::read(section.fields()).is_none() => {
                self.stats.bypassed.inc();
                let target = self.target(section, hash, origin, route);
                let mut request = PassRequest::shared(target, head_only, Forward::Bypass);
                forward::add_credentials(section, &mut request.headers);
                forward::add_early(section, &mut request.headers);
                request.keep = !head_only;
                Begun::Answered(self.pass(conn, id, request, now, out))
            }
            Handling::Authorized { head_only } | Handling::Bypass { head_only } => {
                self.stats.bypassed.inc();
                let mut target = target(&self.scratch.key, hash, origin);
                target.headers = Arc::new(forward::end_to_end(section));
                let request = PassRequest::shared(target, head_only, Forward::Bypass);
                Begun::Answered(self.pass(conn, id, request, now, out))
            }
            Handling::PassOn | Handling::MethodNotAllowed => {
                let mut target = target(&self.scratch.key, hash, origin);
                target.route = route;
                self.pass_on(conn, id, section, target)
            }
        }
    }

    /// Whether the object of the key in the scratch answers a request with Authorization.
    fn is_for_everyone(&mut self, section: &FieldSection, hash: KeyHash, now: Now) -> bool {
        if self.rule_of(&self.scratch.key).is_some() {
            return false;
        }
        let wants = wants::read(section, self.config.caching.client_cache_control);
        let hit = self.store.lookup(hash, &self.scratch.key);
        hit.is_some_and(|hit| {
            let meta = hit.meta();
            let stands = standing(&hit, &meta, now);
            wants::may_have_authorized(&wants, &lifetime(&meta), stands)
        })
    }

    pub(super) fn refuse(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        status: StatusCode,
        detail: &'static str,
    ) -> Option<Response> {
        self.stats.requests_refused.inc();
        self.answer_own(conn, id, status, detail)
    }

    /// GET or HEAD: answers from the cache, or joins or begins a flight; in early data only the former.
    #[allow(clippy::too_many_arguments)]
    fn look_up(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        section: &FieldSection,
        (hash, origin, route): (KeyHash, OriginId, RouteId),
        head_only: bool,
        now: Now,
        out: &mut Outbox,
    ) -> Begun {
        let directives = wants::read(section, self.config.caching.client_cache_control);
        let wish = self.wish(head_only, Conditions::read(section.fields()), directives);
        let mut hash = hash;
        let varies = self.rule_of(&self.scratch.key).is_some();
        if varies {
            let mut target = self.target(section, hash, origin, route);
            if !self.select(&mut target) {
                if conn.is_early() {
                    return Begun::TooEarly;
                }
                if self.is_loop(section) {
                    return Begun::Answered(self.refuse_loop(conn, id));
                }
                let request = PassRequest::shared(target, head_only, Forward::Bypass);
                let request = request.of_parts(&wish.conditions);
                return Begun::Answered(self.pass(conn, id, request, now, out));
            }
            hash = target.hash;
            self.scratch.key.clear();
            self.scratch.key.extend_from_slice(&target.key);
        }
        let found = self.answer_hit(conn, id, hash, &wish, now);
        if found.is_err() && conn.is_early() {
            return Begun::TooEarly;
        }
        if found.is_ok() {
            self.count_by_class(route).hits.inc();
        }
        if let Ok(Answered {
            rest,
            revalidate: false,
            sliced: None,
        }) = found
        {
            return Begun::Answered(rest);
        }
        // The tier may have what memory has nothing of.
        let ask_tier = self.tier.is_some()
            && matches!(found, Err(Forward::UriMiss))
            && !directives.no_store
            && !self.uncacheable.contains(hash, now.unix_ms);
        if found.is_err() && directives.only_if_cached && !ask_tier {
            return Begun::Answered(self.answer_not_stored(conn, id));
        }
        let mut target = self.target(section, hash, origin, route);
        let found = found.map_err(|why| match why {
            Forward::UriMiss if varies => Forward::VaryMiss,
            why => why,
        });
        Begun::Answered(match found {
            Ok(answered) => {
                if answered.revalidate {
                    self.revalidate(target.clone(), now, out);
                }
                let Some(found) = answered.sliced else {
                    return Begun::Answered(answered.rest);
                };
                let object = Object {
                    asked: Asked::new(&target.headers, section, directives),
                    target,
                    why: None,
                };
                self.answer_slices(conn, id, *found, object, now, out)
            }
            Err(_) if self.is_loop(section) => self.refuse_loop(conn, id),
            // The origin may refuse what others have not asked for in early data.
            Err(why) if directives.no_store || forward::is_early(section) => {
                let mut request = PassRequest::shared(target, head_only, why);
                forward::add_early(section, &mut request.headers);
                let request = request.of_parts(&wish.conditions);
                self.pass(conn, id, request, now, out)
            }
            Err(why) => {
                target.revalidate = why == Forward::Request;
                if let Some(&spec) = wish.ranges.first() {
                    target.extent = Extent::Part(spec);
                }
                target.stored_only = directives.only_if_cached;
                target.stale_if_error_s = directives.stale_if_error.unwrap_or(0);
                let miss = Miss {
                    asked: Asked::new(&target.headers, section, directives),
                    target,
                    head_only,
                    why,
                    attempts: 0,
                };
                self.miss(conn, id, miss, now, out)
            }
        })
    }

    pub(super) fn count_by_class(&self, route: RouteId) -> &ClassStats {
        let number = self.config.caching.routes.counted(route);
        self.stats.by_class.of(number)
    }

    /// Whether the request has been here before. Asked only where something would be fetched: what is
    /// answered from memory goes no further.
    fn is_loop(&self, section: &FieldSection) -> bool {
        let ShardConfig {
            node_name, node_id, ..
        } = &self.config;
        loops::is_loop(section.fields(), node_name, node_id)
    }

    /// 508: the request would be fetched from itself.
    fn refuse_loop(&mut self, conn: &mut impl Client, id: StreamId) -> Option<Response> {
        self.stats.loops_refused.inc();
        self.answer_failed(conn, id, FetchErrorKind::LoopDetected)
    }

    /// What to ask the origin for a request whose key is in the scratch.
    fn target(
        &self,
        section: &FieldSection,
        hash: KeyHash,
        origin: OriginId,
        route: RouteId,
    ) -> Target {
        let mut target = target(&self.scratch.key, hash, origin);
        let shown = Shown {
            origin: &self.config.origins[usize::from(origin.0)].client_fields,
            key: &self.config.caching.routes.rules(route).key,
        };
        let mut headers = forward::shared(section, shown);
        loops::copy_trace(section.fields(), &mut headers);
        target.headers = Arc::new(headers);
        target.route = route;
        target
    }

    /// A method that is not answered from the cache: it goes to the origin as it is.
    fn pass_on(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        section: &FieldSection,
        target: Target,
    ) -> Begun {
        let Ok(method) = Method::from_bytes(section.method()) else {
            let status = StatusCode::NOT_IMPLEMENTED;
            return Begun::Answered(self.refuse(conn, id, status, "method"));
        };
        if Arc::strong_count(&self.bodies) > self.config.limits.max_request_bodies {
            self.stats.request_bodies_refused.inc();
            conn.stop(id, H3_NO_ERROR);
            return Begun::Answered(self.answer_busy(conn, id, "request-bodies"));
        }
        self.stats.bypassed.inc();
        let expects = section.get(b"expect");
        if expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
            answer_continue(conn, id);
        }
        let routes = &self.config.caching.routes;
        let keep = method == Method::POST
            && routes.rules(target.route).store_posted
            && routes.is_canonical(&target.key);
        Begun::HasBody(Box::new(PassRequest {
            keep,
            headers: forward::end_to_end(section),
            target,
            method,
            body: RequestBody::default(),
            why: Forward::Method,
            permit: Some(Arc::clone(&self.bodies)),
        }))
    }

    /// Joins or begins a flight.
    pub(super) fn miss(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        miss: Miss,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        let Miss {
            target,
            head_only,
            why,
            attempts,
            asked,
        } = miss;
        self.stats.misses.inc();
        self.count_by_class(target.route).misses.inc();
        if self.uncacheable.contains(target.hash, now.unix_ms) {
            let mut request = PassRequest::shared(target, head_only, why);
            if let Some(asked) = &asked {
                request = request.of_parts(&asked.conditions());
            }
            return self.pass(conn, id, request, now, out);
        }
        if self.locals.followers() >= self.config.limits.max_waiters {
            self.stats.waiters_refused.inc();
            return self.answer_busy(conn, id, "waiters");
        }
        let joined = self.locals.joinable(&target.key, self.store.purges());
        if target.stored_only && joined.is_some() {
            return self.answer_not_stored(conn, id);
        }
        let ticket = match joined {
            Some(ticket) => {
                self.stats.collapsed.inc();
                self.locals.follow(ticket);
                ticket
            }
            None => {
                let ticket = self.open_local(&target);
                self.locals.follow(ticket);
                self.locals.lead(
                    ticket,
                    Waiter {
                        conn: conn.id(),
                        stream: id,
                    },
                );
                self.depart(ticket, target, now, out);
                ticket
            }
        };
        let response = Response {
            rest: Default::default(),
            source: Source::Flight(Following {
                ticket,
                at: 0,
                taken: None,
                why,
                collapsed: joined.is_some(),
                attempts,
                hinted: 0,
                waiting: false,
            }),
            head_only,
            asked,
        };
        self.advance(conn, id, response, now, out)
    }

    /// 504 (RFC 9111 section 5.2.1.7).
    pub(super) fn answer_not_stored(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
    ) -> Option<Response> {
        self.answer_own(conn, id, StatusCode::GATEWAY_TIMEOUT, "only-if-cached")
    }

    /// Refreshes a stale object that is served meanwhile.
    pub(super) fn revalidate(&mut self, target: Target, now: Now, out: &mut Outbox) {
        let joinable = self.locals.joinable(&target.key, self.store.purges());
        if joinable.is_none() && !self.uncacheable.contains(target.hash, now.unix_ms) {
            let ticket = self.open_local(&target);
            self.depart(ticket, target, now, out);
        }
    }

    pub(super) fn open_local(&mut self, target: &Target) -> Ticket {
        let stamp = self.store.purges().stamp();
        self.locals.open(target.clone(), stamp)
    }

    /// Sends a new local flight to its owner.
    pub(super) fn depart(&mut self, ticket: Ticket, target: Target, now: Now, out: &mut Outbox) {
        let owner = self.store.owner(target.hash);
        if owner == self.config.shard {
            self.join(now, owner, ticket, target, out);
        } else {
            let target = Box::new(target);
            out.lanes
                .push((owner, LaneMessage::Join { ticket, target }));
        }
    }

    /// The client wants no more of an answer.
    fn stopped(&mut self, conn: &mut Conn, id: StreamId, out: &mut Outbox) {
        let Some(mut stream) = conn.streams.remove(&id) else {
            return;
        };
        self.drop_response(stream.response.take(), out);
        if stream
            .delayed
            .take()
            .is_some_and(|delayed| delayed.is_whole)
        {
            stream.reader = None;
        }
        let code = varint(h3::error::H3_REQUEST_CANCELLED);
        let _already_closed = conn.quic.send_stream(id).reset(code);
        if !stream.is_over() {
            conn.streams.insert(id, stream);
        }
    }

    /// Ends what a peer's violation ends: a stream or the connection.
    fn violation(
        &mut self,
        conn: &mut Conn,
        id: Option<StreamId>,
        error: H3Error,
        now: Now,
        out: &mut Outbox,
    ) {
        match (error.scope, id) {
            (Scope::Stream, Some(id)) => {
                self.stats.requests_refused.inc();
                reject(conn, id, error.code);
            }
            _ => {
                self.stats.h3_errors.inc();
                self.forget_streams(conn, out);
                conn.close(now.mono, error.code, error.reason);
            }
        }
    }

    /// Leaves every flight and pass that a connection's requests follow.
    pub(super) fn forget_streams(&mut self, conn: &mut Conn, out: &mut Outbox) {
        for (_, mut stream) in conn.streams.drain() {
            self.drop_response(stream.response.take(), out);
        }
    }
}

/// The fetch that what is read of a request's body goes to.
fn upload_of(stream: &Stream) -> Option<FetchId> {
    match stream.response.as_ref()?.source {
        Source::Pass { fetch } if stream.uploads => Some(fetch),
        _ => None,
    }
}

fn read_uni_stream(
    conn: &mut Conn,
    id: StreamId,
    events: &mut Vec<h3::Event>,
) -> Result<(), H3Error> {
    let mut recv = conn.quic.recv_stream(id);
    let Ok(mut chunks) = recv.read(true) else {
        return Ok(());
    };
    let stream = u64::from(id);
    let result = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => {
                if let Err(error) = conn.h3.on_uni(stream, &chunk.bytes, false, events) {
                    break Err(error);
                }
            }
            Ok(None) => break conn.h3.on_uni(stream, &[], true, events),
            Err(ReadError::Blocked) => break Ok(()),
            Err(ReadError::Reset(_)) => break conn.h3.on_uni_reset(stream),
        }
    };
    let _flow_control_is_sent_anyway = chunks.finalize();
    result
}

/// Opens our control stream as soon as the client's transport parameters allow it.
fn open_control(conn: &mut Conn) {
    if conn.control.is_some() {
        return;
    }
    if let Some(id) = conn.quic.streams().open(Dir::Uni) {
        let mut preamble = Vec::new();
        conn.h3.preamble(&mut preamble);
        let _flow_control_allows_these_few_bytes = conn.quic.send_stream(id).write(&preamble);
        conn.control = Some(id);
    }
}

/// 100 (Continue), so that the client sends its body (RFC 9110 section 10.1.1).
fn answer_continue(conn: &mut impl Client, id: StreamId) {
    let frame = head::interim(StatusCode::CONTINUE, &HeaderMap::new());
    let _a_client_without_room_sends_it_anyway = conn.write_chunks(id, &mut [frame]);
}

/// Ends both directions of a request stream.
fn reject(conn: &mut Conn, id: StreamId, code: u64) {
    let _already_closed = conn.quic.send_stream(id).reset(varint(code));
    let _already_closed = conn.quic.recv_stream(id).stop(varint(code));
}

pub(super) fn target(
    key: &[u8],
    hash: crate::store::KeyHash,
    origin: crate::io::OriginId,
) -> Target {
    let key = Bytes::copy_from_slice(key);
    let (authority, path) = key::split(vary::base(&key));
    Target {
        authority: key.slice_ref(authority),
        path: key.slice_ref(path),
        headers: Arc::default(),
        route: RouteId::default(),
        revalidate: false,
        stale_if_error_s: 0,
        stored_only: false,
        extent: Extent::Whole,
        key: key.clone(),
        hash,
        origin,
    }
}
