use std::{
    collections::VecDeque,
    ops::{Bound, Index, RangeBounds},
};

use super::spaces::SentPacket;

/// Slots kept by an empty [`SentPackets`]
const MAX_IDLE_CAPACITY: usize = 32;

/// Packets which have been sent but are neither acknowledged nor lost, by packet number
///
/// Packet numbers are handed out in order, at most one of them is skipped at a time, and loss
/// detection forgets whatever is a few packets older than the largest acknowledged one. What is in
/// flight is hence a nearly dense window of numbers, for which a ring of slots is both smaller and
/// much cheaper to maintain than a tree.
#[derive(Debug, Default)]
pub(super) struct SentPackets {
    /// Number of the packet in the first slot, which is occupied unless there are no slots
    first: u64,
    slots: VecDeque<Option<SentPacket>>,
}

impl SentPackets {
    /// Add a packet numbered higher than any before
    pub(super) fn insert(&mut self, number: u64, packet: SentPacket) {
        if self.slots.is_empty() {
            self.first = number;
        }
        let index = self.index(number).expect("packet numbers never decrease");
        debug_assert!(index >= self.slots.len(), "packet numbers never decrease");
        while self.slots.len() < index {
            self.slots.push_back(None);
        }
        self.slots.push_back(Some(packet));
    }

    /// Number of the oldest packet
    pub(super) fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    pub(super) fn get(&self, number: u64) -> Option<&SentPacket> {
        self.slots.get(self.index(number)?)?.as_ref()
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<SentPacket> {
        let index = self.index(number)?;
        let packet = self.slots.get_mut(index)?.take()?;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > MAX_IDLE_CAPACITY {
            self.slots = VecDeque::new();
        }
        Some(packet)
    }

    /// Give back what room there is beyond the packets in flight
    pub(super) fn shrink_to_fit(&mut self) {
        self.slots.shrink_to_fit();
    }

    /// Packets with numbers in `numbers`, in ascending order
    pub(super) fn range(
        &self,
        numbers: impl RangeBounds<u64>,
    ) -> impl Iterator<Item = (u64, &SentPacket)> {
        let start = match numbers.start_bound() {
            Bound::Included(&x) => x,
            Bound::Excluded(&x) => x.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match numbers.end_bound() {
            Bound::Included(&x) => x.saturating_add(1),
            Bound::Excluded(&x) => x,
            Bound::Unbounded => u64::MAX,
        };
        let slot = |number: u64| {
            let index = number.saturating_sub(self.first);
            usize::try_from(index).map_or(self.slots.len(), |x| x.min(self.slots.len()))
        };
        let start = slot(start);
        let slots = start..slot(end).max(start);
        let first = self.first + start as u64;
        self.slots
            .range(slots)
            .enumerate()
            .filter_map(move |(i, packet)| Some((first + i as u64, packet.as_ref()?)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &SentPacket> {
        self.slots.iter().flatten()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut SentPacket> {
        self.slots.iter_mut().flatten()
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = SentPacket> {
        self.slots.into_iter().flatten()
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

impl Index<u64> for SentPackets {
    type Output = SentPacket;
    fn index(&self, number: u64) -> &SentPacket {
        self.get(number).expect("no such packet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instant;
    use std::collections::BTreeMap;

    fn packet(size: u16) -> SentPacket {
        SentPacket {
            path_generation: 0,
            time_sent: Instant::now(),
            size,
            ack_eliciting: true,
            largest_acked: None,
            retransmits: Default::default(),
            stream_frames: Default::default(),
        }
    }

    /// Same contents as an ordered map, whatever is skipped and removed
    #[test]
    fn agrees_with_a_map() {
        let (mut ring, mut map) = (SentPackets::default(), BTreeMap::new());
        let (mut next, mut random) = (7, 1u64);
        for step in 0..5_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let dice = random >> 33;
            if dice % 5 < 3 {
                next += 1 + u64::from(dice % 64 == 0);
                ring.insert(next, packet(step as u16));
                map.insert(next, step as u16);
            } else {
                let number = next.saturating_sub(dice % 40);
                assert_eq!(ring.remove(number).map(|x| x.size), map.remove(&number));
            }
            let low = next.saturating_sub(dice % 50);
            let high = low + dice % 20;
            let got: Vec<_> = ring.range(low..=high).map(|(n, x)| (n, x.size)).collect();
            let want: Vec<_> = map.range(low..=high).map(|(&n, &x)| (n, x)).collect();
            assert_eq!(got, want);
            let below: Vec<_> = ring.range(0..low).map(|(n, _)| n).collect();
            assert!(below.iter().eq(map.range(0..low).map(|(n, _)| n)));
            assert_eq!(ring.first(), map.keys().next().copied());
        }
        assert!(ring.values().map(|x| x.size).eq(map.values().copied()));
        assert!(ring.into_values().map(|x| x.size).eq(map.into_values()));
    }

    #[test]
    fn an_empty_window_gives_its_storage_back() {
        let mut ring = SentPackets::default();
        for number in 0..1_000 {
            ring.insert(number, packet(1));
        }
        for number in 0..1_000 {
            assert!(ring.remove(number).is_some());
        }
        assert!(ring.slots.capacity() <= MAX_IDLE_CAPACITY);
        ring.insert(5_000, packet(2));
        assert_eq!(ring[5_000].size, 2);
    }
}
