//! The four rings that an AF_XDP socket shares with the kernel.
//!
//! Each has one producer and one consumer, one of them the kernel. Indices count up for ever and
//! wrap at 2^32; the entry of index `i` lies at `i mod size`. The producer stores its index with
//! release after writing entries, the consumer loads it with acquire before reading them, and the
//! same the other way round for giving entries back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::socket::Mapping;

/// Where a ring's parts lie in its mapping, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub producer: usize,
    pub consumer: usize,
    pub flags: usize,
    pub entries: usize,
}

/// The mapped ring itself.
struct Shared<T> {
    mapping: Arc<Mapping>,
    layout: Layout,
    mask: u32,
    entry: std::marker::PhantomData<T>,
}

impl<T: Copy> Shared<T> {
    fn new(mapping: Arc<Mapping>, layout: Layout, size: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring of {size} entries");
        let end = layout.entries + size as usize * size_of::<T>();
        let indices = [layout.producer, layout.consumer, layout.flags];
        assert!(end <= mapping.len() && indices.iter().all(|at| at + 4 <= mapping.len()));
        assert!(
            indices.iter().all(|at| at.is_multiple_of(4))
                && layout.entries.is_multiple_of(align_of::<T>())
        );
        Self {
            mapping,
            layout,
            mask: size - 1,
            entry: std::marker::PhantomData,
        }
    }

    fn index(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of the layout's, checked in `new` to lie aligned within the mapping,
        // which lives as long as `self`; both sides access it atomically only.
        unsafe { &*self.mapping.start().add(at).cast::<AtomicU32>() }
    }

    fn producer(&self) -> &AtomicU32 {
        self.index(self.layout.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.index(self.layout.consumer)
    }

    fn entry(&self, index: u32) -> *mut T {
        let slot = (index & self.mask) as usize;
        // SAFETY: `slot` is below the size, and `new` checked that all entries lie in the mapping.
        unsafe {
            self.mapping
                .start()
                .add(self.layout.entries)
                .cast::<T>()
                .add(slot)
        }
    }

    /// The kernel wants a system call before it goes on with this ring.
    fn needs_wakeup(&self) -> bool {
        let flags = self.index(self.layout.flags).load(Ordering::Relaxed);
        flags & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we fill: the fill ring and the transmit ring.
pub struct Producer<T> {
    shared: Shared<T>,
    /// Entries written, submitted or not.
    written: u32,
    /// What the kernel had consumed when last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub fn new(mapping: Arc<Mapping>, layout: Layout, size: u32) -> Self {
        let shared = Shared::new(mapping, layout, size);
        let written = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Self {
            shared,
            written,
            consumed,
        }
    }

    /// Entries that can be pushed.
    pub fn room(&mut self) -> u32 {
        let size = self.shared.mask + 1;
        let free = |consumed: u32| size - self.written.wrapping_sub(consumed);
        if free(self.consumed) == 0 {
            self.consumed = self.shared.consumer().load(Ordering::Acquire);
        }
        free(self.consumed)
    }

    /// Writes an entry; the kernel sees it after [`Producer::submit`]. False when the ring is full.
    pub fn push(&mut self, value: T) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: the entry is within the ring, and `room` found that the kernel has consumed it,
        // so it is ours to write.
        unsafe { self.shared.entry(self.written).write(value) };
        self.written = self.written.wrapping_add(1);
        true
    }

    pub fn submit(&mut self) {
        self.shared
            .producer()
            .store(self.written, Ordering::Release);
    }

    pub fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }

    /// The kernel has not consumed everything that was submitted.
    pub fn is_pending(&self) -> bool {
        self.shared.consumer().load(Ordering::Acquire) != self.written
    }
}

/// A ring that the kernel fills: the receive ring and the completion ring.
pub struct Consumer<T> {
    shared: Shared<T>,
    taken: u32,
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub fn new(mapping: Arc<Mapping>, layout: Layout, size: u32) -> Self {
        let shared = Shared::new(mapping, layout, size);
        let taken = shared.consumer().load(Ordering::Relaxed);
        let produced = shared.producer().load(Ordering::Acquire);
        Self {
            shared,
            taken,
            produced,
        }
    }

    /// The next entry. It is the kernel's again after [`Consumer::release`].
    pub fn take(&mut self) -> Option<T> {
        if self.taken == self.produced {
            self.produced = self.shared.producer().load(Ordering::Acquire);
            if self.taken == self.produced {
                return None;
            }
        }
        // SAFETY: the entry is within the ring, and the kernel has produced it and not got it back.
        let value = unsafe { self.shared.entry(self.taken).read() };
        self.taken = self.taken.wrapping_add(1);
        Some(value)
    }

    /// Gives the entries taken so far back.
    pub fn release(&mut self) {
        self.shared.consumer().store(self.taken, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 4;
    const LAYOUT: Layout = Layout {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };

    /// Both ends of one ring whose indices start at `start`.
    fn ring(start: u32) -> (Producer<u64>, Consumer<u64>, Arc<Mapping>) {
        let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
        let shared = Shared::<u64>::new(mapping.clone(), LAYOUT, SIZE);
        shared.producer().store(start, Ordering::Relaxed);
        shared.consumer().store(start, Ordering::Relaxed);
        let producer = Producer::new(mapping.clone(), LAYOUT, SIZE);
        (
            producer,
            Consumer::new(mapping.clone(), LAYOUT, SIZE),
            mapping,
        )
    }

    #[test]
    fn entries_come_in_order_across_the_wrap_of_the_indices() {
        for start in [0, 3, u32::MAX - 1, u32::MAX] {
            let (mut producer, mut consumer, _) = ring(start);
            let mut next = 0u64;
            for round in 0..10u64 {
                let count = 1 + round % u64::from(SIZE);
                for n in 0..count {
                    assert!(producer.push(next + n), "start {start} round {round}");
                }
                producer.submit();
                for n in 0..count {
                    assert_eq!(consumer.take(), Some(next + n));
                }
                assert_eq!(consumer.take(), None);
                consumer.release();
                next += count;
            }
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_entries_are_given_back() {
        let (mut producer, mut consumer, _) = ring(u32::MAX - 2);
        for n in 0..4 {
            assert!(producer.push(n));
        }
        assert!(!producer.push(9));
        assert_eq!(consumer.take(), None, "not submitted yet");
        producer.submit();
        assert_eq!(consumer.take(), Some(0));
        assert_eq!(producer.room(), 0, "taken is not given back");
        assert!(producer.is_pending());
        consumer.release();
        assert_eq!(producer.room(), 1);
        assert!(producer.push(9) && !producer.push(10));
        producer.submit();
        let rest: Vec<u64> = std::iter::from_fn(|| consumer.take()).collect();
        assert_eq!(rest, [1, 2, 3, 9]);
        consumer.release();
        assert!(!producer.is_pending());
    }

    #[test]
    fn the_wakeup_flag_is_read_from_the_mapping() {
        let (producer, _, mapping) = ring(0);
        assert!(!producer.needs_wakeup());
        let shared = Shared::<u64>::new(mapping, LAYOUT, SIZE);
        shared
            .index(LAYOUT.flags)
            .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
