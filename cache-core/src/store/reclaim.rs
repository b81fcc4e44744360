//! Making room: emptying log segments, evicting large objects.

use super::evicted::{Evicted, Leaving, Sink};
use super::hit::{Place, Record};
use super::owner::Owner;
use super::{KeyHash, Partition, ShardId};
use crate::evict::{Census, Keep, Source};
use crate::index::SlotId;
use crate::policy::MAX_OBSERVED;
use crate::purge::{TagSlot, Verdict};
use crate::record::{EXTENT_BYTES, Form, Header};

/// Records walked over in one turn, unless room is needed at once.
const RECORDS_PER_TURN: u32 = 512;
/// Segments emptied in one turn when room is needed at once.
const SEGMENTS_PER_TURN: u32 = 4;
/// Segments looked through again before one is picked, so that values do not grow old.
const LOOKED_THROUGH: u32 = 4;
/// Segments that may be picked and put back, because they are worth more than was known.
const MOST_PICKED: u32 = 3;
/// Large objects evicted in one turn, unless room is needed at once.
const LARGES_PER_TURN: u32 = 64;
/// What is left of the worth of an object whose class is over its budget.
const OVER_BUDGET: f32 = 1e-20;
/// Large objects compared to evict one.
const LARGES_COMPARED: usize = 16;

/// The making of room in the log, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Making {
    walk: Option<Walk>,
    /// Since the last segment was emptied: those looked through, and those picked.
    looked_through: u32,
    picked: u32,
    /// Bytes of large objects evicted since segments were last looked through on their account.
    large_bytes: u64,
    /// What the large object is worth that would go instead of a segment, if there is one.
    large_worth: Option<f32>,
}

/// A segment under the walk.
#[derive(Debug)]
struct Walk {
    segment: u32,
    /// The next record.
    offset: u32,
    aim: Aim,
}

#[derive(Debug)]
enum Aim {
    /// To know what it is worth.
    Value(Box<Census>),
    /// The same, to be emptied if it is worth as little as was thought.
    Pick(Box<Census>),
    Empty(Keep),
    /// A pinned record could not be copied.
    GiveUp,
}

/// A record on a walk.
struct Walked<'a> {
    slot: SlotId,
    hash: KeyHash,
    location: u64,
    record: Record<'a>,
}

impl Owner {
    /// Reclaims what readers have let go of and evicts what will be needed.
    pub fn turn(&mut self, partition: &Partition, sink: Sink<'_>) {
        self.space.reclaim();
        if self.policy.is_due() && self.is_evicting() {
            self.learn();
        }
        self.make_room_for_larges(partition, sink);
        self.make_room(partition, sink);
        self.return_block(partition, sink);
    }

    /// Shows what was evicted since the last turn, unless it was purged meanwhile; before quiescence
    /// is announced.
    pub fn show_displaced(&mut self, partition: &Partition, sink: Sink<'_>) {
        let purges = &self.purges;
        for leaving in self.displaced.drain(..) {
            let mut unless_purged = |object: Evicted<'_>| {
                let tags = object.tags.iter().copied();
                let tags = tags.chain(object.any_tag.then_some(TagSlot::ANY));
                if purges.judge(object.meta.stamp, tags, object.key) != Verdict::Hard {
                    sink(object);
                }
            };
            partition.show(&leaving, &mut unless_purged);
        }
    }

    pub fn laggards(&mut self) -> Vec<ShardId> {
        self.space.laggards()
    }

    /// Whether ranks are asked for, or were since they were last worked out. As long as there is room for
    /// everything nothing is spent on them.
    fn is_evicting(&self) -> bool {
        self.making.walk.is_some()
            || self.counts.evictions != self.evictions_learned
            || self.space.is_short(self.announced)
            || self.space.extents_are_out(self.announced)
    }

    /// Shows the policy a part of the residents: those of slots that follow each other.
    fn learn(&mut self) {
        self.evictions_learned = self.counts.evictions;
        let slots = self.index.slots();
        let observed = slots.min(MAX_OBSERVED);
        let first = self.learn_hand;
        self.learn_hand = (first + observed) % slots;
        let (index, metas) = (&self.index, &self.metas);
        let residents = (first..first + observed)
            .map(|number| SlotId::of(number % slots))
            .filter(|slot| index.get(*slot).is_used())
            .map(|slot| metas.get(slot));
        self.policy
            .learn(residents, slots as f32 / observed.max(1) as f32);
    }

    /// Goes on making room: a bounded part of it, or as much as it takes when it is needed at once. What
    /// is worth less for its bytes goes, a segment of the log or large objects.
    fn make_room(&mut self, partition: &Partition, sink: Sink<'_>) {
        let (mut records, mut emptied, mut larges) = (RECORDS_PER_TURN, 0, 0);
        while emptied < SEGMENTS_PER_TURN && (records > 0 || self.space.log_is_out()) {
            let walk = self.making.walk.take();
            if walk.is_none() && !self.space.is_short(self.announced) {
                return;
            }
            let walk = walk.or_else(|| self.walk_to_value());
            if walk.is_none() && self.evict_a_large(true, partition, sink) {
                larges += 1;
                match larges < LARGES_PER_TURN {
                    true => continue,
                    false => return,
                }
            }
            let Some(mut walk) = walk.or_else(|| self.walk_to_empty()) else {
                return;
            };
            if self.space.log_is_out() {
                records = u32::MAX;
            }
            if !self.go_on(&mut walk, &mut records, partition, sink) {
                self.making.walk = Some(walk);
            } else if self.end(walk) {
                emptied += 1;
            }
        }
    }

    /// Unless there is no time for it.
    fn walk_to_value(&mut self) -> Option<Walk> {
        if self.space.log_is_out() {
            return None;
        }
        let segment = self.next_to_value()?;
        let aim = Aim::Value(Box::new(Census::new()));
        Some(Walk::new(segment, aim))
    }

    /// `None`: no segment can be emptied.
    fn walk_to_empty(&mut self) -> Option<Walk> {
        let (segment, _) = self.space.least()?;
        self.making.picked += 1;
        Some(Walk::new(segment, Aim::Pick(Box::new(Census::new()))))
    }

    /// Segments of which nothing is known, then a few whose values have aged.
    fn next_to_value(&mut self) -> Option<u32> {
        let sealed = self.space.sealed();
        let unknown = sealed.unknown();
        if unknown.is_some() || self.making.looked_through >= LOOKED_THROUGH {
            return unknown;
        }
        self.making.looked_through += 1;
        sealed.stalest()
    }

    /// Walks on; says whether the end of the segment was reached.
    fn go_on(
        &mut self,
        walk: &mut Walk,
        records: &mut u32,
        partition: &Partition,
        sink: Sink<'_>,
    ) -> bool {
        let end = self.space.log().committed(walk.segment);
        while walk.offset < end {
            if *records == 0 {
                return false;
            }
            *records -= 1;
            let Some(walked) = self.next_record(walk, partition) else {
                continue;
            };
            match &mut walk.aim {
                Aim::GiveUp => return true,
                Aim::Value(census) | Aim::Pick(census) => self.count_record(census, &walked),
                Aim::Empty(keep) => {
                    let mut keep = *keep;
                    let may_go_on = self.keep_or_drop(&mut keep, &walked, partition, sink);
                    walk.aim = match may_go_on {
                        true => Aim::Empty(keep),
                        false => Aim::GiveUp,
                    };
                }
            }
        }
        true
    }

    /// A segment was walked to its end. Says whether it was emptied.
    fn end(&mut self, walk: Walk) -> bool {
        let Walk { segment, aim, .. } = walk;
        let segment_bytes = self.space.log().segment_bytes();
        match aim {
            Aim::Value(census) => {
                let (_, value) = census.judge(segment_bytes);
                self.space.sealed().set(segment, value);
            }
            Aim::Pick(census) => {
                let (keep, value) = census.judge(segment_bytes);
                self.space.sealed().set(segment, value);
                let least = self.space.least();
                let is_least = least.is_none_or(|(_, least)| least >= value)
                    && self.making.large_worth.is_none_or(|worth| worth >= value);
                if is_least || self.making.picked >= MOST_PICKED {
                    self.space.begin_emptying(segment);
                    self.making.walk = Some(Walk::new(segment, Aim::Empty(keep)));
                }
            }
            Aim::Empty(_) => {
                self.space.retire_log(segment);
                self.making = Making::default();
                return true;
            }
            Aim::GiveUp => {
                self.space.stop_emptying(segment);
                self.making = Making::default();
                return true;
            }
        }
        false
    }

    /// The next record, if an object lies there that can be found.
    fn next_record<'a>(&self, walk: &mut Walk, partition: &'a Partition) -> Option<Walked<'a>> {
        let place = Place {
            segment: walk.segment,
            offset: walk.offset,
        };
        let Some(record) = partition.record(place) else {
            // Damaged: the next sound header is looked for at every place where one can be.
            walk.offset += 1;
            return None;
        };
        walk.offset += record.header.record_len();
        if record.header.form == Form::Piece {
            return None;
        }
        let hash = self.hasher.of(record.key());
        let location = place.location(partition.log_shift);
        let slot = self.index.find(hash, location)?;
        Some(Walked {
            slot,
            hash,
            location,
            record,
        })
    }

    fn count_record(&self, census: &mut Census, walked: &Walked) {
        let Walked { slot, record, .. } = walked;
        let header = &record.header;
        match header.form {
            Form::Piece => {}
            _ if self.is_purged(record) => {}
            // A pinned one is copied whatever room that takes.
            _ if self.metas.get(*slot).is_pinned() => {}
            Form::Contiguous | Form::Extents => {
                census.add(self.rank_in_log(*slot, header), header.record_len());
            }
        }
    }

    /// What an object is worth for each byte of its record. A large one's is a small part of it: it is
    /// evicted for its extents rather than for that.
    fn rank_in_log(&self, slot: SlotId, header: &Header) -> f32 {
        let part = header.footprint() as f32 / header.record_len() as f32;
        self.rank(slot, header.meta.class, header.size()) * part
    }

    /// What an object is worth.
    pub fn rank_of(&self, slot: SlotId, record: &Record<'_>) -> f32 {
        let header = &record.header;
        match self.is_purged(record) {
            true => 0.0,
            false => self.rank(slot, header.meta.class, header.size()),
        }
    }

    fn rank(&self, slot: SlotId, class: u8, bytes: u32) -> f32 {
        let rank = self.policy.rank(self.metas.get(slot), bytes);
        match self.classes.is_over(class) {
            true => rank * OVER_BUDGET,
            false => rank,
        }
    }

    /// Copies a record on if its object is among those to be kept, else forgets the object. `false`:
    /// it must be copied and cannot.
    fn keep_or_drop(
        &mut self,
        keep: &mut Keep,
        walked: &Walked,
        partition: &Partition,
        sink: Sink<'_>,
    ) -> bool {
        let Walked { slot, record, .. } = walked;
        let header = &record.header;
        let len = header.record_len();
        let is_current = !self.is_purged(record);
        let is_pinned = is_current && self.metas.get(*slot).is_pinned();
        let is_kept = is_current && (is_pinned || keep.takes(self.rank_in_log(*slot, header), len));
        let source = match is_pinned {
            true => Source::Pins,
            false => Source::Survivors,
        };
        if is_kept && let Ok(place) = self.space.append_log(source, &[record.bytes]) {
            self.moved(walked, place, partition);
            return true;
        }
        if is_pinned {
            return false;
        }
        if let Some(leaving) = self.evict(*slot, walked.hash, partition) {
            partition.show(&leaving, sink);
        }
        true
    }

    /// Takes an object out that has to go for room, and remembers it. `None`: it was purged before.
    pub fn evict(&mut self, slot: SlotId, hash: KeyHash, partition: &Partition) -> Option<Leaving> {
        let entry = self.index.get(slot);
        let meta = self.metas.get(slot);
        self.index.clear(slot);
        if !self.forget(slot, entry, partition) {
            return None;
        }
        self.policy.evicted(hash.0, meta);
        self.counts.evictions += 1;
        Some(Leaving {
            hash,
            location: entry.location(),
            requests: meta.requests(),
        })
    }

    /// Lets the index follow a record that was copied.
    fn moved(&mut self, walked: &Walked, to: Place, partition: &Partition) {
        let location = to.location(partition.log_shift);
        let is_hot = self.index.get(walked.slot).is_hot();
        self.move_large(&walked.record.header, walked.location, location);
        self.index.set(walked.slot, walked.hash, location, is_hot);
        if self.metas.get(walked.slot).is_pinned() {
            self.pin_moved(walked.record.key(), to, partition);
        }
    }

    pub fn move_large(&mut self, header: &Header, from: u64, to: u64) {
        if header.form != Form::Extents {
            return;
        }
        let large = self.larges.get_mut(header.large as usize);
        if let Some(large) = large.filter(|large| large.location == from) {
            large.location = to;
        }
    }

    /// Evicts large objects where they have no more room, whatever the log is worth.
    fn make_room_for_larges(&mut self, partition: &Partition, sink: Sink<'_>) {
        for _ in 0..LARGES_PER_TURN {
            let is_out = self.space.extents_are_out(self.announced);
            if !is_out || !self.evict_a_large(false, partition, sink) {
                return;
            }
        }
    }

    /// Evicts a large object; only if it is worth less for its bytes than any segment of the log is known
    /// to be, where that matters. `false`: none may go.
    fn evict_a_large(&mut self, if_least: bool, partition: &Partition, sink: Sink<'_>) -> bool {
        let large = self.least_large(partition);
        self.making.large_worth = large.map(|(worth, _)| worth);
        let Some((worth, id)) = large else {
            return false;
        };
        let least = self.space.least();
        if if_least && least.is_some_and(|(_, least)| least <= worth) {
            return false;
        }
        let segment_bytes = u64::from(self.space.log().segment_bytes());
        self.making.picked = 0;
        self.making.large_bytes += self.evict_large(id, partition, sink);
        if self.making.large_bytes >= segment_bytes {
            self.making.large_bytes -= segment_bytes;
            self.making.looked_through = 0;
        }
        true
    }

    /// The large object that is worth least of those that are next in turn. `None`: all that there are
    /// may not go.
    fn least_large(&mut self, partition: &Partition) -> Option<(f32, usize)> {
        let mut least: Option<(f32, usize)> = None;
        let mut compared = 0;
        for _ in 0..self.larges.capacity() {
            self.large_hand = (self.large_hand + 1) % self.larges.capacity();
            let Some(rank) = self.rank_of_large(self.large_hand, partition) else {
                continue;
            };
            if least.is_none_or(|(other, _)| rank < other) {
                least = Some((rank, self.large_hand));
            }
            compared += 1;
            if compared == LARGES_COMPARED {
                break;
            }
        }
        least
    }

    /// Says how many bytes came free.
    pub fn evict_large(&mut self, id: usize, partition: &Partition, sink: Sink<'_>) -> u64 {
        let large = &self.larges[id];
        let (hash, location) = (large.hash, large.location);
        let bytes = large.extents.len() as u64 * u64::from(EXTENT_BYTES);
        if let Some(slot) = self.index.find(hash, location) {
            let leaving = self.evict(slot, hash, partition);
            if let Some(leaving) = leaving {
                partition.show(&leaving, sink);
            }
        }
        // Also where nothing names it any more, or only a damaged record did.
        self.drop_large(id as u32);
        bytes
    }

    /// What a large object is worth; `None`: there is none, or it must stay.
    fn rank_of_large(&self, id: usize, partition: &Partition) -> Option<f32> {
        let large = self.larges.get(id).filter(|large| !large.pinned)?;
        let place = Place::of(large.location, partition.log_shift);
        let Some(record) = partition
            .record(place)
            .filter(|record| !self.is_purged(record))
        else {
            return Some(0.0);
        };
        let slot = self.index.find(large.hash, large.location);
        let Some(slot) = slot else {
            return Some(0.0);
        };
        let bytes = record.header.size();
        let is_pinned = self.metas.get(slot).is_pinned();
        (!is_pinned).then(|| self.rank(slot, large.class, bytes))
    }
}

impl Walk {
    fn new(segment: u32, aim: Aim) -> Self {
        Self {
            segment,
            offset: 0,
            aim,
        }
    }
}
