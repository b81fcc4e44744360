//! The client's side of HTTP/3, as much as a load generator needs (RFC 9114): a request is one frame,
//! a response is checked frame by frame while it arrives.

use thiserror::Error;

use super::qpack::{Head, Heads, encode_section};

/// Largest field section taken from a server.
const MAX_HEAD: usize = 16 << 10;

const FRAME_DATA: u64 = 0x00;
const FRAME_HEADERS: u64 = 0x01;
/// Frames that a request stream never carries from a server that was not allowed to push.
const FORBIDDEN: [u64; 8] = [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09];

/// What a server did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("unexpected frame on a request stream")]
    Frame,
    #[error("field section too large")]
    TooLarge,
    #[error("field section does not decode")]
    Fields,
    #[error("response ends early")]
    Incomplete,
    #[error("body is not as long as declared")]
    Length,
}

/// The first bytes of the client's control stream: its type and empty SETTINGS, which leave the
/// dynamic table at zero.
pub(super) const CONTROL_PREFACE: [u8; 3] = [0x00, 0x04, 0x00];

/// A GET as one HEADERS frame, of a range or of the whole.
pub(super) fn encode_get(authority: &str, target: &str, range: Option<&str>) -> Vec<u8> {
    let section = encode_section(authority, target, range);
    let mut frame = vec![FRAME_HEADERS as u8];
    encode_varint(section.len() as u64, &mut frame);
    frame.extend_from_slice(&section);
    frame
}

/// A response while it arrives.
#[derive(Default)]
pub(super) struct Response {
    step: Step,
    /// A frame header or a head of which a part arrived.
    partial: Vec<u8>,
    head: Option<Head>,
    /// Body bytes so far.
    pub(super) received: u64,
}

#[derive(Clone, Copy, Default)]
enum Step {
    #[default]
    Frame,
    Head(usize),
    Data(u64),
    Skip(u64),
}

impl Response {
    /// Takes the next bytes of the stream; body bytes go to `on_body` with their offset.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        heads: &mut Heads,
        mut on_body: impl FnMut(u64, &[u8]),
    ) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self.step {
                Step::Frame => self.frame(&mut bytes)?,
                Step::Head(length) => self.section(length, &mut bytes, heads)?,
                Step::Data(left) => {
                    let part = take(left, &mut bytes);
                    on_body(self.received, part);
                    self.received += part.len() as u64;
                    let left = left - part.len() as u64;
                    self.step = if left == 0 {
                        Step::Frame
                    } else {
                        Step::Data(left)
                    };
                }
                Step::Skip(left) => {
                    let left = left - take(left, &mut bytes).len() as u64;
                    self.step = if left == 0 {
                        Step::Frame
                    } else {
                        Step::Skip(left)
                    };
                }
            }
        }
        Ok(())
    }

    /// The head, once the stream has ended where a response may end.
    pub(super) fn finish(&self) -> Result<Head, Malformed> {
        let head = self.head.ok_or(Malformed::Incomplete)?;
        let between_frames = matches!(self.step, Step::Frame) && self.partial.is_empty();
        if !between_frames || head.status < 200 {
            return Err(Malformed::Incomplete);
        }
        match head.length {
            Some(length) if length != self.received => Err(Malformed::Length),
            _ => Ok(head),
        }
    }

    /// Reads a frame's type and length, over several calls if need be.
    fn frame(&mut self, bytes: &mut &[u8]) -> Result<(), Malformed> {
        let held = self.partial.len();
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(16)]);
        let mut rest = &self.partial[..];
        let header = decode_varint(&mut rest).zip(decode_varint(&mut rest));
        let Some((kind, length)) = header else {
            *bytes = &bytes[bytes.len().min(16)..];
            return Ok(());
        };
        let used = self.partial.len() - rest.len();
        *bytes = &bytes[used - held..];
        self.partial.clear();
        let started = self.head.is_some_and(|h| h.status >= 200);
        self.step = match kind {
            FRAME_DATA if !started => return Err(Malformed::Frame),
            FRAME_DATA if length > 0 => Step::Data(length),
            FRAME_HEADERS if length as usize > MAX_HEAD => return Err(Malformed::TooLarge),
            // After the final head: trailers, of which nothing is wanted.
            FRAME_HEADERS if !started && length > 0 => Step::Head(length as usize),
            _ if FORBIDDEN.contains(&kind) => return Err(Malformed::Frame),
            _ if length > 0 => Step::Skip(length),
            _ => Step::Frame,
        };
        Ok(())
    }

    fn section(
        &mut self,
        length: usize,
        bytes: &mut &[u8],
        heads: &mut Heads,
    ) -> Result<(), Malformed> {
        let part = take((length - self.partial.len()) as u64, bytes);
        if part.len() == length {
            self.head = Some(heads.decode(part)?);
            self.step = Step::Frame;
            return Ok(());
        }
        self.partial.extend_from_slice(part);
        if self.partial.len() == length {
            self.head = Some(heads.decode(&self.partial)?);
            self.partial.clear();
            self.step = Step::Frame;
        }
        Ok(())
    }
}

/// Splits off up to `most` bytes.
fn take<'a>(most: u64, bytes: &mut &'a [u8]) -> &'a [u8] {
    let n = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    let (part, rest) = bytes.split_at(n);
    *bytes = rest;
    part
}

/// A QUIC variable-length integer (RFC 9000 section 16).
fn encode_varint(n: u64, out: &mut Vec<u8>) {
    match n {
        0..64 => out.push(n as u8),
        64..16_384 => out.extend_from_slice(&(n as u16 | 0x4000).to_be_bytes()),
        16_384..1_073_741_824 => out.extend_from_slice(&(n as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(n | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

fn decode_varint(rest: &mut &[u8]) -> Option<u64> {
    let first = *rest.first()?;
    let length = 1 << (first >> 6);
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    let start = u64::from(first & 0x3f);
    Some(bytes[1..].iter().fold(start, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::super::qpack::CacheStatus;
    use super::super::qpack::tests::literal;
    use super::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_varint(kind, &mut out);
        encode_varint(payload.len() as u64, &mut out);
        out.extend_from_slice(payload);
        out
    }

    /// `:status 200`, `content-length: 5`, `cache-status: popcache; hit; ttl=9`.
    fn head() -> Vec<u8> {
        let mut section = vec![0, 0, 0xc0 | 25, 0x54, 1, b'5'];
        section.extend(literal("cache-status", "popcache; hit; ttl=9"));
        frame(FRAME_HEADERS, &section)
    }

    /// Feeds in steps of `step` bytes.
    fn read(stream: &[u8], step: usize) -> Result<(Head, Vec<u8>), Malformed> {
        let (mut heads, mut response, mut body) = (Heads::new(), Response::default(), Vec::new());
        for part in stream.chunks(step) {
            response.feed(part, &mut heads, |offset, bytes| {
                assert_eq!(offset, body.len() as u64);
                body.extend_from_slice(bytes);
            })?;
        }
        response.finish().map(|head| (head, body))
    }

    #[test]
    fn a_response_reads_the_same_in_any_pieces() {
        let mut stream = head();
        stream.extend(frame(0x21, b"grease"));
        stream.extend(frame(FRAME_DATA, b"ab"));
        stream.extend(frame(FRAME_DATA, b""));
        stream.extend(frame(FRAME_DATA, b"cde"));
        stream.extend(frame(FRAME_HEADERS, &[0, 0]));
        for step in 1..stream.len() {
            let (head, body) = read(&stream, step).expect("well formed");
            assert_eq!(body, b"abcde");
            let expected = Head {
                status: 200,
                length: Some(5),
                cache: CacheStatus::Hit,
            };
            assert_eq!(head, expected);
        }
    }

    #[test]
    fn broken_responses_are_told_apart() {
        let with = |more: &[u8]| [head(), more.to_vec()].concat();
        let cases = [
            (frame(FRAME_DATA, b"x"), Malformed::Frame),
            (with(&frame(0x04, b"")), Malformed::Frame),
            (with(&frame(FRAME_DATA, b"abcd")), Malformed::Length),
            (with(&[0, 5, b'a']), Malformed::Incomplete),
            (Vec::new(), Malformed::Incomplete),
            (frame(FRAME_HEADERS, &[2, 0, 0x80]), Malformed::Fields),
            (
                frame(FRAME_HEADERS, &[0, 0, 0xc0 | 62, 0xff]),
                Malformed::Fields,
            ),
            (
                frame(FRAME_HEADERS, &vec![0; MAX_HEAD + 1]),
                Malformed::TooLarge,
            ),
        ];
        for (stream, expected) in cases {
            if !stream.is_empty() {
                assert_eq!(read(&stream, 3), Err(expected));
            } else {
                assert_eq!(Response::default().finish(), Err(expected));
            }
        }
    }

    #[test]
    fn an_interim_response_precedes_the_final_one() {
        let stream = [
            frame(FRAME_HEADERS, &[0, 0, 0xc0 | 24]),
            head(),
            frame(FRAME_DATA, b"abcde"),
        ]
        .concat();
        assert_eq!(read(&stream, 7).expect("well formed").0.status, 200);
    }

    #[test]
    fn lengths_survive_a_round_trip() {
        for n in [0u64, 63, 64, 16_383, 16_384, 1 << 29, 1 << 30, 1 << 61] {
            let mut bytes = Vec::new();
            encode_varint(n, &mut bytes);
            assert_eq!(decode_varint(&mut &bytes[..]), Some(n));
        }
    }
}
