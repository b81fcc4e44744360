//! A request that came over TCP. The shell speaks HTTP/1.1 or HTTP/2 with the client; here its
//! answer is written in HTTP/3's frames like any other, and taken apart again:
//!
//! ```text
//!  |HEADERS|QPACK fields|DATA|body ...   pieces as every client gets them
//!   ->  Head{status, fields}, Body(slice of the piece) ..., End
//! ```

use bytes::Bytes;
use quinn_proto::{Dir, Side, StreamId, WriteError, Written};

use crate::conn::client::{Client, ClientId, Streams};
use crate::conn::h3::frame::{FrameHeader, kind};
use crate::conn::h3::head;
use crate::io::{AnswerEvent, Outbox, RequestId};

/// One request, and as much of its answer as the shell has not been told.
pub struct TcpRequest {
    id: RequestId,
    streams: Streams,
    /// Body bytes that the shell may still be given. Below zero by no more than one piece.
    room: i64,
    /// Bytes of the current DATA frame still to come.
    data_left: u64,
    events: Vec<AnswerEvent>,
    over: bool,
}

impl TcpRequest {
    /// `window`: body bytes that the shell may be given before it makes room.
    pub fn new(id: RequestId, window: u32) -> Self {
        Self {
            id,
            streams: Streams::default(),
            room: i64::from(window),
            data_left: 0,
            events: Vec::with_capacity(3),
            over: false,
        }
    }

    /// The only stream that it has.
    pub fn stream() -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, 0)
    }

    pub fn name(&self) -> RequestId {
        self.id
    }

    /// The shell has passed on this many body bytes.
    pub fn make_room(&mut self, bytes: u32) {
        self.room += i64::from(bytes);
    }

    /// Hands over what was written. True when there is nothing left to be done.
    pub fn flush(&mut self, out: &mut Outbox) -> bool {
        if self.streams.is_empty() {
            // Nobody would ever go on with it.
            self.end(AnswerEvent::Failed);
        }
        let id = self.id;
        out.answers
            .extend(self.events.drain(..).map(|event| (id, event)));
        self.over
    }

    fn end(&mut self, event: AnswerEvent) {
        if !self.over {
            self.over = true;
            self.events.push(event);
        }
    }

    /// Frame headers are never split between two pieces, by those who write them.
    fn take(&mut self, piece: &Bytes) {
        let mut at = 0;
        while at < piece.len() {
            if self.data_left > 0 {
                let left = (piece.len() - at) as u64;
                let len = self.data_left.min(left);
                self.data_left -= len;
                self.room -= len as i64;
                let end = at + len as usize;
                self.events.push(AnswerEvent::Body(piece.slice(at..end)));
                at = end;
                continue;
            }
            let Some((header, used)) = FrameHeader::parse(&piece[at..]) else {
                debug_assert!(false, "a frame header was split");
                return self.end(AnswerEvent::Failed);
            };
            at += used;
            match header.kind {
                kind::DATA => self.data_left = header.length,
                _ => {
                    let end = at + header.length as usize;
                    let Some(section) = piece.get(at..end) else {
                        debug_assert!(false, "a head was split");
                        return self.end(AnswerEvent::Failed);
                    };
                    self.take_head(section);
                    at = end;
                }
            }
        }
    }

    fn take_head(&mut self, section: &[u8]) {
        match head::decode(section) {
            Some((status, headers)) if status.is_informational() => {
                self.events.push(AnswerEvent::Interim { status, headers });
            }
            Some((status, headers)) => self.events.push(AnswerEvent::Head { status, headers }),
            None => {
                debug_assert!(false, "a head that we did not encode");
                self.end(AnswerEvent::Failed);
            }
        }
    }
}

impl Client for TcpRequest {
    fn id(&self) -> ClientId {
        ClientId::Tcp(self.id)
    }

    fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    fn write_chunks(&mut self, _id: StreamId, pieces: &mut [Bytes]) -> Result<Written, WriteError> {
        if self.over {
            return Err(WriteError::ClosedStream);
        }
        let mut written = Written {
            bytes: 0,
            chunks: 0,
        };
        for piece in pieces {
            if self.room <= 0 {
                break;
            }
            self.take(piece);
            written.bytes += piece.len();
            written.chunks += 1;
        }
        match written.chunks {
            0 => Err(WriteError::Blocked),
            _ => Ok(written),
        }
    }

    fn finish(&mut self, _id: StreamId) {
        self.end(AnswerEvent::End);
    }

    fn reset(&mut self, _id: StreamId, _code: u64) {
        self.end(AnswerEvent::Failed);
    }

    /// The shell has read the whole request before it was handed over.
    fn stop(&mut self, _id: StreamId, _code: u64) {}

    /// TLS over TCP takes no early data.
    fn is_early(&self) -> bool {
        false
    }

    /// hyper decides about the order of HTTP/2's streams.
    fn prioritize(&mut self, _id: StreamId, _asked: Option<&[u8]>, _class: u8) {}

    fn put_last(&mut self, _id: StreamId) {}
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::conn::h3::head::Dynamic;

    fn head(body: Option<u64>) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"a\""));
        let fields = head::encode_static(StatusCode::OK, &headers);
        let mut out = Vec::new();
        head::write_response(&mut out, &fields, Dynamic::default(), body);
        out
    }

    fn request(window: u32) -> TcpRequest {
        let mut request = TcpRequest::new(RequestId(1), window);
        let stream = TcpRequest::stream();
        request.streams().insert(stream, Default::default());
        request
    }

    fn events(request: &mut TcpRequest) -> Vec<String> {
        let mut out = Outbox::default();
        request.flush(&mut out);
        let show = |(_, event)| match event {
            AnswerEvent::Head { status, headers } | AnswerEvent::Interim { status, headers } => {
                format!("{} {}", status, headers.len())
            }
            AnswerEvent::Body(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        out.answers.drain(..).map(show).collect()
    }

    #[test]
    fn frames_are_taken_apart() {
        let mut request = request(100);
        let id = TcpRequest::stream();
        let mut first = head(Some(5));
        first.extend_from_slice(b"ab");
        let mut pieces = [first.into(), Bytes::from_static(b"cde")];
        let written = request.write_chunks(id, &mut pieces).unwrap();
        assert_eq!(written.chunks, 2);
        request.finish(id);
        request.reset(id, 1);
        assert_eq!(events(&mut request), ["200 OK 1", "ab", "cde", "End"]);
    }

    #[test]
    fn a_body_waits_for_room() {
        let mut request = request(3);
        let id = TcpRequest::stream();
        let piece = Bytes::from_static(b"abcd");
        let mut pieces = [head(Some(12)).into(), piece.clone(), piece.clone(), piece];
        let written = request.write_chunks(id, &mut pieces).unwrap();
        assert_eq!(written.chunks, 2);
        let blocked = request.write_chunks(id, &mut pieces[2..]);
        assert_eq!(blocked, Err(WriteError::Blocked));
        request.make_room(4);
        let written = request.write_chunks(id, &mut pieces[2..]).unwrap();
        assert_eq!(written.chunks, 1);
        assert_eq!(events(&mut request), ["200 OK 1", "abcd", "abcd"]);
    }

    #[test]
    fn interim_heads_come_first_and_what_is_cut_off_says_so() {
        let mut request = request(3);
        let id = TcpRequest::stream();
        let interim = head::encode_static(StatusCode::CONTINUE, &HeaderMap::new());
        let mut piece = Vec::new();
        head::write_response(&mut piece, &interim, Dynamic::default(), None);
        let mut pieces = [piece.into(), head(None).into()];
        assert!(request.write_chunks(id, &mut pieces).is_ok());
        request.reset(id, 1);
        assert_eq!(
            request.write_chunks(id, &mut pieces),
            Err(WriteError::ClosedStream)
        );
        let events = events(&mut request);
        assert_eq!(events, ["100 Continue 0", "200 OK 1", "Failed"]);
    }
}
