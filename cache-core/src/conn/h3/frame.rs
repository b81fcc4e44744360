//! Frames and their headers: `type (varint), length (varint), payload` (RFC 9114 section 7).
//!
//! A header may be split at any byte, so [`HeaderReader`] keeps the bytes of one unfinished header
//! (never more than [`MAX_HEADER`]) and nothing else.

/// Frame types (RFC 9114 section 7.2, RFC 9218 section 7).
pub mod kind {
    pub const DATA: u64 = 0x0;
    pub const HEADERS: u64 = 0x1;
    pub const CANCEL_PUSH: u64 = 0x3;
    pub const SETTINGS: u64 = 0x4;
    pub const PUSH_PROMISE: u64 = 0x5;
    pub const GOAWAY: u64 = 0x7;
    pub const MAX_PUSH_ID: u64 = 0xd;
    pub const PRIORITY_UPDATE_REQUEST: u64 = 0xf0700;
    pub const PRIORITY_UPDATE_PUSH: u64 = 0xf0701;

    /// Types of HTTP/2 that HTTP/3 forbids (RFC 9114 section 7.2.8).
    pub fn is_http2_only(kind: u64) -> bool {
        matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
    }
}

/// The longest frame header: two varints of eight bytes.
pub const MAX_HEADER: usize = 16;

/// The largest number a varint holds.
pub const MAX_VARINT: u64 = (1 << 62) - 1;

/// Type and payload length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: u64,
    pub length: u64,
}

impl FrameHeader {
    /// Reads a whole header from the start of `data`: the header and its length in bytes, or
    /// `None` when `data` ends inside it.
    pub fn parse(data: &[u8]) -> Option<(Self, usize)> {
        let (kind, n) = read_varint(data)?;
        let (length, m) = read_varint(&data[n..])?;
        Some((Self { kind, length }, n + m))
    }

    /// Appends the header in its shortest form.
    pub fn write(self, out: &mut Vec<u8>) {
        write_varint(out, self.kind);
        write_varint(out, self.length);
    }

    /// Bytes that [`Self::write`] appends.
    pub fn encoded_len(self) -> usize {
        varint_len(self.kind) + varint_len(self.length)
    }
}

/// Collects one frame header over chunk boundaries.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderReader {
    partial: [u8; MAX_HEADER],
    len: u8,
}

impl HeaderReader {
    /// Takes header bytes off the front of `data`. `None`: all of `data` was taken and more is
    /// needed.
    pub fn read(&mut self, data: &mut &[u8]) -> Option<FrameHeader> {
        if self.len == 0
            && let Some((header, used)) = FrameHeader::parse(data)
        {
            *data = &data[used..];
            return Some(header);
        }
        while let Some((&byte, rest)) = data.split_first() {
            // A header is complete at MAX_HEADER bytes at the latest, so this stays in bounds.
            self.partial[self.len as usize] = byte;
            self.len += 1;
            *data = rest;
            if let Some((header, _)) = FrameHeader::parse(&self.partial[..self.len as usize]) {
                self.len = 0;
                return Some(header);
            }
        }
        None
    }

    /// True when no byte of an unfinished header is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Reads a varint (RFC 9000 section 16) and its length in bytes; `None` when `data` ends inside it.
#[inline]
pub fn read_varint(data: &[u8]) -> Option<(u64, usize)> {
    let first = *data.first()?;
    let len = 1usize << (first >> 6);
    if len == 1 {
        return Some((u64::from(first), 1));
    }
    let bytes = data.get(..len)?;
    let value = bytes[1..]
        .iter()
        .fold(u64::from(first & 0x3f), |v, &b| v << 8 | u64::from(b));
    Some((value, len))
}

/// Appends `value` as the shortest varint. Values above [`MAX_VARINT`] are our own bug.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(0x4000 | value as u16).to_be_bytes()),
        0x4000..=0x3fff_ffff => {
            out.extend_from_slice(&(0x8000_0000 | value as u32).to_be_bytes());
        }
        _ => {
            assert!(value <= MAX_VARINT, "varint out of range");
            out.extend_from_slice(&((0b11 << 62) | value).to_be_bytes());
        }
    }
}

/// Bytes of the shortest varint.
fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 9000 appendix A.1.
    #[test]
    fn varint_examples() {
        let cases: [(&[u8], u64); 5] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in cases {
            assert_eq!(read_varint(bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(read_varint(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn varint_boundaries_use_the_shortest_form() {
        for (value, len) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16_383, 2),
            (16_384, 4),
            ((1 << 30) - 1, 4),
            (1 << 30, 8),
            (MAX_VARINT, 8),
        ] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out.len(), len, "{value}");
            assert_eq!(read_varint(&out), Some((value, len)));
        }
    }

    proptest! {
        #[test]
        fn header_survives_any_split(kind in 0..=MAX_VARINT, length in 0..=MAX_VARINT, cut in 0usize..17) {
            let mut bytes = Vec::new();
            FrameHeader { kind, length }.write(&mut bytes);
            let end = bytes.len();
            bytes.push(0xaa);
            let cut = cut.min(end);
            let mut reader = HeaderReader::default();
            let (mut a, mut b) = bytes.split_at(cut);
            let got = reader.read(&mut a).or_else(|| reader.read(&mut b));
            prop_assert_eq!(got, Some(FrameHeader { kind, length }));
            prop_assert!(reader.is_empty());
            prop_assert_eq!(a.len() + b.len(), 1);
        }
    }
}
