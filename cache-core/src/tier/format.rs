//! What a device of the tier says of itself: the superblock, and the geometry that follows from it.
//!
//! ```text
//!  0          1 MiB      2 MiB         6 MiB         10 MiB
//!  [ copy 0 | [ copy 1 | [ journal 0 | [ journal 1 | [ segment | segment | ...       ]
//!    4 KiB      4 KiB      4 MiB         4 MiB         segment_bytes each
//! ```
//! Every device has the same layout; the journal is used on device 0. docs/disk-format.md has every
//! field.

use super::bytes::{Cursor, Patch};
use crate::io::ShardId;

/// The format that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Reads and writes are multiples of this, at multiples of this.
pub const SECTOR: u32 = 4 << 10;
pub const SUPERBLOCK_BYTES: usize = SECTOR as usize;
/// Where the two copies lie.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 1 << 20];
/// Where the two areas of the journal lie, on device 0.
pub const JOURNAL_OFFSETS: [u64; 2] = [2 << 20, 6 << 20];
pub const JOURNAL_BYTES: u64 = 4 << 20;
/// Where the segments begin.
pub const DATA_START: u64 = 10 << 20;
pub const DEFAULT_SEGMENT_BYTES: u32 = 16 << 20;
/// Segments are powers of two between these.
pub const MIN_SEGMENT_BYTES: u32 = 1 << 20;
pub const MAX_SEGMENT_BYTES: u32 = 64 << 20;
/// Segments that a shard needs at least: two open ones, one to be freed, one to keep.
pub const MIN_SEGMENTS: u32 = 4;
/// Bytes of a shard that the index can name.
const MAX_SHARD_BYTES: u64 = 1 << 40;

const MAGIC: &[u8; 8] = b"popcache";

/// Names the devices that belong together; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetId(pub [u8; 16]);

/// What every device carries twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub set: SetId,
    /// This device's number in its set, and how many there are.
    pub device: u8,
    pub devices: u8,
    pub shards: u8,
    pub segment_bytes: u32,
    /// Bytes of the device that are used. It may be larger.
    pub device_bytes: u64,
    /// Seed of the store's key hash, which names objects on disk.
    pub hash_seed: u64,
    /// Slots of the purge table, which objects on disk name.
    pub tag_slots: u32,
}

/// Why a device, or the devices together, cannot be used. None of these is ever overwritten
/// without being told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("not formatted: {0}")]
    NotFormatted(&'static str),
    #[error("holds data that is not of a popcache tier (it begins with {0})")]
    Foreign(String),
    #[error("has format version {found}; this program reads version {VERSION}")]
    UnknownVersion { found: u32 },
    #[error("both copies of the superblock are damaged")]
    Damaged,
    #[error("its two superblocks differ: formatting it was cut short")]
    HalfFormatted,
    #[error("has {actual} bytes where it had {recorded} when it was formatted: it has shrunk")]
    Shrunk { recorded: u64, actual: u64 },
    #[error("was formatted for {found} shards (cores), the node runs {expected}")]
    OtherShards { found: u8, expected: u8 },
    #[error("device {number} belongs to another set of devices than the first")]
    OtherSet { number: u8 },
    #[error("the set has {expected} devices, {given} were given")]
    DeviceCount { expected: u8, given: usize },
    #[error("device {number} of the set was given twice or is missing")]
    DeviceNumber { number: u8 },
    #[error("devices of one set that disagree about {0}")]
    Disagree(&'static str),
    #[error("{bytes} bytes a device are too few for {shards} shards: give at least {minimum}")]
    TooSmall {
        bytes: u64,
        shards: u8,
        minimum: u64,
    },
    #[error("segments of {0} bytes: give a power of two from 1 MiB to 64 MiB")]
    SegmentBytes(u32),
    #[error("a set has 1 to 255 devices and 1 to 255 shards")]
    Count,
}

impl Superblock {
    /// The superblocks of a new set, one for each of `sizes` (bytes of each device), in order.
    ///
    /// # Errors
    /// Too small, or sizes that no format has.
    pub fn plan(sizes: &[u64], set: &SetPlan) -> Result<Vec<Self>, FormatError> {
        let devices = u8::try_from(sizes.len()).map_err(|_| FormatError::Count)?;
        let superblocks: Vec<_> = (0..devices)
            .zip(sizes)
            .map(|(device, size)| Self {
                set: set.id,
                device,
                devices,
                shards: set.shards,
                segment_bytes: set.segment_bytes,
                device_bytes: *size,
                hash_seed: set.hash_seed,
                tag_slots: set.tag_slots,
            })
            .collect();
        Geometry::assemble(&superblocks)?;
        Ok(superblocks)
    }

    /// One copy, to be written at each of [`SUPERBLOCK_OFFSETS`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        let mut patch = Patch::new(&mut bytes);
        patch.bytes(MAGIC);
        patch.u32(VERSION);
        patch.u32(0);
        patch.bytes(&self.set.0);
        patch.u64(self.device_bytes);
        patch.u64(self.hash_seed);
        patch.u32(self.segment_bytes);
        patch.u32(self.tag_slots);
        patch.bytes(&[self.device, self.devices, self.shards, 0]);
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// Not formatted, foreign, another version, damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(bytes) = bytes.get(..SUPERBLOCK_BYTES) else {
            return Err(FormatError::NotFormatted("it is smaller than a superblock"));
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(FormatError::NotFormatted("it begins with zeros"));
        }
        let mut cursor = Cursor::new(bytes);
        if &cursor.array::<8>() != MAGIC {
            return Err(FormatError::Foreign(beginning(bytes)));
        }
        let version = cursor.u32();
        if version != VERSION {
            return Err(FormatError::UnknownVersion { found: version });
        }
        if cursor.u32() != checksum(bytes) {
            return Err(FormatError::Damaged);
        }
        let superblock = Self {
            set: SetId(cursor.array()),
            device_bytes: cursor.u64(),
            hash_seed: cursor.u64(),
            segment_bytes: cursor.u32(),
            tag_slots: cursor.u32(),
            device: cursor.u8(),
            devices: cursor.u8(),
            shards: cursor.u8(),
        };
        Ok(superblock)
    }

    /// What a device says of itself, by what was read at [`SUPERBLOCK_OFFSETS`] (less where the
    /// device is shorter). One good copy is enough; [`Opened::repair`] says that the other should be
    /// written again.
    ///
    /// # Errors
    /// As [`Self::decode`]; the copies differ.
    pub fn open(copies: [&[u8]; 2]) -> Result<Opened, FormatError> {
        match copies.map(Self::decode) {
            [Ok(first), Ok(second)] if first == second => Ok(Opened {
                superblock: first,
                repair: None,
            }),
            [Ok(_), Ok(_)] => Err(FormatError::HalfFormatted),
            [Ok(superblock), Err(_)] => Ok(Opened {
                superblock,
                repair: Some(1),
            }),
            [Err(FormatError::UnknownVersion { found }), _] => {
                Err(FormatError::UnknownVersion { found })
            }
            [Err(_), Ok(superblock)] => Ok(Opened {
                superblock,
                repair: Some(0),
            }),
            [Err(first), Err(_)] => Err(first),
        }
    }

    /// Checks it against the device and the node.
    ///
    /// # Errors
    /// The device shrank; another number of shards.
    pub fn check(&self, device_bytes: u64, shards: u8) -> Result<(), FormatError> {
        if device_bytes < self.device_bytes {
            return Err(FormatError::Shrunk {
                recorded: self.device_bytes,
                actual: device_bytes,
            });
        }
        if self.shards != shards {
            return Err(FormatError::OtherShards {
                found: self.shards,
                expected: shards,
            });
        }
        Ok(())
    }
}

/// A superblock that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub superblock: Superblock,
    /// The copy that does not check.
    pub repair: Option<usize>,
}

/// What a new set is to be.
#[derive(Clone, Copy, Debug)]
pub struct SetPlan {
    /// Random.
    pub id: SetId,
    pub shards: u8,
    pub segment_bytes: u32,
    /// Random.
    pub hash_seed: u64,
    pub tag_slots: u32,
}

const CRC_AT: usize = 12;

/// Of all of the superblock but the field itself.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    crc32c::crc32c_append(crc, &bytes[CRC_AT + 4..])
}

/// For the message: text where it is text.
fn beginning(bytes: &[u8]) -> String {
    let first = &bytes[..8];
    match std::str::from_utf8(first) {
        Ok(text) if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => format!("`{text}`"),
        _ => first.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Where every segment of a set lies.
///
/// A shard's segments are numbered from 0 and go round the devices, beginning with another device
/// for each shard, so that every shard uses all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    set: SetId,
    devices: u8,
    shards: u8,
    segment_bytes: u32,
    /// Segments of one shard on one device.
    quota: u32,
}

impl Geometry {
    /// From the superblocks of all devices, in the order of their numbers.
    ///
    /// # Errors
    /// Devices that do not belong together, one missing, too small.
    pub fn assemble(superblocks: &[Superblock]) -> Result<Self, FormatError> {
        let Some(first) = superblocks.first() else {
            return Err(FormatError::Count);
        };
        check_set(first, superblocks)?;
        let (shards, segment_bytes) = (first.shards, first.segment_bytes);
        if !segment_bytes.is_power_of_two()
            || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes)
        {
            return Err(FormatError::SegmentBytes(segment_bytes));
        }
        if shards == 0 {
            return Err(FormatError::Count);
        }
        let bytes = superblocks.iter().map(|one| one.device_bytes).min();
        let geometry = Self {
            set: first.set,
            devices: first.devices,
            shards,
            segment_bytes,
            quota: quota(bytes.unwrap_or(0), first),
        };
        if geometry.segments() < MIN_SEGMENTS {
            return Err(FormatError::TooSmall {
                bytes: bytes.unwrap_or(0),
                shards,
                minimum: geometry.minimum(),
            });
        }
        Ok(geometry)
    }

    pub fn set(&self) -> SetId {
        self.set
    }

    pub fn devices(&self) -> u8 {
        self.devices
    }

    pub fn shards(&self) -> u8 {
        self.shards
    }

    pub fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Segments of one shard.
    pub fn segments(&self) -> u32 {
        self.quota * u32::from(self.devices)
    }

    /// Bytes of one shard's segments.
    pub fn shard_bytes(&self) -> u64 {
        u64::from(self.segments()) * u64::from(self.segment_bytes)
    }

    /// The device of a shard's segment, and the byte where it begins there.
    pub fn place(&self, shard: ShardId, segment: u32) -> (u8, u64) {
        let devices = u32::from(self.devices);
        let device = (segment + u32::from(shard)) % devices;
        let row = u64::from(segment / devices) * u64::from(self.shards) + u64::from(shard);
        (
            device as u8,
            DATA_START + row * u64::from(self.segment_bytes),
        )
    }

    /// The segment's number in the whole set, for headers on disk.
    pub fn number(&self, shard: ShardId, segment: u32) -> u32 {
        segment * u32::from(self.shards) + u32::from(shard)
    }

    /// The smallest device that would do.
    fn minimum(&self) -> u64 {
        let rows = MIN_SEGMENTS.div_ceil(u32::from(self.devices));
        let segments = u64::from(rows) * u64::from(self.shards);
        DATA_START + segments * u64::from(self.segment_bytes)
    }
}

fn quota(device_bytes: u64, superblock: &Superblock) -> u32 {
    let segment = u64::from(superblock.segment_bytes);
    let fit = device_bytes.saturating_sub(DATA_START) / segment;
    let nameable = MAX_SHARD_BYTES / segment / u64::from(superblock.devices);
    let quota = (fit / u64::from(superblock.shards)).min(nameable);
    quota as u32
}

fn check_set(first: &Superblock, superblocks: &[Superblock]) -> Result<(), FormatError> {
    if superblocks.len() != usize::from(first.devices) {
        return Err(FormatError::DeviceCount {
            expected: first.devices,
            given: superblocks.len(),
        });
    }
    for (number, superblock) in (0..).zip(superblocks) {
        if superblock.set != first.set {
            return Err(FormatError::OtherSet { number });
        }
        if superblock.device != number {
            return Err(FormatError::DeviceNumber { number });
        }
        let same = Superblock {
            device: first.device,
            device_bytes: first.device_bytes,
            ..superblock.clone()
        };
        if same != *first {
            return Err(FormatError::Disagree(
                "shards, segment size, seed or tag slots",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan() -> SetPlan {
        SetPlan {
            id: SetId([7; 16]),
            shards: 3,
            segment_bytes: MIN_SEGMENT_BYTES,
            hash_seed: 0x1234_5678_9abc_def0,
            tag_slots: 65_536,
        }
    }

    fn set(devices: usize) -> Vec<Superblock> {
        Superblock::plan(&vec![64 * MIB; devices], &plan()).unwrap()
    }

    #[test]
    fn a_superblock_is_read_as_it_was_written() {
        for superblock in set(3) {
            let bytes = superblock.encode();
            assert_eq!(Superblock::decode(&bytes), Ok(superblock));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_superblock_is_noticed() {
        let bytes = set(1)[0].encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            Superblock::decode(&damaged).expect_err("a damaged superblock was taken");
        }
    }

    #[test]
    fn what_is_no_superblock_is_refused_by_its_kind() {
        let zeros = vec![0; SUPERBLOCK_BYTES];
        assert!(matches!(
            Superblock::decode(&zeros),
            Err(FormatError::NotFormatted(_))
        ));
        assert!(matches!(
            Superblock::decode(&[1; 100]),
            Err(FormatError::NotFormatted(_))
        ));
        let mut foreign = zeros.clone();
        foreign[..8].copy_from_slice(b"LABELONE");
        let error = Superblock::decode(&foreign).unwrap_err();
        assert_eq!(error, FormatError::Foreign("`LABELONE`".into()));
        let mut newer = set(1)[0].encode();
        newer[8] = 2;
        assert_eq!(
            Superblock::decode(&newer),
            Err(FormatError::UnknownVersion { found: 2 })
        );
    }

    #[test]
    fn one_good_copy_is_enough() {
        let superblock = set(1).remove(0);
        let good = superblock.encode();
        let mut bad = good.clone();
        bad[100] ^= 1;
        let open = |first: &[u8], second: &[u8]| Superblock::open([first, second]);
        assert_eq!(open(&good, &good).unwrap().repair, None);
        assert_eq!(open(&bad, &good).unwrap().repair, Some(0));
        assert_eq!(open(&good, &bad).unwrap().repair, Some(1));
        assert_eq!(open(&bad, &bad), Err(FormatError::Damaged));
        let other = Superblock {
            set: SetId([8; 16]),
            ..superblock
        };
        assert_eq!(
            open(&good, &other.encode()),
            Err(FormatError::HalfFormatted)
        );
    }

    #[test]
    fn a_device_that_changed_is_refused() {
        let superblock = set(1).remove(0);
        assert_eq!(superblock.check(64 * MIB, 3), Ok(()));
        assert_eq!(superblock.check(80 * MIB, 3), Ok(()));
        assert!(matches!(
            superblock.check(64 * MIB - 1, 3),
            Err(FormatError::Shrunk { .. })
        ));
        assert!(matches!(
            superblock.check(64 * MIB, 4),
            Err(FormatError::OtherShards {
                found: 3,
                expected: 4
            })
        ));
    }

    #[test]
    fn devices_that_do_not_belong_together_are_refused() {
        let good = set(3);
        let assemble = |change: &dyn Fn(&mut Vec<Superblock>)| {
            let mut set = good.clone();
            change(&mut set);
            Geometry::assemble(&set).unwrap_err()
        };
        assert!(matches!(
            assemble(&|set| set.truncate(2)),
            FormatError::DeviceCount { .. }
        ));
        assert!(matches!(
            assemble(&|set| set.swap(1, 2)),
            FormatError::DeviceNumber { number: 1 }
        ));
        assert!(matches!(
            assemble(&|set| set[2].set = SetId([1; 16])),
            FormatError::OtherSet { number: 2 }
        ));
        assert!(matches!(
            assemble(&|set| set[1].hash_seed = 0),
            FormatError::Disagree(_)
        ));
        assert_eq!(assemble(&|set| set.clear()), FormatError::Count);
    }

    #[test]
    fn sizes_that_cannot_work_are_refused_with_what_would() {
        let error = Superblock::plan(&[11 * MIB], &plan()).unwrap_err();
        let FormatError::TooSmall { minimum, .. } = error else {
            panic!("{error}")
        };
        assert!(Superblock::plan(&[minimum], &plan()).is_ok());
        assert!(Superblock::plan(&[minimum - 1], &plan()).is_err());
        let odd = SetPlan {
            segment_bytes: 3 << 20,
            ..plan()
        };
        assert_eq!(
            Superblock::plan(&[64 * MIB], &odd),
            Err(FormatError::SegmentBytes(3 << 20))
        );
        assert_eq!(Superblock::plan(&[], &plan()), Err(FormatError::Count));
    }

    #[test]
    fn segments_lie_apart_inside_their_devices_and_go_round() {
        for devices in 1..5 {
            let geometry = Geometry::assemble(&set(devices)).unwrap();
            let mut places = std::collections::BTreeSet::new();
            let mut numbers = std::collections::BTreeSet::new();
            for shard in 0..3 {
                let mut used = std::collections::BTreeSet::new();
                for segment in 0..geometry.segments() {
                    let (device, offset) = geometry.place(shard, segment);
                    assert!(offset >= DATA_START && offset + MIB <= 64 * MIB);
                    assert_eq!((offset - DATA_START) % MIB, 0);
                    assert!(places.insert((device, offset)));
                    assert!(numbers.insert(geometry.number(shard, segment)));
                    used.insert(device);
                }
                assert_eq!(used.len(), devices);
            }
            assert_eq!(places.len(), devices * 54);
        }
    }
}
