//! Which directives of a response count for this cache: those of a targeted field, or Cache-Control.
//!
//! | field | form |
//! |---|---|
//! | the fields of [`Caching::targeted_fields`], in that order (RFC 9213) | structured-field dictionary |
//! | Surrogate-Control (W3C Edge Architecture) | `max-age=60`, `max-age=60+30;popcache`, `no-store` |
//! | Cache-Control | RFC 9111 section 5.2 |
//!
//! The first one that is there and well-formed counts alone: Cache-Control and Expires are then for
//! caches behind this one. A targeted field that is malformed is as good as absent (RFC 9213 section
//! 2.2).

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::cache_control::{MAX_SECONDS, ResponseDirectives, delta_seconds};
use crate::config::Caching;

pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The directives that count, and whether they came from a targeted field.
pub fn directives(headers: &HeaderMap, caching: &Caching) -> (ResponseDirectives, bool) {
    let dictionary = |name: &HeaderName| read_dictionary(&joined(headers, name)?);
    let targeted = caching
        .targeted_fields
        .iter()
        .find_map(dictionary)
        .or_else(|| surrogate_control(&joined(headers, &SURROGATE_CONTROL)?, &caching.device));
    if let Some(directives) = targeted {
        return (directives, true);
    }
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let directives = ResponseDirectives::read(lines.map(|value| value.as_bytes()));
    (directives, false)
}

/// All lines of a field as one (RFC 9110 section 5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes())
        .collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// RFC 9213 section 2.2. `None`: no dictionary, or an empty one.
fn read_dictionary(value: &[u8]) -> Option<ResponseDirectives> {
    let dictionary: Dictionary = Parser::new(value).parse().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut all = ResponseDirectives::default();
    for (name, entry) in &dictionary {
        let item = match entry {
            ListEntry::Item(item) => Some(&item.bare_item),
            ListEntry::InnerList(_) => None,
        };
        // A false flag is none; any other argument of a flag leaves it set, which is the stricter
        // reading of `private="x"`.
        let set = !matches!(item, Some(BareItem::Boolean(false)));
        let seconds = item.and_then(seconds);
        add(&mut all, name.as_str(), set, seconds);
    }
    Some(all)
}

fn seconds(item: &BareItem) -> Option<u32> {
    match item {
        BareItem::Integer(value) => {
            let value = i64::from(*value).clamp(0, i64::from(MAX_SECONDS));
            u32::try_from(value).ok()
        }
        _ => None,
    }
}

/// An age that is no integer is as good as absent (RFC 9213 section 2.2).
fn add(all: &mut ResponseDirectives, name: &str, set: bool, seconds: Option<u32>) {
    match name {
        "no-store" => all.no_store = set,
        "no-cache" => all.no_cache = set,
        "private" => all.private = set,
        "public" => all.public = set,
        "must-revalidate" => all.must_revalidate = set,
        "proxy-revalidate" => all.proxy_revalidate = set,
        "must-understand" => all.must_understand = set,
        "no-transform" => all.no_transform = set,
        "immutable" => all.immutable = set,
        "max-age" => all.max_age = seconds,
        "s-maxage" => all.s_maxage = seconds,
        "stale-while-revalidate" => all.stale_while_revalidate = seconds,
        "stale-if-error" => all.stale_if_error = seconds,
        _ => {}
    }
}

/// What Surrogate-Control has for `device`: directives without a target, or with this one. `None`:
/// nothing that is known.
fn surrogate_control(value: &[u8], device: &str) -> Option<ResponseDirectives> {
    let mut all = ResponseDirectives::default();
    let mut known = false;
    for member in value.split(|&b| b == b',') {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let directive = parts.next().unwrap_or_default();
        let mut targets = parts.peekable();
        if targets.peek().is_some() && !targets.any(|target| target == device.as_bytes()) {
            continue;
        }
        known |= add_surrogate(&mut all, directive);
    }
    known.then_some(all)
}

/// `max-age=FRESH[+STALE]` or `no-store`; true where it is one of them.
fn add_surrogate(all: &mut ResponseDirectives, directive: &[u8]) -> bool {
    if directive.eq_ignore_ascii_case(b"no-store") {
        all.no_store = true;
        return true;
    }
    const MAX_AGE: &[u8] = b"max-age=";
    let Some((name, value)) = directive.split_at_checked(MAX_AGE.len()) else {
        return false;
    };
    if !name.eq_ignore_ascii_case(MAX_AGE) {
        return false;
    }
    let mut times = value.splitn(2, |&b| b == b'+');
    let fresh = times.next().and_then(delta_seconds);
    let stale = times.next().map(delta_seconds);
    match (fresh, stale) {
        (Some(fresh), None) => all.max_age = Some(fresh),
        (Some(fresh), Some(Some(stale))) => {
            all.max_age = Some(fresh);
            all.stale_while_revalidate = Some(stale);
        }
        // Stricter than leaving it out.
        _ => all.max_age = Some(0),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(fields: &[(&'static str, &'static str)]) -> (ResponseDirectives, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        directives(&headers, &Caching::default())
    }

    fn max_age(fields: &[(&'static str, &'static str)]) -> (Option<u32>, bool) {
        let (directives, targeted) = read(fields);
        (directives.max_age, targeted)
    }

    /// RFC 9213 section 2.2.
    #[test]
    fn a_targeted_field_counts_alone() {
        let both = [
            ("cache-control", "no-store, max-age=1"),
            ("cdn-cache-control", "max-age=60"),
        ];
        let (got, targeted) = read(&both);
        assert!(targeted && !got.no_store);
        assert_eq!(got.max_age, Some(60));
        let lines = [
            ("cdn-cache-control", "max-age=60"),
            ("cdn-cache-control", "private"),
        ];
        assert!(read(&lines).0.private);
    }

    #[test]
    fn a_malformed_or_empty_targeted_field_is_absent() {
        for value in [
            "",
            "max-age=60,",
            "max-age = 60",
            "MAX-AGE=60",
            "max-age=6x",
            "\"x\"",
            "a=1 b",
        ] {
            let fields = [("cache-control", "max-age=1"), ("cdn-cache-control", value)];
            assert_eq!(max_age(&fields), (Some(1), false), "{value}");
        }
    }

    #[test]
    fn values_have_types() {
        let cases = [
            ("max-age=60", Some(60)),
            ("max-age=60;x=1", Some(60)),
            ("max-age=1, max-age=60", Some(60)),
            ("max-age=-1", Some(0)),
            ("max-age=999999999999", Some(MAX_SECONDS)),
            ("max-age=60.0", None),
            ("max-age=\"60\"", None),
            ("max-age=(60)", None),
            ("max-age", None),
        ];
        for (value, want) in cases {
            assert_eq!(
                max_age(&[("cdn-cache-control", value)]),
                (want, true),
                "{value}"
            );
        }
        assert!(read(&[("cdn-cache-control", "private=\"x\"")]).0.private);
        assert!(!read(&[("cdn-cache-control", "no-store=?0")]).0.no_store);
    }

    /// W3C Edge Architecture section 2.2.
    #[test]
    fn surrogate_control_may_name_its_target() {
        let cases = [
            ("max-age=60", (Some(60), true)),
            ("MAX-age=60", (Some(60), true)),
            ("foobar, max-age=60", (Some(60), true)),
            ("max-age=99999999999", (Some(MAX_SECONDS), true)),
            ("max-age=60;popcache", (Some(60), true)),
            ("max-age=5, max-age=60; popcache", (Some(60), true)),
            ("max-age=60;other", (Some(1), false)),
            ("max-age =60", (Some(1), false)),
            ("foobar", (Some(1), false)),
            ("max-age= 60", (Some(0), true)),
            ("max-age=x", (Some(0), true)),
        ];
        for (value, want) in cases {
            let fields = [("cache-control", "max-age=1"), ("surrogate-control", value)];
            assert_eq!(max_age(&fields), want, "{value}");
        }
        let (stale, _) = read(&[("surrogate-control", "max-age=60+30")]);
        assert_eq!(stale.stale_while_revalidate, Some(30));
        assert!(read(&[("surrogate-control", "no-store")]).0.no_store);
    }

    #[test]
    fn cdn_cache_control_comes_before_surrogate_control() {
        let fields = [
            ("surrogate-control", "max-age=1"),
            ("cdn-cache-control", "max-age=60"),
        ];
        assert_eq!(max_age(&fields), (Some(60), true));
    }
}
