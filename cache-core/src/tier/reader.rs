//! Reading: a bounded number of fetches, each with one read under way at most.
//!
//! ```text
//!  fetch --> parked (not on the device yet) --> ready --block--> reading --done--.
//!              |                                  ^                              | whole pieces
//!              '-- in the buffer: no read         '------- credit --- idle <-----'--> events
//! ```
//! The first read takes the front and as much of the body as a block holds; the next ones begin
//! where the first piece begins that is not whole. Nothing goes out before its checksum was seen
//! to be right, and the key before anything.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hugepages::blocks::{Block, Pool};
use slab::Slab;

use super::MAX_READS;
use super::format::SECTOR;
use super::io::{IoId, TierEvent};
use super::ledger::Ledger;
use super::record::{Front, Spot, UNIT};
use super::segment::Identity;
use super::writer::{Put, Writer};
use crate::io::FetchId;
use crate::purge::Verdict;
use crate::store::KeyHash;

/// How soon a read that found no block is tried again, if nothing else happens before.
const BLOCK_RETRY: Duration = Duration::from_millis(1);

/// A read to be given out.
#[derive(Debug)]
pub(super) struct ReadStep {
    pub slot: usize,
    pub segment: u32,
    pub from: u32,
    pub len: u32,
    pub block: Block,
}

#[derive(Debug)]
pub(super) struct Reader {
    slots: Slab<Reading>,
    by_id: HashMap<FetchId, usize, RandomState>,
    /// May read on as soon as there is a block.
    ready: VecDeque<usize>,
    /// Wait for a write.
    parked: Vec<usize>,
    pub events: Vec<(FetchId, TierEvent)>,
    starved: bool,
}

#[derive(Debug)]
struct Reading {
    id: FetchId,
    hash: KeyHash,
    key: Bytes,
    put: Put,
    identity: Identity,
    /// Written up to here, the record can be read.
    end: u32,
    /// Once it was read.
    front: Option<Front>,
    /// The first piece that was not handed out.
    piece: u32,
    /// Body bytes that may be handed out; reads stop at 0, what a read brought is handed out.
    credit: i64,
    stage: Stage,
    /// Nobody waits any more, or it ended: the slot is there for the read under way.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Parked,
    Ready,
    UnderWay {
        from: u32,
        len: u32,
        /// Once it has a name.
        io: Option<IoId>,
    },
    /// Waits for credit.
    Idle,
}

/// Why there is nothing to be had.
#[derive(Clone, Copy, Debug)]
enum Missing {
    Purged,
    OtherKey,
    Damaged,
    IoError,
    Gone,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            slots: Slab::new(),
            by_id: HashMap::default(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            events: Vec::new(),
            starved: false,
        }
    }

    /// Fetches that are under way.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_settled(&self) -> bool {
        self.slots.is_empty() && self.events.is_empty()
    }

    pub fn fetch(
        &mut self,
        ledger: &mut Ledger,
        writer: &mut Writer,
        id: FetchId,
        (hash, key): (KeyHash, Bytes),
    ) -> bool {
        let Some((_, entry)) = ledger.find(hash) else {
            return false;
        };
        if self.slots.len() >= ledger.config.max_reads.min(MAX_READS) {
            ledger.stats.fetches_refused += 1;
            return false;
        }
        ledger.stats.fetches += 1;
        ledger.space.note_use(entry);
        let (segment, at) = ledger.space.locate(entry);
        let put = Put {
            segment,
            at,
            units: entry.units,
        };
        ledger.space.get_mut(segment).readers += 1;
        let slot = self.slots.insert(Reading {
            id,
            hash,
            key,
            put,
            end: at + entry.units * UNIT,
            identity: ledger.space.get(segment).identity,
            front: None,
            piece: 0,
            credit: i64::from(ledger.config.read_window),
            stage: Stage::Parked,
            over: false,
        });
        self.by_id.insert(id, slot);
        self.start(ledger, writer, slot);
        true
    }

    /// From the buffer, or as soon as it is on the device.
    fn start(&mut self, ledger: &mut Ledger, writer: &mut Writer, slot: usize) {
        let reading = &self.slots[slot];
        if reading.is_written(ledger) {
            self.make_ready(slot);
            return;
        }
        if let Some(record) = writer.buffered(reading.put) {
            let record = Bytes::copy_from_slice(record);
            ledger.stats.served_from_buffer += 1;
            let at = reading.put.at;
            self.take(ledger, slot, &record, at);
            return;
        }
        if writer.hurry(ledger, reading.put.segment) {
            ledger.stats.chunks_hurried += 1;
        }
        let reading = &mut self.slots[slot];
        // The index rounds lengths up: all that was handed over is enough.
        let handed_over = writer.handed_over(reading.put.segment);
        reading.end = reading.end.min(handed_over.unwrap_or(u32::MAX));
        self.parked.push(slot);
    }

    pub fn credit(&mut self, id: FetchId, bytes: u32) {
        let Some(slot) = self.by_id.get(&id).copied() else {
            return;
        };
        let reading = &mut self.slots[slot];
        reading.credit += i64::from(bytes);
        if reading.stage == Stage::Idle && reading.credit > 0 {
            self.make_ready(slot);
        }
    }

    pub fn cancel(&mut self, ledger: &mut Ledger, id: FetchId) {
        if let Some(slot) = self.by_id.get(&id).copied() {
            ledger.stats.cancelled += 1;
            self.end(ledger, slot);
        }
    }

    /// The object is not to be served any more: fetches of it that have sent nothing find nothing.
    pub fn forget(&mut self, ledger: &mut Ledger, hash: KeyHash) {
        let of_it = |(_, reading): &(usize, &Reading)| {
            reading.hash == hash && reading.front.is_none() && !reading.over
        };
        let slots: Vec<usize> = self
            .slots
            .iter()
            .filter(of_it)
            .map(|(slot, _)| slot)
            .collect();
        for slot in slots {
            self.fail(ledger, slot, Missing::Gone);
        }
    }

    /// Looks after fetches that wait for a write. Call before [`Self::next`].
    pub fn wake_parked(&mut self, ledger: &mut Ledger) {
        for slot in std::mem::take(&mut self.parked) {
            let reading = &self.slots[slot];
            if !reading.is_there(ledger) {
                self.fail(ledger, slot, Missing::Gone);
            } else if reading.is_written(ledger) {
                self.make_ready(slot);
            } else {
                self.parked.push(slot);
            }
        }
    }

    fn make_ready(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Ready;
        self.ready.push_back(slot);
    }

    /// The next read, if there is one and a block for it.
    pub fn next(&mut self, ledger: &mut Ledger, pool: &Pool) -> Option<ReadStep> {
        self.starved = false;
        loop {
            let slot = *self.ready.front()?;
            if !self.slots[slot].is_there(ledger) {
                self.ready.pop_front();
                self.fail(ledger, slot, Missing::Gone);
                continue;
            }
            let Some(block) = pool.take() else {
                self.starved = true;
                ledger.stats.read_waits += 1;
                return None;
            };
            self.ready.pop_front();
            let reading = &mut self.slots[slot];
            let (from, len) = reading.range(pool.block_bytes(), ledger);
            reading.stage = Stage::UnderWay {
                from,
                len,
                io: None,
            };
            ledger.stats.reads += 1;
            ledger.stats.read_bytes += u64::from(len);
            return Some(ReadStep {
                slot,
                segment: reading.put.segment,
                from,
                len,
                block,
            });
        }
    }

    /// The read that [`Self::next`] gave out goes by this name.
    pub fn began(&mut self, slot: usize, id: IoId) {
        if let Some(Stage::UnderWay { io, .. }) =
            self.slots.get_mut(slot).map(|reading| &mut reading.stage)
        {
            *io = Some(id);
        }
    }

    /// Whether a read of that name is under way there.
    pub fn awaits(&self, slot: usize, id: IoId) -> bool {
        let reading = self.slots.get(slot);
        reading.is_some_and(
            |reading| matches!(reading.stage, Stage::UnderWay { io, .. } if io == Some(id)),
        )
    }

    /// A read found no block.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.starved.then(|| now + BLOCK_RETRY)
    }

    /// What a read brought.
    pub fn done(&mut self, ledger: &mut Ledger, slot: usize, done: (Result<u32, i32>, Block)) {
        let Some(reading) = self.slots.get_mut(slot) else {
            return;
        };
        let Stage::UnderWay { from, len, .. } = reading.stage else {
            return;
        };
        reading.stage = Stage::Idle;
        if reading.over {
            self.remove(ledger, slot);
            return;
        }
        let (result, block) = done;
        if result != Ok(len) {
            self.fail(ledger, slot, Missing::IoError);
            return;
        }
        let filled = Filled {
            block,
            len: len as usize,
        };
        self.take(ledger, slot, &Bytes::from_owner(filled), from);
    }

    /// A read whose block is lost.
    pub fn lost(&mut self, ledger: &mut Ledger, slot: usize) {
        let Some(reading) = self.slots.get_mut(slot) else {
            return;
        };
        reading.stage = Stage::Idle;
        match reading.over {
            true => self.remove(ledger, slot),
            false => self.fail(ledger, slot, Missing::IoError),
        }
    }

    /// Hands out what can be of bytes that begin at `from` in the segment.
    fn take(&mut self, ledger: &mut Ledger, slot: usize, bytes: &Bytes, from: u32) {
        if self.slots[slot].front.is_none()
            && let Err(missing) = self.take_front(ledger, slot, bytes, from)
        {
            self.fail(ledger, slot, missing);
            return;
        }
        match self.take_pieces(slot, bytes, from) {
            Ok(served) => ledger.stats.served_bytes += served,
            Err(missing) => return self.fail(ledger, slot, missing),
        }
        let reading = &mut self.slots[slot];
        if reading.is_complete() {
            self.events.push((reading.id, TierEvent::End));
            ledger.stats.served += 1;
            self.end(ledger, slot);
        } else if reading.credit > 0 {
            self.make_ready(slot);
        } else {
            reading.stage = Stage::Idle;
        }
    }

    fn take_front(
        &mut self,
        ledger: &Ledger,
        slot: usize,
        bytes: &Bytes,
        from: u32,
    ) -> Result<(), Missing> {
        let reading = &mut self.slots[slot];
        let spot = Spot {
            identity: reading.identity,
            at: reading.put.at,
        };
        let record = &bytes[(reading.put.at - from) as usize..];
        let front = Front::decode(record, spot).ok_or(Missing::Damaged)?;
        let part = |(start, len): (u32, u32)| start as usize..(start + len) as usize;
        let key = &record[part(front.key)];
        if key != reading.key {
            return Err(Missing::OtherKey);
        }
        let verdict = ledger
            .purges
            .judge(front.meta.stamp, front.judged_tags(), key);
        if verdict == Verdict::Hard {
            return Err(Missing::Purged);
        }
        let head = TierEvent::Head {
            meta: front.meta,
            tags: front.tags.to_vec(),
            any_tag: front.any_tag,
            // It is kept for as long as the answer takes.
            encoded: Bytes::copy_from_slice(&record[part(front.head)]),
        };
        self.events.push((reading.id, head));
        reading.front = Some(front);
        Ok(())
    }

    /// Hands out the pieces that are whole in `bytes`; returns how many bytes.
    fn take_pieces(&mut self, slot: usize, bytes: &Bytes, from: u32) -> Result<u64, Missing> {
        let reading = &mut self.slots[slot];
        let (id, at) = (reading.id, reading.put.at);
        let mut served = 0;
        while let Some(range) = reading.next_piece() {
            let (start, end) = (at + range.start, at + range.end);
            if start < from || end as usize > from as usize + bytes.len() {
                break;
            }
            let piece = (start - from) as usize..(end - from) as usize;
            if !reading.checks(&bytes[piece.clone()]) {
                return Err(Missing::Damaged);
            }
            reading.piece += 1;
            reading.credit -= piece.len() as i64;
            served += piece.len() as u64;
            self.events.push((id, TierEvent::Body(bytes.slice(piece))));
        }
        Ok(served)
    }

    fn fail(&mut self, ledger: &mut Ledger, slot: usize, missing: Missing) {
        let reading = &self.slots[slot];
        let stats = &mut ledger.stats;
        match missing {
            Missing::Purged => stats.missing_purged += 1,
            Missing::OtherKey => stats.missing_other_key += 1,
            Missing::Damaged => stats.missing_damaged += 1,
            Missing::IoError => stats.missing_io_error += 1,
            Missing::Gone => stats.missing_gone += 1,
        }
        if reading.is_there(ledger) {
            ledger.remove_at(reading.hash, reading.put.segment, reading.put.at);
        }
        self.events.push((reading.id, TierEvent::Missing));
        self.end(ledger, slot);
    }

    /// No more events; the slot goes when no read is under way for it.
    fn end(&mut self, ledger: &mut Ledger, slot: usize) {
        let reading = &mut self.slots[slot];
        self.by_id.remove(&reading.id);
        if matches!(reading.stage, Stage::UnderWay { .. }) {
            reading.over = true;
            return;
        }
        self.remove(ledger, slot);
    }

    fn remove(&mut self, ledger: &mut Ledger, slot: usize) {
        let reading = self.slots.remove(slot);
        ledger.space.get_mut(reading.put.segment).readers -= 1;
        self.ready.retain(|ready| *ready != slot);
        self.parked.retain(|parked| *parked != slot);
    }
}

impl Reading {
    /// Whether its segment still has the life in which the record was found.
    fn is_there(&self, ledger: &Ledger) -> bool {
        let segment = ledger.space.get(self.put.segment);
        segment.identity == self.identity && segment.state != super::space::State::Free
    }

    fn is_written(&self, ledger: &Ledger) -> bool {
        let segment = ledger.space.get(self.put.segment);
        segment.written >= self.end || segment.state == super::space::State::Sealed
    }

    /// Where the next read begins in the segment, and its bytes.
    fn range(&self, block: usize, ledger: &Ledger) -> (u32, u32) {
        let (start, end) = match &self.front {
            None => (self.put.at, self.put.at + self.put.units * UNIT),
            Some(front) => (
                self.put.at + front.piece(self.piece).start,
                self.put.at + front.body_at + front.body_len,
            ),
        };
        let from = start / SECTOR * SECTOR;
        let end = end
            .next_multiple_of(SECTOR)
            .min(ledger.geometry.segment_bytes());
        (from, (end - from).min(block as u32))
    }

    fn next_piece(&self) -> Option<std::ops::Range<u32>> {
        let front = self.front.as_ref()?;
        (self.piece < front.pieces()).then(|| front.piece(self.piece))
    }

    fn checks(&self, bytes: &[u8]) -> bool {
        let front = self.front.as_ref();
        front.is_some_and(|front| front.piece_checks(self.piece, bytes, self.identity))
    }

    fn is_complete(&self) -> bool {
        self.front.is_some() && self.next_piece().is_none()
    }
}

/// A block's first bytes.
struct Filled {
    block: Block,
    len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.block[..self.len]
    }
}
