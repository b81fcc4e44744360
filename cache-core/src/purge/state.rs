//! All that purges and pins come to, as it is kept across restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{MAX_PREFIXES, PrefixPurge, Prefixes, Purge};
use crate::store::KeyHash;

/// URL purges remembered exactly.
pub const MAX_URLS: usize = 16_384;

/// Places that older URL purges share. Two URLs in one place: a purge of one forgets the tier's copy
/// of the other, if that is older, at the next start.
pub const COARSE_URLS: usize = 8_192;

/// What is to be kept across a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Purge {
        number: u32,
        purge: Purge,
        soft: bool,
    },
    /// The object under this cache key stays in memory.
    Pin(Bytes),
    Unpin(Bytes),
}

/// Numbers of the latest hard and the latest soft purge; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub hard: u32,
    pub soft: u32,
}

impl Numbers {
    fn raise(&mut self, number: u32, soft: bool) {
        let which = if soft { &mut self.soft } else { &mut self.hard };
        *which = number.max(*which);
    }
}

/// Every entry so far, folded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Of the tag table: slots mean nothing under another seed or in a table of another size.
    pub seed: u64,
    pub slots: u32,
    /// The latest number.
    pub counter: u32,
    pub all: Numbers,
    pub any_tag: Numbers,
    pub tags: BTreeMap<u32, Numbers>,
    pub prefixes: Prefixes,
    pub urls: UrlPurges,
    /// Cache keys of pinned objects.
    pub pins: BTreeSet<Bytes>,
}

impl State {
    /// Nothing was purged yet.
    pub fn new(seed: u64, slots: u32) -> Self {
        Self {
            seed,
            slots,
            counter: 0,
            all: Numbers::default(),
            any_tag: Numbers::default(),
            tags: BTreeMap::new(),
            prefixes: Prefixes::default(),
            urls: UrlPurges::default(),
            pins: BTreeSet::new(),
        }
    }

    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Purge {
                number,
                purge,
                soft,
            } => self.purge(*number, purge, *soft),
            Entry::Pin(key) => {
                self.pins.insert(key.clone());
            }
            Entry::Unpin(key) => {
                self.pins.remove(key);
            }
        }
    }

    fn purge(&mut self, number: u32, purge: &Purge, soft: bool) {
        self.counter = self.counter.max(number);
        match purge {
            Purge::Tag(slot) => {
                self.tags.entry(slot.0).or_default().raise(number, soft);
                self.any_tag.raise(number, soft);
            }
            Purge::Prefix(prefix) if prefix.is_empty() => self.purge_all(number, soft),
            Purge::Prefix(prefix) => {
                self.prefixes.push(PrefixPurge {
                    number,
                    soft,
                    prefix: prefix.clone(),
                });
                for folded in self.prefixes.fold(MAX_PREFIXES) {
                    self.all.raise(folded.number, folded.soft);
                }
            }
            Purge::All => self.purge_all(number, soft),
            // A soft one too: the tier forgets its copy either way.
            Purge::Url(hash) => self.urls.push(*hash, number),
        }
    }

    /// A hard purge of everything covers what came before, so that it needs no more room.
    fn purge_all(&mut self, number: u32, soft: bool) {
        self.all.raise(number, soft);
        self.prefixes.covered_by_all(soft);
        if !soft {
            self.tags.clear();
            self.urls = UrlPurges::default();
        }
    }
}

/// URL purges. What is in memory they have removed at once; these are for what a tier finds on its
/// devices when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlPurges {
    /// The latest number of each key, for the keys in `order`.
    exact: BTreeMap<u64, u32>,
    /// Oldest first; a key that was purged again stands here several times.
    order: VecDeque<(u64, u32)>,
    /// Numbers by place; empty while nothing was folded.
    coarse: Vec<u32>,
}

impl UrlPurges {
    /// Whether a purge of this key covers what was stamped so.
    pub fn covers(&self, hash: KeyHash, stamp: u32) -> bool {
        let exact = self.exact.get(&hash.0).copied().unwrap_or(0);
        let coarse = self.coarse.get(place(hash.0)).copied().unwrap_or(0);
        stamp < exact.max(coarse)
    }

    /// The keys that were purged after `number`. `None`: so many that some share a place with others by now.
    pub fn since(&self, number: u32) -> Option<Vec<KeyHash>> {
        let were_folded = self.coarse.iter().any(|&folded| folded > number);
        let later = self.exact().filter(|(_, purged)| *purged > number);
        (!were_folded).then(|| later.map(|(hash, _)| hash).collect())
    }

    /// Oldest first, each key with its latest number.
    pub(super) fn exact(&self) -> impl Iterator<Item = (KeyHash, u32)> {
        let latest = |&&(hash, number): &&(u64, u32)| self.exact.get(&hash) == Some(&number);
        let entries = self.order.iter().filter(latest);
        entries.map(|&(hash, number)| (KeyHash(hash), number))
    }

    /// Places in use and their numbers.
    pub(super) fn coarse(&self) -> impl Iterator<Item = (u32, u32)> {
        let used = self.coarse.iter().enumerate();
        used.filter(|(_, number)| **number > 0)
            .map(|(place, number)| (place as u32, *number))
    }

    pub(super) fn push(&mut self, hash: KeyHash, number: u32) {
        self.exact.insert(hash.0, number);
        self.order.push_back((hash.0, number));
        while self.order.len() > MAX_URLS {
            self.fold_oldest();
        }
    }

    /// Raises the number of a place; one that there is not is ignored.
    pub(super) fn raise(&mut self, place: u32, number: u32) {
        self.coarse.resize(COARSE_URLS, 0);
        if let Some(known) = self.coarse.get_mut(place as usize) {
            *known = number.max(*known);
        }
    }

    fn fold_oldest(&mut self) {
        let Some((hash, number)) = self.order.pop_front() else {
            return;
        };
        // Purged again since: the younger entry says more.
        if self.exact.get(&hash) == Some(&number) {
            self.exact.remove(&hash);
            self.raise(place(hash) as u32, number);
        }
    }
}

fn place(hash: u64) -> usize {
    // The upper bits choose the shard.
    (hash % COARSE_URLS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::TagSlot;

    fn url(state: &mut State, hash: u64) -> u32 {
        let number = state.counter + 1;
        state.apply(&Entry::Purge {
            number,
            purge: Purge::Url(KeyHash(hash)),
            soft: false,
        });
        number
    }

    #[test]
    fn url_purges_past_the_bound_cover_their_neighbours_and_no_less() {
        let mut state = State::new(1, 64);
        let first = url(&mut state, 5);
        let neighbour = KeyHash(5 + COARSE_URLS as u64);
        assert!(!state.urls.covers(neighbour, 0));
        for hash in 0..MAX_URLS as u64 {
            url(&mut state, 1_000_000 + hash * COARSE_URLS as u64);
        }
        assert!(state.urls.covers(KeyHash(5), first - 1));
        assert!(state.urls.covers(neighbour, first - 1));
        assert!(!state.urls.covers(neighbour, first));
        assert!(!state.urls.covers(KeyHash(6), 0));
        assert_eq!(state.urls.exact().count(), MAX_URLS);
    }

    #[test]
    fn later_url_purges_are_named_until_some_are_folded() {
        let mut state = State::new(1, 64);
        let known = url(&mut state, 5);
        assert_eq!(state.urls.since(known), Some(Vec::new()));
        url(&mut state, 6);
        url(&mut state, 5);
        assert_eq!(state.urls.since(known), Some(vec![KeyHash(6), KeyHash(5)]));
        for hash in 0..MAX_URLS as u64 {
            url(&mut state, 1_000 + hash);
        }
        assert_eq!(state.urls.since(known), None);
    }

    #[test]
    fn a_url_that_is_purged_again_and_again_takes_one_place() {
        let mut state = State::new(1, 64);
        let mut latest = 0;
        for _ in 0..3 * MAX_URLS {
            latest = url(&mut state, 9);
        }
        assert!(state.urls.covers(KeyHash(9), latest - 1));
        assert_eq!(state.urls.exact().count(), 1);
        assert_eq!(state.urls.coarse().count(), 0);
    }

    #[test]
    fn a_hard_purge_of_everything_needs_no_other_any_more() {
        let mut state = State::new(1, 64);
        url(&mut state, 1);
        let tag = Purge::Tag(TagSlot(3));
        for (purge, soft) in [(tag, false), (Purge::All, true), (Purge::All, false)] {
            let number = state.counter + 1;
            state.apply(&Entry::Purge {
                number,
                purge,
                soft,
            });
        }
        assert_eq!(state.all, Numbers { hard: 4, soft: 3 });
        assert!(state.tags.is_empty());
        assert_eq!(state.urls, UrlPurges::default());
    }
}
