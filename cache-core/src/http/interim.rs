//! Interim responses: what of a 103 (Early Hints, RFC 8297) goes on to clients.

use http::header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, LINK};
use http::{HeaderMap, HeaderName};

/// What clients make use of before the final response. Nothing that is about one user: those who wait
/// for a shared answer all get it, before anyone can know whether that answer is for all of them.
const HINTS: [HeaderName; 3] = [
    LINK,
    CONTENT_SECURITY_POLICY,
    CONTENT_SECURITY_POLICY_REPORT_ONLY,
];

/// Bytes of names and values that one 103 may pass on.
const MAX_BYTES: usize = 8 << 10;

/// The fields of a 103 that are passed on; `None`: none of them, or too much.
pub fn hints(headers: &HeaderMap) -> Option<HeaderMap> {
    // Hints to fetch nothing hint at nothing.
    if !headers.contains_key(LINK) {
        return None;
    }
    let mut kept = HeaderMap::new();
    let mut bytes = 0;
    for name in HINTS {
        for value in headers.get_all(&name) {
            bytes += name.as_str().len() + value.len();
            kept.append(&name, value.clone());
        }
    }
    (bytes <= MAX_BYTES).then_some(kept)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(fields: &[(&'static str, &str)]) -> Option<Vec<String>> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).expect("a value");
            headers.append(*name, value);
        }
        let kept = hints(&headers)?;
        Some(kept.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn only_what_is_for_everyone_is_passed_on() {
        let kept = of(&[
            ("link", "</a.css>; rel=preload"),
            ("link", "</b.js>; rel=preload"),
            ("set-cookie", "a=1"),
            ("content-security-policy", "default-src 'self'"),
            ("x-user", "me"),
        ]);
        let names = ["link", "content-security-policy"].map(str::to_owned);
        assert_eq!(kept, Some(names.to_vec()));
    }

    #[test]
    fn hints_are_bounded_and_have_a_link() {
        assert_eq!(of(&[("content-security-policy", "x")]), None);
        assert_eq!(of(&[]), None);
        let fits = "a".repeat(MAX_BYTES - "link".len());
        assert!(of(&[("link", &fits)]).is_some());
        assert_eq!(of(&[("link", &format!("{fits}a"))]), None);
    }
}
