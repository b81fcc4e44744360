//! Bodies of requests: short ones are read whole, others passed on as they come and as the origin takes
//! them.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use cache_core::io::AnswerEvent;
use http::StatusCode;

use super::Registered;
use super::body::Active;
use super::incoming::Arriving;
use super::request::Refusal;
use crate::rt::door::Uploader;
use crate::rt::tcp::spawn;

/// A body of at most this many bytes, declared, is read before the request is passed on, which can then be
/// sent twice where its method allows that.
const SHORT: u64 = 16 << 10;

/// Counts as one of `limits.max_request_bodies` for as long as it lives.
struct Place(Rc<Registered>);

impl Drop for Place {
    fn drop(&mut self) {
        let bodies = &self.0.core.bodies;
        bodies.set(bodies.get() - 1);
    }
}

/// The client is expected to send.
struct Reading<'a>(&'a Registered);

impl<'a> Reading<'a> {
    fn begin(place: &'a Registered) -> Self {
        place.watch.body_begins(place.core.now.get());
        Self(place)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.watch.body_ends(self.0.core.now.get());
    }
}

/// A body that is not read.
pub struct Incomplete {
    body: Arriving,
    read: u64,
    place: Place,
}

impl Incomplete {
    /// Bodies are bounded, each and in number.
    pub fn begin(body: Arriving, active: &Active) -> Result<Self, Refusal> {
        let core = &active.place().core;
        if body.declared().unwrap_or(0) > core.shared.max_request_body {
            core.stats.bodies_too_large.inc();
            return Err(TOO_LARGE);
        }
        if core.bodies.get() >= core.shared.max_request_bodies {
            core.stats.bodies_refused.inc();
            return Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                why: "request-bodies",
            });
        }
        core.bodies.set(core.bodies.get() + 1);
        Ok(Self {
            body,
            read: 0,
            place: Place(Rc::clone(active.place())),
        })
    }

    /// As the client declared it.
    pub fn length(&self) -> Option<u64> {
        self.body.declared()
    }

    pub fn is_short(&self) -> bool {
        self.length().is_some_and(|length| length <= SHORT)
    }

    pub async fn read(mut self) -> Result<Bytes, Refusal> {
        let mut whole = BytesMut::new();
        let registered = Rc::clone(&self.place.0);
        let _reading = Reading::begin(&registered);
        while let Some(data) = self.next().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Passes it on, to its end or as far as it is wanted.
    pub fn upload(self, uploader: Uploader) -> Upload {
        Upload {
            body: self,
            uploader: Rc::new(uploader),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(data) = self.body.data().await else {
            return Ok(None);
        };
        let data = data.map_err(|error| {
            tracing::debug!(%error, "request body");
            MALFORMED
        })?;
        self.read += data.len() as u64;
        let core = &self.place.0.core;
        if self.read > core.shared.max_request_body {
            core.stats.bodies_too_large.inc();
            return Err(TOO_LARGE);
        }
        Ok(Some(data))
    }
}

const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    why: "body-too-large",
};

const MALFORMED: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    why: "malformed body",
};

/// A body on its way to the shard.
pub struct Upload {
    body: Incomplete,
    uploader: Rc<Uploader>,
}

impl Upload {
    async fn run(mut self) -> Result<(), Refusal> {
        let registered = Rc::clone(&self.body.place.0);
        let uploader = Rc::clone(&self.uploader);
        while poll_fn(|cx| uploader.poll_room(cx)).await {
            let reading = Reading::begin(&registered);
            let mut next = std::pin::pin!(self.body.next());
            let next = poll_fn(|cx| match uploader.poll_over(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => next.as_mut().poll(cx).map(Some),
            });
            let next = next.await;
            drop(reading);
            match next {
                None => break,
                Some(Ok(Some(data))) => uploader.give(data),
                Some(Ok(None)) => {
                    uploader.end();
                    break;
                }
                Some(Err(refusal)) => return Err(refusal),
            }
        }
        Ok(())
    }
}

/// Passes a body on until the answer begins; the rest of it goes on meanwhile. `poll_answer` is what is
/// waited for.
pub async fn until_answered(
    upload: Upload,
    mut poll_answer: impl FnMut(&mut Context<'_>) -> Poll<AnswerEvent>,
) -> Result<AnswerEvent, Refusal> {
    let uploader = Rc::clone(&upload.uploader);
    let mut running: Option<Pin<Box<dyn Future<Output = _>>>> = Some(Box::pin(upload.run()));
    let event = poll_fn(|cx| {
        if let Poll::Ready(event) = poll_answer(cx) {
            return Poll::Ready(Ok(event));
        }
        if let Some(upload) = &mut running
            && let Poll::Ready(result) = upload.as_mut().poll(cx)
        {
            running = None;
            if let Err(refusal) = result {
                return Poll::Ready(Err(refusal));
            }
        }
        // What the upload did may have been answered at once.
        poll_answer(cx).map(Ok)
    })
    .await?;
    if let Some(upload) = running {
        spawn(async move {
            if upload.await.is_err() {
                uploader.fail();
            }
        });
    }
    Ok(event)
}
