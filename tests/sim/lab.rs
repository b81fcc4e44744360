//! One shard, its clients, and a line to each of them that is set up by hand: what packets that are lost, late or
//! marked do to answers, told in virtual time.
//!
//! Objects are in memory before the first client comes, and nothing is random but what a [`Line`] draws from
//! its seed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cache_core::config::{Caching, ClientFields, Limits, OriginRoute, Role, ShardConfig};
pub use cache_core::conn::quic::Congestion;
use cache_core::conn::quic::{CidKeys, QuicSetup};
use cache_core::io::{
    ClientRequest, Datagram, FetchCommand, FetchEvent, Input, Now, Outbox, RequestBody,
    RequestEvent, RequestId, Transmit,
};
use cache_core::purge::Purges;
use cache_core::shard::Shard;
use cache_core::stats::ShardStats;
use cache_core::store::{self, StoreConfig};
use cache_ebpf::cid::CidKey;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use quinn_proto::EcnCodepoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{Client, Outcome};
use crate::origin::target;
use crate::plan::RequestPlan;
use crate::tls;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 443);
const EPOCH_MS: u64 = 1_800_000_000_000;
/// Transmits of a turn.
const TRANSMITS: usize = 64;
/// Events after which a run that has not come to its end has failed.
const MAX_EVENTS: usize = 5_000_000;
/// What a packet takes of a line beside its UDP payload.
const OVERHEAD: usize = 28;

/// The way between the shard and one client. What goes to the shard is only delayed.
#[derive(Clone, Debug)]
pub struct Line {
    /// One way.
    pub delay: Duration,
    /// Bytes a second towards the client; 0: no limit.
    pub rate: u64,
    /// Bytes that may wait for the line; past it packets are lost.
    pub queue: u64,
    /// Packets are marked instead (ECN) past this.
    pub mark_above: Option<u64>,
    /// Packets lost at random, in hundredths of a percent.
    pub loss: u32,
    /// Packets that come this much later than they should, in percent.
    pub late: (u32, Duration),
    pub seed: u64,
}

impl Line {
    /// Without limit and loss.
    pub fn new(round_trip: Duration) -> Self {
        Self {
            delay: round_trip / 2,
            rate: 0,
            queue: u64::MAX,
            mark_above: None,
            loss: 0,
            late: (0, Duration::ZERO),
            seed: 1,
        }
    }
}

/// A line and what is on it.
struct Wire {
    line: Line,
    rng: StdRng,
    /// Numbers of packets of 1-RTT that are lost.
    lose: Vec<u64>,
    /// When the last packet towards the client has left.
    free_at: Duration,
    /// Packets of 1-RTT towards the client, and of all packets those that were lost and marked.
    sent: u64,
    lost: u64,
    marked: u64,
    /// The turn of the last of them, among those of one moment.
    turn: usize,
}

/// What became of the packets towards a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// With a short header.
    pub sent: u64,
    pub lost: u64,
    pub marked: u64,
}

enum Happening {
    ToShard(usize, Vec<u8>, Option<EcnCodepoint>),
    ToClient(usize, Vec<u8>, Option<EcnCodepoint>),
    Look,
    LookClient(usize),
}

type Event = Reverse<(Duration, u64)>;

/// See the module.
pub struct Lab {
    shard: Shard,
    pub stats: Arc<ShardStats>,
    start: Instant,
    now: Duration,
    events: BinaryHeap<Event>,
    happenings: BTreeMap<u64, Happening>,
    next_event: u64,
    clients: Vec<Client>,
    wires: Vec<Wire>,
    done: Vec<BTreeMap<usize, Duration>>,
    turn: usize,
    /// Handshakes that one turn began, at most.
    pub most_begun: u64,
}

impl Lab {
    /// A shard whose memory has an object of each of these sizes.
    ///
    /// # Errors
    /// Where it cannot be set up.
    pub fn new(sizes: &[usize], limits: Limits, congestion: Congestion) -> Result<Self, String> {
        let stats = Arc::default();
        let mut lab = Self {
            shard: shard(limits, congestion, &stats)?,
            stats,
            start: Instant::now(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_event: 0,
            clients: Vec::new(),
            wires: Vec::new(),
            done: Vec::new(),
            turn: 0,
            most_begun: 0,
        };
        for (number, &size) in sizes.iter().enumerate() {
            lab.fill(number, size)?;
        }
        Ok(lab)
    }

    /// A client that connects now, and will ask for these objects; it is named by its number.
    ///
    /// # Errors
    /// Where it cannot be set up.
    pub fn connect(&mut self, line: Line, resources: &[usize]) -> Result<usize, String> {
        let number = self.clients.len();
        let host = (number as u32).to_be_bytes();
        let address = SocketAddr::from(([10, 2 + host[1], host[2], host[3]], 50_000));
        let plans: Vec<_> = resources.iter().map(|&resource| plan(resource)).collect();
        let mut seed = [3; 32];
        seed[..4].copy_from_slice(&host);
        let mut client = Client::new(address, SERVER, seed, &plans);
        let tls = tls::client().map_err(|error| error.to_string())?;
        client.connect(self.start + self.now, tls)?;
        self.clients.push(client);
        self.wires.push(Wire {
            rng: StdRng::seed_from_u64(line.seed),
            line,
            lose: Vec::new(),
            turn: 0,
            free_at: Duration::ZERO,
            sent: 0,
            lost: 0,
            marked: 0,
        });
        self.done.push(BTreeMap::new());
        self.drive(number);
        Ok(number)
    }

    /// A client asks for all that it was to ask for, at once.
    pub fn ask(&mut self, client: usize) {
        for index in 0..self.clients[client].exchanges.len() {
            self.clients[client].send_request(self.now, index);
        }
        self.drive(client);
    }

    /// Loses the packet of 1-RTT that is sent to the client after so many others.
    pub fn lose(&mut self, client: usize, others: u64) {
        let wire = &mut self.wires[client];
        wire.lose.push(wire.sent + others);
    }

    /// Plays until the client has its answers, and returns when each of them was whole, from now on.
    ///
    /// # Errors
    /// An answer that is none, or none at all.
    pub fn answers(&mut self, client: usize) -> Result<Vec<Duration>, String> {
        let asked = self.now;
        let count = self.clients[client].exchanges.len();
        self.play(|lab| lab.done[client].len() == count)?;
        for exchange in &self.clients[client].exchanges {
            match &exchange.outcome {
                Some(Outcome::Answered(answer)) if answer.status == 200 => {}
                other => return Err(format!("client {client}: {other:?}")),
            }
        }
        let times = self.done[client].values();
        Ok(times.map(|at| at.saturating_sub(asked)).collect())
    }

    /// Plays for so long.
    ///
    /// # Errors
    /// Too many events.
    pub fn wait(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        self.at(until, Happening::Look);
        self.play(|lab| lab.now >= until)
    }

    pub fn packets(&self, client: usize) -> Packets {
        let Wire {
            sent, lost, marked, ..
        } = self.wires[client];
        Packets { sent, lost, marked }
    }

    /// In which turn of its moment the last packet was sent to the client, from 0.
    pub fn turn_of_last(&self, client: usize) -> usize {
        self.wires[client].turn
    }

    pub fn is_connected(&self, client: usize) -> bool {
        self.clients[client].is_connected()
    }

    /// Why the client's connection is gone, if it is.
    pub fn lost(&self, client: usize) -> Option<&str> {
        self.clients[client].lost()
    }

    fn play(&mut self, over: impl Fn(&Self) -> bool) -> Result<(), String> {
        for _ in 0..MAX_EVENTS {
            if over(self) {
                return Ok(());
            }
            let Some(Reverse((at, number))) = self.events.pop() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = at;
            match self.happenings.remove(&number) {
                Some(Happening::ToShard(client, data, ecn)) => {
                    let datagram = Datagram {
                        remote: self.clients[client].address,
                        local_ip: Some(SERVER.ip()),
                        ecn,
                        data: BytesMut::from(&data[..]),
                    };
                    self.input(Input::Datagram(datagram));
                    // What else comes at the same time is taken before the turn, as the loop of a core does.
                    let same = self
                        .events
                        .peek()
                        .is_some_and(|&Reverse((at, _))| at == self.now);
                    if !same {
                        self.turns();
                    }
                }
                Some(Happening::ToClient(client, data, ecn)) => {
                    let now = self.start + self.now;
                    self.clients[client].marked_datagram(now, ecn, &data);
                    self.drive(client);
                }
                Some(Happening::Look) => self.turns(),
                Some(Happening::LookClient(client)) => self.drive(client),
                None => {}
            }
        }
        Err("too many events".to_owned())
    }

    fn at(&mut self, at: Duration, what: Happening) {
        self.next_event += 1;
        self.events.push(Reverse((at, self.next_event)));
        self.happenings.insert(self.next_event, what);
    }

    fn input(&mut self, input: Input) -> Outbox {
        let mut out = Outbox::default();
        let now = Now {
            mono: self.start + self.now,
            unix_ms: EPOCH_MS + self.now.as_millis() as u64,
        };
        self.shard.handle(now, input, &mut out);
        for transmit in out.transmits.drain(..) {
            self.send(transmit);
        }
        out
    }

    fn turns(&mut self) {
        for turn in 0.. {
            self.turn = turn;
            let begun = self.stats.connections_accepted.get();
            self.input(Input::Turn {
                max_transmits: TRANSMITS,
            });
            let begun = self.stats.connections_accepted.get() - begun;
            self.most_begun = self.most_begun.max(begun);
            if !self.shard.wants_turn() {
                break;
            }
        }
        if let Some(due) = self.shard.next_timeout() {
            let due = due.saturating_duration_since(self.start);
            self.at(due.max(self.now), Happening::Look);
        }
    }

    fn send(&mut self, transmit: Transmit) {
        let to = |client: &Client| client.address == transmit.destination;
        let Some(client) = self.clients.iter().position(to) else {
            return;
        };
        let size = transmit.segment_size.unwrap_or(transmit.data.len()).max(1);
        for datagram in transmit.data.chunks(size) {
            self.wires[client].turn = self.turn;
            let sent = self.wires[client].carry(self.now, datagram, transmit.ecn);
            if let Some((at, ecn)) = sent {
                self.at(at, Happening::ToClient(client, datagram.to_vec(), ecn));
            }
        }
    }

    fn drive(&mut self, client: usize) {
        let now = self.start + self.now;
        let delay = self.wires[client].line.delay;
        for (_, data) in self.clients[client].drive(now) {
            let ecn = Some(EcnCodepoint::Ect0);
            self.at(self.now + delay, Happening::ToShard(client, data, ecn));
        }
        for (index, exchange) in self.clients[client].exchanges.iter().enumerate() {
            if exchange.outcome.is_some() {
                self.done[client].entry(index).or_insert(self.now);
            }
        }
        if let Some(due) = self.clients[client].next_timeout() {
            let due = due.saturating_duration_since(self.start).max(self.now);
            self.at(due, Happening::LookClient(client));
        }
    }

    /// Has an object fetched by a request that comes without QUIC.
    fn fill(&mut self, number: usize, size: usize) -> Result<(), String> {
        let id = RequestId(number as u64);
        let request = ClientRequest {
            method: Method::GET,
            secure: true,
            authority: Bytes::from_static(tls::SERVER_NAME.as_bytes()),
            target: Bytes::from(target(number)),
            headers: HeaderMap::new(),
            body: RequestBody::Whole(Bytes::new()),
        };
        let event = RequestEvent::Begin(Box::new(request));
        let mut out = self.input(Input::Request { id, event });
        let Some(FetchCommand::Start { id: fetch, .. }) = out.fetches.pop() else {
            return Err(format!("object {number} is not fetched"));
        };
        let mut headers = HeaderMap::new();
        let lifetime = HeaderValue::from_static("public, max-age=86400");
        headers.insert(header::CACHE_CONTROL, lifetime);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        let head = FetchEvent::Head {
            status: StatusCode::OK,
            headers,
            length: Some(size as u64),
        };
        self.input(Input::Fetch {
            id: fetch,
            event: head,
        });
        let body = Bytes::from(vec![0x5a; size]);
        for piece in body.chunks(64 << 10) {
            let event = FetchEvent::Body(body.slice_ref(piece));
            self.input(Input::Fetch { id: fetch, event });
        }
        let event = FetchEvent::End;
        self.input(Input::Fetch { id: fetch, event });
        let event = RequestEvent::Cancel;
        self.input(Input::Request { id, event });
        self.turns();
        Ok(())
    }
}

impl Wire {
    /// When a packet that is sent now arrives, and with which mark; `None`: it is lost.
    fn carry(
        &mut self,
        now: Duration,
        packet: &[u8],
        mut ecn: Option<EcnCodepoint>,
    ) -> Option<(Duration, Option<EcnCodepoint>)> {
        let is_short = packet.first().is_some_and(|first| first & 0x80 == 0);
        let number = self.sent;
        self.sent += u64::from(is_short);
        let line = &self.line;
        let waits = self.free_at.max(now) - now;
        let queued = waits.as_nanos() as u64 / 1_000 * line.rate / 1_000_000;
        let drawn = self.rng.random_range(0..10_000);
        if drawn < line.loss || queued > line.queue || is_short && self.lose.contains(&number) {
            self.lost += 1;
            return None;
        }
        if line.mark_above.is_some_and(|most| queued > most) && ecn == Some(EcnCodepoint::Ect0) {
            ecn = Some(EcnCodepoint::Ce);
            self.marked += 1;
        }
        let bytes = (packet.len() + OVERHEAD) as u64;
        let takes = match line.rate {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(bytes * 1_000_000_000 / rate),
        };
        self.free_at = self.free_at.max(now) + takes;
        let (late, by) = line.late;
        let more = match self.rng.random_range(0..100) < late {
            true => by,
            false => Duration::ZERO,
        };
        Some((self.free_at + line.delay + more, ecn))
    }
}

fn plan(resource: usize) -> RequestPlan {
    RequestPlan {
        at: Duration::ZERO,
        resource,
        head: false,
        range: None,
        authorization: false,
        cancel: None,
    }
}

fn shard(limits: Limits, congestion: Congestion, stats: &Arc<ShardStats>) -> Result<Shard, String> {
    let purges = Arc::new(Purges::new(1, 1 << 10));
    let config = StoreConfig {
        ram_bytes: 128 << 20,
        pages: hugepages::PagePolicy::Plain,
        ..StoreConfig::default()
    };
    let (mut stores, _) = store::build(&config, purges).map_err(|error| error.to_string())?;
    let store = stores.pop().ok_or("no store")?;
    let mut cids = CidKeys::new(1, CidKey::from_bytes([3; 16]));
    cids.activate(1);
    let tls = tls::server().map_err(|error| error.to_string())?;
    let quic = QuicSetup::with_congestion(tls, cids, &limits, congestion);
    let quic = quic.map_err(|error| error.to_string())?;
    let config = ShardConfig {
        shard: 0,
        shards: 1,
        node_name: "popcache".to_owned(),
        node_id: "0".to_owned(),
        role: Role::Edge,
        origins: vec![OriginRoute {
            name: "simulated".to_owned(),
            hosts: vec![tls::SERVER_NAME.to_owned()],
            client_fields: ClientFields::default(),
        }],
        caching: Caching::default(),
        limits,
    };
    Ok(Shard::new(
        config,
        store,
        &quic,
        Arc::clone(stats),
        [7; 32],
        true,
    ))
}
