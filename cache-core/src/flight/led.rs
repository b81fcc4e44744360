//! The leading side: fetches of the shard that owns their keys, and the shards that joined.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{FlightHead, Piece, Target, Ticket, Window, is_valid, is_variant};
use crate::http::slices::Probe;
use crate::io::{FetchId, ShardId};
use crate::purge::Purges;
use crate::store::{Fill, Span};

/// A shard that joined, and its name for the flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub shard: ShardId,
    pub ticket: Ticket,
}

/// Where the bytes of a flight come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    Upstream,
    /// The second tier has the object.
    Tier,
}

/// The leading side of a flight.
pub struct Owned {
    pub target: Target,
    pub supply: Supply,
    pub subscribers: Vec<Subscriber>,
    pub head: Option<Arc<FlightHead>>,
    /// Where the body goes; `None` before the head, and when there was no room for it.
    pub fill: Option<Fill>,
    /// Every piece so far, for those who join late.
    pub pieces: Vec<LedPiece>,
    pub received: u64,
    /// A purge of the key came after the fetch began: what arrives is not kept.
    pub purged: bool,
    /// Body bytes on the heap.
    pub heap: u64,
    /// When the fetch began, milliseconds since the Unix epoch.
    pub sent_unix_ms: u64,
    /// [`crate::purge::Purges::stamp`] when the fetch began.
    pub stamp: u32,
    /// The arena took no more: what follows goes to the heap and the object is not kept.
    pub full: bool,
    /// The fetch asks the origin to confirm a stored object.
    pub validating: bool,
    /// Nobody joins any more.
    pub closed: bool,
    /// The fetch asks for a part only, in case the object is large.
    pub probe: Option<Probe>,
    /// Body bytes that are wanted, of a response that has more.
    pub enough: Option<u64>,
    /// It has one of the places of [`super::Line`].
    pub in_line: bool,
    /// No more of the body is held than this; `pieces` are empty from then on.
    pub window: Option<Window>,
}

/// A [`Piece`] as its owner remembers it.
#[derive(Clone, Debug)]
pub enum LedPiece {
    Span(Span),
    Heap(Bytes),
}

impl LedPiece {
    pub fn heap_bytes(&self) -> u64 {
        match self {
            Self::Span(_) => 0,
            Self::Heap(bytes) => bytes.len() as u64,
        }
    }

    pub fn told(&self) -> Piece {
        match self {
            Self::Span(span) => Piece::Span(*span),
            Self::Heap(bytes) => Piece::Heap(bytes.clone()),
        }
    }
}

/// All flights that a shard leads.
#[derive(Default)]
pub struct Flights {
    by_key: HashMap<Bytes, FetchId, RandomState>,
    flights: HashMap<FetchId, Owned, RandomState>,
    /// Ended flights whose spans other shards may still have to look at.
    settling: HashMap<FetchId, (Option<Fill>, Vec<ShardId>), RandomState>,
}

impl Flights {
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Flights whose fill is not released yet, beside those that are going on.
    pub fn settling(&self) -> usize {
        self.settling.len()
    }

    /// The flight that another shard or request may join: one that no purge covers.
    pub fn joinable(&mut self, key: &[u8], purges: &Purges) -> Option<FetchId> {
        let id = self.by_key.get(key).copied()?;
        let flight = self.flights.get(&id).filter(|flight| !flight.closed)?;
        if is_valid(purges, flight.stamp, flight.head.as_deref(), key) {
            return Some(id);
        }
        self.by_key.remove(key);
        None
    }

    /// Whether what a flight brings may take the place of what is stored: not if another flight of
    /// its key has begun since, because of a purge.
    pub fn is_latest(&self, id: FetchId, key: &[u8]) -> bool {
        self.by_key.get(key) == Some(&id)
    }

    pub fn open(
        &mut self,
        id: FetchId,
        target: Target,
        supply: Supply,
        first: Option<Subscriber>,
        now_ms: u64,
        stamp: u32,
    ) {
        self.by_key.insert(target.key.clone(), id);
        self.flights.insert(
            id,
            Owned {
                target,
                supply,
                subscribers: first.into_iter().collect(),
                head: None,
                fill: None,
                pieces: Vec::new(),
                received: 0,
                purged: false,
                heap: 0,
                sent_unix_ms: now_ms,
                stamp,
                full: false,
                validating: false,
                closed: false,
                probe: None,
                enough: None,
                in_line: false,
                window: None,
            },
        );
    }

    pub fn get_mut(&mut self, id: FetchId) -> Option<&mut Owned> {
        self.flights.get_mut(&id)
    }

    /// Ends a flight. What it returns is told to the subscribers by the shard, and each of them
    /// answers with [`Flights::done`].
    pub fn end(&mut self, id: FetchId) -> Option<Owned> {
        let flight = self.flights.remove(&id)?;
        if self.by_key.get(&flight.target.key) == Some(&id) {
            self.by_key.remove(&flight.target.key);
        }
        Some(flight)
    }

    /// Keeps an ended flight's fill until every subscriber is done with its spans.
    pub fn settle(&mut self, id: FetchId, fill: Option<Fill>, subscribers: &[Subscriber]) {
        let shards = subscribers.iter().map(|s| s.shard).collect();
        self.settling.insert(id, (fill, shards));
    }

    /// A subscriber has no more use for spans; the last one's answer gives the fill back.
    pub fn done(&mut self, id: FetchId, shard: ShardId) -> Option<Fill> {
        let (_, shards) = self.settling.get_mut(&id)?;
        if let Some(at) = shards.iter().position(|&s| s == shard) {
            shards.swap_remove(at);
        }
        if !shards.is_empty() {
            return None;
        }
        self.settling.remove(&id)?.0
    }

    /// Lets no more shards join; returns those that joined after the first one.
    pub fn close(&mut self, id: FetchId) -> Vec<Subscriber> {
        let Some(flight) = self.flights.get_mut(&id) else {
            return Vec::new();
        };
        flight.closed = true;
        flight
            .subscribers
            .split_off(flight.subscribers.len().min(1))
    }

    /// What flights of any variant of a resource bring is not kept.
    pub fn purge_variants(&mut self, base: &[u8]) {
        let keys: Vec<Bytes> = self.by_key.keys().cloned().collect();
        for key in keys.iter().filter(|key| is_variant(key, base)) {
            self.purge(key);
        }
    }

    /// What a flight of this key brings is not kept, and no new request joins it.
    pub fn purge(&mut self, key: &[u8]) {
        if let Some(flight) = self
            .by_key
            .remove(key)
            .and_then(|id| self.flights.get_mut(&id))
        {
            flight.purged = true;
        }
    }
}
