//! Who a request came from, as the answering code sees it: a QUIC connection, or one request that
//! the shell took from a TCP connection.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::FixedState;
use quinn_proto::{StreamId, VarInt, WriteError, Written};

use crate::conn::h3::Priority;
use crate::conn::h3::priority::DEFAULT_URGENCY;
use crate::conn::quic::{Conn, ConnId};
use crate::conn::stream::Stream;
use crate::io::RequestId;
use crate::stats::ShardStats;

/// Requests that are still being read or answered.
pub type Streams = HashMap<StreamId, Stream, FixedState>;

/// Names a client for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientId {
    Quic(ConnId),
    /// One request of a TCP connection.
    Tcp(RequestId),
}

/// Where answers are written to, as HTTP/3 frames.
pub trait Client {
    fn id(&self) -> ClientId;

    fn streams(&mut self) -> &mut Streams;

    /// Takes whole pieces from the front of `pieces`, and perhaps a part of the next one.
    ///
    /// # Errors
    /// There is no room, or the client wants no more.
    fn write_chunks(&mut self, id: StreamId, pieces: &mut [Bytes]) -> Result<Written, WriteError>;

    /// Ends an answer as its framing says. Nothing happens if the client has stopped it.
    fn finish(&mut self, id: StreamId);

    /// Cuts an answer off, with an HTTP/3 error code.
    fn reset(&mut self, id: StreamId, code: u64);

    /// No more of the request is read.
    fn stop(&mut self, id: StreamId, code: u64);

    /// Nobody knows yet that the client is there and means it now: its handshake goes on, and what it says
    /// may be a copy of what it said once (RFC 8470 section 3).
    fn is_early(&self) -> bool;

    /// The answer goes before less urgent ones of the same connection, and after more urgent ones, as the
    /// request's priority field says, the client's later word, or else its class (RFC 9218).
    fn prioritize(&mut self, id: StreamId, asked: Option<&[u8]>, class: u8);

    /// The answer may wait for smaller ones of the same urgency.
    fn put_last(&mut self, id: StreamId);
}

impl Client for Conn {
    fn id(&self) -> ClientId {
        ClientId::Quic(self.id)
    }

    fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    fn write_chunks(&mut self, id: StreamId, pieces: &mut [Bytes]) -> Result<Written, WriteError> {
        self.quic.send_stream(id).write_chunks(pieces)
    }

    fn finish(&mut self, id: StreamId) {
        let _stopped_streams_need_no_end = self.quic.send_stream(id).finish();
    }

    fn reset(&mut self, id: StreamId, code: u64) {
        let _already_closed = self.quic.send_stream(id).reset(varint(code));
    }

    fn stop(&mut self, id: StreamId, code: u64) {
        let _already_closed = self.quic.recv_stream(id).stop(varint(code));
    }

    /// Packets under the keys of a complete handshake are not read before it is complete.
    fn is_early(&self) -> bool {
        self.quic.is_handshaking()
    }

    fn prioritize(&mut self, id: StreamId, asked: Option<&[u8]>, class: u8) {
        let asked = match self.updates.of(id) {
            Some(update) => update,
            None => asked.map_or(Priority::default(), Priority::parse),
        };
        let urgency = asked.urgency.unwrap_or(class);
        // What streams have unless they are told otherwise.
        if (urgency, asked.incremental) != (DEFAULT_URGENCY, false) {
            let mut stream = self.quic.send_stream(id);
            let _closed_streams_have_no_priority = stream.set_priority(rank(urgency));
            let _closed_streams_have_no_priority = stream.set_incremental(asked.incremental);
        }
    }

    fn put_last(&mut self, id: StreamId) {
        let mut stream = self.quic.send_stream(id);
        let rank = stream.priority().unwrap_or(0);
        let _closed_streams_have_no_priority = stream.set_priority(behind(rank));
    }
}

impl Conn {
    /// Takes a client's word about the priority of an answer, begun or not (RFC 9218 section 7). False where
    /// such a stream cannot be yet. Past a bound the oldest that still counts is forgotten and counted.
    pub fn update_priority(
        &mut self,
        stream: u64,
        priority: Priority,
        max_streams: u32,
        stats: &ShardStats,
    ) -> bool {
        let Ok(id) = VarInt::from_u64(stream).map(StreamId::from) else {
            return false;
        };
        if id.index() >= self.requests_seen + u64::from(max_streams) {
            return false;
        }
        let mut answer = self.quic.send_stream(id);
        if let Ok(before) = answer.priority() {
            let urgency = priority.urgency.unwrap_or(DEFAULT_URGENCY);
            let rank = match before % 2 {
                0 => rank(urgency),
                _ => behind(rank(urgency)),
            };
            let _just_found = answer.set_priority(rank);
            let _just_found = answer.set_incremental(priority.incremental);
        }
        if self.updates.note(id, priority, self.requests_seen) {
            stats.priorities_forgotten.inc();
        }
        true
    }
}

/// What a client has said of streams by PRIORITY_UPDATE, the latest last.
#[derive(Debug, Default)]
pub struct Updates(VecDeque<(StreamId, Priority)>);

/// Streams whose last PRIORITY_UPDATE a connection remembers: those that are not open yet, and those whose
/// request is not complete, of which honest clients have few.
const MAX_UPDATES: usize = 64;

impl Updates {
    fn of(&self, id: StreamId) -> Option<Priority> {
        let known = self.0.iter().find(|(stream, _)| *stream == id);
        known.map(|(_, priority)| *priority)
    }

    /// Whether what was said of a stream that is not open yet had to be forgotten.
    fn note(&mut self, id: StreamId, priority: Priority, opened: u64) -> bool {
        if let Some((_, known)) = self.0.iter_mut().find(|(stream, _)| *stream == id) {
            *known = priority;
            return false;
        }
        let oldest = match self.0.len() {
            MAX_UPDATES => self.0.pop_front(),
            _ => None,
        };
        self.0.push_back((id, priority));
        oldest.is_some_and(|(stream, _)| stream.index() >= opened)
    }
}

/// An urgency as quinn-proto counts: more is sent first. Even, so that there is room between two.
fn rank(urgency: u8) -> i32 {
    2 * (i32::from(DEFAULT_URGENCY) - i32::from(urgency))
}

/// Behind its equals, before what is less urgent.
fn behind(rank: i32) -> i32 {
    match rank % 2 {
        0 => rank - 1,
        _ => rank,
    }
}

pub fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    fn request(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    fn urgent(urgency: u8) -> Priority {
        Priority {
            urgency: Some(urgency),
            incremental: false,
        }
    }

    #[test]
    fn large_answers_stand_between_two_urgencies() {
        for urgency in 0..7 {
            let (first, next) = (rank(urgency), rank(urgency + 1));
            assert!(first > behind(first) && behind(first) > next, "{urgency}");
            assert_eq!(behind(behind(first)), behind(first));
        }
        assert_eq!(rank(DEFAULT_URGENCY), 0);
    }

    #[test]
    fn the_latest_word_about_a_stream_counts_and_the_oldest_is_forgotten() {
        let mut updates = Updates::default();
        assert!(!updates.note(request(9), urgent(1), 5));
        assert!(!updates.note(request(9), urgent(7), 5));
        assert_eq!(updates.of(request(9)), Some(urgent(7)));
        assert_eq!(updates.of(request(8)), None);
        for index in 10..9 + MAX_UPDATES as u64 {
            assert!(!updates.note(request(index), urgent(2), 5));
        }
        // It was open by then: nothing is lost.
        assert!(!updates.note(request(100), urgent(2), 10));
        assert_eq!(updates.of(request(9)), None);
        assert!(updates.note(request(101), urgent(2), 10));
        assert_eq!(updates.of(request(10)), None);
        assert_eq!(updates.0.len(), MAX_UPDATES);
    }
}
