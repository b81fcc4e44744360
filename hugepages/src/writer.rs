//! The owner's side of an arena: it alone writes, publishes, retires and reuses segments.

use std::collections::VecDeque;
use std::ops::Range;

use crate::arena::{Shared, State};
use crate::sync::{Arc, Ordering};

/// Held-up segments looked at by one [`Writer::reclaim`].
const RECLAIM_BATCH: usize = 64;

/// Where a segment is, as only the writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Free,
    Open,
    Sealed,
    Retired,
    /// Part of the other arena over the same memory.
    Away,
}

/// Writes one arena. Made by [`crate::Arena::split`], never copied.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    local: Vec<Local>,
    free: Vec<u32>,
    /// Retirements that some reader may not have seen, oldest first.
    unseen: VecDeque<Retirement>,
    /// Retired segments that every reader has seen and somebody still holds.
    held: VecDeque<u32>,
    /// Segments below this can be cut for another arena.
    cuttable: u32,
    /// Segments that go to another arena as they come free.
    leaving: Vec<Leaving>,
}

/// A coarse segment's worth of segments on their way to the other arena.
#[derive(Debug)]
struct Leaving {
    segments: Range<u32>,
    /// Those that have not come free yet.
    missing: u32,
}

#[derive(Debug)]
struct Retirement {
    number: u64,
    segment: u32,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            local: vec![Local::Free; shared.segments() as usize],
            free: (0..shared.segments()).rev().collect(),
            unseen: VecDeque::new(),
            held: VecDeque::new(),
            cuttable: 0,
            leaving: Vec::new(),
            shared,
        }
    }

    pub(crate) fn with_cuttable(mut self, cuttable: u32) -> Self {
        self.cuttable = cuttable;
        self.free.sort_unstable();
        self
    }

    /// All memory is the other arena's.
    pub(crate) fn without_segments(mut self) -> Self {
        self.free.clear();
        self.local.fill(Local::Away);
        self
    }

    pub fn segments(&self) -> u32 {
        self.shared.segments()
    }

    pub fn segment_bytes(&self) -> u32 {
        self.shared.segment_bytes()
    }

    /// Takes a free segment to append to. `None`: there is none; see [`Writer::reclaim`].
    pub fn open(&mut self) -> Option<u32> {
        let segment = self.free.pop()?;
        self.local[segment as usize] = Local::Open;
        self.publish(segment, self.state(segment).reopened());
        Some(segment)
    }

    /// Appends the parts one after the other, publishes them together, and returns the offset of
    /// the first byte. `None`: the segment is not open, or has no room for all of them.
    pub fn append(&mut self, segment: u32, parts: &[&[u8]]) -> Option<u32> {
        let lengths = parts.iter().map(|part| part.len());
        let len = lengths.fold(0, usize::saturating_add);
        if len > self.room(segment) as usize {
            return None;
        }
        let state = self.state(segment);
        let mut at = self.shared.start(segment) + state.committed() as usize;
        for part in parts {
            // SAFETY: the bytes lie past the committed prefix of an open segment and within the
            // segment (checked by `room`). Readers touch committed bytes only; when the segment
            // was taken from `free` nothing of its former generation was borrowed or held; and
            // this is the only writer (`&mut self`, never cloned).
            unsafe { self.shared.memory.write(at, part) };
            at += part.len();
        }
        self.publish(
            segment,
            state.with_committed(state.committed() + len as u32),
        );
        Some(state.committed())
    }

    /// Moves the end of an open segment up to a multiple of `alignment` (a power of two).
    pub fn pad(&mut self, segment: u32, alignment: u32) {
        let end = self.committed(segment);
        let padding = end.wrapping_neg() & (alignment - 1);
        if padding != 0 && padding <= self.room(segment) {
            // The bytes skipped are initialised (zero or from a former generation) and will not be
            // written any more, so that they may be committed as they are.
            self.publish(segment, self.state(segment).with_committed(end + padding));
        }
    }

    /// Bytes that can be appended; 0 when the segment is not open.
    pub fn room(&self, segment: u32) -> u32 {
        if self.local(segment) != Some(Local::Open) {
            return 0;
        }
        self.segment_bytes() - self.committed(segment)
    }

    /// Bytes published in a segment.
    pub fn committed(&self, segment: u32) -> u32 {
        self.shared.state(segment).map_or(0, State::committed)
    }

    /// The segment's generation: it changes when the segment is opened.
    pub fn generation(&self, segment: u32) -> u32 {
        self.shared.state(segment).map_or(0, State::generation)
    }

    /// Ends appending to an open segment. `false`: it is not open.
    pub fn seal(&mut self, segment: u32) -> bool {
        let open = self.local(segment) == Some(Local::Open);
        if open {
            self.local[segment as usize] = Local::Sealed;
        }
        open
    }

    /// Gives up an open or sealed segment. Its bytes can be read until each reader announces
    /// quiescence, and views of them live on. `false`: it is neither open nor sealed.
    pub fn retire(&mut self, segment: u32) -> bool {
        if !matches!(self.local(segment), Some(Local::Open | Local::Sealed)) {
            return false;
        }
        self.local[segment as usize] = Local::Retired;
        self.publish(segment, self.state(segment).retired());
        let number = self.shared.retirements.load(Ordering::Relaxed);
        let entry = self.shared.log_entry(number);
        entry.store(segment, Ordering::Relaxed);
        self.shared.retirements.store(number + 1, Ordering::Release);
        self.unseen.push_back(Retirement { number, segment });
        true
    }

    /// Makes retired segments free that nobody can read any more, and says how many. Looks at
    /// a bounded number of held-up ones in turn.
    pub fn reclaim(&mut self) -> usize {
        if self.unseen.is_empty() && self.held.is_empty() {
            return 0;
        }
        let mut candidates = self.held.len().min(RECLAIM_BATCH);
        candidates += self.move_seen();
        (0..candidates).filter(|_| self.reclaim_one()).count()
    }

    /// Gives a free segment to `fine`, an arena of smaller ones over the same memory. `None`: none is
    /// free that can be cut.
    ///
    /// # Panics
    /// Where `fine` is not the other arena of [`crate::Arena::overlay`].
    pub fn cut_for(&mut self, fine: &mut Writer) -> Option<u32> {
        let pieces = self.pieces(fine);
        let segment = *self.free.first().filter(|first| **first < self.cuttable)?;
        self.free.remove(0);
        self.go_away(segment);
        for piece in (segment * pieces..(segment + 1) * pieces).rev() {
            fine.local[piece as usize] = Local::Free;
            fine.free.push(piece);
        }
        Some(segment)
    }

    /// Whether [`Writer::cut_for`] would find a segment.
    pub fn can_cut(&self) -> bool {
        self.free
            .first()
            .is_some_and(|first| *first < self.cuttable)
    }

    /// Lets the pieces of a segment that was cut come back from `fine`, as soon as they are free there: no
    /// more are opened. `false`: they are not there, or on their way already.
    ///
    /// # Panics
    /// As [`Writer::cut_for`].
    pub fn call_back(&self, fine: &mut Writer, segment: u32) -> bool {
        let pieces = self.pieces(fine);
        let wanted = segment * pieces..(segment + 1) * pieces;
        let is_on_its_way = fine.leaving.iter().any(|l| l.segments == wanted);
        if self.local(segment) != Some(Local::Away) || is_on_its_way {
            return false;
        }
        let (coming, rest): (Vec<u32>, _) =
            fine.free.iter().partition(|piece| wanted.contains(piece));
        fine.free = rest;
        coming.iter().for_each(|piece| fine.go_away(*piece));
        fine.leaving.push(Leaving {
            segments: wanted,
            missing: pieces - coming.len() as u32,
        });
        true
    }

    /// Takes back what has come free of the segments that were [called back](Writer::call_back), and says
    /// how many.
    ///
    /// # Panics
    /// As [`Writer::cut_for`].
    pub fn take_back(&mut self, fine: &mut Writer) -> usize {
        let pieces = self.pieces(fine);
        let mut back = 0;
        fine.leaving.retain(|leaving| {
            if leaving.missing > 0 {
                return true;
            }
            let segment = leaving.segments.start / pieces;
            self.local[segment as usize] = Local::Free;
            self.free_again(segment);
            back += 1;
            false
        });
        back
    }

    /// Segments that were called back and are not there yet.
    pub fn leaving(&self) -> u32 {
        self.leaving.len() as u32
    }

    /// Of a run of segments, how many are free.
    pub fn free_among(&self, segments: Range<u32>) -> u32 {
        let locals = self
            .local
            .get(segments.start as usize..segments.end as usize);
        let free = locals.into_iter().flatten();
        free.filter(|local| **local == Local::Free).count() as u32
    }

    /// Whether a segment is open or sealed.
    pub fn is_in_use(&self, segment: u32) -> bool {
        matches!(self.local(segment), Some(Local::Open | Local::Sealed))
    }

    /// Segments of `fine` that one of this arena is cut in.
    fn pieces(&self, fine: &Writer) -> u32 {
        assert!(
            Arc::ptr_eq(&self.shared.memory, &fine.shared.memory)
                && self.segment_bytes() >= fine.segment_bytes()
                && !Arc::ptr_eq(&self.shared, &fine.shared),
            "not the two arenas of one overlay"
        );
        self.segment_bytes() / fine.segment_bytes()
    }

    /// A free segment becomes the other arena's: readers find nothing in it.
    fn go_away(&mut self, segment: u32) {
        self.local[segment as usize] = Local::Away;
        self.publish(segment, self.state(segment).reopened());
    }

    /// Those that can be cut are opened last.
    fn free_again(&mut self, segment: u32) {
        match segment < self.cuttable {
            true => self.free.insert(0, segment),
            false => self.free.push(segment),
        }
    }

    pub fn free_segments(&self) -> u32 {
        self.free.len() as u32
    }

    /// Segments that were retired and are not free yet.
    pub fn retired_segments(&self) -> u32 {
        (self.unseen.len() + self.held.len()) as u32
    }

    /// Those among [`Writer::retired_segments`] that wait for a view to be dropped only.
    pub fn held_segments(&self) -> u32 {
        self.held.len() as u32
    }

    /// Readers that have not announced quiescence since the oldest retirement they have not
    /// seen; with it the number of that retirement, which grows.
    pub fn laggards(&self) -> Option<(u64, impl Iterator<Item = u16>)> {
        let oldest = self.unseen.front()?.number;
        let lagging = self.shared.readers.iter().enumerate();
        let lagging = lagging
            .filter(move |(_, reader)| reader.seen.load(Ordering::Relaxed) <= oldest)
            .map(|(number, _)| number as u16);
        Some((oldest, lagging))
    }

    /// Retired segments of which reader `number` (or who got views from it) holds bytes.
    pub fn held_by(&self, number: u16) -> u32 {
        let Some(counts) = self.shared.readers.get(usize::from(number)) else {
            return 0;
        };
        let retired = self.unseen.iter().map(|retirement| retirement.segment);
        retired
            .chain(self.held.iter().copied())
            .filter(|segment| counts.held[*segment as usize].load(Ordering::Relaxed) != 0)
            .count() as u32
    }

    /// Passes retirements that every reader has seen on to `held`, in front.
    fn move_seen(&mut self) -> usize {
        let seen = self.shared.readers.iter();
        let seen = seen.map(|reader| reader.seen.load(Ordering::Acquire)).min();
        let seen = seen.unwrap_or(u64::MAX);
        let mut moved = 0;
        while let Some(retirement) = self.unseen.pop_front_if(|oldest| oldest.number < seen) {
            self.held.push_front(retirement.segment);
            moved += 1;
        }
        moved
    }

    /// Frees the first held-up segment, or puts it behind the others.
    fn reclaim_one(&mut self) -> bool {
        let Some(segment) = self.held.pop_front() else {
            return false;
        };
        // Acquire: what was done with a view happened before its count went down, and so before
        // this segment is written again.
        let is_held = self
            .shared
            .readers
            .iter()
            .any(|reader| reader.held[segment as usize].load(Ordering::Acquire) != 0);
        if is_held {
            self.held.push_back(segment);
            return false;
        }
        let mut leaving = self.leaving.iter_mut();
        if let Some(leaving) = leaving.find(|l| l.segments.contains(&segment)) {
            leaving.missing -= 1;
            self.go_away(segment);
            return true;
        }
        self.local[segment as usize] = Local::Free;
        self.free_again(segment);
        true
    }

    fn local(&self, segment: u32) -> Option<Local> {
        self.local.get(segment as usize).copied()
    }

    /// The state of a segment that exists.
    fn state(&self, segment: u32) -> State {
        State(self.shared.states[segment as usize].load(Ordering::Relaxed))
    }

    fn publish(&mut self, segment: u32, state: State) {
        self.shared.states[segment as usize].store(state.0, Ordering::Release);
    }
}
