//! The tier between two processes, of which one takes over from the other: both read, none writes.
//!
//! ```text
//!  former one:  RestTier --> what memory holds is written, as at a stop --> sealed, flushed --> reply; it only reads
//!  its successor:                                                  begins at rest: it only reads --> WakeTier
//! ```
//! The successor wakes its tier once the former process has ended; the former one, if nobody succeeds it after all.

use bytes::Bytes;

use super::Shard;
use crate::io::{Now, Outbox, Reply};
use crate::store::KeyHash;
use crate::tier::Tier;

impl Shard {
    /// Replies once nothing more will be written; at once where there is no tier.
    pub(super) fn rest_tier(&mut self, now: Now, command: u64) -> Option<Reply> {
        if self.tier.is_none() {
            return Some(Reply::Done);
        }
        self.begin_saving(now);
        self.resting = Some(command);
        None
    }

    pub(super) fn confirm_rest(&mut self, out: &mut Outbox) {
        let is_saved = self.saved().is_some_and(|saved| saved.is_over);
        if is_saved && self.tier.as_ref().is_some_and(Tier::is_sealed) {
            let waits = self.resting.take();
            out.replies.extend(waits.map(|id| (id, Reply::Done)));
        }
    }

    pub(super) fn wake_tier(&mut self, now: Now) -> Reply {
        self.saving = None;
        self.resting = None;
        if let Some(tier) = &mut self.tier {
            tier.wake();
            self.tier_due = true;
            self.offer_pins(now);
        }
        Reply::Done
    }

    /// What was pinned, or came to be there, while the tier took nothing.
    fn offer_pins(&mut self, now: Now) {
        let kept = self.store.pins().filter(|(_, bytes)| bytes.is_some());
        let keys: Vec<Bytes> = kept.map(|(key, _)| Bytes::copy_from_slice(key)).collect();
        for key in keys {
            let hash: KeyHash = self.store.hash(&key);
            self.offer_pinned(now, hash, &key);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::io::{Command, Reply};
    use crate::shard::lone::Lone;

    #[test]
    fn what_memory_held_is_read_by_both_and_written_by_none() {
        let mut former = Lone::new(1 << 20, true);
        let id = former.ask_in("en").expect("fetched");
        former.answer_varying(id, 1_000);
        assert_eq!(former.ask(Command::RestTier), Reply::Done);
        let at_rest = former.shard.tier_stats().expect("a tier");
        // The object, and the rule of its variants.
        assert_eq!((at_rest.objects, at_rest.resting), (2, 1));
        assert!(!former.pin_durably(), "{at_rest:?}");
        let writes = |lone: &Lone| lone.shard.tier_stats().expect("a tier").writes;
        assert_eq!(writes(&former), at_rest.writes);

        let mut successor = former.succeeded();
        assert_eq!(successor.ask_in("en"), None, "the drive has it");
        assert_eq!((writes(&successor), writes(&former)), (0, at_rest.writes));
        successor.stop();
        successor.settle();
        assert!(successor.shard.is_settled());
        assert_eq!(writes(&successor), 0);
    }

    #[test]
    fn the_tier_writes_again_once_it_is_alone() {
        let mut former = Lone::new(1 << 20, true);
        assert_eq!(former.ask(Command::RestTier), Reply::Done);
        let mut successor = former.succeeded();
        for lone in [&mut former, &mut successor] {
            let id = lone.ask_in("en").expect("fetched");
            lone.answer_varying(id, 1_000);
            assert!(!lone.pin_durably());
            assert_eq!(lone.ask(Command::WakeTier), Reply::Done);
            lone.settle();
            let stats = lone.shard.tier_stats().expect("a tier");
            assert_eq!((stats.pinned_objects, stats.resting), (2, 0));
            assert!(lone.pin_durably(), "{stats:?}");
        }
        // A stop after it saves what memory holds, as ever.
        former.stop();
        former.settle();
        assert!(former.shard.is_settled());
    }

    #[test]
    fn without_a_tier_there_is_nothing_to_wait_for() {
        let mut lone = Lone::new(0, false);
        assert_eq!(lone.ask(Command::RestTier), Reply::Done);
        assert_eq!(lone.ask(Command::WakeTier), Reply::Done);
    }
}
