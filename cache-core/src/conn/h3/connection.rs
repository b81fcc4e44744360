//! What a connection knows besides its requests: the peer's control and QPACK streams (RFC 9114
//! section 6.2, RFC 9204 section 4.2).
//!
//! A stream whose type is not one of the three is given up at once and forgotten, so the state is
//! three streams, and a few whose type is split over chunks.

use super::control::ControlReader;
use super::error::{
    H3_CLOSED_CRITICAL_STREAM, H3_EXCESSIVE_LOAD, H3_STREAM_CREATION_ERROR, H3Error,
    QPACK_DECODER_STREAM_ERROR, QPACK_ENCODER_STREAM_ERROR,
};
use super::frame::{self, FrameHeader, kind, write_varint};
use super::priority::Priority;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's field section, RFC 9114 section 4.2.2 (name + value + 32 each); sent
    /// to the peer as SETTINGS_MAX_FIELD_SECTION_SIZE.
    pub max_field_section: usize,
}

/// What a unidirectional stream of the peer had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's SETTINGS arrived; the bound it sets on our field sections, if any.
    Settings { max_field_section: Option<u64> },
    /// The peer accepts no push from this id on. We never push: nothing needs to be done.
    GoAway { push_id: u64 },
    /// PRIORITY_UPDATE for a request stream (RFC 9218 section 7.1), also one not opened yet.
    Priority { stream: u64, priority: Priority },
    /// Stop reading this stream with this code and hand over no more of it.
    StopSending { stream: u64, code: u64 },
}

/// Connection-level HTTP/3 state of a server.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    control: Option<u64>,
    encoder: Option<u64>,
    decoder: Option<u64>,
    control_reader: ControlReader,
    decoder_reader: DecoderStream,
    /// Streams whose type has not arrived in full.
    nascent: Vec<Nascent>,
}

/// Stream types (RFC 9114 section 6.2, RFC 9204 section 4.2).
mod stream_type {
    pub const CONTROL: u64 = 0x0;
    pub const PUSH: u64 = 0x1;
    pub const QPACK_ENCODER: u64 = 0x2;
    pub const QPACK_DECODER: u64 = 0x3;
}

/// Settings that we send or check (RFC 9114 section 7.2.4.1, RFC 9204 section 5, RFC 9220 section 3,
/// RFC 9297 section 2.1).
pub(super) mod setting {
    pub const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
    pub const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
    pub const QPACK_BLOCKED_STREAMS: u64 = 0x7;
    pub const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
    pub const H3_DATAGRAM: u64 = 0x33;
    /// One of the reserved identifiers, `0x1f * n + 0x21`, that peers must ignore.
    pub const GREASE: u64 = 0x1f * 0x1d0_be1f + 0x21;
}

/// Streams whose type may be in the making at the same time. Transports deliver a type of one
/// byte whole, so an honest peer has none.
const MAX_NASCENT: usize = 8;

impl Connection {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            control: None,
            encoder: None,
            decoder: None,
            control_reader: ControlReader::default(),
            decoder_reader: DecoderStream::default(),
            nascent: Vec::new(),
        }
    }

    /// Appends the bytes that our control stream begins with: its type and SETTINGS. We open no
    /// QPACK streams, as RFC 9204 section 4.2 permits without a dynamic table.
    pub fn preamble(&self, out: &mut Vec<u8>) {
        let mut settings = Vec::with_capacity(32);
        for (id, value) in [
            (setting::QPACK_MAX_TABLE_CAPACITY, 0),
            (setting::QPACK_BLOCKED_STREAMS, 0),
            (
                setting::MAX_FIELD_SECTION_SIZE,
                self.limits.max_field_section as u64,
            ),
            (setting::GREASE, 0),
        ] {
            write_varint(&mut settings, id);
            write_varint(&mut settings, value);
        }
        write_varint(out, stream_type::CONTROL);
        FrameHeader {
            kind: kind::SETTINGS,
            length: settings.len() as u64,
        }
        .write(out);
        out.extend_from_slice(&settings);
    }

    /// Takes the next bytes of a unidirectional stream that the peer opened, in order, and appends
    /// what they mean to `events`. Every error closes the connection.
    pub fn on_uni(
        &mut self,
        stream: u64,
        data: &[u8],
        fin: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        if self.is_critical(stream) {
            self.read_critical(stream, data, events)?;
        } else if let Some((kind, rest)) = self.read_type(stream, data, fin)? {
            self.open(stream, kind, events)?;
            self.read_critical(stream, rest, events)?;
        }
        if fin {
            return self.on_uni_reset(stream);
        }
        Ok(())
    }

    /// The peer reset or finished a unidirectional stream.
    pub fn on_uni_reset(&mut self, stream: u64) -> Result<(), H3Error> {
        self.nascent.retain(|nascent| nascent.stream != stream);
        if self.is_critical(stream) {
            let reason = "control or QPACK stream was closed";
            return Err(H3Error::connection(H3_CLOSED_CRITICAL_STREAM, reason));
        }
        Ok(())
    }

    fn is_critical(&self, stream: u64) -> bool {
        [self.control, self.encoder, self.decoder].contains(&Some(stream))
    }

    fn read_critical(
        &mut self,
        stream: u64,
        data: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        if self.control == Some(stream) {
            self.control_reader.read(data, events)
        } else if self.encoder == Some(stream) {
            read_encoder_stream(data)
        } else if self.decoder == Some(stream) {
            self.decoder_reader.read(data)
        } else {
            Ok(())
        }
    }

    /// The type of a new stream and the bytes after it; `None` while it is incomplete.
    fn read_type<'a>(
        &mut self,
        stream: u64,
        data: &'a [u8],
        fin: bool,
    ) -> Result<Option<(u64, &'a [u8])>, H3Error> {
        let held = self.nascent.iter().position(|n| n.stream == stream);
        let mut nascent = match held {
            Some(index) => self.nascent.swap_remove(index),
            None => Nascent::new(stream),
        };
        let mut rest = data;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if let Some(kind) = nascent.push(byte) {
                return Ok(Some((kind, rest)));
            }
        }
        if !fin {
            if self.nascent.len() == MAX_NASCENT {
                let reason = "too many streams without a type";
                return Err(H3Error::connection(H3_EXCESSIVE_LOAD, reason));
            }
            self.nascent.push(nascent);
        }
        Ok(None)
    }

    fn open(&mut self, stream: u64, kind: u64, events: &mut Vec<Event>) -> Result<(), H3Error> {
        let slot = match kind {
            stream_type::CONTROL => &mut self.control,
            stream_type::QPACK_ENCODER => &mut self.encoder,
            stream_type::QPACK_DECODER => &mut self.decoder,
            stream_type::PUSH => return Err(creation("a client opened a push stream")),
            _ => {
                let code = H3_STREAM_CREATION_ERROR;
                events.push(Event::StopSending { stream, code });
                return Ok(());
            }
        };
        if slot.replace(stream).is_some() {
            return Err(creation("second control or QPACK stream of a kind"));
        }
        Ok(())
    }
}

/// Appends a GOAWAY for our control stream: requests on stream `id`, which is one that a client
/// may open for a request, and on later ones are not served. Ids must not grow from one to the next.
pub fn goaway_frame(id: u64, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(8);
    write_varint(&mut payload, id);
    FrameHeader {
        kind: kind::GOAWAY,
        length: payload.len() as u64,
    }
    .write(out);
    out.extend_from_slice(&payload);
}

/// A stream whose type is incomplete.
#[derive(Debug)]
struct Nascent {
    stream: u64,
    bytes: [u8; 8],
    len: u8,
}

impl Nascent {
    fn new(stream: u64) -> Self {
        Self {
            stream,
            bytes: [0; 8],
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) -> Option<u64> {
        // A varint is complete at eight bytes at the latest, so this stays in bounds.
        self.bytes[self.len as usize] = byte;
        self.len += 1;
        frame::read_varint(&self.bytes[..self.len as usize]).map(|(kind, _)| kind)
    }
}

/// RFC 9204 section 4.3: with a capacity of 0 the only instruction that means something is to set
/// the capacity to 0, one byte.
fn read_encoder_stream(data: &[u8]) -> Result<(), H3Error> {
    if data.iter().all(|&byte| byte == 0x20) {
        return Ok(());
    }
    let reason = "the dynamic table has capacity 0";
    Err(H3Error::connection(QPACK_ENCODER_STREAM_ERROR, reason))
}

/// RFC 9204 section 4.4: we insert nothing, so nothing can be acknowledged; stream cancellations
/// are read over.
#[derive(Debug, Default)]
struct DecoderStream {
    /// Bytes read of the stream id of an unfinished Stream Cancellation.
    id_bytes: u8,
}

/// Bytes of a 62-bit integer with a prefix of six bits.
const MAX_ID_BYTES: u8 = 9;

impl DecoderStream {
    fn read(&mut self, data: &[u8]) -> Result<(), H3Error> {
        for &byte in data {
            self.id_bytes = match (self.id_bytes, byte) {
                (0, 0b0111_1111) => 1,
                (0, 0b0100_0000..=0b0111_1110) => 0,
                (0, _) => return Err(decoder("nothing was inserted that could be acknowledged")),
                (_, 0..0x80) => 0,
                (MAX_ID_BYTES.., _) => return Err(decoder("stream id is too long")),
                (n, _) => n + 1,
            };
        }
        Ok(())
    }
}

fn decoder(reason: &'static str) -> H3Error {
    H3Error::connection(QPACK_DECODER_STREAM_ERROR, reason)
}

fn creation(reason: &'static str) -> H3Error {
    H3Error::connection(H3_STREAM_CREATION_ERROR, reason)
}

#[cfg(test)]
mod tests;
