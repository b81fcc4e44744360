//! Requests in early data (0-RTT), which an eavesdropper may send again.
//!
//! What memory answers is answered at once: that harms nobody, however often it is asked for. All else waits
//! until the client's handshake is complete, which a copy never is (RFC 8470 section 3). So nothing that goes
//! upstream was asked for in early data only, and Early-Data need not be added to it. A request that has that
//! field already was forwarded by someone who could not wait: it is passed on alone, and a 425 back to it
//! (section 5.2).

use std::sync::Arc;

use http::StatusCode;
use quinn_proto::StreamId;

use super::Shard;
use crate::conn::client::Client as _;
use crate::conn::h3::FieldSection;
use crate::conn::h3::error::H3_NO_ERROR;
use crate::conn::quic::Conn;
use crate::conn::stream::{Delayed, Stream};
use crate::io::{Now, Outbox};

impl Shard {
    /// Has a request wait for its client's handshake. False: nothing more of it is read now.
    pub(super) fn delay(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        stream: &mut Stream,
        (section, is_whole): (FieldSection, bool),
    ) -> bool {
        if Arc::strong_count(&self.early) > self.config.limits.max_early_waiting {
            self.scratch.section = section;
            self.stats.early_refused.inc();
            conn.stop(id, H3_NO_ERROR);
            stream.response = self.answer_own(conn, id, StatusCode::TOO_EARLY, "early-data");
            return false;
        }
        self.stats.early_delayed.inc();
        self.scratch.section = FieldSection::new(section.limit());
        stream.delayed = Some(Box::new(Delayed {
            section,
            is_whole,
            permit: Arc::clone(&self.early),
        }));
        false
    }

    /// The handshake is complete: what the client said before is meant.
    pub(super) fn begin_delayed(&mut self, conn: &mut Conn, now: Now, out: &mut Outbox) {
        let delayed = conn
            .streams
            .iter()
            .filter(|(_, stream)| stream.delayed.is_some());
        let mut ids: Vec<StreamId> = delayed.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(stream) = conn.streams.remove(&id) {
                self.begin_one_delayed(conn, id, stream, now, out);
            }
        }
    }

    fn begin_one_delayed(
        &mut self,
        conn: &mut Conn,
        id: StreamId,
        mut stream: Stream,
        now: Now,
        out: &mut Outbox,
    ) {
        if let Some(delayed) = stream.delayed.take()
            && let Some(mut reader) = stream.reader.take()
        {
            let is_whole = delayed.is_whole;
            let reading = (&mut reader, is_whole);
            let begun = self.request(conn, id, &delayed.section, now, out);
            let mut is_read_on =
                self.begun(conn, id, &mut stream, begun, reading, (now, &mut *out));
            if is_read_on && stream.uploads {
                is_read_on = self.read_body(conn, id, &mut stream, (&mut reader, is_whole), out);
            }
            if is_read_on && !is_whole {
                stream.reader = Some(reader);
            }
        }
        self.read_stream(conn, id, stream, now, out);
    }
}
