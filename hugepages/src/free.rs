//! Numbers that nobody holds, the last given back on top: what lies there is likely still in a cache.
//!
//! ```text
//!  head   [ changes:32 | top + 1:32 ]      0 in the lower half: none is left
//!  next   by number, the number below it + 1
//! ```
//! Any thread takes and gives back. Every change of the head counts up, so that a thread that was held up
//! while the same number came back to the top does not take what it saw below it then for what is there
//! now. It would have to sleep through exactly 2^32 changes to be mistaken.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Free {
    head: AtomicU64,
    next: Box<[AtomicU32]>,
    /// How many there are, about while they are taken and given back.
    count: AtomicU32,
}

impl Free {
    /// All numbers below `numbers`, which is 65,536 at most; the first on top.
    pub fn all(numbers: u32) -> Self {
        let below = |number| if number == numbers { 0 } else { number + 1 };
        Self {
            head: AtomicU64::new(u64::from(below(0))),
            next: (1..=numbers)
                .map(|number| AtomicU32::new(below(number)))
                .collect(),
            count: AtomicU32::new(numbers),
        }
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// What its last holder did to a number's things comes before what the new one does.
    pub fn take(&self) -> Option<u16> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let number = (head as u32).checked_sub(1)?;
            let below = self.next[number as usize].load(Ordering::Relaxed);
            match self.change(head, below) {
                Ok(()) => {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Some(number as u16);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Gives back a number that was taken.
    pub fn give(&self, number: u16) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.next[usize::from(number)].store(head as u32, Ordering::Relaxed);
            match self.change(head, u32::from(number) + 1) {
                Ok(()) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Every change is of this kind, so that whoever sees one sees all that came before it.
    fn change(&self, from: u64, top: u32) -> Result<(), u64> {
        let changes = ((from >> 32) as u32).wrapping_add(1);
        let to = u64::from(changes) << 32 | u64::from(top);
        self.head
            .compare_exchange_weak(from, to, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_given_back_is_the_first_taken() {
        let free = Free::all(3);
        let all: Vec<_> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!((all, free.len()), (vec![0, 1, 2], 0));
        [1, 0, 2].into_iter().for_each(|number| free.give(number));
        assert_eq!(free.len(), 3);
        assert_eq!(
            [(); 4].map(|()| free.take()),
            [Some(2), Some(0), Some(1), None]
        );
    }

    #[test]
    fn there_can_be_none_and_very_many() {
        assert_eq!(Free::all(0).take(), None);
        let many = Free::all(1 << 16);
        let taken = std::iter::from_fn(|| many.take()).count();
        assert_eq!(taken, 1 << 16);
    }
}
