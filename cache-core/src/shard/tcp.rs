//! Requests that the shell took from TCP connections. They go the way of HTTP/3's: only how they are
//! read and how their answers leave the shard is different.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use http::StatusCode;

use super::Shard;
use super::requests::Begun;
use crate::conn::client::Client as _;
use crate::conn::stream::Source;
use crate::conn::stream::{Response, Stream};
use crate::conn::tcp::TcpRequest;
use crate::io::{ClientRequest, Now, Outbox, RequestBody, RequestEvent, RequestId};

/// Requests looked at in one check for arena memory that they hold up.
const REQUESTS_PER_CHECK: usize = 32;

/// Requests whose answers are not complete.
#[derive(Default)]
pub(super) struct TcpRequests {
    open: BTreeMap<RequestId, Box<TcpRequest>>,
    /// Where the last check for held-up memory ended.
    checked: Option<RequestId>,
}

impl TcpRequests {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes out the next one, round and round.
    fn take_next(&mut self) -> Option<Box<TcpRequest>> {
        let after = self.checked.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.open.range((after, Bound::Unbounded));
        let next = behind.next().or_else(|| self.open.iter().next());
        self.checked = next.map(|(&id, _)| id);
        self.open.remove(&self.checked?)
    }
}

impl Shard {
    pub(super) fn tcp_event(
        &mut self,
        now: Now,
        id: RequestId,
        event: RequestEvent,
        out: &mut Outbox,
    ) {
        match event {
            RequestEvent::Begin(request) => self.begin_tcp(now, id, *request, out),
            RequestEvent::Room(bytes) => {
                if let Some(request) = self.tcp.open.get_mut(&id) {
                    request.make_room(bytes);
                    self.resume_tcp(id, false, now, out);
                }
            }
            RequestEvent::Body(bytes) => self.upload_tcp(id, bytes, false, out),
            RequestEvent::BodyEnd => self.upload_tcp(id, Bytes::new(), true, out),
            RequestEvent::Cancel => {
                if let Some(mut request) = self.tcp.open.remove(&id) {
                    for (_, mut stream) in request.streams().drain() {
                        self.drop_response(stream.response.take(), out);
                    }
                }
            }
        }
    }

    fn upload_tcp(&mut self, id: RequestId, bytes: Bytes, last: bool, out: &mut Outbox) {
        let request = self.tcp.open.get_mut(&id);
        let stream = request.and_then(|request| request.streams().get_mut(&TcpRequest::stream()));
        let response = stream.and_then(|stream| stream.response.as_ref());
        if let Some(&Source::Pass { fetch }) = response.map(|response| &response.source) {
            self.upload(fetch, bytes, last, out);
        }
    }

    fn begin_tcp(&mut self, now: Now, id: RequestId, head: ClientRequest, out: &mut Outbox) {
        self.stats.requests.inc();
        self.stats.tcp_requests.inc();
        let mut request = TcpRequest::new(id, self.config.limits.tcp_answer_window);
        let mut section = std::mem::take(&mut self.scratch.section);
        let read = section.read_plain(&head);
        let response = match read {
            Ok(()) => {
                let begun = self.request(&mut request, TcpRequest::stream(), &section, now, out);
                self.answer_begun(&mut request, begun, head.body, now, out)
            }
            Err(error) => {
                let (status, detail) = match error {
                    Some(error) => {
                        tracing::debug!(reason = error.reason, "request refused");
                        (StatusCode::BAD_REQUEST, "malformed")
                    }
                    None => {
                        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                        (status, "field-section-too-large")
                    }
                };
                self.refuse(&mut request, TcpRequest::stream(), status, detail)
            }
        };
        self.scratch.section = section;
        self.keep_tcp(Box::new(request), response, out);
    }

    fn answer_begun(
        &mut self,
        request: &mut TcpRequest,
        begun: Begun,
        body: RequestBody,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        match begun {
            Begun::Answered(response) => response,
            Begun::HasBody(mut pending) => {
                pending.body = body;
                self.pass(request, TcpRequest::stream(), *pending, now, out)
            }
            Begun::TooEarly => {
                let status = StatusCode::TOO_EARLY;
                self.refuse(request, TcpRequest::stream(), status, "early-data")
            }
        }
    }

    fn keep_tcp(
        &mut self,
        mut request: Box<TcpRequest>,
        response: Option<Response>,
        out: &mut Outbox,
    ) {
        if response.is_some() {
            let stream = Stream {
                response,
                ..Stream::default()
            };
            request.streams().insert(TcpRequest::stream(), stream);
        }
        self.put_back_tcp(request, out);
    }

    /// Goes on with an answer that waited for room, or for news. False when the client is gone.
    pub(super) fn resume_tcp(
        &mut self,
        id: RequestId,
        news: bool,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Some(mut request) = self.tcp.open.remove(&id) else {
            return false;
        };
        self.resume(&mut *request, TcpRequest::stream(), news, now, out);
        self.put_back_tcp(request, out);
        true
    }

    fn put_back_tcp(&mut self, mut request: Box<TcpRequest>, out: &mut Outbox) {
        if !request.flush(out) {
            self.tcp.open.insert(request.name(), request);
        }
    }

    /// Copies out what a few slow clients hold of segments that are to be used again.
    pub(super) fn let_go_tcp(&mut self, out: &mut Outbox) {
        for _ in 0..REQUESTS_PER_CHECK.min(self.tcp.len()) {
            if let Some(mut request) = self.tcp.take_next() {
                self.release_views(&mut *request, out);
                self.put_back_tcp(request, out);
            }
        }
    }
}
