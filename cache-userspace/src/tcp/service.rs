//! HTTP/1.1: requests of one connection as hyper reads them, one after the other.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use cache_core::io::ClientRequest;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Registered;
use super::asking::{self, Begun, Unanswered};
use super::body::{Active, AnswerBody};
use super::heads::Heads;
use super::incoming::{Arriving, length};
use super::request::{self, Refusal};

/// Why a request with several lengths is refused.
const LENGTHS: &str = "more than one length";

/// Answers the requests of one connection.
pub struct Service {
    place: Rc<Registered>,
    secure: bool,
    /// The bytes of heads.
    heads: Rc<RefCell<Heads>>,
}

impl Service {
    pub fn new(place: Rc<Registered>, secure: bool, heads: Rc<RefCell<Heads>>) -> Self {
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
        framed && self.heads.borrow().contradict()
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
            let (parts, body) = request.into_parts();
            let stats = &active.place().core.stats;
            let body = Arriving::Http1(body);
            let body = asking::has_body(&parts.method, &body).then_some(body);
            let read = match refused {
                Some(refusal) => Err(refusal),
                None => request::read(parts, secure),
            };
            match read {
                Ok(asked) => answer(asked, body, active).await,
                Err(refusal) => {
                    stats
                        .ambiguous_lengths
                        .add(u64::from(refusal.why == LENGTHS));
                    Ok(refuse(refusal, active))
                }
            }
        })
    }
}

async fn answer(
    asked: ClientRequest,
    body: Option<Arriving>,
    active: Active,
) -> io::Result<Response<AnswerBody>> {
    // hyper has sent 100 (Continue) when the body was first read. Others are not for clients of
    // HTTP/1.1, many of which take them for the answer (RFC 8297 section 3).
    let begun = asking::ask(asked, body, &active, |_, _| {}).await;
    let Begun { mut head, answer } = match begun {
        Ok(begun) => begun,
        Err(Unanswered::Refused(refusal)) => return Ok(refuse(refusal, active)),
        Err(Unanswered::CutOff) => return Err(io::Error::other("no answer")),
    };
    let is_draining = active.place().core.door.is_draining();
    if asking::is_exhausted(&active) || is_draining {
        close(&mut head);
    }
    let declared = head.headers().get(CONTENT_LENGTH).and_then(length);
    Ok(head.map(|()| AnswerBody::new(answer, declared, active)))
}

fn close<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
}

/// An answer of our own. What the client still sends of its request cannot be told from the next one,
/// so the connection ends with it.
fn refuse(refusal: Refusal, active: Active) -> Response<AnswerBody> {
    let mut head = asking::refuse(refusal);
    close(&mut head);
    head.map(|()| AnswerBody::empty(active))
}
