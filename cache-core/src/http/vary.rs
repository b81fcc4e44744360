//! Variants of one resource: which fields of a request select among them, and under which key each is
//! kept (RFC 9111 section 4.1).
//!
//! ```text
//!  edge.test/a  +  Vary: Accept-Language  +  de, en;q=0.5
//!      -->  edge.test/a NUL generation "de,en;q=0.5" NUL
//! ```
//!
//! The fields named by Vary are remembered per key as a [`Rule`]; the objects themselves lie under
//! variant keys. No other key has a NUL but that of a slice. A rule's generation is part of its keys, so that forgetting
//! the rule forgets every variant.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderName};

use super::forward::Shown;
use super::slices;
use crate::store::KeyHash;

/// Fields that may select among the variants of one resource; a response that names more is for the
/// one who asked.
pub const MAX_FIELDS: usize = 16;

/// Bytes of the selecting fields of one request; with more it is passed on alone.
pub const MAX_SELECTED: usize = 1024;

/// What a response says about other requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    /// It suits every request: of the fields that it names the origin sees none of the client.
    Nothing,
    /// These fields, in order and once each.
    Fields(Vec<HeaderName>),
    /// `*`, or too many fields.
    Everything,
}

/// Which fields select a variant of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub fields: Vec<HeaderName>,
    /// Part of the variants' keys.
    pub generation: u64,
}

/// Reads Vary, as far as the origin could have looked at a client's fields. Those that are part of the
/// key tell variants apart whatever it says, and so does Accept-Encoding of a coded response.
pub fn read(headers: &HeaderMap, shown: Shown<'_>) -> Vary {
    let mut fields = Vec::new();
    fields.extend(
        shown
            .key
            .headers
            .iter()
            .filter(|name| shown.has(name))
            .cloned(),
    );
    if headers.contains_key(CONTENT_ENCODING) && shown.has(&ACCEPT_ENCODING) {
        fields.push(ACCEPT_ENCODING);
    }
    let names = headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii);
    for name in names.filter(|name| !name.is_empty()) {
        match HeaderName::from_bytes(name) {
            // `*`, and what is no name at all.
            _ if name == b"*" => return Vary::Everything,
            Err(_) => return Vary::Everything,
            Ok(name) if shown.has(&name) => fields.push(name),
            Ok(_) => {}
        }
    }
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    match fields.len() {
        0 => Vary::Nothing,
        1..=MAX_FIELDS => Vary::Fields(fields),
        _ => Vary::Everything,
    }
}

impl Rule {
    /// The key of the variant that a request with these fields selects. `None`: its fields are longer
    /// than [`MAX_SELECTED`].
    pub fn key(&self, base: &[u8], request: &HeaderMap) -> Option<Vec<u8>> {
        let mut key = Vec::with_capacity(base.len() + 64);
        key.extend_from_slice(base);
        key.push(0);
        key.extend_from_slice(&self.generation.to_be_bytes());
        let start = key.len();
        for name in &self.fields {
            write_selected(name, request, &mut key);
            if key.len() - start > MAX_SELECTED {
                return None;
            }
        }
        Some(key)
    }

    /// As it is kept on the tier, under the key of the resource.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_le_bytes().to_vec();
        for name in &self.fields {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }

    /// What [`Self::encode`] made. `None`: it is nothing of the kind.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, names) = bytes.split_first_chunk()?;
        let names = names.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
        let fields: Vec<_> = names
            .map(|name| HeaderName::from_bytes(name).ok())
            .collect::<Option<_>>()?;
        (fields.len() <= MAX_FIELDS).then(|| Self {
            fields,
            generation: u64::from_le_bytes(*generation),
        })
    }

    /// Whether this rule tells apart whatever `fields` tell apart.
    fn covers(&self, fields: &[HeaderName]) -> bool {
        fields.iter().all(|field| self.fields.contains(field))
    }
}

/// Appends a field's value in one form for all its equivalent spellings, and a NUL; nothing but the
/// NUL for an empty one, and another byte that no value has for an absent one.
fn write_selected(name: &HeaderName, request: &HeaderMap, key: &mut Vec<u8>) {
    let mut members: Vec<Vec<u8>> = request
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(|member| member.trim_ascii().to_vec())
        .collect();
    if !request.contains_key(name) {
        key.push(0x7f);
    }
    if *name == ACCEPT_LANGUAGE {
        normalise_languages(&mut members);
    }
    key.extend_from_slice(&members.join(&b','));
    key.push(0);
}

/// RFC 9110 section 12.5.4: case and order do not matter, nor does white space.
fn normalise_languages(members: &mut Vec<Vec<u8>>) {
    for member in members.iter_mut() {
        member.retain(|byte| !byte.is_ascii_whitespace());
        member.make_ascii_lowercase();
    }
    members.retain(|member| !member.is_empty());
    members.sort_unstable();
}

/// The key of the resource of which `key` may be a variant.
pub fn base(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|&b| b == 0);
    &key[..end.unwrap_or(key.len())]
}

/// Whether a key is a variant's, or that of a slice of one.
pub fn is_variant(key: &[u8]) -> bool {
    slices::whole(key).contains(&0)
}

/// The rules that a shard knows, by the hash of the resource's key. Bounded: the oldest is forgotten
/// first, at the cost of its variants.
pub struct Rules {
    by_hash: HashMap<KeyHash, Known, RandomState>,
    order: VecDeque<KeyHash>,
    max: usize,
    max_variants: u32,
    last_generation: u64,
}

struct Known {
    rule: Arc<Rule>,
    /// Variants stored under it.
    variants: u32,
}

impl Rules {
    pub fn new(max: usize, max_variants: u32) -> Self {
        Self {
            by_hash: HashMap::default(),
            order: VecDeque::new(),
            max,
            max_variants,
            last_generation: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub fn get(&self, base: KeyHash) -> Option<&Arc<Rule>> {
        self.by_hash.get(&base).map(|known| &known.rule)
    }

    /// Takes over what the owner of the resource says.
    pub fn learn(&mut self, base: KeyHash, rule: Arc<Rule>) {
        self.last_generation = self.last_generation.max(rule.generation);
        let known = Known { rule, variants: 0 };
        if self.by_hash.insert(base, known).is_none() {
            self.order.push_back(base);
        }
        while self.by_hash.len() > self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.by_hash.remove(&oldest);
            }
        }
    }

    /// The rule for a resource of which a response names `fields` (owner only): the one that is known,
    /// as long as it tells those apart and has fewer than `max_variants`, else a new one for both. `None`: too many fields.
    pub fn rule_for(
        &mut self,
        base: KeyHash,
        fields: Vec<HeaderName>,
        max_variants: u32,
        now_ms: u64,
    ) -> Option<Arc<Rule>> {
        let mut fields = fields;
        if let Some(known) = self.by_hash.get(&base) {
            if known.rule.covers(&fields) && known.variants < self.max_variants.min(max_variants) {
                return Some(Arc::clone(&known.rule));
            }
            fields.extend(known.rule.fields.iter().cloned());
            fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            fields.dedup();
        }
        if fields.len() > MAX_FIELDS {
            return None;
        }
        // Milliseconds, so that a restart does not find the variants of an earlier life.
        self.last_generation = now_ms.max(self.last_generation + 1);
        let rule = Arc::new(Rule {
            fields,
            generation: self.last_generation,
        });
        self.learn(base, Arc::clone(&rule));
        Some(rule)
    }

    /// One more variant of a resource is stored (owner only).
    pub fn stored(&mut self, base: KeyHash) {
        if let Some(known) = self.by_hash.get_mut(&base) {
            known.variants = known.variants.saturating_add(1);
        }
    }

    /// Forgets a rule, and with it its variants; true where there was one.
    pub fn forget(&mut self, base: KeyHash) -> bool {
        if self.by_hash.remove(&base).is_none() {
            return false;
        }
        self.order.retain(|&hash| hash != base);
        true
    }

    pub fn clear(&mut self) {
        self.by_hash.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientFields;
    use crate::http::key_rules::KeyRules;
    use crate::http::samples::map;
    use proptest::prelude::*;

    type Fields = &'static [(&'static str, &'static str)];

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names.iter().map(|&n| HeaderName::from_static(n)).collect()
    }

    fn key(fields: &[&'static str], request: &[(&'static str, &str)]) -> Option<Vec<u8>> {
        let rule = Rule {
            fields: names(fields),
            generation: 7,
        };
        rule.key(b"edge.test/a", &map(request))
    }

    #[test]
    fn only_what_the_origin_sees_makes_variants() {
        let all = ClientFields {
            all: true,
            ..ClientFields::default()
        };
        let none = ClientFields::default();
        let key = &KeyRules::default();
        let vary = |value: &str, origin| read(&map(&[("vary", value)]), Shown { origin, key });
        assert_eq!(
            vary("Foo, Accept-Encoding, bar,foo", &all),
            Vary::Fields(names(&["bar", "foo"]))
        );
        assert_eq!(vary("Foo, Cookie, Authorization", &none), Vary::Nothing);
        assert_eq!(vary("Cookie", &all), Vary::Nothing);
        assert_eq!(vary("", &all), Vary::Nothing);
        for any in ["*", ", *", "Foo, *", "*, *", "a b"] {
            assert_eq!(vary(any, &none), Vary::Everything, "{any}");
        }
        let many: Vec<String> = (0..=MAX_FIELDS).map(|i| format!("f{i}")).collect();
        assert_eq!(vary(&many.join(","), &all), Vary::Everything);
        let lines = map(&[("vary", ""), ("vary", "*")]);
        let origin = &none;
        assert_eq!(read(&lines, Shown { origin, key }), Vary::Everything);
    }

    #[test]
    fn keyed_fields_make_variants_whatever_vary_says() {
        let origin = &ClientFields::default();
        let key = &KeyRules {
            headers: names(&["foo"]),
            codings: vec!["br".to_owned()],
            ..KeyRules::default()
        };
        let vary = |fields: Fields| read(&map(fields), Shown { origin, key });
        assert_eq!(vary(&[]), Vary::Fields(names(&["foo"])));
        assert_eq!(vary(&[("vary", "Bar, Foo")]), Vary::Fields(names(&["foo"])));
        let both = Vary::Fields(names(&["accept-encoding", "foo"]));
        assert_eq!(vary(&[("content-encoding", "br")]), both);
        assert_eq!(vary(&[("vary", "Accept-Encoding")]), both);
    }

    /// RFC 9111 section 4.1.
    #[test]
    fn equivalent_requests_select_the_same_variant() {
        let same: [(&'static str, Fields, Fields); 6] = [
            ("foo", &[("foo", "1"), ("other", "2")], &[("foo", "1")]),
            ("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]),
            ("foo", &[("foo", "1,2")], &[("foo", " 1 , 2 ")]),
            (
                "accept-language",
                &[("accept-language", "en, de")],
                &[("accept-language", "dE,  EN")],
            ),
            (
                "accept-language",
                &[("accept-language", "de;q=0.5,en")],
                &[("accept-language", "en, de; q=0.5")],
            ),
            ("foo", &[("other", "1")], &[]),
        ];
        for (field, a, b) in same {
            assert_eq!(key(&[field], a), key(&[field], b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        for fields in [&["accept-language"][..], &["a", "b"]] {
            let rule = Rule {
                fields: names(fields),
                generation: 1_700_000_000_123,
            };
            assert_eq!(Rule::decode(&rule.encode()), Some(rule));
        }
        for bytes in [
            &b""[..],
            b"1234567",
            b"12345678",
            b"12345678a",
            b"12345678a b\n",
        ] {
            assert_eq!(Rule::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_generation_that_was_learned_is_not_given_again() {
        let mut rules = Rules::new(4, 4);
        let learned = Arc::new(Rule {
            fields: names(&["a"]),
            generation: 50,
        });
        rules.learn(KeyHash(1), learned);
        rules.forget(KeyHash(1));
        let rule = rules.rule_for(KeyHash(1), names(&["a"]), 4, 7);
        assert_eq!(rule.map(|rule| rule.generation), Some(51));
    }

    #[test]
    fn different_requests_select_different_variants() {
        let different: [(Fields, Fields); 5] = [
            (&[("a", "1")], &[("a", "2")]),
            (&[("a", "1")], &[]),
            (&[("a", "")], &[]),
            (&[("a", "1")], &[("b", "1")]),
            (&[("a", "x"), ("b", "y")], &[("a", "xy")]),
        ];
        for (a, b) in different {
            assert_ne!(key(&["a", "b"], a), key(&["a", "b"], b), "{a:?} {b:?}");
        }
        let long = "x".repeat(MAX_SELECTED);
        assert_eq!(key(&["a"], &[("a", &long)]), None);
    }

    #[test]
    fn rules_are_bounded_and_grow_until_they_cover() {
        let mut rules = Rules::new(2, 2);
        let hash = KeyHash(1);
        let first = rules
            .rule_for(hash, names(&["a"]), u32::MAX, 1_000)
            .unwrap();
        assert_eq!(
            rules.rule_for(hash, names(&["a"]), u32::MAX, 2_000),
            Some(Arc::clone(&first))
        );
        let both = rules
            .rule_for(hash, names(&["b"]), u32::MAX, 2_000)
            .unwrap();
        assert_eq!(both.fields, names(&["a", "b"]));
        assert_eq!(
            rules.rule_for(hash, names(&["a"]), u32::MAX, 2_000),
            Some(Arc::clone(&both))
        );
        rules.stored(hash);
        rules.stored(hash);
        let anew = rules
            .rule_for(hash, names(&["a"]), u32::MAX, 2_000)
            .unwrap();
        assert_eq!(anew.fields, both.fields);
        assert!(
            anew.generation > both.generation,
            "too many variants: begin anew"
        );
        for other in 2..=3 {
            rules.learn(KeyHash(other), Arc::clone(&anew));
        }
        assert_eq!(rules.len(), 2);
        assert_eq!(rules.get(hash), None, "the oldest is forgotten");
        assert!(rules.forget(KeyHash(3)) && !rules.forget(KeyHash(3)));
        let many: Vec<HeaderName> = (0..=MAX_FIELDS)
            .map(|i| HeaderName::try_from(format!("f{i}")).unwrap())
            .collect();
        assert_eq!(rules.rule_for(hash, many, u32::MAX, 3_000), None);
    }

    proptest! {
        /// Values that differ by more than white space never meet under one key.
        #[test]
        fn keys_are_exact(
            a in prop::collection::vec("[ab]{0,3}", 2),
            b in prop::collection::vec("[ab]{0,3}", 2),
        ) {
            let request = |v: &[String]| key(&["x", "y"], &[("x", &v[0]), ("y", &v[1])]);
            prop_assert_eq!(request(&a) == request(&b), a == b);
        }

        #[test]
        fn a_variant_belongs_to_its_resource(value in "[ -~]{0,100}") {
            let variant = key(&["x"], &[("x", &value)]).unwrap();
            prop_assert_eq!(base(&variant), b"edge.test/a");
        }
    }
}
