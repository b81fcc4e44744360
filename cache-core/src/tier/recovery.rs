//! From what lies on the devices to a tier, without I/O.
//!
//! ```text
//!  for each segment:  header --> nobody: free
//!                       | life
//!                       v
//!                     tail ----> footer of that life: its entries           (64 KiB, more if it is longer)
//!                       | none or damaged
//!                       v
//!                     scan ----> every whole record of that life            (the segment)
//! ```
//! The newest record of a key counts: larger sequence, then larger place. Entries that were purged
//! are left out, as far as stamp, surrogate keys and key hash say it; a purge by prefix is seen
//! when the object is read. What had to be scanned gets a footer, so that the next start is quick.

use std::sync::Arc;

use hugepages::blocks::Pool;

use super::format::{Geometry, SECTOR};
use super::index::Inserted;
use super::ledger::Ledger;
use super::record::{Front, Spot, UNIT};
use super::segment::{self, Entry, Identity, Table, Trailer};
use super::{Tier, TierConfig};
use crate::io::ShardId;
use crate::purge::{Purges, Verdict};
use crate::store::KeyHash;

/// Bytes of a segment's end that are read at first.
const TAIL_BYTES: u32 = 64 << 10;

/// Bytes that recovery wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRead {
    pub device: u8,
    pub offset: u64,
    /// A multiple of 4 KiB, at most a segment.
    pub len: u32,
}

/// Says by key hash and stamp whether an object's URL was purged after it was fetched.
pub type UrlJudge = Box<dyn Fn(KeyHash, u32) -> bool + Send>;
/// Says whether a key is to be pinned still.
pub type PinJudge = Box<dyn Fn(KeyHash) -> bool + Send>;

/// Builds one shard's tier: give every [`Self::next`] read to [`Self::done`] (or say that it
/// [`Self::failed`]) until there is none, then [`Self::finish`].
pub struct Recovery {
    ledger: Ledger,
    pool: Pool,
    url_purged: UrlJudge,
    is_pinned: PinJudge,
    segment: u32,
    stage: Stage,
    /// Segments that were scanned, to be given a footer.
    unsealed: Vec<(u32, Identity, Table)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    /// The last bytes, so many.
    Tail(Identity, u32),
    Scan(Identity),
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
            ledger: Ledger::new(geometry, shard, config, purges),
            pool,
            url_purged: Box::new(|_, _| false),
            is_pinned: Box::new(|_| true),
            segment: 0,
            stage: Stage::Header,
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

    /// What to read next; `None`: nothing more.
    pub fn next(&self) -> Option<RecoveryRead> {
        if self.segment >= self.ledger.space.len() {
            return None;
        }
        let whole = self.ledger.geometry.segment_bytes();
        let (at, len) = match self.stage {
            Stage::Header => (0, segment::HEADER_BYTES),
            Stage::Tail(_, len) => (whole - len, len),
            Stage::Scan(_) => (0, whole),
        };
        let (device, offset) = self.ledger.place(self.segment, at);
        Some(RecoveryRead {
            device,
            offset,
            len,
        })
    }

    /// The bytes of the read that [`Self::next`] names.
    pub fn done(&mut self, bytes: &[u8]) {
        match self.stage {
            Stage::Header => self.header(bytes),
            Stage::Tail(identity, _) => self.tail(bytes, identity),
            Stage::Scan(identity) => self.scan(bytes, identity),
        }
    }

    /// That read failed: the segment is taken as empty.
    pub fn failed(&mut self) {
        self.ledger.stats.recovered_read_errors += 1;
        self.go_on();
    }

    /// The tier, with what was found.
    pub fn finish(self) -> Tier {
        Tier::recovered(self.ledger, self.pool, self.unsealed)
    }

    fn header(&mut self, bytes: &[u8]) {
        let geometry = &self.ledger.geometry;
        let number = geometry.number(self.ledger.shard, self.segment);
        match Identity::decode_header(bytes, geometry.set(), number) {
            Some(identity) => self.stage = Stage::Tail(identity, TAIL_BYTES),
            None => {
                self.ledger.stats.recovered_empty += 1;
                self.go_on();
            }
        }
    }

    fn tail(&mut self, bytes: &[u8], identity: Identity) {
        let Some(trailer) = Trailer::decode(bytes, identity) else {
            self.stage = Stage::Scan(identity);
            return;
        };
        let wanted = trailer.footer_bytes();
        let most = self.ledger.geometry.segment_bytes() - SECTOR;
        if wanted as usize > bytes.len() && wanted <= most {
            self.stage = Stage::Tail(identity, wanted);
            return;
        }
        let Some(entries) = trailer.entries(bytes, identity) else {
            self.ledger.stats.recovered_bad_footers += 1;
            self.stage = Stage::Scan(identity);
            return;
        };
        self.ledger.stats.recovered_footers += 1;
        self.restore(identity);
        for entry in &entries {
            self.take(identity, entry);
        }
        self.go_on();
    }

    fn scan(&mut self, bytes: &[u8], identity: Identity) {
        self.ledger.stats.recovered_scans += 1;
        self.restore(identity);
        let mut table = Table::default();
        let mut at = segment::HEADER_BYTES;
        while (at as usize) < bytes.len() {
            let spot = Spot { identity, at };
            let Some(front) = whole_record(&bytes[at as usize..], spot) else {
                at += UNIT;
                continue;
            };
            let entry = Entry::of(&front, at);
            if self.take(identity, &entry) {
                table.push(&entry);
            }
            at += front.record_len();
        }
        self.unsealed.push((self.segment, identity, table));
        self.go_on();
    }

    fn restore(&mut self, identity: Identity) {
        let whole = self.ledger.geometry.segment_bytes();
        self.ledger.space.restore(self.segment, identity, whole);
    }

    /// Whether the entry is worth naming in a footer.
    fn take(&mut self, identity: Identity, found: &Entry) -> bool {
        let ledger = &mut self.ledger;
        let end = u64::from(found.unit) + u64::from(found.units);
        if found.units == 0 || end * u64::from(UNIT) > u64::from(ledger.geometry.segment_bytes()) {
            return false;
        }
        let verdict = ledger.purges.judge(found.stamp, found.judged_tags(), b"");
        if verdict == Verdict::Hard || (self.url_purged)(found.hash, found.stamp) {
            ledger.stats.recovered_purged += 1;
            return false;
        }
        if let Some((_, entry)) = ledger.find(found.hash) {
            let (segment, at) = ledger.space.locate(entry);
            let there = (ledger.space.get(segment).identity.sequence, at);
            if there >= (identity.sequence, found.unit * UNIT) {
                return true;
            }
        }
        let pinned = found.pinned && (self.is_pinned)(found.hash);
        let at = found.unit * UNIT;
        let entry = ledger
            .space
            .entry(self.segment, at, found.units, found.version, pinned);
        ledger.space.get_mut(self.segment).pinned_space |= pinned;
        match ledger.insert(found.hash, entry) {
            Inserted::Full => ledger.stats.recovered_index_full += 1,
            Inserted::New => ledger.stats.recovered_objects += 1,
            Inserted::Replaced(_) => {}
        }
        true
    }

    fn go_on(&mut self) {
        self.segment += 1;
        self.stage = Stage::Header;
    }
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
