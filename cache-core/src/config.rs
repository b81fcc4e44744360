//! What a shard is told at start: its place among the cores, its origins and its bounds.

use std::time::Duration;

use http::HeaderName;

use crate::http::routes::Routes;

/// Everything a shard needs to know. What may change while it runs is in [`Policy`].
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This shard's number, from 0 to `shards - 1`.
    pub shard: u8,
    /// How many shards (cores) the node runs.
    pub shards: u8,
    /// The node's name in Via and Cache-Status, e.g. `popcache` (a token of RFC 9110).
    pub node_name: String,
    /// What tells this node from others of its name in CDN-Loop: a token.
    pub node_id: String,
    pub role: Role,
    /// Origins in the order of the configuration; an [`crate::io::OriginId`] is an index into this.
    pub origins: Vec<OriginRoute>,
    pub caching: Caching,
    pub limits: Limits,
}

/// What of a [`ShardConfig`] may change while the shard runs ([`crate::io::Command::Reconfigure`]).
#[derive(Clone, Debug)]
pub struct Policy {
    /// At least as many as before: one that is served no more keeps its number and has no hosts.
    pub origins: Vec<OriginRoute>,
    /// `slice_size` is as before.
    pub caching: Caching,
    /// Bounds that tables and connections were made with are as before: those that say so.
    pub limits: Limits,
}

/// Whom a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Users: what is meant for caches (Surrogate-Control, surrogate keys) ends here.
    #[default]
    Edge,
    /// Edges: they get what is meant for caches too, so that they keep and purge by it.
    Shield,
}

/// What holds for responses that do not say it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caching {
    /// Lifetime of a storable response that names none of its own and has no Last-Modified. Zero:
    /// such a response is shared with the requests that waited for it and not kept.
    pub default_ttl: Duration,
    /// Lifetime of a response that names none, in percent of the time since its Last-Modified (RFC
    /// 9111 section 4.2.2). Zero: `default_ttl` holds.
    pub heuristic_percent: u32,
    /// No such lifetime is longer.
    pub heuristic_max: Duration,
    /// How long past its lifetime a response without stale-if-error may be served while its origin
    /// does not answer (RFC 9111 section 4.2.4), unless it forbids that.
    pub stale_if_error: Duration,
    /// Fields that count instead of Cache-Control (RFC 9213), the first one first.
    pub targeted_fields: Vec<HeaderName>,
    /// The target of Surrogate-Control that is this cache: its name.
    pub device: String,
    /// Keep responses with Set-Cookie that name a lifetime, cookie and all (RFC 9111 section 7.3).
    pub store_set_cookie: bool,
    /// How far Cache-Control of requests counts (RFC 9111 section 5.2.1).
    pub client_cache_control: ClientCacheControl,
    /// Rules by host, path and extension.
    pub routes: Routes,
    /// Bytes of a slice of a large object; 0: nothing is cut into slices.
    pub slice_size: u32,
    /// A response longer than this is fetched in slices instead, where its origin offers ranges and a
    /// strong validator. What is asked for in parts is, if it is longer than a slice.
    pub slice_above: u64,
    /// Slices fetched ahead of the one that a client has come to.
    pub slices_ahead: u32,
}

/// How far a cache follows Cache-Control of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCacheControl {
    Ignore,
    /// Only what saves questions to the origin: only-if-cached, max-stale, stale-if-error.
    #[default]
    Harmless,
    /// All of it: any client can then have objects asked for again.
    Follow,
}

impl Default for Caching {
    fn default() -> Self {
        Self {
            default_ttl: Duration::ZERO,
            heuristic_percent: 10,
            heuristic_max: Duration::from_secs(86_400),
            stale_if_error: Duration::ZERO,
            targeted_fields: vec![HeaderName::from_static("cdn-cache-control")],
            device: "popcache".to_owned(),
            store_set_cookie: false,
            slice_size: 1 << 20,
            slice_above: 16 << 20,
            slices_ahead: 2,
            client_cache_control: ClientCacheControl::default(),
            routes: Routes::default(),
        }
    }
}

/// Which authorities an origin serves.
#[derive(Clone, Debug)]
pub struct OriginRoute {
    pub name: String,
    /// Lower-case host names without port; `*` matches every host.
    pub hosts: Vec<String>,
    /// Which fields of its clients' requests this origin gets to see.
    pub client_fields: ClientFields,
}

/// Fields of a client's request that go into a fetch whose response may answer other clients too.
/// What is not in here shapes no stored response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFields {
    /// Lower-case names.
    pub names: Vec<HeaderName>,
    /// All end-to-end fields, but for credentials (Authorization, Cookie) unless `names` has them.
    pub all: bool,
}

/// Every bound of one shard. Each has a name in the configuration, a default, and a counter in
/// [`crate::stats::ShardStats`] that moves when it is reached.
#[derive(Clone, Debug)]
pub struct Limits {
    /// QUIC connections of this shard; past it an Initial is refused (CONNECTION_REFUSED).
    pub max_connections: usize,
    /// Handshakes that go on at the same time; past it new clients are answered with Retry.
    pub retry_above: usize,
    /// New clients that wait for their handshake to begin; past it one is refused (CONNECTION_REFUSED).
    pub max_arrivals: usize,
    /// Concurrent request streams a client may open on one connection.
    pub max_streams_per_connection: u32,
    /// Requests that came in early data and wait for their handshake; past it 425.
    pub max_early_waiting: usize,
    /// A connection without traffic is closed after this long.
    pub idle_timeout: Duration,
    /// Body bytes of one answer over TCP that may lie between the shard and the connection.
    pub tcp_answer_window: u32,
    /// Unacknowledged response bytes buffered for one connection.
    pub send_window: u64,
    /// Bytes of a header section after decoding, RFC 9114 section 4.2.2 (name + value + 32 each).
    pub max_field_section: usize,
    /// Bytes of the request target.
    pub max_target: usize,
    /// Objects being fetched at the same time by this shard (as their owner).
    pub max_flights: usize,
    /// Requests of this shard's clients that wait for a fetch; past it: 503 with Retry-After.
    pub max_waiters: usize,
    /// Fetches that are not collapsed (uncacheable answers), at the same time.
    pub max_passes: usize,
    /// Bytes of an answer to a request with Authorization, or to POST, that is kept where it may be.
    pub max_kept_pass: u64,
    /// Bytes of the body of a request that is passed on; past it 413. It is passed on as it comes.
    pub max_request_body: u64,
    /// Body bytes of one request between its client and its origin.
    pub upload_window: u32,
    /// Requests with a body that are read or passed on at the same time; past it 503.
    pub max_request_bodies: usize,
    /// Resources known to have variants; past it those of the oldest are forgotten.
    pub max_varying: usize,
    /// Variants of one resource; past it all of them are forgotten.
    pub max_variants: u32,
    /// Ranges of one request; with more it is answered whole.
    pub max_ranges: usize,
    /// Largest object kept in slices; a larger one is streamed through.
    pub max_sliced: u64,
    /// Slices that this shard fetches at the same time (as their owner); more wait for their turn.
    pub max_slice_fetches: usize,
    /// How long a slice may wait for its turn; past it 503, or the answer is cut off.
    pub slice_wait: Duration,
    /// Largest object kept; a larger one is streamed through.
    pub max_object: u64,
    /// Body bytes an upstream fetch may deliver ahead of their consumption.
    pub fetch_window: u32,
    /// Body bytes of this shard's fills that found no room in the arena, all together. Past half of it
    /// such a body is held back by its slowest reader; past all of it its fetch fails.
    pub max_heap_fill: u64,
    /// How long a request may take nothing of a body that is held back by it; then it is cut off.
    pub window_patience: Duration,
    /// Bytes copied out of the arena for clients so slow that they hold up its reuse; past it their
    /// answers are cut off.
    pub max_copied_out: u64,
    /// Messages to one other shard that may wait for room in the lane.
    pub max_lane_backlog: usize,
    /// How long a key stays marked as uncacheable, so that its requests do not queue behind each
    /// other.
    pub uncacheable_ttl: Duration,
    /// Keys marked as uncacheable.
    pub max_uncacheable: usize,
    /// Retry-After seconds in a 503 of our own.
    pub retry_after: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            retry_above: 256,
            max_arrivals: 8_192,
            max_streams_per_connection: 128,
            max_early_waiting: 256,
            idle_timeout: Duration::from_secs(30),
            tcp_answer_window: 256 << 10,
            send_window: 2 << 20,
            max_field_section: 16 << 10,
            max_target: 8 << 10,
            max_flights: 4_096,
            max_waiters: 200_000,
            max_passes: 1_024,
            max_kept_pass: 1 << 20,
            max_request_body: 64 << 20,
            upload_window: 256 << 10,
            max_request_bodies: 128,
            max_varying: 65_536,
            max_variants: 64,
            max_ranges: 16,
            max_sliced: 64 << 30,
            max_slice_fetches: 16,
            slice_wait: Duration::from_secs(60),
            max_object: 64 << 20,
            fetch_window: 1 << 20,
            max_heap_fill: 32 << 20,
            window_patience: Duration::from_secs(30),
            max_copied_out: 32 << 20,
            max_lane_backlog: 65_536,
            uncacheable_ttl: Duration::from_secs(10),
            max_uncacheable: 16_384,
            retry_after: 1,
        }
    }
}
