//! A table of cache lines in a region, for indexes that are probed at random.

use crate::backing::{Error, Region};
use crate::sync::{AtomicU64, Ordering};

const LINE_BYTES: usize = 64;

/// A word of a table: an atomic of 64 bits, under loom loom's.
pub type Word = AtomicU64;

/// One cache line of eight words.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub [Word; 8]);

impl Line {
    /// The words whose upper halves are `wanted` under `mask`, a bit each. What the words were is not
    /// ordered with anything: load a word before it is relied on.
    #[inline(always)]
    pub fn matches(&self, mask: u32, wanted: u32) -> u8 {
        #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
        return vector::matches(self, mask, wanted);
        #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
        self.matches_by_word(mask, wanted)
    }

    #[allow(dead_code)]
    fn matches_by_word(&self, mask: u32, wanted: u32) -> u8 {
        let mut matches = 0;
        for (lane, word) in self.0.iter().enumerate() {
            let upper = (word.load(Ordering::Relaxed) >> 32) as u32;
            matches |= u8::from(upper & mask == wanted) << lane;
        }
        matches
    }
}

/// A line compared four words at a time.
#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod vector {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128, __m128i, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32,
        _mm_movemask_ps, _mm_set1_epi32, _mm_shuffle_ps,
    };

    use super::Line;

    #[inline(always)]
    pub fn matches(line: &Line, mask: u32, wanted: u32) -> u8 {
        let words: *const __m128 = std::ptr::from_ref(line).cast();
        // SAFETY: a line is 64 bytes and aligned to them, so that these are its four quarters.
        let quarters = unsafe { [0, 1, 2, 3].map(|i| load(words.add(i))) };
        let [a, b, c, d] = quarters;
        halves(a, b, mask, wanted) | halves(c, d, mask, wanted) << 4
    }

    /// Two words. Others may store to them meanwhile; each comes whole.
    ///
    /// # Safety
    /// `at` is readable and aligned to 16 bytes.
    #[inline(always)]
    unsafe fn load(at: *const __m128) -> __m128 {
        let quarter;
        // SAFETY: reads what the caller says is readable and writes nothing else. As assembly it is no
        // access of the language's, which has none of this width that may race with atomic stores; the
        // processor's are aligned, and do not split a word of eight bytes.
        unsafe {
            asm!("movaps {}, [{}]", out(xmm_reg) quarter, in(reg) at,
                options(nostack, preserves_flags, readonly));
        }
        quarter
    }

    #[inline(always)]
    fn halves(a: __m128, b: __m128, mask: u32, wanted: u32) -> u8 {
        // SAFETY: SSE2, which has all of these, is part of every x86-64.
        unsafe {
            // The upper halves of the four words.
            let upper: __m128i = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(a, b));
            let masked = _mm_and_si128(upper, _mm_set1_epi32(mask as i32));
            let equal = _mm_cmpeq_epi32(masked, _mm_set1_epi32(wanted as i32));
            _mm_movemask_ps(_mm_castsi128_ps(equal)) as u8
        }
    }
}

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
    fn words_are_matched_by_their_upper_halves_under_the_mask() {
        let (region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        let table = Table::new(region).unwrap();
        let line = &table.lines()[3];
        assert_eq!((line.matches(!0, 0), line.matches(!0, 1)), (0xff, 0));
        for (lane, word) in line.0.iter().enumerate() {
            word.store((7 + lane as u64 % 3) << 32 | u64::from(u32::MAX), Relaxed);
        }
        for wanted in 6..11 {
            for mask in [!0, 0xff, 0b1110, 0] {
                let matches = line.matches(mask, wanted & mask);
                assert_eq!(matches, line.matches_by_word(mask, wanted & mask));
                let by_hand = (0..8).filter(|lane| (7 + lane % 3) & mask == wanted & mask);
                assert_eq!(matches, by_hand.map(|lane| 1 << lane).sum::<u8>());
            }
        }
        line.0[5].store(u64::MAX, Relaxed);
        assert_eq!(line.matches(!0, u32::MAX), 1 << 5);
    }

    #[test]
    fn odd_regions_are_refused() {
        let (mut region, _) = Backing::map(4096, PagePolicy::Plain).unwrap();
        let small = region.take(32).unwrap();
        assert!(matches!(Table::new(small), Err(Error::Layout { .. })));
        assert!(matches!(Table::new(region), Err(Error::Layout { .. })));
    }
}
