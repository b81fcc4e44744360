//! What a connection knows besides its requests: the peer's control and QPACK streams.

use super::error::H3Error;
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
    /// The peer's SETTINGS arrived.
    Settings { max_field_section: Option<u64> },
    /// The peer will not accept pushes from this id on. It sends no more requests of its own
    /// accord only if it closes; nothing needs to be done.
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
}

impl Connection {
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// Appends the bytes that our control stream begins with: its type and SETTINGS.
    pub fn preamble(&self, out: &mut Vec<u8>) {
        let _ = (&self.limits, out);
    }

    /// Takes the next bytes of a unidirectional stream that the peer opened, in order.
    pub fn on_uni(
        &mut self,
        stream: u64,
        data: &[u8],
        fin: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), H3Error> {
        let _ = (stream, data, fin, events);
        Ok(())
    }

    /// The peer reset a unidirectional stream.
    pub fn on_uni_reset(&mut self, stream: u64) -> Result<(), H3Error> {
        let _ = stream;
        Ok(())
    }
}

/// Appends a GOAWAY for our control stream: requests on stream `id` and later ones are not served.
pub fn goaway_frame(id: u64, out: &mut Vec<u8>) {
    let _ = (id, out);
}
