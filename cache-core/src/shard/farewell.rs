//! Ending connections without losing a request (RFC 9114 section 5.2).
//!
//! ```text
//!  drain --> GOAWAY(largest id) --three round trips--> GOAWAY(next id) --all answered--> close(H3_NO_ERROR)
//!  stop  --> close(H3_NO_ERROR) of what is left
//! ```
//! The first GOAWAY has the client open another connection; what it had sent before it heard of that is
//! still served. What it asks for after the second one is refused, and safe to be asked for elsewhere.

use std::time::Duration;

use quinn_proto::VarInt;

use super::Shard;
use crate::conn::h3;
use crate::conn::quic::{Conn, Farewell};
use crate::io::{Now, Reply};

/// The id of a request stream that no client reaches: 2^62 - 4.
const LARGEST_REQUEST: u64 = VarInt::MAX.into_inner() - 3;

/// The least time between the two GOAWAYs, for clients that are very near.
const LEAST_NOTICE: Duration = Duration::from_millis(20);
/// The longest, for clients whose round trips are measured wrongly.
const MOST_NOTICE: Duration = Duration::from_secs(1);
/// Round trips that a client has to hear the first GOAWAY, a lost packet included.
const ROUND_TRIPS: u32 = 3;

impl Shard {
    /// Refuses new connections, if that is wanted, and has those that there are, and those that come all the
    /// same, end once they are answered.
    pub(super) fn drain(&mut self, refuse_new: bool) -> Reply {
        self.draining = true;
        if refuse_new {
            self.quic.refuse_new();
        }
        self.look_at_all();
        Reply::Draining {
            connections: self.quic.open_connections(),
        }
    }

    /// Tells a connection to end, step by step, and ends it once every answer has arrived. One whose
    /// handshake goes on is told when it has a control stream.
    pub(super) fn drain_connection(&mut self, conn: &mut Conn, now: Now) {
        if conn.control.is_none() || conn.quic.is_closed() {
            return;
        }
        match conn.farewell {
            Farewell::Unsaid => {
                let notice = conn.quic.rtt() * ROUND_TRIPS;
                let notice = notice.clamp(LEAST_NOTICE, MOST_NOTICE);
                conn.farewell = Farewell::Announced {
                    until: now.mono + notice,
                };
                send_goaway(conn, LARGEST_REQUEST);
                self.stats.goaways_sent.inc();
                self.quic.wake_for_farewell(conn);
            }
            Farewell::Announced { until } if until <= now.mono => {
                conn.farewell = Farewell::Said;
                send_goaway(conn, conn.requests_seen * 4);
            }
            Farewell::Announced { .. } | Farewell::Said => {}
        }
        let answered = conn.streams.is_empty() && conn.quic.streams().send_streams() <= 1;
        if answered && conn.farewell == Farewell::Said {
            conn.close(now.mono, h3::error::H3_NO_ERROR, "draining");
        }
    }

    /// Ends what is left.
    pub(super) fn close_all(&mut self, now: Now) {
        self.quic.refuse_new();
        for id in self.quic.ids() {
            if let Some(mut conn) = self.quic.take(id) {
                if !conn.quic.is_closed() {
                    conn.close(now.mono, h3::error::H3_NO_ERROR, "stopping");
                }
                self.quic.put_back_dirty(conn);
            }
        }
    }

    fn look_at_all(&mut self) {
        for id in self.quic.ids() {
            if let Some(conn) = self.quic.take(id) {
                self.quic.put_back_dirty(conn);
            }
        }
    }
}

/// Requests on streams from `id` on are not and will not be served.
fn send_goaway(conn: &mut Conn, id: u64) {
    let Some(control) = conn.control else {
        return;
    };
    let mut frame = Vec::new();
    h3::goaway_frame(id, &mut frame);
    let _blocked_or_closed = conn.quic.send_stream(control).write(&frame);
}
