//! A table of cache lines in a region, for indexes that are probed at random.

use crate::backing::{Error, Region};
use crate::sync::AtomicU64;

const LINE_BYTES: usize = 64;

/// A word of a table: an atomic of 64 bits, under loom loom's.
pub type Word = AtomicU64;

/// One cache line of eight words.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub [Word; 8]);

/// A region read as lines, all zero at first.
#[derive(Debug)]
pub struct Table {
    region: Region,
    /// Under loom the words are its own, so that it sees who reads and writes them in what order.
    #[cfg(loom)]
    lines: Box<[Line]>,
}

impl Table {
    /// As many lines as fit. The region must be fresh from [`crate::Backing::map`] or cut from it.
    pub fn new(region: Region) -> Result<Self, Error> {
        let error = |reason| Error::Layout {
            bytes: region.len(),
            segment: LINE_BYTES,
            reason,
        };
        if !(region.as_ptr() as usize).is_multiple_of(LINE_BYTES) {
            return Err(error("a table must begin at a multiple of 64 bytes"));
        }
        if region.len() < LINE_BYTES {
            return Err(error("not one line fits"));
        }
        Ok(Self {
            #[cfg(loom)]
            lines: (0..region.len() / LINE_BYTES)
                .map(|_| Line(std::array::from_fn(|_| Word::new(0))))
                .collect(),
            region,
        })
    }

    #[cfg(loom)]
    pub fn lines(&self) -> &[Line] {
        assert_eq!(self.lines.len(), self.region.len() / LINE_BYTES);
        &self.lines
    }

    #[cfg(not(loom))]
    #[inline]
    pub fn lines(&self) -> &[Line] {
        // SAFETY: the region is aligned for `Line` (checked by `new`), mapped while `self` lives,
        // and owned by this table alone; every bit pattern is a valid `Line`, and shared changes
        // go through its atomics.
        unsafe {
            std::slice::from_raw_parts(
                self.region.as_ptr().cast::<Line>(),
                self.region.len() / LINE_BYTES,
            )
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == LINE_BYTES && align_of::<Line>() == LINE_BYTES);

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::{Backing, PagePolicy};

    #[test]
    fn lines_are_zero_whole_and_apart() {
        let (region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        let table = Table::new(region).unwrap();
        assert_eq!(table.lines().len(), 64);
        for (i, line) in table.lines().iter().enumerate() {
            assert_eq!(line.0[7].load(Relaxed), 0);
            line.0[7].store(i as u64, Relaxed);
        }
        for (i, line) in table.lines().iter().enumerate() {
            assert_eq!(line.0[7].load(Relaxed), i as u64);
        }
    }

    #[test]
    fn odd_regions_are_refused() {
        let (mut region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        let small = region.take(32).unwrap();
        assert!(matches!(Table::new(small), Err(Error::Layout { .. })));
        assert!(matches!(Table::new(region), Err(Error::Layout { .. })));
    }
}
