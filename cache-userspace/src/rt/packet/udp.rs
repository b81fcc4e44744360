//! Packet I/O over UDP sockets with segmentation offload both ways.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use bytes::BytesMut;
use cache_core::io::{Datagram, Outbox, Transmit};

use super::backlog::Backlog;
use super::batch::{Outgoing, ReceiveBatch, Received, SEND_SLOTS, SendBatch};
use super::socket::DEFAULT_TOS;
use super::{PacketStats, Which};
use crate::rt::bound::Bound;

/// Segments that every kernel with UDP_SEGMENT takes at once.
const MAX_SEGMENTS: usize = 64;
/// Payload bytes that fit in one segmented message, of either family.
const MAX_MESSAGE: usize = 65_487;

/// Received datagrams are cut from buffers of this size, so that most cost no allocation.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// A socket that datagrams come in through.
pub type UdpSocket = Bound;

impl UdpSocket {
    /// Listens on every address of its family.
    fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }
}

/// A shard's sockets and what waits to be sent on them.
pub struct UdpIo {
    sockets: Vec<UdpSocket>,
    /// The socket that is read first next time.
    first: usize,
    receive: ReceiveBatch,
    buffer: BytesMut,
    send: SendBatch,
    backlog: Backlog,
    /// Bytes of the first waiting transmit that were sent already.
    sent_of_first: usize,
    /// The kernel refused the first waiting transmit in segments.
    unsegmented_first: bool,
    /// The device cannot segment at all.
    unsegmented: bool,
    blocked: Option<usize>,
    stats: Arc<PacketStats>,
}

impl UdpIo {
    /// Packet I/O over `sockets`, of which there must be one at least.
    pub fn new(sockets: Vec<UdpSocket>, stats: Arc<PacketStats>) -> Self {
        assert!(!sockets.is_empty(), "a shard listens somewhere");
        Self {
            sockets,
            first: 0,
            receive: ReceiveBatch::new(),
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
            send: SendBatch::new(),
            backlog: Backlog::default(),
            sent_of_first: 0,
            unsegmented_first: false,
            unsegmented: false,
            blocked: None,
            stats,
        }
    }

    pub fn join(&mut self, sockets: Vec<UdpSocket>) {
        self.sockets.extend(sockets);
    }

    /// All of its sockets, with nothing that waits to be sent.
    pub fn take_all(&mut self) -> Self {
        let sockets = std::mem::take(&mut self.sockets);
        Self::new(sockets, self.stats.clone())
    }

    /// See [`super::PacketIo::leave`].
    pub fn leave(&mut self, which: Which, count: usize) {
        let kept = self.sockets.len().saturating_sub(count);
        if kept == 0 {
            return;
        }
        match which {
            Which::First => drop(self.sockets.drain(..count)),
            Which::Last => self.sockets.truncate(kept),
        }
        (self.first, self.blocked) = (0, None);
    }

    pub fn recv(&mut self, budget: usize, mut sink: impl FnMut(Datagram)) -> usize {
        let mut received = 0;
        for n in 0..self.sockets.len() {
            let socket = (self.first + n) % self.sockets.len();
            while received < budget {
                let messages = self.receive_batch(socket);
                received += self.hand_over(socket, messages, &mut sink);
                if messages < ReceiveBatch::SLOTS {
                    break;
                }
            }
        }
        self.first = (self.first + 1) % self.sockets.len();
        received
    }

    fn receive_batch(&mut self, socket: usize) -> usize {
        match self.receive.receive(self.sockets[socket].fd.as_fd()) {
            Ok(messages) => {
                self.stats.receive_batches.inc();
                messages
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.stats.receive_errors.inc();
                }
                0
            }
        }
    }

    fn hand_over(
        &mut self,
        socket: usize,
        messages: usize,
        sink: &mut impl FnMut(Datagram),
    ) -> usize {
        let socket = &self.sockets[socket];
        let mut datagrams = 0;
        for n in 0..messages {
            let Some(message) = self.receive.get(n) else {
                self.stats.receive_dropped.inc();
                continue;
            };
            let local_ip = match socket.is_wildcard() {
                true => message.local_ip,
                false => Some(socket.address.ip()),
            };
            for segment in message.data.chunks(message.segment) {
                sink(datagram(
                    &message,
                    local_ip,
                    take(&mut self.buffer, segment),
                ));
                datagrams += 1;
            }
        }
        datagrams
    }

    pub fn send(&mut self, outbox: &mut Outbox) {
        if self.backlog.is_empty() && outbox.transmits.is_empty() {
            return;
        }
        let mut transmits = std::mem::take(&mut outbox.transmits);
        for transmit in transmits.drain(..) {
            self.backlog.push(transmit, outbox, &self.stats);
        }
        outbox.transmits = transmits;
        self.blocked = None;
        while self.blocked.is_none() && !self.backlog.is_empty() {
            self.send_batch(outbox);
        }
    }

    fn send_batch(&mut self, outbox: &mut Outbox) {
        let Some(front) = self.backlog.front() else {
            return;
        };
        let socket = socket_for(&self.sockets, front);
        let pieces = pieces(&self.backlog, self.sent_of_first, self.segments())
            .take_while(|piece| socket_for(&self.sockets, piece.transmit) == socket)
            .map(|piece| piece.outgoing(&self.sockets[socket]));
        match self.send.send(self.sockets[socket].fd.as_fd(), pieces) {
            Ok(sent) => {
                self.stats.send_batches.inc();
                self.advance(sent, true, outbox);
            }
            Err(error) => self.send_failed(socket, &error, outbox),
        }
    }

    fn segments(&self) -> Segments {
        match (self.unsegmented, self.unsegmented_first) {
            (true, _) => Segments::Never,
            (false, true) => Segments::NotFirst,
            (false, false) => Segments::Always,
        }
    }

    /// The first `count` pieces are done with.
    fn advance(&mut self, count: usize, sent: bool, outbox: &mut Outbox) {
        let (mut whole, mut part, mut datagrams) = (0, self.sent_of_first, 0);
        for piece in pieces(&self.backlog, self.sent_of_first, self.segments()).take(count) {
            datagrams += piece.data.len().div_ceil(piece.segment.max(1)) as u64;
            part += piece.data.len();
            if piece.is_last {
                (whole, part) = (whole + 1, 0);
            }
        }
        self.sent_of_first = part;
        if whole > 0 {
            self.unsegmented_first = false;
            self.backlog.remove(whole, outbox, &self.stats);
        }
        if sent {
            self.stats.datagrams_sent.add(datagrams);
        }
    }

    fn send_failed(&mut self, socket: usize, error: &io::Error, outbox: &mut Outbox) {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => {
                self.stats.send_blocked.inc();
                self.blocked = Some(socket);
            }
            Some(libc::EINTR) => {}
            // The device does not compute checksums, so it cannot segment (Linux before 6.11).
            Some(libc::EIO) if !self.unsegmented => {
                self.unsegmented = true;
                tracing::warn!("UDP segmentation offload does not work here: sending one by one");
            }
            Some(libc::EINVAL | libc::EMSGSIZE) if self.first_is_segmented() => {
                self.stats.send_unsegmented.inc();
                self.unsegmented_first = true;
            }
            _ => {
                self.stats.send_refused.inc();
                self.advance(1, false, outbox);
            }
        }
    }

    fn first_is_segmented(&self) -> bool {
        pieces(&self.backlog, self.sent_of_first, self.segments())
            .next()
            .is_some_and(|piece| piece.data.len() > piece.segment)
    }

    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets
            .iter()
            .map(|socket| socket.fd.as_fd())
            .collect()
    }

    pub fn blocked_fd(&self) -> Option<BorrowedFd<'_>> {
        self.blocked.map(|socket| self.sockets[socket].fd.as_fd())
    }

    pub fn stats(&self) -> &Arc<PacketStats> {
        &self.stats
    }
}

/// Copies `bytes` into the shared buffer. The buffer's memory is used again once every datagram
/// cut from it is gone; else it is left to them and a new one made.
pub(super) fn take(buffer: &mut BytesMut, bytes: &[u8]) -> BytesMut {
    if buffer.capacity() < bytes.len() {
        buffer.reserve(BUFFER_BYTES);
    }
    buffer.extend_from_slice(bytes);
    buffer.split()
}

fn datagram(message: &Received<'_>, local_ip: Option<IpAddr>, data: BytesMut) -> Datagram {
    Datagram {
        remote: message.remote,
        local_ip,
        ecn: message.ecn,
        data,
    }
}

/// The socket that a transmit leaves by: the one on its source address, else the one that listens
/// on every address of the family.
fn socket_for(sockets: &[UdpSocket], transmit: &Transmit) -> usize {
    if sockets.len() == 1 {
        return 0;
    }
    let exact = |socket: &UdpSocket| Some(socket.address.ip()) == transmit.src_ip;
    let family = |socket: &UdpSocket| {
        socket.address.is_ipv4() == transmit.destination.is_ipv4()
            && (socket.is_wildcard() || transmit.src_ip.is_none())
    };
    let find = |fits: &dyn Fn(&UdpSocket) -> bool| sockets.iter().position(fits);
    find(&exact).or_else(|| find(&family)).unwrap_or(0)
}

#[derive(Clone, Copy, PartialEq)]
enum Segments {
    Always,
    NotFirst,
    Never,
}

/// What one message of a send call carries: a transmit, or a part of one.
struct Piece<'a> {
    transmit: &'a Transmit,
    data: &'a [u8],
    segment: usize,
    is_last: bool,
}

impl<'a> Piece<'a> {
    fn outgoing(self, socket: &UdpSocket) -> Outgoing<'a> {
        let tos = self.transmit.ecn.map_or(0, |ecn| ecn as u8);
        Outgoing {
            destination: self.transmit.destination,
            source: self.transmit.src_ip.filter(|_| socket.is_wildcard()),
            tos: (tos != DEFAULT_TOS).then_some(tos),
            data: self.data,
            segment: (self.data.len() > self.segment).then_some(self.segment as u16),
        }
    }
}

/// The waiting transmits in pieces that the kernel takes at once.
fn pieces(backlog: &Backlog, skip: usize, segments: Segments) -> impl Iterator<Item = Piece<'_>> {
    backlog
        .iter()
        .take(SEND_SLOTS)
        .enumerate()
        .flat_map(move |(n, transmit)| {
            let skip = if n == 0 { skip } else { 0 };
            let segmented =
                segments == Segments::Always || (segments == Segments::NotFirst && n > 0);
            let segment = transmit
                .segment_size
                .unwrap_or(transmit.data.len())
                .clamp(1, MAX_MESSAGE);
            let most = match segmented {
                true => segment * MAX_SEGMENTS.min(MAX_MESSAGE / segment),
                false => segment,
            };
            let data = &transmit.data[skip..];
            let count = data.len().div_ceil(most);
            data.chunks(most).enumerate().map(move |(i, data)| Piece {
                transmit,
                data,
                segment,
                is_last: i + 1 == count,
            })
        })
}

#[cfg(test)]
mod tests;
