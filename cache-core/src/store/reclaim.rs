//! Making room: emptying log segments, evicting large objects.

use super::hit::Place;
use super::owner::Owner;
use super::{KeyHash, Partition, ShardId, hash_key};
use crate::evict::{Age, Census, survivor_budget};
use crate::index::SlotId;
use crate::record::{ALIGN, Form, Header};

/// Log bytes walked in one turn, unless room is needed at once.
const WALK_PER_TURN: u32 = 256 << 10;
/// Segments walked in one turn when room is needed at once.
const SEGMENTS_PER_TURN: usize = 4;
/// Large objects looked at in one turn.
const LARGES_PER_TURN: usize = 64;
/// Rounds after which every frequency has aged to zero.
const AGEING_ROUNDS: usize = 5;

/// A segment that is walked twice: to see what is asked for, and to copy that on.
#[derive(Debug)]
pub(super) struct Emptying {
    age: Age,
    segment: u32,
    /// The next record.
    offset: u32,
    census: Census,
    /// On the second walk: the least frequency that survives.
    threshold: Option<u8>,
    /// Bytes that may still be copied.
    budget: u32,
}

/// A record on a walk.
struct Walked<'a> {
    slot: SlotId,
    hash: KeyHash,
    location: u64,
    header: Header,
    bytes: &'a [u8],
}

impl Owner {
    /// Reclaims what readers have let go of and evicts what will be needed.
    pub fn turn(&mut self, partition: &Partition) {
        self.space.reclaim();
        self.make_log_room(partition);
        self.evict_larges(0, LARGES_PER_TURN, partition);
    }

    /// Empties part of a segment, or as many as it takes when room is needed at once.
    fn make_log_room(&mut self, partition: &Partition) {
        let budget = survivor_budget(self.space.log().segment_bytes());
        for _ in 0..SEGMENTS_PER_TURN {
            if self.emptying.is_none() && self.space.log_is_short() {
                let picked = self.space.pick();
                self.emptying = picked.map(|(age, segment)| Emptying::new(age, segment, budget));
            }
            let Some(emptying) = self.emptying.take() else {
                return;
            };
            self.empty(emptying, partition);
            if !self.space.log_is_out() {
                return;
            }
        }
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

    /// Goes on with a segment: as far as one turn may, or to its end when room is needed at once.
    fn empty(&mut self, mut emptying: Emptying, partition: &Partition) {
        let end = self.space.log().committed(emptying.segment);
        loop {
            let walk = match self.space.log_is_out() {
                true => end,
                false => WALK_PER_TURN,
            };
            let stop = end.min(emptying.offset.saturating_add(walk));
            while emptying.offset < stop {
                self.walk_record(&mut emptying, partition);
            }
            if emptying.offset < end {
                self.emptying = Some(emptying);
                return;
            }
            if emptying.threshold.is_some() {
                return self.space.retire_log(emptying.segment);
            }
            if emptying.age == Age::Young && emptying.census.exceeds(emptying.budget) {
                return self.space.put_back(emptying.segment);
            }
            emptying.threshold = Some(emptying.census.threshold(emptying.budget));
            emptying.offset = 0;
        }
    }

    /// Looks at the next record, if an object lies there that can be found.
    fn walk_record(&mut self, emptying: &mut Emptying, partition: &Partition) {
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
        let bytes = partition.log.read(place.segment, place.offset, len);
        let (Some(bytes), Some(key)) = (bytes, partition.key(place, &header)) else {
            return;
        };
        let hash = hash_key(&self.hasher, key);
        let location = place.location(partition.log_shift);
        let Some(slot) = self.index.find(hash, location) else {
            return;
        };
        let walked = Walked {
            slot,
            hash,
            location,
            header,
            bytes,
        };
        match emptying.threshold {
            None => self.count_record(&mut emptying.census, &walked),
            Some(threshold) => {
                self.keep_or_drop(threshold, &mut emptying.budget, walked, partition);
            }
        }
    }

    fn count_record(&self, census: &mut Census, walked: &Walked) {
        let len = walked.header.record_len().next_multiple_of(ALIGN);
        match walked.header.form {
            // A large object is evicted for its extents, not for its record.
            Form::Extents => census.add_wanted(len),
            Form::Contiguous => census.add(self.frequencies.get(walked.slot), len),
            Form::Piece => {}
        }
    }

    /// Copies a record on if its object is asked for, else forgets the object.
    fn keep_or_drop(
        &mut self,
        threshold: u8,
        budget: &mut u32,
        walked: Walked,
        partition: &Partition,
    ) {
        let Walked { slot, header, .. } = walked;
        let is_large = header.form == Form::Extents;
        let is_wanted = is_large || self.frequencies.get(slot) >= threshold;
        let is_current = header.epoch == self.current_epoch();
        let rest = budget.checked_sub(header.record_len().next_multiple_of(ALIGN));
        if is_wanted
            && is_current
            && let Some(rest) = rest
            && let Ok(place) = self.space.append_log(Age::Old, &[walked.bytes])
        {
            *budget = rest;
            return self.moved(&walked, place.location(partition.log_shift));
        }
        let entry = self.index.get(slot);
        self.index.clear(slot);
        self.forget(slot, entry, partition);
        self.counts.evictions += u64::from(is_current);
    }

    /// Lets the index follow a record that was copied.
    fn moved(&mut self, walked: &Walked, location: u64) {
        let is_hot = match walked.header.form {
            Form::Extents => self.frequencies.is_hot(walked.slot),
            Form::Contiguous | Form::Piece => self.frequencies.age(walked.slot),
        };
        self.move_large(&walked.header, walked.location, location);
        self.index.set(walked.slot, walked.hash, location, is_hot);
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
}

impl Emptying {
    fn new(age: Age, segment: u32, budget: u32) -> Self {
        Self {
            age,
            segment,
            offset: 0,
            census: Census::default(),
            threshold: None,
            budget,
        }
    }
}
