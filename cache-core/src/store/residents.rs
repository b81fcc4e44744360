//! Looking over what is there: what is worth keeping when the node stops, and the variants of a
//! resource.

use super::evicted::{Evicted, Leaving};
use super::hit::{Place, Record};
use super::owner::Owner;
use super::{KeyHash, Partition, Store};
use crate::http::vary;
use crate::index::{Slot, SlotId};

/// Where an object was when it was listed.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    slot: u32,
    /// What it was worth to memory.
    rank: f32,
}

impl Store {
    /// The objects of this shard's partition, those worth least first. Looks at every slot, about 0.1 us
    /// each, and needs 8 bytes of memory for each object.
    pub fn residents(&mut self) -> Vec<Resident> {
        let (owner, partition) = self.own();
        let mut all: Vec<Resident> = owner
            .slots()
            .filter_map(|(slot, entry)| {
                let (record, _) = owner.current(entry, partition)?;
                Some(Resident {
                    slot: u32::try_from(slot.number()).ok()?,
                    rank: owner.rank_of(slot, &record),
                })
            })
            .collect();
        all.sort_unstable_by(|one, other| one.rank.total_cmp(&other.rank));
        all
    }

    /// Shows the object that is where another was listed, if there is one that can be served.
    pub fn show_resident(&self, resident: Resident, mut sink: impl FnMut(Evicted<'_>)) {
        let partition = &self.partitions[usize::from(self.shard)];
        let slot = SlotId::of(resident.slot as usize);
        if let Some(there) = self.owner.resident(slot, partition) {
            partition.show(&there, &mut sink);
        }
    }

    /// Keeps the variants of a pinned resource that are there, as its pin does with those that come
    /// later, as far as the budget goes. Looks at every slot, about 1 ns each.
    pub fn keep_variants(&mut self, base: &[u8]) {
        let hash = self.hash(base);
        if self.check_owner(hash).is_ok() {
            let (owner, partition) = self.own();
            for (hash, key) in owner.variants_of(hash, base, partition) {
                owner.keep_if_pinned(hash, &key, partition);
            }
        }
    }
}

impl Owner {
    fn slots(&self) -> impl Iterator<Item = (SlotId, Slot)> {
        let slots = (0..self.index.slots()).map(SlotId::of);
        let entries = slots.map(|slot| (slot, self.index.get(slot)));
        entries.filter(|(_, entry)| entry.is_used())
    }

    /// What a slot names, unless it was purged.
    fn current<'a>(&self, entry: Slot, partition: &'a Partition) -> Option<(Record<'a>, KeyHash)> {
        let found = self.record_of_slot(entry, partition)?;
        (!self.is_purged(&found.0)).then_some(found)
    }

    fn resident(&self, slot: SlotId, partition: &Partition) -> Option<Leaving> {
        let entry = self.index.get(slot);
        let (_, hash) = entry
            .is_used()
            .then(|| self.current(entry, partition))
            .flatten()?;
        let meta = self.metas.get(slot);
        Some(Leaving {
            hash,
            location: entry.location(),
            requests: if meta.is_pinned() { 1 } else { meta.requests() },
        })
    }

    /// The upper half of their hashes is that of the resource, and with it what slots know of them.
    fn variants_of(
        &self,
        resource: KeyHash,
        base: &[u8],
        partition: &Partition,
    ) -> Vec<(KeyHash, Box<[u8]>)> {
        let alike = self.slots().filter(|(_, entry)| entry.is_of(resource));
        alike
            .filter_map(|(_, entry)| {
                let place = Place::of(entry.location(), partition.log_shift);
                let key = partition.record(place)?.key();
                let is_its = vary::is_variant(key) && vary::base(key) == base;
                let (_, hash) = self.current(entry, partition).filter(|_| is_its)?;
                Some((hash, key.into()))
            })
            .collect()
    }
}
