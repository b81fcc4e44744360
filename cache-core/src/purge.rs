//! Purges: what was stored before when is not there any more, or stale.
//!
//! ```text
//!  counter   1    2    3    4    5 ...                    one number per purge
//!                 |         |
//!         tag "emotes"   prefix "edge.test/set/"          kept: the latest number of each
//!
//!  object    stamp 1    tags {emotes, set-1}              the counter when its fetch began
//!            1 < 2: purged
//! ```
//! An object carries the counter's value from the moment its fetch began, its *stamp*. A purge takes the
//! next number and stores it once, in the slot of the surrogate key, in the list of prefixes or in the
//! one for all; it covers every object whose stamp is less. Nothing is walked, and nothing is counted:
//! how many objects a purge covers is found out by those who ask for them.
//!
//! There is one [`Purges`] a node. Everybody reads it without a lock; one [`Purger`] writes.
//!
//! # Bounds
//! | what | bound | at the bound |
//! |---|---|---|
//! | surrogate keys | slots of the table, a power of two | two keys share a slot: each purge covers both |
//! | tags of an object | [`MAX_TAGS`] | it carries [`TagSlot::ANY`]: every tag purge covers it |
//! | prefixes | [`DEFAULT_PREFIXES`], or [`Purges::with_prefixes`] | the oldest becomes a purge of everything before its number |
//! | numbers | `u32` | [`PurgeError::Exhausted`] |
//!
//! All but the last err towards misses: something is fetched again that need not have been.
//!
//! # Ordering
//! A purge first stores its number where [`Purges::judge`] looks for it, then in `latest`, then in
//! `counter`, the latter two with Release. So:
//! - who reads `latest` (Acquire) and finds the number finds the purge itself;
//! - who is stamped with the number began its fetch after the purge was made;
//! - a prefix that leaves the list is first made part of the mark for all, and readers look at the list
//!   before the mark, so that they find it in one of the two;
//! - who does not find it in `latest` yet goes on as if the purge came a moment later. A purge is
//!   therefore acknowledged only when every shard has had a message sent after the stores.

pub mod journal;
mod prefixes;
pub mod state;
mod table;

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use siphasher::sip::SipHasher13;

use crate::stats::Stat;
use crate::store::KeyHash;
use state::{State, UrlPurges};
use table::{Mark, Table};

pub use prefixes::{DEFAULT_PREFIXES, MAX_PREFIX, MAX_PREFIXES, PrefixPurge, Prefixes};

/// Surrogate keys kept with an object. One with more is covered by every tag purge.
pub const MAX_TAGS: usize = 32;

/// Slots of the tag table unless the configuration says otherwise.
pub const DEFAULT_SLOTS: u32 = 65_536;

/// Slots of the largest tag table.
pub const MAX_SLOTS: u32 = 1 << 24;

/// A surrogate key's place in the tag table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagSlot(pub u32);

impl TagSlot {
    /// Stands for every surrogate key: what an object with more than [`MAX_TAGS`] carries.
    pub const ANY: Self = Self(u32::MAX);
}

/// How an object stands after the purges so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No purge covers it.
    Valid,
    /// To be treated as stale from now on, whatever its lifetime.
    Soft,
    /// To be treated as not there.
    Hard,
}

/// What a purge covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Objects with this surrogate key.
    Tag(TagSlot),
    /// Objects whose cache key begins so. An empty prefix is [`Purge::All`].
    Prefix(Bytes),
    /// Every object.
    All,
    /// The object under one cache key. Its owner removes it from the index, so that nothing is kept
    /// here but that a number was taken.
    Url(KeyHash),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    #[error("a prefix of {length} bytes is longer than the {MAX_PREFIX} bytes that are kept")]
    PrefixTooLong { length: usize },
    /// After 4,294,967,295 purges.
    #[error(
        "the numbers of purges are used up; restart the node (one with a tier: after `--format`)"
    )]
    Exhausted,
}

/// What was purged when, for all readers of a node.
#[derive(Debug)]
#[repr(align(128))]
pub struct Purges {
    /// Number of the latest purge that [`Self::judge`] must know; not of a URL purge.
    latest: AtomicU32,
    /// Number of the latest purge of any kind.
    counter: AtomicU32,
    latest_prefix: AtomicU32,
    all: Mark,
    /// The latest tag purge of any slot.
    any_tag: Mark,
    tags: Table,
    prefixes: ArcSwap<Prefixes>,
    max_prefixes: usize,
    seed: u64,
    /// URL purges from before this process.
    removed: ArcSwap<UrlPurges>,
    stats: PurgeStats,
    has_writer: AtomicBool,
}

/// Counters of the writer.
#[derive(Debug, Default)]
pub struct PurgeStats {
    pub tags: Stat,
    pub prefixes: Stat,
    pub all: Stat,
    pub urls: Stat,
    /// Of all of these, the soft ones.
    pub soft: Stat,
    /// Prefixes that became purges of everything because the list was full.
    pub prefixes_folded: Stat,
    /// Purges that were refused (a prefix too long, numbers used up).
    pub refused: Stat,
}

impl PurgeStats {
    /// Names and values.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("tags", self.tags.get()),
            ("prefixes", self.prefixes.get()),
            ("all", self.all.get()),
            ("urls", self.urls.get()),
            ("soft", self.soft.get()),
            ("prefixes_folded", self.prefixes_folded.get()),
            ("refused", self.refused.get()),
        ]
    }
}

impl Purges {
    /// With a table of `slots` (rounded up to a power of two, at most [`MAX_SLOTS`]). The seed makes
    /// collisions hard to aim at; it must stay the same while stored objects name slots.
    pub fn new(seed: u64, slots: u32) -> Self {
        Self {
            latest: AtomicU32::new(0),
            counter: AtomicU32::new(0),
            latest_prefix: AtomicU32::new(0),
            all: Mark::default(),
            any_tag: Mark::default(),
            tags: Table::new(slots.clamp(1, MAX_SLOTS).next_power_of_two()),
            prefixes: ArcSwap::from_pointee(Prefixes::default()),
            max_prefixes: DEFAULT_PREFIXES,
            seed,
            removed: ArcSwap::default(),
            stats: PurgeStats::default(),
            has_writer: AtomicBool::new(false),
        }
    }

    /// Remembers so many prefixes, at most [`MAX_PREFIXES`]; those past it are folded at the next purge of
    /// one.
    #[must_use]
    pub fn with_prefixes(mut self, most: usize) -> Self {
        self.max_prefixes = most.clamp(1, MAX_PREFIXES);
        self
    }

    /// What was purged before a restart, see [`journal`].
    pub fn restore(state: &State) -> Self {
        let purges = Self::new(state.seed, state.slots);
        purges.learn(state);
        purges
    }

    /// What another process has purged since [`Self::restore`], before anyone purges here: `state` is a later
    /// one of the same journal. Returns what the tier has to forget for it.
    pub fn catch_up(&self, state: &State) -> Vec<KeyHash> {
        let known = self.stamp();
        self.learn(state);
        state.urls.since(known).unwrap_or_else(|| {
            // Nobody knows which ones any more.
            self.all.set(state.counter, false);
            Vec::new()
        })
    }

    fn learn(&self, state: &State) {
        self.all.restore(state.all);
        self.any_tag.restore(state.any_tag);
        for (slot, numbers) in &state.tags {
            self.tags.mark(*slot).restore(*numbers);
        }
        let latest_prefix = state.prefixes.entries().last();
        let latest_prefix = latest_prefix.map_or(0, |entry| entry.number);
        self.prefixes.store(Arc::new(state.prefixes.clone()));
        self.latest_prefix.store(latest_prefix, Ordering::Relaxed);
        self.removed.store(Arc::new(state.urls.clone()));
        self.latest.store(state.counter, Ordering::Release);
        self.counter.store(state.counter, Ordering::Release);
    }

    /// Whether an object that a tier finds when it starts was purged by its URL since it was stamped
    /// so. (Later URL purges remove what they cover themselves.)
    pub fn was_removed(&self, hash: KeyHash, stamp: u32) -> bool {
        self.removed.load().covers(hash, stamp)
    }

    /// What a fetch that starts now is stamped with.
    pub fn stamp(&self) -> u32 {
        self.counter.load(Ordering::Acquire)
    }

    /// Where a surrogate key's purges are kept.
    pub fn slot(&self, tag: &[u8]) -> TagSlot {
        let mut hasher = SipHasher13::new_with_keys(self.seed, TAG_DOMAIN);
        hasher.write(tag);
        TagSlot(self.tags.fold(hasher.finish() as u32))
    }

    /// Slots of the tag table; each [`TagSlot`] but [`TagSlot::ANY`] is less.
    pub fn slots(&self) -> u32 {
        self.tags.len()
    }

    /// How the object stands that was stamped so, has these surrogate keys and this cache key. Costs
    /// one load if nothing was purged since.
    #[inline]
    pub fn judge(
        &self,
        stamp: u32,
        tags: impl IntoIterator<Item = TagSlot>,
        key: &[u8],
    ) -> Verdict {
        match self.is_newest(stamp) {
            true => Verdict::Valid,
            false => self.judge_older(stamp, tags, key),
        }
    }

    /// Whether nothing was purged since an object was stamped so.
    #[inline]
    pub fn is_newest(&self, stamp: u32) -> bool {
        stamp >= self.latest.load(Ordering::Acquire)
    }

    pub fn stats(&self) -> &PurgeStats {
        &self.stats
    }

    /// The one who may purge; `None` while there is another.
    pub fn writer(self: &Arc<Self>) -> Option<Purger> {
        let was_taken = self.has_writer.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Purger {
            purges: Arc::clone(self),
        })
    }

    #[cold]
    fn judge_older(
        &self,
        stamp: u32,
        tags: impl IntoIterator<Item = TagSlot>,
        key: &[u8],
    ) -> Verdict {
        let mut verdict = Verdict::Valid;
        for tag in tags {
            let mark = match tag {
                TagSlot::ANY => &self.any_tag,
                TagSlot(slot) => self.tags.mark(slot),
            };
            verdict = verdict.max(mark.judge(stamp));
        }
        if verdict < Verdict::Hard && stamp < self.latest_prefix.load(Ordering::Relaxed) {
            verdict = self.prefixes.load().judge(stamp, key).max(verdict);
        }
        // After the prefixes: what leaves their list has become part of this before.
        self.all.judge(stamp).max(verdict)
    }
}

/// Second half of the hash's key: tags are hashed for this table alone.
const TAG_DOMAIN: u64 = u64::from_le_bytes(*b"pop:tags");

/// The one writer of a node's [`Purges`].
#[derive(Debug)]
pub struct Purger {
    purges: Arc<Purges>,
}

impl Purger {
    /// What is written to.
    pub fn purges(&self) -> &Arc<Purges> {
        &self.purges
    }

    /// The number that the next purge will have.
    ///
    /// # Errors
    /// [`PurgeError::Exhausted`].
    pub fn next(&self) -> Result<u32, PurgeError> {
        let counter = self.purges.counter.load(Ordering::Relaxed);
        counter.checked_add(1).ok_or(PurgeError::Exhausted)
    }

    /// Whether a purge would be taken, without making it.
    ///
    /// # Errors
    /// As [`Self::purge`].
    pub fn check(&self, purge: &Purge) -> Result<u32, PurgeError> {
        match purge {
            Purge::Prefix(prefix) if prefix.len() > MAX_PREFIX => Err(PurgeError::PrefixTooLong {
                length: prefix.len(),
            }),
            _ => self.next(),
        }
    }

    /// Makes a purge and gives its number: it covers what was stamped with less.
    ///
    /// # Errors
    /// A prefix of over [`MAX_PREFIX`] bytes; no number left.
    pub fn purge(&mut self, purge: &Purge, soft: bool) -> Result<u32, PurgeError> {
        let number = self
            .check(purge)
            .inspect_err(|_| self.purges.stats.refused.inc())?;
        let purges = &*self.purges;
        match purge {
            Purge::Tag(slot) => {
                purges.stats.tags.inc();
                purges.tags.mark(slot.0).set(number, soft);
                purges.any_tag.set(number, soft);
            }
            Purge::Prefix(prefix) if prefix.is_empty() => self.purge_all(number, soft),
            Purge::Prefix(prefix) => self.purge_prefix(number, prefix, soft),
            Purge::All => self.purge_all(number, soft),
            Purge::Url(_) => purges.stats.urls.inc(),
        }
        if soft {
            purges.stats.soft.inc();
        }
        if !matches!(purge, Purge::Url(_)) {
            purges.latest.store(number, Ordering::Release);
        }
        purges.counter.store(number, Ordering::Release);
        Ok(number)
    }

    fn purge_prefix(&self, number: u32, prefix: &Bytes, soft: bool) {
        let purges = &*self.purges;
        purges.stats.prefixes.inc();
        let mut prefixes = Prefixes::clone(&purges.prefixes.load());
        prefixes.push(PrefixPurge {
            number,
            soft,
            prefix: prefix.clone(),
        });
        for folded in prefixes.fold(purges.max_prefixes) {
            purges.stats.prefixes_folded.inc();
            // Before it leaves the list, see the module's words on ordering.
            purges.all.set(folded.number, folded.soft);
        }
        purges.prefixes.store(Arc::new(prefixes));
        purges.latest_prefix.store(number, Ordering::Relaxed);
    }

    fn purge_all(&self, number: u32, soft: bool) {
        let purges = &*self.purges;
        purges.stats.all.inc();
        purges.all.set(number, soft);
        let mut prefixes = Prefixes::clone(&purges.prefixes.load());
        prefixes.covered_by_all(soft);
        purges.prefixes.store(Arc::new(prefixes));
    }
}

impl Drop for Purger {
    fn drop(&mut self) {
        self.purges.has_writer.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
