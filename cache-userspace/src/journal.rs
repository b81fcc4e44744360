//! The journal of purges and pins on a tier's first device: [`cache_core::purge::journal`] decides
//! what is written, this writes it.
//!
//! Written through the page cache and flushed by fdatasync, from a thread of the blocking pool: a
//! journal is written at an operator's pace, and nothing waits for it but the command.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use cache_core::purge::journal::{Found, Journal, JournalError, JournalWrite};
use cache_core::purge::state::{Entry, State};

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
        device: File,
        areas: Areas,
        identity: u64,
        fresh: State,
    ) -> Result<Self, JournalFailure> {
        let (mut journal, write) = Journal::format(identity, fresh, areas.bytes)?;
        carry_out(&device, areas, &write)?;
        journal.confirm();
        Ok(Self {
            journal,
            device: Arc::new(device),
            areas,
        })
    }

    /// Reads what there is. Blocks. `fresh` is what holds where nothing can be read.
    ///
    /// # Errors
    /// The areas are too small, or cannot be read.
    pub fn open(
        device: File,
        areas: Areas,
        identity: u64,
        fresh: State,
    ) -> Result<(Self, Found), JournalFailure> {
        let read = |offset: u64| {
            let mut bytes = vec![0; areas.bytes as usize];
            let read = device.read_exact_at(&mut bytes, offset);
            read.map(|()| bytes).map_err(failed("read"))
        };
        let (area0, area1) = (read(areas.offsets[0])?, read(areas.offsets[1])?);
        let (journal, found) = Journal::open(identity, fresh, &area0, &area1)?;
        let file = Self {
            journal,
            device: Arc::new(device),
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
    let written = device.write_all_at(&write.bytes, offset);
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
            options.expect("opened")
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

    #[tokio::test]
    async fn a_device_that_refuses_is_an_error_that_says_so() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(16 << 20).expect("room");
        let device = File::open(file.path()).expect("read only");
        let error = JournalFile::format(device, AREAS, 1, fresh()).expect_err("read only");
        assert!(error.to_string().starts_with("cannot write the journal"));
        file.as_file().set_len(4096).expect("shorter");
        let device = File::open(file.path()).expect("read only");
        let error = JournalFile::open(device, AREAS, 1, fresh()).expect_err("too short");
        assert!(error.to_string().starts_with("cannot read the journal"));
    }
}
