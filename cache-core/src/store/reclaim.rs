//! Making room: emptying log segments, evicting large objects.

use super::hit::Place;
use super::owner::Owner;
use super::{Partition, ShardId, hash_key};
use crate::evict::{Age, Threshold};
use crate::record::{ALIGN, Form, Header};

/// Log bytes walked in one turn, unless room is needed at once.
const WALK_PER_TURN: u32 = 256 << 10;
/// Large objects looked at in one turn.
const LARGES_PER_TURN: usize = 64;
/// Rounds after which every frequency has aged to zero.
const AGEING_ROUNDS: usize = 5;

/// A segment whose objects are being copied on or dropped.
#[derive(Debug)]
pub(super) struct Emptying {
    age: Age,
    segment: u32,
    /// The next record.
    offset: u32,
    copied: u32,
}

impl Owner {
    /// Reclaims what readers have let go of and evicts what will be needed.
    pub fn turn(&mut self, partition: &Partition) {
        self.space.reclaim();
        if self.emptying.is_none() && self.space.log_is_short() {
            self.emptying = self.space.pick().map(Emptying::new);
        }
        if let Some(emptying) = self.emptying.take() {
            self.empty(emptying, partition);
        }
        self.evict_larges(0, LARGES_PER_TURN, partition);
    }

    pub fn laggards(&mut self) -> Vec<ShardId> {
        self.space.laggards()
    }

    /// Evicts large objects until `wanted` extents beside the reserve are free or come free.
    pub fn evict_larges(&mut self, wanted: u32, visits: usize, partition: &Partition) {
        let rounds = self.larges.capacity().saturating_mul(AGEING_ROUNDS);
        let mut visits = visits.min(rounds);
        while visits > 0 && self.space.extents_are_short(wanted) {
            visits -= 1;
            self.large_hand = (self.large_hand + 1) % self.larges.capacity();
            self.visit_large(self.large_hand, partition);
        }
    }

    /// Evicts or ages the large object at the clock's hand.
    fn visit_large(&mut self, id: usize, partition: &Partition) {
        let Some(large) = self.larges.get(id).filter(|large| !large.pinned) else {
            return;
        };
        let (location, epoch) = (large.location, large.epoch);
        let Some(slot) = self.index.find(large.hash, location) else {
            return self.drop_large(id as u32);
        };
        if self.frequencies.get(slot) > 0 {
            let is_hot = self.frequencies.age(slot);
            return self.index.set_hot(slot, is_hot);
        }
        let entry = self.index.get(slot);
        self.index.clear(slot);
        self.forget(slot, entry, partition);
        // Also where a damaged record no longer names it.
        self.drop_large(id as u32);
        self.counts.evictions += u64::from(epoch == self.current_epoch());
    }

    /// Goes on with a segment, as far as one turn may.
    fn empty(&mut self, mut emptying: Emptying, partition: &Partition) {
        let end = self.space.log().committed(emptying.segment);
        let walk = match self.space.log_is_out() {
            true => end,
            false => WALK_PER_TURN,
        };
        let stop = end.min(emptying.offset.saturating_add(walk));
        while emptying.offset < stop {
            self.empty_record(&mut emptying, partition);
        }
        if emptying.offset < end {
            self.emptying = Some(emptying);
            return;
        }
        self.space.retire_log(emptying.segment);
        let budget = Threshold::budget(self.space.log().segment_bytes());
        self.threshold(emptying.age).adapt(emptying.copied, budget);
    }

    /// Copies the next record on if its object is asked for, else forgets the object.
    fn empty_record(&mut self, emptying: &mut Emptying, partition: &Partition) {
        let place = Place {
            segment: emptying.segment,
            offset: emptying.offset,
        };
        let Some(header) = partition.header(place) else {
            // Damaged: the next sound header is looked for at every place where one can be.
            emptying.offset += ALIGN;
            return;
        };
        let len = header.record_len();
        emptying.offset = emptying.offset.saturating_add(len.next_multiple_of(ALIGN));
        if header.form == Form::Piece {
            return;
        }
        let record = partition.log.read(place.segment, place.offset, len);
        if let Some(record) = record {
            self.keep_or_drop(emptying, place, &header, record, partition);
        }
    }

    fn keep_or_drop(
        &mut self,
        emptying: &mut Emptying,
        place: Place,
        header: &Header,
        record: &[u8],
        partition: &Partition,
    ) {
        let key = &record[ALIGN as usize..header.head_start() as usize];
        let hash = hash_key(&self.hasher, key);
        let location = place.location(partition.log_shift);
        let Some(slot) = self.index.find(hash, location) else {
            return;
        };
        let frequency = self.frequencies.get(slot);
        let is_wanted = match header.form {
            // A large object is evicted for its extents, not for its record.
            Form::Extents => true,
            Form::Contiguous | Form::Piece => self.threshold(emptying.age).admits(frequency),
        };
        let copied = emptying.copied + header.record_len().next_multiple_of(ALIGN);
        let has_room = copied <= Threshold::budget(self.space.log().segment_bytes());
        let is_current = header.epoch == self.current_epoch();
        if is_wanted
            && is_current
            && has_room
            && let Ok(new) = self.space.append_log(Age::Old, &[record])
        {
            emptying.copied = copied;
            let is_hot = match header.form {
                Form::Extents => self.frequencies.is_hot(slot),
                Form::Contiguous | Form::Piece => self.frequencies.age(slot),
            };
            let moved = new.location(partition.log_shift);
            self.move_large(header, location, moved);
            self.index.set(slot, hash, moved, is_hot);
            return;
        }
        let entry = self.index.get(slot);
        self.index.clear(slot);
        self.forget(slot, entry, partition);
        self.counts.evictions += u64::from(is_current);
    }

    fn move_large(&mut self, header: &Header, from: u64, to: u64) {
        if header.form != Form::Extents {
            return;
        }
        let large = self.larges.get_mut(header.large as usize);
        if let Some(large) = large.filter(|large| large.location == from) {
            large.location = to;
        }
    }

    fn threshold(&mut self, age: Age) -> &mut Threshold {
        match age {
            Age::Young => &mut self.young_threshold,
            Age::Old => &mut self.old_threshold,
        }
    }
}

impl Emptying {
    fn new((age, segment): (Age, u32)) -> Self {
        Self {
            age,
            segment,
            offset: 0,
            copied: 0,
        }
    }
}
