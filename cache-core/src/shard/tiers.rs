//! The second tier as the shard uses it: a flight that finds its object there reads it from there,
//! and what leaves memory is offered to it.
//!
//! ```text
//!  join --may have--> read --Head--> fresh? --yes--> fill, as a fetch would
//!                       |              '--no--.
//!                       '---Missing-----------+----> ask the upstream instead, same flight
//! ```

use bytes::Bytes;

use super::answers::lifetime;
use super::{Shard, TIER_GAUGE_INTERVAL};
use crate::flight::{FlightHead, Outcome, Supply, Target};
use crate::http::freshness::{self, State};
use crate::http::slices::{self, SLICE};
use crate::http::vary;
use crate::io::{DiskDone, FetchCommand, FetchErrorKind, FetchId, Now, Outbox};
use crate::purge::{TagSlot, Verdict};
use crate::store::{KeyHash, ObjectMeta};
use crate::tier::{Bypass, Offered, TierEvent};

impl Shard {
    pub(super) fn disk_done(&mut self, now: Now, done: DiskDone) {
        // Without a tier there are no commands to be done.
        if let Some(tier) = &mut self.tier {
            tier.done(now, done);
            self.tier_due = true;
        }
    }

    /// Takes what was read, and lets the tier write.
    pub(super) fn turn_tier(&mut self, now: Now, out: &mut Outbox) {
        let Some(tier) = &mut self.tier else {
            return;
        };
        if std::mem::take(&mut self.tier_due) {
            let due = now.mono + TIER_GAUGE_INTERVAL;
            self.next_tier_gauges.get_or_insert(due);
        }
        let mut events = std::mem::take(&mut self.scratch.tier_events);
        tier.turn(now, &mut out.disk, &mut events);
        for (id, event) in events.drain(..) {
            self.tier_event(now, id, event, out);
        }
        self.scratch.tier_events = events;
    }

    /// Reclaims memory; what has to go is offered to the tier.
    pub(super) fn turn_store(&mut self, now: Now) {
        match &mut self.tier {
            // Variants lie under keys that only this process knows how to make.
            Some(tier) => self.store.turn(&mut |evicted| {
                let whole = slices::whole(evicted.key);
                if vary::base(whole).len() < whole.len() {
                    return;
                }
                let offered = tier.offer(now, &evicted, Bypass::No);
                self.tier_due |= offered == Offered::Written;
            }),
            None => self.store.turn(&mut |_| {}),
        }
    }

    /// Begins to read an object that memory has lost. An object that is there but stale has to come
    /// from the upstream: the tier has nothing newer.
    pub(super) fn read_tier(&mut self, now: Now, id: FetchId, target: &Target) -> bool {
        let Some(tier) = &mut self.tier else {
            return false;
        };
        let reads = tier.may_have(target.hash)
            && self.store.peek(target.hash, &target.key).is_none()
            && tier.fetch(now, id, target.hash, target.key.clone());
        self.tier_due |= reads;
        reads
    }

    /// Nothing more is wanted for a flight.
    pub(super) fn stop_supply(&mut self, id: FetchId, supply: Supply, out: &mut Outbox) {
        match (supply, &mut self.tier) {
            (Supply::Tier, Some(tier)) => {
                tier.cancel(id);
                self.tier_due = true;
            }
            _ => out.fetches.push(FetchCommand::Cancel { id }),
        }
    }

    /// An object was committed: what the tier has of its key is older, unless it came from there.
    pub(super) fn stored_from(&mut self, supply: Supply, hash: KeyHash) {
        if let (Supply::Upstream, Some(tier)) = (supply, &mut self.tier) {
            tier.forget(hash);
        }
    }

    fn tier_event(&mut self, now: Now, id: FetchId, event: TierEvent, out: &mut Outbox) {
        // A read that was cancelled may still have news, for a flight that asks the upstream by now.
        let flight = self.flights.get_mut(id);
        if flight.is_none_or(|flight| flight.supply != Supply::Tier) {
            return;
        }
        match event {
            TierEvent::Head {
                meta,
                mut tags,
                any_tag,
                encoded,
            } => {
                tags.extend(any_tag.then_some(TagSlot::ANY));
                self.tier_head(now, id, (meta, encoded), tags, out);
            }
            TierEvent::Body(bytes) => self.tier_body(now, id, bytes, out),
            TierEvent::End => self.fetched_end(now, id, out),
            TierEvent::Missing => self.not_in_tier(now, id, out),
        }
    }

    fn tier_head(
        &mut self,
        now: Now,
        id: FetchId,
        (meta, encoded): (ObjectMeta, Bytes),
        tags: Vec<TagSlot>,
        out: &mut Outbox,
    ) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        let key = &flight.target.key;
        let verdict = self
            .store
            .purges()
            .judge(meta.stamp, tags.iter().copied(), key);
        let fresh = freshness::fresh_at(&lifetime(&meta), meta.stored_unix_ms, now.unix_ms);
        // The object says whether its slices may be served.
        let is_over =
            meta.flags & SLICE == 0 && matches!(fresh.state, State::Expired | State::StaleIfError);
        if is_over || verdict != Verdict::Valid {
            self.stop_supply(id, Supply::Tier, out);
            return self.not_in_tier(now, id, out);
        }
        self.stats.tier_hits.inc();
        let head = FlightHead {
            length: Some(meta.body_len),
            meta,
            encoded,
            tags,
            stored: true,
            alone: false,
            age_s: Some(fresh.age_s),
            confirmed: false,
            variant: None,
            tier_ttl: Some(fresh.ttl_s),
        };
        self.begin_fill(now, id, head, out);
    }

    fn tier_body(&mut self, now: Now, id: FetchId, bytes: Bytes, out: &mut Outbox) {
        let credit = bytes.len() as u32;
        if self.take_body(now, id, bytes, out)
            && let Some(tier) = &mut self.tier
        {
            tier.credit(id, credit);
            self.tier_due = true;
        }
    }

    /// The tier cannot serve a flight after all. Once its head was told nobody else can go on with
    /// the body, for a newer version may have another.
    fn not_in_tier(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        if flight.head.is_some() {
            let outcome = Outcome::Failed(FetchErrorKind::ResponseIncomplete);
            return self.end_flight(now, id, outcome, out);
        }
        flight.supply = Supply::Upstream;
        flight.sent_unix_ms = now.unix_ms;
        flight.stamp = self.store.purges().stamp();
        let (target, purged) = (flight.target.clone(), flight.purged);
        // After a purge a newer flight may have the key: who waits here looks again and joins that.
        if purged || !self.flights.is_latest(id, &target.key) {
            return self.end_flight(now, id, Outcome::Present, out);
        }
        let asked = self.ask_upstream(now, id, &target, out);
        self.note_asked(id, asked);
    }
}
