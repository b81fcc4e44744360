//! One process takes over from another without losing a request.
//!
//! ```text
//!  new                                         former
//!   | --- Hello --------------------------------> |
//!   | <-- Offer, UDP and TCP sockets, drives ---- |
//!   | --- Fits ---------------------------------> |  guard and tier rest, AF_XDP sockets are closed
//!   | <-- Begin --------------------------------- |  goes on serving
//!   |  memory, what the tier has, XDP, AF_XDP     |
//!   | --- Ready, more UDP sockets --------------> |  its shards receive from these too
//!   | <-- Go ------------------------------------ |
//!   |  the kernel now gives ids of the former     |
//!   |  node's keys to those, all else to the rest |
//!   | --- Switched -----------------------------> |  empties the first ones and lets go of them, drains
//!   | <-- Gone ---------------------------------- |  purges no more
//!   |  reads what was purged meanwhile; serves    |  ends, and with it the line
//!   |  steers plainly again, AF_XDP and tier on   |
//! ```
//!
//! The sockets stay the same from node to node, so what waits in them, datagrams or connections, is not lost.
//! What tells whose a packet is, is the number of the key in its connection id: the new node makes ids with a
//! key of its own. Nobody copies packets: the sockets beside are members of the same reuseport groups, and the
//! program of [`crate::rt::packet::steer`] chooses. A client that reaches the former node all the same (its first
//! packet was under way) is served there, and told to go elsewhere.
//!
//! The drives of a tier go over like the sockets, open and locked as they are. From `Fits` on, after the former node has
//! written what its memory holds, until it has ended, both read them and neither writes (`Command::RestTier`). The
//! journal of purges is the exception: until `Gone` it is the former node's, which goes on taking purges, and the new one
//! catches up with it then.
//!
//! One at a time: who drains offers nothing, and who waits for its predecessor's end refuses. Whatever fails before
//! `Go` leaves the former node as it was, but that from `Begin` on it goes on by UDP where it had AF_XDP.

mod former;
mod line;
mod sockets;
mod takeover;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use former::{Handover, HandoverOrder, Offered};
pub use sockets::Sockets;
pub use takeover::{Predecessor, TAKEOVER_LIMIT, Takeover};

/// Of the messages below. Nodes of different ones do not take over from each other.
const PROTOCOL: u32 = 2;

/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How long the new node may take to start.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long both receive after the kernel chooses, for packets that it had chosen for before.
const SETTLE: Duration = Duration::from_millis(50);

/// Who asks.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    version: String,
    pid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Offer(Offer),
    Refused(String),
}

/// What is handed over. The sockets follow: UDP, then TLS, then clear TCP, each by shard and then by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub version: String,
    pub pid: u32,
    /// How many took over before.
    pub generation: u64,
    pub shards: u8,
    pub udp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub clear: Vec<SocketAddr>,
    /// The number of the key that connection ids are made with.
    pub cid_key: u8,
    /// Devices of the tier, which follow the sockets in the order of their numbers.
    pub drives: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Fits,
    Begin,
    Ready,
    Go,
    Switched,
    Gone,
}

/// Which process this is in a row of those that took over from each other.
#[derive(Debug, Default)]
pub struct Generation {
    /// From 0.
    pub number: u64,
    predecessor: AtomicU32,
}

impl Generation {
    /// `predecessor`: the process id of a node that still drains.
    pub fn new(number: u64, predecessor: Option<u32>) -> Self {
        Self {
            number,
            predecessor: AtomicU32::new(predecessor.unwrap_or(0)),
        }
    }

    /// The process that drains, if there is one.
    pub fn predecessor(&self) -> Option<u32> {
        let pid = self.predecessor.load(Ordering::Relaxed);
        (pid != 0).then_some(pid)
    }

    fn alone(&self) {
        self.predecessor.store(0, Ordering::Relaxed);
    }
}

/// Where a node waits for its successor: beside the admin socket.
pub fn socket_beside(admin: &Path) -> PathBuf {
    let mut name = admin.as_os_str().to_owned();
    name.push(".upgrade");
    PathBuf::from(name)
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
