//! One request: read and checked, asked of the shard, answered.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use cache_core::io::AnswerEvent;
use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::Registered;
use super::body::{Active, AnswerBody};
use super::heads::Heads;
use super::request::{self, Refusal};

/// Why a request with several lengths is refused.
const LENGTHS: &str = "more than one length";

/// Answers the requests of one connection.
pub struct Service {
    place: Rc<Registered>,
    secure: bool,
    /// HTTP/1.1: the bytes of heads.
    heads: Option<Rc<RefCell<Heads>>>,
}

impl Service {
    pub fn new(place: Rc<Registered>, secure: bool, heads: Option<Rc<RefCell<Heads>>>) -> Self {
        Self {
            place,
            secure,
            heads,
        }
    }

    /// hyper goes by Transfer-Encoding alone, and by one Content-Length of several.
    fn has_two_lengths(&self, request: &Request<Incoming>) -> bool {
        let headers = request.headers();
        let framed =
            headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(CONTENT_LENGTH);
        let heads = self.heads.as_ref().filter(|_| framed);
        heads.is_some_and(|heads| heads.borrow().contradict())
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<AnswerBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let active = Active::begin(&self.place);
        let refused = self.has_two_lengths(&request).then_some(Refusal {
            status: StatusCode::BAD_REQUEST,
            why: LENGTHS,
        });
        let secure = self.secure;
        Box::pin(async move {
            let version = request.version();
            let (parts, body) = request.into_parts();
            let stats = &active.place().core.stats;
            let read = match refused {
                Some(refusal) => Err(refusal),
                None => request::read(parts, secure),
            };
            let asked = match read {
                Ok(asked) => asked,
                Err(refusal) => {
                    stats
                        .ambiguous_lengths
                        .add(u64::from(refusal.why == LENGTHS));
                    return Ok(refuse(refusal, version, active));
                }
            };
            answer(asked, body, version, active).await
        })
    }
}

async fn answer(
    mut asked: cache_core::io::ClientRequest,
    body: Incoming,
    version: Version,
    active: Active,
) -> io::Result<Response<AnswerBody>> {
    // A body of GET or HEAD means nothing, and is not waited for.
    if !matches!(asked.method, Method::GET | Method::HEAD) && !body.is_end_stream() {
        asked.body = match read_body(body, &active).await {
            Ok(body) => body,
            Err(refusal) => return Ok(refuse(refusal, version, active)),
        };
    }
    let place = active.place();
    let Some(mut answer) = place.core.door.ask(asked, place.watch.hungry()) else {
        return Err(cut_off());
    };
    let AnswerEvent::Head { status, headers } = poll_fn(|cx| answer.poll_event(cx)).await else {
        return Err(cut_off());
    };
    let declared = headers.get(CONTENT_LENGTH).and_then(length);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(alt_svc) = &place.core.alt_svc {
        response.headers_mut().insert(ALT_SVC, alt_svc.clone());
    }
    end_if_exhausted(&active, &mut response, version);
    Ok(response.map(|()| AnswerBody::new(answer, declared, active)))
}

fn length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// A connection that has had its requests is to be replaced by another.
fn end_if_exhausted(active: &Active, response: &mut Response<()>, version: Version) {
    let place = active.place();
    if place.watch.requests.get() < place.core.bounds.max_requests {
        return;
    }
    if place.watch.requests.get() == place.core.bounds.max_requests {
        place.core.stats.requests_exhausted.inc();
    }
    match version {
        Version::HTTP_2 => place.watch.drain(),
        _ => close(response),
    }
}

fn close<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
}

/// Bodies are bounded, each and in number.
async fn read_body(mut body: Incoming, active: &Active) -> Result<Bytes, Refusal> {
    let core = &active.place().core;
    let too_large = Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        why: "body-too-large",
    };
    let limit = core.shared.max_request_body;
    if body.size_hint().lower() > limit {
        core.stats.bodies_too_large.inc();
        return Err(too_large);
    }
    if core.bodies.get() >= core.shared.max_request_bodies {
        core.stats.bodies_refused.inc();
        return Err(Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: "request-bodies",
        });
    }
    let _reading = Reading::begin(active);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers of a request are not passed on (RFC 9110 section 6.5.1).
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%error, "request body");
                return Err(Refusal {
                    status: StatusCode::BAD_REQUEST,
                    why: "malformed body",
                });
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (whole.len() + data.len()) as u64 > limit {
            core.stats.bodies_too_large.inc();
            return Err(too_large);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// A request body that is being read.
struct Reading<'a> {
    active: &'a Active,
}

impl<'a> Reading<'a> {
    fn begin(active: &'a Active) -> Self {
        let place = active.place();
        place.core.bodies.set(place.core.bodies.get() + 1);
        place.watch.body_begins(place.core.now.get());
        Self { active }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let place = self.active.place();
        place.core.bodies.set(place.core.bodies.get() - 1);
        place.watch.body_ends(place.core.now.get());
    }
}

/// An answer of our own. What the client still sends of an HTTP/1.1 request cannot be told from the
/// next one, so the connection ends with it.
fn refuse(refusal: Refusal, version: Version, active: Active) -> Response<AnswerBody> {
    tracing::debug!(why = refusal.why, status = %refusal.status, "request refused");
    let mut response = Response::new(AnswerBody::empty(active));
    *response.status_mut() = refusal.status;
    if version != Version::HTTP_2 {
        close(&mut response);
    }
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        let retry = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, retry);
    }
    response
}

fn cut_off() -> io::Error {
    io::Error::other("no answer")
}
