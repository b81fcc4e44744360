//! Letting go of arena memory that slow clients hold up.
//!
//! An answer that flow control holds back keeps views of the arena. When the owner wants to use
//! such a segment again, the rest of the answer is copied out, so that no client can hold a segment
//! for longer than it takes to come round to its connection. Copies are bounded: past
//! `limits.max_copied_out` the answer is cut off instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::StreamId;

use super::Shard;
use crate::conn::client::Client;
use crate::conn::h3::error::H3_EXCESSIVE_LOAD;
use crate::conn::stream::Response;
use crate::flight::Ticket;
use crate::io::{Now, Outbox};

/// How often some slots of the connection table are looked at, and how many.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
const SLOTS_PER_CHECK: usize = 32;

/// Bytes that were copied out and are not written yet.
#[derive(Clone, Debug, Default)]
pub(super) struct CopiedOut(Arc<AtomicU64>);

/// A copy that counts itself for as long as it lives.
struct Copy {
    bytes: Box<[u8]>,
    total: CopiedOut,
}

impl AsRef<[u8]> for Copy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes.len() as u64, Relaxed);
    }
}

impl CopiedOut {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn copy(&self, bytes: &Bytes) -> Bytes {
        self.0.fetch_add(bytes.len() as u64, Relaxed);
        Bytes::from_owner(Copy {
            bytes: Box::from(&bytes[..]),
            total: self.clone(),
        })
    }
}

impl Shard {
    /// Looks at a few connections in turn.
    pub(super) fn let_go(&mut self, now: Now, out: &mut Outbox) {
        if self.next_check.is_some_and(|due| now.mono < due) {
            return;
        }
        self.next_check = Some(now.mono + CHECK_INTERVAL);
        for _ in 0..SLOTS_PER_CHECK.min(self.quic.slots()) {
            let Some(mut conn) = self.quic.take_next() else {
                continue;
            };
            if self.release_views(&mut *conn, out) {
                self.quic.put_back_dirty(conn);
            } else {
                self.quic.put_back(conn);
            }
        }
        self.let_go_tcp(out);
    }

    /// True when an answer was cut off.
    pub(super) fn release_views(&mut self, conn: &mut impl Client, out: &mut Outbox) -> bool {
        let mut cut = Vec::new();
        for (&id, stream) in conn.streams() {
            if let Some(response) = &mut stream.response
                && !self.release_response(response)
            {
                cut.push(id);
            }
        }
        for &id in &cut {
            self.cut_off(conn, id, out);
        }
        !cut.is_empty()
    }

    /// False when there is no room for the copies.
    fn release_response(&mut self, response: &mut Response) -> bool {
        if let Some((ticket, _, _)) = response.source.followed()
            && !self.release_flight(ticket)
        {
            return false;
        }
        let max = self.config.limits.max_copied_out;
        for piece in &mut response.rest {
            if self.store.holds_up(piece) {
                if self.copied_out.bytes() + piece.len() as u64 > max {
                    return false;
                }
                *piece = self.copied_out.copy(piece);
                self.stats.copied_out.add(piece.len() as u64);
            }
        }
        true
    }

    /// The pieces of a flight are copied once for all its followers.
    fn release_flight(&mut self, ticket: Ticket) -> bool {
        let max = self.config.limits.max_copied_out;
        let Some(flight) = self.locals.get_mut(ticket) else {
            return true;
        };
        for piece in flight.pieces.iter_mut() {
            if self.store.holds_up(piece) {
                if self.copied_out.bytes() + piece.len() as u64 > max {
                    return false;
                }
                *piece = self.copied_out.copy(piece);
                self.stats.copied_out.add(piece.len() as u64);
            }
        }
        true
    }

    fn cut_off(&mut self, conn: &mut impl Client, id: StreamId, out: &mut Outbox) {
        let Some(mut stream) = conn.streams().remove(&id) else {
            return;
        };
        self.stats.copied_out_refused.inc();
        self.drop_response(stream.response.take(), out);
        conn.reset(id, H3_EXCESSIVE_LOAD);
        if !stream.is_over() {
            conn.streams().insert(id, stream);
        }
    }
}
