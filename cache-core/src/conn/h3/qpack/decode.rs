//! Reads the lines of a field section (RFC 9204 section 4.5).

use super::huffman::{self, Decoded, HuffmanError};
use super::static_table;

/// Why bytes are not a field section that this decoder accepts: QPACK_DECOMPRESSION_FAILED, a
/// connection error, with the reason; or too long a string for the room given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    Failed(&'static str),
    TooLong,
}

/// Iterates over the lines of one whole field section.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

/// One field, its strings not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub name: Name<'a>,
    pub value: Text<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// The name of this entry of the static table; always in range.
    Static(u8),
    Literal(Text<'a>),
}

/// A string, perhaps Huffman-coded.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    Plain(&'a [u8]),
    Huffman(&'a [u8]),
}

impl<'a> Lines<'a> {
    /// Reads the prefix: nothing may refer to a dynamic table.
    pub fn new(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut lines = Self { rest: section };
        let (_, insert_count) = lines.prefixed_int(8)?;
        if insert_count != 0 {
            return Err(DecodeError::Failed("Required Insert Count is not 0"));
        }
        let (first, _delta) = lines.prefixed_int(7)?;
        if first & 0x80 != 0 {
            return Err(DecodeError::Failed("Base is negative"));
        }
        Ok(lines)
    }

    /// The bytes of the lines that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next line, or `None` at the end of the section.
    #[inline]
    pub fn next_line(&mut self) -> Result<Option<Line<'a>>, DecodeError> {
        let Some(&first) = self.rest.first() else {
            return Ok(None);
        };
        let line = match first {
            0b1100_0000.. => {
                let index = self.static_index(6)?;
                let value = Text::Plain(static_table::ENTRIES[index as usize].1);
                Line {
                    name: Name::Static(index),
                    value,
                }
            }
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => Line {
                name: Name::Static(self.static_index(4)?),
                value: self.text(7)?,
            },
            0b0010_0000..=0b0011_1111 => Line {
                name: Name::Literal(self.text(3)?),
                value: self.text(7)?,
            },
            _ => return Err(DecodeError::Failed("reference to the dynamic table")),
        };
        Ok(Some(line))
    }

    fn static_index(&mut self, prefix: u32) -> Result<u8, DecodeError> {
        match self.prefixed_int(prefix)?.1 {
            index if index < static_table::ENTRIES.len() as u64 => Ok(index as u8),
            _ => Err(DecodeError::Failed("static table index out of range")),
        }
    }

    /// A string whose length has a prefix of `prefix` bits, with the Huffman bit above it.
    #[inline]
    fn text(&mut self, prefix: u32) -> Result<Text<'a>, DecodeError> {
        let (first, len) = self.prefixed_int(prefix)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::Failed("string runs past the section"));
        };
        self.rest = rest;
        Ok(if first >> prefix & 1 == 1 {
            Text::Huffman(bytes)
        } else {
            Text::Plain(bytes)
        })
    }

    /// An integer (RFC 7541 section 5.1) and the byte it began in.
    #[inline]
    fn prefixed_int(&mut self, prefix: u32) -> Result<(u8, u64), DecodeError> {
        let Some((&first, rest)) = self.rest.split_first() else {
            return Err(DecodeError::Failed("section ends inside a line"));
        };
        self.rest = rest;
        let max = (1u64 << prefix) - 1;
        let low = u64::from(first) & max;
        if low < max {
            return Ok((first, low));
        }
        Ok((first, self.int_tail(max)?))
    }

    fn int_tail(&mut self, mut value: u64) -> Result<u64, DecodeError> {
        for shift in (0..56).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else {
                return Err(DecodeError::Failed("section ends inside an integer"));
            };
            self.rest = rest;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Failed("integer is too long"))
    }
}

impl Text<'_> {
    /// What [`Self::decode`] needs at most.
    pub fn room(&self) -> usize {
        match self {
            Text::Plain(bytes) => bytes.len(),
            // The shortest code has five bits.
            Text::Huffman(bytes) => bytes.len() * 8 / 5 + huffman::SLACK,
        }
    }

    /// Decodes to the front of `out`, which must be longer than the string by [`huffman::SLACK`]
    /// bytes; those may be overwritten.
    #[inline]
    pub fn decode(self, out: &mut [u8]) -> Result<Decoded, DecodeError> {
        match self {
            Text::Plain(bytes) => {
                let room = out.get_mut(..bytes.len()).ok_or(DecodeError::TooLong)?;
                room.copy_from_slice(bytes);
                Ok(Decoded {
                    len: bytes.len(),
                    rare: true,
                })
            }
            Text::Huffman(bytes) => huffman::decode(bytes, out).map_err(|error| match error {
                HuffmanError::Invalid => DecodeError::Failed("invalid Huffman code"),
                HuffmanError::TooLong => DecodeError::TooLong,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, Vec<u8>);

    fn decode(section: &[u8]) -> Result<Vec<Owned>, DecodeError> {
        let text = |text: Text<'_>| -> Result<Vec<u8>, DecodeError> {
            let mut out = vec![0; 4096];
            let len = text.decode(&mut out)?.len;
            out.truncate(len);
            Ok(out)
        };
        let mut lines = Lines::new(section)?;
        let mut fields = Vec::new();
        while let Some(line) = lines.next_line()? {
            let name = match line.name {
                Name::Static(index) => static_table::ENTRIES[index as usize].0.to_vec(),
                Name::Literal(name) => text(name)?,
            };
            fields.push((name, text(line.value)?));
        }
        Ok(fields)
    }

    /// RFC 9204 appendix B.1: the only example without a dynamic table.
    #[test]
    fn rfc9204_literal_with_name_reference() {
        let section = *b"\x00\x00\x51\x0b/index.html";
        assert_eq!(
            decode(&section),
            Ok(vec![(b":path".to_vec(), b"/index.html".to_vec())])
        );
    }

    /// RFC 9204 appendices B.2 and B.4: sections that need the dynamic table.
    #[test]
    fn rfc9204_dynamic_examples_are_refused() {
        let sections: [&[u8]; 3] = [
            &[0x03, 0x81, 0x10, 0x11],
            &[0x05, 0x00, 0x80, 0xc1, 0x81],
            &[0x00, 0x00, 0x80],
        ];
        for section in sections {
            assert!(matches!(decode(section), Err(DecodeError::Failed(_))));
        }
    }

    /// RFC 7541 appendix C.1, through a line whose index or length it is.
    #[test]
    fn integers() {
        let mut lines = Lines {
            rest: &[
                0b1110_1010,
                0b0001_1111,
                0b1001_1010,
                0b0000_1010,
                0b0010_1010,
            ],
        };
        assert_eq!(lines.prefixed_int(5), Ok((0b1110_1010, 10)));
        assert_eq!(lines.prefixed_int(5), Ok((0b0001_1111, 1337)));
        assert_eq!(lines.prefixed_int(8), Ok((42, 42)));
        assert!(lines.prefixed_int(8).is_err());
    }

    #[test]
    fn every_failure_is_named() {
        let failed = |section: &[u8]| match decode(section) {
            Err(DecodeError::Failed(reason)) => reason,
            other => panic!("{section:x?}: {other:?}"),
        };
        assert_eq!(failed(&[]), "section ends inside a line");
        assert_eq!(failed(&[0]), "section ends inside a line");
        assert_eq!(failed(&[1, 0]), "Required Insert Count is not 0");
        assert_eq!(failed(&[0, 0x80]), "Base is negative");
        assert_eq!(failed(&[0, 0, 0x10]), "reference to the dynamic table");
        assert_eq!(failed(&[0, 0, 0x40, 0]), "reference to the dynamic table");
        assert_eq!(failed(&[0, 0, 0x00, 0]), "reference to the dynamic table");
        assert_eq!(failed(&[0, 0, 0xff, 36]), "static table index out of range");
        assert_eq!(
            failed(&[0, 0, 0x51, 5, b'/']),
            "string runs past the section"
        );
        assert_eq!(failed(&[0, 0, 0xff]), "section ends inside an integer");
        assert_eq!(failed(&[0, 0, 0x51, 0x81, 0]), "invalid Huffman code");
        let mut long = vec![0, 0, 0x51, 0x7f];
        long.extend([0xff; 9]);
        assert_eq!(failed(&long), "integer is too long");
    }

    #[test]
    fn the_last_static_entry_can_be_named() {
        assert_eq!(
            decode(&[0, 0, 0xff, 35]),
            Ok(vec![(b"x-frame-options".to_vec(), b"sameorigin".to_vec())])
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn random_bytes_never_panic(section in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&section);
            let _ = decode(&[&[0, 0], &section[..]].concat());
        }
    }
}
