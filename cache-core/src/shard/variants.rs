//! Resources with variants: finding the key of the one that a request selects.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::Shard;
use crate::flight::{Target, Variant};
use crate::http::forward::Shown;
use crate::http::vary::{self, Rule, Vary};
use crate::io::{FetchId, Now, OriginId};
use crate::store::KeyHash;

/// Where a response is to be kept.
pub(super) enum Place {
    /// Under the key that it was fetched for.
    Asked,
    Variant(Variant),
    /// Nowhere: whom it suits cannot be said.
    Nowhere,
}

impl Shard {
    /// Aims a target at the variant that its fields select, if its resource is known to have variants.
    /// False: the fields that select are too long.
    pub(super) fn select(&mut self, target: &mut Target) -> bool {
        let Some(rule) = self.rule_of(&target.key) else {
            return true;
        };
        let Some(key) = rule.key(vary::base(&target.key), &target.headers) else {
            return false;
        };
        target.hash = self.store.hash_variant(&key);
        target.key = Bytes::from(key);
        true
    }

    /// The rule for the resource of a key. Costs nothing while no resource has variants.
    pub(super) fn rule_of(&self, key: &[u8]) -> Option<Arc<Rule>> {
        if self.rules.is_empty() {
            return None;
        }
        let base = self.store.hash(vary::base(key));
        self.rules.get(base).cloned()
    }

    /// Decides where the response to a flight of ours is kept, and for which requests it is.
    pub(super) fn place(&mut self, now: Now, id: FetchId, headers: &HeaderMap) -> Place {
        let Some(flight) = self.flights.get_mut(id) else {
            return Place::Nowhere;
        };
        let target = &flight.target;
        let routes = &self.config.caching.routes;
        let rules = routes.rules_of(target.route, &target.key);
        let OriginId(origin) = target.origin;
        // A shard that has read a newer configuration may know an origin that we do not know yet.
        let Some(origin) = self.config.origins.get(usize::from(origin)) else {
            return Place::Nowhere;
        };
        let shown = Shown {
            origin: &origin.client_fields,
            key: &rules.key,
        };
        let max = rules.max_variants;
        let fields = match vary::read(headers, shown) {
            Vary::Nothing => return Place::Asked,
            Vary::Everything => return Place::Nowhere,
            Vary::Fields(fields) => fields,
        };
        let base = vary::base(&flight.target.key);
        let base_hash = self.store.hash(base);
        let former = self.rules.get(base_hash).map(|rule| rule.generation);
        let Some(rule) = self.rules.rule_for(base_hash, fields, max, now.unix_ms) else {
            return Place::Nowhere;
        };
        if former != Some(rule.generation)
            && let Some(tier) = &mut self.tier
        {
            // A former rule, or an object from before the resource had variants.
            tier.forget(base_hash);
        }
        let Some(key) = rule.key(base, &flight.target.headers) else {
            return Place::Nowhere;
        };
        let hash = self.store.hash_variant(&key);
        if self.store.lookup(hash, &key).is_none() {
            self.rules.stored(base_hash);
        }
        let key = Bytes::from(key);
        Place::Variant(Variant { rule, key, hash })
    }

    /// What the owner of a resource says about its variants.
    pub(super) fn learn_variants(&mut self, key: &[u8], rule: &Arc<Rule>) {
        let base: KeyHash = self.store.hash(vary::base(key));
        if self.rules.get(base) != Some(rule) {
            self.rules.learn(base, Arc::clone(rule));
        }
    }
}
