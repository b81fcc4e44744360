//! Flights: one fetch for any number of requests that want the same missing object.
//!
//! The shard that owns a key's partition leads its flight ([`Owned`]): it asks the upstream, writes
//! the arena and tells every shard that joined. On each of those shards a [`Local`] flight holds
//! the requests of its own clients and the pieces they are streamed from. Nothing here does I/O or
//! touches the store: the shard carries out what these tables say.
//!
//! ```text
//!  request --miss--> Local (this shard) --Join--> Owned (owner shard) --Fetch--> upstream
//!                      ^    waiters                  |  spans in the arena
//!                      '--- Head, Pieces, End -------'
//!                      '--- Done ------------------->   the fill may be released
//! ```

mod led;
mod line;
mod local;
mod pieces;
mod uncacheable;
mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use quinn_proto::StreamId;

use crate::conn::client::ClientId;
use crate::http::range::Spec;
use crate::http::routes::RouteId;
use crate::http::slices::Sliced;
use crate::http::vary::{self, Rule};
use crate::io::{FetchErrorKind, OriginId};
use crate::purge::{Purges, TagSlot, Verdict};
use crate::store::{KeyHash, ObjectMeta, Span};

pub use led::{Flights, LedPiece, Owned, Subscriber, Supply};
pub use line::Line;
pub use local::{Local, Locals, Progress};
pub use pieces::Pieces;
pub use uncacheable::Uncacheable;
pub use window::{Pace, Window};

/// Names a [`Local`] flight of one shard; never reused while the shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What to ask an origin for, the same for every request of one cache key.
#[derive(Clone, Debug)]
pub struct Target {
    pub key: Bytes,
    pub hash: KeyHash,
    pub origin: OriginId,
    pub authority: Bytes,
    pub path: Bytes,
    /// The fields to ask with.
    pub headers: Arc<HeaderMap>,
    /// Whose rules hold.
    pub route: RouteId,
    /// The client wants the origin asked, whatever is stored.
    pub revalidate: bool,
    /// How stale an object the client takes if the origin fails, seconds.
    pub stale_if_error_s: u32,
    /// The client wants nothing that has to be fetched (only-if-cached).
    pub stored_only: bool,
    pub extent: Extent,
}

/// How much of an object is asked for.
#[derive(Clone, Debug, Default)]
pub enum Extent {
    #[default]
    Whole,
    /// The whole, of which a client wants this: of a large object that slice is enough for now.
    Part(Spec),
    Slice(Arc<Slice>),
}

/// A slice of a large object: what is to be fetched, and what it must be a slice of.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The key of the object.
    pub whole: Bytes,
    pub sliced: Sliced,
    pub index: u32,
    /// The object's strong validator, an entity tag or a date.
    pub validator: Bytes,
    /// Of the object.
    pub meta: ObjectMeta,
    pub tags: Vec<TagSlot>,
}

impl Target {
    pub fn slice(&self) -> Option<&Arc<Slice>> {
        match &self.extent {
            Extent::Slice(slice) => Some(slice),
            Extent::Whole | Extent::Part(_) => None,
        }
    }
}

/// The head of the response that a flight brings.
#[derive(Debug)]
pub struct FlightHead {
    pub meta: ObjectMeta,
    /// Encoded fields, see [`crate::conn::h3::head`].
    pub encoded: Bytes,
    /// The same with the fields that only the request that began the flight may have, and that
    /// request's shard.
    pub own: Option<(Subscriber, Bytes)>,
    /// Slots of the surrogate keys.
    pub tags: Vec<TagSlot>,
    /// The declared length of the body.
    pub length: Option<u64>,
    /// Whether the object is meant to be kept.
    pub stored: bool,
    /// For the request alone that began the flight, on the shard that joined first.
    pub alone: bool,
    /// The Age that it came with.
    pub age_s: Option<u64>,
    /// The origin confirmed a stored object (304).
    pub confirmed: bool,
    /// For which requests it is, where it is not for all.
    pub variant: Option<Variant>,
    /// It was read from the second tier, with so many seconds of freshness left.
    pub tier_ttl: Option<i64>,
}

/// One variant of a resource.
#[derive(Clone, Debug)]
pub struct Variant {
    pub rule: Arc<Rule>,
    pub key: Bytes,
    pub hash: KeyHash,
}

/// A part of the body, in order.
#[derive(Debug)]
pub enum Piece {
    /// In the owner's arena; valid until the shard says Done.
    Span(Span),
    /// On the heap, where the arena had no room.
    Heap(Bytes),
}

/// What an owner tells the shards that joined.
#[derive(Debug)]
pub enum FlightEvent {
    /// An encoded 103 of the origin, for those who wait.
    Hints(Bytes),
    Head(Arc<FlightHead>),
    /// The resource has variants: whoever waits asks for the one that it selects.
    Varies(Arc<Rule>),
    Pieces(Vec<Piece>),
    /// The body is longer than what is held of it: nobody joins any more, and the owner is to be told how
    /// far those who follow have come.
    Window,
    End(Outcome),
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All pieces were told.
    Complete,
    /// The response is for one request only: each waiter asks for itself, and so does whoever comes
    /// in the next time.
    Private,
    /// Likewise, but the next request may confirm what was kept.
    Alone,
    /// The answer is another variant than the one asked for.
    Varies,
    /// The origin failed, and a stale object may be served instead.
    ServeStale,
    /// The owner found the object stored when the join arrived.
    Present,
    /// It is large and kept in slices: whoever waits looks for it, and follows those.
    Sliced,
    /// Of a slice: the origin has another version of the object by now.
    Changed,
    /// Only what is stored was wanted, and it is not on the tier either.
    NotStored,
    /// The owner has `max_flights` already.
    Refused,
    Failed(FetchErrorKind),
}

/// A request that has taken every piece there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub conn: ClientId,
    pub stream: StreamId,
}
fn is_variant(key: &[u8], base: &[u8]) -> bool {
    key.len() > base.len() && vary::base(key) == base
}

/// Whether no purge covers what a flight brings. Before there is a head its surrogate keys are not
/// known: it may have any.
fn is_valid(purges: &Purges, stamp: u32, head: Option<&FlightHead>, key: &[u8]) -> bool {
    let verdict = match head {
        Some(head) => purges.judge(stamp, head.tags.iter().copied(), key),
        None => purges.judge(stamp, [TagSlot::ANY], key),
    };
    verdict == Verdict::Valid
}
