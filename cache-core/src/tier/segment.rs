//! A segment on disk: a header sector, records, and a footer that lists them once it is full.
//!
//! ```text
//!  0        4 KiB                                                       segment_bytes
//!  [ header | record | record | ...          | free | zeros | table | trailer (64) ]
//!                                                    '---- footer, sectors ----'
//! ```
//! The header goes out with the first records, the footer last. A footer counts only if it is of
//! the same life as the header: sequence and the random number of the process that wrote it.

use super::bytes::{Cursor, Patch};
use super::format::{SECTOR, SetId};
use super::record::{Front, Tags, UNIT, judged};
use crate::purge::TagSlot;
use crate::store::KeyHash;

pub(super) const HEADER_BYTES: u32 = SECTOR;
pub(super) const TRAILER_BYTES: usize = 64;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"pcS1");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"pcF1");
const ENTRY_BYTES: usize = 32;
const ANY_TAG: u8 = 1;
const PINNED: u8 = 2;

/// Names one life of one segment: no two in a set of devices are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Grows with every segment that a shard opens: a larger one is newer.
    pub sequence: u64,
    /// Random, of the process that opened it: two processes may come to the same sequence when
    /// what the first wrote did not reach the disk.
    pub life: u64,
    /// The segment's number in its set.
    pub number: u32,
    seed: u32,
}

impl Identity {
    pub fn new(set: SetId, sequence: u64, life: u64, number: u32) -> Self {
        let mut name = [0; 36];
        let mut patch = Patch::new(&mut name);
        patch.bytes(&set.0);
        patch.u64(sequence);
        patch.u64(life);
        patch.u32(number);
        Self {
            sequence,
            life,
            number,
            seed: crc32c::crc32c(&name),
        }
    }

    /// What every checksum in the segment begins with.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The header sector.
    pub fn encode_header(&self, bytes: &mut [u8], space: Kind) {
        bytes[..HEADER_BYTES as usize].fill(0);
        let mut patch = Patch::new(bytes);
        patch.u32(HEADER_MAGIC);
        patch.u32(0);
        patch.u64(self.sequence);
        patch.u64(self.life);
        patch.u32(self.number);
        patch.u32(space as u32);
        let crc = self.header_checksum(bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Who lives in the segment of that number. `None`: nobody, or the header is damaged.
    pub fn decode_header(bytes: &[u8], set: SetId, number: u32) -> Option<(Self, Kind)> {
        let bytes = bytes.get(..HEADER_BYTES as usize)?;
        let mut cursor = Cursor::new(bytes);
        if cursor.u32() != HEADER_MAGIC {
            return None;
        }
        let crc = cursor.u32();
        let identity = Self::new(set, cursor.u64(), cursor.u64(), cursor.u32());
        let kind = match cursor.u32() {
            1 => Kind::Pinned,
            _ => Kind::Plain,
        };
        let checks = identity.number == number && identity.header_checksum(bytes) == crc;
        checks.then_some((identity, kind))
    }

    fn header_checksum(&self, bytes: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.seed, &bytes[..4]);
        crc32c::crc32c_append(crc, &bytes[8..HEADER_BYTES as usize])
    }
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Objects that may be evicted.
    Plain = 0,
    /// Pinned objects.
    Pinned = 1,
}

/// What a footer says of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub hash: KeyHash,
    /// See [`super::record::Marks`].
    pub serial: u64,
    /// Where the record begins, in units of 64 bytes, and how many it takes.
    pub unit: u32,
    pub units: u32,
    pub stamp: u32,
    /// See [`super::index::version`].
    pub version: u16,
    pub any_tag: bool,
    pub pinned: bool,
    pub tags: Tags,
}

impl Entry {
    pub fn of(front: &Front, at: u32) -> Self {
        Self {
            hash: front.hash,
            serial: front.serial,
            unit: at / UNIT,
            units: front.record_len() / UNIT,
            stamp: front.meta.stamp,
            version: super::index::version(&front.meta),
            any_tag: front.any_tag,
            pinned: front.pinned,
            tags: front.tags.clone(),
        }
    }

    pub fn judged_tags(&self) -> impl Iterator<Item = TagSlot> + '_ {
        judged(&self.tags, self.any_tag)
    }
}

/// A table of records that grows with its segment.
#[derive(Debug, Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    entries: u32,
}

impl Table {
    pub fn push(&mut self, entry: &Entry) {
        let start = self.bytes.len();
        self.bytes
            .resize(start + ENTRY_BYTES + 4 * entry.tags.len(), 0);
        let any_tag = if entry.any_tag { ANY_TAG } else { 0 };
        let marks = any_tag | if entry.pinned { PINNED } else { 0 };
        let mut patch = Patch::new(&mut self.bytes[start..]);
        patch.u64(entry.hash.0);
        patch.u64(entry.serial);
        patch.u32(entry.unit);
        patch.u32(entry.units);
        patch.u32(entry.stamp);
        patch.u16(entry.version);
        patch.bytes(&[marks, entry.tags.len() as u8]);
        for tag in &entry.tags {
            patch.u32(tag.0);
        }
        self.entries += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes of the footer, with one entry of that many tags more.
    pub fn footer_bytes_with(&self, tags: usize) -> u32 {
        footer_bytes(self.bytes.len() + ENTRY_BYTES + 4 * tags)
    }

    /// The footer: to be written so that it ends where the segment ends.
    pub fn encode(&self, identity: Identity) -> Vec<u8> {
        let mut footer = vec![0; footer_bytes(self.bytes.len()) as usize];
        let trailer_at = footer.len() - TRAILER_BYTES;
        let table_at = trailer_at - self.bytes.len();
        footer[table_at..trailer_at].copy_from_slice(&self.bytes);
        let trailer = &mut footer[trailer_at..];
        let mut patch = Patch::new(trailer);
        patch.u32(TRAILER_MAGIC);
        patch.u32(0);
        patch.u64(identity.sequence);
        patch.u64(identity.life);
        patch.u32(identity.number);
        patch.u32(self.entries);
        patch.u32(self.bytes.len() as u32);
        patch.u32(crc32c::crc32c_append(identity.seed(), &self.bytes));
        let crc = trailer_checksum(trailer, identity);
        trailer[4..8].copy_from_slice(&crc.to_le_bytes());
        footer
    }
}

fn footer_bytes(table: usize) -> u32 {
    (table + TRAILER_BYTES).next_multiple_of(SECTOR as usize) as u32
}

fn trailer_checksum(trailer: &[u8], identity: Identity) -> u32 {
    let crc = crc32c::crc32c_append(identity.seed(), &trailer[..4]);
    crc32c::crc32c_append(crc, &trailer[8..])
}

/// The last bytes of a segment that was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub entries: u32,
    pub table_bytes: u32,
    table_checksum: u32,
}

impl Trailer {
    /// From the end of `tail`. `None`: the segment was not sealed in this life, or it is damaged.
    pub fn decode(tail: &[u8], identity: Identity) -> Option<Self> {
        let trailer = tail.last_chunk::<TRAILER_BYTES>()?;
        let mut cursor = Cursor::new(trailer);
        if cursor.u32() != TRAILER_MAGIC || cursor.u32() != trailer_checksum(trailer, identity) {
            return None;
        }
        let same = (cursor.u64(), cursor.u64(), cursor.u32());
        (same == (identity.sequence, identity.life, identity.number)).then(|| Self {
            entries: cursor.u32(),
            table_bytes: cursor.u32(),
            table_checksum: cursor.u32(),
        })
    }

    /// Bytes at the segment's end that hold the whole footer.
    pub fn footer_bytes(&self) -> u32 {
        footer_bytes(self.table_bytes as usize)
    }

    /// The entries, from the segment's last bytes, at least [`Self::footer_bytes`] of them, each `None`
    /// if it is not whole. `None`: the table is damaged.
    pub fn entries<'a>(
        &self,
        tail: &'a [u8],
        identity: Identity,
    ) -> Option<impl Iterator<Item = Option<Entry>> + use<'a>> {
        let end = tail.len().checked_sub(TRAILER_BYTES)?;
        let start = end.checked_sub(self.table_bytes as usize)?;
        let table = &tail[start..end];
        if crc32c::crc32c_append(identity.seed(), table) != self.table_checksum {
            return None;
        }
        let mut rest = table;
        Some((0..self.entries).map(move |_| take_entry(&mut rest)))
    }
}

fn take_entry(rest: &mut &[u8]) -> Option<Entry> {
    let mut cursor = Cursor::new(rest.get(..ENTRY_BYTES)?);
    let (hash, serial) = (KeyHash(cursor.u64()), cursor.u64());
    let (unit, units, stamp) = (cursor.u32(), cursor.u32(), cursor.u32());
    let version = cursor.u16();
    let [marks, tags] = cursor.array();
    let end = ENTRY_BYTES + 4 * usize::from(tags);
    let mut cursor = Cursor::new(rest.get(ENTRY_BYTES..end)?);
    *rest = &rest[end..];
    Some(Entry {
        hash,
        serial,
        unit,
        units,
        stamp,
        version,
        any_tag: marks & ANY_TAG != 0,
        pinned: marks & PINNED != 0,
        tags: (0..tags).map(|_| TagSlot(cursor.u32())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SET: SetId = SetId([1; 16]);

    fn identity() -> Identity {
        Identity::new(SET, 12, 34, 56)
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (
            any::<(u64, u64, u32, u32, u32, u16)>(),
            any::<(bool, bool)>(),
            prop::collection::vec(any::<u32>().prop_map(TagSlot), 0..=32),
        )
            .prop_map(|(fields, marks, tags)| Entry {
                hash: KeyHash(fields.0),
                serial: fields.1,
                unit: fields.2,
                units: fields.3,
                stamp: fields.4,
                version: fields.5,
                any_tag: marks.0,
                pinned: marks.1,
                tags: tags.into(),
            })
    }

    fn read(footer: &[u8], identity: Identity) -> Option<Vec<Entry>> {
        let trailer = Trailer::decode(footer, identity)?;
        assert_eq!(trailer.footer_bytes() as usize, footer.len());
        trailer.entries(footer, identity)?.collect()
    }

    proptest! {
        #[test]
        fn a_footer_is_read_as_it_was_written(entries in prop::collection::vec(entry(), 0..300)) {
            let mut table = Table::default();
            for entry in &entries {
                let foreseen = table.footer_bytes_with(entry.tags.len());
                table.push(entry);
                prop_assert_eq!(table.encode(identity()).len(), foreseen as usize);
            }
            prop_assert_eq!(read(&table.encode(identity()), identity()), Some(entries));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_footer_is_noticed_or_harmless() {
        let mut table = Table::default();
        let entries: Vec<_> = (0..20)
            .map(|number| Entry {
                hash: KeyHash(number),
                serial: number,
                unit: 64,
                units: 3,
                stamp: 7,
                version: 1,
                any_tag: false,
                pinned: true,
                tags: [TagSlot(4)].into_iter().collect(),
            })
            .collect();
        for entry in &entries {
            table.push(entry);
        }
        let footer = table.encode(identity());
        let used = footer.len() - TRAILER_BYTES - 20 * (ENTRY_BYTES + 4);
        for bit in 0..footer.len() * 8 {
            let mut damaged = footer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let got = Trailer::decode(&damaged, identity())
                .and_then(|trailer| trailer.entries(&damaged, identity())?.collect());
            let expected = (bit / 8 < used).then(|| entries.clone());
            assert_eq!(got, expected, "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let mut header = vec![0xff; HEADER_BYTES as usize];
        identity().encode_header(&mut header, Kind::Pinned);
        assert_eq!(
            Identity::decode_header(&header, SET, 56),
            Some((identity(), Kind::Pinned))
        );
        assert_eq!(Identity::decode_header(&header, SET, 57), None);
        assert_eq!(Identity::decode_header(&header, SetId([2; 16]), 56), None);
        for bit in 0..header.len() * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Identity::decode_header(&header, SET, 56), None, "bit {bit}");
            header[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn the_footer_of_another_life_does_not_count() {
        let mut table = Table::default();
        table.push(&Entry {
            hash: KeyHash(1),
            serial: 1,
            unit: 64,
            units: 3,
            stamp: 0,
            version: 0,
            any_tag: true,
            pinned: false,
            tags: Tags::new(),
        });
        let footer = table.encode(identity());
        for other in [
            Identity::new(SET, 13, 34, 56),
            Identity::new(SET, 12, 35, 56),
            Identity::new(SET, 12, 34, 57),
            Identity::new(SetId([9; 16]), 12, 34, 56),
        ] {
            assert_eq!(Trailer::decode(&footer, other), None);
        }
    }
}
