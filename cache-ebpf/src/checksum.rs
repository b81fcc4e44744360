//! The internet checksum (RFC 1071) and its change when words of what it covers change (RFC 1624).

/// The sum of big-endian 16-bit words, not folded. Four bytes at a time: the sums of high and low
/// halves meet again in [`fold`].
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    sum
}

/// The one's complement of the folded sum: a checksum.
pub const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a checksum's sum changes by where `old` becomes `new`: up to four words, as they stand in
/// the packet from an even offset on. Changes add up.
#[inline(always)]
pub const fn change(old: u64, new: u64) -> u64 {
    words(!old) + words(new)
}

/// The checksum of what has changed by the sum of at most eight [`change`]s.
#[inline(always)]
pub const fn changed(checksum: u16, changes: u64) -> u16 {
    let sum = !checksum as u64 + changes;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[inline(always)]
const fn words(value: u64) -> u64 {
    (value & 0xffff) + (value >> 16 & 0xffff) + (value >> 32 & 0xffff) + (value >> 48)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 1071 section 3, and a header from the literature.
    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!(
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])),
            !0xddf2
        );
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(fold(sum(&header)), 0xb861);
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_the_one_of_the_changed_bytes(
            mut bytes: [u8; 30], word in 0..11usize, new: [u8; 8], more: [u8; 8],
        ) {
            // Something that stays, so that the sum is not zero, of which there are two.
            bytes[28] = 1;
            let before = fold(sum(&bytes));
            let mut changes = 0;
            for next in [new, more] {
                let place = &mut bytes[2 * word..][..8];
                changes += change(
                    u64::from_be_bytes(place.try_into().expect("eight bytes")),
                    u64::from_be_bytes(next),
                );
                place.copy_from_slice(&next);
            }
            prop_assert_eq!(changed(before, changes), fold(sum(&bytes)));
        }
    }
}
