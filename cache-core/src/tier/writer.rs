//! Writing: open segments filled in memory, and one lane of commands a device.
//!
//! ```text
//!  put --> open segment [ header | record | record | ..]     (one for pinned objects, one for the rest)
//!               |  block full: a chunk
//!               v
//!  lane of the device:  write, write, footer, flush, discard, write ...   one under way at a time
//! ```
//! A sector is written once: a chunk that goes out before it is full is padded to the next sector.
//!
//! # Bounds
//! Blocks that hold bytes to be written: [`super::TierConfig::max_write_blocks`], and one more a
//! device for footers. Under way: one write, flush or discard a shard and device, of a block at most;
//! a read waits behind no more than that of each shard.

use std::collections::VecDeque;

use hugepages::blocks::{Block, Pool};

use super::format::SECTOR;
use super::io::{Bypass, Durability, IoId, Refusal, Ticket};
use super::lane::{Job, Lane};
use super::ledger::Ledger;
use super::record::{Layout, Marks, Spot, UNIT, encode_front};
use super::segment::{self, Entry, Identity, Kind, Table};
use super::space::State;
use crate::store::Evicted;

/// Tickets of which the outcome is remembered.
const MAX_TICKETS: usize = 64;

#[derive(Debug)]
pub(super) struct Writer {
    pub pool: Pool,
    /// For objects that may be evicted, and for pinned ones.
    open: [Option<Open>; 2],
    pub lanes: Vec<Lane>,
    tickets: VecDeque<Pending>,
    next_ticket: u64,
    pub stopping: bool,
    /// Not even what waits in the lanes goes to the devices.
    pub held: bool,
}

/// A segment that is being filled.
#[derive(Debug)]
struct Open {
    segment: u32,
    identity: Identity,
    /// The next byte to be written, and the first that is not in the lane yet.
    at: u32,
    chunk: u32,
    /// Holds `chunk..at`.
    block: Option<Block>,
    table: Table,
}

/// A ticket on its way.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    flushes: usize,
    failed: bool,
}

/// Where a record was put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub segment: u32,
    pub at: u32,
    pub units: u32,
}

impl Writer {
    pub fn new(pool: Pool, devices: u8) -> Self {
        Self {
            pool,
            open: [None, None],
            lanes: (0..devices).map(|_| Lane::default()).collect(),
            tickets: VecDeque::new(),
            next_ticket: 0,
            stopping: false,
            held: false,
        }
    }

    /// Blocks that hold bytes to be written.
    pub fn blocks(&self) -> usize {
        let open = self.open.iter().flatten();
        let filling = open.filter(|open| open.block.is_some()).count();
        filling + self.lanes.iter().map(Lane::blocks).sum::<usize>()
    }

    /// Copies an object to the log.
    pub fn put(
        &mut self,
        ledger: &mut Ledger,
        object: &Evicted<'_>,
        bypass: Bypass,
    ) -> Result<Put, Refusal> {
        let pinned = bypass == Bypass::Pinned;
        let space = usize::from(pinned);
        self.check_size(ledger, object)?;
        if !self.fits(ledger, space, object) {
            self.seal(ledger, space);
            self.begin_segment(ledger, pinned)?;
        }
        let Some(mut open) = self.open[space].take() else {
            return Err(Refusal::NoSegment);
        };
        let result = self.put_in(ledger, &mut open, object, pinned);
        self.open[space] = Some(open);
        result
    }

    fn check_size(&self, ledger: &Ledger, object: &Evicted<'_>) -> Result<(), Refusal> {
        let layout = Layout::of(object, segment::HEADER_BYTES).ok_or(Refusal::TooLarge)?;
        let footer = Table::default().footer_bytes_with(object.tags.len());
        let segment = ledger.geometry.segment_bytes() - segment::HEADER_BYTES - footer;
        let buffers = (ledger.config.max_write_blocks.saturating_sub(1)) * self.pool.block_bytes();
        let longest = (segment as usize).min(buffers);
        match layout.len as usize <= longest {
            true => Ok(()),
            false => Err(Refusal::TooLarge),
        }
    }

    fn fits(&self, ledger: &Ledger, space: usize, object: &Evicted<'_>) -> bool {
        let Some(open) = &self.open[space] else {
            return false;
        };
        let Some(layout) = Layout::of(object, open.at) else {
            return false;
        };
        let footer = open.table.footer_bytes_with(object.tags.len());
        open.at + layout.len + footer <= ledger.geometry.segment_bytes()
    }

    fn begin_segment(&mut self, ledger: &mut Ledger, pinned: bool) -> Result<(), Refusal> {
        if pinned && ledger.space.pinned_segments() >= ledger.most_pinned_segments() {
            return Err(Refusal::PinnedFull);
        }
        if self.blocks() >= ledger.config.max_write_blocks {
            return Err(Refusal::NoBuffer);
        }
        let mut block = self.pool.take().ok_or(Refusal::NoBuffer)?;
        let taken = ledger.take_segment().ok_or(Refusal::NoSegment)?;
        let segment = taken.segment;
        if taken.was_full && ledger.config.discard {
            self.lane_of(ledger, segment).push(Job::Discard { segment });
        }
        let (geometry, life) = (ledger.geometry.clone(), ledger.config.life);
        let kind = if pinned { Kind::Pinned } else { Kind::Plain };
        let identity = ledger.space.begin(segment, &geometry, life, kind);
        identity.encode_header(&mut block, kind);
        self.open[usize::from(pinned)] = Some(Open {
            segment,
            identity,
            at: segment::HEADER_BYTES,
            chunk: 0,
            block: Some(block),
            table: Table::default(),
        });
        Ok(())
    }

    fn put_in(
        &mut self,
        ledger: &mut Ledger,
        open: &mut Open,
        object: &Evicted<'_>,
        pinned: bool,
    ) -> Result<Put, Refusal> {
        let at = open.at;
        let layout = Layout::of(object, at).ok_or(Refusal::TooLarge)?;
        let mut fresh = self.take_blocks(ledger, open, layout.len)?;

        let spot = Spot {
            identity: open.identity,
            at,
        };
        let serial = ledger.space.next_serial();
        let front = encode_front(object, layout, spot, Marks { serial, pinned });
        let mut copy = Copying {
            writer: self,
            ledger,
            open,
            fresh: &mut fresh,
        };
        copy.bytes(&front);
        copy.zeros(layout.body_at - layout.front);
        for part in object.body {
            copy.bytes(part);
        }
        copy.zeros(layout.len - layout.body_at - layout.body_len);
        open.table.push(&Entry {
            hash: object.hash,
            serial,
            unit: at / UNIT,
            units: layout.len / UNIT,
            stamp: object.meta.stamp,
            version: super::version_of(object),
            any_tag: object.any_tag,
            pinned,
            tags: object.tags.into(),
        });
        ledger.stats.record_bytes += u64::from(layout.len);
        Ok(Put {
            segment: open.segment,
            at,
            units: layout.len / UNIT,
        })
    }

    /// All blocks that bytes beyond the one being filled need, or none.
    fn take_blocks(
        &self,
        ledger: &Ledger,
        open: &Open,
        len: u32,
    ) -> Result<VecDeque<Block>, Refusal> {
        let block = self.pool.block_bytes();
        let room = match open.block {
            Some(_) => block - (open.at - open.chunk) as usize,
            None => 0,
        };
        let wanted = (len as usize).saturating_sub(room).div_ceil(block);
        // The one being filled is out of the writer for the moment.
        let held = self.blocks() + usize::from(open.block.is_some());
        if held + wanted > ledger.config.max_write_blocks {
            return Err(Refusal::NoBuffer);
        }
        let blocks: VecDeque<_> = (0..wanted).map_while(|_| self.pool.take()).collect();
        match blocks.len() == wanted {
            true => Ok(blocks),
            false => Err(Refusal::NoBuffer),
        }
    }

    /// Bytes of a record that was not given to a lane yet.
    pub fn buffered(&self, put: Put) -> Option<&[u8]> {
        let open = self.open_at(put.segment)?;
        let start = put.at.checked_sub(open.chunk)? as usize;
        let end = start + (put.units * UNIT) as usize;
        let filled = (open.at - open.chunk) as usize;
        let block = open.block.as_ref()?;
        // The index rounds lengths up.
        block.get(start..end.min(filled))
    }

    fn open_at(&self, segment: u32) -> Option<&Open> {
        let mut open = self.open.iter().flatten();
        open.find(|open| open.segment == segment)
    }

    /// Has what is in memory of a segment written, though the chunk is not full. Whether there was
    /// something.
    pub fn hurry(&mut self, ledger: &mut Ledger, segment: u32) -> bool {
        for space in 0..self.open.len() {
            if let Some(open) = self.open[space].take_if(|open| open.segment == segment) {
                let hurried = open.block.is_some();
                let open = self.hand_over(ledger, open);
                self.open[space] = Some(open);
                return hurried;
            }
        }
        false
    }

    /// How much of an open segment is in the lane or on the device.
    pub fn handed_over(&self, segment: u32) -> Option<u32> {
        Some(self.open_at(segment)?.chunk)
    }

    /// Gives the lane what is in the block, padded to a sector.
    fn hand_over(&mut self, ledger: &mut Ledger, mut open: Open) -> Open {
        let Some(mut block) = open.block.take() else {
            return open;
        };
        let filled = open.at - open.chunk;
        let len = filled.next_multiple_of(SECTOR);
        block[filled as usize..len as usize].fill(0);
        self.lane_of(ledger, open.segment).push(Job::Write {
            segment: open.segment,
            sequence: open.identity.sequence,
            at: open.chunk,
            len,
            block,
        });
        ledger.space.get_mut(open.segment).jobs += 1;
        open.chunk += len;
        open.at = open.chunk;
        open
    }

    /// Closes the open segment with its footer.
    fn seal(&mut self, ledger: &mut Ledger, space: usize) {
        let Some(open) = self.open[space].take() else {
            return;
        };
        let open = self.hand_over(ledger, open);
        self.push_footer(ledger, open.segment, open.identity, &open.table);
    }

    /// Puts a footer in the lane, and a flush behind it.
    pub fn push_footer(
        &mut self,
        ledger: &mut Ledger,
        segment: u32,
        identity: Identity,
        table: &Table,
    ) {
        let bytes = table.encode(identity);
        let at = ledger.geometry.segment_bytes() - bytes.len() as u32;
        let place = ledger.space.get_mut(segment);
        place.state = State::Sealing;
        place.jobs += 1;
        let lane = self.lane_of(ledger, segment);
        lane.push(Job::Footer {
            segment,
            sequence: identity.sequence,
            at,
            bytes,
            sent: 0,
        });
        lane.push(Job::Flush { ticket: None });
    }

    /// Seals whatever is open; nothing is taken any more.
    pub fn stop(&mut self, ledger: &mut Ledger) {
        self.stopping = true;
        for space in 0..self.open.len() {
            self.seal(ledger, space);
        }
    }

    /// Has everything written and made durable that was put so far.
    pub fn persist(&mut self, ledger: &mut Ledger) -> Ticket {
        let open: Vec<u32> = self.open.iter().flatten().map(|one| one.segment).collect();
        for segment in open {
            self.hurry(ledger, segment);
        }
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let mut flushes = 0;
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_dirty()) {
            lane.push(Job::Flush {
                ticket: Some(ticket),
            });
            flushes += 1;
        }
        self.tickets.push_back(Pending {
            ticket,
            flushes,
            failed: false,
        });
        self.forget_tickets();
        Ticket(ticket)
    }

    pub fn durability(&self, ticket: Ticket) -> Durability {
        let found = self.tickets.iter().find(|one| one.ticket == ticket.0);
        match found {
            // Forgotten, or never given: nothing is promised.
            None => Durability::Failed,
            Some(one) if one.failed => Durability::Failed,
            Some(one) if one.flushes == 0 => Durability::Durable,
            Some(_) => Durability::Pending,
        }
    }

    fn forget_tickets(&mut self) {
        if self.tickets.len() > MAX_TICKETS {
            self.tickets.pop_front();
        }
    }

    pub fn flushed(&mut self, ticket: u64) {
        let mut tickets = self.tickets.iter_mut();
        if let Some(one) = tickets.find(|one| one.ticket == ticket) {
            one.flushes = one.flushes.saturating_sub(1);
        }
    }

    /// Something was not written: no ticket under way can be kept.
    pub fn fail_tickets(&mut self) {
        for one in self.tickets.iter_mut().filter(|one| one.flushes > 0) {
            one.failed = true;
        }
    }

    /// A write failed: everything in its segment is given up.
    pub fn fail_segment(&mut self, ledger: &mut Ledger, segment: u32) {
        for open in &mut self.open {
            open.take_if(|open| open.segment == segment);
        }
        self.lane_of(ledger, segment).drop_segment(segment);
        ledger.release(segment);
        self.fail_tickets();
    }

    pub fn lane_of(&mut self, ledger: &Ledger, segment: u32) -> &mut Lane {
        let (device, _) = ledger.place(segment, 0);
        &mut self.lanes[usize::from(device)]
    }

    /// Whether a command of that name is under way on the device; it is over with this.
    pub fn awaits(&mut self, device: u8, id: IoId) -> bool {
        let lane = self.lanes.get_mut(usize::from(device));
        lane.is_some_and(|lane| lane.io.take_if(|io| *io == id).is_some())
    }

    /// Whether the device to which a put would go failed not long ago.
    pub fn is_paused(&self, ledger: &Ledger, pinned: bool) -> bool {
        match &self.open[usize::from(pinned)] {
            Some(open) => {
                let (device, _) = ledger.place(open.segment, 0);
                self.lanes[usize::from(device)].is_paused()
            }
            None => self.lanes.iter().all(Lane::is_paused),
        }
    }

    /// Nothing is in a lane or under way.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(Lane::is_settled)
    }

    pub fn is_settled(&self) -> bool {
        if self.held {
            return true;
        }
        let nothing_open = self.open.iter().flatten().all(|open| open.block.is_none());
        nothing_open && self.is_idle()
    }
}

/// Copies bytes to an open segment, block by block.
struct Copying<'a> {
    writer: &'a mut Writer,
    ledger: &'a mut Ledger,
    open: &'a mut Open,
    /// As many as are needed.
    fresh: &'a mut VecDeque<Block>,
}

impl Copying<'_> {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.advance(now.len());
            bytes = later;
        }
    }

    fn zeros(&mut self, count: u32) {
        let mut count = count as usize;
        while count > 0 {
            let room = self.room();
            let now = count.min(room.len());
            room[..now].fill(0);
            self.advance(now);
            count -= now;
        }
    }

    /// The rest of the block, never empty.
    fn room(&mut self) -> &mut [u8] {
        let filled = (self.open.at - self.open.chunk) as usize;
        let fresh = &mut self.fresh;
        let block = self.open.block.get_or_insert_with(|| {
            let block = fresh.pop_front();
            block.expect("as many blocks were taken as the record needs")
        });
        &mut block[filled..]
    }

    fn advance(&mut self, bytes: usize) {
        self.open.at += bytes as u32;
        let filled = (self.open.at - self.open.chunk) as usize;
        if filled < self.writer.pool.block_bytes() {
            return;
        }
        if let Some(block) = self.open.block.take() {
            let job = Job::Write {
                segment: self.open.segment,
                sequence: self.open.identity.sequence,
                at: self.open.chunk,
                len: filled as u32,
                block,
            };
            self.writer
                .lane_of(self.ledger, self.open.segment)
                .push(job);
            self.ledger.space.get_mut(self.open.segment).jobs += 1;
            self.open.chunk = self.open.at;
        }
    }
}
