//! Fields that are for the first one who asked: `private="a, b"` and `no-cache="a, b"` (RFC 9111 sections
//! 5.2.2.4 and 5.2.2.7). The rest of the response is stored without them.

use std::borrow::Cow;

use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    DATE, ETAG, EXPIRES, LAST_MODIFIED, LOCATION, VARY,
};
use http::{HeaderMap, HeaderName};

use super::cache_control::ResponseDirectives;

/// Without these a response is another one, or nobody knows how long it lasts.
const ESSENTIAL: [HeaderName; 13] = [
    AGE,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    LOCATION,
    VARY,
];

/// The names in a directive's quoted argument. `None`: it has none, or one without which the response
/// cannot be stored; the directive then counts as if it stood alone.
pub(super) fn names(argument: &[u8]) -> Option<Vec<HeaderName>> {
    let members = argument.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty());
    let names: Option<Vec<_>> = members
        .map(|member| HeaderName::from_bytes(member).ok())
        .collect();
    names.filter(|names| !names.is_empty() && !names.iter().any(|name| ESSENTIAL.contains(name)))
}

/// The fields of a response that only the first one who asked gets.
pub fn fields(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut named = Vec::new();
    ResponseDirectives::read_naming(lines.map(|value| value.as_bytes()), &mut named);
    named
}

/// What is left for everyone.
pub fn without<'a>(headers: &'a HeaderMap, withheld: &[HeaderName]) -> Cow<'a, HeaderMap> {
    if withheld.is_empty() {
        return Cow::Borrowed(headers);
    }
    let mut shared = headers.clone();
    for name in withheld {
        shared.remove(name);
    }
    Cow::Owned(shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn withheld(lines: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        let named = fields(&headers);
        named.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn quoted_names_are_withheld() {
        assert_eq!(withheld(&["private=\"A, b\", max-age=1"]), ["a", "b"]);
        let both = ["no-cache=\"set-cookie\"", "private=\"x\""];
        assert_eq!(withheld(&both), ["set-cookie", "x"]);
        for none in [
            "private",
            "private=a",
            "no-cache=\"\"",
            "no-cache=\"a b\"",
            "no-cache=\"content-type\"",
            "x=\"a\"",
        ] {
            assert!(withheld(&[none]).is_empty(), "{none}");
        }
    }

    #[test]
    fn the_rest_is_for_everyone() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("2"));
        headers.append("b", HeaderValue::from_static("3"));
        let left = without(&headers, &[HeaderName::from_static("a")]);
        assert_eq!(left.len(), 1);
        assert!(matches!(without(&headers, &[]), Cow::Borrowed(_)));
    }
}
