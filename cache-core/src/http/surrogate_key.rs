//! Surrogate keys: names that an origin gives a response, so that one purge can cover many.
//!
//! | field | between keys | known from |
//! |---|---|---|
//! | `Surrogate-Key: emotes emote-3 set-1` | spaces, tabs | Fastly, Varnish |
//! | `Cache-Tag: emotes, emote-3, set-1` | commas, with white space around | Cloudflare, Akamai |
//!
//! Both may be there, and on several lines; a key named twice counts once. Keys are bytes: upper and
//! lower case differ, and nothing is decoded. The fields are between the origin and the cache and are
//! taken out of what clients get ([`is_internal`]).
//!
//! A key must not be lost silently, or a purge of it would miss the object. So an object that has
//! more keys than are kept, or one longer than [`MAX_KEY`], is covered by every tag purge instead.

use http::{HeaderMap, HeaderName};

use crate::purge::{MAX_TAGS, Purges, TagSlot};

/// Bytes of a key.
pub const MAX_KEY: usize = 1024;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// Why a surrogate key cannot be purged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("a surrogate key has at least one byte")]
    Empty,
    #[error("the surrogate key has {length} bytes; at most {MAX_KEY} are kept")]
    TooLong { length: usize },
    #[error("a surrogate key has no control characters")]
    Control,
    #[error("white space around a surrogate key would never match one")]
    Padded,
}

/// The surrogate keys of one response, as slots of the node's tag table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurrogateKeys {
    /// At most [`MAX_TAGS`]; or [`TagSlot::ANY`] alone.
    pub slots: Vec<TagSlot>,
    /// What was over a bound, so that every tag purge covers the object.
    pub excess: Option<Excess>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// More than [`MAX_TAGS`] keys.
    TooMany,
    /// A key of more than [`MAX_KEY`] bytes.
    TooLong,
}

impl SurrogateKeys {
    /// Reads Surrogate-Key and Cache-Tag.
    pub fn read(headers: &HeaderMap, purges: &Purges) -> Self {
        let mut keys = Self::default();
        for value in headers.get_all(SURROGATE_KEY) {
            for key in value.as_bytes().split(|byte| matches!(byte, b' ' | b'\t')) {
                keys.add(key, purges);
            }
        }
        for value in headers.get_all(CACHE_TAG) {
            for key in value.as_bytes().split(|&byte| byte == b',') {
                keys.add(key.trim_ascii(), purges);
            }
        }
        keys
    }

    fn add(&mut self, key: &[u8], purges: &Purges) {
        if key.is_empty() || self.excess.is_some() {
            return;
        }
        if key.len() > MAX_KEY {
            return self.exceed(Excess::TooLong);
        }
        let slot = purges.slot(key);
        if self.slots.contains(&slot) {
            return;
        }
        if self.slots.len() == MAX_TAGS {
            return self.exceed(Excess::TooMany);
        }
        self.slots.push(slot);
    }

    fn exceed(&mut self, excess: Excess) {
        self.excess = Some(excess);
        self.slots.clear();
        self.slots.push(TagSlot::ANY);
    }
}

/// Whether a field is meant for caches on the way and not for clients. `name` in lower case.
pub fn is_internal(name: &HeaderName) -> bool {
    *name == SURROGATE_KEY || *name == CACHE_TAG
}

/// Whether an operator may purge by this key: one that no response can have is a mistake.
///
/// # Errors
/// What is wrong with it.
pub fn check(key: &[u8]) -> Result<(), BadKey> {
    if key.is_empty() {
        return Err(BadKey::Empty);
    }
    if key.len() > MAX_KEY {
        return Err(BadKey::TooLong { length: key.len() });
    }
    if key.iter().any(u8::is_ascii_control) {
        return Err(BadKey::Control);
    }
    match key.trim_ascii().len() == key.len() {
        true => Ok(()),
        false => Err(BadKey::Padded),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn purges() -> Purges {
        Purges::new(1, 1 << 20)
    }

    fn read(fields: &[(&'static str, &str)]) -> SurrogateKeys {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("value"));
        }
        SurrogateKeys::read(&headers, &purges())
    }

    fn slots(keys: &[&str]) -> Vec<TagSlot> {
        let purges = purges();
        keys.iter().map(|key| purges.slot(key.as_bytes())).collect()
    }

    #[test]
    fn surrogate_keys_are_separated_by_spaces() {
        let keys = read(&[("surrogate-key", "  emotes emote-3\tset-1 emotes ")]);
        assert_eq!(keys.slots, slots(&["emotes", "emote-3", "set-1"]));
        assert_eq!(keys.excess, None);
        assert_eq!(read(&[("surrogate-key", "a,b")]).slots, slots(&["a,b"]));
    }

    #[test]
    fn cache_tags_are_separated_by_commas() {
        let keys = read(&[("cache-tag", "emotes, emote 3 ,,set-1")]);
        assert_eq!(keys.slots, slots(&["emotes", "emote 3", "set-1"]));
    }

    #[test]
    fn lines_and_fields_add_up_and_case_matters() {
        let keys = read(&[
            ("surrogate-key", "a"),
            ("cache-tag", "b,a"),
            ("surrogate-key", "A"),
        ]);
        assert_eq!(keys.slots, slots(&["a", "A", "b"]));
        assert_eq!(read(&[]), SurrogateKeys::default());
        assert_eq!(
            read(&[("surrogate-key", " \t"), ("cache-tag", ", ,")]),
            SurrogateKeys::default()
        );
    }

    #[test]
    fn an_object_over_a_bound_is_covered_by_every_tag_purge() {
        let many = |count: usize| {
            let keys: Vec<String> = (0..count).map(|i| format!("k{i}")).collect();
            read(&[("surrogate-key", &keys.join(" "))])
        };
        assert_eq!(many(MAX_TAGS).slots.len(), MAX_TAGS);
        assert_eq!(many(MAX_TAGS).excess, None);
        assert_eq!(many(MAX_TAGS + 1).slots, [TagSlot::ANY]);
        assert_eq!(many(MAX_TAGS + 1).excess, Some(Excess::TooMany));
        let long = "k".repeat(MAX_KEY + 1);
        assert_eq!(read(&[("cache-tag", &long[1..])]).excess, None);
        let keys = read(&[("cache-tag", &format!("a, {long}, b"))]);
        assert_eq!(keys.slots, [TagSlot::ANY]);
        assert_eq!(keys.excess, Some(Excess::TooLong));
    }

    #[test]
    fn a_key_that_no_response_can_have_is_refused() {
        assert_eq!(check(b"emote-3"), Ok(()));
        assert_eq!(check(b"emote 3"), Ok(()));
        assert_eq!(check(b""), Err(BadKey::Empty));
        assert_eq!(check(b" a"), Err(BadKey::Padded));
        assert_eq!(check(b"a\nb"), Err(BadKey::Control));
        let length = MAX_KEY + 1;
        assert_eq!(check(&vec![b'k'; length]), Err(BadKey::TooLong { length }));
    }

    proptest! {
        /// Whatever an origin sends: every key of it that may be purged by covers the object.
        #[test]
        fn every_key_covers_its_object(value in "[ -~]{0,80}") {
            let keys = read(&[("surrogate-key", &value)]);
            for key in value.split_ascii_whitespace() {
                prop_assert!(keys.slots.contains(&slots(&[key])[0]));
            }
        }
    }
}
