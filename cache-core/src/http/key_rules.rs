//! What of a request is part of its cache key, where the operator says so.
//!
//! ```text
//!  edge.test/live/tok=9f/a.m3u8?utm_source=x&b=2&a=1     strip "tok=*", drop "utm_*", sort
//!      -->  edge.test/live/a.m3u8?a=1&b=2
//!  Accept: image/avif,image/webp,*/*;q=0.8               accept "image/avif", "image/webp"
//!      -->  Accept: image/avif,*/*
//! ```
//!
//! The origin is asked for what the key says: what is dropped from the key is dropped from the
//! fetch, so that nothing outside the key can shape what is stored under it. A field of a client
//! that tells variants apart is sent in its bucket's one spelling, and Vary goes by that.

use std::borrow::Cow;

use http::HeaderName;

use super::key;
use super::pattern::Pattern;

/// Which parameters of a query are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Query {
    #[default]
    All,
    /// Those whose names match.
    Only(Vec<Pattern>),
    /// Those whose names match none.
    Without(Vec<Pattern>),
}

/// Clients told apart by a word of their User-Agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAgents {
    /// What the origin sees.
    pub name: String,
    /// One of these words makes a client one of them.
    pub words: Vec<String>,
}

/// Rules of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    pub query: Query,
    /// Parameters in the order of their names; those of one name stay as they are.
    pub sort: bool,
    /// Segments of the path that are tokens of clients.
    pub strip: Vec<Pattern>,
    /// Fields that are sent to the origin and tell variants apart, whatever Vary says.
    pub headers: Vec<HeaderName>,
    /// Media types: the first one that a request accepts by name is its bucket.
    pub accept: Vec<String>,
    /// Content codings, likewise. Empty: identity alone.
    pub codings: Vec<String>,
    /// The first one with a word of the request's User-Agent is its bucket.
    pub user_agents: Vec<UserAgents>,
}

/// The bucket of a User-Agent that belongs to no other.
const OTHER: &str = "other";

/// Longest name of a parameter that any rule can match.
const MAX_NAME: usize = 256;

impl KeyRules {
    /// Whether targets are keys as they are.
    pub fn is_plain(&self) -> bool {
        self.query == Query::All && !self.sort && self.strip.is_empty()
    }

    /// Rewrites a key that [`key::write_key`] wrote. `spare` is room to work in.
    pub fn rewrite(&self, key: &mut Vec<u8>, spare: &mut Vec<u8>) {
        if self.is_plain() {
            return;
        }
        let (authority, target) = key::split(key);
        let (path, query) = split_query(target);
        spare.clear();
        spare.extend_from_slice(authority);
        self.write_path(path, spare);
        if let Some(query) = query {
            self.write_query(query, spare);
        }
        std::mem::swap(key, spare);
    }

    fn write_path(&self, path: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        for segment in path.split(|&b| b == b'/').skip(1) {
            let token = !segment.is_empty() && self.strip.iter().any(|p| p.matches(segment));
            if !token {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
        if out.len() == start {
            out.push(b'/');
        }
    }

    fn write_query(&self, query: &[u8], out: &mut Vec<u8>) {
        if self.query == Query::All && !self.sort {
            out.push(b'?');
            out.extend_from_slice(query);
            return;
        }
        let pairs = query.split(|&b| b == b'&').filter(|pair| !pair.is_empty());
        let mut kept: Vec<&[u8]> = pairs.filter(|pair| self.keeps(name_of(pair))).collect();
        if self.sort {
            kept.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        }
        for (index, pair) in kept.into_iter().enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(pair);
        }
    }

    fn keeps(&self, name: &[u8]) -> bool {
        let any = |patterns: &[Pattern]| {
            let name = decoded(name);
            name.len() <= MAX_NAME && patterns.iter().any(|pattern| pattern.matches(&name))
        };
        match &self.query {
            Query::All => true,
            Query::Only(patterns) => any(patterns),
            Query::Without(patterns) => !any(patterns),
        }
    }

    /// What the origin sees in the place of this field, if requests are told apart by it in buckets.
    /// `values` are those of the request.
    pub fn bucket<'v>(
        &self,
        name: &HeaderName,
        values: impl Iterator<Item = &'v [u8]>,
    ) -> Option<String> {
        match name.as_str() {
            "accept" if !self.accept.is_empty() => Some(
                first_accepted(&self.accept, values, false)
                    .map_or_else(|| "*/*".to_owned(), |found| format!("{found},*/*")),
            ),
            "accept-encoding" => Some(
                first_accepted(&self.codings, values, true)
                    .unwrap_or("identity")
                    .to_owned(),
            ),
            "user-agent" if !self.user_agents.is_empty() => {
                Some(self.user_agent(values).to_owned())
            }
            _ => None,
        }
    }

    /// Whether requests are told apart by this field in buckets.
    pub fn has_bucket(&self, name: &HeaderName) -> bool {
        match name.as_str() {
            "accept" => !self.accept.is_empty(),
            "accept-encoding" => !self.codings.is_empty(),
            "user-agent" => !self.user_agents.is_empty(),
            _ => false,
        }
    }

    fn user_agent<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> &str {
        let value = values.next().unwrap_or_default();
        let has = |word: &String| {
            let word = word.as_bytes();
            value.windows(word.len().max(1)).any(|part| part == word)
        };
        let found = self
            .user_agents
            .iter()
            .find(|agents| agents.words.iter().any(has));
        found.map_or(OTHER, |agents| &agents.name)
    }
}

/// Path, and query without its question mark.
pub fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

fn name_of(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|&b| b == b'=');
    &pair[..end.unwrap_or(pair.len())]
}

/// A name without percent-encodings, so that another spelling of it is no way round a rule.
fn decoded(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'%') {
        return Cow::Borrowed(name);
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(value) if byte == b'%' => {
                out.push(value);
                rest = &tail[2..];
            }
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// The first of `offered` that a request's list (RFC 9110 sections 12.5.1 and 12.5.3) has, with a
/// weight above 0; with `any`, a `*` has them all but those that it excludes by name.
fn first_accepted<'r, 'v>(
    offered: &'r [String],
    values: impl Iterator<Item = &'v [u8]>,
    any: bool,
) -> Option<&'r str> {
    let members: Vec<(&[u8], bool)> = values
        .flat_map(|value| value.split(|&b| b == b','))
        .map(|member| (member_name(member), weighs_something(member)))
        .collect();
    let named = |name: &str| {
        let found = members
            .iter()
            .find(|(m, _)| m.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|&(_, wanted)| wanted)
    };
    let rest = any && named("*").unwrap_or(false);
    let accepted = offered.iter().find(|name| named(name).unwrap_or(rest));
    accepted.map(String::as_str)
}

fn member_name(member: &[u8]) -> &[u8] {
    let end = member.iter().position(|&b| b == b';');
    member[..end.unwrap_or(member.len())].trim_ascii()
}

/// False for `;q=0`, `;q=0.0` and what else is no more than nothing.
fn weighs_something(member: &[u8]) -> bool {
    let weight = member
        .split(|&b| b == b';')
        .skip(1)
        .map(<[u8]>::trim_ascii)
        .find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")));
    weight.is_none_or(|weight| weight.iter().any(|b| matches!(b, b'1'..=b'9')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts
            .iter()
            .map(|text| Pattern::new(text).unwrap())
            .collect()
    }

    fn rewritten(rules: &KeyRules, key: &str) -> String {
        let mut key = key.as_bytes().to_vec();
        rules.rewrite(&mut key, &mut b"left over".to_vec());
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn parameters_are_dropped_kept_and_sorted() {
        let without = KeyRules {
            query: Query::Without(patterns(&["utm_*", "token"])),
            ..KeyRules::default()
        };
        let only = KeyRules {
            query: Query::Only(patterns(&["a", "b"])),
            sort: true,
            ..KeyRules::default()
        };
        let cases = [
            (&without, "e/a?b=2&utm_source=x&a=1&token=t", "e/a?b=2&a=1"),
            (&without, "e/a?token=t", "e/a"),
            (&without, "e/a?%74oken=t&utm%5Fid=1&x", "e/a?x"),
            (&without, "e/a?tokens=1", "e/a?tokens=1"),
            (&without, "e/a?", "e/a"),
            (&without, "e/a", "e/a"),
            (&only, "e/a?c=3&b=2&a=1&b=1", "e/a?a=1&b=2&b=1"),
            (&only, "e/a?a&&b", "e/a?a&b"),
            (&only, "e/a?A=1", "e/a"),
        ];
        for (rules, key, want) in cases {
            assert_eq!(rewritten(rules, key), want);
        }
        assert_eq!(rewritten(&KeyRules::default(), "e/a?&b&&"), "e/a?&b&&");
    }

    #[test]
    fn tokens_in_paths_are_stripped() {
        let rules = KeyRules {
            strip: patterns(&["tok=*", "~*"]),
            ..KeyRules::default()
        };
        let cases = [
            ("e/live/tok=9f/a.m3u8?x=1", "e/live/a.m3u8?x=1"),
            ("e/~a/~b/c", "e/c"),
            ("e/tok=1", "e/"),
            ("e/tok=1/", "e/"),
            ("e/a//b", "e/a//b"),
            ("e:8443/x?tok=1", "e:8443/x?tok=1"),
        ];
        for (key, want) in cases {
            assert_eq!(rewritten(&rules, key), want);
        }
    }

    fn bucket(rules: &KeyRules, name: HeaderName, value: &str) -> Option<String> {
        rules.bucket(&name, [value.as_bytes()].into_iter())
    }

    #[test]
    fn few_buckets_for_many_spellings() {
        let agents = |name: &str, words: &[&str]| UserAgents {
            name: name.to_owned(),
            words: words.iter().map(|&w| w.to_owned()).collect(),
        };
        let rules = KeyRules {
            accept: vec!["image/avif".to_owned(), "image/webp".to_owned()],
            codings: vec!["br".to_owned(), "gzip".to_owned()],
            user_agents: vec![
                agents("tv", &["TV"]),
                agents("mobile", &["Mobile", "Android"]),
            ],
            ..KeyRules::default()
        };
        let cases = [
            (ACCEPT, "image/webp,image/avif;q=0.5,*/*", "image/avif,*/*"),
            (ACCEPT, "IMAGE/WEBP , */*;q=0.1", "image/webp,*/*"),
            (ACCEPT, "image/avif;q=0, image/*", "*/*"),
            (ACCEPT, "*/*", "*/*"),
            (ACCEPT_ENCODING, "gzip, deflate, br, zstd", "br"),
            (ACCEPT_ENCODING, "gzip;q=1.0, br;q=0.000", "gzip"),
            (ACCEPT_ENCODING, "*", "br"),
            (ACCEPT_ENCODING, "*, br;q=0", "gzip"),
            (ACCEPT_ENCODING, "*;q=0", "identity"),
            (ACCEPT_ENCODING, "", "identity"),
            (USER_AGENT, "X (Android TV)", "tv"),
            (USER_AGENT, "X Mobile Safari", "mobile"),
            (USER_AGENT, "curl/8", "other"),
        ];
        for (name, value, want) in cases {
            assert_eq!(
                bucket(&rules, name, value).as_deref(),
                Some(want),
                "{value}"
            );
        }
        let plain = KeyRules::default();
        assert_eq!(bucket(&plain, ACCEPT, "image/avif"), None);
        assert_eq!(
            bucket(&plain, ACCEPT_ENCODING, "br").as_deref(),
            Some("identity")
        );
    }

    proptest! {
        /// What is rewritten is a key, and rewriting it again changes nothing.
        #[test]
        fn rewriting_ends_at_once(target in "/[ab~=?&%2/]{0,16}", sort: bool) {
            let mut key = Vec::new();
            prop_assume!(key::write_key(b"e", target.as_bytes(), 64, &mut key).is_ok());
            let rules = KeyRules {
                query: Query::Without(patterns(&["a"])),
                sort,
                strip: patterns(&["~*"]),
                ..KeyRules::default()
            };
            let mut spare = Vec::new();
            rules.rewrite(&mut key, &mut spare);
            let once = key.clone();
            prop_assert!(once.starts_with(b"e/"));
            rules.rewrite(&mut key, &mut spare);
            prop_assert_eq!(once, key);
        }

        /// Without rules, or with rules that match nothing, different keys stay different.
        #[test]
        fn sorting_joins_only_what_has_the_same_parameters(a in "[ab]=[12](&[ab]=[12]){0,2}", b in "[ab]=[12](&[ab]=[12]){0,2}") {
            let rules = KeyRules { sort: true, ..KeyRules::default() };
            let lists = |query: &str| {
                ["a", "b"].map(|name| {
                    let values = query.split('&').filter(|pair| pair.starts_with(name));
                    values.map(str::to_owned).collect::<Vec<_>>()
                })
            };
            let same = rewritten(&rules, &format!("e/?{a}")) == rewritten(&rules, &format!("e/?{b}"));
            prop_assert_eq!(same, lists(&a) == lists(&b));
        }
    }
}
