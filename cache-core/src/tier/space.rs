//! A shard's segments: which are free, what each holds, and which goes next.
//!
//! ```text
//!  free --begin--> open --seal--> sealing --footer on disk--> sealed --reclaim--> free
//!                    '----------------'--- a write failed ------------------------^
//! ```
//! *What goes.* A segment of which nothing lives any more; else, of the oldest quarter, the one whose bytes
//! were least useful lately. Usefulness is bytes asked for, halved each time half of all segments were
//! written. Nothing is copied: what is worth keeping is in memory when it is asked for, and is offered
//! again when it leaves. Never taken: segments with pinned objects, with reads under way, with
//! writes on their way.
//!
//! *Reads and reuse.* A segment with reads under way is not reused, so that an answer is not cut
//! off by eviction; were it reused all the same (a failed write frees it), the checksums of what is
//! read begin with the segment's life and do not check.

use std::collections::VecDeque;

use super::format::Geometry;
use super::index::{Entry, LIVES};
use super::record::UNIT;
use super::segment::{Identity, Kind};
use crate::io::ShardId;

/// Share of the sealed segments, oldest first, from which the least useful is chosen.
const OLDEST: usize = 4;
/// Numbers left out at a start.
const LEAP: u64 = 1 << 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Open,
    Sealing,
    Sealed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub state: State,
    /// Who lives here; of a free one, who lived here last.
    pub identity: Identity,
    /// How often it was begun, for [`Entry::life`].
    pub life: u8,
    pub kind: Kind,
    /// Objects that the index names, and of these the pinned ones.
    pub objects: u32,
    pub pinned: u32,
    /// What they take, in units of 64 bytes (as the index rounds them).
    pub units: u64,
    /// Bytes from the segment's begin that can be read from the device.
    pub written: u32,
    /// Fetches that read here.
    pub readers: u32,
    /// Writes queued or under way.
    pub jobs: u32,
    useful: f32,
    /// The clock when `useful` was decayed last.
    decayed: u64,
}

#[derive(Debug)]
pub(super) struct Space {
    segments: Vec<Segment>,
    free: VecDeque<u32>,
    /// A segment has `1 << unit_bits` units.
    unit_bits: u32,
    /// Of the segment and the record that came last.
    sequence: u64,
    serial: u64,
    /// Segments begun since the start.
    clock: u64,
}

/// What a reclaimed segment held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub objects: u64,
    pub units: u64,
}

impl Space {
    /// All free.
    pub fn new(geometry: &Geometry, shard: ShardId) -> Self {
        let nobody = |segment| Segment {
            state: State::Free,
            identity: Identity::new(geometry.set(), 0, 0, geometry.number(shard, segment)),
            life: 0,
            kind: Kind::Plain,
            objects: 0,
            pinned: 0,
            units: 0,
            written: 0,
            readers: 0,
            jobs: 0,
            useful: 0.0,
            decayed: 0,
        };
        Self {
            segments: (0..geometry.segments()).map(nobody).collect(),
            free: (0..geometry.segments()).collect(),
            // A power of two, as a superblock says.
            unit_bits: (geometry.segment_bytes() / UNIT).ilog2(),
            sequence: 0,
            serial: 0,
            clock: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.segments.len() as u32
    }

    pub fn get(&self, segment: u32) -> &Segment {
        &self.segments[segment as usize]
    }

    pub fn get_mut(&mut self, segment: u32) -> &mut Segment {
        &mut self.segments[segment as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Whether the entry's segment is still in the life that the entry names.
    pub fn is_alive(&self, entry: Entry) -> bool {
        let segment = (entry.location >> self.unit_bits) as usize;
        let alive = |segment: &Segment| segment.state != State::Free && segment.life == entry.life;
        self.segments.get(segment).is_some_and(alive)
    }

    /// The segment of an entry, and the byte where its record begins there.
    pub fn locate(&self, entry: Entry) -> (u32, u32) {
        let segment = (entry.location >> self.unit_bits) as u32;
        let unit = (entry.location & ((1 << self.unit_bits) - 1)) as u32;
        (segment, unit * UNIT)
    }

    /// An entry for a record of `units` at a byte of a segment that lives.
    pub fn entry(&self, segment: u32, at: u32, units: u32, version: u16, pinned: bool) -> Entry {
        Entry {
            location: u64::from(segment) << self.unit_bits | u64::from(at / UNIT),
            units,
            life: self.get(segment).life,
            pinned,
            version,
        }
    }

    /// Counts an object that the index names from now on.
    pub fn add(&mut self, entry: Entry) {
        let (segment, _) = self.locate(entry);
        let segment = self.get_mut(segment);
        segment.objects += 1;
        segment.units += u64::from(entry.units);
        segment.pinned += u32::from(entry.pinned);
    }

    /// Counts one that it names no more.
    pub fn sub(&mut self, entry: Entry) {
        let (segment, _) = self.locate(entry);
        let segment = self.get_mut(segment);
        // An entry whose life came round again was never counted.
        segment.objects = segment.objects.saturating_sub(1);
        segment.units = segment.units.saturating_sub(u64::from(entry.units));
        segment.pinned = segment.pinned.saturating_sub(u32::from(entry.pinned));
    }

    pub fn note_use(&mut self, entry: Entry) {
        let (segment, _) = self.locate(entry);
        let (clock, half) = (self.clock, self.half_life());
        let segment = self.get_mut(segment);
        segment.useful = segment.useful_at(clock, half) + entry.units as f32;
        segment.decayed = clock;
    }

    /// Segments that pinned objects hold.
    pub fn pinned_segments(&self) -> u32 {
        let held =
            |segment: &&Segment| segment.state != State::Free && segment.kind == Kind::Pinned;
        self.segments.iter().filter(held).count() as u32
    }

    /// Bytes of the segments that are not free.
    pub fn held_bytes(&self) -> u64 {
        ((self.segments.len() - self.free.len()) as u64 * u64::from(UNIT)) << self.unit_bits
    }

    /// A free segment that nobody reads.
    pub fn take_free(&mut self) -> Option<u32> {
        let readable = |segment: &u32| self.segments[*segment as usize].readers == 0;
        let at = self.free.iter().position(readable)?;
        self.free.remove(at)
    }

    /// The segment that is worth least, if any may be taken.
    pub fn victim(&self) -> Option<u32> {
        let mut candidates: Vec<u32> = (0..self.len())
            .filter(|segment| self.get(*segment).may_go())
            .collect();
        let empty = candidates
            .iter()
            .find(|segment| self.get(**segment).objects == 0);
        if let Some(empty) = empty {
            return Some(*empty);
        }
        candidates.sort_unstable_by_key(|segment| self.get(*segment).identity.sequence);
        let oldest = candidates.len().div_ceil(OLDEST);
        let (clock, half) = (self.clock, self.half_life());
        let worth = |segment: &u32| self.get(*segment).useful_at(clock, half);
        candidates[..oldest]
            .iter()
            .min_by(|one, other| worth(one).total_cmp(&worth(other)))
            .copied()
    }

    /// Frees a segment: whatever entry names it is dead.
    pub fn release(&mut self, number: u32) -> Lost {
        let segment = self.get_mut(number);
        let lost = Lost {
            objects: u64::from(segment.objects),
            units: segment.units,
        };
        segment.state = State::Free;
        (segment.objects, segment.pinned, segment.units) = (0, 0, 0);
        (segment.written, segment.jobs) = (0, 0);
        self.free.push_back(number);
        lost
    }

    /// Gives a segment taken by [`Self::take_free`] its next life.
    pub fn begin(&mut self, number: u32, geometry: &Geometry, life: u64, kind: Kind) -> Identity {
        self.sequence += 1;
        self.clock += 1;
        let (sequence, clock) = (self.sequence, self.clock);
        let segment = self.get_mut(number);
        segment.identity = Identity::new(geometry.set(), sequence, life, segment.identity.number);
        segment.life = (segment.life + 1) % LIVES;
        segment.state = State::Open;
        segment.kind = kind;
        segment.written = 0;
        (segment.useful, segment.decayed) = (0.0, clock);
        segment.identity
    }

    /// The number of the next record.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A record of that number was found.
    pub fn saw_serial(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }

    /// Leaves numbers out, so that what was written last and was not found (it did not reach the
    /// device, or could not be read) is older than all that is written from now on.
    pub fn skip_numbers(&mut self) {
        self.sequence = (self.sequence / LEAP + 1) * LEAP;
        self.serial = (self.serial / LEAP + 1) * LEAP;
    }

    /// Takes a segment as it was found on the device. [`Self::found_all`] is to be called after the last.
    pub fn restore(&mut self, number: u32, (identity, kind): (Identity, Kind), segment_bytes: u32) {
        self.sequence = self.sequence.max(identity.sequence);
        let segment = self.get_mut(number);
        segment.identity = identity;
        segment.kind = kind;
        segment.state = State::Sealed;
        segment.written = segment_bytes;
    }

    /// What was not found on the device is free.
    pub fn found_all(&mut self) {
        let is_free = |number: &u32| self.get(*number).state == State::Free;
        self.free = (0..self.len()).filter(is_free).collect();
    }

    fn half_life(&self) -> f32 {
        (self.segments.len() as f32 / 2.0).max(1.0)
    }
}

impl Segment {
    fn may_go(&self) -> bool {
        self.state == State::Sealed && self.readers == 0 && self.jobs == 0 && self.pinned == 0
    }

    fn useful_at(&self, clock: u64, half_life: f32) -> f32 {
        let age = clock.saturating_sub(self.decayed) as f32;
        self.useful * (-age / half_life).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::format::{SetId, SetPlan, Superblock};

    fn geometry(segments: u64) -> Geometry {
        let plan = SetPlan {
            id: SetId([1; 16]),
            shards: 1,
            segment_bytes: 1 << 20,
            hash_seed: 1,
            tag_slots: 16,
        };
        let bytes = (10 + segments) << 20;
        Geometry::assemble(&Superblock::plan(&[bytes], &plan).unwrap()).unwrap()
    }

    fn full(segments: u64) -> (Space, Vec<Entry>) {
        let geometry = geometry(segments);
        let mut space = Space::new(&geometry, 0);
        let mut entries = Vec::new();
        while let Some(segment) = space.take_free() {
            space.begin(segment, &geometry, 9, Kind::Plain);
            let entry = space.entry(segment, 4096, 10, 0, false);
            space.add(entry);
            space.get_mut(segment).state = State::Sealed;
            entries.push(entry);
        }
        (space, entries)
    }

    #[test]
    fn the_least_useful_of_the_oldest_goes_first() {
        let (mut space, entries) = full(8);
        assert_eq!(space.victim(), Some(0));
        space.note_use(entries[0]);
        assert_eq!(space.victim(), Some(1));
        space.note_use(entries[1]);
        space.note_use(entries[1]);
        assert_eq!(space.victim(), Some(0));
    }

    #[test]
    fn an_empty_segment_goes_before_any_other() {
        let (mut space, entries) = full(8);
        space.sub(entries[6]);
        assert_eq!(space.victim(), Some(6));
    }

    #[test]
    fn segments_in_use_and_pinned_ones_stay() {
        let (mut space, _) = full(4);
        space.get_mut(0).readers = 1;
        space.get_mut(1).pinned = 1;
        space.get_mut(2).jobs = 1;
        assert_eq!(space.victim(), Some(3));
        space.get_mut(3).state = State::Sealing;
        assert_eq!(space.victim(), None);
    }

    #[test]
    fn entries_of_a_freed_segment_are_dead_also_in_its_next_life() {
        let (mut space, entries) = full(4);
        assert!(space.is_alive(entries[2]));
        let lost = space.release(2);
        assert_eq!(
            lost,
            Lost {
                objects: 1,
                units: 10
            }
        );
        assert!(!space.is_alive(entries[2]));
        assert_eq!(space.take_free(), Some(2));
        space.begin(2, &geometry(4), 9, Kind::Pinned);
        assert!(!space.is_alive(entries[2]));
        assert_eq!(space.pinned_segments(), 1);
    }

    #[test]
    fn a_free_segment_that_is_read_waits() {
        let (mut space, _) = full(4);
        space.release(1);
        space.get_mut(1).readers = 1;
        assert_eq!(space.take_free(), None);
        space.get_mut(1).readers = 0;
        assert_eq!(space.take_free(), Some(1));
    }
}
