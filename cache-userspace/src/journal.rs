//! The journal of purges and pins on a tier's first device: [`cache_core::purge::journal`] decides
//! what is written, this writes it.
//!
//! Written directly and flushed by fdatasync, from a thread of the blocking pool: a journal is
//! written at an operator's pace, and nothing waits for it but the command.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use cache_core::purge::Purges;
use cache_core::purge::journal::{Found, Journal, JournalError, JournalWrite};
use cache_core::purge::state::{Entry, State};
use cache_core::store::{hash_of, resource_of};

use crate::tier_files::{Buffer, Judges, OpenTier};

/// Slots of the largest table of purges that a tier's journal has room for.
pub const MAX_PURGE_SLOTS: u32 = 65_536;

/// How often a journal is read that another process writes: what is read while it is being written may look damaged.
const READS: usize = 5;
const BETWEEN_READS: Duration = Duration::from_millis(20);

/// The journal of a tier, and the purges that it holds.
///
/// # Errors
/// It cannot be read, or not written where the tier is new.
pub fn of_tier(tier: &OpenTier, max_prefixes: usize) -> anyhow::Result<(JournalFile, Arc<Purges>)> {
    let (journal, found) = open(tier)?;
    Ok(restored(journal, found, max_prefixes))
}

/// The same of a tier that a node has which runs, and may purge meanwhile. Nothing must be appended before it was read
/// again, by [`again`].
///
/// # Errors
/// It cannot be read.
pub fn of_another(
    tier: &OpenTier,
    max_prefixes: usize,
) -> anyhow::Result<(JournalFile, Arc<Purges>)> {
    let (mut journal, mut found) = open(tier)?;
    for _ in 1..READS {
        if found == Found::Whole {
            break;
        }
        thread::sleep(BETWEEN_READS);
        (journal, found) = open(tier)?;
    }
    Ok(restored(journal, found, max_prefixes))
}

/// The journal as the node has left it that had it before.
///
/// # Errors
/// It cannot be read.
pub fn again(tier: &OpenTier) -> anyhow::Result<JournalFile> {
    Ok(open(tier)?.0)
}

fn open(tier: &OpenTier) -> anyhow::Result<(JournalFile, Found)> {
    let place = tier.journal();
    let areas = Areas {
        offsets: place.offsets,
        bytes: place.bytes,
    };
    // The seed is drawn when a set is formatted, so that it tells one's journal from another's.
    let identity = tier.hash_seed;
    let fresh = State::new(tier.hash_seed, tier.tag_slots);
    let opened = match tier.is_new {
        true => JournalFile::format(place.file, areas, identity, fresh)
            .map(|journal| (journal, Found::Whole)),
        false => JournalFile::open(place.file, areas, identity, fresh),
    };
    opened.context("tier.devices")
}

fn restored(journal: JournalFile, found: Found, max_prefixes: usize) -> (JournalFile, Arc<Purges>) {
    let state = journal.state();
    match found {
        Found::Whole => tracing::info!(
            purges = state.counter,
            pins = state.pins.len(),
            "journal of purges read"
        ),
        Found::Damaged => tracing::error!(
            pins = state.pins.len(),
            "the journal of purges is damaged: everything in the tier counts as purged, pins may be missing"
        ),
    }
    let purges = Purges::restore(state).with_prefixes(max_prefixes);
    (journal, Arc::new(purges))
}

/// What decides, beside the purges, which objects a tier finds again.
pub fn judges(journal: &JournalFile, purges: &Arc<Purges>, hash_seed: u64) -> Judges {
    let pins = journal.state().pins.iter();
    // Variants of a pinned resource were written as pinned, too.
    let pins: HashSet<u32> = pins
        .map(|key| resource_of(hash_of(hash_seed, key)))
        .collect();
    let purges = Arc::clone(purges);
    Judges {
        url_purged: Some(Box::new(move |hash, stamp| purges.was_removed(hash, stamp))),
        is_pinned: Some(Box::new(move |hash| pins.contains(&resource_of(hash)))),
    }
}

/// Where the two areas lie on the device, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    pub offsets: [u64; 2],
    /// Of each.
    pub bytes: u64,
}

/// A journal on a file or block device.
#[derive(Debug)]
pub struct JournalFile {
    journal: Journal,
    device: Arc<File>,
    areas: Areas,
}

/// Why an entry was not journalled.
#[derive(Debug, thiserror::Error)]
pub enum JournalFailure {
    #[error(transparent)]
    Refused(#[from] JournalError),
    #[error("cannot {what} the journal of purges on the tier's first device: {error}")]
    Device {
        what: &'static str,
        error: io::Error,
    },
}

impl JournalFile {
    /// Makes an empty journal. Blocks.
    ///
    /// # Errors
    /// The areas are too small, or cannot be written.
    pub fn format(
        device: Arc<File>,
        areas: Areas,
        identity: u64,
        fresh: State,
    ) -> Result<Self, JournalFailure> {
        let (mut journal, write) = Journal::format(identity, fresh, areas.bytes)?;
        carry_out(&device, areas, &write)?;
        journal.confirm();
        Ok(Self {
            journal,
            device,
            areas,
        })
    }

    /// Reads what there is. Blocks. `fresh` is what holds where nothing can be read.
    ///
    /// # Errors
    /// The areas are too small, or cannot be read.
    pub fn open(
        device: Arc<File>,
        areas: Areas,
        identity: u64,
        fresh: State,
    ) -> Result<(Self, Found), JournalFailure> {
        let bytes = areas.bytes as usize;
        let read = |offset| {
            let mut buffer = Buffer::new(bytes)?;
            match buffer.read(&device, offset, bytes)?.len() == bytes {
                true => Ok(buffer),
                false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        let area0 = read(areas.offsets[0]).map_err(failed("read"))?;
        let area1 = read(areas.offsets[1]).map_err(failed("read"))?;
        let (journal, found) = Journal::open(identity, fresh, area0.bytes(), area1.bytes())?;
        let file = Self {
            journal,
            device,
            areas,
        };
        Ok((file, found))
    }

    pub fn state(&self) -> &State {
        self.journal.state()
    }

    /// Writes and flushes entries; they hold when this returns without an error. Must be awaited to
    /// its end: run it in a task of its own.
    ///
    /// # Errors
    /// Too many pins, or the device refuses. The entries may hold all the same then.
    pub async fn append(&mut self, entries: &[Entry]) -> Result<(), JournalFailure> {
        let write = self.journal.append(entries)?;
        let (device, areas) = (Arc::clone(&self.device), self.areas);
        let written = tokio::task::spawn_blocking(move || carry_out(&device, areas, &write)).await;
        let written = written.unwrap_or_else(|gone| Err(failed("write")(io::Error::other(gone))));
        match written {
            Ok(()) => self.journal.confirm(),
            Err(_) => self.journal.failed(),
        }
        written
    }
}

fn carry_out(device: &File, areas: Areas, write: &JournalWrite) -> Result<(), JournalFailure> {
    let offset = areas.offsets[usize::from(write.area)] + write.offset;
    let written = Buffer::new(write.bytes.len())
        .and_then(|mut buffer| buffer.write(device, offset, &write.bytes));
    written.map_err(failed("write"))?;
    device.sync_data().map_err(failed("flush"))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> JournalFailure {
    move |error| JournalFailure::Device { what, error }
}

#[cfg(test)]
mod tests {
    use cache_core::purge::{Purge, TagSlot};

    use super::*;

    const AREAS: Areas = Areas {
        offsets: [8192, 8192 + (4 << 20)],
        bytes: 4 << 20,
    };

    fn fresh() -> State {
        State::new(3, 1024)
    }

    fn tag(number: u32) -> Entry {
        Entry::Purge {
            number,
            purge: Purge::Tag(TagSlot(number % 7)),
            soft: false,
        }
    }

    #[tokio::test]
    async fn what_was_appended_is_there_when_it_is_opened_again() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let reopen = || {
            let options = File::options().read(true).write(true).open(file.path());
            Arc::new(options.expect("opened"))
        };
        let mut journal = JournalFile::format(reopen(), AREAS, 1, fresh()).expect("formatted");
        for number in 1..=10 {
            journal.append(&[tag(number)]).await.expect("appended");
        }
        file.as_file().set_len(16 << 20).expect("room");
        let (mut again, found) = JournalFile::open(reopen(), AREAS, 1, fresh()).expect("read");
        assert_eq!((again.state(), found), (journal.state(), Found::Whole));
        again.append(&[tag(11)]).await.expect("appended");
        let (last, found) = JournalFile::open(reopen(), AREAS, 1, fresh()).expect("read");
        assert_eq!((last.state(), found), (again.state(), Found::Whole));
        assert_eq!(last.state().counter, 11);
    }

    #[test]
    fn there_is_room_for_the_largest_table_of_purges() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let device = || Arc::new(file.reopen().expect("opened"));
        let format = |slots| JournalFile::format(device(), AREAS, 1, State::new(3, slots));
        format(MAX_PURGE_SLOTS).expect("room");
        let error = format(2 * MAX_PURGE_SLOTS).expect_err("too large");
        assert!(error.to_string().contains("131072"), "{error}");
    }

    #[tokio::test]
    async fn a_device_that_refuses_is_an_error_that_says_so() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(16 << 20).expect("room");
        let device = Arc::new(File::open(file.path()).expect("read only"));
        let error = JournalFile::format(device, AREAS, 1, fresh()).expect_err("read only");
        assert!(error.to_string().starts_with("cannot write the journal"));
        file.as_file().set_len(4096).expect("shorter");
        let device = Arc::new(File::open(file.path()).expect("read only"));
        let error = JournalFile::open(device, AREAS, 1, fresh()).expect_err("too short");
        assert!(error.to_string().starts_with("cannot read the journal"));
    }
}
