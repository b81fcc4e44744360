//! Where objects live: one partition of index and arenas per shard, readable by all shards.

use bytes::Bytes;
use hugepages::{BackingReport, PagePolicy};

use crate::io::ShardId;

/// How a node's store is laid out.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Partitions, one a shard.
    pub shards: u8,
    /// Bytes of all arenas and indexes of the node together.
    pub ram_bytes: u64,
    pub pages: PagePolicy,
    /// Largest body kept, in bytes.
    pub max_object: u64,
    /// Random per start, the same on all shards: makes bucket collisions hard to aim at.
    pub hash_seed: u64,
    /// Share of a partition for bodies above 64 KiB, 0.1 to 0.9.
    pub large_share: f32,
}

/// What a store got, for `status`.
#[derive(Clone, Debug)]
pub struct StoreReport {
    pub backing: BackingReport,
    /// Per shard: segments of the small-object log, and their size in bytes.
    pub log_segments: u32,
    pub log_segment_bytes: u32,
    /// Per shard: 128 KiB extents for large bodies.
    pub extents: u32,
    /// Per shard: index slots.
    pub slots: u64,
    /// Largest body that can be kept, in bytes (`max_object`, or less in a small memory).
    pub max_object: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("memory.ram of {ram} bytes is too small for {shards} shards: give at least {minimum}")]
    TooSmall { ram: u64, shards: u8, minimum: u64 },
    #[error("{0}")]
    Config(String),
    /// Nothing can be freed right now. Counted; stream the object without keeping it.
    #[error("no room: every freed segment is still being read")]
    Full,
    #[error("a body of {length} bytes is larger than the {max} bytes that are kept")]
    TooLarge { length: u64, max: u64 },
    #[error("key or response head too long to be kept")]
    HeadTooLarge,
    #[error("the body has {got} bytes where {expected} were announced")]
    Length { expected: u64, got: u64 },
    /// The object was purged while it was being filled.
    #[error("purged while it was being filled")]
    Purged,
    /// An owner's call on a shard that does not own the key, or a fill of another shard.
    #[error("shard {shard} does not own this key or fill")]
    NotOwner { shard: ShardId },
}

/// What is known of an object besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    pub status: u16,
    pub stored_unix_ms: u64,
    /// Corrected initial age, RFC 9111 section 4.2.3.
    pub age_at_store_s: u32,
    /// Freshness lifetime, RFC 9111 section 4.2.1.
    pub lifetime_s: u32,
    pub stale_while_revalidate_s: u32,
    pub stale_if_error_s: u32,
    /// Free for the caller.
    pub flags: u32,
    /// Bytes of the body. At [`Store::begin`] ignored: `length` says it, or `commit` finds it out.
    pub body_len: u64,
}

/// The seeded hash of a cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

/// Says that an object of another partition was hit; for its owner's [`Store::note_hits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitNote {
    pub owner: ShardId,
    pub hash: KeyHash,
}

/// Names published bytes of a fill, for [`Store::view`] on any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    owner: ShardId,
    offset: u32,
    len: u32,
}

impl Span {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// An object being written. Give it back by [`Store::release`].
#[derive(Debug)]
#[must_use = "a fill keeps memory until it is released"]
pub struct Fill {
    owner: ShardId,
    id: u32,
}

/// Owned bytes of a body: one piece when it is contiguous, else one per extent.
#[derive(Clone, Debug)]
pub struct Body {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Body {
    pub fn pieces(&self) -> usize {
        1 + self.rest.len()
    }

    /// The bytes of piece `i`; empty past the end.
    pub fn piece(&self, i: usize) -> Bytes {
        match i {
            0 => self.first.clone(),
            _ => self.rest.get(i - 1).cloned().unwrap_or_default(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// An object found by [`Store::lookup`], borrowed until the store is used again.
#[derive(Debug)]
pub struct Hit<'a> {
    pub meta: ObjectMeta,
    /// One hit in eight asks for a note to the owner, if that is another shard.
    pub note: Option<HitNote>,
    head: &'a [u8],
    body: &'a [u8],
}

impl Hit<'_> {
    /// The bytes given to [`Store::begin`] as `head`.
    pub fn head(&self) -> &[u8] {
        self.head
    }

    /// The body, where it is contiguous (64 KiB or less).
    pub fn body(&self) -> Option<&[u8]> {
        Some(self.body)
    }

    /// Owned bytes of the body, valid for as long as they are kept; no copy. `None`: the body
    /// cannot be had any more (treat as a miss).
    pub fn bytes(&mut self) -> Option<Body> {
        None
    }
}

/// Counters and gauges of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects that a lookup can find, and their bytes with all overhead.
    pub objects: u64,
    pub bytes: u64,
    pub evictions: u64,
    /// Fills that found no room.
    pub full: u64,
    pub log_segments_free: u32,
    pub log_segments_retired: u32,
    pub extents_free: u32,
    pub extents_retired: u32,
    /// Fills not yet released.
    pub fills: u32,
    /// Retired segments and extents that wait, by the shard that still holds a view of them.
    pub held_up: Vec<u32>,
}

/// One shard's access to all partitions, and its ownership of one.
#[derive(Debug)]
pub struct Store {
    shard: ShardId,
}

/// Maps the memory and lays out one partition a shard.
pub fn build(config: &StoreConfig) -> Result<(Vec<Store>, StoreReport), StoreError> {
    Err(StoreError::TooSmall {
        ram: config.ram_bytes,
        shards: config.shards,
        minimum: u64::MAX,
    })
}

impl Store {
    /// The key's hash, the same on all shards.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(key.len() as u64)
    }

    /// The shard whose partition the key belongs to.
    pub fn owner(&self, _hash: KeyHash) -> ShardId {
        self.shard
    }

    /// Finds an object in any partition. Writes nothing that another shard reads and allocates
    /// nothing; the whole key is compared.
    pub fn lookup(&mut self, _hash: KeyHash, _key: &[u8]) -> Option<Hit<'_>> {
        None
    }

    /// Counts hits that other shards had (owner only; notes for other owners are ignored).
    pub fn note_hits(&mut self, _notes: &[HitNote]) {}

    /// Starts an object (owner only). `length` is the body's, where it is known.
    pub fn begin(
        &mut self,
        _hash: KeyHash,
        _key: &[u8],
        _meta: &ObjectMeta,
        _head: &[u8],
        _length: Option<u64>,
    ) -> Result<Fill, StoreError> {
        Err(StoreError::Full)
    }

    /// Writes the next bytes of the body and pushes where they lie, in order. After an error
    /// nothing was pushed, the fill can only be released, and spans pushed earlier stay valid
    /// until then.
    pub fn append(
        &mut self,
        _fill: &mut Fill,
        _data: &[u8],
        _spans: &mut Vec<Span>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }

    /// Makes the object visible to lookups of every shard, in place of an older one of the key.
    /// Refused when the key, or everything, was purged after `begin`.
    pub fn commit(&mut self, _fill: &mut Fill) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }

    /// Ends a fill: after `commit`, or instead of it (the object is dropped). Until then the bytes
    /// that its spans name stay where they are; call it when no message with a span is on its way.
    pub fn release(&mut self, _fill: Fill) {}

    /// Owned bytes of a span, on any shard. `None`: its fill was released and the memory is used
    /// for something else.
    pub fn view(&mut self, _span: &Span) -> Option<Bytes> {
        None
    }

    /// Forgets one object (owner only); fills of the key that are going on will not be committed.
    pub fn purge(&mut self, _hash: KeyHash, _key: &[u8]) -> bool {
        false
    }

    /// Forgets every object of this shard's partition, with one store however many they are, and
    /// says how many there were. Fills that are going on will not be committed.
    pub fn purge_all(&mut self) -> u64 {
        0
    }

    /// Once per turn of the shard's loop, with no [`Hit`] in hand: announces quiescence, drops
    /// cached views of retired segments, reclaims and evicts. A few ns when there is nothing to do.
    pub fn turn(&mut self) {}

    /// Whether these bytes (of a [`Body`] or a view) hold up the reuse of memory: copy them out and
    /// drop them when they may be kept for long. Only worth asking when `stats().held_up` says that
    /// this shard holds something.
    pub fn holds_up(&self, _bytes: &[u8]) -> bool {
        false
    }

    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
