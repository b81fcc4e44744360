//! Saying what the shard knows of a request's object, without answering the request.

use bytes::Bytes;

use super::Shard;
use super::answers::{lifetime, standing};
use super::requests::target;
use crate::conn::h3::{FieldSection, head};
use crate::flight::Target;
use crate::http::explain::{self, Place, Seen, SeenObject};
use crate::http::forward::{self, Shown};
use crate::http::key;
use crate::io::{ClientRequest, Now};

impl Shard {
    /// For the owner of the request's key. `None`: it is refused, or no origin serves its host.
    pub(super) fn explain(&mut self, now: Now, request: &ClientRequest) -> Option<Seen> {
        let mut section = FieldSection::new(self.config.limits.max_field_section);
        section.read_plain(request).ok()?;
        let (mut key, mut spare) = (Vec::new(), Vec::new());
        let max_target = self.config.limits.max_target;
        let routes = &self.config.caching.routes;
        let plan = explain::plan(&section, routes, max_target, &mut key, &mut spare).ok()?;
        let origin = self.routes.find(key::host(&key))?;
        let shown = Shown {
            origin: &self.config.origins[usize::from(origin.0)].client_fields,
            key: &routes.rules(plan.route).key,
        };
        let mut target = target(&key, self.store.hash(&key), origin);
        target.headers = forward::shared(&section, shown).into();
        let fields = self.rule_of(&key).map(|rule| rule.fields.clone());
        self.select(&mut target);
        Some(self.seen(now, &key, fields.unwrap_or_default(), &target))
    }

    fn seen(
        &mut self,
        now: Now,
        base: &[u8],
        fields: Vec<http::HeaderName>,
        target: &Target,
    ) -> Seen {
        let object = self.seen_object(now, target);
        let in_tier = |tier: &crate::tier::Tier| tier.may_have(target.hash);
        let place = match &object {
            Some(_) => Place::Memory,
            None if self.tier.as_ref().is_some_and(in_tier) => Place::Tier,
            None => Place::Nowhere,
        };
        Seen {
            key: Bytes::clone(&target.key),
            fields,
            place,
            object,
            pinned: self.store.pins().any(|(key, _)| key == base),
            uncacheable: self.uncacheable.contains(target.hash, now.unix_ms),
            fetching: self
                .flights
                .joinable(&target.key, self.store.purges())
                .is_some(),
        }
    }

    fn seen_object(&mut self, now: Now, target: &Target) -> Option<SeenObject> {
        let hit = self.store.lookup(target.hash, &target.key)?;
        Some(SeenObject {
            status: hit.meta().status,
            headers: head::decode_static(hit.head()?)?,
            body_len: hit.meta().body_len,
            tags: hit.tags().count(),
            stored_unix_ms: hit.meta().stored_unix_ms,
            times: lifetime(&hit.meta()),
            stands: standing(&hit, &hit.meta(), now),
            purged_softly: hit.purged_softly(),
        })
    }
}
