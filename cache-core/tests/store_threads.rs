//! Shards on real threads: each owns a partition, reads all, and checks every byte it is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use cache_core::purge::{Purge, Purges};
use cache_core::store::{
    Fill, HitNote, NewObject, ObjectMeta, Span, Store, StoreConfig, StoreError, build,
};
use hugepages::PagePolicy;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SHARDS: u8 = 3;
const KEYS: u32 = 5_000;
const TURNS: u32 = 20_000;

/// An object's bytes follow from its key and version, which its head tells.
fn word(key: u32, version: u32, i: usize) -> u8 {
    let seed = u64::from(key) << 32 | u64::from(version);
    (((seed ^ (i as u64 >> 3)).wrapping_mul(0xff51_afd7_ed55_8ccd)) >> (i % 8 * 8)) as u8
}

fn check(key: u32, version: u32, offset: usize, bytes: &[u8]) {
    let is_right = |(i, byte): (usize, &u8)| *byte == word(key, version, offset + i);
    assert!(
        bytes.iter().enumerate().all(is_right),
        "foreign bytes for key {key}"
    );
}

enum Message {
    Hits(Vec<HitNote>),
    /// Published bytes of a fill; answered by `Done` once they were looked at.
    Span {
        key: u32,
        version: u32,
        offset: usize,
        span: Span,
        from: usize,
    },
    Done,
}

struct Shard {
    number: usize,
    store: Store,
    inbox: Receiver<Message>,
    peers: Vec<SyncSender<Message>>,
    random: SmallRng,
    version: u32,
    kept: Vec<(u32, u32, Bytes)>,
    hits: u64,
}

static TOTAL_HITS: AtomicU64 = AtomicU64::new(0);
static TOTAL_EVICTIONS: AtomicU64 = AtomicU64::new(0);
static RUNNING: AtomicU64 = AtomicU64::new(SHARDS as u64);

/// Set when a shard has failed, so that nobody waits for it.
static FAILED: AtomicBool = AtomicBool::new(false);

impl Drop for Shard {
    fn drop(&mut self) {
        if thread::panicking() {
            FAILED.store(true, Ordering::Release);
        }
    }
}

impl Shard {
    fn run(mut self) {
        for turn in 0..TURNS {
            match self.random.random_range(0..4) {
                0 => self.fill(),
                1..4 => self.look(),
                _ => unreachable!(),
            }
            if turn % 500 == 499 {
                let key = key_of(self.random.random_range(0..KEYS));
                let hash = self.store.hash(&key);
                self.store.purge(hash, &key);
            }
            if turn == TURNS / 2 {
                if let Some(mut purger) = self.store.purges().writer() {
                    purger.purge(&Purge::All, false).expect("a number");
                }
                self.store.purged_all();
            }
            self.drain();
            self.store.turn(&mut |_| {});
        }
        TOTAL_HITS.fetch_add(self.hits, Ordering::Relaxed);
        TOTAL_EVICTIONS.fetch_add(self.store.stats().evictions, Ordering::Relaxed);
        // Others may still wait for an answer or an announcement.
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        while RUNNING.load(Ordering::Acquire) > 0 && !FAILED.load(Ordering::Acquire) {
            self.drain();
            self.store.turn(&mut |_| {});
            thread::yield_now();
        }
    }

    fn look(&mut self) {
        let key = self.random.random_range(0..KEYS);
        let hash = self.store.hash(&key_of(key));
        let Some(hit) = self.store.lookup(hash, &key_of(key)) else {
            return;
        };
        let head: [u8; 4] = hit
            .head()
            .expect("a sound head")
            .try_into()
            .expect("a head of four bytes");
        let version = u32::from_le_bytes(head);
        if let Some(body) = hit.body() {
            check(key, version, 0, body);
        }
        let len = hit.meta().body_len as usize;
        let note = hit.note;
        let body = hit.bytes().expect("an object without its bytes");
        let mut offset = 0;
        for piece in body.iter() {
            check(key, version, offset, piece);
            offset += piece.len();
        }
        assert_eq!(offset, len);
        self.hits += 1;
        self.keep(key, version, body.piece(0));
        if let Some(note) = note {
            let _ = self.peers[usize::from(note.owner)].try_send(Message::Hits(vec![note]));
        }
    }

    /// Keeps some views while fills go on, and looks at them again when it lets them go.
    fn keep(&mut self, key: u32, version: u32, view: Bytes) {
        if self.random.random_ratio(1, 4) {
            self.kept.push((key, version, view));
        }
        if self.kept.len() > 8 {
            let which = self.random.random_range(0..self.kept.len());
            let (key, version, view) = self.kept.swap_remove(which);
            check(key, version, 0, &view);
        }
    }

    fn fill(&mut self) {
        let key = self.random.random_range(0..KEYS);
        let bytes = key_of(key);
        let hash = self.store.hash(&bytes);
        if usize::from(self.store.owner(hash)) != self.number {
            return;
        }
        self.version += 1;
        let len = match self.random.random_range(0..10) {
            0 => self.random.random_range(70_000..300_000),
            1..3 => self.random.random_range(8_000..64_000),
            _ => self.random.random_range(0..8_000),
        };
        let known = self.random.random_bool(0.5).then_some(len as u64);
        let head = self.version.to_le_bytes();
        let meta = ObjectMeta {
            stamp: self.store.purges().stamp(),
            ..ObjectMeta::default()
        };
        let object = NewObject {
            key: &bytes,
            meta: &meta,
            head: &head,
            tags: &[],
            length: known,
        };
        let Ok(mut fill) = self.store.begin(hash, &object) else {
            return;
        };
        let result = self.write(&mut fill, key, len);
        let result = result.and_then(|()| self.store.commit(&mut fill));
        assert!(
            matches!(result, Ok(()) | Err(StoreError::Full | StoreError::Purged)),
            "{result:?}"
        );
        if result == Err(StoreError::Full) {
            // Memory comes free when the others have announced, for which they must run.
            thread::yield_now();
        }
        self.store.release(fill);
    }

    /// Writes the body; each span is looked at by another shard before the fill goes on.
    fn write(&mut self, fill: &mut Fill, key: u32, len: usize) -> Result<(), StoreError> {
        let data: Vec<u8> = (0..len).map(|i| word(key, self.version, i)).collect();
        let mut offset = 0;
        for chunk in data.chunks(self.random.random_range(1_000..100_000)) {
            let mut spans = Vec::new();
            self.store.append(fill, chunk, &mut spans)?;
            for span in spans {
                self.show(key, offset, span);
                offset += span.len();
            }
        }
        Ok(())
    }

    fn show(&mut self, key: u32, offset: usize, span: Span) {
        let peer = (self.number + 1) % usize::from(SHARDS);
        let message = Message::Span {
            key,
            version: self.version,
            offset,
            span,
            from: self.number,
        };
        if RUNNING.load(Ordering::Acquire) < u64::from(SHARDS) {
            return;
        }
        if self.peers[peer].try_send(message).is_err() {
            return;
        }
        while !self.drain() && !FAILED.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    /// Handles what came; whether an answer was among it.
    fn drain(&mut self) -> bool {
        let mut answered = false;
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Hits(notes) => self.store.note_hits(&notes),
                Message::Done => answered = true,
                Message::Span {
                    key,
                    version,
                    offset,
                    span,
                    from,
                } => {
                    let view = self.store.view(&span).expect("a span of a live fill");
                    check(key, version, offset, &view);
                    // It fails only when the asker has failed.
                    let _ = self.peers[from].send(Message::Done);
                }
            }
        }
        answered
    }
}

#[test]
fn shards_serve_only_what_was_stored_while_memory_is_reused() {
    let config = StoreConfig {
        shards: SHARDS,
        ram_bytes: 24 << 20,
        pages: PagePolicy::Plain,
        hash_seed: 11,
        ..StoreConfig::default()
    };
    let (stores, _) = build(&config, Arc::new(Purges::new(1, 64))).unwrap();
    let (peers, inboxes): (Vec<_>, Vec<_>) = stores.iter().map(|_| sync_channel(4096)).unzip();
    thread::scope(|scope| {
        for (number, (store, inbox)) in stores.into_iter().zip(inboxes).enumerate() {
            let shard = Shard {
                number,
                store,
                inbox,
                peers: peers.clone(),
                random: SmallRng::seed_from_u64(number as u64),
                version: 0,
                kept: Vec::new(),
                hits: 0,
            };
            scope.spawn(move || shard.run());
        }
    });
    assert!(TOTAL_HITS.load(Ordering::Relaxed) > 1_000);
    assert!(TOTAL_EVICTIONS.load(Ordering::Relaxed) > 100);
}

/// Without a zero byte, which would make it the key of a variant.
fn key_of(number: u32) -> [u8; 4] {
    [1 + (number % 255) as u8, 1 + (number / 255) as u8, 1, 1]
}
