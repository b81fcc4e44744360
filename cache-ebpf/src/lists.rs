//! Allow and block lists: how a source is looked up, and how the tables are written.
//!
//! ```text
//!  IPv4   MARKS4: a bit for each /24 ...... a list speaks of it, or of a part of it
//!           `-- set: COVER4, 4 bits for each /24: allow all | allow some | block all | block some
//!                      `-- "some": EXACT holds the /32s
//!  IPv6   COVER6: 2 bits for each hashed /32 .... something allowed in there | something blocked
//!           `-- set: EXACT holds keyed fingerprints of the /32, /48, /64 and /128
//!  EXACT  64-byte buckets of eight entries; an entry lies in one of two
//! ```
//!
//! A source that no list speaks of costs one read of 8 bytes, of IPv4 in a table that caches hold. Prefixes of other lengths are expanded
//! to these when the tables are written. All tables exist twice: the daemon writes the
//! generation that is not in use and then flips [`Lists::flags`], one word, so that every packet sees
//! either the old lists or the new ones, whole.
//!
//! IPv6 entries are 62-bit SipHash-1-3 fingerprints under a random key: with a million of them, one
//! strange address in 10^12 is taken for a listed one.

use crate::{parse::Source, siphash::siphash13, tables::Tables};

/// Words of `MARKS4` for each generation, 64 /24 each: 2 MiB.
pub const MARKS4_WORDS: u32 = 1 << 18;

/// Words of `COVER4` for each generation, sixteen /24 each: 8 MiB.
pub const COVER4_WORDS: u32 = 1 << 20;

/// Words of `COVER6` for each generation, 32 hashed /32 each: 2 MiB.
pub const COVER6_WORDS: u32 = 1 << COVER6_BITS;

/// Buckets of `EXACT` for each generation, eight entries each: 16 MiB.
pub const EXACT_BUCKETS: u32 = 1 << EXACT_BITS;

/// Entries of `EXACT` that may be in use: three quarters of it, so that there is always a place.
pub const MAX_EXACT: u32 = EXACT_BUCKETS * 6;

const COVER6_BITS: u32 = 18;
const EXACT_BITS: u32 = 18;

/// Eight entries.
pub type ExactBucket = [u64; 8];

/// The daemon's word about the lists.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Which generation is in use, and whether it has anything for IPv4 and for IPv6.
    flags: u32,
    nothing: u32,
    /// The random key of each generation.
    seeds: [[u64; 2]; 2],
}

const GENERATION: u32 = 1;
const HAS_V4: u32 = 2;
const HAS_V6: u32 = 4;

impl Lists {
    pub const NONE: Self = Self {
        flags: 0,
        nothing: 0,
        seeds: [[0; 2]; 2],
    };

    /// 0, which nobody knows before the packet comes: see [`crate::packet::Packet::forget`].
    #[inline(always)]
    pub const fn nothing(&self) -> u16 {
        self.nothing as u16
    }

    /// The generation in use, 0 or 1.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        self.flags & GENERATION
    }

    /// Notes the key of the generation that is not in use. To be written before it is used.
    pub const fn prepare(&mut self, seed: [u64; 2]) {
        self.seeds[(self.generation() ^ GENERATION) as usize] = seed;
    }

    /// Uses the other generation, which holds something for these kinds of address.
    pub const fn flip(&mut self, used: Used) {
        let generation = self.generation() ^ GENERATION;
        let v4 = if used.v4 { HAS_V4 } else { 0 };
        let v6 = if used.v6 { HAS_V6 } else { 0 };
        self.flags = generation | v4 | v6;
    }

    #[inline(always)]
    fn seed(&self) -> [u64; 2] {
        let [even, odd] = self.seeds;
        if self.generation() == 0 { even } else { odd }
    }
}

/// Which kinds of address the lists speak of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub v4: bool,
    pub v6: bool,
}

/// The two lists. The number is the bit of the tables.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Allow = 0,
    Block = 1,
}

/// What the lists say about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    No,
    /// In the allow list, whatever the block list says.
    Allowed,
    Blocked,
}

/// Looks `source` up.
#[inline(always)]
pub fn look_up<T: Tables>(tables: &T, lists: &Lists, source: &Source) -> Listed {
    let wanted = if source.v6 { HAS_V6 } else { HAS_V4 };
    if lists.flags & wanted == 0 {
        Listed::No
    } else if source.v6 {
        look_up_v6(tables, lists, source)
    } else {
        look_up_v4(tables, lists, source.low as u32)
    }
}

const ALLOW_ALL: u64 = 1;
const ALLOW_SOME: u64 = 2;
const BLOCK_ALL: u64 = 4;
const BLOCK_SOME: u64 = 8;

#[inline(always)]
fn look_up_v4<T: Tables>(tables: &T, lists: &Lists, address: u32) -> Listed {
    let (word, shift) = mark_v4(address);
    let marks = tables.marks4((lists.generation() * MARKS4_WORDS) | word);
    if marks >> shift & 1 == 0 {
        return Listed::No;
    }
    let (word, shift) = place_v4(address);
    let cover = tables.cover4((lists.generation() * COVER4_WORDS) | word) >> shift & 0xf;
    let listed = |list| exact(tables, lists, entry_v4(address, list)) != 0;
    if cover & ALLOW_ALL != 0 || cover & ALLOW_SOME != 0 && listed(List::Allow) {
        Listed::Allowed
    } else if cover & BLOCK_ALL != 0 || cover & BLOCK_SOME != 0 && listed(List::Block) {
        Listed::Blocked
    } else {
        Listed::No
    }
}

/// Lengths of IPv6 prefixes that the tables know.
pub const LENGTHS_V6: [u8; 4] = [32, 48, 64, 128];

#[inline(always)]
fn look_up_v6<T: Tables>(tables: &T, lists: &Lists, source: &Source) -> Listed {
    let seed = lists.seed();
    let (word, shift) = place_v6(seed, source.high);
    let cover = tables.cover6((lists.generation() * COVER6_WORDS) | word) >> shift & 3;
    if cover == 0 {
        return Listed::No;
    }
    let (mut allowed, mut blocked) = (0, 0);
    for length in LENGTHS_V6 {
        let print = fingerprint(seed, length, source);
        allowed |= exact_v6(tables, lists, entry_v6(print, List::Allow));
        blocked |= exact_v6(tables, lists, entry_v6(print, List::Block));
    }
    if allowed != 0 {
        Listed::Allowed
    } else if blocked != 0 {
        Listed::Blocked
    } else {
        Listed::No
    }
}

/// [`exact`], one copy of it in the program for the eight times that IPv6 asks.
#[inline(never)]
fn exact_v6<T: Tables>(tables: &T, lists: &Lists, entry: u64) -> u64 {
    exact(tables, lists, entry)
}

/// 1 when `entry` is listed, else 0.
#[inline(always)]
fn exact<T: Tables>(tables: &T, lists: &Lists, entry: u64) -> u64 {
    let base = lists.generation() * EXACT_BUCKETS;
    let (first, second) = places(lists.seed(), entry);
    match tables.exact(base | first, entry) {
        0 => tables.exact(base | second, entry),
        found => found,
    }
}

/// 1 when `bucket` has `entry`, else 0. Without a branch: the verifier would walk each of eight twice.
#[inline(always)]
pub fn holds(bucket: &ExactBucket, entry: u64) -> u64 {
    let mut found = 0;
    for word in bucket {
        let difference = word ^ entry;
        // The top bit is clear only where nothing differs.
        found |= !(difference | difference.wrapping_neg());
    }
    found >> 63
}

/// The word of a /24 in `MARKS4` and the shift of its bit.
#[inline(always)]
const fn mark_v4(address: u32) -> (u32, u32) {
    (address >> 14, address >> 8 & 63)
}

/// The word of a /24 in `COVER4` and the shift of its four bits.
#[inline(always)]
const fn place_v4(address: u32) -> (u32, u32) {
    (address >> 12, (address >> 8 & 0xf) * 4)
}

/// The word of a /32 in `COVER6` and the shift of its two bits.
#[inline(always)]
const fn place_v6(seed: [u64; 2], high: u64) -> (u32, u32) {
    let hash = keyed(seed[0], seed[1], high >> 32);
    let slot = (hash >> (64 - 5 - COVER6_BITS)) as u32;
    (slot >> 5, (slot & 31) * 2)
}

/// Entries of IPv4 have the top bit, those of IPv6 have not; neither is ever zero.
#[inline(always)]
const fn entry_v4(address: u32, list: List) -> u64 {
    1 << 63 | (list as u64) << 62 | address as u64
}

#[inline(always)]
const fn entry_v6(fingerprint: u64, list: List) -> u64 {
    fingerprint & (u64::MAX >> 2) | (list as u64) << 62 | 1
}

#[inline(never)]
const fn keyed(k0: u64, k1: u64, message: u64) -> u64 {
    siphash13([k0, k1], message)
}

#[inline(always)]
const fn fingerprint(seed: [u64; 2], length: u8, source: &Source) -> u64 {
    let (k0, k1) = (seed[0] ^ length as u64, seed[1]);
    match length {
        128 => keyed(k0, keyed(k0, k1, source.high), source.low),
        64 => keyed(k0, k1, source.high),
        shorter => keyed(k0, k1, source.high >> (64 - shorter)),
    }
}

/// The two buckets of an entry.
#[inline(always)]
const fn places(seed: [u64; 2], entry: u64) -> (u32, u32) {
    let mixed = (entry ^ seed[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (
        (hash >> (64 - EXACT_BITS)) as u32,
        (hash >> (64 - 2 * EXACT_BITS)) as u32 & (EXACT_BUCKETS - 1),
    )
}

#[cfg(not(target_arch = "bpf"))]
pub use writer::{ListFull, MIN_LENGTH_V4, MIN_LENGTH_V6, Prefix, PrefixError, Slot, Writer};

#[cfg(not(target_arch = "bpf"))]
mod writer {
    use super::*;

    /// Shortest prefixes that can be listed: shorter ones name a large part of the internet.
    pub const MIN_LENGTH_V4: u8 = 8;
    pub const MIN_LENGTH_V6: u8 = 19;

    /// A range of addresses that the tables can hold.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Prefix {
        source: Source,
        length: u8,
    }

    /// Why a prefix cannot be listed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum PrefixError {
        /// Longer than an address.
        TooLong,
        /// Shorter than [`MIN_LENGTH_V4`] or [`MIN_LENGTH_V6`].
        TooShort,
        /// An IPv6 prefix between /65 and /127, which would expand to more than can be held.
        BetweenHosts,
        /// Bits behind the prefix are set.
        HostBits,
    }

    impl Prefix {
        /// # Errors
        /// See [`PrefixError`].
        pub fn new(source: Source, length: u8) -> Result<Self, PrefixError> {
            let (shortest, longest) = match source.v6 {
                true => (MIN_LENGTH_V6, 128),
                false => (MIN_LENGTH_V4, 32),
            };
            if length > longest {
                Err(PrefixError::TooLong)
            } else if length < shortest {
                Err(PrefixError::TooShort)
            } else if source.v6 && (65..128).contains(&length) {
                Err(PrefixError::BetweenHosts)
            } else if host_bits(&source, longest - length) {
                Err(PrefixError::HostBits)
            } else {
                Ok(Self { source, length })
            }
        }

        pub const fn source(&self) -> Source {
            self.source
        }

        pub const fn length(&self) -> u8 {
            self.length
        }
    }

    fn host_bits(source: &Source, bits: u8) -> bool {
        let address = u128::from(source.high) << 64 | u128::from(source.low);
        bits > 0 && address << (128 - u32::from(bits)) != 0
    }

    /// The tables have no room for a prefix.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ListFull {
        /// [`MAX_EXACT`] entries are in use.
        Entries,
        /// Both places of an entry are taken: another seed will most likely do.
        Places,
    }

    /// One generation of the tables, as plain memory.
    pub struct Slot<'a> {
        pub marks4: &'a mut [u64],
        pub cover4: &'a mut [u64],
        pub cover6: &'a mut [u64],
        pub exact: &'a mut [ExactBucket],
    }

    impl<'a> Slot<'a> {
        /// One generation of the tables whose maps are these bytes. `None` where a size is wrong.
        pub fn of_generation(
            generation: u32,
            marks4: &'a mut [u8],
            cover4: &'a mut [u8],
            cover6: &'a mut [u8],
            exact: &'a mut [u8],
        ) -> Option<Self> {
            Some(Self {
                marks4: half(generation, words(marks4)?, MARKS4_WORDS as usize)?,
                cover4: half(generation, words(cover4)?, COVER4_WORDS as usize)?,
                cover6: half(generation, words(cover6)?, COVER6_WORDS as usize)?,
                exact: {
                    let all = words(exact)?.as_chunks_mut().0;
                    half(generation, all, EXACT_BUCKETS as usize)?
                },
            })
        }
    }

    fn words(bytes: &mut [u8]) -> Option<&mut [u64]> {
        // SAFETY: any eight bytes are a word.
        let (before, words, after) = unsafe { bytes.align_to_mut() };
        (before.is_empty() && after.is_empty()).then_some(words)
    }

    fn half<T>(generation: u32, all: &mut [T], length: usize) -> Option<&mut [T]> {
        all.get_mut(generation as usize * length..)?
            .get_mut(..length)
    }

    /// Fills one generation.
    pub struct Writer<'a> {
        slot: Slot<'a>,
        seed: [u64; 2],
        used: Used,
        entries: u32,
    }

    impl<'a> Writer<'a> {
        /// Empties `slot` first.
        pub fn new(slot: Slot<'a>, seed: [u64; 2]) -> Self {
            slot.marks4.fill(0);
            slot.cover4.fill(0);
            slot.cover6.fill(0);
            slot.exact.fill([0; 8]);
            Self {
                slot,
                seed,
                used: Used::default(),
                entries: 0,
            }
        }

        /// Adds a prefix to a list.
        ///
        /// # Errors
        /// The tables are full; the slot is then of no use.
        pub fn insert(&mut self, list: List, prefix: &Prefix) -> Result<(), ListFull> {
            if prefix.source.v6 {
                self.used.v6 = true;
                self.insert_v6(list, prefix)
            } else {
                self.used.v4 = true;
                self.insert_v4(list, prefix.source.low as u32, prefix.length)
            }
        }

        /// What to flip to, and the entries of `EXACT` in use.
        pub fn finish(self) -> (Used, u32) {
            (self.used, self.entries)
        }

        fn insert_v4(&mut self, list: List, address: u32, length: u8) -> Result<(), ListFull> {
            let (all, some) = match list {
                List::Allow => (ALLOW_ALL, ALLOW_SOME),
                List::Block => (BLOCK_ALL, BLOCK_SOME),
            };
            let net = address >> 8;
            if length <= 24 {
                for net in net..=net + ((1 << (24 - length)) - 1) {
                    self.cover_v4(net << 8, all);
                }
                return Ok(());
            }
            self.cover_v4(address, some);
            for address in address..=address + ((1 << (32 - length)) - 1) {
                self.add(entry_v4(address, list))?;
            }
            Ok(())
        }

        fn cover_v4(&mut self, address: u32, bit: u64) {
            let (word, shift) = place_v4(address);
            self.slot.cover4[word as usize] |= bit << shift;
            let (word, shift) = mark_v4(address);
            self.slot.marks4[word as usize] |= 1 << shift;
        }

        fn insert_v6(&mut self, list: List, prefix: &Prefix) -> Result<(), ListFull> {
            let length = prefix.length;
            let known = LENGTHS_V6.into_iter().find(|known| *known >= length);
            let known = known.expect("a prefix is not longer than an address");
            if known == 128 {
                return self.insert_v6_exact(list, known, prefix.source);
            }
            for i in 0..1_u64 << (known - length) {
                let high = prefix.source.high | i << (64 - known);
                self.insert_v6_exact(
                    list,
                    known,
                    Source {
                        high,
                        ..prefix.source
                    },
                )?;
            }
            Ok(())
        }

        fn insert_v6_exact(&mut self, list: List, length: u8, at: Source) -> Result<(), ListFull> {
            let (word, shift) = place_v6(self.seed, at.high);
            self.slot.cover6[word as usize] |= (1 << list as u64) << shift;
            self.add(entry_v6(fingerprint(self.seed, length, &at), list))
        }

        fn add(&mut self, entry: u64) -> Result<(), ListFull> {
            let (first, second) = places(self.seed, entry);
            let (first, second) = (first as usize, second as usize);
            let exact = &mut self.slot.exact;
            if holds(&exact[first], entry) | holds(&exact[second], entry) != 0 {
                return Ok(());
            }
            if self.entries == MAX_EXACT {
                return Err(ListFull::Entries);
            }
            let free = |bucket: &ExactBucket| bucket.iter().filter(|word| **word == 0).count();
            let roomier = match free(&exact[first]) >= free(&exact[second]) {
                true => first,
                false => second,
            };
            let place = vacancy(&exact[roomier]);
            let (bucket, place) = place
                .map(|place| (roomier, place))
                .or_else(|| self.make_room(first))
                .or_else(|| self.make_room(second))
                .ok_or(ListFull::Places)?;
            self.slot.exact[bucket][place] = entry;
            self.entries += 1;
            Ok(())
        }

        /// Moves an entry of a full bucket to its other place, and returns where it was.
        fn make_room(&mut self, full: usize) -> Option<(usize, usize)> {
            for place in 0..self.slot.exact[full].len() {
                let entry = self.slot.exact[full][place];
                let (first, second) = places(self.seed, entry);
                let other = if first as usize == full {
                    second
                } else {
                    first
                } as usize;
                if let Some(vacant) = vacancy(&self.slot.exact[other]) {
                    self.slot.exact[other][vacant] = entry;
                    return Some((full, place));
                }
            }
            None
        }
    }

    fn vacancy(bucket: &ExactBucket) -> Option<usize> {
        bucket.iter().position(|word| *word == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::tables::HostTables;

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 42];

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').expect("a prefix");
        let address: IpAddr = address.parse().expect("an address");
        Prefix::new(address.into(), length.parse().expect("a length")).expect("listable")
    }

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn written(allow: &[&str], block: &[&str]) -> (HostTables, Lists) {
        let mut tables = HostTables::default();
        let mut lists = Lists::default();
        lists.prepare(SEED);
        let mut writer = Writer::new(tables.slot(1), SEED);
        for (list, prefixes) in [(List::Allow, allow), (List::Block, block)] {
            for text in prefixes {
                writer.insert(list, &prefix(text)).expect("room");
            }
        }
        lists.flip(writer.finish().0);
        (tables, lists)
    }

    #[test]
    fn empty_lists_say_nothing() {
        let (tables, lists) = written(&[], &[]);
        for address in ["192.0.2.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(look_up(&tables, &lists, &source(address)), Listed::No);
        }
    }

    #[test]
    fn prefixes_of_every_kind_of_length() {
        let block = [
            "10.0.0.0/8",
            "192.0.2.0/24",
            "198.51.100.64/26",
            "203.0.113.7/32",
            "2001:db8::/29",
            "2001:db9:1::/48",
            "2001:dbb:0:8::/61",
            "2a00::17/128",
        ];
        let (tables, lists) = written(&["10.1.2.3/32", "2001:db8:5::/48"], &block);
        for (address, expected) in [
            ("10.255.255.255", Listed::Blocked),
            ("11.0.0.0", Listed::No),
            ("10.1.2.3", Listed::Allowed),
            ("10.1.2.4", Listed::Blocked),
            ("192.0.2.255", Listed::Blocked),
            ("192.0.3.0", Listed::No),
            ("198.51.100.63", Listed::No),
            ("198.51.100.64", Listed::Blocked),
            ("198.51.100.127", Listed::Blocked),
            ("198.51.100.128", Listed::No),
            ("203.0.113.7", Listed::Blocked),
            ("203.0.113.6", Listed::No),
            ("2001:db8::1", Listed::Blocked),
            ("2001:dbf:ffff::", Listed::Blocked),
            ("2001:db8:5:1::1", Listed::Allowed),
            ("2001:dc0::", Listed::No),
            ("2001:db9:1:2::3", Listed::Blocked),
            ("2a00::17", Listed::Blocked),
            ("2a00::18", Listed::No),
        ] {
            assert_eq!(
                look_up(&tables, &lists, &source(address)),
                expected,
                "{address}"
            );
        }
        let (tables, lists) = written(&[], &["2001:dbb:0:8::/61"]);
        assert_eq!(
            look_up(&tables, &lists, &source("2001:dbb:0:f::1")),
            Listed::Blocked
        );
        assert_eq!(
            look_up(&tables, &lists, &source("2001:dbb:0:10::1")),
            Listed::No
        );
    }

    #[test]
    fn a_flip_shows_the_other_generation_whole() {
        let (mut tables, mut lists) = written(&[], &["192.0.2.0/24"]);
        lists.prepare([7, 7]);
        let mut writer = Writer::new(tables.slot(0), [7, 7]);
        writer
            .insert(List::Block, &prefix("198.51.100.1/32"))
            .expect("room");
        let (old, new) = (source("192.0.2.1"), source("198.51.100.1"));
        let used = writer.finish().0;
        assert_eq!(look_up(&tables, &lists, &old), Listed::Blocked);
        assert_eq!(look_up(&tables, &lists, &new), Listed::No);
        lists.flip(used);
        assert_eq!(look_up(&tables, &lists, &old), Listed::No);
        assert_eq!(look_up(&tables, &lists, &new), Listed::Blocked);
    }

    #[test]
    fn what_cannot_be_listed_is_refused() {
        let refused = |address: &str, length| Prefix::new(source(address), length).err();
        assert_eq!(refused("1.2.3.4", 33), Some(PrefixError::TooLong));
        assert_eq!(refused("0.0.0.0", 0), Some(PrefixError::TooShort));
        assert_eq!(refused("::", 18), Some(PrefixError::TooShort));
        assert_eq!(refused("2001:db8::", 96), Some(PrefixError::BetweenHosts));
        assert_eq!(refused("10.0.0.1", 24), Some(PrefixError::HostBits));
        assert_eq!(refused("2001:db8::1", 64), Some(PrefixError::HostBits));
        assert_eq!(refused("2001:db8::1", 128), None);
    }

    #[test]
    fn the_bound_can_be_reached_and_not_passed() {
        let mut tables = HostTables::default();
        let mut writer = Writer::new(tables.slot(0), SEED);
        let host = |i: u32| Prefix::new(Source::v4(i.wrapping_mul(0x9e37_79b1)), 32);
        for i in 0..MAX_EXACT {
            writer
                .insert(List::Block, &host(i).expect("a host"))
                .expect("room");
        }
        let one_more = host(MAX_EXACT).expect("a host");
        assert_eq!(
            writer.insert(List::Block, &one_more),
            Err(ListFull::Entries)
        );
        let again = host(5).expect("a host");
        assert_eq!(writer.insert(List::Block, &again), Ok(()));
        assert_eq!(writer.finish().1, MAX_EXACT);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_list_of_prefixes_is_what_it_says(
            nets: Vec<u8>, hosts: Vec<u16>, lengths in vec![16u8..=32; 8], asked: Vec<u32>,
        ) {
            // Few different bytes, so that prefixes and questions meet.
            let spread = |a: u8, b: u16| u32::from_be_bytes([a & 3, 0, (b >> 8) as u8 & 7, b as u8]);
            let prefixes: Vec<Prefix> = nets.iter().zip(&hosts).zip(lengths.iter().cycle())
                .map(|((net, host), length)| {
                    let address = spread(*net, *host) & u32::MAX << (32 - length);
                    Prefix::new(Source::v4(address), *length).expect("listable")
                })
                .collect();
            let mut tables = HostTables::default();
            let mut lists = Lists::default();
            lists.prepare(SEED);
            let mut writer = Writer::new(tables.slot(1), SEED);
            for prefix in &prefixes {
                writer.insert(List::Block, prefix).expect("room");
            }
            lists.flip(writer.finish().0);
            for asked in asked {
                let address = spread(asked as u8, (asked >> 8) as u16);
                let shift = |prefix: &Prefix| 32 - u32::from(prefix.length());
                let expected = prefixes.iter().any(|prefix| {
                    (address ^ prefix.source().low as u32) >> shift(prefix) == 0
                });
                let found = look_up(&tables, &lists, &Source::v4(address)) == Listed::Blocked;
                prop_assert_eq!(found, expected);
            }
        }
    }
}
