//! The waiters' side: requests of one shard that follow a flight, and the pieces they are served from.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{FlightHead, Outcome, Target, Ticket, Waiter, is_valid, is_variant};
use crate::purge::Purges;

/// The waiters' side of a flight on one shard.
pub struct Local {
    pub target: Target,
    /// [`Purges::stamp`] when it was opened here; the owner's is in the head.
    pub(super) stamp: u32,
    pub head: Option<Arc<FlightHead>>,
    pub pieces: Vec<Bytes>,
    pub outcome: Option<Outcome>,
    /// The request that began it.
    pub leader: Option<Waiter>,
    /// Requests that have nothing to write until the next event.
    idle: Vec<Waiter>,
    /// Requests to be served after an event.
    ready: Vec<Waiter>,
    /// Requests that still take pieces from here (idle, ready, or blocked by flow control).
    followers: usize,
    queued: bool,
}

/// All local flights of a shard.
#[derive(Default)]
pub struct Locals {
    by_key: HashMap<Bytes, Ticket, RandomState>,
    flights: HashMap<Ticket, Local, RandomState>,
    ready: VecDeque<Ticket>,
    next: u64,
    followers: usize,
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
                head: None,
                pieces: Vec::new(),
                outcome: None,
                leader: None,
                idle: Vec::new(),
                ready: Vec::new(),
                followers: 0,
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
            self.followers += 1;
        }
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

    /// A follower is finished or gone. The flight is forgotten with its last follower once it has
    /// ended.
    pub fn unfollow(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(&ticket) else {
            return;
        };
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
