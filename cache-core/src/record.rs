//! How an object lies in the log: a header, the key, the head, the body, with nothing between.
//!
//! ```text
//!   [ header | tags | key | head | body (up to 64 KiB)              ]
//!   [ header | tags | key | head | (extent u32, generation u32)... | end of the body ]
//!   [ header | bytes of a body that is still being filled           ]
//! ```
//! The second form is a large object: its body lies in the listed extents, which are full, and what is left of
//! it at the end of the record, so that no extent is wasted on it. The third is garbage once its fill has ended. Records
//! begin at any byte.
//!
//! The header holds what an object has ([`encode`]): 15 bytes for a response 200 with a usual
//! lifetime and a body below 64 KiB, up to [`encode::MAX_HEADER`] for one that has everything. A tag adds
//! two bytes (four in a table of more than 65,536 slots), the list of them one.
//!
//! **What is checked.** The header and its tags by a 16-bit remainder at every look, which notices
//! every flipped bit and every two; the key by comparison with the key that is looked up; the head
//! by 16 bits of CRC-32C whenever it is asked for, for it is about to be read anyway. What does not
//! check is no object. Bodies in memory are not summed at each hit: at 64 KiB that would cost more than
//! the hit does, and the memory that popcache is meant for corrects what it can and stops the machine for what it
//! cannot. Where bytes leave memory that does (the tier) they are summed.

mod encode;

pub(crate) use encode::Encoded;

use crate::purge::{MAX_TAGS, TagSlot};
use crate::store::ObjectMeta;

/// Longest body that is kept in one piece.
pub(crate) const MAX_CONTIGUOUS: u64 = 64 << 10;
/// Longest key, in bytes.
pub(crate) const MAX_KEY: usize = u16::MAX as usize;
/// Longest response head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Bytes of one extent.
pub(crate) const EXTENT_BYTES: u32 = 32 << 10;
/// Largest body whatever the configuration says, in bytes: its list of extents is 64 KiB.
pub const MAX_OBJECT: u64 = 256 << 20;
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    pub form: Form,
    pub meta: ObjectMeta,
    pub key_len: u16,
    pub head_len: u32,
    /// Of the head, see [`Header::is_head`].
    pub head_check: u16,
    pub marks: Marks,
    pub tags: TagList,
    /// The owner's number of a large object.
    pub large: u32,
}

/// What finding an object and its parts takes of its header: little enough for registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Front {
    pub form: Form,
    /// As in [`Marks`].
    pub purged_softly: bool,
    pub stamp: u32,
    head_check: u16,
    /// Where the parts begin, and where the record ends.
    key: u32,
    head: u32,
    tail: u32,
    end: u32,
}

/// What few objects have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The object has more tags than are kept: it has [`TagSlot::ANY`] instead of them.
    pub any_tag: bool,
    /// A soft purge of its key came after it.
    pub purged_softly: bool,
}

/// How the tags behind a header are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TagList {
    /// Where they begin, counted from the record: the header's own length.
    start: u8,
    count: u8,
    wide: bool,
}

impl Header {
    /// The header of an object of which the rest is given.
    pub fn new(form: Form, meta: ObjectMeta, key: &[u8], head: &[u8]) -> Self {
        Self {
            form,
            meta,
            key_len: key.len() as u16,
            head_len: head.len() as u32,
            head_check: head_check(head),
            marks: Marks::default(),
            tags: TagList::default(),
            large: 0,
        }
    }

    /// The header of bytes that belong to a fill.
    pub fn piece(len: usize) -> Self {
        let meta = ObjectMeta {
            body_len: len as u64,
            ..ObjectMeta::default()
        };
        Self::new(Form::Piece, meta, &[], &[])
    }

    /// As it is written, and itself with the length that this gave it. More than [`MAX_TAGS`] tags
    /// become [`TagSlot::ANY`].
    pub fn encode(mut self, tags: &[TagSlot]) -> (Self, Encoded) {
        self.marks.any_tag |= tags.len() > MAX_TAGS || tags.contains(&TagSlot::ANY);
        let tags = if self.marks.any_tag { &[] } else { tags };
        let (list, bytes) = encode::encode(&self, tags);
        self.tags = list;
        (self, bytes)
    }

    /// The header at the start of `bytes`, which may go on beyond the record. `None`: there is no
    /// header, or a damaged one.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        encode::decode(bytes)
    }

    /// What the front of the record says, see [`Front`].
    fn front(&self) -> Front {
        Front {
            form: self.form,
            purged_softly: self.marks.purged_softly,
            stamp: self.meta.stamp,
            head_check: self.head_check,
            key: self.key_start(),
            head: self.head_start(),
            tail: self.tail_start(),
            end: self.record_len(),
        }
    }

    /// Where the key begins, counted from the record.
    pub fn key_start(&self) -> u32 {
        u32::from(self.tags.start) + self.tags.bytes()
    }

    /// Where the head begins.
    pub fn head_start(&self) -> u32 {
        self.key_start() + u32::from(self.key_len)
    }

    /// Where the body, or the list of extents, begins.
    pub fn tail_start(&self) -> u32 {
        self.head_start() + self.head_len
    }

    /// Bytes of the body in the record, and of the list of extents.
    pub fn tail_len(&self) -> u32 {
        match self.form {
            Form::Contiguous | Form::Piece => self.meta.body_len as u32,
            Form::Extents => {
                let Tail { listed, rest } = Tail::of(self.meta.body_len);
                (listed + rest) as u32
            }
        }
    }

    /// Bytes of the record.
    pub fn record_len(&self) -> u32 {
        self.tail_start() + self.tail_len()
    }

    /// Extents that the body takes.
    pub fn extents(&self) -> u32 {
        match self.form {
            Form::Contiguous | Form::Piece => 0,
            Form::Extents => (self.meta.body_len / u64::from(EXTENT_BYTES)) as u32,
        }
    }

    /// Bytes of memory that the object takes.
    pub fn footprint(&self) -> u64 {
        u64::from(self.record_len()) + u64::from(self.extents()) * u64::from(EXTENT_BYTES)
    }

    /// Whether these are the bytes of the head that the object was stored with.
    pub fn is_head(&self, head: &[u8]) -> bool {
        head.len() == self.head_len as usize && head_check(head) == self.head_check
    }

    /// The tags of the record that begins with `bytes`.
    pub fn tags<'a>(&self, record: &'a [u8]) -> impl Iterator<Item = TagSlot> + use<'a> {
        let any = self.marks.any_tag.then_some(TagSlot::ANY);
        self.tags.read(record).chain(any)
    }

    /// The same for ranks, which do not tell the largest apart.
    pub fn size(&self) -> u32 {
        self.footprint().try_into().unwrap_or(u32::MAX)
    }

    /// Whether the lengths are such that the sums above cannot overflow.
    fn is_possible(&self) -> bool {
        let longest = match self.form {
            Form::Contiguous | Form::Piece => MAX_CONTIGUOUS,
            Form::Extents => MAX_OBJECT,
        };
        self.meta.body_len <= longest
            && self.head_len as usize <= MAX_HEAD
            && usize::from(self.tags.count) <= MAX_TAGS
    }
}

impl Front {
    /// Of the record at the start of `bytes`, which may go on beyond it. `None`: there is no sound
    /// header, or not the whole record.
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let front = encode::front(bytes)?;
        let record = bytes.get(..front.end as usize)?;
        Some((front, record))
    }

    #[inline(always)]
    pub fn key(self, record: &[u8]) -> &[u8] {
        part(record, self.key, self.head)
    }

    /// `None`: it is damaged.
    pub fn head(self, record: &[u8]) -> Option<&[u8]> {
        let head = part(record, self.head, self.tail);
        (head_check(head) == self.head_check).then_some(head)
    }

    /// The body, or the list of extents and the end of the body.
    #[inline(always)]
    pub fn tail(self, record: &[u8]) -> &[u8] {
        part(record, self.tail, self.end)
    }

    /// Where that lies in the record, and its length.
    pub fn tail_range(self) -> (u32, u32) {
        (self.tail, self.end - self.tail)
    }
}

#[inline(always)]
fn part(record: &[u8], from: u32, to: u32) -> &[u8] {
    record.get(from as usize..to as usize).unwrap_or_default()
}

impl TagList {
    fn bytes(self) -> u32 {
        let each = if self.wide { 4 } else { 2 };
        u32::from(self.count) * each
    }

    fn read(self, record: &[u8]) -> impl Iterator<Item = TagSlot> + use<'_> {
        let start = usize::from(self.start);
        let list = record.get(start..start + self.bytes() as usize);
        let each = if self.wide { 4 } else { 2 };
        list.unwrap_or_default().chunks_exact(each).map(|slot| {
            TagSlot(match *slot {
                [a, b] => u32::from(u16::from_le_bytes([a, b])),
                [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
                _ => 0,
            })
        })
    }
}

/// How the record of a large object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Bytes of the list of extents.
    pub listed: usize,
    /// Bytes of the body's end, behind the list.
    pub rest: usize,
}

impl Tail {
    /// Of a body of so many bytes.
    pub fn of(body_len: u64) -> Self {
        let extents = body_len / u64::from(EXTENT_BYTES);
        Self {
            listed: (extents * LISTED_BYTES) as usize,
            rest: (body_len % u64::from(EXTENT_BYTES)) as usize,
        }
    }

    /// Both parts of what stands there.
    pub fn split(self, tail: &[u8]) -> (&[u8], &[u8]) {
        tail.split_at(self.listed.min(tail.len()))
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

/// Bytes of a body that is being filled in its extent number `i`.
pub(crate) fn extent_len(body_len: u64, i: usize) -> u32 {
    let before = i as u64 * u64::from(EXTENT_BYTES);
    body_len.saturating_sub(before).min(u64::from(EXTENT_BYTES)) as u32
}

fn head_check(head: &[u8]) -> u16 {
    crc32c::crc32c(head) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_body_is_cut_in_full_extents_and_a_rest() {
        let meta = ObjectMeta {
            body_len: 3 * u64::from(EXTENT_BYTES) + 1,
            ..ObjectMeta::default()
        };
        let large = Header::new(Form::Extents, meta, b"", b"");
        assert_eq!((large.extents(), large.tail_len()), (3, 3 * 8 + 1));
        let (list, rest) = Tail::of(meta.body_len).split(&[7; 25]);
        assert_eq!((list.len(), rest.len()), (24, 1));
        let lens: Vec<u32> = (0..5).map(|i| extent_len(meta.body_len, i)).collect();
        assert_eq!(lens, [EXTENT_BYTES, EXTENT_BYTES, EXTENT_BYTES, 1, 0]);
        let list = [listed(7, 1), listed(u32::MAX, u32::MAX)].concat();
        let read: Vec<_> = unlist(&list).collect();
        assert_eq!(read, [(7, 1), (u32::MAX, u32::MAX)]);
    }

    #[test]
    fn any_flipped_bit_of_a_head_is_noticed() {
        let head: Vec<u8> = (0..2_000u32).map(|i| (i * i) as u8).collect();
        let header = Header::new(Form::Contiguous, ObjectMeta::default(), b"k", &head);
        assert!(header.is_head(&head) && !header.is_head(&head[1..]));
        for bit in 0..head.len() * 8 {
            let mut bad = head.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!header.is_head(&bad), "bit {bit}");
        }
    }
}
