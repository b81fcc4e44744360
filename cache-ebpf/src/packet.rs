//! Bounded reads from a packet: a slice on the host, two pointers in the XDP program.
//!
//! One type with one method, so that the parser above it is a single source for both. In the
//! program every read is the compare-then-load on one pointer that the verifier follows.

pub use reader::{Packet, forget};

/// From here on what `step` left is read from memory, and so are packet and context: neither compiler nor
/// verifier carries over what it knew in the steps before.
#[inline(always)]
pub fn left<T>(step: &mut T) {
    core::hint::black_box(step);
}

/// No header that we read starts further into a packet than this. It also is what the verifier
/// accepts at most as the variable part of an offset.
const MAX_OFFSET: usize = 0x3fff;

#[cfg(not(target_arch = "bpf"))]
mod reader {
    use super::MAX_OFFSET;

    /// `value` itself. In the XDP program the verifier forgets what it knows about it.
    pub const fn forget(value: u16) -> u16 {
        value
    }

    /// A packet from its Ethernet header on.
    #[derive(Clone, Copy, Debug)]
    pub struct Packet<'a>(&'a [u8]);

    impl<'a> Packet<'a> {
        pub const fn new(data: &'a [u8]) -> Self {
            Self(data)
        }

        /// Bytes in the packet, link-layer padding included.
        pub const fn len(&self) -> usize {
            self.0.len()
        }

        pub const fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        /// `offset` itself, and forgotten.
        pub const fn place(&self, offset: usize) -> usize {
            offset
        }

        /// `value` itself, as [`forget`].
        pub const fn forget(&self, value: u16) -> u16 {
            value
        }

        /// The `N` bytes at `offset`, if the packet has them.
        pub fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            if offset > MAX_OFFSET {
                return None;
            }
            self.0.get(offset..)?.first_chunk().copied()
        }
    }
}

#[cfg(target_arch = "bpf")]
mod reader {
    use core::{
        marker::PhantomData,
        ptr::{read_volatile, write_volatile},
    };

    use super::MAX_OFFSET;

    /// Room for a number at half of a stack slot, where the verifier does not follow values.
    #[repr(C, align(8))]
    struct HalfSlot {
        unused: [u16; 2],
        value: u16,
    }

    /// `value` itself, but the verifier forgets what it knows about it: it then walks what follows
    /// once, and not once more for every path that led to another constant.
    #[inline(always)]
    pub fn forget(value: u16) -> u16 {
        let mut slot = HalfSlot {
            unused: [0; 2],
            value: 0,
        };
        // SAFETY: a pointer to a local, valid and aligned for both.
        unsafe {
            write_volatile(&raw mut slot.value, value);
            read_volatile(&raw const slot.value)
        }
    }

    /// A packet from its Ethernet header on.
    #[derive(Clone, Copy)]
    pub struct Packet<'a> {
        start: *const u8,
        end: *const u8,
        nothing: u16,
        bytes: PhantomData<&'a [u8]>,
    }

    impl Packet<'_> {
        /// # Safety
        /// `start..end` must be the readable bytes of one packet (`data` and `data_end` of the
        /// program's context) for as long as the value lives. `nothing` is 0, from where neither
        /// compiler nor verifier can know it.
        #[inline(always)]
        pub const unsafe fn new(start: *const u8, end: *const u8, nothing: u16) -> Self {
            Self {
                start,
                end,
                nothing,
                bytes: PhantomData,
            }
        }

        /// `offset` itself, and forgotten. Its bounds are told anew: no packet is as long as this.
        #[inline(always)]
        pub const fn place(&self, offset: usize) -> usize {
            (offset as u16 | self.nothing) as usize & MAX_OFFSET
        }

        /// `value` itself, as [`forget`]: in a register, where the next read waits for it.
        #[inline(always)]
        pub const fn forget(&self, value: u16) -> u16 {
            value | self.nothing
        }

        /// Bytes in the packet, link-layer padding included.
        #[inline(always)]
        pub fn len(&self) -> usize {
            self.end as usize - self.start as usize
        }

        #[inline(always)]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// The `N` bytes at `offset`, if the packet has them.
        #[inline(always)]
        pub fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            if offset > MAX_OFFSET {
                return None;
            }
            let at = self.start.wrapping_add(offset);
            if at.wrapping_add(N) > self.end {
                return None;
            }
            // SAFETY: `at..at + N` was just found to lie before the end of the packet, and every
            // bit pattern is a valid byte array of alignment 1.
            Some(unsafe { at.cast::<[u8; N]>().read() })
        }
    }
}
