//! Clients that come and go, and clients that stay and are silent.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::shard::{Served, Shard};
use super::{Arrived, Case, KEYS, PATIENCE, SERVER, World, paths, serve_measured};
use crate::heap;
use crate::load::direct::Direct;
use crate::load::targets::Targets;

/// Rounds before the measured ones.
const WARM_UP: usize = 20;
/// Clients that a run measures, about.
const CLIENTS: usize = 4_000;
/// How far the clock moves in a step in which nothing happens, and how many of them it takes for every
/// connection that was closed to be forgotten, and for every silent one to have given back what it can.
const STEP: Duration = Duration::from_millis(50);
const STEPS: usize = 20;

type Serve = fn(&mut Shard, Instant, Vec<Arrived>) -> Vec<Served>;

/// The shard's microseconds for a client that connects, asks once and closes, and so many of them.
pub(super) fn measure(case: &Case, rounds: Option<usize>) -> Result<(f64, usize)> {
    let mut world = World::new(case)?;
    for round in 0..WARM_UP {
        world.meet(case.connections, round, Shard::serve)?;
        world.part(Shard::serve)?;
    }
    let rounds = rounds.unwrap_or(CLIENTS / case.connections).max(1);
    let (before, began) = (world.answered, world.spent);
    for round in 0..rounds {
        world.meet(case.connections, WARM_UP + round, serve_measured)?;
        world.part(serve_measured)?;
    }
    let answered = world.answered - before;
    let spent = (world.spent - began).as_secs_f64() * 1e6 / answered as f64;
    Ok((spent, answered))
}

/// Heap bytes that the shard holds for each of `connections` which have had an answer of 1 KB and are silent
/// since.
///
/// # Errors
/// Where the shard cannot be set up, or answers wrong.
pub fn heap_of_idle(connections: usize) -> Result<u64> {
    let case = super::case("1k", 1 << 10, connections, 1);
    let mut world = World::new(&case)?;
    // What is grown once, such as the buffers of a turn that answers all of them, is not a connection's.
    world.meet(connections, 0, Shard::serve)?;
    world.part(Shard::serve)?;
    world.clients = clients(1)?;
    let before = heap::in_use();
    world.meet(connections, 2, Shard::serve)?;
    world.wait(Shard::serve)?;
    world.clients = clients(1)?;
    let held = heap::in_use().saturating_sub(before);
    ensure!(
        world.shard.connections() == connections,
        "{} of {connections} connections are left",
        world.shard.connections()
    );
    Ok(held / connections as u64)
}

/// Clients of their own random choices, none of which has connected.
fn clients(number: usize) -> Result<Direct> {
    let targets = Targets::new("edge.test", paths(1 << 10), false)?;
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Ok(Direct::new(SERVER.into(), targets, seed))
}

impl World {
    /// New clients connect, ask once each, and are answered.
    fn meet(&mut self, connections: usize, number: usize, serve: Serve) -> Result<()> {
        self.clients = clients(number)?;
        self.clients.connect(self.now, connections)?;
        for connection in 0..connections {
            self.clients
                .request(connection, connection % KEYS, self.now);
        }
        let wanted = self.answered + connections;
        for _ in 0..PATIENCE {
            self.exchange(serve)?;
            for done in self.clients.take_completed() {
                match done.outcome {
                    Ok(_) => self.answered += 1,
                    Err(failure) => bail!("a request failed: {failure}"),
                }
            }
            if self.answered == wanted {
                return Ok(());
            }
        }
        bail!(
            "{} of {connections} requests were not answered",
            wanted - self.answered
        )
    }

    /// All clients close, and are forgotten.
    fn part(&mut self, serve: Serve) -> Result<()> {
        self.clients.close(self.now);
        self.wait(serve)?;
        ensure!(self.shard.connections() == 0, "a connection is left");
        Ok(())
    }

    fn wait(&mut self, serve: Serve) -> Result<()> {
        for _ in 0..STEPS {
            self.exchange(serve)?;
            self.now += STEP;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_and_go() {
        let case = super::super::case("full-1req", 1 << 10, 4, 1);
        let (_, answered) = measure(&case, Some(3)).expect("answers");
        assert_eq!(answered, 12);
    }
}
