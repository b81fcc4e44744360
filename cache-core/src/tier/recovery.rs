//! From what lies on the devices to a tier, without I/O.
//!
//! ```text
//!  for each segment:  header --> nobody: free
//!  then, those for pinned objects first:
//!                     tail ----> footer of that life: its entries           (128 KiB, more if it is longer)
//!                       | none or damaged
//!                       v
//!                     scan ----> every whole record of that life            (the segment)
//! ```
//! Any number of these reads may be under way at a time, of one step of the three.
//!
//! The newest record of a key counts. Segments of one kind are filled one after the other, so that
//! the sequence of the segment and the place in it say which is newer; between a segment for pinned
//! objects and another, the serial numbers of the records say it. Entries that were purged
//! are left out, as far as stamp, surrogate keys and key hash say it; a purge by prefix is seen
//! when the object is read. What had to be scanned gets a footer, so that the next start is quick.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hugepages::blocks::Pool;

use super::format::{Geometry, SECTOR};
use super::index::Inserted;
use super::ledger::Ledger;
use super::record::{Front, Spot, UNIT};
use super::segment::{self, Entry, Identity, Kind, Table, Trailer};
use super::space::Space;
use super::{Tier, TierConfig};
use crate::io::ShardId;
use crate::purge::{Purges, Verdict};
use crate::store::KeyHash;

/// Bytes of a segment's end that are read at first.
const TAIL_BYTES: u32 = 128 << 10;
/// Entries between the one of which the place is fetched and the one that is put there.
const AHEAD: usize = 8;

/// Bytes that recovery wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRead {
    pub device: u8,
    pub offset: u64,
    /// A multiple of 4 KiB, at most a segment.
    pub len: u32,
    part: Part,
}

/// What of a segment is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Of the segment of this number.
    Header(u32),
    /// Its last bytes, so many.
    Tail(Found, u32),
    Whole(Found),
}

/// Says by key hash and stamp whether an object's URL was purged after it was fetched.
pub type UrlJudge = Box<dyn Fn(KeyHash, u32) -> bool + Send>;
/// Says whether a key is to be pinned still.
pub type PinJudge = Box<dyn Fn(KeyHash) -> bool + Send>;

/// Builds one shard's tier: carry out every read that [`Self::next_read`] names, in any order, give it to
/// [`Self::done`] or say that it [`Self::failed`], until it [`Self::is_over`]; then [`Self::finish`].
pub struct Recovery {
    ledger: Ledger,
    pool: Pool,
    url_purged: UrlJudge,
    is_pinned: PinJudge,
    /// Reads to be given out, and how many were and are not answered.
    wanted: VecDeque<Part>,
    under_way: usize,
    /// Segments with a header of which the turn has not come.
    found: Vec<Found>,
    /// Serial numbers of the records in segments for pinned objects.
    pinned_serials: HashMap<KeyHash, u64, RandomState>,
    /// Segments that were scanned, to be given a footer.
    unsealed: Vec<(u32, Identity, Table)>,
}

impl Recovery {
    /// Of one shard. The purges must be as the journal has them before this begins.
    pub fn new(
        geometry: Geometry,
        shard: ShardId,
        config: TierConfig,
        purges: Arc<Purges>,
        pool: Pool,
    ) -> Self {
        Self {
            wanted: (0..geometry.segments()).map(Part::Header).collect(),
            under_way: 0,
            ledger: Ledger::new(geometry, shard, config, purges),
            pool,
            url_purged: Box::new(|_, _| false),
            is_pinned: Box::new(|_| true),
            found: Vec::new(),
            pinned_serials: HashMap::default(),
            unsealed: Vec::new(),
        }
    }

    /// Leaves out objects of which the URL was purged.
    #[must_use]
    pub fn with_purged_urls(mut self, url_purged: UrlJudge) -> Self {
        self.url_purged = url_purged;
        self
    }

    /// Unless this is given, what was written as pinned stays so.
    #[must_use]
    pub fn with_pins(mut self, is_pinned: PinJudge) -> Self {
        self.is_pinned = is_pinned;
        self
    }

    /// What to read next; `None`: nothing more, or not before what is under way is done.
    pub fn next_read(&mut self) -> Option<RecoveryRead> {
        if self.wanted.is_empty() && self.under_way == 0 {
            self.begin_step();
        }
        let part = self.wanted.pop_front()?;
        self.under_way += 1;
        let whole = self.ledger.geometry.segment_bytes();
        let (segment, at, len) = match part {
            Part::Header(segment) => (segment, 0, segment::HEADER_BYTES),
            Part::Tail(found, len) => (found.segment, whole - len, len),
            Part::Whole(found) => (found.segment, 0, whole),
        };
        let (device, offset) = self.ledger.place(segment, at);
        Some(RecoveryRead {
            device,
            offset,
            len,
            part,
        })
    }

    /// Nothing is left to be read, and nothing is under way.
    pub fn is_over(&self) -> bool {
        self.wanted.is_empty() && self.under_way == 0 && self.found.is_empty()
    }

    /// Those for pinned objects, if there are any, or else the others.
    fn begin_step(&mut self) {
        let is_pinned = |found: &Found| found.kind == Kind::Pinned;
        let pinned = self.found.iter().any(is_pinned);
        let now = self
            .found
            .extract_if(.., |found| is_pinned(found) == pinned);
        self.wanted
            .extend(now.map(|found| Part::Tail(found, TAIL_BYTES)));
    }

    /// The bytes of a read.
    pub fn done(&mut self, read: RecoveryRead, bytes: &[u8]) {
        self.under_way -= 1;
        match read.part {
            Part::Header(segment) => self.header(bytes, segment),
            Part::Tail(found, _) => self.tail(bytes, found),
            Part::Whole(found) => self.scan(bytes, found),
        }
    }

    /// That read failed: the segment is taken as empty.
    pub fn failed(&mut self, _read: RecoveryRead) {
        self.under_way -= 1;
        self.ledger.stats.recovered_read_errors += 1;
    }

    /// The tier, with what was found.
    pub fn finish(mut self) -> Tier {
        self.ledger.space.found_all();
        self.ledger.space.skip_numbers();
        Tier::recovered(self.ledger, self.pool, self.unsealed)
    }

    fn header(&mut self, bytes: &[u8], segment: u32) {
        let geometry = &self.ledger.geometry;
        let number = geometry.number(self.ledger.shard, segment);
        match Identity::decode_header(bytes, geometry.set(), number) {
            Some((identity, kind)) => self.found.push(Found {
                kind,
                segment,
                identity,
            }),
            None => self.ledger.stats.recovered_empty += 1,
        }
    }

    fn tail(&mut self, bytes: &[u8], found: Found) {
        let identity = found.identity;
        let Some(trailer) = Trailer::decode(bytes, identity) else {
            return self.wanted.push_back(Part::Whole(found));
        };
        let wanted = trailer.footer_bytes();
        let most = self.ledger.geometry.segment_bytes() - SECTOR;
        if wanted as usize > bytes.len() && wanted <= most {
            return self.wanted.push_back(Part::Tail(found, wanted));
        }
        let Some(entries) = trailer.entries(bytes, identity) else {
            self.ledger.stats.recovered_bad_footers += 1;
            return self.wanted.push_back(Part::Whole(found));
        };
        self.ledger.stats.recovered_footers += 1;
        self.restore(found);
        // Where an entry belongs in the index is far from where the last one did.
        let mut ahead = VecDeque::with_capacity(AHEAD + 1);
        for entry in entries.flatten() {
            self.ledger.index.bring_near(entry.hash);
            ahead.push_back(entry);
            if ahead.len() > AHEAD
                && let Some(entry) = ahead.pop_front()
            {
                self.take(found, &entry);
            }
        }
        for entry in ahead {
            self.take(found, &entry);
        }
    }

    fn scan(&mut self, bytes: &[u8], found: Found) {
        let Found {
            segment, identity, ..
        } = found;
        self.ledger.stats.recovered_scans += 1;
        self.restore(found);
        let mut table = Table::default();
        let mut at = segment::HEADER_BYTES;
        while (at as usize) < bytes.len() {
            let spot = Spot { identity, at };
            let Some(front) = whole_record(&bytes[at as usize..], spot) else {
                at += UNIT;
                continue;
            };
            let entry = Entry::of(&front, at);
            if self.take(found, &entry) {
                table.push(&entry);
            }
            at += front.record_len();
        }
        self.unsealed.push((segment, identity, table));
    }

    fn restore(&mut self, found: Found) {
        let Found {
            segment,
            identity,
            kind,
        } = found;
        let whole = self.ledger.geometry.segment_bytes();
        self.ledger.space.restore(segment, (identity, kind), whole);
    }

    /// Whether the entry is worth naming in a footer.
    fn take(&mut self, found: Found, entry: &Entry) -> bool {
        self.ledger.space.saw_serial(entry.serial);
        let end = (u64::from(entry.unit) + u64::from(entry.units)) * u64::from(UNIT);
        if entry.units == 0 || end > u64::from(self.ledger.geometry.segment_bytes()) {
            return false;
        }
        if self.is_purged(entry) {
            self.ledger.stats.recovered_purged += 1;
            return false;
        }
        if found.kind == Kind::Pinned {
            let serial = self.pinned_serials.entry(entry.hash).or_default();
            *serial = entry.serial.max(*serial);
        }
        self.name(found, entry);
        true
    }

    fn is_purged(&self, entry: &Entry) -> bool {
        let purges = &self.ledger.purges;
        let verdict = purges.judge(entry.stamp, entry.judged_tags(), b"");
        verdict == Verdict::Hard || (self.url_purged)(entry.hash, entry.stamp)
    }

    /// Has the index name it, if it is newer than what was found of that key so far.
    fn name(&mut self, there: Found, found: &Entry) {
        let Found {
            segment,
            identity,
            kind,
        } = there;
        if !self.ledger.has_room() {
            self.ledger.stats.recovered_index_full += 1;
            return;
        }
        let at = found.unit * UNIT;
        let pinned = found.pinned && kind == Kind::Pinned && (self.is_pinned)(found.hash);
        let space = &self.ledger.space;
        let entry = space.entry(segment, at, found.units, found.version, pinned);
        let serials = &self.pinned_serials;
        let newer = |space: &Space, old| {
            let (segment, old_at) = space.locate(old);
            let there = space.get(segment);
            if there.kind != kind {
                // Those for pinned objects come first.
                let serial = serials.get(&found.hash);
                return serial.is_none_or(|serial| found.serial > *serial);
            }
            (there.identity.sequence, old_at) < (identity.sequence, at)
        };
        match self.ledger.insert_newer(found.hash, entry, newer) {
            Inserted::Full => self.ledger.stats.recovered_index_full += 1,
            Inserted::New => self.ledger.stats.recovered_objects += 1,
            Inserted::Replaced(_) | Inserted::Older => {}
        }
    }
}

/// A segment with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    segment: u32,
    identity: Identity,
    kind: Kind,
}

/// The front of a record all of which is there.
fn whole_record(bytes: &[u8], spot: Spot) -> Option<Front> {
    let front = Front::decode(bytes, spot)?;
    let whole = (0..front.pieces()).all(|piece| {
        let range = front.piece(piece);
        let bytes = bytes.get(range.start as usize..range.end as usize);
        bytes.is_some_and(|bytes| front.piece_checks(piece, bytes, spot.identity))
    });
    (whole && bytes.len() >= front.record_len() as usize).then_some(front)
}
