//! A shard alone, with a drive of memory and an origin that the test plays.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cache_ebpf::cid::{CidKey, CidKeys};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hugepages::blocks::Pool;
use hugepages::{Backing, PagePolicy};

use super::pins::{PinError, PinnedKey};
use super::requests::target;
use super::*;
use crate::config::{Caching, ClientFields, Limits, OriginRoute, Role};
use crate::io::{
    AnswerEvent, ClientRequest, DiskDone, FetchCommand, FetchEvent, PinStats, RequestEvent,
    RequestId,
};
use crate::purge::Purges;
use crate::store::{self, Pinned, StoreConfig, resource_of};
use crate::tier::format::{Geometry, SetId, SetPlan, Superblock};
use crate::tier::{DEFAULT_BLOCK_BYTES, DiskCommand, Recovery, TierConfig};

pub const KEY: &[u8] = b"edge.test/emote";
const LANGUAGE: HeaderName = header::ACCEPT_LANGUAGE;

pub struct Lone {
    pub shard: Shard,
    drive: Option<Drive>,
    pinned_bytes: u64,
    purges: Arc<Purges>,
    now: Now,
    out: Outbox,
}

impl Lone {
    pub fn new(pinned_bytes: u64, with_tier: bool) -> Self {
        let purges = Arc::new(Purges::new(1, 1 << 10));
        let drive = with_tier.then(|| Drive::new(&purges));
        let mut shard = shard(pinned_bytes, &purges);
        if let Some(drive) = &drive {
            shard = shard.with_tier(drive.tier(&purges, HashSet::new()));
        }
        Self {
            shard,
            drive,
            pinned_bytes,
            purges,
            now: Now {
                mono: Instant::now(),
                unix_ms: 1_700_000_000_000,
            },
            out: Outbox::default(),
        }
    }

    /// Without a tier, with bounds of its own.
    pub fn with_limits(limits: Limits) -> Self {
        let mut lone = Self::new(0, false);
        lone.shard.config.limits = limits;
        lone
    }

    /// A client asks for [`KEY`] over TCP.
    pub fn get(&mut self, id: u64) {
        self.request(id, http::Method::GET, crate::io::RequestBody::default());
    }

    pub fn request(&mut self, id: u64, method: http::Method, body: crate::io::RequestBody) {
        let request = ClientRequest {
            method,
            secure: true,
            authority: Bytes::from_static(b"edge.test"),
            target: Bytes::from_static(b"/emote"),
            headers: HeaderMap::new(),
            body,
        };
        self.client(id, RequestEvent::Begin(Box::new(request)));
    }

    pub fn client(&mut self, id: u64, event: RequestEvent) {
        let id = RequestId(id);
        self.handle(Input::Request { id, event });
    }

    /// The origin has news.
    pub fn bring(&mut self, id: FetchId, event: FetchEvent) {
        self.handle(Input::Fetch { id, event });
    }

    pub fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.settle();
    }

    /// What clients have got since the last time.
    pub fn answers(&mut self) -> Vec<(u64, AnswerEvent)> {
        let answers = self.out.answers.drain(..);
        answers.map(|(id, event)| (id.0, event)).collect()
    }

    /// What the origin is told since the last time.
    pub fn commands(&mut self) -> Vec<FetchCommand> {
        self.out.fetches.drain(..).collect()
    }

    fn handle(&mut self, input: Input) {
        self.shard.handle(self.now, input, &mut self.out);
        self.settle();
    }

    /// The process is gone, and with it what was not flushed; the next one knows the same pins.
    pub fn crash(&mut self) {
        let pins = self.listed().0;
        let hash = |pin: &PinnedKey| self.shard.store.hash(&pin.key);
        let hashes: HashSet<u32> = pins.iter().map(|pin| resource_of(hash(pin))).collect();
        let mut next = shard(self.pinned_bytes, &self.purges);
        for pin in &pins {
            let pinned = next.store.pin(hash(pin), &pin.key);
            assert_eq!(pinned, Ok(Pinned::Awaited));
        }
        if let Some(drive) = &mut self.drive {
            drive.written.clone_from(&drive.flushed);
            next = next.with_tier(drive.tier(&self.purges, hashes));
        }
        self.shard = next;
        self.out = Outbox::default();
    }

    /// A process that has taken over while this one goes on: it knows what was flushed, and rests.
    pub fn succeeded(&self) -> Self {
        let drive = self.drive.as_ref().map(|drive| Drive {
            geometry: drive.geometry.clone(),
            written: drive.flushed.clone(),
            flushed: drive.flushed.clone(),
            fails: false,
        });
        let mut shard = shard(self.pinned_bytes, &self.purges);
        if let Some(drive) = &drive {
            let mut tier = drive.tier(&self.purges, HashSet::new());
            tier.rest();
            shard = shard.with_tier(tier);
        }
        Self {
            shard,
            drive,
            pinned_bytes: self.pinned_bytes,
            purges: Arc::clone(&self.purges),
            now: self.now,
            out: Outbox::default(),
        }
    }

    /// The process is told to end.
    pub fn stop(&mut self) {
        self.shard.stop(self.now);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.unix_ms += time.as_millis() as u64;
    }

    /// Takes turns until nothing is left to be read or written.
    pub fn settle(&mut self) {
        loop {
            let turn = Input::Turn { max_transmits: 1 };
            self.shard.handle(self.now, turn, &mut self.out);
            let commands: Vec<_> = self.out.disk.drain(..).collect();
            if commands.is_empty() {
                return;
            }
            let drive = self.drive.as_mut().expect("commands have a drive");
            for command in commands {
                let done = Input::Disk(drive.carry_out(command));
                self.shard.handle(self.now, done, &mut self.out);
            }
        }
    }

    pub fn ask(&mut self, command: Command) -> Reply {
        let input = Input::Command { id: 1, command };
        self.shard.handle(self.now, input, &mut self.out);
        if self.out.replies.is_empty() {
            self.settle();
        }
        self.out.replies.pop().expect("a reply").1
    }

    pub fn pin(&mut self) -> Result<Pinned, PinError> {
        match self.ask(Command::Pin(Bytes::from_static(KEY))) {
            Reply::Pinned { pinned, .. } => pinned,
            reply => panic!("{reply:?}"),
        }
    }

    /// Pins it where it is; whether it is on the drives, and pinned there.
    pub fn pin_durably(&mut self) -> bool {
        match self.ask(Command::Pin(Bytes::from_static(KEY))) {
            Reply::Pinned { on_drives, .. } => on_drives,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn unpin(&mut self) -> bool {
        let reply = self.ask(Command::Unpin(Bytes::from_static(KEY)));
        reply == (Reply::Unpinned { was_pinned: true })
    }

    pub fn listed(&mut self) -> (Vec<PinnedKey>, PinStats) {
        match self.ask(Command::Pins) {
            Reply::Pins { pins, stats } => (pins, stats),
            reply => panic!("{reply:?}"),
        }
    }

    /// The fetch that was begun since the last time, if there is one.
    pub fn fetch(&mut self) -> Option<FetchId> {
        let mut commands = self.out.fetches.drain(..);
        commands.find_map(|command| match command {
            FetchCommand::Start { id, request } => {
                let asked = (&request.authority[..], &request.target[..]);
                assert_eq!(asked, (&b"edge.test"[..], &b"/emote"[..]));
                Some(id)
            }
            _ => None,
        })
    }

    /// Asks for [`KEY`] as one who reads a language. The fetch that was begun; `None`: it is there now.
    pub fn ask_in(&mut self, language: &'static str) -> Option<FetchId> {
        let hash = self.shard.store.hash(KEY);
        let mut target = target(KEY, hash, OriginId(0));
        let value = HeaderValue::from_static(language);
        target.headers = Arc::new(HeaderMap::from_iter([(LANGUAGE, value)]));
        // The first time it may be found that there are variants.
        for _ in 0..2 {
            assert!(self.shard.select(&mut target));
            if self.is_there(&target) {
                return None;
            }
            self.shard
                .revalidate(target.clone(), self.now, &mut self.out);
            self.settle();
            if let Some(id) = self.fetch() {
                return Some(id);
            }
        }
        assert!(self.is_there(&target), "neither fetched nor there");
        None
    }

    fn is_there(&self, target: &Target) -> bool {
        self.shard.store.peek(target.hash, &target.key).is_some()
    }

    /// Plays the origin.
    pub fn answer(&mut self, id: FetchId, len: usize) {
        self.answer_with(id, len, HeaderMap::new());
    }

    /// The same, for a resource in several languages.
    pub fn answer_varying(&mut self, id: FetchId, len: usize) {
        let value = HeaderValue::from_static("accept-language");
        self.answer_with(id, len, HeaderMap::from_iter([(header::VARY, value)]));
    }

    fn answer_with(&mut self, id: FetchId, len: usize, mut headers: HeaderMap) {
        let kept = HeaderValue::from_static("max-age=60");
        headers.insert(header::CACHE_CONTROL, kept);
        let head = FetchEvent::Head {
            status: StatusCode::OK,
            headers,
            length: Some(len as u64),
        };
        for event in [head, FetchEvent::Body(vec![7; len].into()), FetchEvent::End] {
            let input = Input::Fetch { id, event };
            self.shard.handle(self.now, input, &mut self.out);
        }
        self.settle();
    }

    /// From now on the drive refuses to be written.
    pub fn fail_writes(&mut self) {
        if let Some(drive) = &mut self.drive {
            drive.fails = true;
        }
    }
}

fn shard(pinned_bytes: u64, purges: &Arc<Purges>) -> Shard {
    let config = StoreConfig {
        ram_bytes: 16 << 20,
        pages: PagePolicy::Plain,
        pinned_bytes,
        ..StoreConfig::default()
    };
    let built = store::build(&config, Arc::clone(purges));
    let store = built.expect("memory").0.remove(0);
    let config = ShardConfig {
        shard: 0,
        shards: 1,
        node_name: "popcache".to_owned(),
        node_id: "0".to_owned(),
        role: Role::Edge,
        origins: vec![OriginRoute {
            name: "demo".to_owned(),
            hosts: vec!["edge.test".to_owned()],
            client_fields: ClientFields {
                names: vec![LANGUAGE],
                all: false,
            },
        }],
        caching: Caching::default(),
        limits: Limits::default(),
    };
    let stats = Arc::<ShardStats>::default();
    Shard::new(config, store, &quic(), stats, [7; 32], true)
}

fn quic() -> QuicSetup {
    let certified = rcgen::generate_simple_self_signed(vec!["edge.test".to_owned()]);
    let certified = certified.expect("a certificate");
    let key = certified.signing_key.serialize_der().try_into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.expect("a key"))
        .expect("a pair");
    let mut cids = CidKeys::new(1, CidKey::from_bytes([3; 16]));
    cids.activate(1);
    QuicSetup::new(Arc::new(tls), cids, &Limits::default()).expect("QUIC")
}

/// A drive that loses what was not flushed.
struct Drive {
    geometry: Geometry,
    written: Vec<u8>,
    flushed: Vec<u8>,
    fails: bool,
}

impl Drive {
    /// One that has just been formatted.
    fn new(purges: &Purges) -> Self {
        let set = SetPlan {
            id: SetId([7; 16]),
            shards: 1,
            segment_bytes: 1 << 20,
            hash_seed: 0,
            tag_slots: purges.slots(),
        };
        let bytes = 18 << 20;
        let superblocks = Superblock::plan(&[bytes], &set).expect("a device");
        Self {
            geometry: Geometry::assemble(&superblocks).expect("a set"),
            written: vec![0; bytes as usize],
            flushed: vec![0; bytes as usize],
            fails: false,
        }
    }

    /// As it is found at a start.
    fn tier(&self, purges: &Arc<Purges>, pins: HashSet<u32>) -> Tier {
        let config = TierConfig {
            max_reads: 8,
            max_write_blocks: 12,
            max_objects: 1 << 10,
            ..TierConfig::default()
        };
        let bytes = config.blocks(1) * DEFAULT_BLOCK_BYTES;
        let (region, _) = Backing::map(bytes, PagePolicy::Plain).expect("memory");
        let pool = Pool::new(region, DEFAULT_BLOCK_BYTES).expect("blocks");
        let purges = Arc::clone(purges);
        let recovery = Recovery::new(self.geometry.clone(), 0, config, purges, pool);
        let mut recovery =
            recovery.with_pins(Box::new(move |hash| pins.contains(&resource_of(hash))));
        while let Some(read) = recovery.next_read() {
            let bytes = &self.written[read.offset as usize..][..read.len as usize];
            recovery.done(read, bytes);
        }
        recovery.finish()
    }

    fn carry_out(&mut self, mut command: DiskCommand) -> DiskDone {
        let done = match &mut command {
            DiskCommand::Read {
                offset, len, block, ..
            } => {
                let from = *offset as usize;
                block[..*len as usize].copy_from_slice(&self.written[from..][..*len as usize]);
                *len
            }
            DiskCommand::Write { .. } if self.fails => return command.answer(Err(5)),
            DiskCommand::Write {
                offset, len, block, ..
            } => {
                let to = *offset as usize;
                self.written[to..][..*len as usize].copy_from_slice(&block[..*len as usize]);
                *len
            }
            DiskCommand::Flush { .. } => {
                self.flushed.clone_from(&self.written);
                0
            }
            DiskCommand::Discard { .. } => 0,
        };
        command.answer(Ok(done))
    }
}
