//! Numbers of the latest hard and soft purge, in one word each.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Verdict;
use super::state::Numbers;

/// The latest hard and the latest soft purge of something; 0: there was none.
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicU64);

impl Mark {
    /// Orders nothing itself: who has seen a purge in `latest` sees its mark.
    #[inline]
    pub fn judge(&self, stamp: u32) -> Verdict {
        let (hard, soft) = unpack(self.0.load(Ordering::Relaxed));
        if stamp < hard {
            Verdict::Hard
        } else if stamp < soft {
            Verdict::Soft
        } else {
            Verdict::Valid
        }
    }

    /// By the one writer. A number lower than what is there changes nothing.
    pub fn set(&self, number: u32, is_soft: bool) {
        let (hard, soft) = self.get();
        let (hard, soft) = match is_soft {
            true => (hard, soft.max(number)),
            false => (hard.max(number), soft),
        };
        let packed = u64::from(hard) << 32 | u64::from(soft);
        self.0.store(packed, Ordering::Release);
    }

    /// Before anyone reads it.
    pub fn restore(&self, numbers: Numbers) {
        self.set(numbers.hard, false);
        self.set(numbers.soft, true);
    }

    /// Hard and soft.
    fn get(&self) -> (u32, u32) {
        unpack(self.0.load(Ordering::Relaxed))
    }
}

fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

/// The marks of surrogate keys, by slot. 8 bytes each.
#[derive(Debug)]
pub(super) struct Table {
    marks: Box<[Mark]>,
}

impl Table {
    /// # Panics
    /// If `slots` is no power of two.
    pub fn new(slots: u32) -> Self {
        assert!(slots.is_power_of_two());
        Self {
            marks: (0..slots).map(|_| Mark::default()).collect(),
        }
    }

    pub fn len(&self) -> u32 {
        self.marks.len() as u32
    }

    /// The slot of a hash.
    pub fn fold(&self, hash: u32) -> u32 {
        hash & (self.len() - 1)
    }

    /// A slot that is too large (of a damaged record, say) is folded like a hash.
    #[inline]
    pub fn mark(&self, slot: u32) -> &Mark {
        &self.marks[self.fold(slot) as usize]
    }
}
