//! An object being written, as its writer and its readers see it.

use bytes::Bytes;

use super::hit::Place;
use super::{KeyHash, ObjectMeta, Partition};
use crate::io::ShardId;
use crate::purge::TagSlot;
use crate::record::{Encoded, Form, Header};

/// An object being written. Give it back by [`super::Store::release`].
#[derive(Debug)]
#[must_use = "a fill keeps memory until it is released"]
pub struct Fill {
    pub(super) owner: ShardId,
    /// In the owner's table of fills.
    pub(super) id: usize,
}

/// Names published bytes of a fill, for [`super::Store::view`] on any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    owner: ShardId,
    arena: ArenaKind,
    segment: u32,
    generation: u32,
    offset: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArenaKind {
    Log,
    Extents,
}

impl Span {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn new(owner: ShardId, arena: ArenaKind, generation: u32, piece: Piece) -> Self {
        Self {
            owner,
            arena,
            segment: piece.place.segment,
            generation,
            offset: piece.place.offset,
            len: piece.len,
        }
    }

    pub(super) fn owner(&self) -> ShardId {
        self.owner
    }

    pub(super) fn view(&self, partition: &Partition) -> Option<Bytes> {
        let reader = match self.arena {
            ArenaKind::Log => &partition.log,
            ArenaKind::Extents => &partition.extents,
        };
        reader.view_of(self.segment, self.generation, self.offset, self.len)
    }
}

/// Bytes of a body in one of the arenas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub place: Place,
    pub len: u32,
}

/// A fill as its owner keeps it.
#[derive(Debug)]
pub(super) struct Filling {
    pub hash: KeyHash,
    pub key: Box<[u8]>,
    pub head: Box<[u8]>,
    pub meta: ObjectMeta,
    pub tags: Box<[TagSlot]>,
    pub length: Option<u64>,
    /// Body bytes written.
    pub written: u64,
    pub stage: Stage,
    /// Log segments that must stay while spans are on their way, once per append.
    pub pins: Vec<u32>,
    /// Extents that hold the body so far, all full but the last.
    pub extents: Vec<u32>,
    /// Extents that it is still expected to take.
    pub announced: u32,
    /// The large object that it became.
    pub large: Option<u32>,
    pub state: FillState,
}

/// Where the body goes.
#[derive(Debug)]
pub(super) enum Stage {
    /// The first append is the whole body as far as is known, and was written as a record with this
    /// header.
    Record(Place, Box<Header>),
    /// Pieces in the log, to be joined at the end.
    Pieces(Vec<Piece>),
    Extents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FillState {
    Open,
    /// Out of room, too long, or purged: it will not be committed.
    Dead,
    Purged,
    Committed,
}

impl Filling {
    /// The header of the object as it is now, and its bytes. `large` is the owner's number of a
    /// large one.
    pub fn header(&self, form: Form, body_len: u64, large: u32) -> (Header, Encoded) {
        let meta = ObjectMeta {
            body_len,
            ..self.meta
        };
        let header = Header {
            large,
            ..Header::new(form, meta, &self.key, &self.head)
        };
        header.encode(&self.tags)
    }

    /// Takes what the body has in the log so far; the stage is to be set anew.
    pub fn take_log_pieces(&mut self) -> Vec<Piece> {
        match std::mem::replace(&mut self.stage, Stage::Pieces(Vec::new())) {
            Stage::Pieces(pieces) => pieces,
            Stage::Extents => Vec::new(),
            Stage::Record(place, header) => {
                let offset = place.offset + header.tail_start();
                let place = Place { offset, ..place };
                vec![Piece {
                    place,
                    len: self.written as u32,
                }]
            }
        }
    }
}
