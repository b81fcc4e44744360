//! QUIC without I/O: the connections of one shard over quinn-proto.
//!
//! Owns the endpoint, the connection table, the timers and the list of connections that have
//! something to do. A connection is taken out of the table while the shard works on it, and put
//! back; its [`ConnId`] carries a generation, so that a late note for a connection that is gone
//! cannot reach its successor in the same slot.
//!
//! ```text
//!   slots: [ Some(Box<Conn>) | None (taken or free) ... ]   index = quinn-proto's handle
//!   dirty: handles with events to read or packets to write, each at most once
//!   timers: a connection is armed once; a later deadline re-arms when the earlier one fires
//! ```

mod arrivals;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
pub use cache_ebpf::cid::CidKeys;
use cache_ebpf::cid::{self, CID_LEN, CidKey};
use cache_ebpf::siphash::siphash13;
use foldhash::fast::FixedState;
use quinn_proto::congestion::BbrConfig;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    AckFrequencyConfig, Connection, ConnectionHandle, ConnectionId, ConnectionIdGenerator,
    DatagramEvent, Endpoint, EndpointConfig, IdleTimeout, InvalidCid, MtuDiscoveryConfig,
    ServerConfig, StreamId, TransportConfig, ValidationTokenConfig, VarInt,
};

use arrivals::Arrivals;

use crate::config::Limits;
use crate::conn::client::Updates;
use crate::conn::h3;
use crate::conn::stream::Stream;
use crate::io::{Datagram, Outbox, ShardId, Transmit};
use crate::stats::ShardStats;

/// Datagrams in one transmit at most: 44 of 1,452 bytes stay below the 65,507 bytes of one
/// segmented send.
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that an Ethernet path of 1,500 bytes carries over IPv6.
const MTU_UPPER_BOUND: u16 = 1_452;

/// Unidirectional streams a client may have open: control, QPACK encoder and decoder, and room for
/// the reserved types that a client may open to grease us.
const MAX_UNI_STREAMS: u32 = 16;

/// Receive windows: requests are small, and their bodies are not kept.
const STREAM_RECEIVE_WINDOW: u32 = 64 << 10;
const RECEIVE_WINDOW: u32 = 256 << 10;

/// Ack-eliciting packets that a client may take before it must acknowledge, where it understands
/// the acknowledgement frequency extension. A response of 4 KB is three packets: with QUIC's default
/// of one in two, most of what a client sends would be acknowledgements. Loss is still told at once.
const ACK_THRESHOLD: u32 = 8;

/// Bytes that a path must have carried before its MTU is looked for: a client that comes for one small object is
/// gone by then, and would have cost a probe that nothing was gained by.
const PROBE_MTU_AFTER: u64 = 16 << 10;

/// A connection without a request whose next deadline is at least so far away is at rest: nothing of it is lost or
/// unacknowledged.
const REST: Duration = Duration::from_secs(1);

/// A close reason goes on the wire, so it is short.
const MAX_CLOSE_REASON: usize = 64;

/// What all shards of a node have in common: certificates, token and reset keys, CID keys.
#[derive(Clone)]
pub struct QuicSetup {
    server: Arc<ServerConfig>,
    endpoint: EndpointConfig,
    cids: CidKeys,
    active: (u8, CidKey),
    cid_lifetime: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the TLS configuration has no cipher suite for QUIC's Initial packets (AES-128-GCM)")]
    NoInitialCipherSuite,
    #[error("limits.{0} is larger than QUIC can express (2^62 - 1)")]
    LimitTooLarge(&'static str),
    #[error("no connection id key is active")]
    NoActiveKey,
}

/// How fast answers are sent, as far as the network lets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438: what every client's network has met before.
    Cubic,
    /// The QUIC library calls its implementation experimental.
    Bbr,
}

impl QuicSetup {
    /// Made once for a node and cloned for each shard, so that every shard accepts the address
    /// tokens and recognises the stateless resets of the others.
    pub fn new(
        tls: Arc<rustls::ServerConfig>,
        cids: CidKeys,
        limits: &Limits,
    ) -> Result<Self, SetupError> {
        Self::with_congestion(tls, cids, limits, Congestion::Cubic)
    }

    /// The same with another control of congestion.
    pub fn with_congestion(
        tls: Arc<rustls::ServerConfig>,
        cids: CidKeys,
        limits: &Limits,
        congestion: Congestion,
    ) -> Result<Self, SetupError> {
        let mut transport = transport(limits)?;
        if congestion == Congestion::Bbr {
            transport.congestion_controller_factory(Arc::<BbrConfig>::default());
        }
        let active = cids.active().ok_or(SetupError::NoActiveKey)?;
        let crypto =
            QuicServerConfig::try_from(tls).map_err(|_| SetupError::NoInitialCipherSuite)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        // For a client's next visit, on which it is given another.
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(1);
        server
            .validation_token_config(tokens)
            .transport_config(Arc::new(transport))
            .migration(true)
            .max_incoming(limits.max_connections);
        Ok(Self {
            server: Arc::new(server),
            endpoint: EndpointConfig::default(),
            cids,
            active,
            cid_lifetime: None,
        })
    }

    /// After `lifetime` a connection is given other ids and asked to let go of the old ones.
    pub fn with_cid_lifetime(self, lifetime: Duration) -> Self {
        Self {
            cid_lifetime: Some(lifetime),
            ..self
        }
    }
}

fn transport(limits: &Limits) -> Result<TransportConfig, SetupError> {
    let idle = IdleTimeout::try_from(limits.idle_timeout)
        .map_err(|_| SetupError::LimitTooLarge("idle_timeout"))?;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_UPPER_BOUND)
        .probe_after(PROBE_MTU_AFTER);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
    let mut transport = TransportConfig::default();
    transport
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.max_streams_per_connection))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_UNI_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(limits.send_window)
        // A small object is finished before the next is begun (RFC 9218's default): fewer frames,
        // and the first viewer is served first.
        .send_fairness(false)
        .mtu_discovery_config(Some(mtu))
        .allow_spin(false)
        .datagram_receive_buffer_size(None)
        .forget_handshake(true)
        .confirm_close(false)
        .enable_segmentation_offload(true);
    Ok(transport)
}

/// Names a connection of this shard for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnId {
    handle: u32,
    generation: u32,
}

/// One connection and its HTTP/3 state.
pub struct Conn {
    pub id: ConnId,
    pub quic: Connection,
    pub h3: h3::Connection,
    /// Our control stream, once the handshake let us open it.
    pub control: Option<StreamId>,
    /// Requests that are still being read or answered. At most `max_streams_per_connection` of ids
    /// that QUIC counts up, so a fixed hash is safe, and makes a simulation repeatable.
    pub streams: HashMap<StreamId, Stream, FixedState>,
    /// What the client has said of the order of answers, beside its requests.
    pub updates: Updates,
    /// Request streams accepted.
    pub requests_seen: u64,
    pub farewell: Farewell,
    /// It counts as one whose handshake goes on.
    handshaking: bool,
    dirty: bool,
    /// The deadline of this connection's entry in the timer heap, if it has one.
    armed: Option<Instant>,
}

impl Conn {
    /// Ends the connection with an HTTP/3 or QUIC application error code.
    pub fn close(&mut self, now: Instant, code: u64, reason: &str) {
        let reason = &reason.as_bytes()[..reason.len().min(MAX_CLOSE_REASON)];
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.quic.close(now, code, Bytes::copy_from_slice(reason));
    }

    /// Gives back what is only of use while something is under way, unless something is.
    fn rest(&mut self) {
        if self.streams.is_empty() {
            self.streams.shrink_to_fit();
            self.quic.shrink_to_fit();
        }
    }
}

/// How far a connection has been told to end (RFC 9114 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    Unsaid,
    /// GOAWAY with the largest id was sent: the client opens another connection, and what it had asked for
    /// before it heard of that is served until then.
    Announced {
        until: Instant,
    },
    /// GOAWAY with the id of the first request that is not accepted was sent.
    Said,
}

impl Farewell {
    fn is_due(self, now: Instant) -> bool {
        matches!(self, Self::Announced { until } if until <= now)
    }
}

/// Where a datagram belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Mine,
    Other(ShardId),
    /// A short header whose connection id was made by no key of ours.
    Forged,
}

pub struct Quic {
    endpoint: Endpoint,
    shard: ShardId,
    shards: u8,
    cids: CidKeys,
    /// The same keys, where the endpoint's generator finds them.
    shared_cids: Arc<ArcSwap<CidKeys>>,
    slots: Vec<Option<Box<Conn>>>,
    generation: u32,
    /// Where [`Quic::take_next`] stands.
    cursor: usize,
    open: usize,
    max_open: usize,
    /// Those of the open connections whose handshake goes on.
    handshaking: usize,
    retry_above: usize,
    arrivals: Arrivals,
    max_arrivals: usize,
    draining: bool,
    h3_limits: h3::Limits,
    dirty: VecDeque<ConnectionHandle>,
    timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Quic {
    /// `seed` fixes every random choice of the endpoint (simulation only).
    pub fn new(
        setup: &QuicSetup,
        shard: ShardId,
        shards: u8,
        limits: &Limits,
        seed: [u8; 32],
        deterministic: bool,
    ) -> Self {
        let mut endpoint = setup.endpoint.clone();
        let shared_cids = Arc::new(ArcSwap::from_pointee(setup.cids));
        let made_with = Arc::clone(&shared_cids);
        let (active, lifetime) = (setup.active, setup.cid_lifetime);
        endpoint.cid_generator(move || {
            Box::new(CidGenerator {
                cids: Arc::clone(&made_with),
                active,
                lifetime,
                shard,
                nonce_key: nonce_key(shard, &seed),
                counter: 0,
            })
        });
        Self {
            endpoint: Endpoint::new(
                Arc::new(endpoint),
                Some(Arc::clone(&setup.server)),
                true,
                deterministic.then_some(seed),
            ),
            shard,
            shards,
            cids: setup.cids,
            shared_cids,
            slots: Vec::new(),
            generation: 0,
            cursor: 0,
            open: 0,
            max_open: limits.max_connections,
            handshaking: 0,
            retry_above: limits.retry_above,
            arrivals: Arrivals::default(),
            max_arrivals: limits.max_arrivals,
            draining: false,
            h3_limits: h3::Limits {
                max_field_section: limits.max_field_section,
            },
            dirty: VecDeque::new(),
            timers: BinaryHeap::new(),
        }
    }

    pub fn open_connections(&self) -> usize {
        self.open
    }

    /// Goes by other keys of connection ids from now on.
    pub fn set_cids(&mut self, cids: CidKeys) {
        self.cids = cids;
        self.shared_cids.store(Arc::new(cids));
    }

    /// How many connections there may be, from how many handshakes on new clients are asked to retry, and how
    /// many of them may wait.
    pub fn set_limits(&mut self, limits: &Limits) {
        self.max_open = limits.max_connections;
        self.retry_above = limits.retry_above;
        self.max_arrivals = limits.max_arrivals;
    }

    /// From now on every new connection is refused.
    pub fn refuse_new(&mut self) {
        self.draining = true;
    }

    /// Decides by the connection id alone, before the endpoint sees the datagram. A client's own
    /// first id is random and passes for ours with a chance of 2^-32.
    pub fn route(&self, data: &[u8]) -> Route {
        let Some(&first) = data.first() else {
            return Route::Forged;
        };
        let (dcid, short) = if first & 0x80 == 0 {
            (data.get(1..1 + CID_LEN), true)
        } else if data.get(5).copied() == Some(CID_LEN as u8) {
            (data.get(6..6 + CID_LEN), false)
        } else {
            (None, false)
        };
        match dcid.and_then(|dcid| cid::open(&self.cids, dcid)) {
            Some(shard) if shard == self.shard || shard >= self.shards => Route::Mine,
            Some(shard) => Route::Other(shard),
            None if short => Route::Forged,
            None => Route::Mine,
        }
    }

    /// Hands a datagram of ours to its connection, which becomes dirty, or to the endpoint, which
    /// may have a new client wait for its handshake or answer at once.
    pub fn datagram(
        &mut self,
        now: Instant,
        datagram: Datagram,
        out: &mut Outbox,
        stats: &ShardStats,
    ) {
        let mut buffer = out.buffer();
        let data = match datagram.data.first() {
            Some(first) if first & 0x80 != 0 => self.arrivals.own(datagram.data),
            _ => datagram.data,
        };
        let event = self.endpoint.handle(
            now,
            datagram.remote,
            datagram.local_ip,
            datagram.ecn,
            data,
            &mut buffer,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(conn) = self.slots.get_mut(handle.0).and_then(Option::as_mut) {
                    conn.quic.handle_event(event);
                    mark(&mut self.dirty, conn, handle);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                return self.incoming(now, incoming, buffer, out, stats);
            }
            Some(DatagramEvent::Response(transmit)) => {
                return send(transmit, buffer, out, stats);
            }
            None => {}
        }
        out.recycle(buffer);
    }

    fn insert(&mut self, handle: ConnectionHandle, quic: Connection) {
        self.generation = self.generation.wrapping_add(1);
        let mut conn = Box::new(Conn {
            id: ConnId {
                handle: handle.0 as u32,
                generation: self.generation,
            },
            quic,
            h3: h3::Connection::new(self.h3_limits),
            control: None,
            streams: HashMap::default(),
            updates: Updates::default(),
            requests_seen: 0,
            farewell: Farewell::Unsaid,
            handshaking: true,
            dirty: false,
            armed: None,
        });
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        mark(&mut self.dirty, &mut conn, handle);
        debug_assert!(self.slots[handle.0].is_none(), "a live slot was reused");
        self.slots[handle.0] = Some(conn);
        self.open += 1;
        self.handshaking += 1;
    }

    /// The next connection with something to do; [`Quic::put_back`] returns it.
    pub fn take_dirty(&mut self) -> Option<Box<Conn>> {
        while let Some(handle) = self.dirty.pop_front() {
            if let Some(mut conn) = self.slots.get_mut(handle.0).and_then(Option::take) {
                conn.dirty = false;
                return Some(conn);
            }
        }
        None
    }

    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// New clients wait for their handshake to begin.
    pub fn has_arrivals(&self) -> bool {
        self.arrivals.len() > 0
    }

    /// Takes a live connection out by name.
    pub fn take(&mut self, id: ConnId) -> Option<Box<Conn>> {
        let slot = self.slots.get_mut(id.handle as usize)?;
        if slot.as_ref()?.id != id {
            return None;
        }
        slot.take()
    }

    /// Slots of the table, free ones too.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Takes out the connection of the next slot, round and round; `None` where the slot is free.
    pub fn take_next(&mut self) -> Option<Box<Conn>> {
        self.cursor = (self.cursor + 1) % self.slots.len().max(1);
        self.slots.get_mut(self.cursor)?.take()
    }

    /// Puts a connection back that has nothing new to do.
    pub fn put_back(&mut self, conn: Box<Conn>) {
        let index = conn.id.handle as usize;
        self.slots[index] = Some(conn);
    }

    /// Every live connection's name.
    pub fn ids(&self) -> Vec<ConnId> {
        self.slots.iter().flatten().map(|conn| conn.id).collect()
    }

    /// Puts a connection back and has it looked at in the next turn.
    pub fn put_back_dirty(&mut self, mut conn: Box<Conn>) {
        let handle = ConnectionHandle(conn.id.handle as usize);
        mark(&mut self.dirty, &mut conn, handle);
        self.slots[handle.0] = Some(conn);
    }

    /// Writes what `budget` allows of a connection, then puts it back: dirty if the budget ended
    /// first. Returns the connection itself if it has ended (its streams are then the caller's to
    /// forget).
    pub fn finish(
        &mut self,
        now: Instant,
        mut conn: Box<Conn>,
        budget: &mut SendBudget,
        out: &mut Outbox,
        stats: &ShardStats,
    ) -> Option<Box<Conn>> {
        let handle = ConnectionHandle(conn.id.handle as usize);
        let exhausted = loop {
            if budget.is_spent() {
                break true;
            }
            let mut buffer = out.buffer();
            match conn.quic.poll_transmit(now, MAX_SEGMENTS, &mut buffer) {
                Some(transmit) => {
                    budget.spend(transmit.size);
                    send(transmit, buffer, out, stats);
                    if conn.quic.is_transmit_drained() {
                        break false;
                    }
                }
                None => {
                    out.recycle(buffer);
                    break false;
                }
            }
        };
        let drained = self.endpoint_events(handle, &mut conn);
        if conn.handshaking && (drained || !conn.quic.is_handshaking()) {
            conn.handshaking = false;
            self.handshaking -= 1;
            stats.handshakes.set(self.handshaking as u64);
        }
        if drained {
            self.open -= 1;
            stats.connections.set(self.open as u64);
            return Some(conn);
        }
        self.arm(&mut conn, now);
        if exhausted {
            mark(&mut self.dirty, &mut conn, handle);
        }
        self.slots[handle.0] = Some(conn);
        None
    }

    /// Carries messages between connection and endpoint; true when the connection has drained.
    fn endpoint_events(&mut self, handle: ConnectionHandle, conn: &mut Conn) -> bool {
        while let Some(event) = conn.quic.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                conn.quic.handle_event(event);
            }
            if drained {
                return true;
            }
        }
        false
    }

    /// A later deadline waits for the earlier entry to fire, which then re-arms: most deadlines move
    /// away with every packet and never cost a heap operation.
    fn arm(&mut self, conn: &mut Conn, now: Instant) {
        let Some(deadline) = conn.quic.poll_timeout() else {
            return;
        };
        if conn.armed.is_none_or(|armed| deadline < armed) {
            conn.armed = Some(deadline);
            self.timers
                .push(Reverse((deadline, conn.id.handle, conn.id.generation)));
            if deadline >= now + REST {
                conn.rest();
            }
        }
    }

    /// Has a connection that was told to end looked at again when its farewell is due.
    pub fn wake_for_farewell(&mut self, conn: &Conn) {
        if let Farewell::Announced { until } = conn.farewell {
            let entry = (until, conn.id.handle, conn.id.generation);
            self.timers.push(Reverse(entry));
        }
    }

    /// Fires what is due; the connections concerned become dirty.
    pub fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((deadline, handle, generation))) = self.timers.peek() {
            if deadline > now {
                break;
            }
            self.timers.pop();
            let id = ConnId { handle, generation };
            let Some(mut conn) = self.take(id) else {
                continue;
            };
            if conn.farewell.is_due(now) {
                mark(
                    &mut self.dirty,
                    &mut conn,
                    ConnectionHandle(handle as usize),
                );
            }
            // An entry that a nearer deadline has overtaken: that one fires in its own time.
            if conn.armed == Some(deadline) {
                conn.armed = None;
                if conn.quic.poll_timeout().is_some_and(|due| due <= now) {
                    conn.quic.handle_timeout(now);
                    mark(
                        &mut self.dirty,
                        &mut conn,
                        ConnectionHandle(handle as usize),
                    );
                } else {
                    self.arm(&mut conn, now);
                }
            }
            self.slots[handle as usize] = Some(conn);
        }
    }

    /// When [`Quic::expire`] is due next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers
            .peek()
            .map(|Reverse((deadline, _, _))| *deadline)
    }
}

fn mark(dirty: &mut VecDeque<ConnectionHandle>, conn: &mut Conn, handle: ConnectionHandle) {
    if !conn.dirty {
        conn.dirty = true;
        dirty.push_back(handle);
    }
}

/// What may be sent before the shard looks at what has arrived since.
#[derive(Clone, Copy, Debug)]
pub struct SendBudget {
    pub transmits: usize,
    /// The transmit that reaches it is the last.
    pub bytes: usize,
}

impl SendBudget {
    pub fn is_spent(self) -> bool {
        self.transmits == 0 || self.bytes == 0
    }

    fn spend(&mut self, bytes: usize) {
        self.transmits -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

fn send(transmit: quinn_proto::Transmit, data: Vec<u8>, out: &mut Outbox, stats: &ShardStats) {
    debug_assert_eq!(transmit.size, data.len());
    stats.transmits.inc();
    stats.transmit_bytes.add(data.len() as u64);
    out.transmits.push(Transmit {
        destination: transmit.destination,
        src_ip: transmit.src_ip as Option<IpAddr>,
        ecn: transmit.ecn,
        segment_size: transmit.segment_size,
        data,
    });
}

/// Makes connection ids that name their shard.
///
/// The nonce is a keyed hash of a counter: ids do not repeat, and an observer cannot tell which
/// belong together.
struct CidGenerator {
    cids: Arc<ArcSwap<CidKeys>>,
    /// The latest key that ids were to be made with.
    active: (u8, CidKey),
    lifetime: Option<Duration>,
    shard: ShardId,
    nonce_key: [u64; 2],
    counter: u64,
}

fn nonce_key(shard: ShardId, seed: &[u8; 32]) -> [u64; 2] {
    let word = |at: usize| {
        seed[at..at + 8]
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    [word(0) ^ u64::from(shard), word(8)]
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        self.counter += 1;
        let hash = siphash13(self.nonce_key, self.counter).to_le_bytes();
        let nonce = [hash[0], hash[1], hash[2], hash[3], hash[4], hash[5]];
        self.active = self.cids.load().active().unwrap_or(self.active);
        let (key_id, key) = &self.active;
        ConnectionId::new(&cid::seal(key, *key_id, self.shard, nonce))
    }

    /// Rejects other shards' ids too: a misrouted packet must not draw a stateless reset that its
    /// client would believe.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match cid::open(&self.cids.load(), id) {
            Some(shard) if shard == self.shard => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}
