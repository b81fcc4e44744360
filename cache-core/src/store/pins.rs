//! Pinned objects: kept in segments of their own, within a budget of their own, until unpinned.
//!
//! ```text
//!   pin, object is there ----> copied to the pinned segments: kept
//!   pin, object is not there -> awaited --- a fill of the key commits --> kept
//!   kept --- purged, damaged, or replaced by one past the budget --> awaited
//!   unpin --> an object as others are
//!   a variant of a pinned resource is stored --> kept too, as long as it is there
//! ```
//! Where more than half of a pinned segment is not pinned any more, it is emptied as others are: what
//! is pinned in it is copied to another, whatever room that takes.

use std::collections::HashMap;

use super::evicted::Leaving;
use super::hit::{Place, Record};
use super::owner::Owner;
use super::{KeyHash, Partition, StoreError};
use crate::evict::Source;
use crate::http::vary;
use crate::index::{Slot, SlotId};
use crate::policy::Meta;

/// What became of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The object is there and stays. It takes so many bytes of the budget.
    Kept { bytes: u64 },
    /// There is no such object now. The first one to be stored under the key is kept.
    Awaited,
}

/// Counters and gauges of one partition's pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinStats {
    pub pins: u32,
    /// Those of them whose object is there.
    pub kept: u32,
    /// Bytes of memory that kept objects take, and that they may take.
    pub bytes: u64,
    pub budget: u64,
    /// Pins refused, and objects stored unpinned, because the budget was used up.
    pub refused: u64,
}

#[derive(Debug)]
pub(super) struct Pins {
    /// Variants are here only as long as they are kept.
    by_key: HashMap<Box<[u8]>, Option<Kept>>,
    /// Keys of variants among them.
    variants: u32,
    most: usize,
    stats: PinStats,
}

/// A pinned object that is there.
#[derive(Clone, Copy, Debug)]
struct Kept {
    location: u64,
    /// Of its record, and of all.
    record_bytes: u32,
    bytes: u64,
}

impl Pins {
    pub fn new(budget: u64, most: u32) -> Self {
        Self {
            by_key: HashMap::new(),
            variants: 0,
            most: most as usize,
            stats: PinStats {
                budget,
                ..PinStats::default()
            },
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub fn has(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    pub fn stats(&self) -> PinStats {
        PinStats {
            pins: self.by_key.len() as u32 - self.variants,
            ..self.stats
        }
    }

    /// Variants that are kept because their resource is pinned.
    pub fn variants_of(&self, base: &[u8]) -> impl Iterator<Item = &[u8]> {
        let keys = self.by_key.keys().map(|key| &**key);
        keys.filter(move |key| vary::is_variant(key) && vary::base(key) == base)
    }

    /// Every pinned key, and the bytes of its object where that is there; kept variants after that.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<u64>)> {
        let bytes = |kept: &Option<Kept>| kept.map(|kept| kept.bytes);
        self.by_key
            .iter()
            .map(move |(key, kept)| (&**key, bytes(kept)))
    }

    /// The pinned object of a key, as one that others may see.
    pub fn there(&self, hash: KeyHash, key: &[u8]) -> Option<Leaving> {
        let location = self.kept(key)?.location;
        Some(Leaving {
            hash,
            location,
            requests: 1,
        })
    }

    fn kept(&self, key: &[u8]) -> Option<Kept> {
        self.by_key.get(key).copied().flatten()
    }

    /// Whether an object of the key is to be kept when it is stored. A variant past the number of pins
    /// is not, and counted.
    fn awaits(&mut self, key: &[u8]) -> bool {
        match self.by_key.get(key) {
            Some(kept) => kept.is_none(),
            None if !vary::is_variant(key) || !self.by_key.contains_key(vary::base(key)) => false,
            None => {
                let has_room = self.by_key.len() < self.most;
                self.stats.refused += u64::from(!has_room);
                has_room
            }
        }
    }

    fn check_count(&self, key: &[u8]) -> Result<(), StoreError> {
        match self.by_key.len() >= self.most && !self.by_key.contains_key(key) {
            true => Err(StoreError::TooManyPins {
                max: self.most as u32,
            }),
            false => Ok(()),
        }
    }

    fn check_budget(&mut self, needed: u64) -> Result<(), StoreError> {
        let PinStats { bytes, budget, .. } = self.stats;
        if bytes + needed <= budget {
            return Ok(());
        }
        self.stats.refused += 1;
        Err(StoreError::PinBudget {
            budget,
            used: bytes,
            needed,
        })
    }

    fn keep(&mut self, key: &[u8], kept: Kept) {
        self.stats.kept += 1;
        self.stats.bytes += kept.bytes;
        let is_new = self.by_key.insert(key.into(), Some(kept)).is_none();
        self.variants += u32::from(is_new && vary::is_variant(key));
    }

    fn moved(&mut self, key: &[u8], location: u64) -> Option<Kept> {
        let kept = self.by_key.get_mut(key)?.as_mut()?;
        let before = *kept;
        kept.location = location;
        Some(before)
    }

    /// The object at a location is gone: another one of its key is awaited.
    fn lost(&mut self, location: u64) -> Option<Kept> {
        let is_its = |kept: &Option<Kept>| kept.is_some_and(|kept| kept.location == location);
        let (key, kept) = self.by_key.iter_mut().find(|(_, kept)| is_its(kept))?;
        let lost = kept.take()?;
        if vary::is_variant(key) {
            // Another one is kept by the pin of its resource.
            let key = key.clone();
            self.by_key.remove(&key);
            self.variants -= 1;
        }
        self.stats.kept -= 1;
        self.stats.bytes -= lost.bytes;
        Some(lost)
    }
}

impl Owner {
    pub fn pin(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        partition: &Partition,
    ) -> Result<Pinned, StoreError> {
        if let Some(Kept { bytes, .. }) = self.pins.kept(key) {
            return Ok(Pinned::Kept { bytes });
        }
        self.pins.check_count(key)?;
        match self.find_current(hash, key, partition) {
            Some(found) => self.keep(hash, key, found, partition),
            None => {
                self.pins.by_key.insert(key.into(), None);
                Ok(Pinned::Awaited)
            }
        }
    }

    /// Says whether the key was pinned.
    pub fn unpin(&mut self, hash: KeyHash, key: &[u8], partition: &Partition) -> bool {
        if let Some(Kept {
            location, bytes, ..
        }) = self.pins.kept(key)
        {
            self.pin_lost(location, partition);
            if let Some(slot) = self.index.find(hash, location) {
                let size = bytes.try_into().unwrap_or(u32::MAX);
                let meta = self.policy.admit(hash.0, size);
                self.metas.set(slot, meta);
            }
        }
        self.pins.by_key.remove(key).is_some()
    }

    /// An object was stored. Keeps it if its key is pinned and the budget allows it.
    pub fn keep_if_pinned(&mut self, hash: KeyHash, key: &[u8], partition: &Partition) {
        if self.pins.awaits(key)
            && let Some(found) = self.find_current(hash, key, partition)
        {
            // Past the budget it is stored as others are, which is counted.
            let _ = self.keep(hash, key, found, partition);
        }
    }

    /// The object of a key unless it was purged.
    fn find_current<'a>(
        &self,
        hash: KeyHash,
        key: &[u8],
        partition: &'a Partition,
    ) -> Option<(SlotId, Slot, Record<'a>)> {
        let found = partition.find(hash, key)?;
        (!self.is_purged(&found.record)).then_some((found.id, found.slot, found.record))
    }

    fn keep(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        (slot, entry, record): (SlotId, Slot, Record<'_>),
        partition: &Partition,
    ) -> Result<Pinned, StoreError> {
        let header = &record.header;
        let bytes = header.footprint();
        self.pins.check_budget(bytes)?;
        let place = self.space.append_log(Source::Pins, &[record.bytes])?;
        let location = place.location(partition.log_shift);
        let record_bytes = header.record_len();
        self.space.pinned(place.segment, record_bytes);
        self.move_large(header, entry.location(), location);
        self.metas.set(slot, Meta::PINNED);
        self.index.set(slot, hash, location, true);
        let kept = Kept {
            location,
            record_bytes,
            bytes,
        };
        self.pins.keep(key, kept);
        Ok(Pinned::Kept { bytes })
    }

    /// A pinned record was copied from one segment to another.
    pub fn pin_moved(&mut self, key: &[u8], to: Place, partition: &Partition) {
        let shift = partition.log_shift;
        if let Some(before) = self.pins.moved(key, to.location(shift)) {
            let from = Place::of(before.location, shift).segment;
            self.space.unpinned(from, before.record_bytes);
            self.space.pinned(to.segment, before.record_bytes);
        }
    }

    /// The pinned object at a location is none any more.
    pub fn pin_lost(&mut self, location: u64, partition: &Partition) {
        if let Some(lost) = self.pins.lost(location) {
            let segment = Place::of(location, partition.log_shift).segment;
            self.space.unpinned(segment, lost.record_bytes);
        }
    }

    /// All pinned objects are gone.
    pub fn pins_lost(&mut self, partition: &Partition) {
        let kept = self.pins.by_key.values().flatten();
        let locations: Vec<u64> = kept.map(|kept| kept.location).collect();
        for location in locations {
            self.pin_lost(location, partition);
        }
    }
}
