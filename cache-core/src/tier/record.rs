//! One object on disk: a front (header, tags, checksums of the body, key, head) and the body.
//!
//! ```text
//!  0        96                                                   body_at
//!  [ header | tag slots u32.. | piece checksums u32.. | key | head ] pad [ body ] pad to 64
//!     '------------------- front, one checksum -------------------'     one a 64 KiB piece
//! ```
//! Records begin at multiples of 64 bytes. The body of a large one begins at a multiple of 4 KiB of
//! the segment, so that its pieces can be read without reading a sector twice.
//!
//! All checksums begin with what names the segment's life (set of devices, sequence, random number):
//! what another life of the same place has left does not check.

use smallvec::SmallVec;

use super::bytes::{Cursor, Patch};
use super::format::SECTOR;
use super::segment::Identity;
use crate::purge::{MAX_TAGS, TagSlot};
use crate::store::{Evicted, KeyHash, ObjectMeta};

/// Records begin at multiples of this.
pub(super) const UNIT: u32 = 64;
/// Bytes of body under one checksum.
pub(super) const PIECE: u32 = 64 << 10;
pub(super) const HEADER_BYTES: u32 = 96;
/// Longest front: it is read at once, with the sectors it begins and ends in.
pub(super) const MAX_FRONT: u32 = 96 << 10;
/// Records from here on have their body at a multiple of 4 KiB.
const LARGE: u32 = 256 << 10;
const MAGIC: u32 = u32::from_le_bytes(*b"pcT1");

const ANY_TAG: u8 = 1;
const PINNED: u8 = 2;

/// Where the parts of a record lie, counted from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub front: u32,
    pub body_at: u32,
    pub body_len: u32,
    /// With padding to the next unit.
    pub len: u32,
}

impl Layout {
    /// Of an object whose record would begin at byte `at` of its segment. `None`: it has parts too
    /// long to be kept, wherever.
    pub fn of(object: &Evicted<'_>, at: u32) -> Option<Self> {
        let body_len: usize = object.body.iter().map(|part| part.len()).sum();
        let body_len = u32::try_from(body_len).ok().filter(|len| *len < 1 << 30)?;
        if object.key.len() > usize::from(u16::MAX) || object.tags.len() > MAX_TAGS {
            return None;
        }
        let front = HEADER_BYTES as usize
            + 4 * object.tags.len()
            + 4 * body_len.div_ceil(PIECE) as usize
            + object.key.len()
            + object.head.len();
        let front = u32::try_from(front).ok().filter(|len| *len <= MAX_FRONT)?;
        let body_at = match front + body_len >= LARGE {
            true => (at + front).next_multiple_of(SECTOR) - at,
            false => front.next_multiple_of(UNIT),
        };
        Some(Self {
            front,
            body_at,
            body_len,
            len: (body_at + body_len).next_multiple_of(UNIT),
        })
    }
}

/// A record's place in its segment's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub identity: Identity,
    /// First byte, counted from the segment's.
    pub at: u32,
}

/// What a record says beside its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// Grows with every record that a shard writes: of two of one key, the larger is newer.
    pub serial: u64,
    pub pinned: bool,
}

/// The front, as bytes to be written.
pub(super) fn encode_front(
    object: &Evicted<'_>,
    layout: Layout,
    spot: Spot,
    marks: Marks,
) -> Vec<u8> {
    let mut bytes = vec![0; layout.front as usize];
    let meta = &object.meta;
    let any_tag = if object.any_tag { ANY_TAG } else { 0 };
    let bits = any_tag | if marks.pinned { PINNED } else { 0 };
    let mut patch = Patch::new(&mut bytes);
    patch.u32(MAGIC);
    patch.u32(0);
    patch.u64(spot.identity.sequence);
    patch.u32(spot.identity.number);
    patch.u32(spot.at / UNIT);
    patch.u64(object.hash.0);
    patch.u32(layout.body_len);
    patch.u32(layout.body_at);
    patch.u64(meta.stored_unix_ms);
    patch.u32(meta.age_at_store_s);
    patch.u32(meta.lifetime_s);
    patch.u32(meta.stale_while_revalidate_s);
    patch.u32(meta.stale_if_error_s);
    patch.u32(meta.flags);
    patch.u32(meta.stamp);
    patch.u32(object.head.len() as u32);
    patch.u16(object.key.len() as u16);
    patch.u16(meta.status);
    patch.bytes(&[meta.class, object.tags.len() as u8, bits, 0]);
    patch.u64(marks.serial);
    patch.u32(0);
    for tag in object.tags {
        patch.u32(tag.0);
    }
    for crc in piece_checksums(object.body, spot.identity) {
        patch.u32(crc);
    }
    patch.bytes(object.key);
    patch.bytes(object.head);
    let crc = front_checksum(&bytes, spot.identity);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Surrogate keys of an object; the usual few without an allocation.
pub(super) type Tags = SmallVec<[TagSlot; 4]>;

/// A front that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Front {
    pub hash: KeyHash,
    pub meta: ObjectMeta,
    pub tags: Tags,
    pub any_tag: bool,
    pub pinned: bool,
    pub serial: u64,
    pub body_at: u32,
    pub body_len: u32,
    pub checksums: SmallVec<[u32; 4]>,
    /// Where key and head lie in the record.
    pub key: (u32, u32),
    pub head: (u32, u32),
}

impl Front {
    /// Decodes the front at the start of `bytes`, which belongs at `spot`. `None`: there is none,
    /// or a damaged one, or one of another life of the segment, or it does not end in `bytes`.
    pub fn decode(bytes: &[u8], spot: Spot) -> Option<Self> {
        let mut cursor = Cursor::new(bytes.get(..HEADER_BYTES as usize)?);
        if cursor.u32() != MAGIC {
            return None;
        }
        let crc = cursor.u32();
        if cursor.u64() != spot.identity.sequence
            || cursor.u32() != spot.identity.number
            || cursor.u32() != spot.at / UNIT
        {
            return None;
        }
        let hash = KeyHash(cursor.u64());
        let (body_len, body_at) = (cursor.u32(), cursor.u32());
        let mut meta = ObjectMeta {
            stored_unix_ms: cursor.u64(),
            age_at_store_s: cursor.u32(),
            lifetime_s: cursor.u32(),
            stale_while_revalidate_s: cursor.u32(),
            stale_if_error_s: cursor.u32(),
            flags: cursor.u32(),
            stamp: cursor.u32(),
            body_len: u64::from(body_len),
            ..ObjectMeta::default()
        };
        let head_len = cursor.u32();
        let key_len = u32::from(cursor.u16());
        meta.status = cursor.u16();
        let [class, tags, marks, _] = cursor.array();
        meta.class = class;
        let serial = cursor.u64();

        let pieces = body_len.div_ceil(PIECE);
        let key_at = HEADER_BYTES + 4 * u32::from(tags) + pieces.checked_mul(4)?;
        let head_at = key_at.checked_add(key_len)?;
        let front = head_at.checked_add(head_len)?;
        if front > MAX_FRONT || front_checksum(bytes.get(..front as usize)?, spot.identity) != crc {
            return None;
        }
        let mut lists = Cursor::new(&bytes[HEADER_BYTES as usize..key_at as usize]);
        Some(Self {
            hash,
            meta,
            tags: (0..tags).map(|_| TagSlot(lists.u32())).collect(),
            any_tag: marks & ANY_TAG != 0,
            pinned: marks & PINNED != 0,
            serial,
            body_at,
            body_len,
            checksums: (0..pieces).map(|_| lists.u32()).collect(),
            key: (key_at, key_len),
            head: (head_at, head_len),
        })
    }

    /// Bytes of the record with its padding.
    pub fn record_len(&self) -> u32 {
        (self.body_at + self.body_len).next_multiple_of(UNIT)
    }

    /// The surrogate keys for [`crate::purge::Purges::judge`].
    pub fn judged_tags(&self) -> impl Iterator<Item = TagSlot> + '_ {
        judged(&self.tags, self.any_tag)
    }

    /// Where a piece of the body lies in the record.
    pub fn piece(&self, piece: u32) -> std::ops::Range<u32> {
        let start = self.body_at + piece * PIECE;
        start..(start + PIECE).min(self.body_at + self.body_len)
    }

    pub fn pieces(&self) -> u32 {
        self.checksums.len() as u32
    }

    pub fn piece_checks(&self, piece: u32, bytes: &[u8], identity: Identity) -> bool {
        self.checksums.get(piece as usize) == Some(&crc32c::crc32c_append(identity.seed(), bytes))
    }
}

/// Surrogate keys with the one that stands for all, where it applies.
pub(super) fn judged(tags: &[TagSlot], any_tag: bool) -> impl Iterator<Item = TagSlot> + '_ {
    let any = any_tag.then_some(TagSlot::ANY);
    tags.iter().copied().chain(any)
}

fn front_checksum(front: &[u8], identity: Identity) -> u32 {
    let crc = crc32c::crc32c_append(identity.seed(), &front[..4]);
    crc32c::crc32c_append(crc, &front[8..])
}

/// One checksum for each [`PIECE`] of the parts, joined.
fn piece_checksums(body: &[&[u8]], identity: Identity) -> Vec<u32> {
    let mut checksums = Vec::new();
    let (mut crc, mut room) = (identity.seed(), PIECE as usize);
    for part in body {
        let mut rest = *part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            crc = crc32c::crc32c_append(crc, now);
            room -= now.len();
            rest = later;
            if room == 0 {
                checksums.push(crc);
                (crc, room) = (identity.seed(), PIECE as usize);
            }
        }
    }
    if room < PIECE as usize {
        checksums.push(crc);
    }
    checksums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::format::SetId;
    use proptest::prelude::*;

    fn spot(at: u32) -> Spot {
        Spot {
            identity: Identity::new(SetId([3; 16]), 17, 99, 5),
            at,
        }
    }

    fn meta() -> impl Strategy<Value = ObjectMeta> {
        (
            any::<(u16, u64, u32, u32)>(),
            any::<(u32, u32, u32, u32)>(),
            any::<u8>(),
        )
            .prop_map(
                |((status, stored_unix_ms, age, lifetime), (swr, sie, flags, stamp), class)| {
                    ObjectMeta {
                        status,
                        stored_unix_ms,
                        age_at_store_s: age,
                        lifetime_s: lifetime,
                        stale_while_revalidate_s: swr,
                        stale_if_error_s: sie,
                        flags,
                        stamp,
                        class,
                        ..ObjectMeta::default()
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn a_front_is_read_as_it_was_written(
            meta in meta(), tags in prop::collection::vec(any::<u32>(), 0..=32),
            key in prop::collection::vec(any::<u8>(), 0..300),
            head in prop::collection::vec(any::<u8>(), 0..3_000),
            body in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100_000), 0..4),
            marks in any::<(bool, bool)>(), at in 64..1000_u32, serial in any::<u64>(),
        ) {
            let tags: Vec<_> = tags.into_iter().map(TagSlot).collect();
            let parts: Vec<&[u8]> = body.iter().map(Vec::as_slice).collect();
            let object = Evicted {
                hash: KeyHash(5), key: &key, meta, tags: &tags, any_tag: marks.0,
                head: &head, body: &parts, requests: 1,
            };
            let spot = spot(at * UNIT);
            let layout = Layout::of(&object, spot.at).unwrap();
            let bytes = encode_front(&object, layout, spot, Marks { serial, pinned: marks.1 });
            let front = Front::decode(&bytes, spot).unwrap();
            let part = |(start, len): (u32, u32)| &bytes[start as usize..(start + len) as usize];
            prop_assert_eq!(part(front.key), &key[..]);
            prop_assert_eq!(part(front.head), &head[..]);
            prop_assert_eq!((front.record_len(), front.serial), (layout.len, serial));
            prop_assert_eq!((front.any_tag, front.pinned), marks);
            let joined = body.concat();
            prop_assert_eq!(front.meta, ObjectMeta { body_len: joined.len() as u64, ..meta });
            prop_assert_eq!(&front.tags[..], &tags[..]);
            for piece in 0..front.pieces() {
                let range = front.piece(piece);
                let from = (range.start - front.body_at) as usize;
                let bytes = &joined[from..from + range.len()];
                prop_assert!(front.piece_checks(piece, bytes, spot.identity));
            }
        }
    }

    fn sample(spot: Spot) -> (Vec<u8>, Vec<u8>) {
        let body = vec![9; 700];
        let object = Evicted {
            hash: KeyHash(77),
            key: b"https://edge.test/a",
            meta: ObjectMeta::default(),
            tags: &[TagSlot(1), TagSlot(2)],
            any_tag: false,
            head: b"head",
            body: &[&body],
            requests: 2,
        };
        let layout = Layout::of(&object, spot.at).unwrap();
        (
            encode_front(
                &object,
                layout,
                spot,
                Marks {
                    serial: 3,
                    pinned: false,
                },
            ),
            body,
        )
    }

    #[test]
    fn every_flipped_bit_of_a_front_or_a_piece_is_noticed() {
        let spot = spot(128);
        let (bytes, mut body) = sample(spot);
        let front = Front::decode(&bytes, spot).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Front::decode(&damaged, spot), None, "bit {bit}");
        }
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert!(!front.piece_checks(0, &body, spot.identity));
            body[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(front.piece_checks(0, &body, spot.identity));
    }

    #[test]
    fn a_record_of_another_life_or_place_is_none() {
        let here = spot(128);
        let (bytes, body) = sample(here);
        let front = Front::decode(&bytes, here).unwrap();
        let set = SetId([3; 16]);
        let others = [
            Identity::new(SetId([4; 16]), 17, 99, 5),
            Identity::new(set, 18, 99, 5),
            Identity::new(set, 17, 98, 5),
            Identity::new(set, 17, 99, 6),
        ];
        for identity in others {
            assert_eq!(Front::decode(&bytes, Spot { identity, ..here }), None);
            assert!(!front.piece_checks(0, &body, identity));
        }
        assert_eq!(Front::decode(&bytes, spot(192)), None);
        for len in 0..bytes.len() {
            assert_eq!(Front::decode(&bytes[..len], here), None);
        }
    }

    #[test]
    fn parts_too_long_are_not_laid_out() {
        let (key, head) = (vec![0; 70_000], vec![0; MAX_FRONT as usize]);
        let object = |key, head| Evicted {
            hash: KeyHash(1),
            key,
            meta: ObjectMeta::default(),
            tags: &[],
            any_tag: false,
            head,
            body: &[],
            requests: 1,
        };
        assert_eq!(Layout::of(&object(&key[..], &[]), 64), None);
        assert_eq!(Layout::of(&object(&[], &head[..]), 64), None);
        assert!(Layout::of(&object(b"k", b"h"), 64).is_some());
    }
}
