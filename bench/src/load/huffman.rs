//! Decoding of the HPACK Huffman code (RFC 7541 appendix B), which QPACK uses too.
//!
//! The code is canonical: codes of one length are consecutive numbers in the order of their
//! symbols. So the lengths alone define it.

/// Code length in bits of each byte value. The end-of-string symbol (30 bits, all ones) never
/// appears in a valid string and is left out.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;

/// The decoding tables.
pub(super) struct Huffman {
    /// For each length: its first code, how many codes there are, and where their symbols start.
    levels: [Level; LONGEST + 1],
    symbols: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Level {
    first: u32,
    count: u32,
    start: u32,
}

impl Huffman {
    pub(super) fn new() -> Self {
        let mut levels = [Level::default(); LONGEST + 1];
        let mut symbols = Vec::with_capacity(256);
        let mut code = 0;
        for (length, level) in levels.iter_mut().enumerate() {
            code <<= 1;
            let start = symbols.len() as u32;
            symbols.extend((0..=255u8).filter(|s| usize::from(LENGTHS[usize::from(*s)]) == length));
            let count = symbols.len() as u32 - start;
            *level = Level {
                first: code,
                count,
                start,
            };
            code += count;
        }
        Self { levels, symbols }
    }

    /// Appends the decoded string to `out`; `None` where the padding is wrong or a code is unknown.
    pub(super) fn decode(&self, encoded: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (mut code, mut length) = (0u32, 0usize);
        for byte in encoded {
            for bit in (0..8).rev() {
                code = code << 1 | u32::from(byte >> bit & 1);
                length += 1;
                let level = self.levels.get(length)?;
                let offset = code.wrapping_sub(level.first);
                if offset < level.count {
                    out.push(self.symbols[(level.start + offset) as usize]);
                    (code, length) = (0, 0);
                }
            }
        }
        // What is left must be the beginning of the end-of-string code: up to seven ones.
        (length < 8 && code == (1 << length) - 1).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Huffman::new().decode(encoded, &mut out).map(|()| out)
    }

    #[test]
    fn strings_of_the_standard_decode() {
        // RFC 7541, appendices C.4.1 and C.6.1.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&host).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(decoded(&[0x64, 0x02]).as_deref(), Some(&b"302"[..]));
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b,
            0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(
            decoded(&date).as_deref(),
            Some(&b"Mon, 21 Oct 2013 20:13:21 GMT"[..])
        );
    }

    #[test]
    fn wrong_padding_and_end_of_string_are_refused() {
        assert_eq!(decoded(&[0xf1, 0xe3, 0xc2, 0xe5, 0x00]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), None);
    }
}
