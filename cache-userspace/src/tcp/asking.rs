//! From a request that was read to the head of its answer, over either version.

use std::future::poll_fn;
use std::task::{Context, Poll};

use cache_core::io::{AnswerEvent, ClientRequest, RequestBody};
use http::header::{ALT_SVC, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::body::Active;
use super::incoming::Arriving;
use super::request::Refusal;
use super::uploads::{self, Incomplete};
use crate::rt::door::Answer;

/// An answer whose head is there.
pub struct Begun {
    pub head: Response<()>,
    pub answer: Answer,
}

/// Why there is none.
pub enum Unanswered {
    Refused(Refusal),
    /// The shard gives none.
    CutOff,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A body of GET or HEAD means nothing, and is not waited for; CONNECT has none.
pub fn has_body(method: &Method, body: &Arriving) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::CONNECT) && !body.is_over()
}

/// Asks the shard, with the body if there is one. `interim` is shown the responses before the final one.
pub async fn ask(
    mut asked: ClientRequest,
    body: Option<Arriving>,
    active: &Active,
    mut interim: impl FnMut(StatusCode, HeaderMap),
) -> Result<Begun, Unanswered> {
    let body = body.map(|body| Incomplete::begin(body, active));
    let mut body = body.transpose()?;
    if let Some(incomplete) = body.take_if(|body| body.is_short()) {
        asked.body = RequestBody::Whole(incomplete.read().await?);
    } else if let Some(body) = &body {
        asked.body = RequestBody::Streamed {
            length: body.length(),
        };
    }
    let place = active.place();
    let answer = place.core.door.ask(asked, place.watch.hungry());
    let mut answer = answer.ok_or(Unanswered::CutOff)?;
    let event = match body {
        None => poll_fn(|cx| poll_last(&mut answer, cx, &mut interim)).await,
        Some(body) => {
            let upload = body.upload(answer.uploader(place.core.shared.upload_window));
            uploads::until_answered(upload, |cx| poll_last(&mut answer, cx, &mut interim)).await?
        }
    };
    match event {
        AnswerEvent::Head { status, headers } => Ok(Begun {
            head: head(status, headers, active),
            answer,
        }),
        _ => Err(Unanswered::CutOff),
    }
}

/// The next event that is not an interim response.
fn poll_last(
    answer: &mut Answer,
    cx: &mut Context<'_>,
    interim: &mut impl FnMut(StatusCode, HeaderMap),
) -> Poll<AnswerEvent> {
    loop {
        match answer.poll_event(cx) {
            Poll::Ready(AnswerEvent::Interim { status, headers }) => interim(status, headers),
            event => return event,
        }
    }
}

/// The final head as the client gets it.
pub fn head(status: StatusCode, headers: HeaderMap, active: &Active) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    if let Some(alt_svc) = &active.place().core.alt_svc {
        head.headers_mut().insert(ALT_SVC, alt_svc.clone());
    }
    head
}

/// An answer of our own.
pub fn refuse(refusal: Refusal) -> Response<()> {
    tracing::debug!(why = refusal.why, status = %refusal.status, "request refused");
    let mut head = Response::new(());
    *head.status_mut() = refusal.status;
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        let retry = HeaderValue::from_static("1");
        head.headers_mut().insert(RETRY_AFTER, retry);
    }
    head
}

/// Whether a connection has had its requests, and is to be replaced by another.
pub fn is_exhausted(active: &Active) -> bool {
    let place = active.place();
    let (had, most) = (place.watch.requests.get(), place.core.bounds.max_requests);
    if had == most {
        place.core.stats.requests_exhausted.inc();
    }
    had >= most
}
