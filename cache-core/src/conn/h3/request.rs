//! Reads one request stream: `HEADERS, DATA*, [HEADERS (trailers)]`, frames of unknown types
//! anywhere between (RFC 9114 section 4.1).

use super::error::{
    H3_EXCESSIVE_LOAD, H3_FRAME_ERROR, H3_FRAME_UNEXPECTED, H3_REQUEST_INCOMPLETE, H3Error,
};
use super::frame::{FrameHeader, HeaderReader, kind};
use super::section::{FieldSection, SectionError, check_trailers};

/// What a chunk of a request stream brought. When it brought several things, the one that matters
/// most: the request, else body bytes, else the end; [`RequestReader::is_finished`] and
/// [`RequestReader::body_bytes`] tell the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    More,
    /// The scratch holds the request. Reported once.
    Request,
    /// The field section is larger than the scratch's limit: answer 431 and stop the stream; the
    /// reader ignores whatever follows. Reported once, instead of `Request`.
    TooLarge,
    /// This many body bytes were read over.
    Body(u64),
    /// The stream ended as its framing said.
    End,
}

/// Payload of frames of unknown types that one request stream may carry.
const MAX_IGNORED: u64 = 64 << 10;

/// Reads one request stream, in whatever chunks it comes. Allocates only when a HEADERS frame is
/// split over chunks, and then no more than the peer has sent or the scratch's limit.
#[derive(Debug, Default)]
pub struct RequestReader {
    state: State,
    header: HeaderReader,
    /// The beginning of a field section that came in pieces.
    section: Vec<u8>,
    body: u64,
    content_length: Option<u64>,
    ignored: u64,
    /// Body bytes that may be kept.
    max_body: u64,
    kept: Vec<u8>,
}

/// Where in the stream the next byte stands. The phases of the message are the first element.
#[derive(Clone, Copy, Debug)]
enum State {
    /// In a frame header, or between frames.
    Header(Phase),
    /// In a field section, this many bytes before its end.
    Section(Phase, usize),
    /// In the payload of DATA.
    Data(u64),
    /// In the payload of a frame that is ignored.
    Skip(Phase, u64),
    /// The request was too large: everything is ignored.
    Discard,
    Finished,
}

/// What of the message was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Nothing,
    Request,
    Trailers,
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Phase::Nothing)
    }
}

impl RequestReader {
    /// Reads over bodies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the bodies of requests other than GET and HEAD for [`Self::take_body`], as long as they are no
    /// longer than `max_body` bytes.
    pub fn keeping(max_body: u64) -> Self {
        Self {
            max_body,
            ..Self::default()
        }
    }

    /// As the request declared it.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// True once the body has turned out longer than what may be kept of it.
    pub fn is_body_too_large(&self) -> bool {
        self.body.max(self.content_length.unwrap_or(0)) > self.max_body
    }

    /// What has come of the body since the last time.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Takes the next bytes in order; `fin` when they are the last. `scratch` is written when the
    /// request's field section is complete, and must be read before it is used for another stream.
    /// After an error the reader is of no more use.
    pub fn push(
        &mut self,
        mut data: &[u8],
        fin: bool,
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        let body_before = self.body;
        let mut news = Progress::More;
        while !data.is_empty() && !matches!(self.state, State::Discard | State::Finished) {
            let step = self.step(&mut data, scratch)?;
            if step != Progress::More {
                news = step;
            }
        }
        if fin {
            self.finish()?;
        }
        Ok(match news {
            Progress::More if self.body > body_before => Progress::Body(self.body - body_before),
            Progress::More if fin => Progress::End,
            news => news,
        })
    }

    /// Body bytes so far.
    pub fn body_bytes(&self) -> u64 {
        self.body
    }

    /// True once the end of the stream was seen.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    fn step(&mut self, data: &mut &[u8], scratch: &mut FieldSection) -> Result<Progress, H3Error> {
        match self.state {
            State::Header(phase) => {
                if let Some(header) = self.header.read(data) {
                    return self.begin_frame(phase, header, scratch);
                }
            }
            State::Section(phase, left) => return self.read_section(phase, left, data, scratch),
            State::Data(left) => {
                let taken = self.take_data(data, left);
                self.state = match left - taken {
                    0 => State::Header(Phase::Request),
                    left => State::Data(left),
                };
            }
            State::Skip(phase, left) => {
                let left = left - take(data, left);
                self.state = match left {
                    0 => State::Header(phase),
                    _ => State::Skip(phase, left),
                };
            }
            State::Discard | State::Finished => *data = &[],
        }
        Ok(Progress::More)
    }

    fn take_data(&mut self, data: &mut &[u8], left: u64) -> u64 {
        let before = *data;
        let taken = take(data, left);
        self.body += taken;
        if self.is_body_too_large() {
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(&before[..taken as usize]);
        }
        taken
    }

    fn begin_frame(
        &mut self,
        phase: Phase,
        header: FrameHeader,
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        match (header.kind, phase) {
            (kind::HEADERS, Phase::Nothing | Phase::Request) => {
                self.begin_section(phase, header.length, scratch)
            }
            (kind::DATA, Phase::Request) => self.begin_data(header.length),
            (kind::HEADERS | kind::DATA, _) => Err(unexpected("HEADERS or DATA out of order")),
            (kind, _) if is_forbidden(kind) => Err(unexpected("frame type on a request stream")),
            _ => self.begin_ignored(phase, header.length),
        }
    }

    fn begin_section(
        &mut self,
        phase: Phase,
        length: u64,
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        // Every field counts for more than its plain encoding, so a longer frame cannot decode to
        // a section within the limit unless it was encoded to waste room.
        match usize::try_from(length) {
            Ok(0) => self.end_section(phase, &[], scratch),
            Ok(length) if length <= scratch.limit() => {
                self.state = State::Section(phase, length);
                Ok(Progress::More)
            }
            _ => self.too_large(phase),
        }
    }

    fn begin_data(&mut self, length: u64) -> Result<Progress, H3Error> {
        let body = self.body.saturating_add(length);
        if self.content_length.is_some_and(|declared| body > declared) {
            return Err(H3Error::message("body is longer than Content-Length"));
        }
        self.state = match length {
            0 => State::Header(Phase::Request),
            _ => State::Data(length),
        };
        Ok(Progress::More)
    }

    fn begin_ignored(&mut self, phase: Phase, length: u64) -> Result<Progress, H3Error> {
        // The header counts too, or empty frames could go on for ever.
        self.ignored = self.ignored.saturating_add(length).saturating_add(2);
        if self.ignored > MAX_IGNORED {
            let reason = "too many bytes in frames of unknown types";
            return Err(H3Error::stream(H3_EXCESSIVE_LOAD, reason));
        }
        self.state = match length {
            0 => State::Header(phase),
            _ => State::Skip(phase, length),
        };
        Ok(Progress::More)
    }

    fn read_section(
        &mut self,
        phase: Phase,
        left: usize,
        data: &mut &[u8],
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        let (piece, rest) = data.split_at(left.min(data.len()));
        *data = rest;
        if piece.len() == left && self.section.is_empty() {
            return self.end_section(phase, piece, scratch);
        }
        self.section.extend_from_slice(piece);
        if piece.len() < left {
            self.state = State::Section(phase, left - piece.len());
            return Ok(Progress::More);
        }
        let section = std::mem::take(&mut self.section);
        self.end_section(phase, &section, scratch)
    }

    fn end_section(
        &mut self,
        phase: Phase,
        section: &[u8],
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        let read = match phase {
            Phase::Nothing => scratch.read_request(section),
            _ => check_trailers(section, scratch.limit()),
        };
        match read {
            Err(SectionError::Invalid(error)) => return Err(error),
            Err(SectionError::TooLarge) => return self.too_large(phase),
            Ok(()) => {}
        }
        if phase == Phase::Nothing {
            self.content_length = scratch.content_length();
            if matches!(scratch.method(), b"GET" | b"HEAD") {
                self.max_body = 0;
            }
            self.state = State::Header(Phase::Request);
            return Ok(Progress::Request);
        }
        self.state = State::Header(Phase::Trailers);
        Ok(Progress::More)
    }

    fn too_large(&mut self, phase: Phase) -> Result<Progress, H3Error> {
        if phase != Phase::Nothing {
            return Err(H3Error::stream(H3_EXCESSIVE_LOAD, "trailers too large"));
        }
        self.state = State::Discard;
        Ok(Progress::TooLarge)
    }

    fn finish(&mut self) -> Result<(), H3Error> {
        match self.state {
            State::Header(Phase::Nothing) if self.header.is_empty() => {
                let reason = "stream ended before the request";
                return Err(H3Error::stream(H3_REQUEST_INCOMPLETE, reason));
            }
            State::Header(_) if self.header.is_empty() => self.check_body_length()?,
            State::Discard | State::Finished => {}
            _ => {
                let reason = "stream ended inside a frame";
                return Err(H3Error::connection(H3_FRAME_ERROR, reason));
            }
        }
        self.state = State::Finished;
        Ok(())
    }

    fn check_body_length(&self) -> Result<(), H3Error> {
        match self.content_length {
            Some(declared) if declared != self.body => {
                Err(H3Error::message("body is shorter than Content-Length"))
            }
            _ => Ok(()),
        }
    }
}

/// Drops up to `left` bytes off the front of `data`; returns how many.
fn take(data: &mut &[u8], left: u64) -> u64 {
    let taken = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
    *data = &data[taken..];
    taken as u64
}

/// Frames that have their place elsewhere, or nowhere (RFC 9114 table 1, RFC 9218 section 7).
fn is_forbidden(kind: u64) -> bool {
    kind::is_http2_only(kind)
        || matches!(
            kind,
            kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID
                | kind::PRIORITY_UPDATE_REQUEST
                | kind::PRIORITY_UPDATE_PUSH
        )
}

fn unexpected(reason: &'static str) -> H3Error {
    H3Error::connection(H3_FRAME_UNEXPECTED, reason)
}

#[cfg(test)]
mod tests;
