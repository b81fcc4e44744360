//! A pool of equal buffers for device I/O, in one mapped region.
//!
//! ```text
//!  Region  [ block 0 | block 1 | ... | block n-1 ]      each a multiple of 4 KiB, 4 KiB-aligned
//!             |                          ^
//!           take()                     drop              free list: the last given back goes first
//! ```
//! The whole region is one buffer for the kernel (`IORING_REGISTER_BUFFERS`): its start and length
//! are [`Pool::as_ptr`] and [`Pool::len`]. Direct I/O wants the alignment.
//!
//! A block is taken by one holder at a time and is written and read by it alone; it may be dropped
//! on any thread. The region stays mapped until the pool and every block are gone.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::backing::Region;
use crate::free::Free;

/// What a block's start and length are multiples of.
pub const BLOCK_ALIGN: usize = 4 << 10;
/// Most blocks of a pool: their numbers are 16 bits.
pub const MAX_BLOCKS: usize = 1 << 16;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    #[error("blocks of {0} bytes: give a multiple of 4096 bytes, and not 0")]
    BlockSize(usize),
    #[error("a region of {region} bytes has no room for one block of {block} bytes")]
    TooSmall { region: usize, block: usize },
    #[error("a region of {region} bytes is more than 65536 blocks of {block} bytes")]
    TooMany { region: usize, block: usize },
    #[error("the region does not begin at a multiple of 4096 bytes")]
    Unaligned,
}

/// Hands blocks out. Cloning gives another handle of the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

struct Shared {
    region: Region,
    block_bytes: usize,
    blocks: usize,
    /// Numbers of the blocks that nobody holds, each at most once.
    free: Free,
}

/// A buffer that its holder alone may touch. Dropping it gives it back to its pool.
pub struct Block {
    shared: Arc<Shared>,
    index: u16,
}

impl Pool {
    /// Cuts `region` in blocks of `block_bytes`, a multiple of 4 KiB. A rest is not used.
    pub fn new(region: Region, block_bytes: usize) -> Result<Self, PoolError> {
        let blocks = check(&region, block_bytes)?;
        Ok(Self(Arc::new(Shared {
            region,
            block_bytes,
            blocks,
            free: Free::all(blocks as u32),
        })))
    }

    /// A block that nobody holds, with whatever its last holder left in it. `None`: all are taken.
    pub fn take(&self) -> Option<Block> {
        let index = self.0.free.take()?;
        Some(Block {
            shared: Arc::clone(&self.0),
            index,
        })
    }

    pub fn block_bytes(&self) -> usize {
        self.0.block_bytes
    }

    /// Blocks of the pool, taken or not.
    pub fn blocks(&self) -> usize {
        self.0.blocks
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free.len()
    }

    /// Where block 0 begins, for registration. What a block's holder may do with its bytes is up to
    /// the holder; nobody else may touch them through this pointer.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.region.as_ptr()
    }

    /// Bytes of all blocks together.
    pub fn len(&self) -> usize {
        self.0.blocks * self.0.block_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check(region: &Region, block_bytes: usize) -> Result<usize, PoolError> {
    let sizes = (region.len(), block_bytes);
    if block_bytes == 0 || !block_bytes.is_multiple_of(BLOCK_ALIGN) {
        return Err(PoolError::BlockSize(block_bytes));
    }
    if !(region.as_ptr() as usize).is_multiple_of(BLOCK_ALIGN) {
        return Err(PoolError::Unaligned);
    }
    match (sizes.0 / block_bytes, sizes) {
        (0, (region, block)) => Err(PoolError::TooSmall { region, block }),
        (blocks, _) if blocks <= MAX_BLOCKS => Ok(blocks),
        (_, (region, block)) => Err(PoolError::TooMany { region, block }),
    }
}

impl Shared {
    /// The block's first byte, inside the region.
    fn start(&self, index: u16) -> *mut u8 {
        let at = usize::from(index) * self.block_bytes;
        self.region.as_ptr().wrapping_add(at)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("block_bytes", &self.block_bytes)
            .field("blocks", &self.blocks)
            .field("free", &self.free.len())
            .finish()
    }
}

impl Block {
    /// The block's number in its pool, `0..blocks`.
    pub fn index(&self) -> u16 {
        self.index
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.shared.start(self.index);
        // SAFETY: the block lies in the region: `index < blocks` (only such numbers enter the free
        // list) and `blocks * block_bytes <= region.len()`. The region is mapped while `shared`
        // lives and was zeroed by the kernel, so every byte is initialised. No other `Block` has
        // this number: it left the free list when this one was made and goes back when it is
        // dropped; the region was unique when the pool took it. So while `self` is borrowed shared,
        // nobody writes these bytes. The list orders the last holder's writes before
        // (see `crate::free`).
        unsafe { std::slice::from_raw_parts(start, self.shared.block_bytes) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.shared.start(self.index);
        // SAFETY: as in `deref`; `self` is borrowed uniquely, so that no other slice of the block
        // is alive.
        unsafe { std::slice::from_raw_parts_mut(start, self.shared.block_bytes) }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({})", self.index)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.shared.free.give(self.index);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backing::{Backing, PagePolicy};

    const BLOCK: usize = 8 << 10;

    fn region(bytes: usize) -> Region {
        Backing::map(bytes, PagePolicy::Plain).unwrap().0
    }

    fn pool(blocks: usize) -> Pool {
        Pool::new(region(blocks * BLOCK), BLOCK).unwrap()
    }

    #[test]
    fn blocks_are_aligned_apart_and_inside_the_pool() {
        let pool = pool(5);
        let mut blocks: Vec<Block> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((blocks.len(), pool.free()), (5, 0));
        for block in &mut blocks {
            let at = block.as_ptr() as usize - pool.as_ptr() as usize;
            assert_eq!(at, usize::from(block.index()) * BLOCK);
            assert_eq!(block.as_ptr() as usize % BLOCK_ALIGN, 0);
            assert!(at + block.len() <= pool.len());
            let number = block.index() as u8;
            block.fill(number);
        }
        for block in &blocks {
            assert!(block.iter().all(|byte| *byte == block.index() as u8));
        }
    }

    #[test]
    fn a_dropped_block_can_be_taken_again_and_an_empty_pool_says_so() {
        let pool = pool(2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        let number = first.index();
        drop(first);
        assert_eq!(pool.free(), 1);
        assert_eq!(pool.take().unwrap().index(), number);
        drop(second);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn a_block_outlives_its_pool() {
        let pool = pool(1);
        let mut block = pool.take().unwrap();
        drop(pool);
        block.fill(7);
        assert!(block.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn layouts_that_cannot_work_are_refused() {
        let new = |bytes, block| Pool::new(region(bytes), block).unwrap_err();
        assert_eq!(new(4096, 0), PoolError::BlockSize(0));
        assert_eq!(new(4096, 4095), PoolError::BlockSize(4095));
        assert!(matches!(new(4096, 8192), PoolError::TooSmall { .. }));
        let mut odd = region(16 << 10);
        odd.take(100).unwrap();
        assert_eq!(Pool::new(odd, 4096).unwrap_err(), PoolError::Unaligned);
        let many = Pool::new(region((MAX_BLOCKS + 1) * 4096), 4096);
        assert!(matches!(many, Err(PoolError::TooMany { .. })));
        assert_eq!(pool(3).blocks(), 3);
    }

    /// Threads take, mark, hand over and check: a block with two holders would show a foreign mark.
    #[test]
    fn no_block_has_two_holders() {
        let pool = pool(8);
        let (to_other, other) = std::sync::mpsc::channel::<(u8, Block)>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (mark, block) in other {
                    assert!(block.iter().all(|byte| *byte == mark));
                }
            });
            for thread in 0..3_u8 {
                let (pool, to_other) = (pool.clone(), to_other.clone());
                scope.spawn(move || {
                    for round in 0..4_000_u32 {
                        let Some(mut block) = pool.take() else {
                            std::thread::yield_now();
                            continue;
                        };
                        let mark = thread * 80 + (round % 80) as u8;
                        block.fill(mark);
                        to_other.send((mark, block)).unwrap();
                    }
                });
            }
            drop(to_other);
        });
        assert_eq!(pool.free(), pool.blocks());
    }
}
