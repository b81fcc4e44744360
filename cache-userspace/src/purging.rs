//! Where purges and pins are made: numbered, journalled if there is a tier, and put into the table
//! that all shards read.
//!
//! ```text
//!  admin API --> journal: written, flushed --> table: one store each --> every shard has seen it --> answer
//! ```
//! The last two steps are the node's ([`crate::node`]). One at a time holds [`Purging`]; who waits
//! for it waits in the order of coming.

use std::sync::Arc;

use bytes::Bytes;
use cache_core::purge::journal::{JournalError, MAX_ENTRIES, MAX_PIN};
use cache_core::purge::state::Entry;
use cache_core::purge::{Purge, PurgeError, Purger, Purges};

use crate::journal::{JournalFailure, JournalFile};

/// The writer of a node's purges, and its journal if the node has a tier.
#[derive(Debug)]
pub struct Purging {
    purger: Purger,
    journal: Option<JournalFile>,
    /// Another process does it now, with the same journal.
    has_ended: bool,
}

/// Why a purge or pin was not made, or not for good.
#[derive(Debug, thiserror::Error)]
pub enum PurgingError {
    #[error(transparent)]
    Refused(#[from] PurgeError),
    /// A pin that the journal has no room for: nothing was pinned.
    #[error(transparent)]
    PinRefused(JournalError),
    /// Nothing was made.
    #[error("another process has taken over from this one")]
    HasEnded,
    /// In memory it holds.
    #[error("it holds until the next restart only: {0}")]
    NotDurable(#[from] JournalFailure),
}

impl Purging {
    pub fn new(purger: Purger, journal: Option<JournalFile>) -> Self {
        Self {
            purger,
            journal,
            has_ended: false,
        }
    }

    /// Another process goes on with the journal: what is asked for from here on is refused.
    pub fn end(&mut self) {
        self.has_ended = true;
        self.journal = None;
    }

    /// What they are made in.
    pub fn purges(&self) -> &Arc<Purges> {
        self.purger.purges()
    }

    /// Makes purges and gives the number of the last. Must be awaited to its end: run it in a task of
    /// its own.
    ///
    /// # Errors
    /// One that cannot be made: then none was. A journal that cannot be written: then all hold in
    /// memory, and asking again is harmless.
    pub async fn purge(&mut self, purges: &[Purge], soft: bool) -> Result<u32, PurgingError> {
        if self.has_ended {
            return Err(PurgingError::HasEnded);
        }
        for purge in purges {
            self.purger.check(purge)?;
        }
        let (mut last, mut durable) = (0, Ok(()));
        for purges in purges.chunks(MAX_ENTRIES) {
            let first = self.purger.next()?;
            if let Some(journal) = &mut self.journal {
                let numbers = (first..).zip(purges);
                let entries: Vec<Entry> = numbers
                    .map(|(number, purge)| Entry::Purge {
                        number,
                        purge: purge.clone(),
                        soft,
                    })
                    .collect();
                durable = durable.and(journal.append(&entries).await);
            }
            for purge in purges {
                last = self.purger.purge(purge, soft)?;
            }
        }
        durable?;
        Ok(last)
    }

    /// Remembers that an object is pinned, or is not any more, if there is a journal. False: it was
    /// so before.
    ///
    /// # Errors
    /// The key is too long, the journal takes no more pins, or it cannot be written.
    pub async fn pin(&mut self, key: Bytes, pinned: bool) -> Result<bool, PurgingError> {
        if self.has_ended {
            return Err(PurgingError::HasEnded);
        }
        let length = key.len();
        if pinned && length > MAX_PIN {
            return Err(PurgingError::PinRefused(JournalError::PinTooLong {
                length,
            }));
        }
        let Some(journal) = &mut self.journal else {
            return Ok(true);
        };
        if journal.state().pins.contains(&key) == pinned {
            return Ok(false);
        }
        let entry = match pinned {
            true => Entry::Pin(key),
            false => Entry::Unpin(key),
        };
        match journal.append(&[entry]).await {
            Ok(()) => Ok(true),
            Err(JournalFailure::Refused(error)) => Err(PurgingError::PinRefused(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// The cache keys that the journal says are pinned.
    pub fn pins(&self) -> Vec<Bytes> {
        let journal = self.journal.iter();
        journal
            .flat_map(|journal| &journal.state().pins)
            .cloned()
            .collect()
    }

    /// Whether the journal says that a key is pinned.
    pub fn is_pinned(&self, key: &Bytes) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.state().pins.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use cache_core::purge::state::State;
    use cache_core::purge::{TagSlot, Verdict};

    use super::*;
    use crate::journal::Areas;

    const AREAS: Areas = Areas {
        offsets: [0, 4 << 20],
        bytes: 4 << 20,
    };

    fn tags(count: u32) -> Vec<Purge> {
        (0..count).map(|slot| Purge::Tag(TagSlot(slot))).collect()
    }

    #[tokio::test]
    async fn purges_are_numbered_alike_in_the_table_and_in_the_journal() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(16 << 20).expect("room");
        let device = || {
            let options = File::options().read(true).write(true).open(file.path());
            Arc::new(options.expect("opened"))
        };
        let fresh = State::new(3, 1024);
        let journal = JournalFile::format(device(), AREAS, 1, fresh.clone()).expect("formatted");
        let purges = Arc::new(Purges::restore(journal.state()));
        let purger = purges.writer().expect("the only one");
        let mut purging = Purging::new(purger, Some(journal));
        let count = 2 * MAX_ENTRIES as u32 + 1;
        assert_eq!(
            purging.purge(&tags(count), false).await.expect("purged"),
            count
        );
        let pin = Bytes::from_static(b"edge.test/");
        assert!(purging.pin(pin.clone(), true).await.expect("pinned"));
        assert!(!purging.pin(pin.clone(), true).await.expect("as before"));
        assert_eq!(purging.pins(), std::slice::from_ref(&pin));
        let long = Bytes::from(vec![b'a'; MAX_PIN + 1]);
        let refused = purging.pin(long.clone(), true).await;
        assert!(matches!(refused, Err(PurgingError::PinRefused(_))));
        assert!(!purging.is_pinned(&long));
        drop(purging);
        let (journal, _) = JournalFile::open(device(), AREAS, 1, fresh).expect("opened");
        let restored = Purges::restore(journal.state());
        assert_eq!(restored.stamp(), purges.stamp());
        for slot in 0..count {
            let judged = |stamp| restored.judge(stamp, [TagSlot(slot)], b"k");
            assert_eq!(judged(slot), Verdict::Hard);
            assert_eq!(judged(slot + 1), Verdict::Valid);
        }
        assert!(journal.state().pins.contains(&pin));
    }

    #[tokio::test]
    async fn a_purge_holds_in_memory_even_if_it_cannot_be_journalled() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(16 << 20).expect("room");
        let writable = File::options().read(true).write(true).open(file.path());
        let fresh = State::new(3, 1024);
        let formatted =
            JournalFile::format(Arc::new(writable.expect("opened")), AREAS, 1, fresh.clone());
        drop(formatted.expect("formatted"));
        let read_only = Arc::new(File::open(file.path()).expect("opened"));
        let (journal, _) = JournalFile::open(read_only, AREAS, 1, fresh).expect("read");
        let purges = Arc::new(Purges::restore(journal.state()));
        let purger = purges.writer().expect("the only one");
        let mut purging = Purging::new(purger, Some(journal));
        let error = purging.purge(&tags(1), false).await.expect_err("read only");
        assert!(matches!(error, PurgingError::NotDurable(_)), "{error}");
        assert_eq!(purges.judge(0, [TagSlot(0)], b"k"), Verdict::Hard);
    }

    #[tokio::test]
    async fn nothing_is_made_once_another_process_does_it() {
        let purges = Arc::new(Purges::new(1, 16));
        let mut purging = Purging::new(purges.writer().expect("the only one"), None);
        purging.purge(&tags(1), false).await.expect("purged");
        purging.end();
        let purged = purging.purge(&tags(1), false).await;
        assert!(matches!(purged, Err(PurgingError::HasEnded)));
        let pinned = purging.pin(Bytes::from_static(b"edge.test/"), true).await;
        assert!(matches!(pinned, Err(PurgingError::HasEnded)));
        assert_eq!(purges.stamp(), 1);
    }

    #[tokio::test]
    async fn one_purge_that_cannot_be_made_keeps_the_others_from_being_made() {
        let purges = Arc::new(Purges::new(1, 16));
        let mut purging = Purging::new(purges.writer().expect("the only one"), None);
        let long = Purge::Prefix(Bytes::from(vec![b'a'; 5000]));
        let error = purging.purge(&[Purge::All, long], false).await;
        assert!(matches!(error, Err(PurgingError::Refused(_))));
        assert_eq!(purges.stamp(), 0);
    }
}
