//! One request: read and checked, asked of the shard, answered.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use cache_core::io::{AnswerEvent, RequestBody};
use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::Registered;
use super::body::{Active, AnswerBody};
use super::heads::Heads;
use super::request::{self, Refusal};
use super::uploads::{self, Incomplete};

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
    let has_body = !matches!(asked.method, Method::GET | Method::HEAD) && !body.is_end_stream();
    let mut body = match has_body.then(|| Incomplete::begin(body, &active)) {
        None => None,
        Some(Ok(body)) => Some(body),
        Some(Err(refusal)) => return Ok(refuse(refusal, version, active)),
    };
    if let Some(incomplete) = body.take_if(|body| body.is_short()) {
        asked.body = match incomplete.read().await {
            Ok(body) => RequestBody::Whole(body),
            Err(refusal) => return Ok(refuse(refusal, version, active)),
        };
    } else if let Some(body) = &body {
        asked.body = RequestBody::Streamed {
            length: body.length(),
        };
    }
    let place = active.place();
    let Some(mut answer) = place.core.door.ask(asked, place.watch.hungry()) else {
        return Err(cut_off());
    };
    let event = match body {
        None => poll_fn(|cx| answer.poll_event(cx)).await,
        Some(body) => {
            let upload = body.upload(answer.uploader(place.core.shared.upload_window));
            match uploads::until_answered(upload, &mut answer).await {
                Ok(event) => event,
                Err(refusal) => return Ok(refuse(refusal, version, active)),
            }
        }
    };
    let AnswerEvent::Head { status, headers } = event else {
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
