//! A shard's side of an arena: borrowed reads, views, and the announcement of quiescence.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::arena::{Shared, State};
use crate::sync::{Arc, Ordering};

/// Base views of one segment that one reader may have alive; far more than memory allows, and far
/// below the counter's end.
const MAX_HELD: u32 = 1 << 30;
/// Memory for which one view is cached. Smaller segments share the places of cached views: at 32 KiB one
/// view is made anew at most for each so many bytes, and its place would weigh as much as much else.
const BYTES_PER_VIEW: u64 = 256 << 10;
const MIN_VIEWS: u64 = 64;
/// Closed segments beyond which those that were used again are looked for.
const MIN_CLOSED: usize = 64;

/// Reads one arena for one shard. Made by [`crate::Arena::split`], never copied.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    number: u16,
    /// Retirements announced as seen.
    seen: u64,
    /// Segments that this reader saw retired and that it has not seen used again, with their
    /// generations at that time.
    closed: BTreeMap<u32, u32>,
    /// Entries of `closed` at which those are dropped that are out of date.
    most_closed: usize,
    /// Cached views, each in the place of its segment's number modulo the places (a power of two). In a
    /// cell, so that views can be had while other bytes are borrowed; it also keeps a reader to one
    /// thread at a time, on which the held counts rest.
    views: RefCell<Box<[Cached]>>,
}

/// A view of the committed prefix of a segment as it was when the view was made.
#[derive(Clone, Debug, Default)]
struct Cached {
    segment: u32,
    base: Option<Bytes>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, number: u16) -> Self {
        let places = cached_views(shared.segments().into(), shared.segment_bytes().into());
        Self {
            number,
            seen: 0,
            closed: BTreeMap::new(),
            most_closed: MIN_CLOSED,
            views: RefCell::new(vec![Cached::default(); places as usize].into()),
            shared,
        }
    }

    /// Committed bytes, borrowed until the next [`Reader::quiesce`]. `None`: not (or no longer)
    /// committed.
    #[inline]
    pub fn read(&self, segment: u32, offset: u32, len: u32) -> Option<&[u8]> {
        self.check(segment, offset, len)?;
        let at = self.shared.start(segment) + offset as usize;
        // SAFETY: the bytes are committed in a segment that this reader has not announced as
        // closed. The writer writes committed bytes again only after this reader's announcement,
        // which needs it `&mut` and so comes after the end of this borrow (or after the drop).
        Some(unsafe { self.shared.memory.slice(at, len as usize) })
    }

    /// All committed bytes of a segment from `offset` on, borrowed as by [`Reader::read`]: for what
    /// says itself how long it is. `None`: nothing is committed there.
    #[inline]
    pub fn read_on(&self, segment: u32, offset: u32) -> Option<&[u8]> {
        let state = self.check(segment, offset, 0)?;
        let at = self.shared.start(segment) + offset as usize;
        let len = (state.committed() - offset) as usize;
        // SAFETY: as in `read`; the range ends with the committed prefix.
        Some(unsafe { self.shared.memory.slice(at, len) })
    }

    /// Committed bytes to keep for as long as wanted, on any thread. While they live their segment
    /// is not reused. Allocates only when the cached view of the segment does not reach so far.
    #[inline]
    pub fn view(&self, segment: u32, offset: u32, len: u32) -> Option<Bytes> {
        let state = self.check(segment, offset, len)?;
        let range = offset as usize..offset as usize + len as usize;
        let mut views = self.views.borrow_mut();
        let place = place_of(segment, &views);
        let cached = &mut views[place];
        match &cached.base {
            Some(base) if cached.segment == segment && base.len() >= range.end => {
                Some(base.slice(range))
            }
            _ => {
                let base = self.make_view(segment, state)?;
                cached.segment = segment;
                Some(cached.base.insert(base).slice(range))
            }
        }
    }

    /// As [`Reader::view`], only if the segment still has this generation.
    #[inline]
    pub fn view_of(&self, segment: u32, generation: u32, offset: u32, len: u32) -> Option<Bytes> {
        // Where a view can be made now, the generation cannot change before this reader announces.
        let state = self.check(segment, offset, len)?;
        if state.generation() != generation {
            return None;
        }
        self.view(segment, offset, len)
    }

    /// The segment's generation: it changes when the segment is used for something else.
    #[inline]
    pub fn generation(&self, segment: u32) -> Option<u32> {
        self.shared.state(segment).map(State::generation)
    }

    /// Announces that nothing borrowed before is used any more, and lets go of retired segments.
    /// One load when nothing was retired since the last time.
    #[inline]
    pub fn quiesce(&mut self) {
        let retirements = self.shared.retirements.load(Ordering::Acquire);
        if retirements != self.seen {
            self.close_until(retirements);
        }
    }

    /// Whether these bytes lie in a segment of this arena that waits to be reused.
    pub fn is_retired(&self, bytes: &[u8]) -> bool {
        self.shared
            .segment_of(bytes.as_ptr())
            .and_then(|segment| self.shared.state(segment))
            .is_some_and(State::is_retired)
    }

    #[inline]
    fn check(&self, segment: u32, offset: u32, len: u32) -> Option<State> {
        let state = self.shared.state(segment)?;
        if state.is_retired() && self.is_closed(segment, state) {
            return None;
        }
        let end = offset.checked_add(len)?;
        (end <= state.committed()).then_some(state)
    }

    #[cold]
    fn is_closed(&self, segment: u32, state: State) -> bool {
        self.closed.get(&segment) == Some(&state.generation())
    }

    /// A view of the whole committed prefix.
    #[cold]
    fn make_view(&self, segment: u32, state: State) -> Option<Bytes> {
        let held = &self.shared.readers[usize::from(self.number)].held[segment as usize];
        // Only the thread that has the reader raises the count, so that it cannot pass the bound in
        // between.
        if held.load(Ordering::Relaxed) >= MAX_HELD {
            return None;
        }
        held.fetch_add(1, Ordering::Relaxed);
        Some(Bytes::from_owner(View {
            shared: Arc::clone(&self.shared),
            number: self.number,
            segment,
            len: state.committed(),
        }))
    }

    #[cold]
    fn close_until(&mut self, retirements: u64) {
        for retirement in self.seen..retirements {
            let segment = self.shared.log_entry(retirement).load(Ordering::Relaxed);
            let state = State(self.shared.states[segment as usize].load(Ordering::Relaxed));
            self.closed.insert(segment, state.generation());
            let views = self.views.get_mut();
            let place = place_of(segment, views);
            if views[place].segment == segment {
                views[place].base = None;
            }
        }
        if self.closed.len() > self.most_closed {
            self.forget_reused();
        }
        self.seen = retirements;
        self.announce(retirements);
    }

    /// Once a newer generation of a segment was seen, the one that was closed never is again.
    fn forget_reused(&mut self) {
        let shared = &self.shared;
        self.closed.retain(|segment, generation| {
            let state = State(shared.states[*segment as usize].load(Ordering::Relaxed));
            state.generation() == *generation
        });
        self.most_closed = (2 * self.closed.len()).max(MIN_CLOSED);
    }

    fn announce(&self, seen: u64) {
        self.shared.readers[usize::from(self.number)]
            .seen
            .store(seen, Ordering::Release);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.views.get_mut().fill(Cached::default());
        self.announce(u64::MAX);
    }
}

fn place_of(segment: u32, views: &[Cached]) -> usize {
    segment as usize & (views.len() - 1)
}

/// Views that a reader of so many segments caches.
fn cached_views(segments: u64, segment_bytes: u64) -> u64 {
    let places = segments * segment_bytes / BYTES_PER_VIEW;
    places.max(MIN_VIEWS).min(segments).next_power_of_two()
}

/// Bytes of heap that a reader takes, beside the places of closed segments.
pub(crate) fn side_bytes(segments: u64, segment_bytes: u64) -> u64 {
    cached_views(segments, segment_bytes) * size_of::<Cached>() as u64
}

/// Owns a base view: keeps the memory mapped and its segment from being reused.
struct View {
    shared: Arc<Shared>,
    number: u16,
    segment: u32,
    len: u32,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes were committed when the view was made. The writer writes them again
        // only after it has seen the held count of this reader and segment at zero, and
        // it stays above until this view is dropped.
        unsafe {
            self.shared
                .memory
                .slice(self.shared.start(self.segment), self.len as usize)
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        #[cfg(loom)]
        self.shared
            .memory
            .touch(self.shared.start(self.segment), self.len as usize);
        self.shared.readers[usize::from(self.number)].held[self.segment as usize]
            .fetch_sub(1, Ordering::Release);
    }
}
