//! Reads the peer's control stream (RFC 9114 sections 6.2.1 and 7.2).

use super::connection::{Event, setting};
use super::error::{
    H3_EXCESSIVE_LOAD, H3_FRAME_ERROR, H3_FRAME_UNEXPECTED, H3_ID_ERROR, H3_MISSING_SETTINGS,
    H3_SETTINGS_ERROR, H3Error,
};
use super::frame::{FrameHeader, HeaderReader, kind, read_varint};
use super::priority::Priority;

/// Payload of a control frame that we read. SETTINGS of this size hold hundreds of settings, and
/// priorities are a few bytes.
const MAX_PAYLOAD: usize = 1024;

/// Bytes of frames of unknown types that a connection may carry over its life.
const MAX_IGNORED: u64 = 64 << 10;

/// The control stream so far.
#[derive(Debug, Default)]
pub(super) struct ControlReader {
    state: State,
    header: HeaderReader,
    payload: Vec<u8>,
    settings_seen: bool,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
    /// Bytes of frames of unknown types.
    ignored: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Header,
    /// In the payload of a frame that is read when it is complete.
    Payload { kind: u64, left: usize },
    /// In the payload of a frame of an unknown type.
    Skip(u64),
}

impl ControlReader {
    /// Takes the next bytes, in order.
    pub(super) fn read(&mut self, mut data: &[u8], events: &mut Vec<Event>) -> Result<(), H3Error> {
        while !data.is_empty() {
            match self.state {
                State::Header => {
                    if let Some(header) = self.header.read(&mut data) {
                        self.begin_frame(header, events)?;
                    }
                }
                State::Payload { kind, left } => {
                    let (piece, rest) = data.split_at(left.min(data.len()));
                    data = rest;
                    self.payload.extend_from_slice(piece);
                    self.continue_payload(kind, left - piece.len(), events)?;
                }
                State::Skip(left) => {
                    let taken = usize::try_from(left).map_or(data.len(), |n| n.min(data.len()));
                    data = &data[taken..];
                    self.skip(left - taken as u64);
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, frame: FrameHeader, events: &mut Vec<Event>) -> Result<(), H3Error> {
        if frame.kind == kind::SETTINGS && self.settings_seen {
            return Err(unexpected("SETTINGS appears twice"));
        }
        if frame.kind != kind::SETTINGS && !self.settings_seen {
            let reason = "the control stream does not begin with SETTINGS";
            return Err(H3Error::connection(H3_MISSING_SETTINGS, reason));
        }
        match frame.kind {
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => {
                Err(unexpected("frame type on the control stream"))
            }
            kind if kind::is_http2_only(kind) => Err(unexpected("frame type of HTTP/2")),
            kind::SETTINGS
            | kind::GOAWAY
            | kind::MAX_PUSH_ID
            | kind::CANCEL_PUSH
            | kind::PRIORITY_UPDATE_REQUEST
            | kind::PRIORITY_UPDATE_PUSH => self.begin_payload(frame, events),
            _ => self.begin_ignored(frame.length),
        }
    }

    fn begin_payload(
        &mut self,
        frame: FrameHeader,
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        match usize::try_from(frame.length) {
            Ok(left) if left <= MAX_PAYLOAD => self.continue_payload(frame.kind, left, events),
            _ => Err(load("control frame is too long")),
        }
    }

    fn begin_ignored(&mut self, length: u64) -> Result<(), H3Error> {
        // The header counts too, or empty frames could go on for ever.
        self.ignored = self.ignored.saturating_add(length).saturating_add(2);
        if self.ignored > MAX_IGNORED {
            return Err(load("too many bytes in frames of unknown types"));
        }
        self.skip(length);
        Ok(())
    }

    fn skip(&mut self, left: u64) {
        self.state = match left {
            0 => State::Header,
            left => State::Skip(left),
        };
    }

    fn continue_payload(
        &mut self,
        kind: u64,
        left: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        if left > 0 {
            self.state = State::Payload { kind, left };
            return Ok(());
        }
        self.state = State::Header;
        let payload = std::mem::take(&mut self.payload);
        self.end_frame(kind, &payload, events)?;
        self.payload = payload;
        self.payload.clear();
        Ok(())
    }

    fn end_frame(
        &mut self,
        kind: u64,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        match kind {
            kind::SETTINGS => {
                self.settings_seen = true;
                let max_field_section = read_settings(payload)?;
                events.push(Event::Settings { max_field_section });
                Ok(())
            }
            kind::GOAWAY => self.on_goaway(only_varint(payload)?, events),
            kind::MAX_PUSH_ID => self.on_max_push_id(only_varint(payload)?),
            kind::CANCEL_PUSH => {
                only_varint(payload)?;
                Err(id_error("CANCEL_PUSH of a push that was never promised"))
            }
            kind::PRIORITY_UPDATE_REQUEST => on_priority(payload, events),
            _ => Err(id_error(
                "PRIORITY_UPDATE of a push that was never promised",
            )),
        }
    }

    /// RFC 9114 section 5.2: push ids, which may not grow.
    fn on_goaway(&mut self, push_id: u64, events: &mut Vec<Event>) -> Result<(), H3Error> {
        if self.goaway.is_some_and(|before| push_id > before) {
            return Err(id_error("GOAWAY id grew"));
        }
        self.goaway = Some(push_id);
        events.push(Event::GoAway { push_id });
        Ok(())
    }

    fn on_max_push_id(&mut self, id: u64) -> Result<(), H3Error> {
        if self.max_push_id.is_some_and(|before| id < before) {
            return Err(id_error("MAX_PUSH_ID shrank"));
        }
        self.max_push_id = Some(id);
        Ok(())
    }
}

/// RFC 9114 section 7.2.4: the peer's MAX_FIELD_SECTION_SIZE, if it sent one.
fn read_settings(mut payload: &[u8]) -> Result<Option<u64>, H3Error> {
    // At most MAX_PAYLOAD / 2 of them, so comparing each with all before it is cheap enough.
    let mut seen = Vec::new();
    let mut max_field_section = None;
    while !payload.is_empty() {
        let (id, value) = read_setting(&mut payload).ok_or(H3Error::connection(
            H3_FRAME_ERROR,
            "SETTINGS ends inside a setting",
        ))?;
        if seen.contains(&id) {
            return Err(settings_error("setting appears twice"));
        }
        seen.push(id);
        match id {
            0x0 | 0x2..=0x5 => return Err(settings_error("setting of HTTP/2")),
            setting::ENABLE_CONNECT_PROTOCOL | setting::H3_DATAGRAM if value > 1 => {
                return Err(settings_error("setting is neither 0 nor 1"));
            }
            setting::MAX_FIELD_SECTION_SIZE => max_field_section = Some(value),
            _ => {}
        }
    }
    Ok(max_field_section)
}

fn read_setting(payload: &mut &[u8]) -> Option<(u64, u64)> {
    let (id, n) = read_varint(payload)?;
    let (value, m) = read_varint(&payload[n..])?;
    *payload = &payload[n + m..];
    Some((id, value))
}

/// RFC 9218 section 7.1: only request streams can be named.
fn on_priority(payload: &[u8], events: &mut Vec<Event>) -> Result<(), H3Error> {
    let (stream, used) = read_varint(payload).ok_or(frame_error())?;
    if stream % 4 != 0 {
        return Err(id_error("PRIORITY_UPDATE of a stream that is no request"));
    }
    let priority = Priority::parse(&payload[used..]);
    events.push(Event::Priority { stream, priority });
    Ok(())
}

/// The one varint that a frame consists of.
fn only_varint(payload: &[u8]) -> Result<u64, H3Error> {
    match read_varint(payload) {
        Some((value, used)) if used == payload.len() => Ok(value),
        _ => Err(frame_error()),
    }
}

fn frame_error() -> H3Error {
    H3Error::connection(H3_FRAME_ERROR, "frame payload has the wrong length")
}

fn unexpected(reason: &'static str) -> H3Error {
    H3Error::connection(H3_FRAME_UNEXPECTED, reason)
}

fn id_error(reason: &'static str) -> H3Error {
    H3Error::connection(H3_ID_ERROR, reason)
}

fn settings_error(reason: &'static str) -> H3Error {
    H3Error::connection(H3_SETTINGS_ERROR, reason)
}

fn load(reason: &'static str) -> H3Error {
    H3Error::connection(H3_EXCESSIVE_LOAD, reason)
}
