//! The event queue, and everything on it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cache_core::config::{Caching, ClientFields, OriginRoute, Role, ShardConfig};
use cache_core::conn::quic::{CidKeys, QuicSetup};
use cache_core::io::{
    Command, Datagram, DiskDone, FetchId, Input, Now, Outbox, RequestEvent, RequestId, ShardId,
};
use cache_core::purge::{self as purging, Purger, Purges};
use cache_core::shard::{LaneMessage, Shard};
use cache_core::stats::ShardStats;
use cache_core::store::{self, StoreConfig, hash_of};
use cache_ebpf::cid::CidKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::checks::{self, Purge};
use crate::client::{Client, Outcome};
use crate::disk::Disk;
use crate::origin::{Origin, tag, target};
use crate::plan::{Plan, PurgePlan, Purged, SPAN};
use crate::tcp::TcpClient;
use crate::tls;
use crate::trace::Trace;

/// Virtual time after which a run that has not come to rest has failed.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Events of one run at most: a livelock is a failure, not an endless test.
const MAX_EVENTS: u64 = 3_000_000;

/// Turns in a row that a shard may ask for.
const MAX_TURNS: usize = 100_000;

/// Transmits per turn.
const TRANSMITS: usize = 32;

/// The wall clock at virtual time zero, milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_800_000_000_000;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 443);

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub hash: u64,
    pub events: u64,
    pub requests: usize,
    pub answered: usize,
    pub fetches: u64,
    pub hits: u64,
    pub collapsed: u64,
    pub handed_over: u64,
    pub tier_hits: u64,
    /// Large objects that were cut into slices.
    pub sliced: u64,
}

/// Runs one seed. `Err` names the invariant that broke.
pub fn run(seed: u64, print: bool) -> Result<Report, String> {
    let plan = Plan::new(seed);
    let mut world = World::new(plan, print)?;
    world.play()?;
    world.finish()
}

enum Happening {
    ToShard(ShardId, Vec<u8>, SocketAddr),
    ToClient(usize, Vec<u8>),
    Lane(ShardId, ShardId, LaneMessage),
    FetchStep(ShardId, FetchId),
    Disk(ShardId, DiskDone),
    Connect(usize),
    Request(usize, usize),
    Cancel(usize, usize),
    Rebind(usize),
    Vanish(usize),
    TcpRequest(usize, usize),
    TcpCancel(usize, usize),
    /// The client has taken so many bytes.
    TcpRoom(ShardId, RequestId, u32),
    Purge(PurgePlan),
    /// A shard is told of a purge, by its place in the list.
    SeePurge(ShardId, usize),
    /// These two mean nothing where the timer has been set to another time since.
    ShardTimer(ShardId),
    ClientTimer(usize),
}

struct Event {
    at: Duration,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Node {
    shard: Shard,
    stats: Arc<ShardStats>,
    timer: Option<Duration>,
}

struct World {
    plan: Plan,
    rng: StdRng,
    trace: Trace,
    start: Instant,
    now: Duration,
    sequence: u64,
    queue: BinaryHeap<Reverse<Event>>,
    nodes: Vec<Node>,
    /// When the last message of a lane arrives: lanes keep their order.
    lanes: Vec<Vec<Duration>>,
    clients: Vec<Client>,
    client_timers: Vec<Option<Duration>>,
    tcp_clients: Vec<TcpClient>,
    client_tls: Arc<rustls::ClientConfig>,
    origin: Origin,
    disk: Option<Disk>,
    purges: Vec<Purge>,
    purger: Purger,
    hash_seed: u64,
}

impl World {
    fn new(plan: Plan, print: bool) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x5eed);
        let table = Arc::new(Purges::new(rng.random(), 1 << 10));
        let disk = plan.disk.map(|disk| Disk::new(disk, plan.shards, &table));
        let disk = disk.transpose()?;
        let hash_seed = rng.random();
        let nodes = nodes(&plan, disk.as_ref(), &table, hash_seed, &mut rng)?;
        let clients: Vec<_> = plan
            .clients
            .iter()
            .enumerate()
            .map(|(index, client)| {
                let address = SocketAddr::from(([10, 1, 0, index as u8], 50_000));
                Client::new(address, SERVER, rng.random(), &client.requests)
            })
            .collect();
        let shards = usize::from(plan.shards);
        let tcp_clients = plan.tcp_clients.iter().enumerate();
        let tcp_clients = tcp_clients.map(|(number, client)| {
            let shard = (number % shards) as ShardId;
            TcpClient::new(number, shard, client)
        });
        let mut world = Self {
            origin: Origin::new(plan.resources.clone(), plan.faults, plan.limits.max_object),
            rng,
            trace: Trace::new(print),
            start: Instant::now(),
            now: Duration::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            nodes,
            lanes: vec![vec![Duration::ZERO; shards]; shards],
            tcp_clients: tcp_clients.collect(),
            client_timers: vec![None; clients.len()],
            clients,
            client_tls: tls::client().map_err(|error| error.to_string())?,
            disk,
            purges: Vec::new(),
            purger: table.writer().ok_or("another purger")?,
            hash_seed,
            plan,
        };
        world.schedule_plan();
        Ok(world)
    }

    fn schedule_plan(&mut self) {
        for (client, plan) in self.plan.clients.clone().into_iter().enumerate() {
            self.at(plan.start, Happening::Connect(client));
            for (index, request) in plan.requests.iter().enumerate() {
                self.at(request.at, Happening::Request(client, index));
                if let Some(after) = request.cancel {
                    self.at(request.at + after, Happening::Cancel(client, index));
                }
            }
            if let Some(at) = plan.rebind {
                self.at(at, Happening::Rebind(client));
            }
            if let Some(at) = plan.vanish {
                self.at(at, Happening::Vanish(client));
            }
        }
        for (client, plan) in self.plan.tcp_clients.clone().into_iter().enumerate() {
            for (index, request) in plan.requests.iter().enumerate() {
                self.at(request.at, Happening::TcpRequest(client, index));
                // One that leaves takes back all that it has asked for.
                let gone = plan.vanish.map(|at| at.max(request.at));
                let cancel = request.cancel.map(|after| request.at + after);
                if let Some(at) = cancel.into_iter().chain(gone).min() {
                    self.at(at, Happening::TcpCancel(client, index));
                }
            }
        }
        for purge in self.plan.purges.clone() {
            self.at(purge.at, Happening::Purge(purge));
        }
    }

    fn at(&mut self, at: Duration, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Event {
            at: at.max(self.now),
            sequence: self.sequence,
            what,
        }));
    }

    fn after(&mut self, delay: Duration, what: Happening) {
        self.at(self.now + delay, what);
    }

    /// Plays events until every request has an outcome.
    fn play(&mut self) -> Result<(), String> {
        let over = |world: &Self| {
            let over_tcp = world.tcp_clients.iter().all(TcpClient::is_done);
            world.now > SPAN && over_tcp && world.clients.iter().all(Client::is_done)
        };
        self.play_until(PATIENCE, over)
    }

    fn play_until(&mut self, limit: Duration, over: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !over(self) {
            let Some(Reverse(event)) = self.queue.pop() else {
                return Ok(());
            };
            if event.at > limit || self.trace.events() > MAX_EVENTS {
                let shards = self.nodes.iter().map(|node| &node.shard);
                let held: Vec<_> = shards
                    .map(|shard| (shard.holdings(), shard.tier_stats()))
                    .collect();
                return Err(format!("not at rest at {:?}: {held:?}", event.at));
            }
            self.now = event.at;
            self.happen(event.what)?;
        }
        Ok(())
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::ToShard(shard, data, remote) => {
                self.note("to-shard", &[u64::from(shard), data.len() as u64]);
                let datagram = Datagram {
                    remote,
                    local_ip: Some(SERVER.ip()),
                    ecn: None,
                    data: BytesMut::from(&data[..]),
                };
                self.input(shard, Input::Datagram(datagram))
            }
            Happening::ToClient(client, data) => {
                self.note("to-client", &[client as u64, data.len() as u64]);
                let now = self.instant();
                self.clients[client].datagram(now, &data);
                self.drive_client(client);
                Ok(())
            }
            Happening::Lane(from, to, message) => {
                self.note("lane", &[u64::from(from), u64::from(to)]);
                self.input(to, Input::Lane { from, message })
            }
            Happening::FetchStep(shard, id) => self.fetch_step(shard, id),
            Happening::Disk(shard, done) => {
                self.note("disk", &[u64::from(shard), done.id.0]);
                self.input(shard, Input::Disk(done))
            }
            Happening::ShardTimer(shard) => {
                let timer = &mut self.nodes[usize::from(shard)].timer;
                match timer.take_if(|due| *due == self.now) {
                    Some(_) => self.turns(shard),
                    None => Ok(()),
                }
            }
            Happening::ClientTimer(client) => {
                let timer = &mut self.client_timers[client];
                if timer.take_if(|due| *due == self.now).is_some() {
                    self.drive_client(client);
                }
                Ok(())
            }
            Happening::Purge(purge) => self.purge(purge),
            Happening::SeePurge(shard, purge) => self.see_purge(shard, purge),
            Happening::Connect(client) => {
                self.note("connect", &[client as u64]);
                let (now, tls) = (self.instant(), Arc::clone(&self.client_tls));
                self.clients[client].connect(now, tls)?;
                self.drive_client(client);
                Ok(())
            }
            Happening::Request(client, index) => {
                self.note("request", &[client as u64, index as u64]);
                self.clients[client].send_request(self.now, index);
                self.drive_client(client);
                Ok(())
            }
            Happening::Cancel(client, index) => {
                self.clients[client].cancel(index);
                self.drive_client(client);
                Ok(())
            }
            Happening::TcpRequest(client, index) => {
                self.note("tcp-request", &[client as u64, index as u64]);
                let asking = &mut self.tcp_clients[client];
                let (shard, id) = (asking.shard, asking.id(index));
                let event = asking.ask(self.now, index)?;
                self.input(shard, Input::Request { id, event })
            }
            Happening::TcpCancel(client, index) => {
                let asking = &mut self.tcp_clients[client];
                let (shard, id) = (asking.shard, asking.id(index));
                match asking.cancel(index) {
                    Some(event) => self.input(shard, Input::Request { id, event }),
                    None => Ok(()),
                }
            }
            Happening::TcpRoom(shard, id, bytes) => {
                let event = RequestEvent::Room(bytes);
                self.input(shard, Input::Request { id, event })
            }
            Happening::Rebind(client) => {
                self.note("rebind", &[client as u64]);
                let address = &mut self.clients[client].address;
                address.set_port(address.port() + 1);
                Ok(())
            }
            Happening::Vanish(client) => {
                self.note("vanish", &[client as u64]);
                self.clients[client].vanish();
                Ok(())
            }
        }
    }

    fn fetch_step(&mut self, shard: ShardId, id: FetchId) -> Result<(), String> {
        let Some((event, due)) = self.origin.step(self.now, shard, id) else {
            return Ok(());
        };
        self.note("fetch", &[u64::from(shard), id.0]);
        if let Some(due) = due {
            self.at(due, Happening::FetchStep(shard, id));
        }
        let windows = |world: &Self| world.nodes[usize::from(shard)].stats.windows.get();
        let before = windows(self);
        self.input(shard, Input::Fetch { id, event })?;
        if windows(self) > before {
            self.origin.passed_in_step(shard, id);
        }
        Ok(())
    }

    /// Makes a purge and sends word of it to every shard; it is answered when the last has it.
    fn purge(&mut self, plan: PurgePlan) -> Result<(), String> {
        let PurgePlan { what, soft, .. } = plan;
        self.note("purge", &[self.purges.len() as u64, u64::from(soft)]);
        let purges = Arc::clone(self.purger.purges());
        let purge = match what {
            Purged::Resource(index) => {
                purging::Purge::Url(hash_of(self.hash_seed, &key(&target(index))?))
            }
            Purged::Tag(number) => purging::Purge::Tag(purges.slot(tag(number).as_bytes())),
            Purged::Prefix(start) => purging::Purge::Prefix(key(&target(start))?),
            Purged::Everything => purging::Purge::All,
        };
        let made = self.purger.purge(&purge, soft);
        made.map_err(|error| error.to_string())?;
        self.origin.purged(what);
        self.purges.push(Purge {
            made: self.now,
            answered: None,
            what,
            soft,
        });
        let mut last = self.now;
        for shard in 0..self.plan.shards {
            let delay = self
                .rng
                .random_range(Duration::ZERO..self.plan.network.lane_delay);
            last = last.max(self.now + delay);
            // In the order of the shards, so that the last one has it last.
            self.at(last, Happening::SeePurge(shard, self.purges.len() - 1));
        }
        Ok(())
    }

    fn see_purge(&mut self, shard: ShardId, index: usize) -> Result<(), String> {
        let Purge { what, soft, .. } = self.purges[index];
        let command = match what {
            Purged::Resource(index) => Command::PurgeKeys {
                keys: Arc::from([key(&target(index))?]),
                soft,
            },
            what => Command::SeePurges {
                everything: what == Purged::Everything && !soft,
            },
        };
        self.input(shard, Input::Command { id: 0, command })?;
        // A fetch that began since may have been taken for one from before.
        self.origin.purged(what);
        if shard + 1 == self.plan.shards {
            self.purges[index].answered = Some(self.now);
        }
        Ok(())
    }

    /// Hands an input to a shard and lets it take its turns.
    fn input(&mut self, shard: ShardId, input: Input) -> Result<(), String> {
        let now = self.shard_now();
        let mut out = Outbox::default();
        self.nodes[usize::from(shard)]
            .shard
            .handle(now, input, &mut out);
        self.carry_out(shard, out)?;
        self.turns(shard)
    }

    fn turns(&mut self, shard: ShardId) -> Result<(), String> {
        let now = self.shard_now();
        for _ in 0..MAX_TURNS {
            let mut out = Outbox::default();
            let turn = Input::Turn {
                max_transmits: TRANSMITS,
            };
            let node = &mut self.nodes[usize::from(shard)];
            node.shard.handle(now, turn, &mut out);
            checks::turn(&out, TRANSMITS)?;
            let more = node.shard.wants_turn();
            self.carry_out(shard, out)?;
            if !more {
                self.arm_shard(shard);
                let holdings = self.nodes[usize::from(shard)].shard.holdings();
                return checks::bounds(&self.plan.limits, usize::from(shard), &holdings);
            }
        }
        Err(format!("shard {shard} wants turns for ever"))
    }

    fn arm_shard(&mut self, shard: ShardId) {
        let node = &mut self.nodes[usize::from(shard)];
        let Some(due) = node.shard.next_timeout() else {
            return;
        };
        let due = due.saturating_duration_since(self.start).max(self.now);
        if node.timer.is_none_or(|timer| due < timer) {
            node.timer = Some(due);
            self.at(due, Happening::ShardTimer(shard));
        }
    }

    fn carry_out(&mut self, shard: ShardId, mut out: Outbox) -> Result<(), String> {
        for transmit in out.transmits.drain(..) {
            let size = transmit.segment_size.unwrap_or(transmit.data.len()).max(1);
            for datagram in transmit.data.chunks(size) {
                let to = self
                    .clients
                    .iter()
                    .position(|client| client.address == transmit.destination);
                // A client that moved does not get what is sent to its old address.
                if let Some(client) = to {
                    for delay in self.fates() {
                        let what = Happening::ToClient(client, datagram.to_vec());
                        self.after(delay, what);
                    }
                }
            }
        }
        for (id, event) in out.answers.drain(..) {
            let (client, index) = TcpClient::place(id);
            self.note("tcp-answer", &[client as u64, index as u64]);
            let taken = self.tcp_clients[client].take(index, event)?;
            if taken > 0 {
                // As slow as its line, or slower.
                let most = self.plan.network.delay.as_nanos() as u64 * 4;
                let pause = Duration::from_nanos(self.rng.random_range(0..=most));
                self.after(pause, Happening::TcpRoom(shard, id, taken));
            }
        }
        for (to, message) in out.lanes.drain(..) {
            self.lane(shard, to, message);
        }
        for command in out.disk.drain(..) {
            let disk = self.disk.as_mut().ok_or("a disk command without a disk")?;
            let (delay, done) = disk.carry_out(command, &mut self.rng);
            self.after(delay, Happening::Disk(shard, done));
        }
        for command in out.fetches.drain(..) {
            let (id, due) = self
                .origin
                .command(self.now, shard, command, &mut self.rng)?;
            if let Some(due) = due {
                self.at(due, Happening::FetchStep(shard, id));
            }
        }
        Ok(())
    }

    fn lane(&mut self, from: ShardId, to: ShardId, message: LaneMessage) {
        if message.droppable() && self.rng.random_ratio(1, 50) {
            return;
        }
        let nanos = self.plan.network.lane_delay.as_nanos() as u64;
        let delay = Duration::from_nanos(self.rng.random_range(0..=nanos));
        let last = &mut self.lanes[usize::from(from)][usize::from(to)];
        *last = (self.now + delay).max(*last);
        let at = *last;
        self.at(at, Happening::Lane(from, to, message));
    }

    /// The delays after which copies of a datagram arrive: none, one or two.
    fn fates(&mut self) -> Vec<Duration> {
        let network = self.plan.network;
        let rng = &mut self.rng;
        if rng.random_range(0..100) < network.loss {
            return Vec::new();
        }
        let copies = 1 + usize::from(rng.random_range(0..100) < network.duplication);
        let jitter = network.jitter.as_nanos() as u64;
        (0..copies)
            .map(|_| network.delay + Duration::from_nanos(rng.random_range(0..=jitter)))
            .collect()
    }

    fn drive_client(&mut self, index: usize) {
        let now = self.instant();
        let sent = self.clients[index].drive(now);
        let address = self.clients[index].address;
        for (_, data) in sent {
            for delay in self.fates() {
                let shard = self.queue_of(address);
                self.after(delay, Happening::ToShard(shard, data.clone(), address));
            }
        }
        self.arm_client(index);
    }

    fn arm_client(&mut self, index: usize) {
        let Some(due) = self.clients[index].next_timeout() else {
            return;
        };
        let due = due.saturating_duration_since(self.start).max(self.now);
        if self.client_timers[index].is_none_or(|timer| due < timer) {
            self.client_timers[index] = Some(due);
            self.at(due, Happening::ClientTimer(index));
        }
    }

    /// The receive queue of a flow, as a NIC's hash would choose it.
    fn queue_of(&mut self, address: SocketAddr) -> ShardId {
        let shards = u32::from(self.plan.shards);
        if self.rng.random_range(0..100) < self.plan.network.misrouting {
            return self.rng.random_range(0..shards) as ShardId;
        }
        let IpAddr::V4(ip) = address.ip() else {
            return 0;
        };
        let flow = u32::from(ip) ^ u32::from(address.port());
        (flow.wrapping_mul(0x9e37_79b1) >> 16).rem_euclid(shards) as ShardId
    }

    /// Closes what is open, waits until nothing moves, and checks the whole run.
    fn finish(mut self) -> Result<Report, String> {
        for index in 0..self.clients.len() {
            let now = self.instant();
            self.clients[index].close(now);
            self.drive_client(index);
        }
        let at_rest = |world: &Self| {
            world.origin.running() == 0
                && world
                    .nodes
                    .iter()
                    .enumerate()
                    .all(|(index, node)| checks::at_rest(index, &node.shard.holdings()).is_ok())
        };
        let limit = self.now + PATIENCE;
        self.play_until(limit, at_rest)?;
        self.purge(PurgePlan {
            at: self.now,
            what: Purged::Everything,
            soft: false,
        })?;
        let answered = |world: &Self| world.purges.iter().all(|purge| purge.answered.is_some());
        self.play_until(self.now + PATIENCE, answered)?;
        for _ in 0..3 {
            for shard in 0..self.plan.shards {
                self.turns(shard)?;
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            checks::at_rest(index, &node.shard.holdings())?;
        }
        let exchanges = self.clients.iter().map(|client| &client.exchanges[..]);
        let over_tcp = self.tcp_clients.iter().map(|client| &client.exchanges[..]);
        let exchanges = exchanges.chain(over_tcp);
        checks::exchanges(&self.plan, &self.origin, &self.purges, exchanges)
            .map_err(|why| format!("{why}\n{}", self.tiers()))?;
        Ok(self.report())
    }

    /// What the tiers counted, to tell why an answer failed.
    fn tiers(&self) -> String {
        let stats = self.nodes.iter().filter_map(|node| node.shard.tier_stats());
        let counted = stats.flat_map(|stats| stats.snapshot());
        let moved: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
        format!("tiers: {moved:?}")
    }

    fn report(&self) -> Report {
        let exchanges = || {
            let over_tcp = self.tcp_clients.iter().flat_map(|client| &client.exchanges);
            let over_quic = self.clients.iter().flat_map(|client| &client.exchanges);
            over_quic.chain(over_tcp)
        };
        let sum = |stat: fn(&ShardStats) -> u64| {
            self.nodes.iter().map(|node| stat(&node.stats)).sum::<u64>()
        };
        Report {
            seed: self.plan.seed,
            hash: self.trace.hash(),
            events: self.trace.events(),
            requests: exchanges().count(),
            answered: exchanges()
                .filter(|exchange| matches!(exchange.outcome, Some(Outcome::Answered(_))))
                .count(),
            fetches: self.origin.fetches,
            hits: sum(|stats| stats.hits.get()),
            collapsed: sum(|stats| stats.collapsed.get()),
            handed_over: sum(|stats| stats.datagrams_handed_over.get()),
            tier_hits: sum(|stats| stats.tier_hits.get()),
            sliced: sum(|stats| stats.objects_sliced.get()),
        }
    }

    fn note(&mut self, what: &str, numbers: &[u64]) {
        self.trace.event(self.now.as_nanos() as u64, what, numbers);
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn shard_now(&self) -> Now {
        Now {
            mono: self.instant(),
            unix_ms: EPOCH_MS + self.now.as_millis() as u64,
        }
    }
}

/// The cache key of a path.
fn key(path: &str) -> Result<Bytes, String> {
    let url = format!("https://{}{path}", tls::SERVER_NAME);
    let key = cache_core::http::key::key_of_url(&url);
    key.map(Bytes::from).map_err(|error| error.to_string())
}

fn nodes(
    plan: &Plan,
    disk: Option<&Disk>,
    purges: &Arc<Purges>,
    hash_seed: u64,
    rng: &mut StdRng,
) -> Result<Vec<Node>, String> {
    let mut cids = CidKeys::new(1, CidKey::from_bytes(rng.random()));
    cids.activate(1);
    let tls = tls::server().map_err(|error| error.to_string())?;
    let quic = QuicSetup::new(tls, cids, &plan.limits).map_err(|error| error.to_string())?;
    let config = StoreConfig {
        shards: plan.shards,
        ram_bytes: plan.ram_bytes,
        pages: hugepages::PagePolicy::Plain,
        max_object: plan.limits.max_object,
        hash_seed,
        large_share: plan.large_share,
        ..StoreConfig::default()
    };
    let (stores, _) =
        store::build(&config, Arc::clone(purges)).map_err(|error| error.to_string())?;
    stores
        .into_iter()
        .enumerate()
        .map(|(index, store)| {
            let stats = Arc::new(ShardStats::default());
            let config = ShardConfig {
                shard: index as ShardId,
                shards: plan.shards,
                node_name: "popcache".to_owned(),
                node_id: "0".to_owned(),
                role: Role::Edge,
                origins: vec![OriginRoute {
                    name: "simulated".to_owned(),
                    hosts: vec![tls::SERVER_NAME.to_owned()],
                    client_fields: ClientFields::default(),
                }],
                caching: Caching {
                    slice_size: plan.slice_size,
                    slice_above: u64::from(plan.slice_size) * 2,
                    ..Caching::default()
                },
                limits: plan.limits.clone(),
            };
            let seed = rng.random();
            let mut shard = Shard::new(config, store, &quic, Arc::clone(&stats), seed, true);
            if let Some(disk) = disk {
                shard = shard.with_tier(disk.tier(index as ShardId)?);
            }
            Ok(Node {
                shard,
                stats,
                timer: None,
            })
        })
        .collect()
}
