//! Reads one request stream.

use super::error::H3Error;
use super::section::FieldSection;

/// What a chunk of a request stream brought. When it brought several things, the one that matters
/// most: the request, else body bytes, else the end; [`RequestReader::is_finished`] tells the rest.
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

/// Reads one request stream, in whatever chunks it comes.
#[derive(Debug, Default)]
pub struct RequestReader {}

impl RequestReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes in order; `fin` when they are the last. `scratch` is only written when
    /// a field section is complete.
    pub fn push(
        &mut self,
        data: &[u8],
        fin: bool,
        scratch: &mut FieldSection,
    ) -> Result<Progress, H3Error> {
        let _ = (data, fin, scratch);
        Ok(Progress::More)
    }

    /// Body bytes so far.
    pub fn body_bytes(&self) -> u64 {
        0
    }

    /// True once the end of the stream was seen.
    pub fn is_finished(&self) -> bool {
        false
    }
}
