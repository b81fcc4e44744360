//! The body of a request on its way to an origin: whole, or in pieces as the client sends them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cache_core::io::{FetchEvent, FetchId};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::events::EventSender;

/// A body that a shard gives in pieces. What lies here is bounded by the shard, which is told of every
/// piece that is gone.
#[derive(Debug)]
pub(super) struct Upload {
    id: FetchId,
    events: EventSender,
    length: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    waker: Option<Waker>,
    /// When something last moved.
    moved: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// The fetch has ended without it.
    Given,
}

impl Upload {
    pub(super) fn new(id: FetchId, length: Option<u64>, events: &EventSender) -> Self {
        Self {
            id,
            events: events.clone(),
            length,
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                end: None,
                waker: None,
                moved: Instant::now(),
            }),
        }
    }

    pub(super) fn push(&self, bytes: Bytes) {
        let mut state = self.lock();
        state.moved = Instant::now();
        state.pieces.push_back(bytes);
        wake(state);
    }

    /// That was all of it.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.moved = Instant::now();
        state.end.get_or_insert(End::Complete);
        wake(state);
    }

    /// Nobody waits for the answer any more: the connection must not wait for the rest.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.end = Some(End::Given);
        state.pieces.clear();
        wake(state);
    }

    /// When something last moved.
    pub(super) fn moved(&self) -> Instant {
        self.lock().moved
    }

    /// The client, not the origin, is the one that is waited for.
    pub(super) fn is_starved(&self) -> bool {
        let state = self.lock();
        state.pieces.is_empty() && state.end.is_none()
    }

    /// All of it was sent.
    pub(super) fn is_sent(&self) -> bool {
        let state = self.lock();
        state.pieces.is_empty() && state.end == Some(End::Complete)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut state = self.lock();
        if state.end == Some(End::Given) {
            return Poll::Ready(Some(Err(io::Error::other("the request was given up"))));
        }
        let Some(piece) = state.pieces.pop_front() else {
            if state.end.is_some() {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.moved = Instant::now();
        drop(state);
        let room = FetchEvent::Room(piece.len() as u32);
        self.events.send_soon(self.id, room);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics half-way through a change under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A request's body as hyper takes it.
pub(super) enum Sending {
    Whole(Bytes),
    Streamed(Arc<Upload>),
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(upload) => upload
                .length
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
