//! Objects on their way out of memory, as those see them who may keep them elsewhere.

use super::hit::Place;
use super::{KeyHash, ObjectMeta, Partition};
use crate::purge::TagSlot;
use crate::record::{self, EXTENT_BYTES, Form, Header, Tail};

/// An object that [`super::Store::turn`] evicted for room. Its bytes are there for the length of the call.
#[derive(Clone, Copy, Debug)]
pub struct Evicted<'a> {
    pub hash: KeyHash,
    pub key: &'a [u8],
    pub meta: ObjectMeta,
    /// Its surrogate keys.
    pub tags: &'a [TagSlot],
    /// It has more surrogate keys than are kept.
    pub any_tag: bool,
    /// The bytes given to [`super::Store::begin`] as `head`.
    pub head: &'a [u8],
    /// The body in pieces, in order.
    pub body: &'a [&'a [u8]],
    /// How often it was asked for, the first time included, as far as is remembered: about, and 34
    /// at most.
    pub requests: u8,
}

/// An object that was taken out of the index a moment ago, and whose bytes are still there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub hash: KeyHash,
    pub location: u64,
    pub requests: u8,
}

pub(super) type Sink<'a> = &'a mut dyn FnMut(Evicted<'_>);

impl Partition {
    /// Shows an object, unless it is damaged. Only before the next announcement of quiescence.
    pub(super) fn show(&self, leaving: &Leaving, sink: Sink<'_>) {
        let place = Place::of(leaving.location, self.log_shift);
        let Some(record) = self.record(place) else {
            return;
        };
        let header = &record.header;
        // A mark that no other place could keep: it is stale, and better fetched again.
        let Some(head) = record.head().filter(|_| !header.marks.purged_softly) else {
            return;
        };
        let Some(body) = self.body(header, record.tail()) else {
            return;
        };
        let tags: Vec<TagSlot> = record.tags().filter(|tag| *tag != TagSlot::ANY).collect();
        sink(Evicted {
            hash: leaving.hash,
            key: record.key(),
            meta: header.meta,
            tags: &tags,
            any_tag: header.marks.any_tag,
            head,
            body: &body,
            requests: leaving.requests,
        });
    }

    fn body<'a>(&'a self, header: &Header, tail: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let (list, rest) = Tail::of(header.meta.body_len).split(tail);
        let rest = (!rest.is_empty()).then_some(Some(rest));
        let extents = record::unlist(list).map(|(extent, generation)| {
            let is_its = self.extents.generation(extent) == Some(generation);
            let bytes = self.extents.read(extent, 0, EXTENT_BYTES);
            bytes.filter(|_| is_its)
        });
        match header.form {
            Form::Contiguous => Some(vec![tail]),
            Form::Extents => extents.chain(rest).collect(),
            Form::Piece => None,
        }
    }
}
