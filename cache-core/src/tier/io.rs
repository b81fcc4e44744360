//! Every effect of a tier, on one page.

use bytes::Bytes;
use hugepages::blocks::Block;

use crate::purge::TagSlot;
use crate::store::ObjectMeta;

/// Names a command. Never reused while the tier lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What is to be done on a device. Each is answered by one [`DiskDone`]. Offsets and lengths are
/// multiples of 4 KiB; reads and writes use the block's first `len` bytes. Commands of different
/// devices, and reads, may be carried out in any order: at most one `Write`, `Flush` or `Discard` of
/// a device is under way at a time.
#[derive(Debug)]
pub enum DiskCommand {
    Read {
        id: IoId,
        device: u8,
        offset: u64,
        len: u32,
        block: Block,
    },
    Write {
        id: IoId,
        device: u8,
        offset: u64,
        len: u32,
        block: Block,
    },
    /// Make everything durable that was written before.
    Flush { id: IoId, device: u8 },
    /// The range holds nothing that is wanted. An error stops discards on the device and nothing
    /// else.
    Discard {
        id: IoId,
        device: u8,
        offset: u64,
        len: u64,
    },
}

impl DiskCommand {
    pub fn id(&self) -> IoId {
        match self {
            Self::Read { id, .. }
            | Self::Write { id, .. }
            | Self::Flush { id, .. }
            | Self::Discard { id, .. } => *id,
        }
    }

    /// What is said of it once it was carried out, with its block given back.
    pub fn answer(self, result: Result<u32, i32>) -> DiskDone {
        let id = self.id();
        let block = match self {
            Self::Read { block, .. } | Self::Write { block, .. } => Some(block),
            Self::Flush { .. } | Self::Discard { .. } => None,
        };
        DiskDone { id, result, block }
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct DiskDone {
    pub id: IoId,
    /// Bytes read or written (0 for the others), or the errno. Fewer than asked for is a failure.
    pub result: Result<u32, i32>,
    /// The command's block.
    pub block: Option<Block>,
}

/// News of a fetch: one `Head`, any number of `Body`, one `End`; or at any point one `Missing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierEvent {
    Head {
        meta: ObjectMeta,
        tags: Vec<TagSlot>,
        any_tag: bool,
        /// What was offered as `head`.
        encoded: Bytes,
    },
    /// Never longer than 64 KiB. These bytes may lie in a block of the pool: copy what is to be kept.
    Body(Bytes),
    End,
    /// Damaged, purged, not readable, or not there after all: ask the upstream. After a `Body` the
    /// answer is to be cut off.
    Missing,
}

/// What came of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is being written and can be found.
    Written,
    /// It is there already.
    Known,
    Declined(Refusal),
}

/// Why an offer was declined. Each has a counter in [`super::TierStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Others were asked for more, and there is a budget for bytes written.
    Unpopular,
    /// What was missed does not allow for more bytes written yet.
    Budget,
    /// It cannot be served any more by the time it is likely to be asked for.
    Expires,
    RateLimit,
    NoBuffer,
    NoSegment,
    TooLarge,
    IndexFull,
    DeviceFailed,
    /// Pinned objects have their share already; it may be offered as [`Bypass::Prewarmed`].
    PinnedFull,
    Purged,
    Stopping,
}

/// Whether an object need not be worth its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    No,
    /// Taken at the first offer.
    Prewarmed,
    /// Taken at the first offer whatever the rate limits, and never evicted until
    /// [`super::Tier::unpin`].
    Pinned,
    /// The node stops, and memory is lost: taken at the first offer unless it has expired, whatever the
    /// limit of bytes a second.
    Stop,
}

/// Names a point in time of the log, see [`super::Tier::persist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What became of everything that was offered before a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Pending,
    Durable,
    /// A write or flush failed: nothing is promised. Offer again.
    Failed,
}
