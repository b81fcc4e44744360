//! Pins: objects that an operator wants kept in memory, and on the tier's drives if there is one.
//!
//! ```text
//!  Pin --> is it in memory? --yes---------------------> kept, offered to the tier --flushed--> reply
//!                '--no--> awaited: reply; read or fetched at once --stored--^
//!  Unpin --> may be evicted from memory and from the tier, as others
//! ```
//! A pin is of the key without a variant. Variants that are stored while it holds are kept by it, too.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Shard;
use super::requests::target;
use super::tiers::count_fill;
use crate::http::{key, vary};
use crate::io::{Now, Outbox, Reply};
use crate::store::{KeyHash, Pinned, StoreError};
use crate::tier::{Bypass, Durability, Offered, Ticket, Tier};

/// Why a key was not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("no origin serves this host")]
    UnknownHost,
    #[error(transparent)]
    Refused(#[from] StoreError),
}

/// A pin whose object is on its way to the drives.
pub(super) struct Confirming {
    command: u64,
    ticket: Ticket,
    pinned: Result<Pinned, PinError>,
}

/// A pinned key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    pub key: Bytes,
    /// What its object takes of the budget; `None`: it is awaited.
    pub bytes: Option<u64>,
}

impl Shard {
    /// Pins a key of our partition, and replies at once unless its object is there and on its way to
    /// the drives.
    pub(super) fn pin(
        &mut self,
        now: Now,
        command: u64,
        key: &[u8],
        out: &mut Outbox,
    ) -> Option<Reply> {
        let made = self.make_pin(now, key, out);
        let ticket = made.as_ref().ok().and_then(|(_, ticket)| *ticket);
        let pinned = made.map(|(pinned, _)| pinned);
        let Some(ticket) = ticket else {
            return Some(Reply::Pinned {
                pinned,
                on_drives: false,
            });
        };
        self.confirming.push(Confirming {
            command,
            ticket,
            pinned,
        });
        None
    }

    /// Replies to pins of which it is known whether their objects have reached the drives.
    pub(super) fn confirm_pins(&mut self, out: &mut Outbox) {
        let Some(tier) = &self.tier else { return };
        let durability = |one: &mut Confirming| tier.durability(one.ticket);
        let known = self
            .confirming
            .extract_if(.., |one| durability(one) != Durability::Pending);
        out.replies.extend(known.map(|one| {
            let on_drives = tier.durability(one.ticket) == Durability::Durable;
            let pinned = one.pinned;
            (one.command, Reply::Pinned { pinned, on_drives })
        }));
    }

    /// Its object is fetched if it is not there; if it is, the ticket says when it is on the drives.
    fn make_pin(
        &mut self,
        now: Now,
        key: &[u8],
        out: &mut Outbox,
    ) -> Result<(Pinned, Option<Ticket>), PinError> {
        let origin = self.routes.find(key::host(key));
        let origin = origin.ok_or(PinError::UnknownHost)?;
        let hash = self.store.hash(key);
        let pinned = self.pin_in_memory(hash, key)?;
        if pinned == Pinned::Awaited {
            // Nobody follows this flight, as none follows one that refreshes a stale object.
            let mut target = target(key, hash, origin);
            target.route = self.config.caching.routes.find(key, b"GET");
            self.revalidate(target, now, out);
            return Ok((pinned, None));
        }
        let mut is_there = self.give_pinned(now, hash, key);
        for (hash, variant) in self.store.pinned_variants(key) {
            is_there |= self.give_pinned(now, hash, &variant);
        }
        let tier = self.tier.as_mut().filter(|_| is_there);
        Ok((pinned, tier.map(Tier::persist)))
    }

    /// The object of a key, and all variants of it that are there.
    fn pin_in_memory(&mut self, hash: KeyHash, key: &[u8]) -> Result<Pinned, StoreError> {
        let pinned = self.store.pin(hash, key)?;
        if self.rules.get(hash).is_none() {
            return Ok(pinned);
        }
        self.store.keep_variants(key);
        let of_it = |pin: &(&[u8], Option<u64>)| vary::base(pin.0) == key;
        let kept = self.store.pins().filter(of_it);
        let bytes: u64 = kept.filter_map(|(_, bytes)| bytes).sum();
        Ok(match bytes {
            0 => pinned,
            bytes => Pinned::Kept { bytes },
        })
    }

    /// Whether the key was pinned, in memory or on the drives.
    pub(super) fn unpin(&mut self, key: &[u8]) -> bool {
        let hash = self.store.hash(key);
        let in_memory = self.store.unpin(hash, key);
        let mut unpin_in_tier = |hash| self.tier.as_mut().is_some_and(|tier| tier.unpin(hash));
        let in_tier = unpin_in_tier(hash);
        for (hash, variant) in self.store.pinned_variants(key) {
            self.store.unpin(hash, &variant);
            unpin_in_tier(hash);
        }
        in_memory || in_tier
    }

    pub(super) fn pins(&self) -> Reply {
        // What its variants take is counted for the resource.
        let mut pins: BTreeMap<&[u8], Option<u64>> = BTreeMap::new();
        for (key, bytes) in self.store.pins() {
            let all = pins.entry(vary::base(key)).or_default();
            *all = bytes.map(|bytes| bytes + all.unwrap_or(0)).or(*all);
        }
        let pins = pins.into_iter().map(|(key, bytes)| PinnedKey {
            key: Bytes::copy_from_slice(key),
            bytes,
        });
        Reply::Pins {
            pins: pins.collect(),
            stats: self.store.pinned(),
        }
    }

    /// As [`Self::give_pinned`], and has it written at once.
    pub(super) fn offer_pinned(&mut self, now: Now, hash: KeyHash, key: &[u8]) {
        if self.give_pinned(now, hash, key)
            && let Some(tier) = &mut self.tier
        {
            tier.persist();
        }
    }

    /// Gives the tier an object that is pinned and there, to be found again after a restart. What it
    /// declines is fetched then.
    fn give_pinned(&mut self, now: Now, hash: KeyHash, key: &[u8]) -> bool {
        let Some(tier) = &mut self.tier else {
            return false;
        };
        let mut is_there = false;
        self.store.show_pinned(hash, key, |object| {
            let offered = tier.offer(now, &object, Bypass::Pinned);
            count_fill(offered, key, &self.config, &self.stats);
            is_there = matches!(offered, Offered::Written | Offered::Known);
        });
        if !is_there {
            return false;
        }
        if vary::is_variant(key) {
            let base = Bytes::copy_from_slice(vary::base(key));
            self.offer_rule(now, &base, Bypass::Pinned);
        }
        self.tier_due = true;
        true
    }

    pub(super) fn publish_pins(&self) {
        let pinned = self.store.pinned();
        self.stats.pins.set(u64::from(pinned.pins));
        self.stats.pins_kept.set(u64::from(pinned.kept));
        self.stats.pinned_bytes.set(pinned.bytes);
        self.stats.pinned_budget.set(pinned.budget);
        self.stats.pins_refused.set(pinned.refused);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::Command;
    use crate::shard::lone::{KEY, Lone};

    #[test]
    fn a_pin_of_what_is_not_there_fetches_it_and_keeps_it() {
        let mut lone = Lone::new(1 << 20, false);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        assert_eq!(lone.fetch(), None, "it is being fetched");
        let awaited = PinnedKey {
            key: Bytes::from_static(KEY),
            bytes: None,
        };
        assert_eq!(lone.listed().0, [awaited]);
        lone.answer(id, 1_000);
        let Ok(Pinned::Kept { bytes }) = lone.pin() else {
            panic!()
        };
        assert_eq!(lone.fetch(), None, "it is there");
        let (pins, stats) = lone.listed();
        assert_eq!(pins[0].bytes, Some(bytes));
        assert_eq!((stats.pins, stats.kept, stats.bytes), (1, 1, bytes));
        assert_eq!(lone.shard.stats.pinned_bytes.get(), bytes);
        assert!(lone.unpin());
        assert!(!lone.unpin());
        assert!(lone.listed().0.is_empty());
        assert_eq!(lone.shard.holdings().local_flights, 0);
    }

    #[test]
    fn what_cannot_be_pinned_is_refused_with_the_reason() {
        let mut lone = Lone::new(2_000, false);
        let elsewhere = Bytes::from_static(b"other.test/");
        let refused = lone.ask(Command::Pin(elsewhere));
        let expected = Reply::Pinned {
            pinned: Err(PinError::UnknownHost),
            on_drives: false,
        };
        assert_eq!(refused, expected);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer(id, 5_000);
        assert_eq!(lone.listed().1.kept, 0, "stored, but not kept");
        assert!(lone.unpin());
        let Err(PinError::Refused(StoreError::PinBudget { budget, needed, .. })) = lone.pin()
        else {
            panic!()
        };
        assert!(budget == 2_000 && needed > 5_000);
        assert!(lone.listed().0.is_empty());
        assert_eq!(lone.listed().1.refused, 2);
    }

    #[test]
    fn a_purged_pin_waits_for_the_next_object() {
        let mut lone = Lone::new(1 << 20, false);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer(id, 1_000);
        let purge = Command::PurgeKeys {
            keys: Arc::from([Bytes::from_static(KEY)]),
            soft: false,
        };
        assert_eq!(lone.ask(purge), Reply::Purged { objects: 1 });
        let (pins, stats) = lone.listed();
        assert_eq!((pins.len(), pins[0].bytes, stats.bytes), (1, None, 0));
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched again");
        lone.answer(id, 1_000);
        assert_eq!(lone.listed().1.kept, 1);
    }

    #[test]
    fn the_tier_keeps_what_is_pinned_until_it_is_not() {
        let mut lone = Lone::new(1 << 20, true);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer(id, 1_000);
        let pinned = |lone: &Lone| lone.shard.tier_stats().expect("a tier").pinned_objects;
        assert_eq!(pinned(&lone), 1);
        assert!(lone.unpin());
        assert_eq!(pinned(&lone), 0);
        // One that is there already is written as pinned at once.
        assert!(matches!(lone.pin(), Ok(Pinned::Kept { .. })));
        assert_eq!(pinned(&lone), 1);
    }

    /// Whether a pin is said to be on the drives.
    fn pin_on_drives(lone: &mut Lone) -> bool {
        match lone.ask(Command::Pin(Bytes::from_static(KEY))) {
            Reply::Pinned { on_drives, .. } => on_drives,
            reply => panic!("{reply:?}"),
        }
    }

    #[test]
    fn a_pin_that_was_answered_outlives_a_crash() {
        let mut lone = Lone::new(1 << 20, true);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer(id, 1_000);
        assert!(pin_on_drives(&mut lone));
        lone.crash();
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        lone.settle();
        assert_eq!(lone.fetch(), None, "the drive has it");
        assert_eq!(lone.listed().1.kept, 1);
    }

    #[test]
    fn a_pin_on_a_drive_that_fails_says_so() {
        let mut lone = Lone::new(1 << 20, true);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.fail_writes();
        lone.answer(id, 1_000);
        assert!(!pin_on_drives(&mut lone));
        assert_eq!(lone.listed().1.kept, 1, "in memory it holds");
    }

    #[test]
    fn variants_of_a_pinned_resource_are_kept_and_found_again() {
        let mut lone = Lone::new(1 << 20, true);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer_varying(id, 1_000);
        let one = lone.listed().0[0].bytes.expect("kept");
        let id = lone.ask_in("de").expect("another variant");
        lone.answer_varying(id, 1_000);
        let (pins, stats) = lone.listed();
        assert_eq!((pins.len(), stats.pins, stats.kept), (1, 1, 2));
        assert!(pins[0].bytes > Some(one));
        lone.crash();
        assert_eq!(lone.ask_in("de"), None, "the drive has it");
        assert!(lone.ask_in("fr").is_some());
        let (pins, stats) = lone.listed();
        assert_eq!((pins.len(), stats.kept), (1, 1));
        assert!(lone.unpin());
        let stats = lone.listed().1;
        assert_eq!((stats.pins, stats.kept, stats.bytes), (0, 0, 0));
    }

    #[test]
    fn variants_that_are_there_before_the_pin_are_kept_too() {
        let mut lone = Lone::new(1 << 20, true);
        for language in ["en", "de"] {
            let id = lone.ask_in(language).expect("fetched");
            lone.answer_varying(id, 1_000);
        }
        let Ok(Pinned::Kept { bytes }) = lone.pin() else {
            panic!()
        };
        assert_eq!(lone.fetch(), None, "they are there");
        let (pins, stats) = lone.listed();
        assert_eq!((pins.len(), stats.pins, stats.kept), (1, 1, 2));
        assert_eq!((pins[0].bytes, stats.bytes), (Some(bytes), bytes));
        assert!(pin_on_drives(&mut lone));
        lone.crash();
        for language in ["en", "de"] {
            assert_eq!(lone.ask_in(language), None, "the drive has it");
        }
        assert!(lone.unpin());
        assert_eq!(lone.listed().1.kept, 0);
    }

    #[test]
    fn of_the_variants_that_are_there_as_many_are_kept_as_the_budget_allows() {
        let mut lone = Lone::new(5_000, false);
        for language in ["en", "de"] {
            let id = lone.ask_in(language).expect("fetched");
            lone.answer_varying(id, 3_000);
        }
        assert!(matches!(lone.pin(), Ok(Pinned::Kept { .. })));
        let stats = lone.listed().1;
        assert_eq!((stats.kept, stats.refused), (1, 1));
    }

    #[test]
    fn a_purged_resource_has_no_variants_on_the_tier() {
        let mut lone = Lone::new(1 << 20, true);
        assert_eq!(lone.pin(), Ok(Pinned::Awaited));
        let id = lone.fetch().expect("fetched");
        lone.answer_varying(id, 1_000);
        let purge = Command::PurgeKeys {
            keys: Arc::from([Bytes::from_static(KEY)]),
            soft: false,
        };
        assert_eq!(lone.ask(purge), Reply::Purged { objects: 1 });
        assert!(lone.ask_in("en").is_some(), "it is fetched");
    }
}
