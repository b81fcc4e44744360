//! How generated frames differ from one another: source address, source port and connection id, with
//! the checksums that cover them.
//!
//! The packet generator fills in its frames in the kernel (XDP live frames) and in userspace (AF_XDP)
//! by this same code, so that frame `n` is the same either way.

use crate::{
    checksum::{change, changed},
    maps::MapValue,
};

/// The furthest into a frame that anything may vary.
pub const MAX_AT: u16 = 255;

/// Name of the generator's map of one [`Variation`].
pub const VARIATION: &str = "VARIATION";

/// Name of the generator's map of the one interface that it sends through.
pub const OUT: &str = "OUT";

/// Name of the generator's per-CPU array of two counters: frames and bytes that reached the sink.
pub const SUNK: &str = "SUNK";

/// What varies, and where it stands in the frame. An offset of zero: it stays as it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variation {
    pub seed: u64,
    /// The first of the source addresses (of IPv6, the last four bytes of it) and their number.
    pub first_source: u32,
    pub sources: u32,
    /// The first source port and the number of ports.
    pub first_port: u16,
    pub ports: u16,
    /// Four bytes.
    pub source_at: u16,
    /// The IPv4 header's checksum.
    pub ip_checksum_at: u16,
    pub port_at: u16,
    /// A checksum of zero, which means none, stays.
    pub udp_checksum_at: u16,
    /// Eight bytes of payload, at an even offset from the UDP header.
    pub id_at: u16,
    pub reserved: u16,
}

// SAFETY: repr(C) of integers without gaps (see the size assertion), any bits of which are a value.
unsafe impl MapValue for Variation {}

const _: () = assert!(size_of::<Variation>() == 32);

/// What frame `n` has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub source: u32,
    pub port: u16,
    pub id: u64,
}

impl Variation {
    #[inline(always)]
    pub const fn draw(&self, n: u64) -> Drawn {
        let drawn = mix(self.seed ^ n);
        let source = (drawn as u32 as u64 * self.sources as u64) >> 32;
        let port = ((drawn >> 32 & 0xffff) * self.ports as u64) >> 16;
        Drawn {
            source: self.first_source.wrapping_add(source as u32),
            port: self.first_port.wrapping_add(port as u16),
            id: mix(drawn),
        }
    }
}

/// A bijection whose every output bit hangs on every input bit (the finisher of SplitMix64).
#[inline(always)]
const fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// A frame that can be written: memory on the host, two pointers in the program.
pub trait Frame {
    fn get<const N: usize>(&self, at: u16) -> Option<[u8; N]>;
    fn set<const N: usize>(&mut self, at: u16, bytes: [u8; N]) -> Option<()>;
}

/// Makes `frame` the `n`th. `None`: it is too short for what varies.
#[inline(always)]
pub fn vary<F: Frame + ?Sized>(frame: &mut F, variation: &Variation, n: u64) -> Option<()> {
    let drawn = variation.draw(n);
    let (mut of_ip, mut of_payload) = (0, 0);
    if variation.source_at != 0 {
        let old = u32::from_be_bytes(frame.get(variation.source_at)?);
        frame.set(variation.source_at, drawn.source.to_be_bytes())?;
        of_ip = change(old as u64, drawn.source as u64);
    }
    if variation.port_at != 0 {
        let old = u16::from_be_bytes(frame.get(variation.port_at)?);
        frame.set(variation.port_at, drawn.port.to_be_bytes())?;
        of_payload += change(old as u64, drawn.port as u64);
    }
    if variation.id_at != 0 {
        let old = u64::from_be_bytes(frame.get(variation.id_at)?);
        frame.set(variation.id_at, drawn.id.to_be_bytes())?;
        of_payload += change(old, drawn.id);
    }
    if variation.ip_checksum_at != 0 {
        let old = u16::from_be_bytes(frame.get(variation.ip_checksum_at)?);
        let new = changed(old, of_ip);
        frame.set(variation.ip_checksum_at, new.to_be_bytes())?;
    }
    if variation.udp_checksum_at != 0 {
        let old = u16::from_be_bytes(frame.get(variation.udp_checksum_at)?);
        if old != 0 {
            let new = changed(old, of_ip + of_payload);
            // Zero would mean that there is none (RFC 768).
            let new = if new == 0 { 0xffff } else { new };
            frame.set(variation.udp_checksum_at, new.to_be_bytes())?;
        }
    }
    Some(())
}

#[cfg(not(target_arch = "bpf"))]
impl Frame for [u8] {
    fn get<const N: usize>(&self, at: u16) -> Option<[u8; N]> {
        <[u8]>::get(self, at as usize..)?.first_chunk().copied()
    }

    fn set<const N: usize>(&mut self, at: u16, bytes: [u8; N]) -> Option<()> {
        *self.get_mut(at as usize..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RANGE: Variation = Variation {
        seed: 7,
        first_source: 0x0a00_0100,
        sources: 16,
        first_port: 1000,
        ports: 10,
        source_at: 0,
        ip_checksum_at: 0,
        port_at: 0,
        udp_checksum_at: 0,
        id_at: 0,
        reserved: 0,
    };

    #[test]
    fn all_of_a_range_is_drawn_and_nothing_else() {
        let drawn: std::vec::Vec<Drawn> = (0..1000).map(|n| RANGE.draw(n)).collect();
        let sources: BTreeSet<u32> = drawn.iter().map(|drawn| drawn.source).collect();
        let ports: BTreeSet<u16> = drawn.iter().map(|drawn| drawn.port).collect();
        let ids: BTreeSet<u64> = drawn.iter().map(|drawn| drawn.id).collect();
        assert!(sources.into_iter().eq(0x0a00_0100..0x0a00_0110));
        assert!(ports.into_iter().eq(1000..1010));
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn the_whole_of_ipv4_is_a_range_too() {
        let all = Variation {
            first_source: 0,
            sources: u32::MAX,
            ..RANGE
        };
        let halves: BTreeSet<u32> = (0..100).map(|n| all.draw(n).source >> 31).collect();
        assert_eq!(halves.len(), 2);
    }

    #[test]
    fn a_frame_that_is_too_short_is_refused() {
        let variation = Variation { id_at: 40, ..RANGE };
        assert_eq!(vary(&mut [0; 47][..], &variation, 1), None);
        assert_eq!(vary(&mut [0; 48][..], &variation, 1), Some(()));
    }
}
