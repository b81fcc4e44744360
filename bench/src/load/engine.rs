//! HTTP/3 connections of one thread, without a runtime: sockets, timers, requests.
//!
//! ```text
//! request() --> connection --> poll_transmit --> Socket::send        (flush)
//! Socket::receive --> Endpoint::handle --> connection --> completed  (receive)
//! ```
//!
//! The owner calls [`Engine::flush`] and [`Engine::receive`] in turn, and drains
//! [`Engine::completed`] and [`Engine::lost`] between. Datagrams of a batch are all handled before
//! anything is sent, so that one packet carries the acknowledgements and the new requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, VarInt,
};

use super::net::Socket;
use super::peer::Peer;
use super::qpack::{Head, Heads};
use super::targets::Targets;

/// Segments of one send.
const MAX_SEGMENTS: usize = 16;
/// Batches taken from one socket before the others get their turn.
const MAX_BATCHES: usize = 4;
/// H3_NO_ERROR.
pub(super) const NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// A request that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The connection it ran on.
    pub connection: usize,
    /// What the caller gave to [`Engine::request`].
    pub intended: Instant,
    /// When its first byte arrived.
    pub first_byte: Option<Instant>,
    pub body_bytes: u64,
    pub outcome: Result<Head, Failure>,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was lost or never came about.
    Connection,
    /// The server reset the stream with this code.
    Reset(u64),
    Malformed,
    /// Not the status that was wanted.
    Status(u16),
    /// Not the bytes that the origin has.
    Body,
    Timeout,
    /// The open loop had more requests waiting than it keeps.
    Overload,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection => write!(f, "connection lost"),
            Self::Reset(code) => write!(f, "stream reset 0x{code:x}"),
            Self::Malformed => write!(f, "malformed response"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => write!(f, "wrong body"),
            Self::Timeout => write!(f, "timeout"),
            Self::Overload => write!(f, "overload of the client"),
        }
    }
}

/// A connection that changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Its handshake is done; requests may start.
    Ready {
        connection: usize,
        handshake: Duration,
        /// Whether early data was accepted, where some could be sent.
        early: Option<bool>,
    },
    /// It is gone. Its requests have failed before this is told.
    Lost { connection: usize, reason: String },
}

/// See the module.
pub struct Engine {
    endpoint: Endpoint,
    client: ClientConfig,
    resuming: ClientConfig,
    remote: SocketAddr,
    server_name: String,
    sockets: Vec<Socket>,
    next_socket: usize,
    peers: Vec<Option<Box<Peer>>>,
    /// Connections that may have something to send or a new timer.
    dirty: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    shared: Shared,
    scratch: Vec<u8>,
    pub changes: Vec<Change>,
}

/// What the connections need of the engine while they read.
pub(super) struct Shared {
    pub(super) heads: Heads,
    pub(super) targets: Targets,
    pub(super) completed: Vec<Completion>,
}

impl Engine {
    /// `sockets` UDP sockets towards `remote`; connections take them in turn.
    ///
    /// # Errors
    /// From the sockets, or where TLS 1.3 is not to be had.
    pub fn new(
        remote: SocketAddr,
        server_name: &str,
        sockets: usize,
        targets: Targets,
    ) -> Result<Self> {
        let sockets = (0..sockets.max(1))
            .map(|_| Socket::connect(remote))
            .collect::<Result<_>>()?;
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            client: super::tls::client_config()?,
            resuming: super::tls::resuming_config()?,
            remote,
            server_name: server_name.to_owned(),
            sockets,
            next_socket: 0,
            peers: Vec::new(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            shared: Shared {
                heads: Heads::new(),
                targets,
                completed: Vec::new(),
            },
            scratch: Vec::with_capacity(MAX_SEGMENTS * 1500),
            changes: Vec::new(),
        })
    }

    /// The requests that ended since the last call.
    pub fn take_completed(&mut self, into: &mut Vec<Completion>) {
        into.clear();
        std::mem::swap(into, &mut self.shared.completed);
    }

    /// Starts a handshake and names the connection.
    ///
    /// # Errors
    /// Where the address or the name can never work.
    pub fn connect(&mut self, now: Instant) -> Result<usize> {
        self.connect_with(self.client.clone(), now)
    }

    /// The same, but with requests in the first flight where an earlier such connection was given a
    /// session.
    ///
    /// # Errors
    /// As of [`Engine::connect`].
    pub fn connect_early(&mut self, now: Instant) -> Result<usize> {
        self.connect_with(self.resuming.clone(), now)
    }

    fn connect_with(&mut self, client: ClientConfig, now: Instant) -> Result<usize> {
        let (handle, connection) = self
            .endpoint
            .connect(now, client, self.remote, &self.server_name)
            .with_context(|| {
                format!("cannot connect to {} as {}", self.remote, self.server_name)
            })?;
        let index = handle.0;
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        self.peers[index] = Some(Box::new(Peer::new(
            index,
            connection,
            self.next_socket,
            now,
        )));
        self.next_socket = (self.next_socket + 1) % self.sockets.len();
        self.mark(index);
        Ok(index)
    }

    /// Asks for target `key` on a connection; its latency counts from `intended`.
    ///
    /// Waits inside the connection where the handshake or the server's stream limit demands it.
    /// On a connection that is gone the request fails at once.
    pub fn request(&mut self, connection: usize, key: usize, intended: Instant) {
        match self.peers.get_mut(connection).and_then(Option::as_mut) {
            Some(peer) => {
                peer.request(key, intended, &mut self.shared);
                self.mark(connection);
            }
            None => self.shared.completed.push(Completion {
                connection,
                intended,
                first_byte: None,
                body_bytes: 0,
                outcome: Err(Failure::Connection),
            }),
        }
    }

    /// Closes a connection. Nothing is heard of it again, nor of what still ran on it.
    pub fn close(&mut self, connection: usize, now: Instant) {
        if let Some(peer) = self.peers.get_mut(connection).and_then(Option::as_mut) {
            peer.connection.close(now, NO_ERROR, Bytes::new());
            self.mark(connection);
        }
    }

    /// Closes everything and sends the last packets.
    ///
    /// # Errors
    /// From a socket.
    pub fn close_all(&mut self, now: Instant) -> Result<()> {
        for index in 0..self.peers.len() {
            self.close(index, now);
        }
        self.flush(now)
    }

    /// Runs expired timers and sends what the connections have to send.
    ///
    /// # Errors
    /// From a socket.
    pub fn flush(&mut self, now: Instant) -> Result<()> {
        self.expire(now);
        while let Some(index) = self.dirty.pop() {
            self.settle(index, now)?;
        }
        for socket in &mut self.sockets {
            socket.flush().context("cannot send")?;
        }
        Ok(())
    }

    /// Takes what has arrived. With nothing there, waits until `until`, the next timer or a
    /// datagram, spinning for the first `spin`.
    ///
    /// # Errors
    /// From a socket.
    pub fn receive(&mut self, until: Instant, spin: Duration) -> Result<Instant> {
        let mut now = Instant::now();
        let until = self.next_timer().map_or(until, |timer| timer.min(until));
        let spin_until = until.min(now + spin);
        loop {
            if self.receive_now(now)? || now >= until {
                return Ok(now);
            }
            if now >= spin_until {
                self.sleep(until - now)?;
                let now = Instant::now();
                self.receive_now(now)?;
                return Ok(now);
            }
            std::hint::spin_loop();
            now = Instant::now();
        }
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        let mut fds: Vec<PollFd> = self
            .sockets
            .iter()
            .map(|s| PollFd::new(s.fd(), PollFlags::POLLIN))
            .collect();
        let millis = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for datagrams"),
        }
    }

    /// Whether anything arrived.
    fn receive_now(&mut self, now: Instant) -> Result<bool> {
        let mut any = false;
        for index in 0..self.sockets.len() {
            for _ in 0..MAX_BATCHES {
                let Self {
                    sockets,
                    endpoint,
                    peers,
                    dirty,
                    scratch,
                    remote,
                    ..
                } = self;
                let more = sockets[index].receive(|datagram| {
                    any = true;
                    if let Some(at) = handle(endpoint, peers, scratch, now, *remote, datagram) {
                        mark(peers, dirty, at);
                    }
                });
                if !more.context("cannot receive")? {
                    break;
                }
            }
        }
        if any {
            for at in 0..self.dirty.len() {
                let index = self.dirty[at];
                if let Some(peer) = self.peers[index].as_mut() {
                    peer.process(now, &mut self.shared, &mut self.changes);
                }
            }
        }
        Ok(any)
    }

    fn mark(&mut self, index: usize) {
        mark(&mut self.peers, &mut self.dirty, index);
    }

    /// Sends what one connection has to send and keeps its timer; forgets it when it is over.
    fn settle(&mut self, index: usize, now: Instant) -> Result<()> {
        let Some(peer) = self.peers[index].as_mut() else {
            return Ok(());
        };
        peer.dirty = false;
        let mut drained = false;
        loop {
            // First, since timers and local closes tell of themselves by these too.
            peer.process(now, &mut self.shared, &mut self.changes);
            while let Some(event) = peer.connection.poll_endpoint_events() {
                drained |= event.is_drained();
                if let Some(event) = self.endpoint.handle_event(ConnectionHandle(index), event) {
                    peer.connection.handle_event(event);
                }
            }
            self.scratch.clear();
            let Some(transmit) =
                peer.connection
                    .poll_transmit(now, MAX_SEGMENTS, &mut self.scratch)
            else {
                break;
            };
            let socket = &mut self.sockets[peer.socket];
            socket
                .send(&self.scratch[..transmit.size], transmit.segment_size)
                .context("cannot send")?;
        }
        if drained {
            self.peers[index] = None;
        } else if let Some(timer) = peer.connection.poll_timeout()
            && peer.timer.is_none_or(|queued| timer < queued)
        {
            peer.timer = Some(timer);
            self.timers.push(Reverse((timer, index)));
        }
        Ok(())
    }

    fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((timer, _))| *timer)
    }

    /// A timer that moved later since it was queued is queued again; one that moved earlier was
    /// queued twice, and its later entry is passed over.
    fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((timer, index))) = self.timers.peek()
            && timer <= now
        {
            self.timers.pop();
            let Some(peer) = self.peers[index]
                .as_mut()
                .filter(|p| p.timer == Some(timer))
            else {
                continue;
            };
            peer.timer = None;
            match peer.connection.poll_timeout() {
                Some(due) if due <= now => {
                    peer.connection.handle_timeout(now);
                    self.mark(index);
                }
                Some(due) => {
                    peer.timer = Some(due);
                    self.timers.push(Reverse((due, index)));
                }
                None => {}
            }
        }
    }
}

fn mark(peers: &mut [Option<Box<Peer>>], dirty: &mut Vec<usize>, index: usize) {
    if let Some(peer) = peers.get_mut(index).and_then(Option::as_mut)
        && !peer.dirty
    {
        peer.dirty = true;
        dirty.push(index);
    }
}

/// Routes one datagram; names the connection that it reached.
fn handle(
    endpoint: &mut Endpoint,
    peers: &mut [Option<Box<Peer>>],
    scratch: &mut Vec<u8>,
    now: Instant,
    remote: SocketAddr,
    datagram: BytesMut,
) -> Option<usize> {
    scratch.clear();
    // A client sends nothing for datagrams that belong to no connection, so other events are let go.
    let Some(DatagramEvent::ConnectionEvent(handle, event)) =
        endpoint.handle(now, remote, None, None, datagram, scratch)
    else {
        return None;
    };
    peers
        .get_mut(handle.0)?
        .as_mut()?
        .connection
        .handle_event(event);
    Some(handle.0)
}
