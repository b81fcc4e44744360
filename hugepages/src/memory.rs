//! The bytes of an arena, behind the two operations that the protocol allows on them.

use crate::backing::Region;

/// Bytes that are written through `&self` at places that nobody reads, and read at places that
/// nobody writes. Who may do which is for the callers to know: see [`crate::arena`].
#[derive(Debug)]
pub(crate) struct Memory {
    region: Region,
    /// Under loom every 64-byte line has a cell that is accessed like the line is, so that loom
    /// sees a read and a write that are not ordered.
    #[cfg(loom)]
    lines: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: a region may be shared between threads; the cells are there for loom to check that each
// access is ordered with those that it conflicts with, which is what sharing them needs.
#[cfg(loom)]
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(region: Region) -> Self {
        Self {
            #[cfg(loom)]
            lines: (0..region.len().div_ceil(64))
                .map(|_| loom::cell::UnsafeCell::new(()))
                .collect(),
            region,
        }
    }

    pub fn start(&self) -> *const u8 {
        self.region.as_ptr()
    }

    /// Copies `data` to `at`.
    ///
    /// # Safety
    /// Nobody else reads or writes `at..at + data.len()` during the call, and no slice that
    /// overlaps it is alive.
    pub unsafe fn write(&self, at: usize, data: &[u8]) {
        assert!(self.covers(at, data.len()));
        #[cfg(loom)]
        for line in &self.lines[at / 64..(at + data.len()).div_ceil(64)] {
            line.with_mut(|_| ());
        }
        // SAFETY: the range lies in the region (asserted), which this `Memory` owns and which
        // stays mapped while it lives; `data` cannot overlap it, because the caller says that no
        // slice of it is alive; nobody else accesses it, by the caller's contract.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.region.as_ptr().add(at), data.len());
        }
    }

    /// The bytes at `at`.
    ///
    /// # Safety
    /// Nobody writes `at..at + len` while the slice is alive.
    #[inline]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        assert!(self.covers(at, len));
        #[cfg(loom)]
        self.touch(at, len);
        // SAFETY: the range lies in the region (asserted), which stays mapped while `self` is
        // borrowed; mapped memory is zeroed, so that every byte is initialised; nobody writes it
        // while the slice lives, by the caller's contract.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().add(at), len) }
    }

    /// Tells loom of a read.
    #[cfg(loom)]
    pub fn touch(&self, at: usize, len: usize) {
        for line in &self.lines[at / 64..(at + len).div_ceil(64)] {
            line.with(|_| ());
        }
    }

    #[inline]
    fn covers(&self, at: usize, len: usize) -> bool {
        at <= self.region.len() && len <= self.region.len() - at
    }
}
