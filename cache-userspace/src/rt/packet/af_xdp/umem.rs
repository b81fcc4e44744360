//! Packet memory shared with the kernel, cut in frames. Whoever holds a [`Frame`] owns its bytes;
//! while the kernel has a frame there is no `Frame` for it.

use anyhow::Context as _;
use hugepages::{Backing, BackingReport, PagePolicy, Region};

/// One frame: the kernel's 256 bytes of headroom and a packet of up to 1792 bytes.
pub const FRAME_BYTES: u32 = 2048;

/// The right to one frame's bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(u32);

pub struct Umem {
    region: Region,
    /// By frame: the kernel has it.
    with_kernel: Box<[bool]>,
}

impl Umem {
    /// Maps `frames` frames and hands them all out.
    pub fn map(
        frames: u32,
        pages: PagePolicy,
    ) -> anyhow::Result<(Self, Vec<Frame>, BackingReport)> {
        let bytes = frames as usize * FRAME_BYTES as usize;
        let (region, report) = Backing::map(bytes, pages)
            .with_context(|| format!("cannot map {} MiB of packet memory", bytes >> 20))?;
        let umem = Self {
            region,
            with_kernel: vec![false; frames as usize].into(),
        };
        Ok((umem, (0..frames).map(Frame).collect(), report))
    }

    /// Where the frames lie, for the kernel: address and length.
    pub fn range(&self) -> (u64, u64) {
        let bytes = self.with_kernel.len() as u64 * u64::from(FRAME_BYTES);
        (self.region.as_ptr() as u64, bytes)
    }

    /// Gives a frame to the kernel; the result names it in a ring.
    pub fn give(&mut self, frame: Frame) -> u64 {
        self.with_kernel[frame.0 as usize] = true;
        u64::from(frame.0) * u64::from(FRAME_BYTES)
    }

    /// Takes back the frame that a ring's `address` lies in. `None` if the kernel did not have it.
    pub fn take(&mut self, address: u64) -> Option<Frame> {
        let number = address / u64::from(FRAME_BYTES);
        let with_kernel = self.with_kernel.get_mut(usize::try_from(number).ok()?)?;
        std::mem::take(with_kernel).then_some(Frame(number as u32))
    }

    /// `length` bytes of a frame from where `address` points to. `None` if they do not lie in it.
    pub fn bytes<'a>(&'a self, frame: &'a Frame, address: u64, length: u32) -> Option<&'a [u8]> {
        let offset = address.checked_sub(u64::from(frame.0) * u64::from(FRAME_BYTES))?;
        self.all(frame)
            .get(offset as usize..)?
            .get(..length as usize)
    }

    fn all<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let offset = frame.0 as usize * FRAME_BYTES as usize;
        // SAFETY: frames lie within the region (it has at least the bytes asked for in `map`). There
        // is one `Frame` for this one, borrowed here, so neither the kernel nor a `bytes_mut` has
        // it; mapped memory is initialised.
        unsafe {
            std::slice::from_raw_parts(self.region.as_ptr().add(offset), FRAME_BYTES as usize)
        }
    }

    /// All bytes of a frame.
    pub fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        let offset = frame.0 as usize * FRAME_BYTES as usize;
        // SAFETY: as in `all`; the only `Frame` is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.region.as_ptr().add(offset), FRAME_BYTES as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_do_not_overlap_and_change_hands_once() {
        let (mut umem, mut frames, _) = Umem::map(4, PagePolicy::Plain).expect("memory");
        for (n, frame) in frames.iter_mut().enumerate() {
            umem.bytes_mut(frame).fill(n as u8 + 1);
        }
        let second = frames.remove(1);
        let at = u64::from(FRAME_BYTES);
        assert_eq!(umem.bytes(&second, at + 256, 10), Some(&[2; 10][..]));
        assert_eq!(umem.bytes(&second, at, FRAME_BYTES + 1), None);
        assert_eq!(umem.bytes(&second, at - 1, 1), None);
        assert_eq!(umem.take(at), None, "we still have it");
        assert_eq!(umem.give(second), at);
        let back = umem.take(at + 256).expect("the kernel gives it back");
        assert_eq!(umem.take(at), None, "twice");
        assert_eq!(umem.take(4 * at), None, "no such frame");
        assert_eq!(umem.bytes(&back, at, 1), Some(&[2][..]));
    }
}
