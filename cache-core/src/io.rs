//! Every effect a shard has, on one page.
//!
//! ```text
//!            Input                                   Outbox
//!  datagrams ------.                          .----> transmits  (UDP | AF_XDP)
//!  lane messages --+--> Shard::handle(now) ---+----> lane messages to other shards
//!  fetch events ---+                          +----> fetch commands to the upstream
//!  disk answers ---+                          +----> disk commands to the tier's drives
//!  TCP requests ---+                          +----> their answers, in pieces
//!  commands -------'                          '----> replies to commands
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use cache_ebpf::cid::CidKeys;
use http::{HeaderMap, Method, StatusCode};
pub use quinn_proto::EcnCodepoint;

use crate::config::Policy;
use crate::http::explain::Seen;
pub use crate::shard::{PinError, PinnedKey};
pub use crate::store::{PinStats, Pinned};
pub use crate::tier::{DiskCommand, DiskDone};

/// The time as a shard is told it. It never asks a clock itself.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time: timers, round trips.
    pub mono: Instant,
    /// Milliseconds since the Unix epoch: Date, Age, Expires.
    pub unix_ms: u64,
}

/// A shard's number: `0..shards`. Also the number of its core and of its NIC queue.
pub type ShardId = u8;

/// An index into [`crate::config::ShardConfig::origins`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginId(pub u16);

/// Names a fetch of one shard. Never reused while the shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// What happens to a shard.
#[derive(Debug)]
pub enum Input {
    /// A UDP payload arrived on this shard's queue or socket.
    Datagram(Datagram),
    /// Another shard wrote to us.
    Lane {
        from: ShardId,
        message: crate::shard::LaneMessage,
    },
    /// The upstream has news of a fetch that this shard started.
    Fetch { id: FetchId, event: FetchEvent },
    /// A command of [`Outbox::disk`] was carried out.
    Disk(DiskDone),
    /// News of a request that the shell took from a TCP connection.
    Request { id: RequestId, event: RequestEvent },
    /// The control thread asks for something; answered by [`Outbox::replies`] with the same `id`.
    Command { id: u64, command: Command },
    /// The shell has nothing more to hand over in this turn of its loop. The shard now expires
    /// timers, moves bytes, writes at most `max_transmits` transmits and announces quiescence to
    /// the arenas.
    Turn { max_transmits: usize },
}

/// One UDP payload.
#[derive(Debug)]
pub struct Datagram {
    pub remote: SocketAddr,
    /// The address it was sent to, where the shell knows it.
    pub local_ip: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    pub data: BytesMut,
}

/// What a shard wants done. The shell drains it after each [`Input`] (transmits, lanes, fetches,
/// replies and disk commands may be carried out in any order between the five, in order within each).
#[derive(Debug, Default)]
pub struct Outbox {
    pub transmits: Vec<Transmit>,
    pub lanes: Vec<(ShardId, crate::shard::LaneMessage)>,
    pub fetches: Vec<FetchCommand>,
    pub replies: Vec<(u64, Reply)>,
    /// For the tier's drives; each is answered by one [`Input::Disk`].
    pub disk: Vec<DiskCommand>,
    /// For requests over TCP, each one's in order.
    pub answers: Vec<(RequestId, AnswerEvent)>,
    /// Empty buffers given back by the shell for the next transmits.
    spare: Vec<Vec<u8>>,
}

/// Buffers kept for reuse by one outbox.
const MAX_SPARE: usize = 256;

impl Outbox {
    /// Takes an empty transmit buffer, a used one if there is any.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a transmit's buffer back once it was sent.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// Bytes to one destination: one datagram, or several of `segment_size` bytes each (the last may
/// be shorter) to be sent by segmentation offload.
#[derive(Debug)]
pub struct Transmit {
    pub destination: SocketAddr,
    pub src_ip: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    /// `None`: `data` is one datagram.
    pub segment_size: Option<usize>,
    pub data: Vec<u8>,
}

/// Names a request that came over TCP. Chosen by the shell, and never used again while the shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What the shell says of a request over TCP.
#[derive(Debug)]
pub enum RequestEvent {
    /// Answered by any number of [`AnswerEvent::Interim`], at most one `Head`, any number of `Body`, and one `End` or `Failed`,
    /// after which the shard has forgotten the request.
    Begin(Box<ClientRequest>),
    /// This many body bytes of the answer were passed on: as many more may be given to the shell,
    /// beyond the first `limits.tcp_answer_window`.
    Room(u32),
    /// More of a body that is streamed, within what [`AnswerEvent::Room`] has allowed. Nothing where the
    /// request was answered meanwhile.
    Body(Bytes),
    /// That was all of it.
    BodyEnd,
    /// The client is gone, or wants no more. Nothing follows.
    Cancel,
}

/// A request as HTTP/1.1 or HTTP/2 brought it. The shard checks it as it does those of HTTP/3.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    pub method: Method,
    /// It came over TLS.
    pub secure: bool,
    /// Host, or the authority of the request's target.
    pub authority: Bytes,
    /// Path and query; `*` for OPTIONS.
    pub target: Bytes,
    /// Without Host and without what concerns only the hop.
    pub headers: HeaderMap,
    pub body: RequestBody,
}

/// The body of a request that is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// All of it; empty for none.
    Whole(Bytes),
    /// It follows in pieces, no more of them ahead than `limits.upload_window` bytes.
    Streamed {
        /// As the client declared it.
        length: Option<u64>,
    },
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

/// A piece of the answer to a request over TCP.
#[derive(Debug)]
pub enum AnswerEvent {
    /// A response before the final one (1xx). Before `Head`, any number of times.
    Interim {
        status: StatusCode,
        headers: HeaderMap,
    },
    Head {
        status: StatusCode,
        headers: HeaderMap,
    },
    /// Perhaps a view of the arena: not to be kept for long.
    Body(Bytes),
    /// This many body bytes of the request were passed on: as many more may be given to the shard, beyond
    /// the first `limits.upload_window`.
    Room(u32),
    End,
    /// Cut off: the client must be able to tell.
    Failed,
}

/// What a shard asks of the upstream.
#[derive(Debug)]
pub enum FetchCommand {
    /// Answered by exactly one [`FetchEvent::Head`], then any number of `Body`, then one `End`; or
    /// at any point by one `Failed`. Nothing follows `End` or `Failed`.
    Start {
        id: FetchId,
        request: Box<FetchRequest>,
    },
    /// `bytes` more body bytes may be delivered. A fetch starts with `FetchRequest::window`.
    Credit { id: FetchId, bytes: u32 },
    /// More of a request's body that is streamed.
    Body { id: FetchId, bytes: Bytes },
    /// That was all of it.
    BodyEnd { id: FetchId },
    /// Nobody waits any more. Events already on their way are ignored by the shard.
    Cancel { id: FetchId },
}

#[derive(Debug)]
pub struct FetchRequest {
    pub origin: OriginId,
    pub method: Method,
    /// The client's authority (goes to the origin as Host).
    pub authority: Bytes,
    /// Path and query, starting with `/`.
    pub target: Bytes,
    /// End-to-end fields to send. The upstream adds Host, Via and hop-by-hop fields itself.
    pub headers: HeaderMap,
    /// A response that is not coded may be compressed as its Accept-Encoding says.
    pub compress: bool,
    pub body: RequestBody,
    /// Body bytes that may be delivered before any [`FetchCommand::Credit`].
    pub window: u32,
}

#[derive(Debug)]
pub enum FetchEvent {
    /// What a 103 (Early Hints) has for clients ([`crate::http::interim`]). May be lost; one that comes
    /// after the head is of no more use.
    Hints(HeaderMap),
    /// The final response head (no 1xx). Hop-by-hop fields are already removed.
    Head {
        status: StatusCode,
        headers: HeaderMap,
        /// The declared length of the body, where one was declared.
        length: Option<u64>,
    },
    /// Never longer than 64 KiB.
    Body(Bytes),
    /// So many body bytes of the request were sent on; before, between or after the answer's own pieces.
    Room(u32),
    /// The body ended as its framing said it would.
    End,
    Failed(FetchError),
}

/// Why a fetch failed, in the terms of RFC 9209 section 2.3.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind:?}: {detail}")]
pub struct FetchError {
    pub kind: FetchErrorKind,
    /// What, where and what to do, for the log.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    DnsError,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionTerminated,
    TlsError,
    /// The origin's certificate is not one to be trusted.
    TlsCertificate,
    /// The head took longer than the first-byte timeout.
    ResponseTimeout,
    /// The body paused longer than the idle timeout, or the whole took too long.
    BodyTimeout,
    /// Fewer or more body bytes than declared.
    ResponseIncomplete,
    ProtocolError,
    /// A bound of the upstream itself was reached (fetches or connections).
    LimitReached,
    /// Nothing was asked: every node that could have been is known not to answer.
    Unavailable,
    /// The request has been here before. Found by the shard, before anything is fetched.
    LoopDetected,
    /// The client's body paused for longer than the first-byte timeout.
    RequestStalled,
}

impl FetchErrorKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 14] = [
        Self::DnsError,
        Self::ConnectionRefused,
        Self::ConnectionTimeout,
        Self::ConnectionTerminated,
        Self::TlsError,
        Self::TlsCertificate,
        Self::ResponseTimeout,
        Self::BodyTimeout,
        Self::ResponseIncomplete,
        Self::ProtocolError,
        Self::LimitReached,
        Self::Unavailable,
        Self::LoopDetected,
        Self::RequestStalled,
    ];

    /// The name that counters have.
    pub fn name(self) -> &'static str {
        match self {
            Self::DnsError => "dns_error",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionTerminated => "connection_terminated",
            Self::TlsError => "tls_error",
            Self::TlsCertificate => "tls_certificate",
            Self::ResponseTimeout => "response_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::ResponseIncomplete => "response_incomplete",
            Self::ProtocolError => "protocol_error",
            Self::LimitReached => "limit_reached",
            Self::Unavailable => "unavailable",
            Self::LoopDetected => "loop_detected",
            Self::RequestStalled => "request_stalled",
        }
    }
}

#[derive(Debug)]
pub enum Command {
    /// Forget the objects under these cache keys (built by [`crate::http::key`]), or treat them as
    /// stale from now on. For every shard, as any may be about to join a fetch of them.
    PurgeKeys { keys: Arc<[Bytes]>, soft: bool },
    /// Purges were made in the node's [`crate::purge::Purges`]: from its answer on, this shard goes
    /// by them.
    SeePurges {
        /// A hard purge of everything was among them.
        everything: bool,
    },
    /// Keep the object of this cache key from being evicted, and fetch it if it is not there. For the
    /// key's owner ([`crate::store::owner_of`]).
    Pin(Bytes),
    /// Take a pin back. For the key's owner.
    Unpin(Bytes),
    /// Say what is pinned in this shard's partition.
    Pins,
    /// Say what is known of the object of a request. For the key's owner.
    Explain(Box<ClientRequest>),
    /// Go by these keys of connection ids from now on.
    SeeCidKeys(Box<CidKeys>),
    /// Go by this from now on. Numbers of origins go on: what was an origin's stays its own.
    Reconfigure(Arc<Policy>),
    /// Refuse new connections, send GOAWAY, close connections when they are idle.
    Drain {
        /// False: another node has the sockets; who comes here all the same is served, and told to end.
        refuse_new: bool,
    },
    /// Write what memory holds to the tier, as at a stop, and then nothing more: a process that takes over reads the
    /// same drives. Answered once all is on the drives.
    RestTier,
    /// Write again: no other process has the drives.
    WakeTier,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// How many objects of this shard's partition are covered, as far as that is known: those that
    /// were named, or all that there were.
    Purged {
        objects: u64,
    },
    /// Kept now, or once the fetch that was begun has brought it. After an error all is as before.
    Pinned {
        pinned: Result<Pinned, PinError>,
        /// The object was written to the tier and flushed: it outlives a crash.
        on_drives: bool,
    },
    Unpinned {
        was_pinned: bool,
    },
    Pins {
        pins: Vec<PinnedKey>,
        stats: PinStats,
    },
    /// `None`: the request is refused, or no origin serves its host.
    Explained(Option<Box<Seen>>),
    /// This many connections are still open.
    Draining {
        connections: usize,
    },
}
