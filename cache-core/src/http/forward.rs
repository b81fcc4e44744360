//! The fields of requests that go upstream.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION,
    RANGE, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::ClientFields;
use crate::conn::h3::FieldSection;
use crate::http::key_rules::KeyRules;

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

/// Which fields of clients' requests go into a fetch that may answer many.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub origin: &'a ClientFields,
    pub key: &'a KeyRules,
}

impl Shown<'_> {
    /// Whether the origin sees anything of this field.
    pub fn has(&self, name: &HeaderName) -> bool {
        if self.key.has_bucket(name) {
            return true;
        }
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
        let ClientFields { names, all } = self.origin;
        self.key.headers.contains(name) || names.contains(name) || (*all && *name != COOKIE)
    }

    fn is_nothing(&self) -> bool {
        let key = self.key;
        let buckets =
            key.accept.len() + key.codings.len() + key.user_agents.len() + key.headers.len();
        !self.origin.all && self.origin.names.is_empty() && buckets == 0
    }
}

/// For a fetch that may answer many, from an origin that is shown some of its clients' fields: those
/// of this one's, in buckets where the route has some. What makes a request conditional or partial
/// stays here, as do credentials that are not named.
pub fn shared(section: &FieldSection, shown: Shown<'_>) -> HeaderMap {
    let mut headers = canonical();
    if shown.is_nothing() {
        return headers;
    }
    let mut accepts = HeaderMap::new();
    for (name, value) in section.fields() {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if !shown.has(&name) || shown.key.has_bucket(&name) {
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
    for name in [ACCEPT, ACCEPT_ENCODING, USER_AGENT] {
        let values = section
            .fields()
            .filter(|(n, _)| *n == name.as_str().as_bytes());
        let bucket = shown.key.bucket(&name, values.map(|(_, value)| value));
        if let Some(value) = bucket.and_then(|bucket| bucket.try_into().ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Adds a request's credentials to fields that others could share: its answer may be for others too,
/// but that is for the origin to say.
pub fn add_credentials(section: &FieldSection, headers: &mut HeaderMap) {
    for (name, value) in section.fields() {
        if name == AUTHORIZATION.as_str().as_bytes()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.append(AUTHORIZATION, value);
        }
    }
}

/// RFC 8470 section 5.1.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// Whether someone before us forwarded the request before its client's handshake was complete, so that 425 is
/// an answer that he understands.
pub fn is_early(section: &FieldSection) -> bool {
    section.get(EARLY_DATA.as_str().as_bytes()) == Some(b"1")
}

/// Keeps the mark of such a request, which nobody may take off.
pub fn add_early(section: &FieldSection, headers: &mut HeaderMap) {
    if is_early(section) {
        headers.insert(EARLY_DATA, HeaderValue::from_static("1"));
    }
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
        shown_by(extra, names, all, &KeyRules::default())
    }

    fn shown_by(
        extra: &[(&str, &str)],
        names: &[&'static str],
        all: bool,
        key: &KeyRules,
    ) -> Vec<String> {
        let section = read(&[&CHROMIUM[..4], extra].concat());
        let allowed = ClientFields {
            names: names.iter().map(|&n| HeaderName::from_static(n)).collect(),
            all,
        };
        let origin = &allowed;
        shared(&section, Shown { origin, key })
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

    /// RFC 8470 section 5.1.
    #[test]
    fn early_data_stays_marked() {
        for (value, want) in [("1", true), ("0", false), ("1, 1", false)] {
            let section = read(&[&CHROMIUM[..4], &[("early-data", value)]].concat());
            let mut headers = HeaderMap::new();
            add_early(&section, &mut headers);
            assert_eq!(headers.contains_key("early-data"), want, "{value}");
            assert_eq!(is_early(&section), want, "{value}");
        }
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

    #[test]
    fn buckets_and_keyed_fields_are_shown_and_nothing_else() {
        let key = KeyRules {
            headers: vec![HeaderName::from_static("foo")],
            accept: vec!["image/png".to_owned()],
            codings: vec!["br".to_owned()],
            ..KeyRules::default()
        };
        let poison = [
            ("x-forwarded-host", "evil.test"),
            ("forwarded", "host=evil.test"),
        ];
        let fields = [FIELDS, &poison].concat();
        let want = [
            "accept: image/png,*/*",
            "accept-encoding: br",
            "foo: 1",
            "foo: 2",
        ];
        assert_eq!(shown_by(&fields, &[], false, &key), want);
        let key = KeyRules {
            headers: vec![HeaderName::from_static("authorization")],
            ..KeyRules::default()
        };
        assert_eq!(
            shown_by(&fields, &[], false, &key),
            CANONICAL,
            "never a credential"
        );
    }
}
