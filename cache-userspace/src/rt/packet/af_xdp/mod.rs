//! Packet I/O over an AF_XDP socket: frames are parsed and built here, past the kernel's stack.
//!
//! ```text
//!  fill ring <- free frames       receive ring -> parse, copy the payload out, frame to the fill ring
//!  transmit ring <- frames with headers and payload       completion ring -> free frames
//! ```
//!
//! The UDP sockets of the shard stay open beside it: what the XDP program passes to the kernel
//! arrives there, and what has no known link header leaves there.

mod frame;
mod neighbours;
mod ring;
mod socket;
mod umem;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::BytesMut;
use cache_core::io::{Datagram, Outbox, Transmit};
use libc::xdp_desc;

use super::PacketStats;
use super::backlog::Backlog;
use super::udp::{BUFFER_BYTES, UdpIo, take};
use frame::Path;
use neighbours::Neighbours;
use umem::{FRAME_BYTES, Frame};

pub use socket::{Busy, Mode, Xsk, open};

/// System calls that one send may need: the kernel takes some frames at a time.
const MAX_KICKS: usize = 256;

pub struct AfXdpIo {
    xsk: Xsk,
    /// Addresses that datagrams are taken for and sent from.
    own: Vec<SocketAddr>,
    neighbours: Neighbours,
    buffer: BytesMut,
    backlog: Backlog,
    /// Bytes of the first waiting transmit that were sent already.
    sent_of_first: usize,
    /// Frames were submitted that the kernel may not have looked at.
    unkicked: bool,
    kernel: UdpIo,
    stats: Arc<PacketStats>,
}

impl AfXdpIo {
    /// `own` are the addresses that `kernel` listens on, those that stand for every address spelt
    /// out.
    pub fn new(xsk: Xsk, own: Vec<SocketAddr>, kernel: UdpIo, stats: Arc<PacketStats>) -> Self {
        let mut io = Self {
            xsk,
            own,
            neighbours: Neighbours::new(),
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
            backlog: Backlog::default(),
            sent_of_first: 0,
            unkicked: false,
            kernel,
            stats,
        };
        io.fill();
        io
    }

    pub fn kernel(&mut self) -> &mut UdpIo {
        &mut self.kernel
    }

    /// The UDP sockets, to go on with alone. What waits to be sent is dropped: QUIC sends it again.
    pub fn take_kernel(&mut self) -> UdpIo {
        self.kernel.take_all()
    }

    /// Half of the frames are the kernel's to receive into; the other half is sent from.
    fn fill(&mut self) {
        let half = self.xsk.free.len() / 2;
        for frame in self.xsk.free.split_off(half) {
            self.refill(frame);
        }
        self.xsk.fill.submit();
    }

    fn refill(&mut self, frame: Frame) {
        let address = self.xsk.umem.give(frame);
        let pushed = self.xsk.fill.push(address);
        assert!(
            pushed,
            "the fill ring holds all frames that are received into"
        );
    }

    pub fn recv(&mut self, budget: usize, mut sink: impl FnMut(Datagram)) -> usize {
        let received = self.receive(budget, &mut sink);
        received + self.kernel.recv(budget, sink)
    }

    fn receive(&mut self, budget: usize, sink: &mut impl FnMut(Datagram)) -> usize {
        let (mut received, mut taken) = (0, 0);
        while taken < budget {
            let Some(desc) = self.xsk.receive.take() else {
                break;
            };
            taken += 1;
            let Some(frame) = self.xsk.umem.take(desc.addr) else {
                self.stats.receive_errors.inc();
                continue;
            };
            match self.datagram(&frame, &desc) {
                Some(datagram) => {
                    sink(datagram);
                    received += 1;
                }
                None => self.stats.receive_dropped.inc(),
            }
            self.refill(frame);
        }
        if taken > 0 {
            self.stats.receive_batches.inc();
            self.xsk.receive.release();
            self.xsk.fill.submit();
            if self.xsk.fill.needs_wakeup() {
                socket::kick_fill(self.xsk.fd.as_fd());
            }
        }
        received
    }

    fn datagram(&mut self, frame: &Frame, desc: &xdp_desc) -> Option<Datagram> {
        let bytes = self.xsk.umem.bytes(frame, desc.addr, desc.len)?;
        let arrived = frame::read(bytes)?;
        if !self.own.contains(&arrived.local) {
            return None;
        }
        self.neighbours.learn(arrived.remote.ip(), arrived.reply);
        Some(Datagram {
            remote: arrived.remote,
            local_ip: Some(arrived.local.ip()),
            ecn: arrived.ecn,
            data: take(&mut self.buffer, arrived.payload),
        })
    }

    pub fn send(&mut self, outbox: &mut Outbox) {
        let mut transmits = std::mem::take(&mut outbox.transmits);
        for transmit in transmits.drain(..) {
            self.backlog.push(transmit, outbox, &self.stats);
        }
        if !self.backlog.is_empty() {
            self.reclaim();
        }
        while self.send_first(outbox, &mut transmits) {}
        self.kick();
        // What has no link header goes through the kernel.
        outbox.transmits = transmits;
        self.kernel.send(outbox);
    }

    /// Takes frames back that were sent.
    fn reclaim(&mut self) {
        while let Some(address) = self.xsk.completion.take() {
            match self.xsk.umem.take(address) {
                Some(frame) => self.xsk.free.push(frame),
                None => self.stats.receive_errors.inc(),
            }
        }
        self.xsk.completion.release();
    }

    /// Sends the first waiting transmit or as much of it as there is room for. False when nothing
    /// waits or there is no more room.
    fn send_first(&mut self, outbox: &mut Outbox, kernel: &mut Vec<Transmit>) -> bool {
        let Some(first) = self.backlog.front() else {
            return false;
        };
        let Some(path) = path(&self.own, &self.neighbours, first) else {
            self.sent_of_first = 0;
            kernel.extend(self.backlog.pop(&self.stats));
            return true;
        };
        let segment = first.segment_size.unwrap_or(first.data.len()).max(1);
        let mut sent = self.sent_of_first;
        let mut refused = false;
        while let Some(payload) = first.data.get(sent..).filter(|rest| !rest.is_empty()) {
            let payload = &payload[..segment.min(payload.len())];
            if self.xsk.transmit.room() == 0 {
                break;
            }
            let Some(mut frame) = self.xsk.free.pop() else {
                break;
            };
            sent += payload.len();
            let Some(len) = frame::write(&path, payload, self.xsk.umem.bytes_mut(&mut frame))
            else {
                self.xsk.free.push(frame);
                refused = true;
                continue;
            };
            let addr = self.xsk.umem.give(frame);
            self.xsk.transmit.push(xdp_desc {
                addr,
                len: len as u32,
                options: 0,
            });
            self.unkicked = true;
            self.stats.datagrams_sent.inc();
        }
        let whole = sent >= first.data.len();
        if refused {
            self.stats.send_refused.inc();
        }
        if !whole {
            self.stats.send_blocked.inc();
            self.sent_of_first = sent;
            return false;
        }
        self.sent_of_first = 0;
        self.backlog.remove(1, outbox, &self.stats);
        true
    }

    /// Submits what was written and tells the kernel where it wants to be told.
    fn kick(&mut self) {
        if !self.unkicked {
            return;
        }
        self.xsk.transmit.submit();
        self.stats.send_batches.inc();
        for _ in 0..MAX_KICKS {
            if !self.xsk.transmit.needs_wakeup() || !self.xsk.transmit.is_pending() {
                self.unkicked = false;
                return;
            }
            match socket::kick(self.xsk.fd.as_fd()) {
                Ok(_) => {}
                Err(_) => {
                    self.stats.send_refused.inc();
                    return;
                }
            }
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.waits() || self.kernel.is_blocked()
    }

    fn waits(&self) -> bool {
        self.unkicked || !self.backlog.is_empty()
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.kernel.fds();
        fds.push(self.xsk.fd.as_fd());
        fds
    }

    pub fn blocked_fd(&self) -> Option<BorrowedFd<'_>> {
        match self.waits() {
            true => Some(self.xsk.fd.as_fd()),
            false => self.kernel.blocked_fd(),
        }
    }

    pub fn stats(&self) -> &Arc<PacketStats> {
        &self.stats
    }
}

/// How a transmit travels past the kernel; `None` if it cannot.
fn path(own: &[SocketAddr], neighbours: &Neighbours, transmit: &Transmit) -> Option<Path> {
    let segment = transmit.segment_size.unwrap_or(transmit.data.len());
    if segment + frame::MAX_HEADERS > FRAME_BYTES as usize {
        return None;
    }
    let from = source(own, transmit)?;
    let link = neighbours.get(transmit.destination.ip())?;
    let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
    Some(Path {
        link,
        from,
        to: transmit.destination,
        ecn,
    })
}

fn source(own: &[SocketAddr], transmit: &Transmit) -> Option<SocketAddr> {
    let fits = |address: &&SocketAddr| match transmit.src_ip {
        Some(ip) => address.ip() == ip,
        None => address.is_ipv4() == transmit.destination.is_ipv4(),
    };
    own.iter().find(fits).copied()
}

/// `listen` with the addresses of `interface` in place of those that stand for every address.
pub fn own_addresses(listen: &[SocketAddr], interface: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let mut own: Vec<SocketAddr> = Vec::new();
    for address in listen {
        if !address.ip().is_unspecified() {
            own.push(*address);
            continue;
        }
        let ips = interface_ips(interface)?.into_iter();
        let same = ips.filter(|ip| ip.is_ipv4() == address.is_ipv4());
        own.extend(same.map(|ip| SocketAddr::new(ip, address.port())));
    }
    own.dedup();
    Ok(own)
}

fn interface_ips(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let ours = all.filter(|entry| entry.interface_name == interface);
    Ok(ours
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests;
