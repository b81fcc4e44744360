//! Where objects live: one partition of index and arenas per shard, readable by all shards.
//!
//! ```text
//!  partition i                                           written by shard i, read by every shard
//!    index    lines of eight slots: key hash -> record                     (crate::index)
//!    blocks   of 256 KiB to 2 MiB, each of them
//!      a segment of the log: records with head and small body    (crate::record)
//!      or cut in extents of 32 KiB: bodies above 64 KiB, but for their ends
//!
//!  begin ---> append* ---> commit ---> release        a fill, by the owner
//!               |spans        |slot
//!               v             v
//!             view          lookup                    by any shard
//! ```
//! A hit takes no lock and stores nothing that another shard reads: it loads the slot, the record
//! and the state of its segment, and slices a view that this shard has cached. How bytes stay where they
//! are while someone uses them is explained in [`hugepages::arena`]; what is evicted, in
//! [`crate::evict`].
//!
//! Memory is bound by [`StoreConfig::ram_bytes`], which covers index, log and extents of all
//! partitions. Beside it, on the heap: what the policy knows (4 bytes per slot and its history), about 30 bytes for each
//! segment and extent, 40 bytes for each 256 KiB and shard for views, and the key and head of each fill that is going on.

mod blocks;
mod classes;
mod evicted;
mod fill;
mod hit;
mod layout;
mod noted;
mod owner;
mod pins;
mod reclaim;
mod residents;
mod space;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::quality::FixedState;
use hugepages::{BackingReport, PagePolicy, Reader};

use crate::evict::{HITS_PER_SAMPLE, Sampler};
use crate::http::vary;
use crate::index::Index;
use crate::io::ShardId;
use crate::purge::{Purges, TagSlot, Verdict};

pub use crate::record::MAX_OBJECT as LARGEST_OBJECT;
pub use evicted::Evicted;
pub use fill::{Fill, Span};
pub use hit::{Body, Hit};
pub use layout::build;
use noted::Noted;
pub use noted::{HitNote, HitNotes};
use owner::Owner;
pub use pins::{PinStats, Pinned};
pub use residents::Resident;

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
    /// Random per start, the same on all shards: makes collisions hard to aim at.
    pub hash_seed: u64,
    /// Share of a partition that bodies above 64 KiB may take at most, 0.01 to 0.99. What they do not
    /// take others do, as long as that is worth more.
    pub large_share: f32,
    /// Bytes of the node that pinned objects may take, in equal parts a shard. Never more than a
    /// quarter of the log or of the extents.
    pub pinned_bytes: u64,
    /// Keys that may be pinned in a shard, their objects there or not.
    pub max_pins: u32,
    /// By class, the bytes of the node that its objects take before they are worth less than all
    /// others; 0, or no entry: no limit. In equal parts a shard.
    pub class_bytes: Vec<u64>,
    /// Bytes that an object below that takes on average, with its head: the index has room for
    /// as many as fit. Smaller ones than this are evicted for want of an entry before memory is
    /// full; larger ones leave entries unused. 256 bytes to 1 MiB.
    pub mean_object: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shards: 1,
            ram_bytes: 256 << 20,
            pages: PagePolicy::Auto,
            max_object: 64 << 20,
            hash_seed: 0,
            large_share: 0.5,
            pinned_bytes: 32 << 20,
            max_pins: 4096,
            class_bytes: Vec::new(),
            mean_object: 3 << 10,
        }
    }
}

/// What a store got, for `status`.
#[derive(Clone, Debug)]
pub struct StoreReport {
    pub backing: BackingReport,
    /// Per shard: blocks of memory, each a segment of the log or cut in extents, and their size in bytes.
    pub log_segments: u32,
    pub log_segment_bytes: u32,
    /// Per shard: extents of 32 KiB that large bodies can take at most.
    pub extents: u32,
    /// Per shard: index slots.
    pub slots: u64,
    /// Largest body that can be kept, in bytes (`max_object`, or less in a small memory).
    pub max_object: u64,
    /// Per shard: bytes that pinned objects may take.
    pub pinned_bytes: u64,
    /// Heap bytes of the node beside the mapped ones, without pins.
    pub side_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "memory.ram of {ram} bytes is too small for {shards} shards: give at least {minimum} bytes"
    )]
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
    /// Nothing was pinned.
    #[error(
        "pinning takes {needed} bytes and {used} of the {budget} bytes that the shard has for pinned \
         objects are used: unpin something or raise memory.pinned"
    )]
    PinBudget { budget: u64, used: u64, needed: u64 },
    #[error(
        "{max} keys are pinned, which is the most a shard keeps: unpin something or raise \
         memory.max_pins"
    )]
    TooManyPins { max: u32 },
    /// An owner's call on a shard that does not own the key, or a fill of another shard, or one
    /// that failed or was committed before.
    #[error("shard {shard} does not own this key or fill, or the fill has ended")]
    NotOwner { shard: ShardId },
}

/// What is known of an object besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    pub status: u16,
    /// Kept to a quarter of a second, rounded down.
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
    /// [`Purges::stamp`] when the fetch of the object began.
    pub stamp: u32,
    /// The class whose budget the object counts to.
    pub class: u8,
}

/// What a fill begins with.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    pub key: &'a [u8],
    pub meta: &'a ObjectMeta,
    /// Kept with the body, for the caller.
    pub head: &'a [u8],
    /// Slots of the surrogate keys. More than [`crate::purge::MAX_TAGS`] become
    /// [`TagSlot::ANY`].
    pub tags: &'a [TagSlot],
    /// The body's length, where it is known.
    pub length: Option<u64>,
}

/// The seeded hash of a cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

/// Counters and gauges of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects that a lookup can find, and the memory they take in bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Objects dropped to make room.
    pub evictions: u64,
    /// Of them, those that went for an index slot when too many had since the last turn, so that no
    /// sink saw them.
    pub evictions_unshown: u64,
    /// Fills that found no room.
    pub full: u64,
    /// Extents copied so that their block could go back to the log, a few a turn.
    pub extents_moved: u64,
    pub log_segments_free: u32,
    /// Segments given up that wait for readers.
    pub log_segments_retired: u32,
    pub extents_free: u32,
    pub extents_retired: u32,
    /// Fills not yet released.
    pub fills: u32,
    /// Retired segments and extents of which a shard still holds views, by shard.
    pub held_up: Vec<u32>,
    /// Bytes of memory that objects take, by class, of those with a budget.
    pub class_bytes: Vec<u64>,
}

/// One shard's access to all partitions, and its ownership of one. Aligned so that what it writes at every
/// hit shares no cache line, nor a pair of them, with another shard's.
#[derive(Debug)]
#[repr(align(128))]
pub struct Store {
    shard: ShardId,
    hasher: KeyHasher,
    purges: Arc<Purges>,
    partitions: Vec<Partition>,
    owner: Owner,
    sampler: Sampler,
    noted: Noted,
}

/// One partition as a shard reads it.
#[derive(Debug)]
struct Partition {
    index: Arc<Index>,
    log: Reader,
    extents: Reader,
    /// Bytes of a log segment are `1 << log_shift`.
    log_shift: u32,
}

impl Store {
    fn new(
        shard: ShardId,
        hasher: KeyHasher,
        purges: Arc<Purges>,
        partitions: Vec<Partition>,
        owner: Owner,
    ) -> Self {
        Self {
            shard,
            hasher,
            purges,
            partitions,
            owner,
            sampler: Sampler::new(shard),
            noted: Noted::new(),
        }
    }

    /// The key's hash, the same on all shards.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        hash_key(&self.hasher.state, key)
    }

    /// The hash of a variant's key (see [`crate::http::vary`]): its owner is that of the resource, so
    /// that one shard decides about all variants. [`resource_of`] it is the resource's, too.
    pub fn hash_variant(&self, key: &[u8]) -> KeyHash {
        self.hasher.of(key)
    }

    /// The shard whose partition the key belongs to.
    pub fn owner(&self, hash: KeyHash) -> ShardId {
        self.hasher.owner(hash)
    }

    /// What was purged, for stamps and slots of tags.
    pub fn purges(&self) -> &Arc<Purges> {
        &self.purges
    }

    /// Finds an object in any partition, unless a purge covers it. Writes nothing that another shard
    /// reads and allocates nothing; the whole key is compared.
    pub fn lookup(&mut self, hash: KeyHash, key: &[u8]) -> Option<Hit<'_>> {
        let owner = self.owner(hash);
        let partition = &self.partitions[usize::from(owner)];
        let is_own = owner == self.shard;
        let metas = is_own.then_some(&self.owner.metas);
        let near = |id| metas.into_iter().for_each(|metas| metas.bring_near(id));
        let (id, slot, look) = partition.look(hash, key, near)?;
        let mut is_soft = false;
        if !self.purges.is_newest(look.front.stamp) {
            let verdict = self.purges.judge(look.front.stamp, look.tags(), key);
            if verdict == Verdict::Hard {
                return None;
            }
            is_soft = verdict == Verdict::Soft;
        }
        let is_sampled = self.sampler.takes(slot.is_hot());
        let mut note = None;
        if is_own {
            self.owner.pass(1);
            if self.noted.push_if(is_sampled, id) {
                self.noted.tell(&mut self.owner);
            }
        } else if is_sampled {
            note = Some(HitNote {
                owner,
                hot: slot.is_hot(),
                hits: 1,
                hash,
                location: slot.location(),
            });
        }
        Some(Hit::new(partition, look, is_soft, note))
    }

    /// What is known of an object, without counting it as asked for.
    pub fn peek(&self, hash: KeyHash, key: &[u8]) -> Option<ObjectMeta> {
        let partition = &self.partitions[usize::from(self.owner(hash))];
        let record = partition.find(hash, key)?.record;
        let meta = record.header.meta;
        let verdict = self.purges.judge(meta.stamp, record.tags(), key);
        (verdict != Verdict::Hard).then_some(meta)
    }

    /// Counts hits that other shards had (owner only; notes for other owners are ignored).
    pub fn note_hits(&mut self, notes: &[HitNote]) {
        let shard = self.shard;
        let (owner, partition) = self.own();
        for note in notes.iter().filter(|note| note.owner == shard) {
            let each = if note.hot { HITS_PER_SAMPLE } else { 1 };
            owner.pass(u32::from(note.hits) * each);
            if let Some(slot) = partition.index.find(note.hash, note.location) {
                owner.note_hits(slot, note.hits);
            }
        }
    }

    /// Starts an object (owner only).
    pub fn begin(&mut self, hash: KeyHash, object: &NewObject<'_>) -> Result<Fill, StoreError> {
        self.check_owner(hash)?;
        self.owner.begin(hash, object)
    }

    /// Writes the next bytes of the body and pushes where they lie, in order. After an error
    /// nothing was pushed, the fill can only be released, and spans pushed earlier stay valid
    /// until then.
    pub fn append(
        &mut self,
        fill: &mut Fill,
        data: &[u8],
        spans: &mut Vec<Span>,
    ) -> Result<(), StoreError> {
        let partition = &self.partitions[usize::from(self.shard)];
        let before = spans.len();
        let result = self.owner.append(fill, data, partition, spans);
        if result.is_err() {
            spans.truncate(before);
        }
        result
    }

    /// Makes the object visible to lookups of every shard, in place of an older one of the key.
    /// Refused when the key was purged after `begin`, or something that covers the object after it
    /// was stamped.
    pub fn commit(&mut self, fill: &mut Fill) -> Result<(), StoreError> {
        let (owner, partition) = self.own();
        owner.commit(fill, partition)
    }

    /// Ends a fill: after `commit`, or instead of it (the object is dropped). Until then the bytes
    /// that its spans name stay where they are; call it when no message with a span is on its way.
    pub fn release(&mut self, fill: Fill) {
        self.owner.release(fill);
    }

    /// Owned bytes of a span, on any shard. `None`: its fill was released and the memory is used
    /// for something else.
    pub fn view(&self, span: &Span) -> Option<Bytes> {
        let partition = self.partitions.get(usize::from(span.owner()))?;
        span.view(partition)
    }

    /// Forgets one object (owner only); fills of the key that are going on will not be committed.
    pub fn purge(&mut self, hash: KeyHash, key: &[u8]) -> bool {
        if self.check_owner(hash).is_err() {
            return false;
        }
        let (owner, partition) = self.own();
        owner.purge(hash, key, partition)
    }

    /// Marks one object as stale from now on (owner only); fills of the key that are going on will not
    /// be committed. Where there is no room for that the object is forgotten. Says whether there was
    /// one.
    pub fn purge_softly(&mut self, hash: KeyHash, key: &[u8]) -> bool {
        if self.check_owner(hash).is_err() {
            return false;
        }
        let (owner, partition) = self.own();
        owner.purge_softly(hash, key, partition)
    }

    /// To be called after a hard purge of everything: says how many objects there were in this shard's
    /// partition, as far as they were not purged one by one, and counts anew.
    pub fn purged_all(&mut self) -> u64 {
        let (owner, partition) = self.own();
        owner.purged_all(partition)
    }

    /// Keeps the object of a key from being evicted (owner only), now or as soon as it is stored. An object
    /// whose purge or replacement takes it away is awaited again.
    ///
    /// # Errors
    /// Past the budget or the number of pins, and where no segment is free; then nothing is pinned.
    pub fn pin(&mut self, hash: KeyHash, key: &[u8]) -> Result<Pinned, StoreError> {
        self.check_owner(hash)?;
        let (owner, partition) = self.own();
        owner.pin(hash, key, partition)
    }

    /// Variants of a pinned resource that are kept by its pin.
    pub fn pinned_variants(&self, base: &[u8]) -> Vec<(KeyHash, Box<[u8]>)> {
        let variants = self.owner.pins.variants_of(base);
        variants
            .map(|key| (self.hasher.of(key), key.into()))
            .collect()
    }

    /// Takes a pin back (owner only); says whether there was one. Those of variants are taken back one
    /// by one.
    pub fn unpin(&mut self, hash: KeyHash, key: &[u8]) -> bool {
        if self.check_owner(hash).is_err() {
            return false;
        }
        let (owner, partition) = self.own();
        owner.unpin(hash, key, partition)
    }

    /// Whether a key is pinned in this shard's partition, its object there or not.
    pub fn is_pinned(&self, key: &[u8]) -> bool {
        self.owner.pins.has(key)
    }

    /// Every pinned key of this shard's partition, and the bytes of those whose object is there.
    pub fn pins(&self) -> impl Iterator<Item = (&[u8], Option<u64>)> {
        self.owner.pins.iter()
    }

    /// Shows the object of a key if it is pinned and there.
    pub fn show_pinned(&self, hash: KeyHash, key: &[u8], mut sink: impl FnMut(Evicted<'_>)) {
        let partition = &self.partitions[usize::from(self.shard)];
        if let Some(there) = self.owner.pins.there(hash, key) {
            partition.show(&there, &mut sink);
        }
    }

    /// Of this shard's own partition.
    pub fn pinned(&self) -> PinStats {
        self.owner.pins.stats()
    }

    /// Once per turn of the shard's loop, with no [`Hit`] in hand: announces quiescence, drops
    /// cached views of retired segments, reclaims and evicts. A few ns when there is nothing to do.
    ///
    /// `sink` is shown each object that went for room since the last turn; not those that were purged,
    /// replaced or found damaged.
    pub fn turn(&mut self, sink: &mut impl FnMut(Evicted<'_>)) {
        let (owner, partition) = self.own();
        owner.show_displaced(partition, sink);
        for partition in &mut self.partitions {
            partition.log.quiesce();
            partition.extents.quiesce();
        }
        let (owner, partition) = self.own();
        owner.turn(partition, sink);
    }

    /// Shards whose next [`Store::turn`] would free memory that runs short here. A shard that
    /// sleeps must be woken for it; each is named once for the same memory.
    pub fn laggards(&mut self) -> Vec<ShardId> {
        self.owner.laggards()
    }

    /// Whether these bytes (of a [`Body`] or a view) hold up the reuse of memory: copy them out and
    /// drop them when they may be kept for long. Only worth asking when some shard's
    /// [`StoreStats::held_up`] names this shard.
    pub fn holds_up(&self, bytes: &[u8]) -> bool {
        self.partitions
            .iter()
            .any(|partition| partition.log.is_retired(bytes) || partition.extents.is_retired(bytes))
    }

    /// Of this shard's own partition.
    pub fn stats(&self) -> StoreStats {
        self.owner.stats(self.partitions.len())
    }

    /// The owner's side, told of all hits so far, and the partition as it reads it.
    fn own(&mut self) -> (&mut Owner, &Partition) {
        self.noted.tell(&mut self.owner);
        let partition = &self.partitions[usize::from(self.shard)];
        (&mut self.owner, partition)
    }

    fn check_owner(&self, hash: KeyHash) -> Result<(), StoreError> {
        match self.owner(hash) == self.shard {
            true => Ok(()),
            false => Err(StoreError::NotOwner { shard: self.shard }),
        }
    }
}

/// The hash of a key in stores of this [`StoreConfig::hash_seed`].
pub fn hash_of(hash_seed: u64, key: &[u8]) -> KeyHash {
    hash_key(&FixedState::with_seed(hash_seed), key)
}

/// The shard, of so many, whose partition a key of this hash belongs to.
pub fn owner_of(hash: KeyHash, shards: u8) -> ShardId {
    ((u128::from(hash.0) * u128::from(shards)) >> 64) as ShardId
}

/// What the hashes of a resource and of all its variants have in common. Of others one in four
/// billion has it too.
pub fn resource_of(hash: KeyHash) -> u32 {
    (hash.0 >> 32) as u32
}

/// Hashes keys, of resources and of their variants.
#[derive(Clone, Debug)]
struct KeyHasher {
    state: FixedState,
    shards: u8,
}

impl KeyHasher {
    /// The hash of any key.
    fn of(&self, key: &[u8]) -> KeyHash {
        let base = vary::base(key);
        let hash = hash_key(&self.state, key);
        if base.len() == key.len() {
            return hash;
        }
        let resource = hash_key(&self.state, base);
        let variant = KeyHash(u64::from(resource_of(resource)) << 32 | hash.0 & 0xffff_ffff);
        // Where the lower half says whose a hash is, all variants have that of the resource.
        match self.owner(variant) == self.owner(resource) {
            true => variant,
            false => resource,
        }
    }

    fn owner(&self, hash: KeyHash) -> ShardId {
        owner_of(hash, self.shards)
    }
}

fn hash_key(state: &FixedState, key: &[u8]) -> KeyHash {
    let mut hasher = state.build_hasher();
    hasher.write(key);
    KeyHash(hasher.finish())
}

#[cfg(test)]
mod tests;
