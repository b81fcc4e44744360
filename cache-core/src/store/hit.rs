//! Reading: from key to record, and from record to bytes.

use bytes::Bytes;

use super::{HitNote, ObjectMeta, Partition};
use crate::index::{Slot, SlotId};
use crate::record::{self, ALIGN, Form, HEADER_BYTES, Header};
use crate::store::KeyHash;

/// An object found by [`super::Store::lookup`], borrowed until the store is used again.
#[derive(Debug)]
pub struct Hit<'a> {
    pub meta: ObjectMeta,
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

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u32,
}

impl Place {
    /// As the index keeps it, in units of 64 bytes.
    pub fn location(self, log_shift: u32) -> u64 {
        (u64::from(self.segment) << log_shift | u64::from(self.offset)) / u64::from(ALIGN)
    }

    pub fn of(location: u64, log_shift: u32) -> Self {
        let byte = location * u64::from(ALIGN);
        Self {
            segment: u32::try_from(byte >> log_shift).unwrap_or(u32::MAX),
            offset: (byte & ((1 << log_shift) - 1)) as u32,
        }
    }
}

impl<'a> Hit<'a> {
    pub(super) fn new(partition: &'a mut Partition, found: Found, note: Option<HitNote>) -> Self {
        Self {
            meta: found.header.meta,
            note,
            partition,
            found,
        }
    }

    /// The bytes given to [`super::Store::begin`] as `head`.
    pub fn head(&self) -> &[u8] {
        let header = &self.found.header;
        self.part(header.head_start(), header.head_len)
    }

    /// The body, where it is contiguous (64 KiB or less).
    pub fn body(&self) -> Option<&[u8]> {
        let header = &self.found.header;
        match header.form {
            Form::Contiguous => Some(self.part(header.tail_start(), header.tail_len())),
            Form::Extents | Form::Piece => None,
        }
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
    fn part(&self, from: u32, len: u32) -> &[u8] {
        let place = self.found.place;
        let part = self
            .partition
            .log
            .read(place.segment, place.offset + from, len);
        part.unwrap_or_default()
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

impl Partition {
    /// The object of a key: its slot and its record.
    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<(SlotId, Slot, Found)> {
        let epoch = self.epoch();
        self.index.candidates(hash).find_map(|(id, slot)| {
            let found = self.record(slot.location(), key)?;
            (found.header.epoch == epoch).then_some((id, slot, found))
        })
    }

    /// The record at a location if it is sound and of this key, of any epoch.
    pub(super) fn record(&self, location: u64, key: &[u8]) -> Option<Found> {
        let place = Place::of(location, self.log_shift);
        let header = self.header(place)?;
        if header.form == Form::Piece || usize::from(header.key_len) != key.len() {
            return None;
        }
        // The whole record must be there, not only its key.
        self.log
            .read(place.segment, place.offset, header.record_len())?;
        let stored = self.key(place, &header)?;
        (stored == key).then_some(Found { header, place })
    }

    /// The key of the record at a place.
    pub(super) fn key(&self, place: Place, header: &Header) -> Option<&[u8]> {
        let offset = place.offset.checked_add(HEADER_BYTES)?;
        self.log
            .read(place.segment, offset, u32::from(header.key_len))
    }

    /// The header at a place, if there is a sound one.
    pub(super) fn header(&self, place: Place) -> Option<Header> {
        let bytes = self.log.read(place.segment, place.offset, HEADER_BYTES)?;
        Header::decode(bytes)
    }
}
