//! The waiters' side: requests of one shard that follow a flight, and the pieces they are served from.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{FlightHead, Outcome, Pace, Pieces, Target, Ticket, Waiter, is_valid, is_variant};
use crate::io::{FetchId, ShardId};
use crate::purge::Purges;

/// The waiters' side of a flight on one shard.
pub struct Local {
    pub target: Target,
    /// [`Purges::stamp`] when it was opened here; the owner's is in the head.
    pub(super) stamp: u32,
    /// Encoded 103s, until there is a head.
    pub hints: Vec<Bytes>,
    pub head: Option<Arc<FlightHead>>,
    pub pieces: Pieces,
    pub outcome: Option<Outcome>,
    /// The request that began it.
    pub leader: Option<Waiter>,
    /// Requests that have nothing to write until the next event.
    idle: Vec<Waiter>,
    /// Requests to be served after an event.
    ready: Vec<Waiter>,
    /// Requests that still take pieces from here (idle, ready, or blocked by flow control).
    followers: usize,
    /// How many of them have come to which piece.
    positions: BTreeMap<usize, usize>,
    /// The owner is to be told how far they have come.
    pace: Option<Pace>,
    queued: bool,
}

/// How far the followers of a flight have come: its owner, its name there and here, pieces that all
/// have taken.
pub type Progress = (ShardId, Ticket, FetchId, u64);

impl Local {
    /// It has ended, or ends without more.
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// The piece that the slowest follower wants next.
    fn slowest(&self) -> Option<usize> {
        let (at, _) = self.positions.first_key_value()?;
        Some(*at)
    }

    /// A follower holds up others by not taking what is there.
    fn is_held_up(&self) -> bool {
        self.slowest().is_some_and(|at| at < self.pieces.end())
    }

    /// Drops what nobody needs, and leaves behind who takes nothing for too long: how many those are,
    /// and what the owner is to be told.
    fn keep_up(&mut self, now: Instant, patience: Duration) -> (u64, Option<u64>) {
        let mut left_behind = 0;
        while self.is_held_up()
            && self.slowest() == self.pace.as_ref().map(|pace| pace.told)
            && self
                .pace
                .as_ref()
                .is_some_and(|pace| pace.due(patience) <= now)
            && let Some((_, count)) = self.positions.pop_first()
        {
            left_behind += count as u64;
        }
        let (end, slowest) = (self.pieces.end(), self.slowest());
        let Some(pace) = &mut self.pace else {
            return (left_behind, None);
        };
        if slowest.is_none_or(|at| at > pace.told) {
            let is_news = slowest.is_some() || pace.told != usize::MAX;
            pace.told = slowest.unwrap_or(usize::MAX);
            pace.since = now;
            self.pieces.drop_before(pace.told.min(end));
            let taken = slowest.map_or(Pace::GONE, |at| at as u64);
            return (left_behind, is_news.then_some(taken));
        }
        (left_behind, None)
    }
}

/// All local flights of a shard.
#[derive(Default)]
pub struct Locals {
    by_key: HashMap<Bytes, Ticket, RandomState>,
    flights: HashMap<Ticket, Local, RandomState>,
    ready: VecDeque<Ticket>,
    next: u64,
    followers: usize,
    /// Flights that have a [`Pace`].
    paced: Vec<Ticket>,
}

impl Locals {
    /// Requests that follow any flight.
    pub fn followers(&self) -> usize {
        self.followers
    }

    /// Flights going on, and ended ones that still have followers.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// The flight that a new request for this key may join: one that no purge covers.
    pub fn joinable(&mut self, key: &[u8], purges: &Purges) -> Option<Ticket> {
        let ticket = self.by_key.get(key).copied()?;
        let flight = self.flights.get(&ticket)?;
        // The owner judges its flight when we join it. Of what was purged later, our own stamp
        // tells until the head is there.
        let head = flight.head.as_deref();
        let stamp = head.map_or(flight.stamp, |head| head.meta.stamp);
        if is_valid(purges, stamp, head, key) {
            return Some(ticket);
        }
        self.by_key.remove(key);
        None
    }

    /// `stamp` is [`Purges::stamp`].
    pub fn open(&mut self, target: Target, stamp: u32) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.by_key.insert(target.key.clone(), ticket);
        self.flights.insert(
            ticket,
            Local {
                target,
                stamp,
                hints: Vec::new(),
                head: None,
                pieces: Pieces::default(),
                outcome: None,
                leader: None,
                idle: Vec::new(),
                ready: Vec::new(),
                followers: 0,
                positions: BTreeMap::new(),
                pace: None,
                queued: false,
            },
        );
        ticket
    }

    pub fn get(&self, ticket: Ticket) -> Option<&Local> {
        self.flights.get(&ticket)
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Local> {
        self.flights.get_mut(&ticket)
    }

    pub fn follow(&mut self, ticket: Ticket) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.followers += 1;
            *flight.positions.entry(0).or_default() += 1;
            self.followers += 1;
        }
    }

    /// A follower that was at piece `at` is now at `to`.
    pub fn moved(&mut self, ticket: Ticket, at: &mut usize, to: usize) {
        let from = std::mem::replace(at, to);
        if from == to {
            return;
        }
        if let Some(flight) = self.flights.get_mut(&ticket) {
            // One that was left behind has no place any more.
            if leave(&mut flight.positions, from) {
                *flight.positions.entry(to).or_default() += 1;
            }
        }
    }

    /// The next piece of a body.
    pub fn push(&mut self, ticket: Ticket, piece: Bytes, now: Instant) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        let held_up = flight.is_held_up();
        if let Some(pace) = flight.pace.as_mut().filter(|_| !held_up) {
            pace.since = now;
        }
        flight.pieces.push(piece);
    }

    /// From now on nobody joins, and the owner is told how far those who follow have come.
    pub fn keep_pace(&mut self, ticket: Ticket, owner: ShardId, fetch: FetchId, now: Instant) {
        self.close(ticket);
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.pace = Some(Pace {
                owner,
                fetch,
                told: 0,
                since: now,
            });
            self.paced.push(ticket);
        }
    }

    pub fn has_paces(&self) -> bool {
        !self.paced.is_empty()
    }

    /// What owners are to be told, and how many followers were left behind for taking nothing for as
    /// long as `patience` while there was something.
    pub fn progress(&mut self, now: Instant, patience: Duration) -> (Vec<Progress>, u64) {
        let (mut news, mut left_behind) = (Vec::new(), 0);
        let flights = &mut self.flights;
        self.paced.retain(|&ticket| {
            let flight = flights.get_mut(&ticket);
            let Some(flight) = flight.filter(|flight| !flight.is_over()) else {
                return false;
            };
            let (count, taken) = flight.keep_up(now, patience);
            left_behind += count;
            if let (Some(pace), Some(taken)) = (&flight.pace, taken) {
                news.push((pace.owner, ticket, pace.fetch, taken));
            }
            true
        });
        (news, left_behind)
    }

    /// When a follower that takes nothing is left behind.
    pub fn due(&self, patience: Duration) -> Option<Instant> {
        let flights = self
            .paced
            .iter()
            .filter_map(|ticket| self.flights.get(ticket));
        let held_up = flights.filter(|flight| !flight.is_over() && flight.is_held_up());
        let paces = held_up.filter_map(|flight| flight.pace.as_ref());
        paces.map(|pace| pace.due(patience)).min()
    }

    /// The request that began the flight.
    pub fn lead(&mut self, ticket: Ticket, leader: Waiter) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.leader = Some(leader);
        }
    }

    /// A follower has taken every piece so far.
    pub fn wait(&mut self, ticket: Ticket, waiter: Waiter) {
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.idle.push(waiter);
        }
    }

    /// A follower is finished or gone, at piece `at`. The flight is forgotten with its last follower once it has
    /// ended.
    pub fn unfollow(&mut self, ticket: Ticket, at: usize) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        leave(&mut flight.positions, at);
        flight.followers -= 1;
        self.followers -= 1;
        if flight.followers == 0 && flight.outcome.is_some() {
            self.flights.remove(&ticket);
        }
    }

    /// Something new is to be read by the waiters.
    pub fn wake(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        flight.ready.append(&mut flight.idle);
        if !flight.ready.is_empty() && !flight.queued {
            flight.queued = true;
            self.ready.push_back(ticket);
        }
    }

    /// The next waiter to serve.
    pub fn next_ready(&mut self) -> Option<(Ticket, Waiter)> {
        while let Some(&ticket) = self.ready.front() {
            if let Some(flight) = self.flights.get_mut(&ticket) {
                if let Some(waiter) = flight.ready.pop() {
                    return Some((ticket, waiter));
                }
                flight.queued = false;
            }
            self.ready.pop_front();
        }
        None
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes no more requests into this one. Those that follow go on.
    pub fn close(&mut self, ticket: Ticket) {
        if let Some(flight) = self.flights.get(&ticket)
            && self.by_key.get(&flight.target.key) == Some(&ticket)
        {
            self.by_key.remove(&flight.target.key);
        }
    }

    /// Takes no more requests into any variant of a resource.
    pub fn close_variants(&mut self, base: &[u8]) {
        self.by_key.retain(|key, _| !is_variant(key, base));
    }

    /// Takes no more requests in. Those that follow go on.
    pub fn close_key(&mut self, key: &[u8]) {
        self.by_key.remove(key);
    }

    /// The flight has ended: new requests look for the object in the index, or try again.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
        flight.outcome = Some(outcome);
        if self.by_key.get(&flight.target.key) == Some(&ticket) {
            self.by_key.remove(&flight.target.key);
        }
        if flight.followers == 0 {
            self.flights.remove(&ticket);
        }
    }
}

/// Takes one away from a position; false if nobody is there.
fn leave(positions: &mut BTreeMap<usize, usize>, at: usize) -> bool {
    match positions.get_mut(&at) {
        None => false,
        Some(1) => positions.remove(&at).is_some(),
        Some(count) => {
            *count -= 1;
            true
        }
    }
}
