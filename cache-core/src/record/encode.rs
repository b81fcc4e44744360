//! The bytes of a header.
//!
//! ```text
//!  0 check   24 bits: CRC-32C of all that follows, tags included
//!  3 parts   form:2 | status | ages | flags | tags | rare | wide      a bit for each part present
//!  4 stored  u32, of 256 ms (a piece: its length, and that is all)
//!  8 key     int   length
//!    head    int   length
//!            u16   check
//!    body    u16   length; wide: u32
//!    lifetime      a byte for the usual ones ([`LIFETIMES`]), else 253 u16 or 254 u32
//!    stamp   int
//!    [large  u32]             of the form of extents
//!    [status u16]             unless 200
//!    [ages   int int int]     age at store, stale-while-revalidate, stale-if-error, unless all 0
//!    [flags  int]             unless 0
//!    [rare   u8 u8 u8]        class, high bits of the time, marks; unless 0, 1, 0
//!    [tags   wide:1 count:7]  and the tags
//! ```
//! All little endian. An int is a byte up to 252, or 253 and a u16, or 254 and a u32.

use super::{Form, Header, Marks, TagList};
use crate::purge::TagSlot;
use crate::store::ObjectMeta;

/// No header with its tags is longer.
pub(super) const MAX_HEADER: usize = 192;
const CHECK_BYTES: usize = 3;
/// Of a header that has nothing special: what the fixed part and a piece have in common.
const FIXED: usize = 8;

const FORM: u8 = 0b11;
const STATUS: u8 = 1 << 2;
const AGES: u8 = 1 << 3;
const FLAGS: u8 = 1 << 4;
const TAGS: u8 = 1 << 5;
const RARE: u8 = 1 << 6;
const WIDE: u8 = 1 << 7;

const USUAL_STATUS: u16 = 200;
/// Times are kept to a quarter of a second.
pub(super) const TIME_SHIFT: u32 = 8;
/// Bits of a time in milliseconds that a header without the rare part holds.
const TIME_BITS: u32 = 32 + TIME_SHIFT;
/// The rest of those bits from November 2004 to September 2039.
const USUAL_ERA: u8 = 1;
/// The latest time that can be kept, in milliseconds.
const MAX_TIME: u64 = (1 << (TIME_BITS + 8)) - 1;
const MARK_ANY_TAG: u8 = 1;
const MARK_PURGED_SOFTLY: u8 = 1 << 1;
const WIDE_TAGS: u8 = 1 << 7;

const INT_16: u8 = 253;
const INT_32: u8 = 254;

/// Seconds that origins are fond of; their place here is their code.
const LIFETIMES: [u32; 48] = [
    0, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600, 900, 1_200, 1_800, 2_700,
    3_600, 5_400, 7_200, 10_800, 14_400, 18_000, 21_600, 28_800, 36_000, 43_200, 64_800, 86_400,
    172_800, 259_200, 345_600, 432_000, 604_800, 864_000, 1_209_600, 2_419_200, 2_592_000,
    2_678_400, 5_184_000, 7_776_000, 15_552_000, 31_536_000, 31_557_600, 63_072_000,
];

/// A header as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

pub(super) fn encode(header: &Header, tags: &[TagSlot]) -> (TagList, Encoded) {
    let mut out = Encoded {
        bytes: [0; MAX_HEADER],
        len: CHECK_BYTES,
    };
    let list = match header.form {
        Form::Piece => out.put_piece(header),
        Form::Contiguous | Form::Extents => out.put_object(header, tags),
    };
    let check = checksum(&out.as_ref()[CHECK_BYTES..]);
    out.bytes[..CHECK_BYTES].copy_from_slice(&check);
    (list, out)
}

impl Encoded {
    fn put_piece(&mut self, header: &Header) -> TagList {
        self.put(&[form_bits(header.form)]);
        self.put(&(header.meta.body_len as u32).to_le_bytes());
        TagList {
            start: FIXED as u8,
            ..TagList::default()
        }
    }

    fn put_object(&mut self, header: &Header, tags: &[TagSlot]) -> TagList {
        let meta = &header.meta;
        let parts = parts(header, tags);
        let has = |part| parts & part != 0;
        let time = meta.stored_unix_ms.min(MAX_TIME);
        self.put(&[parts]);
        self.put(&((time >> TIME_SHIFT) as u32).to_le_bytes());
        self.put_int(u32::from(header.key_len));
        self.put_int(header.head_len);
        self.put(&header.head_check.to_le_bytes());
        let body_bytes = if has(WIDE) { 4 } else { 2 };
        self.put(&(meta.body_len as u32).to_le_bytes()[..body_bytes]);
        self.put_lifetime(meta.lifetime_s);
        self.put_int(meta.stamp);
        if header.form == Form::Extents {
            self.put(&header.large.to_le_bytes());
        }
        if has(STATUS) {
            self.put(&meta.status.to_le_bytes());
        }
        if has(AGES) {
            self.put_int(meta.age_at_store_s);
            self.put_int(meta.stale_while_revalidate_s);
            self.put_int(meta.stale_if_error_s);
        }
        if has(FLAGS) {
            self.put_int(meta.flags);
        }
        if has(RARE) {
            self.put(&[meta.class, era(time), header.marks.bits()]);
        }
        self.put_tags(tags)
    }

    fn put_tags(&mut self, tags: &[TagSlot]) -> TagList {
        let wide = tags.iter().any(|tag| tag.0 > u32::from(u16::MAX));
        let mark = if wide { WIDE_TAGS } else { 0 };
        if !tags.is_empty() {
            self.put(&[mark | tags.len() as u8]);
        }
        let start = self.len as u8;
        let each = if wide { 4 } else { 2 };
        for tag in tags {
            self.put(&tag.0.to_le_bytes()[..each]);
        }
        TagList {
            start,
            count: tags.len() as u8,
            wide,
        }
    }

    fn put_lifetime(&mut self, seconds: u32) {
        match LIFETIMES.iter().position(|usual| *usual == seconds) {
            Some(code) => self.put(&[code as u8]),
            None => self.put_long(seconds),
        }
    }

    fn put_int(&mut self, n: u32) {
        match u8::try_from(n) {
            Ok(n) if n < INT_16 => self.put(&[n]),
            _ => self.put_long(n),
        }
    }

    fn put_long(&mut self, n: u32) {
        match u16::try_from(n) {
            Ok(n) => {
                self.put(&[INT_16]);
                self.put(&n.to_le_bytes());
            }
            Err(_) => {
                self.put(&[INT_32]);
                self.put(&n.to_le_bytes());
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

fn form_bits(form: Form) -> u8 {
    // Not zero, so that zeroed memory is no header.
    match form {
        Form::Contiguous => 1,
        Form::Extents => 2,
        Form::Piece => 3,
    }
}

fn parts(header: &Header, tags: &[TagSlot]) -> u8 {
    let meta = &header.meta;
    let when = |present: bool, part: u8| if present { part } else { 0 };
    let ages = meta.age_at_store_s | meta.stale_while_revalidate_s | meta.stale_if_error_s;
    let is_rare = meta.class != 0 || era(meta.stored_unix_ms) != USUAL_ERA;
    let is_rare = is_rare || header.marks != Marks::default();
    form_bits(header.form)
        | when(meta.status != USUAL_STATUS, STATUS)
        | when(ages != 0, AGES)
        | when(meta.flags != 0, FLAGS)
        | when(!tags.is_empty(), TAGS)
        | when(is_rare, RARE)
        | when(meta.body_len > u64::from(u16::MAX), WIDE)
}

fn era(time: u64) -> u8 {
    (time.min(MAX_TIME) >> TIME_BITS) as u8
}

impl Marks {
    fn bits(self) -> u8 {
        let when = |present: bool, mark: u8| if present { mark } else { 0 };
        when(self.any_tag, MARK_ANY_TAG) | when(self.purged_softly, MARK_PURGED_SOFTLY)
    }

    fn of(bits: u8) -> Self {
        Self {
            any_tag: bits & MARK_ANY_TAG != 0,
            purged_softly: bits & MARK_PURGED_SOFTLY != 0,
        }
    }
}

/// Takes fields one after the other.
struct Fields<'a>(&'a [u8]);

#[inline]
pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
    let mut fields = Fields(bytes);
    let check: [u8; CHECK_BYTES] = fields.take()?;
    let [parts] = fields.take()?;
    let time = u32::from_le_bytes(fields.take()?);
    let header = match parts & FORM {
        1 => fields.object(Form::Contiguous, parts, time)?,
        2 => fields.object(Form::Extents, parts, time)?,
        3 if parts & !FORM == 0 => piece(time),
        _ => return None,
    };
    let mut header = header;
    header.tags.start = (bytes.len() - fields.0.len()) as u8;
    let checked = bytes.get(CHECK_BYTES..header.key_start() as usize)?;
    (checksum(checked) == check && header.is_possible()).then_some(header)
}

fn piece(len: u32) -> Header {
    Header::piece(len as usize)
}

impl Fields<'_> {
    #[inline]
    fn object(&mut self, form: Form, parts: u8, time: u32) -> Option<Header> {
        let has = |part| parts & part != 0;
        let key_len = u16::try_from(self.int()?).ok()?;
        let head_len = self.int()?;
        let head_check = u16::from_le_bytes(self.take()?);
        let body_len = match has(WIDE) {
            true => u32::from_le_bytes(self.take()?),
            false => u32::from(u16::from_le_bytes(self.take()?)),
        };
        let lifetime_s = self.lifetime()?;
        let stamp = self.int()?;
        let large = match form {
            Form::Extents => u32::from_le_bytes(self.take()?),
            Form::Contiguous | Form::Piece => 0,
        };
        let status = match has(STATUS) {
            true => u16::from_le_bytes(self.take()?),
            false => USUAL_STATUS,
        };
        let [age, revalidate, error] = match has(AGES) {
            true => [self.int()?, self.int()?, self.int()?],
            false => [0; 3],
        };
        let flags = if has(FLAGS) { self.int()? } else { 0 };
        let [class, era, marks] = match has(RARE) {
            true => self.take()?,
            false => [0, USUAL_ERA, 0],
        };
        let [tags] = if has(TAGS) { self.take()? } else { [0] };
        let meta = ObjectMeta {
            status,
            stored_unix_ms: u64::from(era) << TIME_BITS | u64::from(time) << TIME_SHIFT,
            age_at_store_s: age,
            lifetime_s,
            stale_while_revalidate_s: revalidate,
            stale_if_error_s: error,
            flags,
            body_len: u64::from(body_len),
            stamp,
            class,
        };
        Some(Header {
            form,
            meta,
            key_len,
            head_len,
            head_check,
            marks: Marks::of(marks),
            tags: TagList {
                start: 0,
                count: tags & !WIDE_TAGS,
                wide: tags & WIDE_TAGS != 0,
            },
            large,
        })
    }

    #[inline]
    fn lifetime(&mut self) -> Option<u32> {
        let [code] = self.take()?;
        match LIFETIMES.get(usize::from(code)) {
            Some(usual) => Some(*usual),
            None => self.long(code),
        }
    }

    #[inline]
    fn int(&mut self) -> Option<u32> {
        let [first] = self.take()?;
        match first < INT_16 {
            true => Some(u32::from(first)),
            false => self.long(first),
        }
    }

    fn long(&mut self, first: u8) -> Option<u32> {
        match first {
            INT_16 => Some(u32::from(u16::from_le_bytes(self.take()?))),
            INT_32 => Some(u32::from_le_bytes(self.take()?)),
            _ => None,
        }
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, _] = crc32c::crc32c(bytes).to_le_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{MAX_CONTIGUOUS, MAX_HEAD};

    /// Nothing that a response with freshness does not have.
    fn usual() -> Header {
        let meta = ObjectMeta {
            status: 200,
            stored_unix_ms: 1_764_000_000_000 >> TIME_SHIFT << TIME_SHIFT,
            lifetime_s: 3_600,
            body_len: 4_500,
            stamp: 12,
            ..ObjectMeta::default()
        };
        Header::new(Form::Contiguous, meta, &[b'k'; 60], &[b'h'; 250])
    }

    fn full(form: Form) -> Header {
        let meta = ObjectMeta {
            status: 206,
            stored_unix_ms: u64::MAX,
            age_at_store_s: 70_000,
            lifetime_s: u32::MAX,
            stale_while_revalidate_s: 600,
            stale_if_error_s: u32::MAX,
            flags: 0x8000_0001,
            body_len: MAX_CONTIGUOUS,
            stamp: u32::MAX,
            class: 255,
        };
        Header {
            marks: Marks {
                any_tag: false,
                purged_softly: true,
            },
            large: if form == Form::Extents { u32::MAX } else { 0 },
            ..Header::new(form, meta, &[b'k'; 60_000], &[b'h'; MAX_HEAD])
        }
    }

    fn tags(count: u32, each: u32) -> Vec<TagSlot> {
        (1..=count).map(|i| TagSlot(i * each)).collect()
    }

    /// Encodes, decodes among other bytes, and compares.
    fn survives(header: Header, tags: &[TagSlot]) -> Encoded {
        let (written, bytes) = header.encode(tags);
        let mut around = bytes.as_ref().to_vec();
        around.extend([0xa5; 100]);
        let mut read = Header::decode(&around).unwrap();
        assert_eq!(read.key_start() as usize, bytes.as_ref().len());
        assert!(read.tags(&around).eq(tags.iter().copied()));
        let time = written.meta.stored_unix_ms.min(MAX_TIME) >> TIME_SHIFT << TIME_SHIFT;
        assert_eq!(read.meta.stored_unix_ms, time);
        read.meta.stored_unix_ms = written.meta.stored_unix_ms;
        assert_eq!(read, written);
        bytes
    }

    #[test]
    fn headers_survive_encoding() {
        assert_eq!(survives(usual(), &[]).as_ref().len(), 16);
        assert_eq!(survives(usual(), &tags(2, 30_000)).as_ref().len(), 21);
        for form in [Form::Contiguous, Form::Extents] {
            for tags in [tags(0, 0), tags(1, 1), tags(32, 2_000), tags(32, 3_000)] {
                assert!(survives(full(form), &tags).as_ref().len() <= MAX_HEADER);
            }
        }
        assert_eq!(survives(Header::piece(60_000), &[]).as_ref().len(), FIXED);
    }

    #[test]
    fn every_field_survives_alone() {
        let edges = [0, 1, 252, 253, 254, 255, 65_535, 65_536, u32::MAX];
        for n in edges {
            for field in 0..6 {
                let mut header = usual();
                let meta = &mut header.meta;
                let target = [
                    &mut meta.age_at_store_s,
                    &mut meta.lifetime_s,
                    &mut meta.stale_while_revalidate_s,
                    &mut meta.stale_if_error_s,
                    &mut meta.flags,
                    &mut meta.stamp,
                ];
                *target.into_iter().nth(field).unwrap() = n;
                survives(header, &[]);
            }
        }
        for lifetime_s in LIFETIMES {
            let mut header = usual();
            header.meta.lifetime_s = lifetime_s;
            assert_eq!(survives(header, &[]).as_ref().len(), 16);
        }
    }

    #[test]
    fn too_many_tags_become_any_tag() {
        let any = [TagSlot::ANY];
        for tags in [tags(33, 1), vec![TagSlot(1), TagSlot::ANY]] {
            let (header, bytes) = usual().encode(&tags);
            assert_eq!(Header::decode(bytes.as_ref()), Some(header));
            assert!(header.tags(bytes.as_ref()).eq(any));
        }
    }

    #[test]
    fn any_one_or_two_flipped_bits_are_noticed() {
        let samples = [
            usual().encode(&[]).1,
            usual().encode(&tags(3, 20_000)).1,
            full(Form::Extents).encode(&[]).1,
            Header::piece(7).encode(&[]).1,
        ];
        for good in samples {
            let mut bytes = good.as_ref().to_vec();
            bytes.extend([0x5a; 64]);
            let bits = good.as_ref().len() * 8;
            for first in 0..bits {
                bytes[first / 8] ^= 1 << (first % 8);
                assert_eq!(Header::decode(&bytes), None, "bit {first}");
                for second in first + 1..bits {
                    bytes[second / 8] ^= 1 << (second % 8);
                    assert_eq!(Header::decode(&bytes), None, "bits {first}, {second}");
                    bytes[second / 8] ^= 1 << (second % 8);
                }
                bytes[first / 8] ^= 1 << (first % 8);
            }
        }
    }

    #[test]
    fn impossible_lengths_and_short_slices_are_no_headers() {
        let mut long = usual();
        long.meta.body_len = MAX_CONTIGUOUS + 1;
        assert_eq!(Header::decode(long.encode(&[]).1.as_ref()), None);
        long.meta.body_len = 0;
        long.head_len = u32::MAX;
        assert_eq!(Header::decode(long.encode(&[]).1.as_ref()), None);
        let (_, whole) = full(Form::Extents).encode(&tags(32, 1));
        let whole = whole.as_ref();
        for len in 0..whole.len() {
            assert_eq!(Header::decode(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(Header::decode(&[0; 64]), None);
    }
}
