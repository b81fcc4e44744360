//! One shard's tier, its drives and the node's purges, in a world that goes wrong: everything that
//! happens is drawn from one seed.

mod drives;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache_core::io::{FetchId, Now};
use cache_core::purge::{Purge, Purger, Purges, TagSlot};
use cache_core::store::{Evicted, ObjectMeta};
use cache_core::tier::format::{Geometry, SetId, SetPlan, Superblock};
use cache_core::tier::{
    Bypass, DiskCommand, Durability, Offered, Recovery, Refusal, Ticket, Tier, TierConfig,
    TierEvent, TierStats,
};
use hugepages::blocks::Pool;
use hugepages::{Backing, PagePolicy};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;
use crate::model::{APART, KEYS, Model, Version, body, hash, key};

pub const BLOCK: usize = 128 << 10;
const MIB: u64 = 1 << 20;
const TAG_SLOTS: u32 = 16;

/// How likely what goes wrong is, each time it could.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub read_error: f64,
    pub write_error: f64,
    pub flush_error: f64,
    /// A write that is acknowledged and never done.
    pub lost_write: f64,
    /// At each step.
    pub bit_flip: f64,
    pub no_discard: bool,
    /// The first device has no room for a third of the time.
    pub full: bool,
    /// It takes ten times as long as the others. That is no fault: nothing may be lost by it.
    pub slow: bool,
}

impl Faults {
    pub fn none(self) -> bool {
        let all = self.read_error + self.write_error + self.flush_error + self.lost_write;
        all + self.bit_flip == 0.0 && !self.full
    }
}

/// What a case is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub devices: usize,
    pub shards: u8,
    pub shard: u8,
    /// MiB of segments a device.
    pub device_mib: u64,
    pub max_reads: usize,
    pub max_write_blocks: usize,
    pub max_objects: u64,
    pub longest_body: usize,
    pub faults: Faults,
    pub rate: Option<u64>,
    pub drive_writes_per_day: Option<f64>,
    pub write_share: Option<f64>,
}

/// A fetch as its caller sees it.
struct Fetching {
    number: u32,
    /// What may be served, as it was when the fetch began.
    allowed: HashSet<u32>,
    version: Option<(u32, Version)>,
    got: Vec<u8>,
    cancelled: bool,
}

pub struct World {
    plan: Plan,
    pub rng: SmallRng,
    start: Instant,
    millis: u64,
    geometry: Geometry,
    disks: Vec<Disk>,
    purges: Arc<Purges>,
    purger: Purger,
    /// What the journal knows of URL purges: hash and number.
    urls: HashMap<u64, u32>,
    pub model: Model,
    pool: Pool,
    pub tier: Tier,
    under_way: Vec<DiskCommand>,
    fetches: HashMap<FetchId, Fetching>,
    next_fetch: u64,
    /// Pins and what of them was acknowledged to be durable.
    pins: HashMap<u32, u32>,
    tickets: Vec<(Ticket, HashMap<u32, u32>)>,
    pub durable_pins: HashMap<u32, u32>,
    lives: u64,
    crashed: bool,
    /// Over all lives.
    pub totals: TierStats,
    /// Everything that was seen, folded.
    pub trace: u64,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let set = SetPlan {
            id: SetId([plan.seed as u8; 16]),
            shards: plan.shards,
            segment_bytes: 1 << 20,
            hash_seed: plan.seed,
            tag_slots: TAG_SLOTS,
        };
        let sizes = vec![(10 + plan.device_mib) * MIB; plan.devices];
        let superblocks = Superblock::plan(&sizes, &set).unwrap();
        let geometry = Geometry::assemble(&superblocks).unwrap();
        let purges = Arc::new(Purges::new(plan.seed, TAG_SLOTS));
        let purger = purges.writer().unwrap();
        let config = config(&plan, 1);
        let blocks = config.blocks(plan.devices as u8);
        let (region, _) = Backing::map(blocks * BLOCK, PagePolicy::Plain).unwrap();
        let pool = Pool::new(region, BLOCK).unwrap();
        let tier = Recovery::new(
            geometry.clone(),
            plan.shard,
            config,
            Arc::clone(&purges),
            pool.clone(),
        );
        let mut world = Self {
            rng: SmallRng::seed_from_u64(plan.seed),
            start: Instant::now(),
            millis: 0,
            disks: vec![Disk::default(); plan.devices],
            urls: HashMap::new(),
            model: Model::default(),
            tier: tier.finish(),
            under_way: Vec::new(),
            fetches: HashMap::new(),
            next_fetch: 0,
            pins: HashMap::new(),
            tickets: Vec::new(),
            durable_pins: HashMap::new(),
            lives: 1,
            crashed: false,
            totals: TierStats::default(),
            trace: 0,
            plan,
            geometry,
            purges,
            purger,
            pool,
        };
        world.recover();
        world
    }

    pub fn now(&self) -> Now {
        Now {
            mono: self.start + Duration::from_millis(self.millis),
            unix_ms: 1_700_000_000_000 + self.millis,
        }
    }

    fn fold(&mut self, value: u64) {
        self.trace = (self.trace ^ value)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    pub fn pass(&mut self, time: Duration) {
        self.millis += time.as_millis() as u64;
    }

    /// One thing that happens.
    pub fn step(&mut self) {
        self.millis += self.rng.random_range(0..20);
        match self.rng.random_range(0..100) {
            0..30 => self.offer_something(),
            30..50 => self.fetch_something(),
            50..56 => self.credit_something(),
            56..58 => self.cancel_something(),
            58..62 => self.purge_something(),
            62..64 => self.forget_something(),
            64..67 => self.pin_something(),
            67..68 => self.unpin_something(),
            68..70 => self.persist(),
            70..72 => self.millis += 5_000,
            72..74 => self.offer_many(),
            _ => {}
        }
        if self.rng.random_bool(self.plan.faults.bit_flip) {
            let disk = self.rng.random_range(0..self.disks.len());
            self.disks[disk].flip(&mut self.rng);
        }
        self.turn();
        for _ in 0..self.rng.random_range(0..4) {
            self.complete_something();
        }
        // Events that were not taken yet may hold blocks.
        self.turn();
        self.check_bounds();
    }

    pub fn any_key(&mut self) -> u32 {
        // Some are asked for far more often.
        let skew: f64 = self.rng.random();
        (f64::from(KEYS) * skew * skew) as u32
    }

    fn any_body_len(&mut self) -> usize {
        let longest = self.plan.longest_body;
        match self.rng.random_range(0..10) {
            0..4 => self.rng.random_range(0..5_000),
            4..6 => self.rng.random_range(0..40_000),
            6..9 => self.rng.random_range(0..200_000.min(longest)),
            _ => self.rng.random_range(0..longest),
        }
    }

    fn offer_something(&mut self) {
        let number = self.any_key();
        let old = self.model.latest.get(&number).copied();
        let again = self.rng.random_bool(0.3);
        let version = match old {
            Some(old) if again && !self.model.is_dead((number, old)) => old,
            _ => self.new_version(number),
        };
        let requests = self.rng.random_range(1..4);
        let bypass = match self.rng.random_range(0..40) {
            0 => Bypass::Prewarmed,
            1 => Bypass::Stop,
            _ => Bypass::No,
        };
        self.offer(number, version, requests, bypass);
    }

    /// So much that segments must be freed.
    fn offer_many(&mut self) {
        for _ in 0..24 {
            self.offer_something();
            self.turn();
            self.complete_something();
        }
    }

    pub fn new_version(&mut self, number: u32) -> u32 {
        let meta = ObjectMeta {
            status: 200,
            stored_unix_ms: self.now().unix_ms,
            lifetime_s: self.rng.random_range(0..1000),
            stamp: self.purges.stamp(),
            class: self.rng.random_range(0..4),
            ..ObjectMeta::default()
        };
        let tags = [0, 0, 1, 2, 5, 40][self.rng.random_range(0..6)];
        let tags = (0..tags)
            .map(|_| TagSlot(self.rng.random_range(0..TAG_SLOTS)))
            .collect();
        let len = self.any_body_len();
        let version = self.model.add(number, meta, tags, len);
        if self.rng.random_bool(0.5) {
            // As a shard does when it has stored a newer one.
            self.tier.forget(hash(number));
            self.model.raise(number, version);
            self.pins.remove(&number);
            self.durable_pins.remove(&number);
        }
        version
    }

    pub fn offer(&mut self, number: u32, version: u32, requests: u8, bypass: Bypass) -> Offered {
        let object = self.model.versions[&(number, version)].clone();
        let key = key(number);
        let body = body(number, version, object.body_len);
        // In parts, as extents give it.
        let cut = self.rng.random_range(0..=body.len());
        let now = self.now();
        let offered = self.tier.offer(
            now,
            &Evicted {
                hash: hash(number),
                key: &key,
                meta: object.meta,
                tags: &object.tags,
                any_tag: object.any_tag,
                head: &object.head,
                body: &[&body[..cut], &body[cut..]],
                requests,
            },
            bypass,
        );
        self.fold(u64::from(offered == Offered::Written) + 2);
        match offered {
            Offered::Written | Offered::Known => {
                if bypass == Bypass::Pinned {
                    self.pins.insert(number, version);
                } else if self.pins.get(&number).is_some_and(|old| *old < version) {
                    // The newer one is not pinned.
                    self.pins.remove(&number);
                    self.durable_pins.remove(&number);
                }
                // One version in 16,384 is taken for another if nobody forgot that one.
                if offered == Offered::Written {
                    self.model.raise(number, version);
                }
            }
            Offered::Declined(Refusal::Purged) => {
                assert!(
                    self.model.is_dead((number, version))
                        || object.any_tag
                        || !object.tags.is_empty()
                );
            }
            Offered::Declined(_) => {
                // An older one is not served in place of what was declined.
                self.model.raise(number, version);
                if self.pins.get(&number).is_some_and(|old| *old < version) {
                    self.pins.remove(&number);
                    self.durable_pins.remove(&number);
                }
            }
        }
        offered
    }

    fn pin_something(&mut self) {
        let number = self.any_key() % APART;
        let version = match self.model.latest.get(&number).copied() {
            Some(version) if !self.model.is_dead((number, version)) => version,
            _ => self.new_version(number),
        };
        self.offer(number, version, 1, Bypass::Pinned);
        if self.rng.random_bool(0.5) {
            self.persist();
        }
    }

    fn unpin_something(&mut self) {
        let number = self.any_key();
        self.tier.unpin(hash(number));
        self.pins.remove(&number);
        self.durable_pins.remove(&number);
    }

    pub fn persist(&mut self) {
        let ticket = self.tier.persist();
        self.tickets.push((ticket, self.pins.clone()));
    }

    /// Takes note of tickets that came through.
    fn collect_tickets(&mut self) {
        for (ticket, pins) in std::mem::take(&mut self.tickets) {
            match self.tier.durability(ticket) {
                Durability::Pending => self.tickets.push((ticket, pins)),
                Durability::Failed => {}
                Durability::Durable => {
                    for (number, version) in pins {
                        if self.pins.get(&number) == Some(&version) {
                            self.durable_pins.insert(number, version);
                        }
                    }
                }
            }
        }
    }

    fn purge_something(&mut self) {
        let soft = self.rng.random_bool(0.3);
        let purge = match self.rng.random_range(0..10) {
            0..6 => Purge::Tag(TagSlot(self.rng.random_range(0..TAG_SLOTS))),
            6..9 => {
                let set = self.rng.random_range(0..5);
                Purge::Prefix(Bytes::from(format!("https://edge.test/{set}/")))
            }
            _ => Purge::All,
        };
        self.purger.purge(&purge, soft).unwrap();
        if soft {
            return;
        }
        self.model.purge(|number, version| match &purge {
            Purge::Tag(slot) => version.any_tag || version.tags.contains(slot),
            Purge::Prefix(prefix) => key(number).starts_with(prefix),
            Purge::All => true,
            Purge::Url(_) => false,
        });
        let dead = |number: &u32, version: &mut u32| !self.model.is_dead((*number, *version));
        self.pins.retain(dead);
        self.durable_pins.retain(dead);
    }

    pub fn forget_something(&mut self) {
        let number = self.any_key();
        let purge = Purge::Url(hash(number));
        let taken = self.purger.purge(&purge, false).unwrap();
        self.urls.insert(hash(number).0, taken);
        self.tier.forget(hash(number));
        self.model.purge(|other, _| other == number);
        self.pins.remove(&number);
        self.durable_pins.remove(&number);
    }

    pub fn fetch_something(&mut self) {
        let number = self.any_key();
        self.fetch(number);
    }

    pub fn fetch(&mut self, number: u32) -> Option<FetchId> {
        self.next_fetch += 1;
        let id = FetchId(self.next_fetch);
        let may_have = self.tier.may_have(hash(number));
        let begun = self
            .tier
            .fetch(self.now(), id, hash(number), Bytes::from(key(number)));
        assert!(may_have || !begun);
        begun.then(|| {
            let allowed = self.model.allowed(number);
            self.fetches.insert(
                id,
                Fetching {
                    number,
                    allowed,
                    version: None,
                    got: Vec::new(),
                    cancelled: false,
                },
            );
            id
        })
    }

    fn any_fetch(&mut self) -> Option<FetchId> {
        let mut ids: Vec<FetchId> = self.fetches.keys().copied().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    fn credit_something(&mut self) {
        if let Some(id) = self.any_fetch() {
            let bytes = self.rng.random_range(1..400_000);
            self.tier.credit(id, bytes);
        }
    }

    fn cancel_something(&mut self) {
        if let Some(id) = self.any_fetch() {
            self.tier.cancel(id);
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.cancelled = true;
            }
        }
    }

    pub fn turn(&mut self) {
        let (mut commands, mut events) = (Vec::new(), Vec::new());
        self.tier.turn(self.now(), &mut commands, &mut events);
        for command in commands {
            self.check_command(&command);
            self.under_way.push(command);
        }
        for (id, event) in events {
            self.event(id, event);
        }
        self.fetches.retain(|_, fetch| !fetch.cancelled);
        self.collect_tickets();
    }

    fn event(&mut self, id: FetchId, event: TierEvent) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            panic!("an event for {id:?}, which ended or never began: {event:?}");
        };
        let mut folded = 0;
        match event {
            TierEvent::Head {
                meta,
                tags,
                any_tag,
                encoded,
            } => {
                let (number, version) = self.model.named(&encoded).expect("a foreign head");
                assert_eq!(number, fetch.number, "another key's object");
                assert!(
                    fetch.allowed.contains(&version) || fetch.cancelled,
                    "version {version} of {number} was purged or replaced before it was fetched"
                );
                let object = self.model.versions[&(number, version)].clone();
                assert_eq!(
                    (meta, &tags, any_tag),
                    (object.meta, &object.tags, object.any_tag)
                );
                assert!(fetch.version.is_none(), "two heads");
                folded = u64::from(number) << 8 | u64::from(version);
                fetch.version = Some((version, object));
            }
            TierEvent::Body(bytes) => {
                assert!(fetch.version.is_some() && bytes.len() <= 64 << 10);
                fetch.got.extend_from_slice(&bytes);
            }
            TierEvent::End => {
                let fetch = self.fetches.remove(&id).expect("it is there");
                let (version, object) = fetch.version.expect("an end without a head");
                let expected = body(fetch.number, version, object.body_len);
                assert!(fetch.got == expected, "wrong bytes for {}", fetch.number);
                folded = 77;
            }
            TierEvent::Missing => {
                if let Some(fetch) = self.fetches.remove(&id)
                    && let Some((version, object)) = fetch.version
                {
                    let faulty = self.crashed || !self.plan.faults.none();
                    assert!(
                        faulty || fetch.cancelled,
                        "an answer is cut off without need"
                    );
                    let expected = body(fetch.number, version, object.body_len);
                    assert!(expected.starts_with(&fetch.got));
                }
                folded = 78;
            }
        }
        self.fold(folded);
    }

    fn check_bounds(&mut self) {
        let stats = self.tier.stats();
        let plan = &self.plan;
        assert!(self.tier.reads() <= plan.max_reads);
        assert!(stats.write_blocks as usize <= plan.max_write_blocks + plan.devices);
        assert!(stats.objects <= plan.max_objects);
        assert!(stats.object_bytes <= stats.capacity_bytes * 34 / 32);
        let segments = stats.segments_free + stats.segments_open + stats.segments_sealed;
        assert_eq!(segments, u64::from(self.geometry.segments()));
        let held = self.pool.blocks() - self.pool.free();
        let reading = self
            .under_way
            .iter()
            .filter(|one| matches!(one, DiskCommand::Read { .. }));
        assert!(
            held <= stats.write_blocks as usize + reading.count(),
            "a block leaked"
        );
        self.fold(stats.objects << 32 | stats.written_bytes);
    }

    /// Power is lost: what was under way may have happened in part.
    pub fn crash(&mut self) {
        self.crashed = true;
        for command in std::mem::take(&mut self.under_way) {
            if let DiskCommand::Write {
                device,
                offset,
                len,
                block,
                ..
            } = command
            {
                self.disks[usize::from(device)].write(offset, &block[..len as usize]);
            }
        }
        for disk in &mut self.disks {
            disk.crash(&mut self.rng);
        }
        self.model.crash();
        self.recover();
    }

    /// Ends the process in order, and begins the next. What was replaced and not purged may be seen
    /// again, if what took its place was declined or evicted.
    pub fn restart(&mut self) {
        self.tier.stop(self.now());
        self.settle();
        assert!(self.tier.is_settled());
        for disk in &mut self.disks {
            // All was flushed: a loss of power now must not matter.
            disk.crash(&mut self.rng);
        }
        self.model.crash();
        self.recover();
    }

    /// Lets everything come to its end.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            let mut ids: Vec<FetchId> = self.fetches.keys().copied().collect();
            ids.sort_unstable();
            for id in ids {
                self.tier.credit(id, 1 << 20);
            }
            if self.under_way.is_empty() {
                if self.fetches.is_empty() && self.tier.next_timeout().is_none() {
                    return;
                }
                self.millis += 1_000;
            }
            while !self.under_way.is_empty() {
                self.complete_something();
            }
        }
        panic!("the tier does not come to rest: {:?}", self.tier.stats());
    }

    /// A new process on what lies on the drives.
    fn recover(&mut self) {
        self.totals.add(&self.tier.stats());
        self.fetches.clear();
        self.under_way.clear();
        self.tickets.clear();
        self.lives += 1;
        let urls = self.urls.clone();
        let pins: HashSet<u64> = self.durable_pins.keys().map(|key| hash(*key).0).collect();
        let mut recovery = Recovery::new(
            self.geometry.clone(),
            self.plan.shard,
            config(&self.plan, self.lives),
            Arc::clone(&self.purges),
            self.pool.clone(),
        )
        .with_purged_urls(Box::new(move |hash, stamp| {
            urls.get(&hash.0).is_some_and(|number| stamp < *number)
        }))
        .with_pins(Box::new(move |hash| pins.contains(&hash.0)));
        let mut under_way = Vec::new();
        while !recovery.is_over() {
            let more = std::iter::from_fn(|| recovery.next_read());
            under_way.extend(more.take(self.rng.random_range(1..6)));
            let read = under_way.swap_remove(self.rng.random_range(0..under_way.len()));
            let disk = &self.disks[usize::from(read.device)];
            match self.rng.random_bool(self.plan.faults.read_error / 4.0) {
                true => recovery.failed(read),
                false => recovery.done(read, &disk.read(read.offset, read.len as usize)),
            }
        }
        self.tier = recovery.finish();
        self.pins = self.durable_pins.clone();
        let stats = self.tier.stats();
        self.fold(stats.objects ^ stats.recovered_scans << 32);
    }

    /// Every pin that was acknowledged is there, whole.
    pub fn check_pins(&mut self) {
        let mut pins: Vec<_> = self.durable_pins.clone().into_iter().collect();
        pins.sort_unstable();
        for (number, version) in pins {
            let before = self.tier.stats();
            while self.tier.reads() > 0 {
                self.settle();
            }
            let id = self.fetch(number);
            assert!(
                id.is_some(),
                "the pin of {number}, version {version}, is not there"
            );
            self.settle();
            let after = self.tier.stats();
            assert_eq!(
                after.served,
                before.served + 1,
                "the pin of {number} is not served"
            );
        }
    }

    /// Nothing is held once nothing is under way.
    pub fn check_no_leaks(mut self) -> TierStats {
        self.tier.stop(self.now());
        self.settle();
        assert!(self.tier.is_settled());
        assert_eq!(self.tier.reads(), 0);
        assert_eq!(self.pool.free(), self.pool.blocks(), "blocks leaked");
        self.totals.add(&self.tier.stats());
        self.totals
    }
}

fn config(plan: &Plan, life: u64) -> TierConfig {
    TierConfig {
        max_reads: plan.max_reads,
        max_write_blocks: plan.max_write_blocks,
        max_objects: plan.max_objects,
        max_ghosts: 64,
        write_share: plan.write_share,
        pinned_percent: 25,
        read_window: 100_000,
        write_bytes_per_second: plan.rate,
        drive_writes_per_day: plan.drive_writes_per_day,
        discard: true,
        save_limit: Duration::from_secs(1),
        life: plan.seed << 16 | life,
    }
}
