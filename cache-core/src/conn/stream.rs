//! One request stream of a connection: how far the request was read and the answer written.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{SendStream, WriteError};

use crate::conn::h3::RequestReader;
use crate::flight::Ticket;
use crate::http::cache_status::Forward;
use crate::io::FetchId;

/// What is kept of a request while it is not read or not answered to the end.
#[derive(Default)]
pub struct Stream {
    /// Still expecting bytes from the client.
    pub reader: Option<RequestReader>,
    /// Still owing bytes to the client.
    pub response: Option<Response>,
}

impl Stream {
    pub fn is_over(&self) -> bool {
        self.reader.is_none() && self.response.is_none()
    }
}

/// An answer that could not be written at once.
pub struct Response {
    /// What was begun and blocked by flow control.
    pub rest: VecDeque<Bytes>,
    pub source: Source,
    pub head_only: bool,
}

/// Where the bytes after [`Response::rest`] come from.
pub enum Source {
    /// Nowhere: `rest` is the end of the answer.
    Done,
    /// A flight.
    Flight {
        ticket: Ticket,
        /// The first piece not yet taken. `None`: still without the head.
        next: Option<u32>,
        /// Why the request was forwarded, for Cache-Status.
        why: Forward,
        collapsed: bool,
        /// How often the request was told that the object is there, and it was gone again.
        attempts: u8,
        /// It is in the flight's list of waiters.
        waiting: bool,
    },
    /// A fetch for this request alone. Its pieces are pushed into `rest`.
    Pass { fetch: FetchId },
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Everything given was taken.
    All,
    /// Flow control holds the rest back.
    Blocked,
    /// The client wants no more of this stream, or the stream is gone.
    Stopped,
}

/// Writes as much of `pieces` as flow control takes, in order.
pub fn write(stream: &mut SendStream<'_>, pieces: &mut VecDeque<Bytes>) -> (Written, u64) {
    let mut bytes = 0;
    while !pieces.is_empty() {
        match stream.write_chunks(pieces.make_contiguous()) {
            Ok(written) => {
                bytes += written.bytes as u64;
                pieces.drain(..written.chunks);
            }
            Err(WriteError::Blocked) => return (Written::Blocked, bytes),
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                pieces.clear();
                return (Written::Stopped, bytes);
            }
        }
    }
    (Written::All, bytes)
}
