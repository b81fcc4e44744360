//! Reading: from key to record, and from record to bytes.

use bytes::Bytes;

use super::{HitNote, ObjectMeta, Partition};
use crate::index::{Slot, SlotId};
use crate::purge::TagSlot;
use crate::record::{self, Form, Header};
use crate::store::KeyHash;

const CACHE_LINE: usize = 64;

/// An object found by [`super::Store::lookup`], borrowed until the store is used again.
#[derive(Debug)]
pub struct Hit<'a> {
    pub meta: ObjectMeta,
    /// A soft purge covers the object: it is stale, whatever its lifetime says.
    pub purged_softly: bool,
    /// Set for a sampled part of the hits on other shards' objects: send it to the owner.
    pub note: Option<HitNote>,
    partition: &'a mut Partition,
    found: Found,
}

/// A record whose header and key were checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub header: Header,
    pub place: Place,
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
    pub(super) fn new(partition: &'a mut Partition, found: Found, note: Option<HitNote>) -> Self {
        Self {
            meta: found.header.meta,
            purged_softly: found.header.marks.purged_softly,
            note,
            partition,
            found,
        }
    }

    /// The bytes given to [`super::Store::begin`] as `head`. `None`: they are damaged (treat as a
    /// miss).
    pub fn head(&self) -> Option<&[u8]> {
        let header = &self.found.header;
        let head = self.part(header.head_start(), header.head_len)?;
        header.is_head(head).then_some(head)
    }

    /// The body, where it is contiguous (64 KiB or less).
    pub fn body(&self) -> Option<&[u8]> {
        let header = &self.found.header;
        match header.form {
            Form::Contiguous => self.part(header.tail_start(), header.tail_len()),
            Form::Extents | Form::Piece => None,
        }
    }

    /// Slots of the object's surrogate keys; [`TagSlot::ANY`] for one that had too many.
    pub fn tags(&self) -> impl Iterator<Item = TagSlot> {
        let header = &self.found.header;
        let record = self.part(0, header.key_start());
        header.tags(record.unwrap_or_default())
    }

    /// Owned bytes of the body, valid for as long as they are kept; no copy. `None`: the body
    /// cannot be had any more (treat as a miss).
    pub fn bytes(&mut self) -> Option<Body> {
        let Found { header, place } = self.found;
        if header.form == Form::Extents {
            return self.extents();
        }
        let offset = place.offset + header.tail_start();
        let log = &mut self.partition.log;
        let first = log.view(place.segment, offset, header.tail_len())?;
        Some(Body {
            first,
            rest: Vec::new(),
        })
    }

    fn extents(&mut self) -> Option<Body> {
        let Found { header, place } = self.found;
        let Partition { log, extents, .. } = &mut *self.partition;
        let offset = place.offset + header.tail_start();
        let list = log.read(place.segment, offset, header.tail_len())?;
        let mut views = record::unlist(list)
            .enumerate()
            .map(|(i, (extent, generation))| {
                let len = record::extent_len(header.meta.body_len, i);
                extents.view_of(extent, generation, 0, len)
            });
        Some(Body {
            first: views.next()??,
            rest: views.collect::<Option<_>>()?,
        })
    }

    /// Part of the record. It was readable when it was found and stays so while this borrows the
    /// readers.
    fn part(&self, from: u32, len: u32) -> Option<&[u8]> {
        let place = self.found.place;
        let log = &self.partition.log;
        log.read(place.segment, place.offset + from, len)
    }
}

/// Owned bytes of a body: one piece when it is contiguous, else one per extent.
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
    #[inline]
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

    /// The body or the list of extents.
    pub fn tail(&self) -> &'a [u8] {
        self.part(self.header.tail_start(), self.header.tail_len())
    }

    fn part(&self, from: u32, len: u32) -> &'a [u8] {
        let part = self.bytes.get(from as usize..(from + len) as usize);
        part.unwrap_or_default()
    }
}

impl Partition {
    /// The object of a key, purged or not: its slot and its record.
    #[inline]
    pub(super) fn find(
        &self,
        hash: KeyHash,
        key: &[u8],
    ) -> Option<(SlotId, Slot, Place, Record<'_>)> {
        self.find_noting(hash, key, |_| {})
    }

    /// The same; slots that are about to be looked at are named first, so that what belongs to them can
    /// be brought near.
    #[inline]
    pub(super) fn find_noting(
        &self,
        hash: KeyHash,
        key: &[u8],
        mut note: impl FnMut(SlotId),
    ) -> Option<(SlotId, Slot, Place, Record<'_>)> {
        self.index.candidates(hash).find_map(|(id, slot)| {
            note(id);
            let place = Place::of(slot.location(), self.log_shift);
            let record = self.record_of(place, key)?;
            Some((id, slot, place, record))
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
        let bytes = self.log.read_on(place.segment, place.offset)?;
        // Where the key begins is known only when the header is there: do not wait for one after
        // the other.
        if let Some(next_line) = bytes.get(CACHE_LINE) {
            hugepages::prefetch(next_line);
        }
        Record::parse(bytes)
    }
}
