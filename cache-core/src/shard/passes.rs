//! Fetches for one request only: answers that must not be shared, methods that change something.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use quinn_proto::StreamId;

use super::Shard;
use super::answers::{Step, data_header};
use super::kept::Keeping;
use crate::conn::client::{Client, ClientId};
use crate::conn::h3::head::{self, Dynamic};
use crate::conn::stream::{PassRequest, Response, Source};
use crate::flight::Waiter;
use crate::http::cache_status::{self, CacheStatus, Forward};
use crate::http::{freshness, invalidate};
use crate::io::{
    AnswerEvent, FetchCommand, FetchError, FetchEvent, FetchId, FetchRequest, Now, Outbox,
    RequestBody,
};

/// A fetch that streams to one request. Its memory is bounded by the fetch window: credit is given
/// back only when the client's stream has taken the bytes.
pub(super) struct Pass {
    conn: ClientId,
    stream: StreamId,
    pub(super) method: Method,
    /// What the request was for.
    key: Bytes,
    why: Forward,
    _permit: Option<Arc<()>>,
    /// Encoded bytes that the answer has not taken yet.
    queue: VecDeque<Bytes>,
    /// Body bytes in the queue or being written, to be credited when they are gone.
    uncredited: u32,
    /// The declared length of the body that is to come: one DATA frame holds it all. `None`: every
    /// piece is a frame of its own.
    declared: Option<u64>,
    received: u64,
    begun: bool,
    end: Option<End>,
    /// The request's body is not there as a whole.
    upload: Option<Upload>,
    /// Its answer may be for others too.
    pub(super) keeping: Option<Box<Keeping>>,
}

/// A request's body on its way to the origin.
struct Upload {
    /// Bytes that may be sent to the upstream.
    room: u32,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// Cut off after the head was written.
    Broken,
    /// Failed before there was a head.
    Failed(crate::io::FetchErrorKind),
}

impl Shard {
    /// Begins a fetch for this request alone.
    pub(super) fn pass(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        request: PassRequest,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        if self.passes.len() >= self.config.limits.max_passes {
            self.stats.passes_refused.inc();
            return self.answer_busy(conn, id, "passes");
        }
        let fetch = self.fetch_id();
        self.stats.fetches_started.inc();
        let upload = match &request.body {
            RequestBody::Whole(_) => None,
            RequestBody::Streamed { .. } => Some(Upload {
                room: self.config.limits.upload_window,
                ended: false,
            }),
        };
        let target = request.target;
        let keeping = request.keep.then(|| {
            Box::new(Keeping {
                target: target.clone(),
                stamp: self.store.purges().stamp(),
                sent_unix_ms: now.unix_ms,
                copy: None,
            })
        });
        let head_only = request.method == Method::HEAD;
        out.fetches.push(FetchCommand::Start {
            id: fetch,
            request: Box::new(FetchRequest {
                origin: target.origin,
                method: request.method.clone(),
                authority: target.authority,
                target: target.path,
                headers: request.headers,
                compress: false,
                body: request.body,
                window: self.config.limits.fetch_window,
            }),
        });
        self.passes.insert(
            fetch,
            Pass {
                conn: conn.id(),
                stream: id,
                method: request.method,
                key: target.key,
                why: request.why,
                _permit: request.permit,
                queue: VecDeque::new(),
                uncredited: 0,
                declared: None,
                received: 0,
                begun: false,
                end: None,
                keeping,
                upload,
            },
        );
        let response = Response {
            rest: VecDeque::new(),
            source: Source::Pass { fetch },
            head_only,
            asked: None,
        };
        self.advance(conn, id, response, now, out)
    }

    /// Body bytes that a request may pass on now; `None`: it need not.
    pub(super) fn upload_room(&self, fetch: FetchId) -> Option<u32> {
        let upload = self.passes.get(&fetch)?.upload.as_ref();
        upload
            .filter(|upload| !upload.ended)
            .map(|upload| upload.room)
    }

    /// Passes more of a request's body on.
    pub(super) fn upload(&mut self, fetch: FetchId, bytes: Bytes, last: bool, out: &mut Outbox) {
        let pass = self
            .passes
            .get_mut(&fetch)
            .filter(|pass| pass.end.is_none());
        let Some(upload) = pass.and_then(|pass| pass.upload.as_mut()) else {
            return;
        };
        if upload.ended {
            return;
        }
        if !bytes.is_empty() {
            self.stats.request_body_bytes.add(bytes.len() as u64);
            upload.room = upload.room.saturating_sub(bytes.len() as u32);
            out.fetches.push(FetchCommand::Body { id: fetch, bytes });
        }
        if last {
            upload.ended = true;
            out.fetches.push(FetchCommand::BodyEnd { id: fetch });
        }
    }

    /// Whether the client was told anything of a pass's answer.
    pub(super) fn has_begun(&self, fetch: FetchId) -> bool {
        self.passes.get(&fetch).is_some_and(|pass| pass.begun)
    }

    /// The origin has taken so much of a request's body: more of it is read.
    fn make_upload_room(&mut self, now: Now, fetch: FetchId, bytes: u32, out: &mut Outbox) {
        let Some(pass) = self.passes.get_mut(&fetch) else {
            return;
        };
        let (conn, stream) = (pass.conn, pass.stream);
        let Some(upload) = pass.upload.as_mut().filter(|upload| !upload.ended) else {
            return;
        };
        upload.room += bytes;
        match conn {
            ClientId::Tcp(id) => out.answers.push((id, AnswerEvent::Room(bytes))),
            ClientId::Quic(id) => {
                if let Some(mut conn) = self.quic.take(id) {
                    self.read_request(&mut conn, stream, now, out);
                    self.quic.put_back_dirty(conn);
                }
            }
        }
    }

    /// News of a pass: queued, then the request goes on.
    pub(super) fn pass_event(
        &mut self,
        now: Now,
        fetch: FetchId,
        event: FetchEvent,
        out: &mut Outbox,
    ) {
        if let FetchEvent::Room(bytes) = event {
            return self.make_upload_room(now, fetch, bytes, out);
        }
        self.go_on_copying(now, fetch, &event, out);
        let copy = self.begin_copy(now, fetch, &event);
        let Some(pass) = self.passes.get_mut(&fetch) else {
            return;
        };
        if pass.end.is_some() {
            return;
        }
        let mut changed = Vec::new();
        match event {
            FetchEvent::Hints(headers) => {
                if !pass.begun {
                    self.stats.early_hints.inc();
                    let hints = head::interim(StatusCode::EARLY_HINTS, &headers);
                    pass.queue.push_back(hints);
                }
            }
            FetchEvent::Head {
                status,
                headers,
                length,
            } => {
                let verdict = CacheStatus::Forwarded {
                    why: pass.why,
                    stored: false,
                    collapsed: false,
                    confirmed: false,
                    detail: None,
                };
                let fields = head::encode_for(self.config.role, status, &headers);
                self.scratch.status.clear();
                cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
                let dynamic = Dynamic {
                    age: freshness::received_age(&headers),
                    cache_status: &self.scratch.status,
                };
                let head_only = pass.method == Method::HEAD;
                let body_len = length.filter(|&len| len > 0 && !head_only);
                let buffer = head::response(&fields, dynamic, body_len, 0);
                pass.declared = if head_only { Some(0) } else { length };
                pass.begun = true;
                pass.queue.push_back(Bytes::from(buffer));
                let max_target = self.config.limits.max_target;
                changed = invalidate::keys(&pass.method, &pass.key, status, &headers, max_target);
                for key in &mut changed {
                    let routes = &self.config.caching.routes;
                    routes.rewrite(key, &mut self.scratch.spare_key);
                }
            }
            FetchEvent::Body(bytes) => {
                pass.received += bytes.len() as u64;
                pass.uncredited += bytes.len() as u32;
                match pass.declared {
                    // No more than was declared fits in the answer's frame.
                    Some(declared) if pass.received > declared => {
                        out.fetches.push(FetchCommand::Cancel { id: fetch });
                        pass.end = Some(End::Broken);
                    }
                    Some(_) => pass.queue.push_back(bytes),
                    None => pass.queue.extend([data_header(bytes.len()), bytes]),
                }
            }
            FetchEvent::Room(_) => {}
            FetchEvent::End => {
                let whole = pass.declared.is_none_or(|length| length == pass.received);
                pass.end = Some(if whole { End::Complete } else { End::Broken });
            }
            FetchEvent::Failed(FetchError { kind, .. }) => {
                self.stats.fetches_failed.inc();
                pass.end = Some(match pass.begun {
                    true => End::Broken,
                    false => End::Failed(kind),
                });
            }
        }
        let (conn, stream) = (pass.conn, pass.stream);
        // Before the client learns that it succeeded.
        self.invalidate(changed, out);
        let pass = self.passes.get_mut(&fetch);
        if let Some(keeping) = pass.and_then(|pass| pass.keeping.as_mut())
            && copy.is_some()
        {
            keeping.copy = copy;
        }
        if !self.wake(Waiter { conn, stream }, now, out) {
            self.cancel_pass(fetch, out);
        }
    }

    /// Moves what has arrived into the answer; what the answer wrote before is credited.
    pub(super) fn step_pass(
        &mut self,
        fetch: FetchId,
        response: &mut Response,
        out: &mut Outbox,
    ) -> Step {
        let Some(pass) = self.passes.get_mut(&fetch) else {
            return Step::Abort;
        };
        if pass.queue.is_empty() && pass.uncredited > 0 && pass.end.is_none() {
            let bytes = std::mem::take(&mut pass.uncredited);
            out.fetches.push(FetchCommand::Credit { id: fetch, bytes });
        }
        if !pass.queue.is_empty() {
            std::mem::swap(&mut response.rest, &mut pass.queue);
            return Step::Write;
        }
        let step = match pass.end {
            None => return Step::Wait,
            Some(End::Complete) => Step::Finish,
            Some(End::Broken) => Step::Abort,
            Some(End::Failed(kind)) => Step::Failed(kind),
        };
        self.stop_copying(fetch);
        self.passes.remove(&fetch);
        step
    }

    /// Nobody wants the answer any more.
    pub(super) fn cancel_pass(&mut self, fetch: FetchId, out: &mut Outbox) {
        self.stop_copying(fetch);
        if let Some(pass) = self.passes.remove(&fetch)
            && pass.end.is_none()
        {
            out.fetches.push(FetchCommand::Cancel { id: fetch });
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::config::Limits;
    use crate::io::RequestEvent;
    use crate::shard::lone::Lone;

    const BODY: RequestBody = RequestBody::Streamed { length: None };

    fn begin() -> (Lone, FetchId) {
        let mut lone = Lone::with_limits(Limits::default());
        lone.request(1, Method::POST, BODY);
        let fetch = lone.fetch().expect("a fetch");
        (lone, fetch)
    }

    fn head() -> FetchEvent {
        FetchEvent::Head {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            length: Some(0),
        }
    }

    #[test]
    fn a_body_goes_on_as_it_comes_and_room_comes_back() {
        let (mut lone, fetch) = begin();
        lone.client(1, RequestEvent::Body(Bytes::from_static(b"some")));
        lone.client(1, RequestEvent::BodyEnd);
        // What follows the end is for nobody.
        lone.client(1, RequestEvent::Body(Bytes::from_static(b"more")));
        let commands = lone.commands();
        assert!(
            matches!(&commands[..], [
                FetchCommand::Body { id, bytes },
                FetchCommand::BodyEnd { .. }
            ] if *id == fetch && bytes == "some"),
            "{commands:?}"
        );
        let (mut lone, fetch) = begin();
        lone.bring(fetch, FetchEvent::Room(4));
        assert!(matches!(lone.answers()[..], [(1, AnswerEvent::Room(4))]));
    }

    #[test]
    fn an_early_answer_ends_the_upload() {
        let (mut lone, fetch) = begin();
        lone.bring(fetch, head());
        lone.bring(fetch, FetchEvent::End);
        let answers = lone.answers();
        assert!(matches!(answers.last(), Some((1, AnswerEvent::End))));
        lone.client(1, RequestEvent::Body(Bytes::from_static(b"late")));
        lone.bring(fetch, FetchEvent::Room(9));
        assert!(lone.commands().is_empty() && lone.answers().is_empty());
        assert_eq!(lone.shard.holdings().passes, 0);
    }

    #[test]
    fn hints_come_before_the_head_or_not_at_all() {
        let (mut lone, fetch) = begin();
        let hints = || FetchEvent::Hints(HeaderMap::new());
        lone.bring(fetch, hints());
        lone.bring(fetch, head());
        lone.bring(fetch, hints());
        let answers = lone.answers();
        assert!(
            matches!(
                answers[..],
                [
                    (
                        1,
                        AnswerEvent::Interim {
                            status: StatusCode::EARLY_HINTS,
                            ..
                        }
                    ),
                    (1, AnswerEvent::Head { .. }),
                ]
            ),
            "{answers:?}"
        );
    }

    #[test]
    fn a_client_that_leaves_takes_its_fetch_along() {
        let (mut lone, fetch) = begin();
        lone.client(1, RequestEvent::Cancel);
        let commands = lone.commands();
        assert!(matches!(&commands[..], [FetchCommand::Cancel { id }] if *id == fetch));
    }
}
