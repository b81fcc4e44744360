//! The only sequencer: takes one input at a time and calls everything else.
//!
//! ```text
//!  shard.rs      inputs, turns, commands, lane messages
//!  requests.rs   connection events -> requests -> key -> hit | miss | pass
//!  tcp.rs        requests that came over TCP, by way of the shell
//!  early.rs      requests in early data, and those of them that wait for the handshake
//!  answers.rs    writing answers: from the store, of our own, flow control
//!  shapes.rs     whole, parts, 304 or head: the form an answer takes
//!  following.rs  answers that follow a flight
//!  flights.rs    joining and leading flights, fetch events, fills
//!  slicing.rs    large objects: found, noted, fetched in slices
//!  slices.rs     answers that go from slice to slice
//!  variants.rs   which variant of a resource a request selects
//!  validations.rs  confirming stale objects, serving them when the origin fails
//!  passes.rs     fetches for one request only
//!  kept.rs       those of them whose answers others may have
//!  windows.rs    bodies that outgrow what may be held, passed on in step
//!  pins.rs       objects that an operator wants kept
//!  explain.rs    what is known of an object, for operators
//!  tiers.rs      flights that read the second tier; what leaves memory for it
//!  farewell.rs   ending connections without losing a request
//!  saving.rs     a clean stop: what memory holds goes to the tier
//!  resting.rs    two processes have the tier, of which none writes
//!  let_go.rs     arena memory that slow clients hold up
//! ```
//!
//! A turn is: fire timers, serve waiters that got news, then for every connection with something to
//! do read its events and write its packets, then announce quiescence to the store. Work left over
//! when a budget ends is kept for the next turn ([`Shard::wants_turn`]).

mod answers;
mod early;
mod explain;
mod farewell;
mod flights;
mod following;
mod kept;
mod let_go;
#[cfg(test)]
mod lone;
mod passes;
mod pins;
mod requests;
mod resting;
mod saving;
mod shapes;
mod slices;
mod slicing;
mod tcp;
mod tiers;
mod validations;
mod variants;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::config::{Policy, ShardConfig};
use crate::conn::client::ClientId;
use crate::conn::h3::{self, FieldSection};
use crate::conn::quic::{Quic, QuicSetup, Route, SendBudget};
use crate::flight::{FlightEvent, Flights, Line, Locals, Target, Ticket, Uncacheable, Waiter};
use crate::http::vary::Rules;
use crate::io::{Command, Datagram, FetchId, Input, Now, OriginId, Outbox, Reply, ShardId};
use crate::stats::ShardStats;
use crate::store::{HitNote, HitNotes, Store, StoreStats};
use crate::tier::{Tier, TierEvent, TierGauges, TierStats};
use kept::Copied;
use let_go::CopiedOut;
use passes::Pass;
use pins::Confirming;
pub use pins::{PinError, PinnedKey};
pub use saving::Saved;
use saving::Saving;
use tcp::TcpRequests;

/// Waiters served in one turn, so that a herd does not hold the core.
const WAITERS_PER_TURN: usize = 64;

/// Bytes written in one turn, about 150 us of encryption: what has arrived waits no longer in the kernel, and a connection
/// with more to send goes behind those that became dirty meanwhile.
pub const BYTES_PER_TURN: usize = 256 << 10;

/// Connections worked on in one turn.
const CONNECTIONS_PER_TURN: usize = 64;

/// How often the gauges that have to be counted up are published.
const GAUGE_INTERVAL: Duration = Duration::from_millis(100);

/// The same for the tier, whose segments have to be looked at one by one.
const TIER_GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// What shards say to each other. Opaque to the shell, which only carries it.
#[derive(Debug)]
pub enum LaneMessage {
    /// A datagram whose connection id names the receiving shard.
    Datagram(Datagram),
    /// Sampled hits on objects of the receiving shard.
    Hits(Vec<HitNote>),
    /// The sender's clients want an object that the receiver owns.
    Join { ticket: Ticket, target: Box<Target> },
    /// News of a flight that the receiver joined.
    Flight {
        ticket: Ticket,
        fetch: FetchId,
        event: FlightEvent,
    },
    /// The sender has no more use for the spans of a flight that has ended.
    Done { fetch: FetchId },
    /// The requests of the sender that follow a flight have all taken so many pieces of its body.
    Taken {
        ticket: Ticket,
        fetch: FetchId,
        pieces: u64,
    },
    /// An unsafe request changed what the key names (RFC 9111 section 4.4).
    Invalidate(Bytes),
    /// A response that was fetched for one request and that others may have.
    Keep(Box<Copied>),
    /// The sender waits to use a segment again until the receiver has taken a turn.
    TakeTurn,
}

impl LaneMessage {
    /// May be lost when a lane is full: QUIC sends a datagram again, hits are a sample, and a copy is
    /// nobody's only one.
    pub fn droppable(&self) -> bool {
        matches!(self, Self::Datagram(_) | Self::Hits(_) | Self::Keep(_))
    }
}

/// One core's cache.
pub struct Shard {
    config: ShardConfig,
    stats: Arc<ShardStats>,
    quic: Quic,
    store: Store,
    /// `None`: no second tier is configured.
    tier: Option<Tier>,
    /// The tier was asked for something since its last turn.
    tier_due: bool,
    tier_gauges: Arc<TierGauges>,
    /// When they are published next, if there is something new.
    next_tier_gauges: Option<Instant>,
    /// Once the node stops.
    saving: Option<Saving>,
    /// The command that is answered when the tier rests.
    resting: Option<u64>,
    tcp: TcpRequests,
    /// Pins whose objects are on their way to the drives.
    confirming: Vec<Confirming>,
    routes: Routes,
    locals: Locals,
    flights: Flights,
    /// Slices to be fetched.
    line: Line,
    passes: HashMap<FetchId, Pass, RandomState>,
    /// Counted by its holders: requests that are passed on and may have a body.
    bodies: Arc<()>,
    /// Counted by its holders: requests that wait for their client's handshake.
    early: Arc<()>,
    uncacheable: Uncacheable,
    /// Objects of ours whose origin does not answer ranges of them as it should.
    unsliceable: Uncacheable,
    /// Of the large objects that this shard has noted.
    last_generation: u64,
    /// Of resources that have variants.
    rules: Rules,
    next_fetch: u64,
    /// Answers with several parts, for their boundaries.
    multiparts: u64,
    /// Body bytes that fills without room hold on the heap.
    heap_bytes: u64,
    copied_out: CopiedOut,
    next_check: Option<Instant>,
    next_gauges: Option<Instant>,
    draining: bool,
    /// Sampled hits on other shards' objects.
    hits: HitNotes,
    scratch: Scratch,
}

/// Buffers used by one request at a time, so that a hit allocates only its answer.
struct Scratch {
    section: FieldSection,
    key: Vec<u8>,
    spare_key: Vec<u8>,
    status: Vec<u8>,
    uni_events: Vec<h3::Event>,
    tier_events: Vec<(FetchId, TierEvent)>,
    /// Resources of which variants have left memory in this turn.
    varying: Vec<Bytes>,
}

impl Shard {
    /// `store` must be the one that was built for `config.shard`. `seed` is drawn at random by the
    /// shell; with `deterministic` every choice of the shard follows from it (simulation only).
    pub fn new(
        config: ShardConfig,
        store: Store,
        quic: &QuicSetup,
        stats: Arc<ShardStats>,
        seed: [u8; 32],
        deterministic: bool,
    ) -> Self {
        let limits = &config.limits;
        Self {
            quic: Quic::new(
                quic,
                config.shard,
                config.shards,
                limits,
                seed,
                deterministic,
            ),
            store,
            tier: None,
            tier_due: false,
            tier_gauges: Arc::default(),
            next_tier_gauges: None,
            saving: None,
            resting: None,
            tcp: TcpRequests::default(),
            confirming: Vec::new(),
            routes: Routes::new(&config),
            locals: Locals::default(),
            flights: Flights::default(),
            line: Line::default(),
            passes: HashMap::default(),
            bodies: Arc::default(),
            early: Arc::default(),
            uncacheable: Uncacheable::new(limits.max_uncacheable, limits.uncacheable_ttl),
            unsliceable: Uncacheable::new(limits.max_uncacheable, limits.uncacheable_ttl),
            last_generation: 0,
            rules: Rules::new(limits.max_varying, limits.max_variants),
            next_fetch: 0,
            multiparts: 0,
            heap_bytes: 0,
            copied_out: CopiedOut::default(),
            next_check: None,
            next_gauges: None,
            draining: false,
            hits: HitNotes::new(config.shards),
            scratch: Scratch {
                section: FieldSection::new(limits.max_field_section),
                key: Vec::new(),
                spare_key: Vec::new(),
                status: Vec::new(),
                uni_events: Vec::new(),
                tier_events: Vec::new(),
                varying: Vec::new(),
            },
            stats,
            config,
        }
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.config.shard
    }

    /// Gives the shard its part of the second tier.
    pub fn with_tier(mut self, tier: Tier) -> Self {
        self.tier_gauges.publish(&tier.stats());
        self.tier = Some(tier);
        self
    }

    /// Where the tier's counters are published.
    pub fn tier_gauges(&self) -> Arc<TierGauges> {
        Arc::clone(&self.tier_gauges)
    }

    /// Takes one input. Effects are appended to `out`; the shell carries them out and recycles the
    /// buffers.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outbox) {
        match input {
            Input::Datagram(datagram) => self.datagram(now, datagram, out),
            Input::Lane { from, message } => self.lane(now, from, message, out),
            Input::Fetch { id, event } => self.fetch_event(now, id, event, out),
            Input::Disk(done) => self.disk_done(now, done),
            Input::Request { id, event } => self.tcp_event(now, id, event, out),
            Input::Command { id, command } => {
                let reply = self.command(now, id, command, out);
                out.replies.extend(reply.map(|reply| (id, reply)));
            }
            Input::Turn { max_transmits } => self.turn(now, max_transmits, out),
        }
    }

    /// When a turn is due at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        let tier = self.tier.as_ref().and_then(Tier::next_timeout);
        let gauges = self.next_tier_gauges;
        let slices = self.line.due(self.config.limits.slice_wait);
        let timeouts = self.quic.next_timeout().into_iter();
        let timeouts = timeouts.chain(tier).chain(gauges).chain(slices);
        let windows = self.locals.due(self.config.limits.window_patience);
        timeouts.chain(windows).chain(self.saving_ends()).min()
    }

    /// Work is left over from the last turn.
    pub fn wants_turn(&self) -> bool {
        let quic = self.quic.dirty() > 0 || self.quic.has_arrivals();
        quic || self.locals.has_ready() || self.tier_due
    }

    /// Open connections; a drain has ended when there are none.
    pub fn connections(&self) -> usize {
        self.quic.open_connections()
    }

    /// Counters of the second tier, if there is one.
    pub fn tier_stats(&self) -> Option<TierStats> {
        self.tier.as_ref().map(Tier::stats)
    }

    /// What the shard holds right now. All of it is zero once no client and no fetch is left.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            connections: self.quic.open_connections(),
            tcp_requests: self.tcp.len(),
            waiters: self.locals.followers(),
            local_flights: self.locals.len(),
            flights: self.flights.len(),
            settling: self.flights.settling(),
            passes: self.passes.len(),
            heap_bytes: self.heap_bytes,
            copied_out: self.copied_out.bytes(),
            store: self.store.stats(),
            tier_reads: self.tier.as_ref().map_or(0, Tier::reads),
        }
    }

    fn datagram(&mut self, now: Now, datagram: Datagram, out: &mut Outbox) {
        self.stats.datagrams_received.inc();
        match self.quic.route(&datagram.data) {
            Route::Mine => self.quic.datagram(now.mono, datagram, out, &self.stats),
            Route::Other(shard) => {
                self.stats.datagrams_handed_over.inc();
                out.lanes.push((shard, LaneMessage::Datagram(datagram)));
            }
            Route::Forged => self.stats.datagrams_forged.inc(),
        }
    }

    fn lane(&mut self, now: Now, from: ShardId, message: LaneMessage, out: &mut Outbox) {
        match message {
            LaneMessage::Datagram(datagram) => {
                self.stats.datagrams_received.inc();
                self.quic.datagram(now.mono, datagram, out, &self.stats);
            }
            LaneMessage::Hits(notes) => self.store.note_hits(&notes),
            LaneMessage::Join { ticket, target } => self.join(now, from, ticket, *target, out),
            LaneMessage::Flight {
                ticket,
                fetch,
                event,
            } => self.flight_event(now, from, ticket, fetch, event, out),
            LaneMessage::Done { fetch } => self.flight_done(fetch, from),
            LaneMessage::Taken {
                ticket,
                fetch,
                pieces,
            } => self.taken(now, fetch, (from, ticket), pieces, out),
            LaneMessage::Invalidate(key) => {
                self.forget_key(&key, false);
            }
            LaneMessage::Keep(copy) => self.keep_copy(now, &copy),
            // The turn that follows every batch of inputs is all that is asked for.
            LaneMessage::TakeTurn => {}
        }
    }

    /// `None`: the reply follows.
    fn command(&mut self, now: Now, id: u64, command: Command, out: &mut Outbox) -> Option<Reply> {
        let reply = match command {
            Command::PurgeKeys { keys, soft } => {
                let purged = keys.iter().filter(|key| self.purge_key(key, soft));
                let objects = purged.count() as u64;
                Reply::Purged { objects }
            }
            Command::SeePurges { everything } => self.see_purges(everything),
            Command::Pin(key) => return self.pin(now, id, &key, out),
            Command::Unpin(key) => Reply::Unpinned {
                was_pinned: self.unpin(&key),
            },
            Command::Pins => self.pins(),
            Command::Explain(request) => {
                Reply::Explained(self.explain(now, &request).map(Box::new))
            }
            Command::SeeCidKeys(keys) => {
                self.quic.set_cids(*keys);
                Reply::Done
            }
            Command::Reconfigure(policy) => self.reconfigure(&policy),
            Command::Drain { refuse_new } => self.drain(refuse_new),
            Command::RestTier => return self.rest_tier(now, id),
            Command::WakeTier => self.wake_tier(now),
        };
        Some(reply)
    }

    /// Requests, flights and answers that have begun go on; each asks the new rules from here on.
    fn reconfigure(&mut self, policy: &Policy) -> Reply {
        self.config.origins.clone_from(&policy.origins);
        self.config.caching = policy.caching.clone();
        self.config.limits = policy.limits.clone();
        self.routes = Routes::new(&self.config);
        self.quic.set_limits(&self.config.limits);
        self.stats.reconfigured.inc();
        Reply::Done
    }

    /// Whether there was an object under the key in our partition.
    fn purge_key(&mut self, key: &Bytes, soft: bool) -> bool {
        self.stats.purges.inc();
        self.forget_key(key, soft)
    }

    /// Forgets the object of a key here, or makes it stale, if there is one; what is being fetched for
    /// the key is not kept. It was asked for before: those who wait get it, nobody else.
    fn forget_key(&mut self, key: &[u8], soft: bool) -> bool {
        self.flights.purge(key);
        self.locals.close_key(key);
        self.stop_copying_key(key);
        let hash = self.store.hash(key);
        let ours = self.store.owner(hash) == self.config.shard;
        // Variants are forgotten all together, by forgetting where they are.
        let varied = self.rules.forget(hash);
        if varied {
            self.flights.purge_variants(key);
            self.locals.close_variants(key);
        }
        if !ours {
            return false;
        }
        // The tier keeps nothing that is stale.
        let in_tier = self.tier.as_mut().is_some_and(|tier| tier.forget(hash));
        let in_memory = match soft {
            false => self.store.purge(hash, key),
            true => self.store.purge_softly(hash, key),
        };
        in_memory || in_tier || varied
    }

    /// Forgets objects that an unsafe request has changed, on every shard.
    fn invalidate(&mut self, keys: Vec<Vec<u8>>, out: &mut Outbox) {
        for key in keys {
            self.stats.invalidations.inc();
            self.forget_key(&key, false);
            let key = Bytes::from(key);
            let others = (0..self.config.shards).filter(|&shard| shard != self.config.shard);
            out.lanes
                .extend(others.map(|shard| (shard, LaneMessage::Invalidate(key.clone()))));
        }
    }

    /// Lookups and flights ask the table of purges themselves; taking the command is what shows
    /// that they now find what was purged before it was sent.
    fn see_purges(&mut self, everything: bool) -> Reply {
        self.stats.purges.inc();
        let mut objects = 0;
        if everything {
            self.uncacheable.clear();
            objects = self.store.purged_all();
        }
        Reply::Purged { objects }
    }

    fn turn(&mut self, now: Now, max_transmits: usize, out: &mut Outbox) {
        self.quic.expire(now.mono);
        self.turn_tier(now, out);
        self.expire_slices(now, out);
        self.serve_ready(now, out);
        self.quic.begin_handshakes(now.mono, out, &self.stats);
        self.serve_connections(now, max_transmits, out);
        self.tell_progress(now, out);
        self.let_go(now, out);
        self.send_hit_notes(out);
        self.turn_store(now);
        // What this turn asked of the tier goes to the drives at once.
        if self.tier_due {
            self.turn_tier(now, out);
        }
        for shard in self.store.laggards() {
            out.lanes.push((shard, LaneMessage::TakeTurn));
        }
        self.publish_gauges(now);
    }

    /// Serves waiters of flights that got news.
    fn serve_ready(&mut self, now: Now, out: &mut Outbox) {
        for _ in 0..WAITERS_PER_TURN {
            let Some((_, waiter)) = self.locals.next_ready() else {
                return;
            };
            // A client that is gone has left its flights already.
            self.wake(waiter, now, out);
        }
    }

    /// Goes on with an answer that has news. False when its client is gone.
    fn wake(&mut self, waiter: Waiter, now: Now, out: &mut Outbox) -> bool {
        match waiter.conn {
            ClientId::Quic(id) => {
                let Some(mut conn) = self.quic.take(id) else {
                    return false;
                };
                self.resume(&mut *conn, waiter.stream, true, now, out);
                self.quic.put_back_dirty(conn);
                true
            }
            ClientId::Tcp(id) => self.resume_tcp(id, true, now, out),
        }
    }

    fn serve_connections(&mut self, now: Now, max_transmits: usize, out: &mut Outbox) {
        let mut budget = SendBudget {
            transmits: max_transmits,
            bytes: BYTES_PER_TURN,
        };
        for _ in 0..self.quic.dirty().min(CONNECTIONS_PER_TURN) {
            if budget.is_spent() {
                return;
            }
            let Some(mut conn) = self.quic.take_dirty() else {
                return;
            };
            self.connection_events(&mut conn, now, out);
            if self.draining {
                self.drain_connection(&mut conn, now);
            }
            let ended = self
                .quic
                .finish(now.mono, conn, &mut budget, out, &self.stats);
            if let Some(mut conn) = ended {
                self.forget_streams(&mut conn, out);
            }
        }
    }

    /// Hits on our own objects are counted by the store itself.
    fn send_hit_notes(&mut self, out: &mut Outbox) {
        let due = self.hits.due();
        out.lanes
            .extend(due.map(|(owner, notes)| (owner, LaneMessage::Hits(notes))));
    }

    fn publish_gauges(&mut self, now: Now) {
        self.stats.waiters.set(self.locals.followers() as u64);
        self.stats.flights.set(self.flights.len() as u64);
        self.stats.passes.set(self.passes.len() as u64);
        self.stats.varying.set(self.rules.len() as u64);
        let early = Arc::strong_count(&self.early) - 1;
        self.stats.early_waiting.set(early as u64);
        self.stats.uncacheable.set(self.uncacheable.len() as u64);
        self.stats.unsliceable.set(self.unsliceable.len() as u64);
        self.stats.slices_waiting.set(self.line.len() as u64);
        self.publish_tier(now);
        if self.next_gauges.is_none_or(|due| now.mono >= due) {
            self.next_gauges = Some(now.mono + GAUGE_INTERVAL);
            let store = self.store.stats();
            self.stats.objects.set(store.objects);
            self.stats.object_bytes.set(store.bytes);
            self.stats.evictions.set(store.evictions);
            self.stats.evictions_unshown.set(store.evictions_unshown);
            self.stats.extents_moved.set(store.extents_moved);
            self.publish_pins();
        }
    }

    fn publish_tier(&mut self, now: Now) {
        let Some(tier) = &self.tier else { return };
        if self.next_tier_gauges.is_some_and(|due| now.mono >= due) {
            self.next_tier_gauges = None;
            self.tier_gauges.publish(&tier.stats());
        }
    }

    fn fetch_id(&mut self) -> FetchId {
        self.next_fetch += 1;
        FetchId(self.next_fetch)
    }
}

/// See [`Shard::holdings`].
#[derive(Clone, Debug)]
pub struct Holdings {
    pub connections: usize,
    /// Requests over TCP that are not answered to the end.
    pub tcp_requests: usize,
    /// Requests that follow a flight.
    pub waiters: usize,
    /// Flights that this shard's requests joined.
    pub local_flights: usize,
    /// Flights that this shard leads.
    pub flights: usize,
    /// Ended flights whose fill is not released yet.
    pub settling: usize,
    pub passes: usize,
    /// Body bytes of fills without room.
    pub heap_bytes: u64,
    /// Bytes copied out of the arena for slow clients.
    pub copied_out: u64,
    pub store: StoreStats,
    /// Objects being read from the tier.
    pub tier_reads: usize,
}

/// Which origin serves a host.
struct Routes {
    hosts: HashMap<Vec<u8>, OriginId, RandomState>,
    any: Option<OriginId>,
}

impl Routes {
    fn new(config: &ShardConfig) -> Self {
        let mut routes = Self {
            hosts: HashMap::default(),
            any: None,
        };
        for (index, origin) in config.origins.iter().enumerate() {
            let id = OriginId(index as u16);
            for host in &origin.hosts {
                match host.as_str() {
                    "*" => routes.any = Some(id),
                    host => {
                        routes.hosts.insert(host.as_bytes().to_vec(), id);
                    }
                }
            }
        }
        routes
    }

    fn find(&self, host: &[u8]) -> Option<OriginId> {
        self.hosts.get(host).copied().or(self.any)
    }
}
