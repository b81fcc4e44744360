//! A stored response brought up to date by a 304 (RFC 9111 sections 3.2 and 4.3.4), and the
//! conditions that ask for one (section 4.3.1).

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, StatusCode};

/// What belongs to the stored bytes and not to the answer that confirms them.
const OF_THE_BODY: [HeaderName; 5] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    HeaderName::from_static("content-md5"),
];

/// Whether a stored response with this status and these fields can be confirmed.
pub fn has_validator(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && (headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED))
}

/// Adds the conditions under which the stored response is still right. Without a validator the
/// request stays unconditional, and false is returned.
pub fn add_conditions(
    request: &mut HeaderMap,
    etag: Option<&[u8]>,
    modified: Option<&[u8]>,
) -> bool {
    let mut conditional = false;
    for (name, value) in [(IF_NONE_MATCH, etag), (IF_MODIFIED_SINCE, modified)] {
        if let Some(value) = value.and_then(|value| value.try_into().ok()) {
            request.insert(name, value);
            conditional = true;
        }
    }
    conditional
}

/// The stored fields with those of a 304 in their place, but for what describes the stored bytes.
pub fn merge(stored: &HeaderMap, confirmed: &HeaderMap) -> HeaderMap {
    let mut merged = stored.clone();
    for name in confirmed.keys() {
        if OF_THE_BODY.contains(name) {
            continue;
        }
        merged.remove(name);
        for value in confirmed.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::samples::map;

    /// RFC 9111 section 3.2.
    #[test]
    fn a_304_replaces_fields_but_not_those_of_the_body() {
        let stored = map(&[
            ("content-type", "text/plain"),
            ("content-length", "3"),
            ("content-encoding", "gzip"),
            ("etag", "\"a\""),
            ("x", "1"),
            ("x", "2"),
            ("kept", "yes"),
        ]);
        let confirmed = map(&[
            ("content-type", "text/html"),
            ("content-length", "0"),
            ("content-encoding", "br"),
            ("etag", "W/\"a\""),
            ("x", "3"),
            ("new", "1"),
        ]);
        let want = map(&[
            ("content-type", "text/html"),
            ("content-length", "3"),
            ("content-encoding", "gzip"),
            ("etag", "\"a\""),
            ("x", "3"),
            ("kept", "yes"),
            ("new", "1"),
        ]);
        assert_eq!(merge(&stored, &confirmed), want);
        assert_eq!(merge(&stored, &HeaderMap::new()), stored);
    }

    #[test]
    fn only_a_200_with_a_validator_is_confirmed() {
        let etag = map(&[("etag", "\"a\"")]);
        assert!(has_validator(StatusCode::OK, &etag));
        assert!(has_validator(
            StatusCode::OK,
            &map(&[("last-modified", "x")])
        ));
        assert!(!has_validator(StatusCode::NOT_FOUND, &etag));
        assert!(!has_validator(StatusCode::OK, &map(&[])));
        let mut request = HeaderMap::new();
        assert!(!add_conditions(&mut request, None, None));
        assert!(add_conditions(&mut request, Some(b"\"a\""), Some(b"then")));
        let want = map(&[("if-none-match", "\"a\""), ("if-modified-since", "then")]);
        assert_eq!(request, want);
    }
}
