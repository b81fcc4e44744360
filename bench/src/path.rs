//! `path`: what a hit costs a shard, without kernel and network.
//!
//! A shard and its clients run in one thread, with a clock that moves a millisecond a round: clients take
//! what the shard sent, ask again for what was answered, and their datagrams are handed to the shard as
//! its core's loop would, at most 128 before each turn. Only the shard's share is measured.
//!
//! Nothing depends on timing, so the same instructions are executed whenever it is run. They are counted
//! by `valgrind --tool=callgrind --toggle-collect='*serve_measured*' popcache-bench path --case NAME`,
//! which also says where they go; the count over the printed number of requests is what a request costs.
//!
//! **Floor.** `crypto-floor` is the processor time of the cipher alone; see [`floor`].

mod arrivals;
mod shard;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::BytesMut;

use crate::cpu::of_this_thread;
use crate::figures::{CPU_PER_REQUEST, Figures, Machine, POPCACHE, Samples};
use crate::floor;
use crate::load::direct::Direct;
use crate::load::expand;
use crate::load::targets::Targets;
pub use arrivals::heap_of_idle;
use shard::{Served, Shard};

/// Objects of each size.
const KEYS: usize = 100;
/// How far the clock moves in a round.
const ROUND: Duration = Duration::from_millis(1);
/// Rounds in which connections must have come about.
const PATIENCE: usize = 1_000;
/// Requests before the measured ones, for congestion windows and buffers to grow.
const WARM_UP: usize = 20;
/// What a run measures, about.
const REQUESTS: usize = 100_000;
const SERVER: ([u8; 4], u16) = ([10, 77, 0, 1], 443);

/// The case in which every request has a connection of its own.
const ARRIVALS: &str = "full-1req";

struct Case {
    name: &'static str,
    bytes: usize,
    connections: usize,
    streams: usize,
}

const CASES: [Case; 5] = [
    case("1k-50x4", 1 << 10, 50, 4),
    case("4k-16x32", 4 << 10, 16, 32),
    case("4k-50x1", 4 << 10, 50, 1),
    case("64k-16x4", 64 << 10, 16, 4),
    case(ARRIVALS, 1 << 10, 16, 1),
];

const fn case(name: &'static str, bytes: usize, connections: usize, streams: usize) -> Case {
    Case {
        name,
        bytes,
        connections,
        streams,
    }
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub json: Option<PathBuf>,
    pub runs: usize,
    /// Only cases whose name holds this.
    pub only: Option<String>,
    /// Measured rounds of each run; `None`: as many as make [`REQUESTS`].
    pub rounds: Option<usize>,
}

/// Runs the benchmark, prints the table, writes the JSON.
///
/// # Errors
/// Where the shard cannot be set up, or answers wrong.
pub fn run(options: &Options) -> Result<ExitCode> {
    let wanted = |case: &&Case| {
        let part = options.only.as_deref();
        part.is_none_or(|part| case.name.contains(part))
    };
    let cases: Vec<_> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has that name");
    let mut samples = Samples::default();
    for _ in 0..options.runs.max(1) {
        for (index, case) in cases.iter().enumerate() {
            let measured = measure(case, options.rounds)?;
            samples.add(index, 0, POPCACHE, measured);
            samples.add(index, 0, floor::NAME, floor_of(case)? * 1e6);
        }
    }
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let figures = Figures {
        bench: "path".into(),
        machine: Machine::here(),
        rows: samples.rows(&names, &[CPU_PER_REQUEST]),
    };
    figures.publish(options.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn floor_of(case: &Case) -> Result<f64> {
    let answer = floor::seconds(case.bytes)?;
    match case.name {
        ARRIVALS => Ok(answer + floor::handshake_seconds()?),
        _ => Ok(answer),
    }
}

/// The shard's microseconds for one request.
fn measure(case: &Case, rounds: Option<usize>) -> Result<f64> {
    if case.name == ARRIVALS {
        let (spent, clients) = arrivals::measure(case, rounds)?;
        eprintln!("popcache-bench: {}: {clients} clients", case.name);
        return Ok(spent);
    }
    let mut world = World::new(case)?;
    world.connect(case.connections)?;
    for _ in 0..WARM_UP {
        world.round(case, Shard::serve)?;
    }
    let at_once = case.connections * case.streams;
    let rounds = rounds.unwrap_or(REQUESTS / at_once).max(1);
    let (before, began) = (world.answered, world.spent);
    for _ in 0..rounds {
        world.round(case, serve_measured)?;
    }
    let answered = world.answered - before;
    let spent = (world.spent - began).as_secs_f64() * 1e6 / answered as f64;
    eprintln!(
        "popcache-bench: {}: {answered} requests in {rounds} rounds, {} datagrams in, {} out in {} sends",
        case.name, world.shard.taken, world.shard.sent, world.shard.sends
    );
    Ok(spent)
}

/// What callgrind looks at.
#[inline(never)]
fn serve_measured(shard: &mut Shard, now: Instant, inbox: Vec<Arrived>) -> Vec<Served> {
    let served = shard.serve(now, inbox);
    std::hint::black_box(served)
}

/// A datagram for the shard.
struct Arrived {
    remote: SocketAddr,
    data: BytesMut,
}

struct World {
    clients: Direct,
    shard: Shard,
    now: Instant,
    answers: Vec<Served>,
    next_key: usize,
    answered: usize,
    spent: Duration,
}

impl World {
    fn new(case: &Case) -> Result<Self> {
        let paths = paths(case.bytes);
        let mut shard = Shard::new()?;
        let now = Instant::now();
        for path in &paths {
            shard.fill(now, path, case.bytes)?;
        }
        let targets = Targets::new("edge.test", paths, false)?;
        Ok(Self {
            clients: Direct::new(SocketAddr::from(SERVER), targets, [7; 32]),
            shard,
            now,
            answers: Vec::new(),
            next_key: 0,
            answered: 0,
            spent: Duration::ZERO,
        })
    }

    fn connect(&mut self, connections: usize) -> Result<()> {
        self.clients.connect(self.now, connections)?;
        for _ in 0..PATIENCE {
            if self.clients.ready == connections {
                return Ok(());
            }
            self.exchange(Shard::serve)?;
        }
        bail!("only {} of {connections} connections", self.clients.ready)
    }

    /// Every connection has its requests under way; those that were answered are asked anew.
    fn round(
        &mut self,
        case: &Case,
        serve: fn(&mut Shard, Instant, Vec<Arrived>) -> Vec<Served>,
    ) -> Result<()> {
        if self.answered == 0 && self.next_key == 0 {
            for at in 0..case.connections * case.streams {
                self.ask(at % case.connections);
            }
        }
        self.exchange(serve)?;
        for done in self.clients.take_completed() {
            match done.outcome {
                Ok(_) => self.answered += 1,
                Err(failure) => bail!("a request failed: {failure}"),
            }
            self.ask(done.connection);
        }
        Ok(())
    }

    fn ask(&mut self, connection: usize) {
        self.clients
            .request(connection, self.next_key % KEYS, self.now);
        self.next_key += 1;
    }

    fn exchange(
        &mut self,
        serve: fn(&mut Shard, Instant, Vec<Arrived>) -> Vec<Served>,
    ) -> Result<()> {
        self.now += ROUND;
        for served in self.answers.drain(..) {
            let segment = served.segment.unwrap_or(served.data.len());
            for datagram in served.data.chunks(segment) {
                self.clients.receive(self.now, BytesMut::from(datagram));
            }
            self.shard.recycle(served);
        }
        let mut inbox = Vec::new();
        self.clients.drive(self.now, |connection, datagram| {
            inbox.push(Arrived {
                remote: remote(connection),
                data: BytesMut::from(datagram),
            });
        });
        let began = of_this_thread()?;
        self.answers = serve(&mut self.shard, self.now, inbox);
        self.spent += of_this_thread()?.saturating_sub(began);
        ensure!(
            self.clients.lost.is_empty(),
            "connections were lost: {:?}",
            self.clients.lost
        );
        Ok(())
    }
}

fn paths(bytes: usize) -> Vec<String> {
    expand(&format!("/size/{bytes}?v={{}}"), KEYS)
}

fn remote(connection: usize) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 2], 20_000 + connection as u16))
}

#[cfg(test)]
mod tests {
    use cache_core::shard::BYTES_PER_TURN;

    use super::*;

    #[test]
    fn every_case_is_answered_from_memory() {
        for case in CASES.iter().filter(|case| case.name != ARRIVALS) {
            let mut world = World::new(case).expect("a shard");
            world.connect(case.connections).expect("connections");
            for _ in 0..30 {
                world.round(case, Shard::serve).expect("a round");
            }
            assert!(world.answered >= case.connections, "{}", case.name);
            assert_eq!(world.shard.fetches(), 0, "{}", case.name);
            let largest = world.shard.largest_turn;
            assert!(largest < BYTES_PER_TURN, "{}: {largest}", case.name);
        }
    }
}
