//! The large maps as the decision sees them: the kernel's maps in the program, memory on the host.

use crate::meter::Bucket;

/// What a decision looks up and charges.
pub trait Tables {
    /// Word `index` of the `MARKS4` map, see [`crate::lists`].
    fn marks4(&self, index: u32) -> u64;

    /// Word `index` of the `COVER4` map.
    fn cover4(&self, index: u32) -> u64;

    /// Word `index` of the `COVER6` map.
    fn cover6(&self, index: u32) -> u64;

    /// 1 when `entry` lies in bucket `index` of the `EXACT` map, else 0.
    fn exact(&self, index: u32, entry: u64) -> u64;

    /// Bucket `index` of the `BUCKETS` map.
    fn bucket(&mut self, index: u32) -> Option<&mut Bucket>;

    /// The kernel's tick, the low half.
    fn tick(&self) -> u32;
}

#[cfg(not(target_arch = "bpf"))]
pub use host::HostTables;

#[cfg(not(target_arch = "bpf"))]
mod host {
    extern crate alloc;

    use alloc::{vec, vec::Vec};

    use super::Tables;
    use crate::{
        lists::{COVER4_WORDS, COVER6_WORDS, EXACT_BUCKETS, MARKS4_WORDS, Slot, holds},
        meter::{BUCKETS, Bucket},
    };

    /// The tables in memory, for tests and for asking what the program would say.
    pub struct HostTables {
        marks4: Vec<u64>,
        cover4: Vec<u64>,
        cover6: Vec<u64>,
        exact: Vec<[u64; 8]>,
        buckets: Vec<Bucket>,
        pub tick: u32,
    }

    impl Default for HostTables {
        fn default() -> Self {
            Self {
                marks4: vec![0; 2 * MARKS4_WORDS as usize],
                cover4: vec![0; 2 * COVER4_WORDS as usize],
                cover6: vec![0; 2 * COVER6_WORDS as usize],
                exact: vec![[0; 8]; 2 * EXACT_BUCKETS as usize],
                buckets: vec![Bucket::default(); BUCKETS as usize],
                tick: 0,
            }
        }
    }

    impl HostTables {
        /// One of the two generations of the lists, to be written.
        pub fn slot(&mut self, generation: u32) -> Slot<'_> {
            let at = generation as usize & 1;
            fn half<T>(all: &mut [T], at: usize) -> &mut [T] {
                let length = all.len() / 2;
                &mut all[at * length..][..length]
            }
            Slot {
                marks4: half(&mut self.marks4, at),
                cover4: half(&mut self.cover4, at),
                cover6: half(&mut self.cover6, at),
                exact: half(&mut self.exact, at),
            }
        }

        /// Empties every bucket of a source.
        pub fn refill(&mut self) {
            self.buckets.fill(Bucket::default());
        }
    }

    impl Tables for HostTables {
        fn marks4(&self, index: u32) -> u64 {
            self.marks4[index as usize]
        }

        fn cover4(&self, index: u32) -> u64 {
            self.cover4[index as usize]
        }

        fn cover6(&self, index: u32) -> u64 {
            self.cover6[index as usize]
        }

        fn exact(&self, index: u32, entry: u64) -> u64 {
            holds(&self.exact[index as usize], entry)
        }

        fn bucket(&mut self, index: u32) -> Option<&mut Bucket> {
            self.buckets.get_mut(index as usize)
        }

        fn tick(&self) -> u32 {
            self.tick
        }
    }
}
