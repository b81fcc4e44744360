//! The fields of requests that go upstream.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION,
    RANGE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::ClientFields;
use crate::conn::h3::FieldSection;

/// Fields of [`canonical`].
pub const CANONICAL_FIELDS: usize = 2;

/// For a fetch that answers many: nothing of any one client's request, so that no client can shape
/// what the others get. One coding (identity), so that there is one variant.
pub fn canonical() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(CANONICAL_FIELDS);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// For a fetch that may answer many, from an origin that is shown some of its clients' fields: those
/// of this one's. What makes a request conditional or partial stays here, as do credentials that are
/// not named.
pub fn shared(section: &FieldSection, allowed: &ClientFields) -> HeaderMap {
    let mut headers = canonical();
    if !allowed.all && allowed.names.is_empty() {
        return headers;
    }
    let mut accepts = HeaderMap::new();
    for (name, value) in section.fields() {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if !is_shown(&name, allowed) {
            continue;
        }
        match name == ACCEPT {
            true => accepts.append(name, value),
            false => headers.append(name, value),
        };
    }
    if let Some(accept) = accepts.remove(ACCEPT) {
        headers.insert(ACCEPT, accept);
    }
    headers
}

pub(super) fn is_shown(name: &HeaderName, allowed: &ClientFields) -> bool {
    let never = [
        ACCEPT_ENCODING,
        AUTHORIZATION,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        PROXY_AUTHORIZATION,
        RANGE,
    ];
    if is_ours(name) || never.contains(name) {
        return false;
    }
    allowed.names.contains(name) || (allowed.all && *name != COOKIE)
}

/// For a fetch that answers only this request: its end-to-end fields.
pub fn end_to_end(section: &FieldSection) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in section.fields() {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if !is_ours(&name) {
            headers.append(name, value);
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// Fields about this hop or about a body that is not forwarded.
fn is_ours(name: &HeaderName) -> bool {
    [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        HOST,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::h3::samples::{CHROMIUM, read};

    fn shown(extra: &[(&str, &str)], names: &[&'static str], all: bool) -> Vec<String> {
        let section = read(&[&CHROMIUM[..4], extra].concat());
        let allowed = ClientFields {
            names: names.iter().map(|&n| HeaderName::from_static(n)).collect(),
            all,
        };
        shared(&section, &allowed)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    const FIELDS: &[(&str, &str)] = &[
        ("accept", "image/png"),
        ("accept-encoding", "br"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("if-none-match", "\"x\""),
        ("range", "bytes=0-1"),
        ("foo", "1"),
        ("foo", "2"),
    ];
    const CANONICAL: [&str; 2] = ["accept: */*", "accept-encoding: identity"];

    #[test]
    fn nothing_of_a_client_is_shown_unless_it_is_allowed() {
        assert_eq!(shown(FIELDS, &[], false), CANONICAL);
    }

    #[test]
    fn named_fields_are_shown() {
        let want = [&CANONICAL[..], &["foo: 1", "foo: 2"]].concat();
        assert_eq!(shown(FIELDS, &["foo"], false), want);
        let want = [&CANONICAL[..], &["cookie: a=b"]].concat();
        assert_eq!(shown(FIELDS, &["cookie"], false), want);
    }

    #[test]
    fn credentials_conditions_and_ranges_are_not_among_all() {
        let want = ["accept: image/png", CANONICAL[1], "foo: 1", "foo: 2"];
        assert_eq!(shown(FIELDS, &[], true), want);
        let got = shown(FIELDS, &["authorization", "range"], true);
        assert_eq!(got, want, "not even by name");
    }
}
