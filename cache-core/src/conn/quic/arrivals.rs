//! New clients, from their first datagram to the beginning of their handshake.
//!
//! A handshake costs as much as dozens of hits, so a turn begins a few of them and no more, and what is left
//! waits while connections that are there already are served. Those who came last go first: when there are more
//! than can be served, the others have given up by the time that they would come to their turn, and once
//! the rush is over nobody who comes then waits for it.
//!
//! ```text
//!  first datagram -> connections at their bound, or a drain ............. CONNECTION_REFUSED
//!                    many handshakes go on, no proof of the address ..... Retry (no state)
//!                    too many wait ....................................... CONNECTION_REFUSED
//!                    else: waits --> the last of them, each turn ........ handshake
//!                                '-> the first of them, after a while ... CONNECTION_REFUSED
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::Incoming;

use super::{Quic, send};
use crate::io::Outbox;
use crate::stats::ShardStats;

/// Handshakes that one turn begins: about as long as a turn may be.
const BEGUN_PER_TURN: usize = 4;
/// Clients that one turn tells that it took too long.
const REFUSED_PER_TURN: usize = 32;
/// Who has waited this long has given up, or is about to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients whose handshake has not begun, the latest last.
#[derive(Default)]
pub(super) struct Arrivals {
    waiting: VecDeque<(Instant, Incoming)>,
}

impl Arrivals {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What is kept of a datagram that may wait: the shell cuts datagrams from a large buffer, which would
    /// be held by any of them.
    pub(super) fn own(&self, data: BytesMut) -> BytesMut {
        match self.waiting.is_empty() {
            true => data,
            false => BytesMut::from(&data[..]),
        }
    }

    fn late(&mut self, now: Instant) -> Option<Incoming> {
        let &(came, _) = self.waiting.front()?;
        let is_late = now.saturating_duration_since(came) >= PATIENCE;
        let first = is_late.then(|| self.waiting.pop_front()).flatten();
        first.map(|(_, incoming)| incoming)
    }
}

impl Quic {
    pub(super) fn incoming(
        &mut self,
        now: Instant,
        incoming: Incoming,
        mut buffer: Vec<u8>,
        out: &mut Outbox,
        stats: &ShardStats,
    ) {
        let waiting = self.arrivals.len();
        // Many handshakes go on: who asks must first show that he is where he says (RFC 9000 section
        // 8.1.2), which costs him a round trip and us no state.
        let is_full = self.draining || self.open + waiting >= self.max_open;
        if !is_full && self.handshaking + waiting >= self.retry_above && incoming.may_retry() {
            stats.retries_sent.inc();
            match self.endpoint.retry(incoming, &mut buffer) {
                Ok(transmit) => return send(transmit, buffer, out, stats),
                Err(_) => return out.recycle(buffer),
            }
        }
        if is_full || waiting >= self.max_arrivals {
            return self.refuse(incoming, buffer, out, stats);
        }
        out.recycle(buffer);
        self.arrivals.waiting.push_back((now, incoming));
    }

    /// Begins the handshakes of a turn.
    pub fn begin_handshakes(&mut self, now: Instant, out: &mut Outbox, stats: &ShardStats) {
        for _ in 0..REFUSED_PER_TURN {
            let Some(incoming) = self.arrivals.late(now) else {
                break;
            };
            let buffer = out.buffer();
            self.refuse(incoming, buffer, out, stats);
        }
        for _ in 0..BEGUN_PER_TURN {
            let Some((_, incoming)) = self.arrivals.waiting.pop_back() else {
                break;
            };
            let buffer = out.buffer();
            match self.draining {
                true => self.refuse(incoming, buffer, out, stats),
                false => self.accept(now, incoming, buffer, out, stats),
            }
        }
        stats.arrivals_waiting.set(self.arrivals.len() as u64);
    }

    fn refuse(
        &mut self,
        incoming: Incoming,
        mut buffer: Vec<u8>,
        out: &mut Outbox,
        stats: &ShardStats,
    ) {
        stats.connections_refused.inc();
        let transmit = self.endpoint.refuse(incoming, &mut buffer);
        send(transmit, buffer, out, stats);
    }

    fn accept(
        &mut self,
        now: Instant,
        incoming: Incoming,
        mut buffer: Vec<u8>,
        out: &mut Outbox,
        stats: &ShardStats,
    ) {
        match self.endpoint.accept(incoming, now, &mut buffer, None) {
            Ok((handle, quic)) => {
                stats.connections_accepted.inc();
                self.insert(handle, quic);
                stats.connections.set(self.open as u64);
                stats.handshakes.set(self.handshaking as u64);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    return send(transmit, buffer, out, stats);
                }
            }
        }
        out.recycle(buffer);
    }
}

impl Drop for Quic {
    /// The endpoint is told of each that will never be accepted.
    fn drop(&mut self) {
        for (_, incoming) in self.arrivals.waiting.drain(..) {
            self.endpoint.ignore(incoming);
        }
    }
}
