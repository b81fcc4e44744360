//! The store against a map that never forgets: whatever is done in whatever order, a lookup finds
//! what was committed last for that key or nothing, views do not change, and memory stays bounded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use cache_core::purge::{Purge, Purger, Purges, TagSlot};
use cache_core::store::{
    Evicted, Fill, KeyHash, NewObject, ObjectMeta, Pinned, Span, Store, StoreConfig, StoreError,
    build,
};
use hugepages::PagePolicy;
use proptest::prelude::*;

const SHARDS: u8 = 2;
const RAM: u64 = 12 << 20;
const KEYS: u16 = 600;
const TAGS: u16 = 50;

#[derive(Clone, Debug)]
enum Step {
    /// Stores an object whole.
    Put {
        key: u16,
        len: usize,
        known: bool,
    },
    /// Begins a fill and leaves it open.
    Begin {
        key: u16,
        len: usize,
        known: bool,
    },
    /// Writes the next bytes of an open fill.
    Grow {
        fill: usize,
        chunk: usize,
    },
    /// Writes the rest of an open fill and commits it; it stays pinned.
    Commit {
        fill: usize,
    },
    /// Looks at all spans of a fill.
    Follow {
        fill: usize,
    },
    /// Gives a fill up, committed or not.
    Release {
        fill: usize,
    },
    /// Stores many objects, so that memory is reused.
    Churn {
        key: u16,
        large: bool,
    },
    /// Looks up on a shard, and keeps the views if asked to.
    Get {
        shard: u8,
        key: u16,
        keep: bool,
    },
    DropKept {
        kept: usize,
    },
    Purge {
        key: u16,
    },
    PurgeAll,
    /// Purges what carries a tag: every key with the same rest modulo [`TAGS`].
    PurgeTag {
        tag: u16,
    },
    Pin {
        key: u16,
    },
    Unpin {
        key: u16,
    },
    Turn {
        shard: u8,
    },
    TurnAll,
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..9_000usize,
        2 => 9_000..70_000usize,
        1 => 70_000..700_000usize,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let shard = 0..SHARDS;
    let fill = 0..64usize;
    prop_oneof![
        30 => (key.clone(), length(), any::<bool>())
            .prop_map(|(key, len, known)| Step::Put { key, len, known }),
        6 => (key.clone(), length(), any::<bool>())
            .prop_map(|(key, len, known)| Step::Begin { key, len, known }),
        12 => (fill.clone(), 1..80_000usize).prop_map(|(fill, chunk)| Step::Grow { fill, chunk }),
        3 => fill.clone().prop_map(|fill| Step::Commit { fill }),
        4 => fill.clone().prop_map(|fill| Step::Follow { fill }),
        3 => fill.clone().prop_map(|fill| Step::Release { fill }),
        6 => (key.clone(), any::<bool>()).prop_map(|(key, large)| Step::Churn { key, large }),
        20 => (shard.clone(), key.clone(), prop::bool::weighted(0.2))
            .prop_map(|(shard, key, keep)| Step::Get { shard, key, keep }),
        4 => fill.prop_map(|kept| Step::DropKept { kept }),
        2 => key.clone().prop_map(|key| Step::Purge { key }),
        1 => Just(Step::PurgeAll),
        1 => (0..TAGS).prop_map(|tag| Step::PurgeTag { tag }),
        4 => key.clone().prop_map(|key| Step::Pin { key }),
        2 => key.prop_map(|key| Step::Unpin { key }),
        8 => shard.prop_map(|shard| Step::Turn { shard }),
        20 => Just(Step::TurnAll),
    ]
}

/// A version of a key's object. Its bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    key: u16,
    number: u64,
    len: usize,
}

impl Version {
    fn bytes(self, from: usize, to: usize) -> Vec<u8> {
        let seed = u64::from(self.key) << 40 ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let byte = |i: usize| {
            let word = (seed ^ (i as u64 / 8)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            (word >> (i % 8 * 8)) as u8
        };
        (from..to).map(byte).collect()
    }

    fn body(self) -> Vec<u8> {
        self.bytes(0, self.len)
    }
}

struct OpenFill {
    fill: Fill,
    owner: usize,
    version: Version,
    written: usize,
    spans: Vec<Span>,
    /// It failed, was purged since, or was committed: it must not be committed.
    refused: bool,
}

struct Model {
    stores: Vec<Store>,
    committed: HashMap<u16, Version>,
    fills: Vec<OpenFill>,
    kept: Vec<(Bytes, Vec<u8>)>,
    versions: u64,
    purger: Purger,
    pinned: HashSet<u16>,
}

impl Model {
    fn new() -> Self {
        let config = StoreConfig {
            shards: SHARDS,
            ram_bytes: RAM,
            pages: PagePolicy::Plain,
            hash_seed: 7,
            pinned_bytes: 1 << 20,
            max_pins: 40,
            ..StoreConfig::default()
        };
        let purges = Arc::new(Purges::new(7, 64));
        let (stores, report) = build(&config, Arc::clone(&purges)).unwrap();
        assert!(report.backing.bytes <= RAM);
        Self {
            stores,
            committed: HashMap::new(),
            fills: Vec::new(),
            kept: Vec::new(),
            versions: 0,
            purger: purges.writer().unwrap(),
            pinned: HashSet::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put { key, len, known } => self.put(key, len, known),
            Step::Begin { key, len, known } => {
                if self.fills.len() < 20
                    && let Some(open) = self.begin(key, len, known)
                {
                    self.fills.push(open);
                }
            }
            Step::Grow { fill, chunk } => {
                if let Some(mut open) = self.pick(fill) {
                    self.grow(&mut open, chunk);
                    self.fills.push(open);
                }
            }
            Step::Commit { fill } => {
                if let Some(mut open) = self.pick(fill) {
                    self.grow(&mut open, usize::MAX);
                    self.commit(&mut open);
                    self.fills.push(open);
                }
            }
            Step::Follow { fill } => {
                if let Some(open) = self.pick(fill) {
                    self.check_spans(&open);
                    self.fills.push(open);
                }
            }
            Step::Release { fill } => {
                if let Some(open) = self.pick(fill) {
                    self.check_spans(&open);
                    self.stores[open.owner].release(open.fill);
                }
            }
            Step::Churn { key, large } => {
                for i in 0..16 {
                    let len = if large { 200_000 } else { 40_000 };
                    self.put((key + i * 7) % KEYS, len, true);
                    self.turn_all();
                }
            }
            Step::Get { shard, key, keep } => self.get(shard, key, keep),
            Step::DropKept { kept } => {
                if !self.kept.is_empty() {
                    let kept = kept % self.kept.len();
                    let (view, bytes) = self.kept.swap_remove(kept);
                    assert!(*view == *bytes, "a view changed");
                }
            }
            Step::Purge { key } => self.purge(key),
            Step::PurgeAll => self.purge_all(),
            Step::PurgeTag { tag } => self.purge_tag(tag),
            Step::Pin { key } => self.pin(key),
            Step::Unpin { key } => {
                let (hash, bytes, owner) = self.hash(key);
                let was_pinned = self.stores[owner].unpin(hash, &bytes);
                assert_eq!(self.pinned.remove(&key), was_pinned);
            }
            Step::Turn { shard } => self.turn(usize::from(shard)),
            Step::TurnAll => self.turn_all(),
        }
    }

    fn turn_all(&mut self) {
        (0..usize::from(SHARDS)).for_each(|shard| self.turn(shard));
    }

    /// What leaves for room is shown as it was committed.
    fn turn(&mut self, shard: usize) {
        let committed = &self.committed;
        self.stores[shard].turn(&mut |object: Evicted<'_>| {
            let version = Version {
                key: number_of(object.key),
                number: u64::from(object.meta.flags),
                len: object.meta.body_len as usize,
            };
            let last = committed.get(&version.key).map(|last| last.number);
            assert!(last >= Some(version.number), "purged, or never committed");
            assert!(object.head == object.key && object.body.concat() == version.body());
        });
    }

    fn put(&mut self, key: u16, len: usize, known: bool) {
        if let Some(mut open) = self.begin(key, len, known) {
            self.grow(&mut open, len);
            self.commit(&mut open);
            self.stores[open.owner].release(open.fill);
        }
    }

    fn hash(&self, key: u16) -> (KeyHash, [u8; 2], usize) {
        let key = key_of(key);
        let hash = self.stores[0].hash(&key);
        (hash, key, usize::from(self.stores[0].owner(hash)))
    }

    fn begin(&mut self, key: u16, len: usize, known: bool) -> Option<OpenFill> {
        self.versions += 1;
        let version = Version {
            key,
            number: self.versions,
            len,
        };
        let meta = ObjectMeta {
            flags: version.number as u32,
            stamp: self.purger.purges().stamp(),
            ..ObjectMeta::default()
        };
        let tags = [TagSlot(u32::from(key % TAGS))];
        let (hash, key, owner) = self.hash(key);
        let object = NewObject {
            key: &key,
            meta: &meta,
            head: &key,
            tags: &tags,
            length: known.then_some(len as u64),
        };
        let fill = self.stores[owner].begin(hash, &object);
        Some(OpenFill {
            fill: fill.ok()?,
            owner,
            version,
            written: 0,
            spans: Vec::new(),
            refused: false,
        })
    }

    fn pick(&mut self, fill: usize) -> Option<OpenFill> {
        if self.fills.is_empty() {
            return None;
        }
        let fill = fill % self.fills.len();
        Some(self.fills.swap_remove(fill))
    }

    fn grow(&mut self, open: &mut OpenFill, chunk: usize) {
        let to = open.version.len.min(open.written.saturating_add(chunk));
        let data = open.version.bytes(open.written, to);
        let before = open.spans.len();
        match self.stores[open.owner].append(&mut open.fill, &data, &mut open.spans) {
            Ok(()) => {
                open.written = to;
                let new: usize = open.spans[before..].iter().map(Span::len).sum();
                assert_eq!(new, data.len());
            }
            Err(StoreError::Full | StoreError::NotOwner { .. }) => {
                assert_eq!(open.spans.len(), before);
                open.refused = true;
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// What was published so far, seen from a shard that did not write it.
    fn check_spans(&mut self, open: &OpenFill) {
        let reader = &mut self.stores[1 - open.owner];
        let views = open.spans.iter().map(|span| reader.view(span).unwrap());
        let seen: Vec<u8> = views.flat_map(|view| view.to_vec()).collect();
        assert!(seen == open.version.bytes(0, open.written), "spans differ");
    }

    /// Commits where it may; afterwards the fill is only there to be released.
    fn commit(&mut self, open: &mut OpenFill) {
        match self.stores[open.owner].commit(&mut open.fill) {
            Ok(()) => {
                assert!(!open.refused, "committed after a purge or a failure");
                self.committed.insert(open.version.key, open.version);
            }
            Err(StoreError::Full) => {}
            Err(error) => assert!(open.refused, "{error}"),
        }
        open.refused = true;
    }

    fn get(&mut self, shard: u8, key: u16, keep: bool) {
        let (hash, key_bytes, owner) = self.hash(key);
        let mut note = None;
        if let Some(hit) = self.stores[usize::from(shard)].lookup(hash, &key_bytes) {
            let expected = self
                .committed
                .get(&key)
                .expect("a purged or unknown object");
            assert_eq!(u64::from(hit.meta().flags), expected.number);
            assert_eq!(hit.meta().body_len, expected.len as u64);
            assert_eq!(hit.head(), Some(&key_bytes[..]));
            note = hit.note;
            let body = hit.bytes().expect("an object without its bytes");
            let found: Vec<u8> = body.iter().flat_map(|piece| piece.to_vec()).collect();
            assert!(found == expected.body(), "another body");
            if keep && self.kept.len() < 12 {
                let piece = body.piece(body.pieces() - 1);
                self.kept.push((piece.clone(), piece.to_vec()));
            }
        }
        if let Some(note) = note {
            self.stores[owner].note_hits(&[note]);
        }
    }

    fn purge(&mut self, key: u16) {
        let (hash, key_bytes, owner) = self.hash(key);
        let purged = self.stores[owner].purge(hash, &key_bytes);
        let was_committed = self.committed.remove(&key).is_some();
        assert!(was_committed || !purged);
        for open in self.fills.iter_mut().filter(|open| open.version.key == key) {
            open.refused = true;
        }
    }

    fn purge_all(&mut self) {
        self.purger.purge(&Purge::All, false).unwrap();
        for store in &mut self.stores {
            let objects = store.stats().objects;
            assert_eq!(store.purged_all(), objects);
            assert_eq!(store.stats().objects, 0);
        }
        self.committed.clear();
        self.fills.iter_mut().for_each(|open| open.refused = true);
    }

    fn purge_tag(&mut self, tag: u16) {
        let slot = TagSlot(u32::from(tag));
        self.purger.purge(&Purge::Tag(slot), false).unwrap();
        self.committed.retain(|key, _| key % TAGS != tag);
        let fills = self.fills.iter_mut();
        for open in fills.filter(|open| open.version.key % TAGS == tag) {
            open.refused = true;
        }
    }

    /// What is there is kept or refused with the figures; what is kept is there.
    fn pin(&mut self, key: u16) {
        let (hash, bytes, owner) = self.hash(key);
        let store = &mut self.stores[owner];
        let before = store.pinned();
        match store.pin(hash, &bytes) {
            Ok(Pinned::Kept { bytes: kept }) => {
                assert!(kept >= self.committed[&key].len as u64);
                self.pinned.insert(key);
            }
            Ok(Pinned::Awaited) => {
                assert!(store.lookup(hash, &bytes).is_none());
                self.pinned.insert(key);
            }
            Err(StoreError::PinBudget {
                budget,
                used,
                needed,
            }) => assert!(used == before.bytes && used + needed > budget),
            Err(StoreError::TooManyPins { max }) => assert_eq!(before.pins, max),
            Err(StoreError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// As many pinned objects can be found as are said to be kept, or more: those past the budget. One
    /// that a tag purge covers counts as kept until its place is needed.
    fn check_pins(&mut self) {
        let mut found = [0; SHARDS as usize];
        for key in self.pinned.clone() {
            let (hash, bytes, owner) = self.hash(key);
            let is_there = self.stores[owner].lookup(hash, &bytes).is_some();
            found[owner] += u32::from(is_there || !self.committed.contains_key(&key));
        }
        for (store, found) in self.stores.iter().zip(found) {
            let stats = store.pinned();
            assert!(
                stats.kept <= found && stats.bytes <= stats.budget,
                "{stats:?}"
            );
        }
        let pins: u32 = self.stores.iter().map(|store| store.pinned().pins).sum();
        assert_eq!(pins as usize, self.pinned.len());
    }

    /// Nothing is lost for good: without fills and views, everything retired comes free, and the
    /// objects that are counted are those that can be found.
    fn end(mut self) {
        while let Some(open) = self.pick(0) {
            self.stores[open.owner].release(open.fill);
        }
        for (view, bytes) in self.kept.drain(..) {
            assert!(*view == *bytes, "a view changed");
        }
        for _ in 0..64 {
            self.turn_all();
        }
        self.check_pins();
        for shard in 0..usize::from(SHARDS) {
            let found = (0..KEYS).filter(|key| {
                let (hash, key, owner) = self.hash(*key);
                owner == shard && self.stores[shard].lookup(hash, &key).is_some()
            });
            let found = found.count() as u64;
            let stats = self.stores[shard].stats();
            // What was purged by tag is counted until its room is needed.
            assert!(stats.objects >= found);
            assert_eq!(stats.fills, 0);
            assert_eq!(stats.held_up, [0, 0]);
            assert!(stats.bytes <= RAM / u64::from(SHARDS));
        }
        self.purge_all();
    }
}

/// Without a zero byte, which would make it the key of a variant.
fn key_of(number: u16) -> [u8; 2] {
    [1 + (number % 255) as u8, 1 + (number / 255) as u8]
}

fn number_of(key: &[u8]) -> u16 {
    u16::from(key[0] - 1) + 255 * u16::from(key[1] - 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn lookups_find_the_last_commit_or_nothing(steps in prop::collection::vec(step(), 1..2_500)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        model.end();
    }
}
