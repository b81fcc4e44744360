//! The second tier as the shard uses it: a flight that finds its object there reads it from there,
//! and what leaves memory is offered to it.
//!
//! ```text
//!  join --may have--> read --Head--> fresh? --yes--> fill, as a fetch would
//!                       |  |           '--no--.
//!                       |  '-rule of variants-|----> who waits selects one, and asks for that
//!                       '---Missing-----------+----> ask the upstream instead, same flight
//! ```
//! A variant lies under its own key. Which request selects it says the rule of its resource, kept as an
//! object without body and of status 0 under the key of the resource. Whatever makes the tier forget
//! that key makes it forget all variants.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::answers::lifetime;
use super::{Shard, TIER_GAUGE_INTERVAL};
use crate::config::ShardConfig;
use crate::flight::{FlightEvent, FlightHead, Outcome, Supply, Target};
use crate::http::freshness::{self, State};
use crate::http::slices::SLICE;
use crate::http::vary::{self, Rule};
use crate::io::{DiskDone, FetchCommand, FetchErrorKind, FetchId, Now, Outbox};
use crate::purge::{TagSlot, Verdict};
use crate::stats::ShardStats;
use crate::store::{Evicted, KeyHash, ObjectMeta};
use crate::tier::{Bypass, Offered, TierEvent};

/// Status of a rule of variants: no response has it.
const RULE: u16 = 0;

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
        let saves_on = self.save(now);
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
        // What those events held is free now.
        if let Some(tier) = self.tier.as_mut().filter(|tier| tier.is_starved()) {
            tier.turn(now, &mut out.disk, &mut events);
        }
        for (id, event) in events.drain(..) {
            self.tier_event(now, id, event, out);
        }
        self.scratch.tier_events = events;
        self.confirm_pins(out);
        self.confirm_rest(out);
        self.tier_due |= saves_on;
    }

    /// Reclaims memory; what has to go is offered to the tier.
    pub(super) fn turn_store(&mut self, now: Now) {
        match &mut self.tier {
            Some(tier) => self.store.turn(&mut |evicted| {
                let offered = tier.offer(now, &evicted, Bypass::No);
                self.tier_due |= offered == Offered::Written;
                count_fill(offered, evicted.key, &self.config, &self.stats);
                let is_there = matches!(offered, Offered::Written | Offered::Known);
                if is_there && vary::is_variant(evicted.key) {
                    let base = vary::base(evicted.key);
                    self.scratch.varying.push(Bytes::copy_from_slice(base));
                }
            }),
            None => self.store.turn(&mut |_| {}),
        }
        while let Some(base) = self.scratch.varying.pop() {
            self.offer_rule(now, &base, Bypass::Prewarmed);
        }
    }

    /// Gives the tier the rule by which variants of a resource are found, unless it has it. `None`: there
    /// is none.
    pub(super) fn offer_rule(&mut self, now: Now, base: &Bytes, bypass: Bypass) -> Option<Offered> {
        let hash = self.store.hash(base);
        let (Some(rule), Some(tier)) = (self.rules.get(hash), &mut self.tier) else {
            return None;
        };
        if bypass != Bypass::Pinned && tier.may_have(hash) {
            return Some(Offered::Known);
        }
        let meta = ObjectMeta {
            status: RULE,
            stored_unix_ms: rule.generation,
            lifetime_s: u32::MAX,
            stamp: self.store.purges().stamp(),
            ..ObjectMeta::default()
        };
        let rule = Evicted {
            hash,
            key: base,
            meta,
            tags: &[],
            any_tag: false,
            head: &rule.encode(),
            body: &[],
            requests: 2,
        };
        let offered = tier.offer(now, &rule, bypass);
        self.tier_due |= offered == Offered::Written;
        Some(offered)
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
        let (key, route) = (flight.target.key.clone(), flight.target.route);
        if meta.status == RULE {
            return self.tier_rule(now, id, (&key, &encoded), out);
        }
        let verdict = self
            .store
            .purges()
            .judge(meta.stamp, tags.iter().copied(), &key);
        let fresh = freshness::fresh_at(&lifetime(&meta), meta.stored_unix_ms, now.unix_ms);
        // The object says whether its slices may be served.
        let has_expired = matches!(fresh.state, State::Expired | State::StaleIfError);
        let is_over =
            (has_expired && meta.flags & SLICE == 0) || self.was_removed_before(&key, meta.stamp);
        if is_over || verdict != Verdict::Valid {
            self.stop_supply(id, Supply::Tier, out);
            return self.not_in_tier(now, id, out);
        }
        self.stats.tier_hits.inc();
        self.count_by_class(route).tier_hits.inc();
        let head = FlightHead {
            length: Some(meta.body_len),
            meta,
            encoded,
            own: None,
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

    /// Whether the resource of a variant was purged before this process began. Its rule is gone then; if
    /// the clock was set back, a new one may have come to the same keys.
    fn was_removed_before(&self, key: &[u8], stamp: u32) -> bool {
        let base = vary::base(key);
        vary::is_variant(key)
            && self
                .store
                .purges()
                .was_removed(self.store.hash(base), stamp)
    }

    /// The resource has variants: who waits is told how to find them.
    fn tier_rule(
        &mut self,
        now: Now,
        id: FetchId,
        (key, encoded): (&Bytes, &[u8]),
        out: &mut Outbox,
    ) {
        self.stop_supply(id, Supply::Tier, out);
        let Some(found) = Rule::decode(encoded) else {
            return self.not_in_tier(now, id, out);
        };
        // One that came about meanwhile is newer.
        let rule = self.rule_of(key).unwrap_or_else(|| Arc::new(found));
        self.learn_variants(key, &rule);
        self.tell_all(now, id, out, || FlightEvent::Varies(Arc::clone(&rule)));
        self.end_flight(now, id, Outcome::Varies, out);
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
        if flight.target.stored_only {
            return self.end_flight(now, id, Outcome::NotStored, out);
        }
        flight.supply = Supply::Upstream;
        flight.sent_unix_ms = now.unix_ms;
        flight.stamp = self.store.purges().stamp();
        let (target, purged) = (flight.target.clone(), flight.purged);
        // After a purge a newer flight may have the key: who waits here looks again and joins that.
        if purged || !self.flights.is_latest(id, &target.key) {
            return self.end_flight(now, id, Outcome::Present, out);
        }
        self.ask_in_turn(now, id, &target, out);
    }
}

/// Counts what the tier has taken by its class.
pub(super) fn count_fill(offered: Offered, key: &[u8], config: &ShardConfig, stats: &ShardStats) {
    if offered == Offered::Written {
        let routes = &config.caching.routes;
        let route = routes.find(vary::base(key), Method::GET.as_str().as_bytes());
        stats.by_class.of(routes.counted(route)).tier_fills.inc();
    }
}
