//! The Huffman code of RFC 7541 appendix B.
//!
//! The code is canonical: within a length, codes rise with the symbol, and each length goes on
//! where the shorter one stopped. So 257 code lengths are all there is to write down; the tables
//! below are computed from them by the compiler.
//!
//! Decoding looks at `STEP` bits at a time and takes up to two symbols per look, which covers
//! every two characters that requests are made of. Codes longer than a step (`\`, `<`, control
//! and non-ASCII bytes) are found by comparing with the first code of each length.

/// Bits per look. 12 holds two of the 6-bit codes; the table (16 KiB) stays in the L1 cache.
const STEP: u32 = 12;

/// The longest code.
const MAX_LEN: usize = 30;

/// Symbol 256 ends the code space; it may appear only in part, as padding.
const EOS: usize = 256;

/// Length in bits of the code of each byte, and of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Why bytes are not a Huffman-coded string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HuffmanError {
    /// EOS in full, more than seven bits of padding, or padding that is not all ones.
    Invalid,
    /// The decoded string does not fit.
    TooLong,
}

/// A decoded string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub len: usize,
    /// Some byte has a code longer than `STEP`. All control characters have: without this flag,
    /// there are none.
    pub rare: bool,
}

/// Room that [`decode`] needs behind the decoded string.
pub const SLACK: usize = 8;

/// Decodes `input` to the front of `out`, which must be longer than the string by [`SLACK`] bytes;
/// those may be overwritten.
pub fn decode(input: &[u8], out: &mut [u8]) -> Result<Decoded, HuffmanError> {
    let mut bits = Bits::default();
    let mut at = 0;
    let mut rare = false;
    let mut rest = input;
    // Four looks of two symbols each fit between refills, and write at most eight bytes.
    while let Some(word) = rest.first_chunk::<8>() {
        let room = out.get_mut(at..at + 8).ok_or(HuffmanError::TooLong)?;
        rest = &rest[bits.refill(word)..];
        let mut written = 0;
        for _ in 0..4 {
            let entry = bits.look();
            if entry.count() == 0 {
                break;
            }
            room[written..written + 2].copy_from_slice(&entry.symbols());
            written += entry.count();
            bits.skip(entry);
        }
        at += written;
        if written == 0 {
            let (symbol, len) = long_symbol(bits.acc, bits.left)?;
            room[0] = symbol;
            at += 1;
            bits.skip_long(len);
            rare = true;
        }
    }
    let mut tail = Tail::new(bits, input, rest.len());
    loop {
        let room = out.get_mut(at..at + 2).ok_or(HuffmanError::TooLong)?;
        let entry = tail.look();
        if entry.count() > 0 && entry.bits() <= tail.left {
            room.copy_from_slice(&entry.symbols());
            at += entry.count();
            tail.skip(entry.bits());
        } else if entry.count() > 0 && entry.first_bits() <= tail.left {
            room[0] = entry.symbols()[0];
            at += 1;
            tail.skip(entry.first_bits());
        } else if tail.is_padding() {
            return Ok(Decoded { len: at, rare });
        } else if entry.count() > 0 {
            return Err(HuffmanError::Invalid);
        } else {
            let (symbol, len) = long_symbol(tail.high, tail.left)?;
            room[0] = symbol;
            at += 1;
            tail.skip(len);
            rare = true;
        }
    }
}

/// Appends the code of `input` to `out`, padded to whole bytes.
pub fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut acc = 0u64;
    let mut held = 0u32;
    for &byte in input {
        let len = u32::from(LENGTHS[byte as usize]);
        acc = acc << len | u64::from(CODES[byte as usize]);
        held += len;
        while held >= 8 {
            held -= 8;
            out.push((acc >> held) as u8);
        }
    }
    if held > 0 {
        let pad = 8 - held;
        out.push((acc << pad) as u8 | ((1u16 << pad) - 1) as u8);
    }
}

/// Bytes that [`encode`] would append.
pub fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input.iter().map(|&b| LENGTHS[b as usize] as usize).sum();
    bits.div_ceil(8)
}

/// Bits taken from the input and not yet decoded, `left` of them, at the top of `acc`. Below them
/// stand bits that come next, as far as they were seen, and zeros.
#[derive(Clone, Copy, Default)]
struct Bits {
    acc: u64,
    left: u32,
}

impl Bits {
    /// Takes as many of the next eight bytes as fit, after which at least 56 bits are held;
    /// returns how many.
    #[inline(always)]
    fn refill(&mut self, next: &[u8; 8]) -> usize {
        // What is set already below the bits held was set from these same bytes.
        self.acc |= u64::from_be_bytes(*next) >> self.left;
        let taken = (63 - self.left) / 8;
        self.left += taken * 8;
        taken as usize
    }

    #[inline(always)]
    fn look(&self) -> Entry {
        Entry(STEPS[(self.acc >> (64 - STEP)) as usize])
    }

    /// Drops the bits of all symbols of `entry`.
    #[inline(always)]
    fn skip(&mut self, entry: Entry) {
        // The shift takes the low six bits of the entry as they are: one instruction between two
        // looks.
        self.acc = self.acc.wrapping_shl(entry.0);
        self.left -= entry.bits();
    }

    fn skip_long(&mut self, bits: u32) {
        self.acc <<= bits;
        self.left -= bits;
    }
}

/// The last bits of a string, `left` of them (at most 63 and seven bytes), from the top of `high`
/// to `low`; below them ones, as if the padding went on for ever.
struct Tail {
    high: u64,
    low: u64,
    left: u32,
}

impl Tail {
    /// The bits held and the last `rest` bytes, fewer than eight, of `input`.
    #[inline(always)]
    fn new(bits: Bits, input: &[u8], rest: usize) -> Self {
        let last = match input.last_chunk::<8>() {
            Some(last) => u64::from_be_bytes(*last),
            None => input.iter().fold(0, |word, &b| word << 8 | u64::from(b)),
        };
        // The last bytes, then ones; what `bits` holds of them already is set as it is here.
        let rest_bits = 8 * rest as u32;
        let word = last.unbounded_shl(64 - rest_bits) | u64::MAX >> rest_bits;
        let below = u64::MAX >> bits.left;
        Self {
            high: bits.acc | word >> bits.left,
            low: word.unbounded_shl(64 - bits.left) | below,
            left: bits.left + rest_bits,
        }
    }

    #[inline(always)]
    fn look(&self) -> Entry {
        Entry(STEPS[(self.high >> (64 - STEP)) as usize])
    }

    /// Drops 1 to 63 bits.
    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.high = self.high << bits | self.low >> (64 - bits);
        self.low = self.low << bits | ((1 << bits) - 1);
        self.left -= bits;
    }

    /// True when all that is left is a legal end: up to seven ones.
    fn is_padding(&self) -> bool {
        self.left < 8 && self.high == u64::MAX
    }
}

/// Decodes one symbol whose code is longer than a look: the symbol and the length of its code.
#[cold]
fn long_symbol(acc: u64, left: u32) -> Result<(u8, u32), HuffmanError> {
    let top = (acc >> (64 - MAX_LEN)) as u32;
    for (len, group) in GROUPS.iter().enumerate().skip(STEP as usize + 1) {
        let code = top >> (MAX_LEN - len);
        if group.count > 0 && code < group.first_code + u32::from(group.count) {
            let index = group.first_index + (code - group.first_code) as u16;
            let symbol = SORTED[index as usize];
            if len as u32 > left || symbol as usize == EOS {
                return Err(HuffmanError::Invalid);
            }
            return Ok((symbol as u8, len as u32));
        }
    }
    Err(HuffmanError::Invalid)
}

/// What one look of `STEP` bits decodes to, from the lowest bit: six bits for the length of the
/// codes together, two for the number of symbols (0: the code is longer than a look), eight for the
/// length of the first code, sixteen for the symbols.
#[derive(Clone, Copy)]
struct Entry(u32);

impl Entry {
    const fn new(symbols: u32, count: u32, bits: u32, first_bits: u32) -> Self {
        Self(bits | count << 6 | first_bits << 8 | symbols << 16)
    }

    #[inline(always)]
    fn symbols(self) -> [u8; 2] {
        ((self.0 >> 16) as u16).to_le_bytes()
    }

    #[inline(always)]
    fn count(self) -> usize {
        (self.0 >> 6 & 3) as usize
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 & 63
    }

    #[inline(always)]
    fn first_bits(self) -> u32 {
        self.0 >> 8 & 0xff
    }
}

/// The symbols of one code length.
#[derive(Clone, Copy)]
struct Group {
    first_code: u32,
    /// Index of the first one in [`SORTED`].
    first_index: u16,
    count: u16,
}

const GROUPS: [Group; MAX_LEN + 1] = groups();
const SORTED: [u16; 257] = sorted();
const CODES: [u32; 257] = codes();
static STEPS: [u32; 1 << STEP] = steps();

const fn groups() -> [Group; MAX_LEN + 1] {
    let empty = Group {
        first_code: 0,
        first_index: 0,
        count: 0,
    };
    let mut groups = [empty; MAX_LEN + 1];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        groups[LENGTHS[symbol] as usize].count += 1;
        symbol += 1;
    }
    let mut len = 1;
    while len <= MAX_LEN {
        let shorter = groups[len - 1];
        groups[len].first_code = (shorter.first_code + shorter.count as u32) << 1;
        groups[len].first_index = shorter.first_index + shorter.count;
        len += 1;
    }
    groups
}

/// The symbols in the order of their codes.
const fn sorted() -> [u16; 257] {
    let mut next = GROUPS;
    let mut sorted = [0; 257];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        let group = &mut next[LENGTHS[symbol] as usize];
        sorted[group.first_index as usize] = symbol as u16;
        group.first_index += 1;
        symbol += 1;
    }
    sorted
}

const fn codes() -> [u32; 257] {
    let mut next = GROUPS;
    let mut codes = [0; 257];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        let group = &mut next[LENGTHS[symbol] as usize];
        codes[symbol] = group.first_code;
        group.first_code += 1;
        symbol += 1;
    }
    codes
}

const fn steps() -> [u32; 1 << STEP] {
    let mut steps = [0; 1 << STEP];
    let mut look = 0;
    while look < steps.len() {
        if let Some((first, first_bits)) = short_symbol(look as u32, STEP) {
            let rest_bits = STEP - first_bits;
            let rest = look as u32 & ((1 << rest_bits) - 1);
            let entry = match short_symbol(rest, rest_bits) {
                Some((second, bits)) => {
                    Entry::new(first | second << 8, 2, first_bits + bits, first_bits)
                }
                None => Entry::new(first, 1, first_bits, first_bits),
            };
            steps[look] = entry.0;
        }
        look += 1;
    }
    steps
}

/// The symbol whose whole code stands at the top of a number of `available` bits, and its length.
const fn short_symbol(bits: u32, available: u32) -> Option<(u32, u32)> {
    let mut len = 5;
    while len <= available {
        let group = GROUPS[len as usize];
        let code = bits >> (available - len);
        if group.count > 0 && code < group.first_code + group.count as u32 {
            let index = group.first_index as u32 + code - group.first_code;
            return Some((SORTED[index as usize] as u32, len));
        }
        len += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, HuffmanError> {
        let mut out = vec![0; input.len() * 8 / 5 + SLACK];
        let decoded = decode(input, &mut out)?;
        out.truncate(decoded.len);
        let control = |b: &u8| b.is_ascii_control();
        assert!(decoded.rare || !out.iter().any(control), "{out:?}");
        Ok(out)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 7541 appendices C.4 and C.6.
    #[test]
    fn rfc7541_examples() {
        let cases = [
            ("www.example.com", "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
            ("no-cache", "a8eb 1064 9cbf"),
            ("custom-key", "25a8 49e9 5ba9 7d7f"),
            ("custom-value", "25a8 49e9 5bb8 e8b4 bf"),
            ("302", "6402"),
            ("private", "aec3 771a 4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
            ),
            (
                "https://www.example.com",
                "9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3",
            ),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587
                 3160 65c0 03ed 4ee5 b106 3d50 07",
            ),
        ];
        for (text, code) in cases {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, hex(code), "{text}");
            assert_eq!(encoded_len(text.as_bytes()), out.len());
            assert_eq!(decoded(&out).as_deref(), Ok(text.as_bytes()));
        }
    }

    /// Rows of RFC 7541 appendix B from each end of the table.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let rows = [
            (b'0', 0x0, 5),
            (b't', 0x9, 5),
            (b'a', 0x3, 5),
            (b' ', 0x14, 6),
            (b'z', 0x7b, 7),
            (b'\\', 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (b'\n', 0x3ffffffc, 30),
            (249, 0xffffffe, 28),
        ];
        for (symbol, code, len) in rows {
            assert_eq!(
                (CODES[symbol as usize], LENGTHS[symbol as usize]),
                (code, len)
            );
        }
        assert_eq!(CODES[EOS], 0x3fffffff);
    }

    /// RFC 7541 section 5.2: padding is the top of EOS and shorter than a byte.
    #[test]
    fn padding_is_checked() {
        let zero_padding = [0b0001_1000]; // "a", then zeros
        let full_byte = [0b0001_1111, 0xff]; // "a", then eleven ones
        let eos = [0xff, 0xff, 0xff, 0xff];
        for bad in [&zero_padding[..], &full_byte, &eos, &[0xff], &[0x00, 0xfe]] {
            assert_eq!(decoded(bad), Err(HuffmanError::Invalid), "{bad:x?}");
        }
        assert_eq!(decoded(&[0b0001_1111]).as_deref(), Ok(&b"a"[..]));
        assert_eq!(decoded(&[]).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn never_writes_past_the_room_it_has() {
        let mut code = Vec::new();
        encode(b"0123456789abcdef", &mut code);
        for room in 0..16 {
            let mut out = vec![0; room];
            let decoded = decode(&code, &mut out);
            assert_eq!(decoded, Err(HuffmanError::TooLong), "{room}");
        }
        let mut out = [0; 16 + SLACK];
        assert_eq!(decode(&code, &mut out).map(|d| d.len), Ok(16));
    }

    #[test]
    fn every_pair_of_bytes_survives() {
        let all: Vec<u8> = (0..=255).collect();
        for first in &all {
            let mut pairs: Vec<u8> = all.iter().flat_map(|second| [*first, *second]).collect();
            pairs.push(*first);
            let mut code = Vec::new();
            encode(&pairs, &mut code);
            assert_eq!(decoded(&code).as_deref(), Ok(&pairs[..]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn roundtrip(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut code = Vec::new();
            encode(&text, &mut code);
            prop_assert_eq!(decoded(&code), Ok(text));
        }

        /// Whatever decodes at all has exactly one code: decode is the inverse of encode.
        #[test]
        fn decodes_only_what_encode_makes(code in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(text) = decoded(&code) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, code);
            }
        }
    }
}
