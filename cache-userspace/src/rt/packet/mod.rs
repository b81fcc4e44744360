//! Packet I/O of one shard: datagrams in, transmits out, over UDP sockets or AF_XDP.
//!
//! ```text
//!  UdpIo    one socket per listen address, recvmmsg + GRO in, sendmmsg + GSO out     (udp)
//!  AfXdpIo  one AF_XDP socket on the shard's queue, frames built and parsed here     (af_xdp)
//! ```
//!
//! Neither blocks. What cannot be sent at once waits in a bounded backlog, and what does not fit
//! there is dropped and counted: QUIC sends it again.

pub mod af_xdp;
mod backlog;
mod batch;
mod socket;
mod steer;
mod udp;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cache_core::io::{Datagram, Outbox};
use cache_core::stats::Stat;

use af_xdp::{AfXdpIo, Xsk};
pub use socket::{SocketError, open_beside, open_sockets, steer};
pub use udp::{UdpIo, UdpSocket};

/// How a shard's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Udp,
    AfXdp,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::AfXdp => "af_xdp",
        }
    }
}

macro_rules! packet_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a shard's packet I/O counts, beside what the shard counts itself.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct PacketStats {
            $($(#[$doc])* pub $name: Stat,)*
        }

        impl PacketStats {
            /// Names and values, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

packet_stats! {
    /// System calls that received something.
    receive_batches,
    /// Received packets that are not a datagram for us, or were cut off.
    receive_dropped,
    /// System calls that failed for another reason than having nothing to do.
    receive_errors,
    /// Datagrams sent.
    datagrams_sent,
    /// System calls that sent something.
    send_batches,
    /// Times that the kernel or a ring had no room and transmits had to wait.
    send_blocked,
    /// Transmits dropped because the backlog was full.
    send_dropped,
    /// Transmits that the kernel refused (too big for the path, no route, ...).
    send_refused,
    /// Segmented transmits that had to be sent one datagram at a time.
    send_unsegmented,
    /// Transmits that wait for room (gauge).
    send_backlog,
}

/// What a shard's packet I/O is made of. It can be sent to the shard's thread.
pub enum Port {
    Udp(Vec<UdpSocket>),
    AfXdp {
        xsk: Box<Xsk>,
        /// Addresses served past the kernel.
        own: Vec<SocketAddr>,
        /// For what passes the XDP program or cannot be sent past the kernel.
        sockets: Vec<UdpSocket>,
    },
}

impl Port {
    /// Makes the packet I/O, on the thread that will use it.
    pub fn open(self, stats: Arc<PacketStats>) -> PacketIo {
        match self {
            Self::Udp(sockets) => PacketIo::Udp(Box::new(UdpIo::new(sockets, stats))),
            Self::AfXdp { xsk, own, sockets } => {
                let kernel = UdpIo::new(sockets, stats.clone());
                PacketIo::AfXdp(Box::new(AfXdpIo::new(*xsk, own, kernel, stats)))
            }
        }
    }
}

/// Some of a shard's sockets, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    First,
    Last,
}

/// Packet I/O of one shard.
pub enum PacketIo {
    Udp(Box<UdpIo>),
    AfXdp(Box<AfXdpIo>),
}

impl PacketIo {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Udp(_) => Kind::Udp,
            Self::AfXdp(_) => Kind::AfXdp,
        }
    }

    /// Hands over what has arrived, until nothing is left or about `budget` datagrams were. Returns
    /// how many there were.
    pub fn recv(&mut self, budget: usize, sink: impl FnMut(Datagram)) -> usize {
        match self {
            Self::Udp(io) => io.recv(budget, sink),
            Self::AfXdp(io) => io.recv(budget, sink),
        }
    }

    /// Receives from these, too, from now on.
    pub fn join(&mut self, sockets: Vec<UdpSocket>) {
        self.kernel().join(sockets);
    }

    /// Lets go of the first or the last `count` UDP sockets, of which there must be more. What waits in them is
    /// not taken.
    pub fn leave(&mut self, which: Which, count: usize) {
        self.kernel().leave(which, count);
    }

    /// Goes on without the AF_XDP socket, if there is one. What waits in its rings must have been taken.
    pub fn leave_af_xdp(&mut self) {
        if let Self::AfXdp(io) = self {
            let kernel = io.take_kernel();
            *self = Self::Udp(Box::new(kernel));
        }
    }

    fn kernel(&mut self) -> &mut UdpIo {
        match self {
            Self::Udp(io) => io,
            Self::AfXdp(io) => io.kernel(),
        }
    }

    /// Sends what waits, then the outbox's transmits, and gives their buffers back to it.
    pub fn send(&mut self, outbox: &mut Outbox) {
        match self {
            Self::Udp(io) => io.send(outbox),
            Self::AfXdp(io) => io.send(outbox),
        }
    }

    /// Transmits wait for room. Make no more until there is some.
    pub fn is_blocked(&self) -> bool {
        match self {
            Self::Udp(io) => io.is_blocked(),
            Self::AfXdp(io) => io.is_blocked(),
        }
    }

    /// The descriptors that become readable when something arrives.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Udp(io) => io.fds(),
            Self::AfXdp(io) => io.fds(),
        }
    }

    /// The descriptor that becomes writable when there is room again, while blocked.
    pub fn blocked_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Udp(io) => io.blocked_fd(),
            Self::AfXdp(io) => io.blocked_fd(),
        }
    }

    pub fn stats(&self) -> &Arc<PacketStats> {
        match self {
            Self::Udp(io) => io.stats(),
            Self::AfXdp(io) => io.stats(),
        }
    }
}
