//! How an object lies in the log: a fixed header, the key, the head, the body.
//!
//! ```text
//!  offset 0                 64
//!         [ fixed header    | key | head | body (up to 64 KiB)              ] pad to 64
//!         [ fixed header    | key | head | (segment u32, generation u32)... ] pad to 64
//!         [ fixed header    | bytes of a body that is still being filled    ] pad to 64
//! ```
//! The second form is a large object: its body lies in the listed extents, all full but the last. The
//! third is garbage once its fill has ended.
//!
//! Fixed header, little endian:
//! ```text
//!   0 magic u32 (says which form)     24 stored_unix_ms u64       48 head_len u32
//!   4 crc32c u32 of all else          32 age_at_store_s u32       52 key_len u16
//!   8 epoch u32                       36 lifetime_s u32           54 status u16
//!  12 flags u32                       40 stale_while_reval. u32   56 large u32 (second form)
//!  16 body_len u64                    44 stale_if_error_s u32     60 zero u32
//! ```
//! An object costs 64 bytes of header and 32 of padding on average beside key, head and body; the
//! index adds 8 bytes a slot and the frequency 1. A header that does not check is no object.

use crate::store::ObjectMeta;

/// Records begin at multiples of this.
pub(crate) const ALIGN: u32 = 64;
pub(crate) const HEADER_BYTES: u32 = 64;
/// Longest body that is kept in one piece.
pub(crate) const MAX_CONTIGUOUS: u64 = 64 << 10;
/// Longest key, in bytes.
pub(crate) const MAX_KEY: usize = u16::MAX as usize;
/// Longest response head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Bytes of one extent.
pub(crate) const EXTENT_BYTES: u32 = 128 << 10;
/// Largest body whatever the configuration says: its list of extents is 64 KiB.
pub(crate) const MAX_OBJECT: u64 = 1 << 30;
const LISTED_BYTES: u64 = 8;

/// What follows key and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The body.
    Contiguous,
    /// A list of extents.
    Extents,
    /// Bytes of a fill; neither key nor head.
    Piece,
}

impl Form {
    fn magic(self) -> u32 {
        u32::from_le_bytes(*match self {
            Self::Contiguous => b"pcR1",
            Self::Extents => b"pcX1",
            Self::Piece => b"pcP1",
        })
    }

    fn of(magic: u32) -> Option<Self> {
        [Self::Contiguous, Self::Extents, Self::Piece]
            .into_iter()
            .find(|form| form.magic() == magic)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    pub form: Form,
    pub meta: ObjectMeta,
    pub key_len: u16,
    pub head_len: u32,
    /// The partition's epoch when the object was begun.
    pub epoch: u32,
    /// The owner's number of a large object.
    pub large: u32,
}

impl Header {
    /// The header of bytes that belong to a fill.
    pub fn piece(len: usize) -> Self {
        Self {
            form: Form::Piece,
            meta: ObjectMeta {
                body_len: len as u64,
                ..ObjectMeta::default()
            },
            key_len: 0,
            head_len: 0,
            epoch: 0,
            large: 0,
        }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        let meta = &self.meta;
        put(&mut bytes, 0, &self.form.magic().to_le_bytes());
        put(&mut bytes, 8, &self.epoch.to_le_bytes());
        put(&mut bytes, 12, &meta.flags.to_le_bytes());
        put(&mut bytes, 16, &meta.body_len.to_le_bytes());
        put(&mut bytes, 24, &meta.stored_unix_ms.to_le_bytes());
        put(&mut bytes, 32, &meta.age_at_store_s.to_le_bytes());
        put(&mut bytes, 36, &meta.lifetime_s.to_le_bytes());
        put(&mut bytes, 40, &meta.stale_while_revalidate_s.to_le_bytes());
        put(&mut bytes, 44, &meta.stale_if_error_s.to_le_bytes());
        put(&mut bytes, 48, &self.head_len.to_le_bytes());
        put(&mut bytes, 52, &self.key_len.to_le_bytes());
        put(&mut bytes, 54, &meta.status.to_le_bytes());
        put(&mut bytes, 56, &self.large.to_le_bytes());
        let crc = checksum(&bytes);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// `None`: no header, or a damaged one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES as usize] = bytes.get(..64)?.try_into().ok()?;
        let form = Form::of(u32::from_le_bytes(take(bytes, 0)))?;
        if u32::from_le_bytes(take(bytes, 4)) != checksum(bytes) {
            return None;
        }
        let header = Self {
            form,
            meta: ObjectMeta {
                flags: u32::from_le_bytes(take(bytes, 12)),
                body_len: u64::from_le_bytes(take(bytes, 16)),
                stored_unix_ms: u64::from_le_bytes(take(bytes, 24)),
                age_at_store_s: u32::from_le_bytes(take(bytes, 32)),
                lifetime_s: u32::from_le_bytes(take(bytes, 36)),
                stale_while_revalidate_s: u32::from_le_bytes(take(bytes, 40)),
                stale_if_error_s: u32::from_le_bytes(take(bytes, 44)),
                status: u16::from_le_bytes(take(bytes, 54)),
                ..ObjectMeta::default()
            },
            epoch: u32::from_le_bytes(take(bytes, 8)),
            head_len: u32::from_le_bytes(take(bytes, 48)),
            key_len: u16::from_le_bytes(take(bytes, 52)),
            large: u32::from_le_bytes(take(bytes, 56)),
        };
        header.is_possible().then_some(header)
    }

    /// Where the head begins, counted from the record.
    pub fn head_start(&self) -> u32 {
        HEADER_BYTES + u32::from(self.key_len)
    }

    /// Where the body or the list of extents begins, counted from the record.
    pub fn tail_start(&self) -> u32 {
        self.head_start() + self.head_len
    }

    /// Bytes of the body or of the list of extents in the record.
    pub fn tail_len(&self) -> u32 {
        match self.form {
            Form::Contiguous | Form::Piece => self.meta.body_len as u32,
            Form::Extents => self.extents() * LISTED_BYTES as u32,
        }
    }

    /// Bytes of the record without padding.
    pub fn record_len(&self) -> u32 {
        self.tail_start() + self.tail_len()
    }

    /// Extents that the body takes.
    pub fn extents(&self) -> u32 {
        match self.form {
            Form::Contiguous | Form::Piece => 0,
            Form::Extents => self.meta.body_len.div_ceil(u64::from(EXTENT_BYTES)) as u32,
        }
    }

    /// Bytes of memory that the object takes.
    pub fn footprint(&self) -> u64 {
        let record = self.record_len().next_multiple_of(ALIGN);
        u64::from(record) + u64::from(self.extents()) * u64::from(EXTENT_BYTES)
    }

    /// Whether the lengths are such that the sums above cannot overflow.
    fn is_possible(&self) -> bool {
        let longest = match self.form {
            Form::Contiguous | Form::Piece => MAX_CONTIGUOUS,
            Form::Extents => MAX_OBJECT,
        };
        self.meta.body_len <= longest && self.head_len as usize <= MAX_HEAD
    }
}

/// One entry of a list of extents: the extent and its generation.
pub(crate) fn listed(extent: u32, generation: u32) -> [u8; LISTED_BYTES as usize] {
    (u64::from(generation) << 32 | u64::from(extent)).to_le_bytes()
}

/// Reads a list of extents.
pub(crate) fn unlist(list: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    list.as_chunks().0.iter().map(|entry| {
        let entry = u64::from_le_bytes(*entry);
        (entry as u32, (entry >> 32) as u32)
    })
}

/// Bytes of the body in its extent number `i`.
pub(crate) fn extent_len(body_len: u64, i: usize) -> u32 {
    let before = i as u64 * u64::from(EXTENT_BYTES);
    body_len.saturating_sub(before).min(u64::from(EXTENT_BYTES)) as u32
}

/// Of all but the checksum itself.
fn checksum(bytes: &[u8; HEADER_BYTES as usize]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..])
}

fn put(bytes: &mut [u8; HEADER_BYTES as usize], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn take<const N: usize>(bytes: &[u8; HEADER_BYTES as usize], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(form: Form) -> Header {
        Header {
            form,
            meta: ObjectMeta {
                status: 206,
                stored_unix_ms: 1_700_000_000_123,
                age_at_store_s: 7,
                lifetime_s: u32::MAX,
                stale_while_revalidate_s: 60,
                stale_if_error_s: 600,
                flags: 0x8000_0001,
                body_len: 60_000,
                ..ObjectMeta::default()
            },
            key_len: 300,
            head_len: 1_000,
            epoch: 9,
            large: 5,
        }
    }

    #[test]
    fn headers_survive_encoding() {
        for form in [Form::Contiguous, Form::Extents, Form::Piece] {
            assert_eq!(Header::decode(&header(form).encode()), Some(header(form)));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = header(Form::Extents).encode();
        for bit in 0..64 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn impossible_lengths_and_short_slices_are_no_headers() {
        let mut long = header(Form::Contiguous);
        long.meta.body_len = MAX_CONTIGUOUS + 1;
        assert_eq!(Header::decode(&long.encode()), None);
        long.meta.body_len = 0;
        long.head_len = u32::MAX;
        assert_eq!(Header::decode(&long.encode()), None);
        assert_eq!(Header::decode(&header(Form::Piece).encode()[..63]), None);
        assert_eq!(Header::decode(&[0; 64]), None);
    }

    #[test]
    fn a_large_body_is_cut_in_full_extents_and_a_rest() {
        let mut large = header(Form::Extents);
        large.meta.body_len = 3 * u64::from(EXTENT_BYTES) + 1;
        assert_eq!((large.extents(), large.tail_len()), (4, 32));
        let lens: Vec<u32> = (0..5).map(|i| extent_len(large.meta.body_len, i)).collect();
        assert_eq!(lens, [EXTENT_BYTES, EXTENT_BYTES, EXTENT_BYTES, 1, 0]);
        let list = [listed(7, 1), listed(u32::MAX, u32::MAX)].concat();
        let read: Vec<_> = unlist(&list).collect();
        assert_eq!(read, [(7, 1), (u32::MAX, u32::MAX)]);
    }
}
