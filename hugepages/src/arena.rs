//! Memory cut in segments of equal size, written by one shard and read by all.
//!
//! ```text
//!            .------------------- append, publish (release) ------------------.
//!            v                                                                |
//!  free -> open [ committed prefix | bytes the writer may still write ]  -----'
//!            | seal
//!            v            retire                 every reader announced, nothing held
//!          sealed  ------------------> retired ---------------------------------> free
//! ```
//!
//! **What a reader may touch.** Only the committed prefix. The writer never writes below it while
//! the segment keeps its generation, so that a borrowed slice or a view never aliases a write.
//!
//! **When a segment is reused.** The writer marks it retired, appends its number to the retirement
//! log and raises the retirement count (release). A reader announces quiescence: it reads the
//! count (acquire), drops its cached view of every segment in the log that is new to it, notes
//! them as closed, and stores the count as seen (release). From then on it refuses to
//! read a closed segment until the writer has given it a new generation. The writer reuses a segment when
//! - every reader's seen count covers the retirement: no borrowed slice is left, because announcing
//!   needs the reader `&mut`, and no reader can make a new view; and then
//! - every reader's count of held views of the segment is zero. A view that is dropped on any
//!   thread, at any time, lowers the count of the reader that made it (release).
//!
//! Between retirement and its own announcement a reader may go on reading and viewing: what it
//! found in an index before is still there.
//!
//! **What is shared.** On the hit path a reader loads the segment's state, which the
//! writer stores when it publishes, and touches counts of its own. Slicing a cached view changes a
//! reference count that lies with the reader. Held counts lie in one array per reader.
//!
//! A reader that is dropped counts as having seen everything. A reader that is leaked, or
//! never announces, stops reuse, not soundness; so does a leaked view.
//!
//! **Two arenas over one memory** ([`Arena::overlay`]). Every byte belongs to one of the two writers at
//! any time: a *coarse* segment that is free there, so that nobody reads it, can be [cut](Writer::cut_for)
//! in free *fine* ones, and comes [back](Writer::take_back) when all of these are free again. A segment
//! that is the other arena's is empty to readers.

use crate::backing::{Error, Region};
use crate::memory::Memory;
use crate::reader::Reader;
use crate::sync::{Arc, AtomicU32, AtomicU64, Ordering};
use crate::writer::Writer;
use crossbeam_utils::CachePadded;

/// Makes the two sides of an arena.
#[derive(Debug)]
pub struct Arena;

impl Arena {
    /// Cuts `region` in segments of `segment_bytes` (a power of two, at least 64) for one writer
    /// and `readers` readers. A rest shorter than a segment is not used.
    pub fn split(
        region: Region,
        segment_bytes: u32,
        readers: u16,
    ) -> Result<(Writer, Vec<Reader>), Error> {
        let bytes = region.len();
        let memory = Arc::new(Memory::new(region));
        let shared = Arc::new(Shared::new(memory, bytes, segment_bytes, readers)?);
        Ok((Writer::new(Arc::clone(&shared)), readers_of(&shared)))
    }

    /// Lays two arenas over one region, each with readers of its own: one of `coarse_bytes` segments over
    /// all of it, one of `fine_bytes` segments over as many whole coarse ones, the first, as fit in
    /// `may_be_fine` bytes. All memory is the coarse one's at first.
    pub fn overlay(
        region: Region,
        (coarse_bytes, fine_bytes): (u32, u32),
        may_be_fine: usize,
        readers: u16,
    ) -> Result<Overlay, Error> {
        let bytes = region.len();
        let error = |reason| Error::Layout {
            bytes: may_be_fine,
            segment: fine_bytes as usize,
            reason,
        };
        if fine_bytes > coarse_bytes {
            return Err(error("fine segments must not be larger than coarse ones"));
        }
        let memory = Arc::new(Memory::new(region));
        let coarse = Shared::new(Arc::clone(&memory), bytes, coarse_bytes, readers)?;
        let may_be_fine = may_be_fine.min(bytes) / coarse_bytes as usize * coarse_bytes as usize;
        let fine = Shared::new(memory, may_be_fine, fine_bytes, readers)?;
        let (coarse, fine) = (Arc::new(coarse), Arc::new(fine));
        let pairs = readers_of(&coarse).into_iter().zip(readers_of(&fine));
        let cuttable = (may_be_fine / coarse_bytes as usize) as u32;
        Ok(Overlay {
            coarse: Writer::new(Arc::clone(&coarse)).with_cuttable(cuttable),
            fine: Writer::new(Arc::clone(&fine)).without_segments(),
            readers: pairs.collect(),
        })
    }

    /// Bytes of heap that an arena takes beside its region, while few segments wait to be reused.
    pub fn side_bytes(segments: u64, segment_bytes: u64, readers: u64) -> u64 {
        let state = size_of::<AtomicU64>() + size_of::<crate::writer::Local>();
        let numbers = size_of::<AtomicU32>() as u64;
        let log = segments.next_power_of_two() * numbers;
        let free = segments * numbers;
        let held = readers * segments * numbers;
        let views = readers * crate::reader::side_bytes(segments, segment_bytes);
        segments * state as u64 + log + free + held + views
    }
}

/// Two arenas over one memory.
#[derive(Debug)]
pub struct Overlay {
    pub coarse: Writer,
    pub fine: Writer,
    /// Of the coarse and of the fine one.
    pub readers: Vec<(Reader, Reader)>,
}

fn readers_of(shared: &Arc<Shared>) -> Vec<Reader> {
    let numbers = 0..shared.readers.len() as u16;
    let reader = |number| Reader::new(Arc::clone(shared), number);
    numbers.map(reader).collect()
}

/// What both sides see.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Also another arena's, see [`Arena::overlay`].
    pub memory: Arc<Memory>,
    segment_shift: u32,
    /// One per segment, see [`State`]. Stored by the writer only.
    pub states: Box<[AtomicU64]>,
    /// Retirements so far.
    pub retirements: CachePadded<AtomicU64>,
    /// The segment of retirement `n` at `n % len`. A retirement that some reader has not seen is
    /// never overwritten: its segment cannot be retired again before, and there are at least as many
    /// places as segments.
    retirement_log: Box<[AtomicU32]>,
    pub readers: Box<[ReaderCounts]>,
}

/// What one reader tells the writer.
#[derive(Debug)]
pub(crate) struct ReaderCounts {
    /// Retirements that the reader has announced as seen; `u64::MAX` once it is gone.
    pub seen: CachePadded<AtomicU64>,
    /// Per segment, base views that are alive.
    pub held: Box<[AtomicU32]>,
}

impl Shared {
    /// Over the first `bytes` of a memory.
    fn new(
        memory: Arc<Memory>,
        bytes: usize,
        segment_bytes: u32,
        readers: u16,
    ) -> Result<Self, Error> {
        let segments = check_layout(bytes, segment_bytes)?;
        let counts = |_| ReaderCounts {
            seen: CachePadded::new(AtomicU64::new(0)),
            held: (0..segments).map(|_| AtomicU32::new(0)).collect(),
        };
        Ok(Self {
            memory,
            segment_shift: segment_bytes.trailing_zeros(),
            states: (0..segments).map(|_| AtomicU64::new(0)).collect(),
            retirements: CachePadded::new(AtomicU64::new(0)),
            retirement_log: (0..segments.next_power_of_two())
                .map(|_| AtomicU32::new(0))
                .collect(),
            readers: (0..readers).map(counts).collect(),
        })
    }

    #[inline]
    pub fn segments(&self) -> u32 {
        self.states.len() as u32
    }

    pub fn segment_bytes(&self) -> u32 {
        1 << self.segment_shift
    }

    /// The segment's first byte, counted from the arena's.
    #[inline]
    pub fn start(&self, segment: u32) -> usize {
        (segment as usize) << self.segment_shift
    }

    /// The segment's state; `None` when there is no such segment.
    #[inline]
    pub fn state(&self, segment: u32) -> Option<State> {
        let state = self.states.get(segment as usize)?;
        Some(State(state.load(Ordering::Acquire)))
    }

    pub fn log_entry(&self, retirement: u64) -> &AtomicU32 {
        &self.retirement_log[retirement as usize & (self.retirement_log.len() - 1)]
    }

    /// The segment in which an address lies.
    pub fn segment_of(&self, address: *const u8) -> Option<u32> {
        let offset = (address as usize).checked_sub(self.memory.start() as usize)?;
        let segment = u32::try_from(offset >> self.segment_shift).ok()?;
        (segment < self.segments()).then_some(segment)
    }
}

fn check_layout(bytes: usize, segment_bytes: u32) -> Result<u32, Error> {
    let error = |reason| Error::Layout {
        bytes,
        segment: segment_bytes as usize,
        reason,
    };
    if !segment_bytes.is_power_of_two() || segment_bytes < 64 {
        return Err(error("the segment must be a power of two of at least 64"));
    }
    let segments = bytes / segment_bytes as usize;
    if segments == 0 {
        return Err(error("not one segment fits"));
    }
    u32::try_from(segments).map_err(|_| error("more than 2^32 segments"))
}

/// A segment's state in one word: `generation:31 | retired:1 | committed:32`. The generation
/// grows by one when the segment is opened, so that a stale reference to it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(pub u64);

const RETIRED: u64 = 1 << 32;
const GENERATION_SHIFT: u32 = 33;

impl State {
    pub fn committed(self) -> u32 {
        self.0 as u32
    }

    pub fn is_retired(self) -> bool {
        self.0 & RETIRED != 0
    }

    pub fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    pub fn retired(self) -> Self {
        Self(self.0 | RETIRED)
    }

    pub fn with_committed(self, committed: u32) -> Self {
        Self(self.0 & !u64::from(u32::MAX) | u64::from(committed))
    }

    /// Empty, in the next generation.
    pub fn reopened(self) -> Self {
        Self(u64::from(self.generation().wrapping_add(1)) << GENERATION_SHIFT)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backing::{Backing, PagePolicy};

    fn region(bytes: usize) -> Region {
        Backing::map(bytes, PagePolicy::Plain).unwrap().0
    }

    #[test]
    fn layouts_that_cannot_work_are_refused() {
        for (bytes, segment) in [(4096, 0), (4096, 32), (4096, 100), (4096, 8192)] {
            let error = Arena::split(region(bytes), segment, 1).unwrap_err();
            assert!(matches!(error, Error::Layout { .. }), "{segment}: {error}");
        }
    }

    #[test]
    fn state_fields_do_not_disturb_each_other() {
        let state = State(0).reopened().with_committed(u32::MAX);
        assert_eq!((state.generation(), state.committed()), (1, u32::MAX));
        let state = state.retired();
        assert!(state.is_retired());
        assert_eq!((state.generation(), state.committed()), (1, u32::MAX));
        let state = state.reopened();
        assert!(!state.is_retired());
        assert_eq!((state.generation(), state.committed()), (2, 0));
        let last = State(u64::MAX).reopened();
        assert_eq!((last.generation(), last.is_retired()), (0, false));
    }
}
