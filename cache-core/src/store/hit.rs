//! Reading: from key to record, and from record to bytes.

use bytes::Bytes;

use super::{HitNote, ObjectMeta, Partition};
use crate::index::{Slot, SlotId};
use crate::purge::TagSlot;
use crate::record::{self, EXTENT_BYTES, Form, Front, Header, Tail};
use crate::store::KeyHash;

const CACHE_LINE: usize = 64;

/// An object found by [`super::Store::lookup`], borrowed until the store is used again.
#[derive(Debug)]
pub struct Hit<'a> {
    /// Set for a sampled part of the hits on other shards' objects: send it to the owner.
    pub note: Option<HitNote>,
    /// A soft purge of more than the object's key covers it.
    is_soft: bool,
    look: Look<'a>,
    partition: &'a Partition,
}

/// A record as a reader looks at it: its header is read no further than it takes to find the parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub front: Front,
    place: Place,
    pub bytes: &'a [u8],
}

/// A record and the slot that names it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub id: SlotId,
    pub slot: Slot,
    pub record: Record<'a>,
}

/// A whole record, as far as its header can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub header: Header,
    pub bytes: &'a [u8],
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u32,
}

impl Place {
    /// As the index keeps it: counted in bytes from the first segment.
    pub fn location(self, log_shift: u32) -> u64 {
        u64::from(self.segment) << log_shift | u64::from(self.offset)
    }

    pub fn of(location: u64, log_shift: u32) -> Self {
        Self {
            segment: u32::try_from(location >> log_shift).unwrap_or(u32::MAX),
            offset: (location & ((1 << log_shift) - 1)) as u32,
        }
    }
}

impl<'a> Hit<'a> {
    #[inline(always)]
    pub(super) fn new(
        partition: &'a Partition,
        look: Look<'a>,
        is_soft: bool,
        note: Option<HitNote>,
    ) -> Self {
        Self {
            note,
            is_soft,
            look,
            partition,
        }
    }

    /// All that is known of the object, read from its header at each call.
    pub fn meta(&self) -> ObjectMeta {
        // Sound a moment ago; should memory fail just now, what is left has no lifetime.
        self.look
            .header()
            .map(|header| header.meta)
            .unwrap_or_default()
    }

    /// A soft purge covers the object: it is stale, whatever its lifetime says.
    pub fn purged_softly(&self) -> bool {
        self.is_soft || self.look.front.purged_softly
    }

    /// The bytes given to [`super::Store::begin`] as `head`. `None`: they are damaged (treat as a
    /// miss).
    pub fn head(&self) -> Option<&'a [u8]> {
        self.look.front.head(self.look.bytes)
    }

    /// The body, where it is contiguous (64 KiB or less).
    #[inline]
    pub fn body(&self) -> Option<&'a [u8]> {
        let Look { front, bytes, .. } = self.look;
        (front.form == Form::Contiguous).then(|| front.tail(bytes))
    }

    /// Slots of the object's surrogate keys; [`TagSlot::ANY`] for one that had too many.
    pub fn tags(&self) -> impl Iterator<Item = TagSlot> + use<'a> {
        self.look.tags()
    }

    /// Owned bytes of the body, valid for as long as they are kept; no copy. `None`: the body
    /// cannot be had any more (treat as a miss).
    pub fn bytes(&self) -> Option<Body> {
        let Look { front, place, .. } = self.look;
        if front.form == Form::Extents {
            return self.extents();
        }
        let (offset, len) = front.tail_range();
        let log = &self.partition.log;
        Some(Body {
            first: log.view(place.segment, place.offset + offset, len)?,
            rest: Vec::new(),
        })
    }

    fn extents(&self) -> Option<Body> {
        let Look { front, place, .. } = self.look;
        let tail = Tail::of(self.meta().body_len);
        let (list, rest) = tail.split(front.tail(self.look.bytes));
        let Partition { extents, log, .. } = self.partition;
        let listed = record::unlist(list)
            .map(|(extent, generation)| extents.view_of(extent, generation, 0, EXTENT_BYTES));
        let (tail_start, tail_len) = front.tail_range();
        let rest_start = place.offset + tail_start + tail_len - rest.len() as u32;
        let rest =
            (!rest.is_empty()).then(|| log.view(place.segment, rest_start, rest.len() as u32));
        let mut views = listed.chain(rest);
        Some(Body {
            first: views.next()??,
            rest: views.collect::<Option<_>>()?,
        })
    }
}

impl<'a> Look<'a> {
    fn header(&self) -> Option<Header> {
        Header::decode(self.bytes)
    }

    pub fn tags(&self) -> impl Iterator<Item = TagSlot> + use<'a> {
        let bytes = self.bytes;
        self.header()
            .into_iter()
            .flat_map(|header| header.tags(bytes))
    }
}

/// Owned bytes of a body: one piece when it is contiguous, else one for each extent's length of it.
#[derive(Clone, Debug)]
pub struct Body {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Body {
    pub fn pieces(&self) -> usize {
        1 + self.rest.len()
    }

    /// The bytes of piece `i`; empty past the end.
    pub fn piece(&self, i: usize) -> Bytes {
        self.iter().nth(i).cloned().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with, if it is sound and whole.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::decode(bytes)?;
        let bytes = bytes.get(..header.record_len() as usize)?;
        Some(Self { header, bytes })
    }

    /// Empty for a piece of a fill.
    pub fn key(&self) -> &'a [u8] {
        self.part(self.header.key_start(), u32::from(self.header.key_len))
    }

    pub fn tags(&self) -> impl Iterator<Item = TagSlot> + use<'a> {
        self.header.tags(self.bytes)
    }

    /// `None`: it is damaged.
    pub fn head(&self) -> Option<&'a [u8]> {
        let head = self.part(self.header.head_start(), self.header.head_len);
        self.header.is_head(head).then_some(head)
    }

    /// The body, or the list of extents and the end of the body.
    pub fn tail(&self) -> &'a [u8] {
        self.part(self.header.tail_start(), self.header.tail_len())
    }

    fn part(&self, from: u32, len: u32) -> &'a [u8] {
        let part = self.bytes.get(from as usize..(from + len) as usize);
        part.unwrap_or_default()
    }
}

impl Partition {
    /// The object of a key, purged or not.
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Found<'_>> {
        self.index.candidates(hash).find_map(|(id, slot)| {
            let place = Place::of(slot.location(), self.log_shift);
            let record = self.record_of(place, key)?;
            Some(Found { id, slot, record })
        })
    }

    /// The same for a look-up, which is all about time. Slots that are about to be looked at are named
    /// first, so that what belongs to them can be brought near.
    #[inline(always)]
    pub(super) fn look(
        &self,
        hash: KeyHash,
        key: &[u8],
        near: impl Fn(SlotId),
    ) -> Option<(SlotId, Slot, Look<'_>)> {
        self.index.candidates(hash).find_map(|(id, slot)| {
            let place = Place::of(slot.location(), self.log_shift);
            let bytes = self.bytes_at(place)?;
            near(id);
            let (front, bytes) = Front::read(bytes)?;
            let is_it = front.form != Form::Piece && front.key(bytes) == key;
            let look = Look {
                front,
                place,
                bytes,
            };
            is_it.then_some((id, slot, look))
        })
    }

    /// The record at a place if it is sound and of this key.
    #[inline]
    pub(super) fn record_of(&self, place: Place, key: &[u8]) -> Option<Record<'_>> {
        let record = self.record(place)?;
        (record.header.form != Form::Piece && record.key() == key).then_some(record)
    }

    /// The record at a place, if there is a sound one.
    #[inline]
    pub(super) fn record(&self, place: Place) -> Option<Record<'_>> {
        Record::parse(self.bytes_at(place)?)
    }

    /// What is committed at a place and beyond; its first lines are asked for.
    #[inline(always)]
    fn bytes_at(&self, place: Place) -> Option<&[u8]> {
        let bytes = self.log.read_on(place.segment, place.offset)?;
        // Where the key begins is known only when the header is there: do not wait for one after
        // the other.
        if let Some(next_line) = bytes.get(CACHE_LINE) {
            hugepages::prefetch(next_line);
        }
        Some(bytes)
    }
}
