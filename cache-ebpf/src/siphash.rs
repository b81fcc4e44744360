//! SipHash-1-3 of one 64-bit message: the short MAC in a connection id.
//!
//! Only the one length that is needed, so that it unrolls to straight-line code in the XDP program.

/// SipHash-1-3 of the eight bytes of `message` (little endian) under a 128-bit key given as two
/// little-endian halves.
#[inline(always)]
pub const fn siphash13(key: [u64; 2], message: u64) -> u64 {
    const LENGTH_BLOCK: u64 = (size_of::<u64>() as u64) << 56;
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    v = absorb(v, message);
    v = absorb(v, LENGTH_BLOCK);
    v[2] ^= 0xff;
    v = round(round(round(v)));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn absorb(mut v: [u64; 4], block: u64) -> [u64; 4] {
    v[3] ^= block;
    v = round(v);
    v[0] ^= block;
    v
}

#[inline(always)]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v2 = v2.wrapping_add(v3);
    v1 = v1.rotate_left(13) ^ v0;
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v1);
    v0 = v0.wrapping_add(v3);
    v1 = v1.rotate_left(17) ^ v2;
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_siphasher_crate(k0: u64, k1: u64, message: u64) {
            let mut reference = SipHasher13::new_with_keys(k0, k1);
            reference.write(&message.to_le_bytes());
            prop_assert_eq!(siphash13([k0, k1], message), reference.finish());
        }
    }
}
