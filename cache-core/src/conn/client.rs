//! Who a request came from, as the answering code sees it: a QUIC connection, or one request that
//! the shell took from a TCP connection.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;
use quinn_proto::{StreamId, VarInt, WriteError, Written};

use crate::conn::quic::{Conn, ConnId};
use crate::conn::stream::Stream;
use crate::io::RequestId;

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

    /// The answer may wait for smaller ones of the same connection.
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

    fn put_last(&mut self, id: StreamId) {
        let _closed_streams_have_no_priority = self.quic.send_stream(id).set_priority(-1);
    }
}

pub fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
