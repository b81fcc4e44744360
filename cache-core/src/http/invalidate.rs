//! What a request that changed something makes stale (RFC 9111 section 4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, Method, StatusCode};

use super::key::{self, split};

/// The cache keys to forget when a request for `key` was answered like this: its own, and those that
/// Location and Content-Location name on the same host. Empty where nothing changed: a safe method
/// (RFC 9110 section 9.2.1), or an error.
pub fn keys(
    method: &Method,
    key: &[u8],
    status: StatusCode,
    headers: &HeaderMap,
    max_target: usize,
) -> Vec<Vec<u8>> {
    let changed = status.is_success() || status.is_redirection();
    if method.is_safe() || !changed {
        return Vec::new();
    }
    let mut keys = vec![key.to_vec()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let other = headers
            .get(name)
            .and_then(|value| resolve(key, value.as_bytes(), max_target));
        keys.extend(other.filter(|other| other != key));
    }
    keys
}

/// Whether Content-Location names the resource `key` itself (RFC 9110 section 8.7).
pub fn is_of(key: &[u8], headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(CONTENT_LOCATION).iter();
    let (Some(value), None) = (named.next(), named.next()) else {
        return false;
    };
    let resolved = resolve(key, value.as_bytes(), usize::MAX);
    resolved.is_some_and(|resolved| resolved == key)
}

/// The key of a URI reference within the resource `key`, if it is on the same host (RFC 3986 section
/// 5.2). Dot segments are not resolved: such a target has no key.
fn resolve(key: &[u8], reference: &[u8], max_target: usize) -> Option<Vec<u8>> {
    let (authority, target) = split(key);
    let end = reference.iter().position(|&b| b == b'#');
    let reference = &reference[..end.unwrap_or(reference.len())];
    let (other, target) = match reference {
        [b'/', b'/', rest @ ..] => split_reference(rest),
        [b'/', ..] => (authority, reference.to_vec()),
        _ => match after_scheme(reference) {
            Some(rest) => split_reference(rest),
            None if has_scheme(reference) => return None,
            None => (authority, relative(target, reference)),
        },
    };
    let mut resolved = Vec::with_capacity(other.len() + target.len());
    key::write_key(other, &target, max_target, &mut resolved).ok()?;
    (split(&resolved).0 == authority).then_some(resolved)
}

/// What follows `http://` or `https://`.
fn after_scheme(reference: &[u8]) -> Option<&[u8]> {
    let colon = reference.windows(3).position(|three| three == b"://")?;
    let scheme = &reference[..colon];
    let known = scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"http");
    known.then(|| &reference[colon + 3..])
}

/// A colon before any slash ends a scheme.
fn has_scheme(reference: &[u8]) -> bool {
    let end = reference
        .iter()
        .position(|b| matches!(b, b':' | b'/' | b'?'));
    end.is_some_and(|end| reference[end] == b':')
}

fn split_reference(rest: &[u8]) -> (&[u8], Vec<u8>) {
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
    let (authority, target) = rest.split_at(end.unwrap_or(rest.len()));
    match target.first() {
        Some(b'/') => (authority, target.to_vec()),
        _ => (authority, [b"/", target].concat()),
    }
}

/// A reference without scheme, authority and leading slash, in the place of what follows the last
/// slash of the path.
fn relative(target: &[u8], reference: &[u8]) -> Vec<u8> {
    let query = target.iter().position(|&b| b == b'?');
    let path = &target[..query.unwrap_or(target.len())];
    match reference.first() {
        None => target.to_vec(),
        Some(b'?') => [path, reference].concat(),
        Some(_) => {
            let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
            [&path[..slash], reference].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const KEY: &[u8] = b"edge.test/a/b?c";

    fn forgotten(method: Method, status: u16, headers: &HeaderMap) -> Vec<String> {
        let status = StatusCode::from_u16(status).unwrap();
        keys(&method, KEY, status, headers, 1 << 10)
            .into_iter()
            .map(|key| String::from_utf8(key).unwrap())
            .collect()
    }

    #[test]
    fn only_successful_unsafe_requests_change_anything() {
        let none = HeaderMap::new();
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(forgotten(method.clone(), 200, &none), ["edge.test/a/b?c"]);
            assert_eq!(forgotten(method.clone(), 303, &none).len(), 1);
            assert!(forgotten(method.clone(), 404, &none).is_empty());
            assert!(forgotten(method, 500, &none).is_empty());
        }
        for method in [Method::OPTIONS, Method::GET, Method::HEAD] {
            assert!(forgotten(method, 200, &none).is_empty());
        }
    }

    /// RFC 3986 section 5.4, as far as a server writes it.
    #[test]
    fn what_location_names_on_the_same_host_changes_too() {
        let cases = [
            ("/x?y", Some("edge.test/x?y")),
            ("/x#f", Some("edge.test/x")),
            ("x", Some("edge.test/a/x")),
            ("?z", Some("edge.test/a/b?z")),
            ("https://edge.test/x", Some("edge.test/x")),
            ("HTTPS://Edge.test:443?x", Some("edge.test/?x")),
            ("http://edge.test/x", Some("edge.test/x")),
            ("//edge.test/x", Some("edge.test/x")),
            ("//other.test/x", None),
            ("https://other.test/x", None),
            ("https://edge.test:8443/x", None),
            ("ftp://edge.test/x", None),
            ("mailto:x", None),
            ("/a/../x", None),
            ("/a/b?c", None),
            ("", None),
        ];
        for name in [LOCATION, CONTENT_LOCATION] {
            for (reference, other) in cases {
                let mut headers = HeaderMap::new();
                headers.insert(name.clone(), HeaderValue::from_static(reference));
                let got = forgotten(Method::POST, 201, &headers);
                assert_eq!(got.get(1).map(String::as_str), other, "{reference}");
            }
        }
    }
}
