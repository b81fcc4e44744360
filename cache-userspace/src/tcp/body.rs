//! Requests that are not answered to the end; the body of an answer as hyper takes it: what the shard has written, as views.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cache_core::io::AnswerEvent;
use hyper::body::{Body, Frame, SizeHint};

use super::Registered;
use crate::rt::door::Answer;

/// A request is active until its answer's body is gone.
pub struct Active {
    place: Rc<Registered>,
}

impl Active {
    pub fn begin(place: &Rc<Registered>) -> Self {
        place.watch.request_begins(place.core.now.get());
        Self {
            place: Rc::clone(place),
        }
    }

    pub fn place(&self) -> &Rc<Registered> {
        &self.place
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.place.watch.request_ends(self.place.core.now.get());
    }
}

/// Body of an answer: none, or what comes from the shard.
pub struct AnswerBody {
    answer: Option<Answer>,
    length: Option<u64>,
    _active: Active,
}

impl AnswerBody {
    /// `length`: as the head declares it.
    pub fn new(answer: Answer, declared: Option<u64>, active: Active) -> Self {
        let length = answer.rest().or(declared);
        Self {
            answer: Some(answer),
            length,
            _active: active,
        }
    }

    pub fn empty(active: Active) -> Self {
        Self {
            answer: None,
            length: Some(0),
            _active: active,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(None);
        };
        let event = match answer.poll_event(cx) {
            Poll::Ready(event) => event,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match event {
            AnswerEvent::Body(bytes) => {
                answer.make_room(bytes.len() as u32);
                Some(Ok(Frame::data(bytes)))
            }
            AnswerEvent::End => {
                self.answer = None;
                None
            }
            AnswerEvent::Failed
            | AnswerEvent::Interim { .. }
            | AnswerEvent::Head { .. }
            | AnswerEvent::Room(_) => {
                self.answer = None;
                Some(Err(io::Error::other("the answer was cut off")))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.answer
            .as_ref()
            .is_none_or(|answer| answer.rest() == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
