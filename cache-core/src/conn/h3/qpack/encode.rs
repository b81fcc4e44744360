//! Writes field sections (RFC 9204 section 4.5) that refer to the static table only.

use super::huffman;
use super::static_table::{self, Reference};

/// Appends the prefix of a section: no dynamic table, Base 0.
pub fn write_prefix(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends a field in the shortest form there is: for sections that are kept and sent often.
/// `name` must be in lower case.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match static_table::find(name, value) {
        Some(Reference::Field(index)) => {
            write_prefixed_int(out, 0b1100_0000, 6, u64::from(index));
        }
        Some(Reference::Name(index)) => {
            write_name_reference(out, index);
            write_text(out, 0, 7, value);
        }
        None => {
            write_text(out, 0b0010_0000, 3, name);
            write_text(out, 0, 7, value);
        }
    }
}

/// Appends a field with the name of static entry `index` and a plain value: cheap to write.
#[inline]
pub fn write_plain_field(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    write_name_reference(out, index);
    write_prefixed_int(out, 0, 7, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends the first half of a literal field line, the name of static entry `index`.
#[inline]
pub fn write_name_reference(out: &mut Vec<u8>, index: u8) {
    write_prefixed_int(out, 0b0101_0000, 4, u64::from(index));
}

/// Appends an integer (RFC 7541 section 5.1) below the bits of `first`.
#[inline]
pub fn write_prefixed_int(out: &mut Vec<u8>, first: u8, prefix: u32, value: u64) {
    let max = (1u64 << prefix) - 1;
    if value < max {
        out.push(first | value as u8);
        return;
    }
    out.push(first | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string, Huffman-coded where that is shorter. The Huffman bit stands above the prefix.
fn write_text(out: &mut Vec<u8>, first: u8, prefix: u32, text: &[u8]) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        write_prefixed_int(out, first | 1 << prefix, prefix, coded as u64);
        huffman::encode(text, out);
    } else {
        write_prefixed_int(out, first, prefix, text.len() as u64);
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lines, Name, Text};
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// RFC 7541 appendix C.1.
    #[test]
    fn integers() {
        assert_eq!(written(|o| write_prefixed_int(o, 0, 5, 10)), [10]);
        assert_eq!(
            written(|o| write_prefixed_int(o, 0, 5, 1337)),
            [31, 154, 10]
        );
        assert_eq!(written(|o| write_prefixed_int(o, 0, 8, 42)), [42]);
        assert_eq!(written(|o| write_prefixed_int(o, 0x80, 7, 127)), [0xff, 0]);
    }

    #[test]
    fn the_shortest_form_is_chosen() {
        assert_eq!(written(|o| write_field(o, b":status", b"200")), [0xd9]);
        assert_eq!(
            written(|o| write_field(o, b":path", b"/index.html")).len(),
            1 + 1 + huffman::encoded_len(b"/index.html")
        );
        // "~~" is longer in the Huffman code, so it stays plain.
        assert_eq!(written(|o| write_field(o, b"~", b"~~")), *b"\x21~\x02~~");
        assert_eq!(written(|o| write_plain_field(o, 2, b"17")), *b"\x52\x0217");
    }

    proptest! {
        #[test]
        fn decode_gives_back_what_was_written(
            fields in prop::collection::vec(("[a-z-]{1,40}", prop::collection::vec(any::<u8>(), 0..300)), 0..20)
        ) {
            let mut section = Vec::new();
            write_prefix(&mut section);
            for (name, value) in &fields {
                write_field(&mut section, name.as_bytes(), value);
            }
            let mut lines = Lines::new(&section).unwrap();
            let mut scratch = [0; 512];
            for (name, value) in &fields {
                let line = lines.next_line().unwrap().unwrap();
                let read = match line.name {
                    Name::Static(index) => static_table::ENTRIES[index as usize].0.to_vec(),
                    Name::Literal(text) => {
                        let len = text.decode(&mut scratch).unwrap().len;
                        scratch[..len].to_vec()
                    }
                };
                prop_assert_eq!(read, name.as_bytes());
                let len = Text::decode(line.value, &mut scratch).unwrap().len;
                prop_assert_eq!(&scratch[..len], &value[..]);
            }
            prop_assert!(lines.next_line().unwrap().is_none());
        }
    }
}
