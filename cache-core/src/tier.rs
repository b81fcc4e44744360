//! The tier on drives: what left memory and may come back from flash. No I/O, no clock.
//!
//! ```text
//!                          offer                     fetch
//!  store evicts ------------.                          |          .----> TierEvents
//!                           v                          v          |
//!        admit ---> writer: open segments          reader: fetches
//!  (history, rates)   |  one lane a device             |  one read a fetch
//!                     '-------------> DiskCommands <---'
//!                                          |  the shell
//!                                      DiskDone
//!
//!  ledger   index: key hash -> record (12 bytes a slot)      space: segments, what goes next
//!  format   superblock, geometry        segment, record      what lies on the devices
//! ```
//! One [`Tier`] a shard, with segments of its own. The log is append-only: an object is written
//! once, with its key, head, surrogate keys, stamp and checksums, and is overwritten when its
//! segment is the least useful. The index is in memory and is rebuilt by [`Recovery`] from what the
//! segments say. Everything that is read is checked before it is handed out: key, stamp against
//! purges, and each piece.
//!
//! docs/disk-format.md has the format, what is refused and how, and the bounds.

mod admit;
mod bytes;
pub mod format;
mod history;
mod index;
mod io;
mod lane;
mod ledger;
mod rate;
mod reader;
mod record;
mod recovery;
mod segment;
mod space;
mod stats;
mod writer;

use std::time::{Duration, Instant};

use ::bytes::Bytes;
use hugepages::blocks::Pool;

use crate::http::slices::SLICE;
use crate::io::{FetchId, Now};
use crate::purge::Verdict;
use crate::store::{Evicted, KeyHash, ObjectMeta};
use admit::{Admission, Leaving};
use history::Sight;
use index::Inserted;
use lane::{Step, UnderWay};
use ledger::Ledger;
use rate::Rates;
use reader::Reader;
use record::UNIT;
use segment::{Identity, Table};
use writer::Writer;

pub use history::BYTES_PER_GHOST;
pub use io::{
    Bypass, DiskCommand, DiskDone, Durability, IoId, Offered, Refusal, Ticket, TierEvent,
};
pub use recovery::{PinJudge, Recovery, RecoveryRead, UrlJudge};
pub use stats::{TierGauges, TierStats};

/// Bytes of a pool's blocks unless there is a reason for others: a read or write at most.
pub const DEFAULT_BLOCK_BYTES: usize = 128 << 10;
/// Blocks hold a record's front, or a piece of its body, and the sectors around it.
pub const MIN_BLOCK_BYTES: usize = 128 << 10;

/// What one shard's tier is told at start. Its bounds; see [`TierStats`] for their counters.
#[derive(Clone, Debug)]
pub struct TierConfig {
    /// Fetches at the same time.
    pub max_reads: usize,
    /// Blocks that hold bytes to be written. Also bounds the largest object: it is copied whole.
    pub max_write_blocks: usize,
    /// Objects that the index has room for, at 14.4 bytes each.
    pub max_objects: u64,
    /// Objects that are remembered as having left memory, at 12 bytes each.
    pub max_ghosts: usize,
    /// Bytes written at most for each byte missed, beside a head start of half the tier; pinned and
    /// pre-warmed objects come on top. `None`: whatever was asked for twice is written.
    pub write_share: Option<f64>,
    /// Percent of the segments that may hold pinned objects.
    pub pinned_percent: u8,
    /// Body bytes that a fetch hands out before any [`Tier::credit`] (and what its last read brings).
    pub read_window: u32,
    /// Bytes a second that the whole node may write.
    pub write_bytes_per_second: Option<u64>,
    /// How often a day the whole node may write as many bytes as its segments have.
    pub drive_writes_per_day: Option<f64>,
    /// Tell the devices of segments that were freed.
    pub discard: bool,
    /// How long what memory holds may be written when the node stops; zero: not at all.
    pub save_limit: Duration,
    /// Random for every start of the process.
    pub life: u64,
}

impl Default for TierConfig {
    fn default() -> Self {
        Self {
            max_reads: 64,
            max_write_blocks: 32,
            max_objects: 1 << 20,
            max_ghosts: 1 << 16,
            write_share: Some(DEFAULT_WRITE_SHARE),
            pinned_percent: 25,
            read_window: 256 << 10,
            write_bytes_per_second: None,
            drive_writes_per_day: None,
            discard: true,
            save_limit: Duration::from_secs(5),
            life: 0,
        }
    }
}

impl TierConfig {
    /// Blocks that a shard's pool must have for every bound to be reached before the pool is empty.
    pub fn blocks(&self, devices: u8) -> usize {
        self.max_reads + self.max_write_blocks + usize::from(devices)
    }
}

/// Below 0.15, for footers and padding to be within that.
pub const DEFAULT_WRITE_SHARE: f64 = 0.142;

/// One shard's part of the tier. Made by [`Recovery`].
#[derive(Debug)]
pub struct Tier {
    ledger: Ledger,
    writer: Writer,
    reader: Reader,
    admission: Admission,
    rates: Rates,
    next_io: u64,
    /// Commands that were given out and are not answered.
    under_way: usize,
    now: Option<Instant>,
}

/// Whom a command's outcome concerns: said by the low bits of its [`IoId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Fetch(usize),
    Lane(u8),
}

impl Target {
    const BITS: u32 = 20;
    const FIRST_LANE: u64 = (1 << Self::BITS) - 256;

    fn code(self) -> u64 {
        match self {
            Self::Fetch(slot) => slot as u64,
            Self::Lane(device) => Self::FIRST_LANE + u64::from(device),
        }
    }

    fn of(id: IoId) -> Self {
        let code = id.0 & ((1 << Self::BITS) - 1);
        match code.checked_sub(Self::FIRST_LANE) {
            Some(device) => Self::Lane(device as u8),
            None => Self::Fetch(code as usize),
        }
    }
}

/// Most fetches at a time, whatever [`TierConfig::max_reads`] says.
const MAX_READS: usize = Target::FIRST_LANE as usize;

impl Tier {
    fn recovered(ledger: Ledger, pool: Pool, unsealed: Vec<(u32, Identity, Table)>) -> Self {
        let config = &ledger.config;
        let mut tier = Self {
            admission: Admission::new(
                ledger.geometry.shard_bytes(),
                ledger.space.held_bytes(),
                config.write_share,
                config.max_ghosts,
            ),
            rates: Rates::new(config, &ledger.geometry),
            writer: Writer::new(pool, ledger.geometry.devices()),
            reader: Reader::new(),
            ledger,
            next_io: 0,
            under_way: 0,
            now: None,
        };
        tier.seal_found(unsealed);
        tier
    }

    /// Segments that a crash left open get their footer; those with nothing in them are free.
    fn seal_found(&mut self, unsealed: Vec<(u32, Identity, Table)>) {
        for (segment, identity, table) in unsealed {
            match table.is_empty() {
                true => drop(self.ledger.release(segment)),
                false => self
                    .writer
                    .push_footer(&mut self.ledger, segment, identity, &table),
            }
        }
    }

    /// Whether a fetch is worth trying. May say yes for an object that turns out not to be there.
    pub fn may_have(&self, hash: KeyHash) -> bool {
        self.ledger.find(hash).is_some()
    }

    /// Begins a read; [`TierEvent`]s come under `id` from [`Self::turn`]. `false`: it is not here, or
    /// too many reads are under way (counted).
    pub fn fetch(&mut self, now: Now, id: FetchId, hash: KeyHash, key: Bytes) -> bool {
        self.now = Some(now.mono);
        self.reader
            .fetch(&mut self.ledger, &mut self.writer, id, (hash, key))
    }

    /// Lets a fetch hand out more of the body. It may overrun its credit by what one read brings.
    pub fn credit(&mut self, id: FetchId, bytes: u32) {
        self.reader.credit(id, bytes);
    }

    /// Nobody waits for a fetch any more. Events that [`Self::turn`] has not given out yet may still
    /// come.
    pub fn cancel(&mut self, id: FetchId) {
        self.reader.cancel(&mut self.ledger, id);
    }

    /// Offers an object that leaves memory, or is to be kept on flash besides. Another version of it
    /// than is there takes its place (told by 14 bits: [`Self::forget`] the old one when a newer one is
    /// stored in memory, so that one in 16,384 is not taken for the same).
    pub fn offer(&mut self, now: Now, object: &Evicted<'_>, bypass: Bypass) -> Offered {
        self.now = Some(now.mono);
        let bytes = offered_bytes(object);
        self.ledger.stats.offered += 1;
        self.ledger.stats.offered_bytes += bytes;
        let offered = self.decide(now, object, bypass);
        self.count_offer(offered, bytes);
        offered
    }

    fn decide(&mut self, now: Now, object: &Evicted<'_>, bypass: Bypass) -> Offered {
        let sought = match bypass {
            Bypass::No => {
                let leaving = leaving(now, object);
                let served = self.ledger.stats.served_bytes;
                Some((leaving, self.admission.see(&leaving, served)))
            }
            Bypass::Prewarmed | Bypass::Pinned | Bypass::Stop => None,
        };
        if self.known(object, bypass) {
            return Offered::Known;
        }
        match self.admit(now, object, bypass, sought) {
            Ok(()) => Offered::Written,
            Err(refusal) => Offered::Declined(refusal),
        }
    }

    /// Whether the same object is there, and is pinned if it is to be. Counts as a use of it.
    fn known(&mut self, object: &Evicted<'_>, bypass: Bypass) -> bool {
        let Some((_, entry)) = self.ledger.find(object.hash) else {
            return false;
        };
        let same = entry.version == version_of(object);
        if !same {
            // What it names is older than what is offered.
            self.ledger.remove(object.hash);
            return false;
        }
        self.ledger.space.note_use(entry);
        entry.pinned || bypass != Bypass::Pinned
    }

    fn admit(
        &mut self,
        now: Now,
        object: &Evicted<'_>,
        bypass: Bypass,
        sought: Option<(Leaving, Sight)>,
    ) -> Result<(), Refusal> {
        if self.writer.stopping {
            return Err(Refusal::Stopping);
        }
        let tags = record::judged(object.tags, object.any_tag);
        let verdict = self
            .ledger
            .purges
            .judge(object.meta.stamp, tags, object.key);
        if verdict == Verdict::Hard {
            return Err(Refusal::Purged);
        }
        if let Some((leaving, sight)) = &sought {
            self.admission.judge(leaving, *sight)?;
        }
        if bypass == Bypass::Stop && leaving(now, object).usable_s == 0 {
            return Err(Refusal::Expires);
        }
        if !self.rates.allow(now.mono, offered_bytes(object), bypass) {
            return Err(Refusal::RateLimit);
        }
        let written = self.write(object, bypass)?;
        if sought.is_some() {
            self.admission.wrote(written);
        }
        Ok(())
    }

    /// Bytes of the record.
    fn write(&mut self, object: &Evicted<'_>, bypass: Bypass) -> Result<u64, Refusal> {
        let pinned = bypass == Bypass::Pinned;
        if !self.ledger.has_room() {
            return Err(Refusal::IndexFull);
        }
        if self.writer.is_paused(&self.ledger, pinned) {
            return Err(Refusal::DeviceFailed);
        }
        let put = self.writer.put(&mut self.ledger, object, bypass)?;
        let written = u64::from(put.units * UNIT);
        self.rates.spend(written);
        let version = version_of(object);
        let entry = self
            .ledger
            .space
            .entry(put.segment, put.at, put.units, version, pinned);
        match self.ledger.insert(object.hash, entry) {
            // Written for nothing; at the bound that `max_objects` keeps, this is rare.
            Inserted::Full => Err(Refusal::IndexFull),
            Inserted::New | Inserted::Replaced(_) | Inserted::Older => Ok(written),
        }
    }

    fn count_offer(&mut self, offered: Offered, bytes: u64) {
        let stats = &mut self.ledger.stats;
        let (objects, all_bytes) = match offered {
            Offered::Written => (&mut stats.admitted, Some(&mut stats.admitted_bytes)),
            Offered::Known => (&mut stats.known, None),
            Offered::Declined(refusal) => match refusal {
                Refusal::Unpopular => (
                    &mut stats.declined_unpopular,
                    Some(&mut stats.declined_unpopular_bytes),
                ),
                Refusal::Budget => (
                    &mut stats.declined_budget,
                    Some(&mut stats.declined_budget_bytes),
                ),
                Refusal::Expires => (&mut stats.declined_expires, None),
                Refusal::RateLimit => (
                    &mut stats.declined_rate,
                    Some(&mut stats.declined_rate_bytes),
                ),
                Refusal::NoBuffer => (
                    &mut stats.declined_no_buffer,
                    Some(&mut stats.declined_no_buffer_bytes),
                ),
                Refusal::TooLarge => (
                    &mut stats.declined_too_large,
                    Some(&mut stats.declined_too_large_bytes),
                ),
                Refusal::NoSegment => (&mut stats.declined_no_segment, None),
                Refusal::IndexFull => (&mut stats.declined_index_full, None),
                Refusal::DeviceFailed => (&mut stats.declined_device, None),
                Refusal::PinnedFull => (&mut stats.declined_pins, None),
                Refusal::Purged | Refusal::Stopping => (&mut stats.declined_other, None),
            },
        };
        *objects += 1;
        if let Some(all) = all_bytes {
            *all += bytes;
        }
    }

    /// Forgets an object: its URL was purged, or a newer one takes its place. Whether there was one.
    /// A fetch of it that has sent nothing finds nothing.
    pub fn forget(&mut self, hash: KeyHash) -> bool {
        self.reader.forget(&mut self.ledger, hash);
        let forgotten = self.ledger.remove(hash);
        self.ledger.stats.forgotten += u64::from(forgotten);
        forgotten
    }

    /// Lets a pinned object be evicted like any other. Whether it was pinned here.
    pub fn unpin(&mut self, hash: KeyHash) -> bool {
        match self.ledger.find(hash) {
            Some((slot, entry)) if entry.pinned => {
                let unpinned = index::Entry {
                    pinned: false,
                    ..entry
                };
                self.ledger.index.set(slot, unpinned);
                self.ledger.space.sub(entry);
                self.ledger.space.add(unpinned);
                true
            }
            _ => false,
        }
    }

    /// Has everything that was offered so far made durable; ask [`Self::durability`] what became of it.
    pub fn persist(&mut self) -> Ticket {
        self.writer.persist(&mut self.ledger)
    }

    /// The outcome of the latest 64 tickets is remembered; of older ones it is `Failed`.
    pub fn durability(&self, ticket: Ticket) -> Durability {
        self.writer.durability(ticket)
    }

    /// A command was carried out, or failed.
    pub fn done(&mut self, now: Now, done: DiskDone) {
        self.now = Some(now.mono);
        match Target::of(done.id) {
            Target::Fetch(slot) if self.reader.awaits(slot, done.id) => {
                self.under_way -= 1;
                let Some(block) = done.block else {
                    // A read that gives its block not back has failed, whatever it says.
                    return self.reader.lost(&mut self.ledger, slot);
                };
                self.reader
                    .done(&mut self.ledger, slot, (done.result, block));
            }
            Target::Lane(device) if self.writer.awaits(device, done.id) => {
                self.under_way -= 1;
                drop(done.block);
                self.lane_done(now.mono, device, done.result);
            }
            Target::Fetch(_) | Target::Lane(_) => {}
        }
    }

    fn lane_done(&mut self, now: Instant, device: u8, result: Result<u32, i32>) {
        let lane = &mut self.writer.lanes[usize::from(device)];
        match lane.under_way.take() {
            Some(UnderWay::Discard) => {
                lane.no_discard |= result.is_err();
                self.ledger.stats.discard_errors += u64::from(result.is_err());
            }
            Some(UnderWay::Flush { ticket }) => match result {
                Ok(_) => {
                    lane.flushed();
                    lane.succeeded();
                    if let Some(ticket) = ticket {
                        self.writer.flushed(ticket);
                    }
                }
                Err(_) => {
                    lane.failed(now);
                    self.ledger.stats.flush_errors += 1;
                    self.writer.fail_tickets();
                }
            },
            Some(write @ UnderWay::Write { .. }) => self.write_done(now, device, write, result),
            None => {}
        }
    }

    fn write_done(&mut self, now: Instant, device: u8, write: UnderWay, result: Result<u32, i32>) {
        let UnderWay::Write {
            segment,
            sequence,
            readable,
            len,
            last,
        } = write
        else {
            return;
        };
        let failed = result != Ok(len);
        let lane = &mut self.writer.lanes[usize::from(device)];
        match failed {
            true => {
                lane.failed(now);
                self.ledger.stats.write_errors += 1;
            }
            false => lane.succeeded(),
        }
        let place = self.ledger.space.get_mut(segment);
        let current = place.state != space::State::Free && place.identity.sequence == sequence;
        match (failed, current) {
            (true, true) => self.writer.fail_segment(&mut self.ledger, segment),
            (true, false) => self.writer.fail_tickets(),
            (false, true) => {
                place.written = place.written.max(readable.unwrap_or(0));
                place.jobs = place.jobs.saturating_sub(u32::from(last));
                if readable.is_none() && last {
                    place.state = space::State::Sealed;
                    place.written = self.ledger.geometry.segment_bytes();
                }
            }
            (false, false) => {}
        }
    }

    /// Gives out commands and events. To be called after anything else was, and at
    /// [`Self::next_timeout`].
    pub fn turn(
        &mut self,
        now: Now,
        commands: &mut Vec<DiskCommand>,
        events: &mut Vec<(FetchId, TierEvent)>,
    ) {
        self.now = Some(now.mono);
        self.reader.wake_parked(&mut self.ledger);
        while let Some(read) = self.reader.next(&mut self.ledger, &self.writer.pool) {
            let (device, offset) = self.ledger.place(read.segment, read.from);
            let id = self.io(Target::Fetch(read.slot));
            self.reader.began(read.slot, id);
            commands.push(DiskCommand::Read {
                id,
                device,
                offset,
                len: read.len,
                block: read.block,
            });
        }
        if !self.writer.held {
            for device in 0..self.ledger.geometry.devices() {
                self.turn_lane(now.mono, device, commands);
            }
        }
        events.append(&mut self.reader.events);
    }

    fn turn_lane(&mut self, now: Instant, device: u8, commands: &mut Vec<DiskCommand>) {
        let lane = &mut self.writer.lanes[usize::from(device)];
        lane.expire(now);
        let Some(step) = lane.next(now, &self.writer.pool) else {
            return;
        };
        let id = self.io(Target::Lane(device));
        self.writer.lanes[usize::from(device)].io = Some(id);
        let stats = &mut self.ledger.stats;
        commands.push(match step {
            Step::Write {
                segment,
                at,
                len,
                block,
            } => {
                stats.writes += 1;
                stats.written_bytes += u64::from(len);
                let (_, offset) = self.ledger.place(segment, at);
                DiskCommand::Write {
                    id,
                    device,
                    offset,
                    len,
                    block,
                }
            }
            Step::Flush => {
                stats.flushes += 1;
                DiskCommand::Flush { id, device }
            }
            Step::Discard { segment } => {
                stats.discards += 1;
                let (_, offset) = self.ledger.place(segment, 0);
                DiskCommand::Discard {
                    id,
                    device,
                    offset,
                    len: u64::from(self.ledger.geometry.segment_bytes()),
                }
            }
        });
    }

    fn io(&mut self, target: Target) -> IoId {
        self.next_io += 1;
        self.under_way += 1;
        IoId(self.next_io << Target::BITS | target.code())
    }

    /// When a turn is due at the latest, beside the one after every [`Self::done`].
    pub fn next_timeout(&self) -> Option<Instant> {
        let lanes = self.writer.lanes.iter().filter_map(lane::Lane::resumes);
        let reader = self.now.and_then(|now| self.reader.next_timeout(now));
        lanes.chain(reader).min()
    }

    /// Takes nothing any more, seals and flushes what is open. [`Self::is_settled`] says when it is
    /// done.
    pub fn stop(&mut self, now: Now) {
        self.now = Some(now.mono);
        self.writer.stop(&mut self.ledger);
    }

    /// Another process reads the same devices, and may have more to read: nothing is written before
    /// [`Self::wake`]. Of a tier that has not had a turn yet.
    pub fn rest(&mut self) {
        self.writer.stopping = true;
        self.writer.held = true;
    }

    /// Takes and writes again, after [`Self::rest`] or [`Self::stop`].
    pub fn wake(&mut self) {
        self.writer.stopping = false;
        self.writer.held = false;
    }

    /// What was taken is on the devices, and nothing more will be written.
    pub fn is_sealed(&self) -> bool {
        self.writer.stopping && self.writer.is_settled()
    }

    /// Something waits to be written, or is being written.
    pub fn is_writing(&self) -> bool {
        !self.writer.is_idle()
    }

    /// See [`TierConfig::save_limit`].
    pub fn save_limit(&self) -> Duration {
        self.ledger.config.save_limit
    }

    /// Nothing is on its way to or from the devices, and nothing waits to be written.
    pub fn is_settled(&self) -> bool {
        self.under_way == 0 && self.reader.is_settled() && self.writer.is_settled()
    }

    /// A read waits for a block, which the bytes in events that were given out may hold: drop them and
    /// take another turn.
    pub fn is_starved(&self) -> bool {
        self.reader.is_starved()
    }

    /// Fetches under way.
    pub fn reads(&self) -> usize {
        self.reader.len()
    }

    pub fn stats(&self) -> TierStats {
        let ledger = &self.ledger;
        let mut stats = ledger.stats.clone();
        stats.objects = ledger.objects;
        stats.capacity_bytes = ledger.geometry.shard_bytes();
        stats.index_bytes = ledger.index.bytes();
        stats.write_blocks = self.writer.blocks() as u64;
        stats.pinned_segments = u64::from(ledger.space.pinned_segments());
        stats.missed_bytes = self.admission.missed();
        stats.resting = u64::from(self.writer.stopping);
        (stats.rate_left_bytes, stats.daily_left_bytes) = self.rates.left();
        stats.price_milli = (self.admission.price() * 1000.0) as u64;
        for segment in ledger.space.iter() {
            stats.object_bytes += segment.units * u64::from(UNIT);
            stats.pinned_objects += u64::from(segment.pinned);
            match segment.state {
                space::State::Free => stats.segments_free += 1,
                space::State::Open | space::State::Sealing => stats.segments_open += 1,
                space::State::Sealed => stats.segments_sealed += 1,
            }
        }
        stats
    }
}

fn offered_bytes(object: &Evicted<'_>) -> u64 {
    (object.key.len() + object.head.len()) as u64 + body_bytes(object)
}

fn leaving(now: Now, object: &Evicted<'_>) -> Leaving {
    let meta = &object.meta;
    let stored_s = now.unix_ms.saturating_sub(meta.stored_unix_ms) / 1000;
    let usable = u64::from(meta.lifetime_s) + u64::from(meta.stale_while_revalidate_s);
    Leaving {
        hash: object.hash,
        bytes: body_bytes(object),
        requests: object.requests,
        usable_s: match meta.flags & SLICE {
            0 => usable.saturating_sub(stored_s + u64::from(meta.age_at_store_s)),
            // As long as the object that it is of, which may be confirmed again and again.
            _ => u64::MAX,
        },
        now_s: (now.unix_ms / 1000) as u32,
    }
}

fn body_bytes(object: &Evicted<'_>) -> u64 {
    object.body.iter().map(|part| part.len() as u64).sum()
}

/// As [`index::version`] of the record that it becomes.
fn version_of(object: &Evicted<'_>) -> u16 {
    index::version(&ObjectMeta {
        body_len: body_bytes(object),
        ..object.meta
    })
}
