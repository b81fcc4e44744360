//! The bytes of a header.
//!
//! ```text
//!  0 check    u16   makes the header with its tags, read as one number, a multiple of 65,519
//!  2 parts    form:2 | stamp | ages | flags | tags | rare | wide      a bit for each part present
//!  3 stored   u32, of 256 ms (a piece: its length, and that is all)
//!  7 lengths  key:8 | head:10 | lifetime:6 | body:16
//! 12 stamp    u8
//! 13 head     u16   check of the head
//! 15 [wide    u8 u8 u16]         the high bits of the lengths of key, head and body
//!    [lifetime u16 | u32]        where its code says so ([`LIFETIMES`])
//!    [large   u32]               of the form of extents
//!    [stamp   u16]               its next bits
//!    [ages    int int int]       age at store, stale-while-revalidate, stale-if-error, unless all 0
//!    [flags   int]               unless 0
//!    [rare    u8 u8 u8 u16 u8]   class, high bits of the time, marks, status, high bits of the
//!                                stamp; unless 0, 1, 0, 200, 0
//!    [tags    wide:1 count:7]    and the tags
//! ```
//! All little endian. An int is a byte up to 252, or 253 and a u16, or 254 and a u32. What nearly all
//! objects have is two loads, and read without a look at what comes before it.
//!
//! **The check** is a remainder, not a CRC: a few multiplications where a CRC of an odd number of bytes
//! takes a table or instructions that not every machine has. Modulo this prime no power of two up to
//! the 32,759th is 1 or -1, so that no one or two flipped bits of a header of any length go unnoticed
//! where its length stays what it was; of all other damage one in 65,519 does, and meets the
//! comparison of the key.

use super::{Form, Front, Header, Marks, TagList};
use crate::purge::TagSlot;
use crate::store::ObjectMeta;

/// No header with its tags is longer.
pub(super) const MAX_HEADER: usize = 192;
/// Bytes of the check.
const CHECK: usize = 2;
/// What every header is a multiple of.
const PRIME: u64 = 65_519;
/// 2^64 modulo the prime.
const WORD: u64 = ((1 << 64) % PRIME as u128) as u64;
/// The same of 2^32, and of 2^96.
const HALF_WORD: u64 = (1 << 32) % PRIME;
const WORD_AND_HALF: u64 = WORD * HALF_WORD % PRIME;
/// Of a piece.
const PIECE: usize = 7;
/// Of a header that has nothing special.
const USUAL: usize = 15;

const FORM: u8 = 0b11;
const STAMP: u8 = 1 << 2;
const AGES: u8 = 1 << 3;
const FLAGS: u8 = 1 << 4;
const TAGS: u8 = 1 << 5;
const RARE: u8 = 1 << 6;
const WIDE: u8 = 1 << 7;

// Not zero, so that zeroed memory is no header.
const CONTIGUOUS: u8 = 1;
const EXTENTS: u8 = 2;
const IS_PIECE: u8 = 3;

/// Bits of the lengths where there is no wide part.
const KEY_BITS: u32 = 8;
const HEAD_BITS: u32 = 10;
const LIFETIME_BITS: u32 = 6;
const BODY_BITS: u32 = 16;
const LENGTHS_BITS: u32 = KEY_BITS + HEAD_BITS + LIFETIME_BITS + BODY_BITS;

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
/// Codes of lifetimes that come in a part of their own.
const LIFETIME_16: u8 = 62;
const LIFETIME_32: u8 = 63;

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
        len: CHECK,
    };
    let list = match header.form {
        Form::Piece => out.put_piece(header),
        Form::Contiguous | Form::Extents => out.put_object(header, tags),
    };
    let check = (PRIME - remainder(out.as_ref())) % PRIME;
    out.bytes[..CHECK].copy_from_slice(&(check as u16).to_le_bytes());
    (list, out)
}

impl Encoded {
    fn put_piece(&mut self, header: &Header) -> TagList {
        self.put(&[IS_PIECE]);
        self.put(&(header.meta.body_len as u32).to_le_bytes());
        TagList {
            start: PIECE as u8,
            ..TagList::default()
        }
    }

    fn put_object(&mut self, header: &Header, tags: &[TagSlot]) -> TagList {
        let meta = &header.meta;
        let parts = parts(header, tags);
        let has = |part| parts & part != 0;
        let time = meta.stored_unix_ms.min(MAX_TIME);
        let code = lifetime_code(meta.lifetime_s);
        self.put(&[parts]);
        self.put(&((time >> TIME_SHIFT) as u32).to_le_bytes());
        self.put(&lengths(header, code).to_le_bytes()[..(LENGTHS_BITS / 8) as usize]);
        let stamp = meta.stamp.to_le_bytes();
        self.put(&stamp[..1]);
        self.put(&header.head_check.to_le_bytes());
        if has(WIDE) {
            let (key, head) = (header.key_len >> KEY_BITS, header.head_len >> HEAD_BITS);
            self.put(&[key as u8, head as u8]);
            self.put(&((meta.body_len >> BODY_BITS) as u16).to_le_bytes());
        }
        match code {
            LIFETIME_16 => self.put(&(meta.lifetime_s as u16).to_le_bytes()),
            LIFETIME_32 => self.put(&meta.lifetime_s.to_le_bytes()),
            _ => {}
        }
        if header.form == Form::Extents {
            self.put(&header.large.to_le_bytes());
        }
        if has(STAMP) {
            self.put(&stamp[1..3]);
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
            self.put(&meta.status.to_le_bytes());
            self.put(&stamp[3..]);
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

    fn put_int(&mut self, n: u32) {
        match n {
            0..253 => self.put(&[n as u8]),
            253..0x1_0000 => {
                self.put(&[INT_16]);
                self.put(&(n as u16).to_le_bytes());
            }
            0x1_0000.. => {
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

fn parts(header: &Header, tags: &[TagSlot]) -> u8 {
    let meta = &header.meta;
    let when = |present: bool, part: u8| if present { part } else { 0 };
    let ages = meta.age_at_store_s | meta.stale_while_revalidate_s | meta.stale_if_error_s;
    let is_rare = meta.class != 0
        || era(meta.stored_unix_ms) != USUAL_ERA
        || header.marks != Marks::default()
        || meta.status != USUAL_STATUS
        || meta.stamp >> 24 != 0;
    let is_wide = header.key_len >> KEY_BITS != 0
        || header.head_len >> HEAD_BITS != 0
        || meta.body_len >> BODY_BITS != 0;
    let form = match header.form {
        Form::Contiguous => CONTIGUOUS,
        Form::Extents => EXTENTS,
        Form::Piece => IS_PIECE,
    };
    form | when(meta.stamp >> 8 != 0, STAMP)
        | when(ages != 0, AGES)
        | when(meta.flags != 0, FLAGS)
        | when(!tags.is_empty(), TAGS)
        | when(is_rare, RARE)
        | when(is_wide, WIDE)
}

fn lifetime_code(seconds: u32) -> u8 {
    let usual = LIFETIMES.iter().position(|usual| *usual == seconds);
    match usual {
        Some(code) => code as u8,
        None if seconds <= u32::from(u16::MAX) => LIFETIME_16,
        None => LIFETIME_32,
    }
}

/// The low bits of the lengths, and the lifetime's code.
fn lengths(header: &Header, code: u8) -> u64 {
    let low = |n: u64, bits: u32| n & ((1 << bits) - 1);
    let body = low(header.meta.body_len, BODY_BITS);
    let lifetime = body << LIFETIME_BITS | u64::from(code);
    let head = lifetime << HEAD_BITS | low(u64::from(header.head_len), HEAD_BITS);
    head << KEY_BITS | low(u64::from(header.key_len), KEY_BITS)
}

fn era(time: u64) -> u8 {
    (time.min(MAX_TIME) >> TIME_BITS) as u8
}

fn time_of(era: u8, stored: u32) -> u64 {
    u64::from(era) << TIME_BITS | u64::from(stored) << TIME_SHIFT
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

/// What a header begins with, of objects.
struct Start {
    parts: u8,
    stored: u32,
    key_len: u16,
    head_len: u32,
    lifetime: u8,
    body_len: u32,
    stamp: u8,
    head_check: u16,
}

impl Start {
    #[inline(always)]
    fn of(bytes: &[u8; 16]) -> Self {
        let (low, high) = words(bytes);
        let lengths = low >> 56 | high << 8;
        let bits = |shift: u32, bits: u32| (lengths >> shift) as u32 & ((1 << bits) - 1);
        Self {
            parts: (low >> 16) as u8,
            stored: (low >> 24) as u32,
            key_len: bits(0, KEY_BITS) as u16,
            head_len: bits(KEY_BITS, HEAD_BITS),
            lifetime: bits(KEY_BITS + HEAD_BITS, LIFETIME_BITS) as u8,
            body_len: bits(KEY_BITS + HEAD_BITS + LIFETIME_BITS, BODY_BITS),
            stamp: (high >> 32) as u8,
            head_check: (high >> 40) as u16,
        }
    }

    /// The lifetime of a header that has nothing special.
    #[inline(always)]
    fn usual(&self) -> Option<u32> {
        let lifetime = LIFETIMES.get(usize::from(self.lifetime));
        lifetime.copied().filter(|_| self.parts == CONTIGUOUS)
    }

    /// Of a header that has nothing special.
    #[inline(always)]
    fn front(&self) -> Front {
        let head = USUAL as u32 + u32::from(self.key_len);
        let tail = head + self.head_len;
        Front {
            form: Form::Contiguous,
            purged_softly: false,
            stamp: u32::from(self.stamp),
            head_check: self.head_check,
            key: USUAL as u32,
            head,
            tail,
            end: tail + self.body_len,
        }
    }

    #[inline(always)]
    fn header(&self, form: Form, lifetime_s: u32) -> Header {
        Header {
            form,
            meta: ObjectMeta {
                status: USUAL_STATUS,
                stored_unix_ms: time_of(USUAL_ERA, self.stored),
                lifetime_s,
                body_len: u64::from(self.body_len),
                stamp: u32::from(self.stamp),
                ..ObjectMeta::default()
            },
            key_len: self.key_len,
            head_len: self.head_len,
            head_check: self.head_check,
            marks: Marks::default(),
            tags: TagList {
                start: USUAL as u8,
                ..TagList::default()
            },
            large: 0,
        }
    }
}

/// The usual header's first eight bytes, and its other seven.
#[inline(always)]
fn words(bytes: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*bytes);
    (both as u64, (both >> 64) as u64 & ((1 << 56) - 1))
}

#[inline]
pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
    match bytes.first_chunk() {
        Some(start) => decode_from(start, bytes),
        None => decode_short(bytes),
    }
}

/// `start` is what `bytes` begin with.
#[inline]
fn decode_from(start: &[u8; 16], bytes: &[u8]) -> Option<Header> {
    let fixed = Start::of(start);
    match fixed.usual() {
        Some(lifetime_s) => is_sound(start).then(|| fixed.header(Form::Contiguous, lifetime_s)),
        None if fixed.parts == IS_PIECE => decode_piece(bytes),
        None => decode_any(&fixed, bytes),
    }
}

/// Whether a header that has nothing special is what was written: its quarters times what 2^0, 2^32, 2^64
/// and 2^96 leave, which cannot overflow, and one question of divisibility.
#[inline(always)]
fn is_sound(start: &[u8; 16]) -> bool {
    let (low, high) = words(start);
    let lower = |word: u64| word & u64::from(u32::MAX);
    let sum = lower(low) + (low >> 32) * HALF_WORD + lower(high) * WORD;
    (sum + (high >> 32) * WORD_AND_HALF).is_multiple_of(PRIME)
}

/// The part of [`decode`] that finding an object takes.
#[inline(always)]
pub(super) fn front(bytes: &[u8]) -> Option<Front> {
    if let Some(start) = bytes.first_chunk() {
        let fixed = Start::of(start);
        if fixed.usual().is_some() {
            return is_sound(start).then(|| fixed.front());
        }
    }
    // Not the front: what comes back through memory would have that of all others written there, too.
    decode_apart(bytes).map(|header| header.front())
}

#[inline(never)]
fn decode_apart(bytes: &[u8]) -> Option<Header> {
    decode(bytes)
}

/// The last record of a segment may be shorter than what is read of others.
#[cold]
fn decode_short(bytes: &[u8]) -> Option<Header> {
    if bytes.len() < USUAL {
        return decode_piece(bytes);
    }
    let mut start = [0; 16];
    start[..bytes.len()].copy_from_slice(bytes);
    decode_from(&start, bytes)
}

#[inline(never)]
fn decode_piece(bytes: &[u8]) -> Option<Header> {
    let bytes: &[u8; PIECE] = bytes.first_chunk()?;
    let [_, _, parts, a, b, c, d] = *bytes;
    let mut header = Header::piece(u32::from_le_bytes([a, b, c, d]) as usize);
    header.tags.start = PIECE as u8;
    let is_sound = parts == IS_PIECE && remainder(bytes) == 0;
    (is_sound && header.is_possible()).then_some(header)
}

/// Of an object that has more than usual.
#[inline(never)]
fn decode_any(fixed: &Start, bytes: &[u8]) -> Option<Header> {
    let mut fields = Fields(bytes.get(USUAL..)?);
    let form = match fixed.parts & FORM {
        CONTIGUOUS => Form::Contiguous,
        EXTENTS => Form::Extents,
        _ => return None,
    };
    let mut header = fixed.header(form, 0);
    fields.parts(fixed, &mut header)?;
    header.tags.start = (bytes.len() - fields.0.len()) as u8;
    let checked = bytes.get(..header.key_start() as usize)?;
    (header.is_possible() && remainder(checked) == 0).then_some(header)
}

/// Takes fields one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn parts(&mut self, fixed: &Start, header: &mut Header) -> Option<()> {
        let has = |part| fixed.parts & part != 0;
        let meta = &mut header.meta;
        if has(WIDE) {
            let [key, head, body @ ..] = self.take::<4>()?;
            header.key_len |= u16::from(key) << KEY_BITS;
            header.head_len |= u32::from(head) << HEAD_BITS;
            meta.body_len |= u64::from(u16::from_le_bytes(body)) << BODY_BITS;
        }
        meta.lifetime_s = match fixed.lifetime {
            LIFETIME_16 => u32::from(u16::from_le_bytes(self.take()?)),
            LIFETIME_32 => u32::from_le_bytes(self.take()?),
            code => *LIFETIMES.get(usize::from(code))?,
        };
        if header.form == Form::Extents {
            header.large = u32::from_le_bytes(self.take()?);
        }
        if has(STAMP) {
            meta.stamp |= u32::from(u16::from_le_bytes(self.take()?)) << 8;
        }
        if has(AGES) {
            meta.age_at_store_s = self.int()?;
            meta.stale_while_revalidate_s = self.int()?;
            meta.stale_if_error_s = self.int()?;
        }
        if has(FLAGS) {
            meta.flags = self.int()?;
        }
        if has(RARE) {
            let [class, era, marks] = self.take()?;
            meta.class = class;
            meta.stored_unix_ms = time_of(era, fixed.stored);
            header.marks = Marks::of(marks);
            meta.status = u16::from_le_bytes(self.take()?);
            let [high] = self.take()?;
            meta.stamp |= u32::from(high) << 24;
        }
        if has(TAGS) {
            let [tags] = self.take()?;
            header.tags.count = tags & !WIDE_TAGS;
            header.tags.wide = tags & WIDE_TAGS != 0;
        }
        Some(())
    }

    fn int(&mut self) -> Option<u32> {
        let [first] = self.take()?;
        match first {
            INT_16 => Some(u32::from(u16::from_le_bytes(self.take()?))),
            INT_32 => Some(u32::from_le_bytes(self.take()?)),
            u8::MAX => None,
            small => Some(u32::from(small)),
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// What is left of these bytes, read as one number, modulo the prime.
fn remainder(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).rev().map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(0, |rest, word| (rest * WORD + word % PRIME) % PRIME)
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
        assert_eq!(front(&around), Some(read.front()));
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
        assert_eq!(survives(usual(), &[]).as_ref().len(), USUAL);
        assert_eq!(
            survives(usual(), &tags(2, 30_000)).as_ref().len(),
            USUAL + 5
        );
        for form in [Form::Contiguous, Form::Extents] {
            for tags in [tags(0, 0), tags(1, 1), tags(32, 2_000), tags(32, 3_000)] {
                assert!(survives(full(form), &tags).as_ref().len() <= MAX_HEADER);
            }
        }
        assert_eq!(survives(Header::piece(60_000), &[]).as_ref().len(), PIECE);
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
            assert_eq!(survives(header, &[]).as_ref().len(), USUAL);
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
