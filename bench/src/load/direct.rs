//! The load client without sockets: its connections, and a clock that the caller turns.
//!
//! What the server should get is handed out as datagrams, what it answers is handed in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig};

use super::engine::{Completion, NO_ERROR, Shared};
use super::peer::Peer;
use super::qpack::Heads;
use super::targets::Targets;

/// Segments of one send.
const MAX_SEGMENTS: usize = 16;

/// Connections to one server.
pub(crate) struct Direct {
    endpoint: Endpoint,
    peers: Vec<Peer>,
    server: SocketAddr,
    shared: Shared,
    scratch: Vec<u8>,
    /// Connections that came about.
    pub(crate) ready: usize,
    /// Why connections were lost.
    pub(crate) lost: Vec<String>,
}

impl Direct {
    /// `seed` fixes the endpoint's random choices.
    pub(crate) fn new(server: SocketAddr, targets: Targets, seed: [u8; 32]) -> Self {
        let mut config = EndpointConfig::default();
        config.rng_seed(Some(seed));
        Self {
            endpoint: Endpoint::new(Arc::new(config), None, false, Some(seed)),
            peers: Vec::new(),
            server,
            shared: Shared {
                heads: Heads::new(),
                targets,
                completed: Vec::new(),
            },
            scratch: Vec::new(),
            ready: 0,
            lost: Vec::new(),
        }
    }

    /// # Errors
    /// Where TLS 1.3 is not to be had.
    pub(crate) fn connect(&mut self, now: Instant, connections: usize) -> Result<()> {
        let client = super::tls::client_config()?;
        for _ in 0..connections {
            let (handle, connection) = self
                .endpoint
                .connect(now, client.clone(), self.server, "edge.test")
                .context("cannot connect")?;
            self.peers.push(Peer::new(handle.0, connection, 0, now));
        }
        Ok(())
    }

    /// Asks for target `key` on a connection.
    pub(crate) fn request(&mut self, connection: usize, key: usize, now: Instant) {
        self.peers[connection].request(key, now, &mut self.shared);
    }

    /// Takes what the server sent.
    pub(crate) fn receive(&mut self, now: Instant, datagram: BytesMut) {
        self.scratch.clear();
        let event = self
            .endpoint
            .handle(now, self.server, None, None, datagram, &mut self.scratch);
        if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event {
            self.peers[handle.0].connection.handle_event(event);
        }
    }

    /// Reads what came, fires timers, and hands out what is to be sent: connection, datagram.
    pub(crate) fn drive(&mut self, now: Instant, mut send: impl FnMut(usize, &[u8])) {
        let mut changes = Vec::new();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let due = peer.connection.poll_timeout();
            if due.is_some_and(|due| due <= now) {
                peer.connection.handle_timeout(now);
            }
            peer.process(now, &mut self.shared, &mut changes);
            loop {
                self.scratch.clear();
                let buffer = &mut self.scratch;
                let Some(sent) = peer.connection.poll_transmit(now, MAX_SEGMENTS, buffer) else {
                    break;
                };
                let segment = sent.segment_size.unwrap_or(sent.size);
                buffer[..sent.size]
                    .chunks(segment)
                    .for_each(|datagram| send(index, datagram));
            }
            while let Some(event) = peer.connection.poll_endpoint_events() {
                let answer = self.endpoint.handle_event(ConnectionHandle(index), event);
                if let Some(event) = answer {
                    peer.connection.handle_event(event);
                }
            }
        }
        for change in changes {
            match change {
                super::engine::Change::Ready { .. } => self.ready += 1,
                super::engine::Change::Lost { reason, .. } => self.lost.push(reason),
            }
        }
    }

    /// Closes all connections; what says so is for the next [`Direct::drive`].
    pub(crate) fn close(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.connection.close(now, NO_ERROR, Bytes::new());
        }
    }

    /// The requests that ended since the last call.
    pub(crate) fn take_completed(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.shared.completed)
    }
}
