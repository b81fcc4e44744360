//! One request stream of a connection: how far the request was read and the answer written.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use quinn_proto::{StreamId, WriteError};

use crate::conn::client::Client;
use crate::conn::h3::{FieldSection, RequestReader};
use crate::flight::{Pieces, Slice, Target, Ticket};
use crate::http::cache_control::RequestDirectives;
use crate::http::cache_status::Forward;
use crate::http::conditional::{self, Conditions};
use crate::http::forward;
use crate::http::range::Cut;
use crate::io::{FetchId, RequestBody};

/// What is kept of a request while it is not read or not answered to the end.
#[derive(Default)]
pub struct Stream {
    /// Still expecting bytes from the client.
    pub reader: Option<RequestReader>,
    /// Still owing bytes to the client.
    pub response: Option<Response>,
    /// What is read of the request's body is passed on by the fetch that `response` is from.
    pub uploads: bool,
    /// It came in early data, and waits for the handshake.
    pub delayed: Option<Box<Delayed>>,
}

/// A request that is begun once its client's handshake is complete.
pub struct Delayed {
    pub section: FieldSection,
    /// All of its body was read.
    pub is_whole: bool,
    /// Held by every such request, so that they can be counted.
    pub permit: Arc<()>,
}

/// A request to be passed on for itself alone.
#[derive(Debug)]
pub struct PassRequest {
    pub target: Target,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub why: Forward,
    /// Held by every request that may have a body, so that they can be counted.
    pub permit: Option<Arc<()>>,
    /// Its answer is kept for others where it says that they may have it.
    pub keep: bool,
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
    /// What is kept of the request while its answer is not there. `None`: it said nothing that the
    /// answer depends on.
    pub asked: Option<Box<Asked>>,
}

/// Facts of a request that waits.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The fields that a fetch for it has.
    pub headers: Arc<HeaderMap>,
    /// Its fields of [`conditional::FIELDS`].
    pub conditions: HeaderMap,
    /// Its Cache-Control, as far as it counts.
    pub wants: RequestDirectives,
}

impl Asked {
    /// `None` for a request that said nothing that its answer depends on.
    pub fn new(
        headers: &Arc<HeaderMap>,
        section: &FieldSection,
        wants: RequestDirectives,
    ) -> Option<Box<Self>> {
        let mut conditions = HeaderMap::new();
        for (name, value) in section.fields() {
            let mut read = conditional::FIELDS.into_iter();
            let Some(name) = read.find(|field| field.as_str().as_bytes() == name) else {
                continue;
            };
            if let Ok(value) = HeaderValue::from_bytes(value) {
                conditions.append(name, value);
            }
        }
        let plain = conditions.is_empty()
            && wants == RequestDirectives::default()
            && **headers == forward::canonical();
        (!plain).then(|| {
            Box::new(Self {
                headers: Arc::clone(headers),
                conditions,
                wants,
            })
        })
    }

    pub fn conditions(&self) -> Conditions<'_> {
        let fields = self.conditions.iter();
        Conditions::read(fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    }
}

impl PassRequest {
    /// One that asks like a fetch which others could share.
    pub fn shared(target: Target, head_only: bool, why: Forward) -> Self {
        Self {
            method: if head_only { Method::HEAD } else { Method::GET },
            headers: HeaderMap::clone(&target.headers),
            target,
            body: RequestBody::default(),
            why,
            permit: None,
            keep: false,
        }
    }

    /// The same, for the parts that the request wants: its answer is nobody else's.
    pub fn of_parts(mut self, conditions: &Conditions<'_>) -> Self {
        if self.method == Method::GET {
            for (name, value) in [(RANGE, conditions.range), (IF_RANGE, conditions.if_range)] {
                if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(value).ok()) {
                    self.headers.insert(name, value);
                }
            }
        }
        self
    }
}

/// Where the bytes after [`Response::rest`] come from.
pub enum Source {
    /// Nowhere: `rest` is the end of the answer.
    Done,
    /// A flight.
    Flight(Following),
    /// Slices of a large object, one after the other.
    Slices(Box<Slicing>),
    /// A fetch for this request alone. Its pieces are pushed into `rest`.
    Pass { fetch: FetchId },
}

/// How far a request has followed a flight.
#[derive(Clone, Debug)]
pub struct Following {
    pub ticket: Ticket,
    /// The piece that the flight knows it to have come to.
    pub at: usize,
    /// `None`: still without the head.
    pub taken: Option<Taken>,
    /// Why the request was forwarded, for Cache-Status.
    pub why: Forward,
    pub collapsed: bool,
    /// How often the request was told that the object is there, and it was gone again.
    pub attempts: u8,
    /// Hints of the origin that it has had.
    pub hinted: usize,
    /// It is in the flight's list of waiters.
    pub waiting: bool,
}

/// How far an answer has come through the slices of an object.
pub struct Slicing {
    /// The object's.
    pub target: Target,
    /// Of any slice.
    pub slice: Arc<Slice>,
    /// What is still to come of the body.
    pub cut: Cut,
    /// Not written as long as the first slice is not there.
    pub head: Option<SlicedHead>,
    /// The slice that is on its way.
    pub current: Option<Current>,
    /// Slices up to here, exclusive, need not be fetched ahead any more.
    pub ahead: u32,
    /// How often a slice was said to be there and was gone again.
    pub attempts: u8,
}

/// A head without what tells how it was answered.
pub struct SlicedHead {
    pub fields: Vec<u8>,
    pub age_s: u64,
    pub ttl_s: i64,
    /// Why the object was asked for, if it was not there.
    pub why: Option<Forward>,
}

/// A slice that an answer follows.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    pub index: u32,
    pub ticket: Ticket,
    pub cursor: Cursor,
    /// The piece that the flight knows it to have come to.
    pub at: usize,
    /// It is in the flight's list of waiters.
    pub waiting: bool,
}

/// What an answer has taken of a flight's body.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Where it goes on.
    pub cursor: Cursor,
    /// What of the body it wants; `None`: all of it.
    pub cut: Option<Box<Cut>>,
}

/// A piece of a body, and the offset where it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    pub piece: usize,
    pub at: u64,
}

impl Cursor {
    /// Moves to the piece that has the byte at offset `want`, or to the end of what there is.
    pub fn seek(&mut self, pieces: &Pieces, want: u64) {
        if want < self.at {
            *self = Self::default();
        }
        while let Some(piece) = pieces.get(self.piece) {
            let end = self.at + piece.len() as u64;
            if want < end {
                return;
            }
            self.at = end;
            self.piece += 1;
        }
    }
}

impl Source {
    /// The flight that is followed, the piece that it was said to have come to, and whether its next news
    /// is waited for.
    pub fn followed(&mut self) -> Option<(Ticket, usize, &mut bool)> {
        match self {
            Self::Flight(following) => {
                Some((following.ticket, following.at, &mut following.waiting))
            }
            Self::Slices(slicing) => {
                let current = slicing.current.as_mut()?;
                Some((current.ticket, current.at, &mut current.waiting))
            }
            Self::Done | Self::Pass { .. } => None,
        }
    }
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
pub fn write(
    client: &mut impl Client,
    id: StreamId,
    pieces: &mut VecDeque<Bytes>,
) -> (Written, u64) {
    let mut bytes = 0;
    while !pieces.is_empty() {
        match client.write_chunks(id, pieces.make_contiguous()) {
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
