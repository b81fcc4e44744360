//! Conditional GET and HEAD against a stored response (RFC 9110 section 13, RFC 9111 section 4.3.2).

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderName, StatusCode};

use super::freshness::unix_seconds;

/// The conditions of a request that a cache evaluates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    pub if_none_match: Option<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    /// Of a GET that asks for parts (RFC 9110 section 14.2).
    pub range: Option<&'a [u8]>,
    /// What Range depends on.
    pub if_range: Option<&'a [u8]>,
}

/// Fields that [`Conditions`] reads, in lower case.
pub const FIELDS: [HeaderName; 4] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE, IF_RANGE];

impl<'a> Conditions<'a> {
    /// Reads them from a request's fields, names in lower case. A condition that appears twice
    /// counts as absent: the whole response is always a right answer.
    pub fn read(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut conditions = Self::default();
        let mut seen = [0; 4];
        for (name, value) in fields {
            let (kind, field) = match name {
                b"if-none-match" => (0, &mut conditions.if_none_match),
                b"if-modified-since" => (1, &mut conditions.if_modified_since),
                b"range" => (2, &mut conditions.range),
                b"if-range" => (3, &mut conditions.if_range),
                _ => continue,
            };
            *field = Some(value);
            seen[kind] += 1;
        }
        let [etags, dates, ranges, if_ranges] = seen;
        if ranges > 1 || if_ranges > 1 {
            conditions.range = None;
        }
        if etags > 1 {
            conditions.if_none_match = None;
        }
        if etags > 1 || dates > 1 {
            conditions.if_modified_since = None;
        }
        conditions
    }

    /// Nothing that could make the answer another than the whole.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Nothing that could make the answer a 304.
    pub fn is_empty(&self) -> bool {
        self.if_none_match.is_none() && self.if_modified_since.is_none()
    }

    /// True when a stored response with this status, ETag and Last-Modified is to be answered with
    /// 304. If-None-Match decides where there is one (RFC 9110 section 13.2.2); comparison of
    /// entity tags is weak (section 13.1.2). Only a 200 is ever not modified.
    pub fn not_modified(
        &self,
        status: StatusCode,
        etag: Option<&[u8]>,
        last_modified: Option<&[u8]>,
    ) -> bool {
        if status != StatusCode::OK {
            return false;
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(list), _) => matches_any(list, etag),
            (None, Some(since)) => {
                match (unix_seconds(since), last_modified.and_then(unix_seconds)) {
                    (Some(since), Some(modified)) => modified <= since,
                    _ => false,
                }
            }
            (None, None) => false,
        }
    }
}

/// RFC 9110 section 13.1.2: `*`, or a list of entity tags. What is no list matches nothing.
fn matches_any(list: &[u8], etag: Option<&[u8]>) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(stored) = etag.and_then(|etag| take_tag(&mut etag.trim_ascii())) else {
        return false;
    };
    let mut rest = list;
    loop {
        while let [b' ' | b'\t' | b',', tail @ ..] = rest {
            rest = tail;
        }
        match take_tag(&mut rest) {
            Some(tag) if tag == stored => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

/// Takes `["W/"] DQUOTE text DQUOTE` off the front and returns the text with its quotes.
fn take_tag<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let opaque = rest.strip_prefix(b"W/").unwrap_or(rest);
    let text = opaque.strip_prefix(b"\"")?;
    let close = text.iter().position(|&b| b == b'"')?;
    let (tag, tail) = opaque.split_at(close + 2);
    *rest = tail;
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: &[u8] = b"Sun, 22 Nov 2026 12:00:00 GMT";

    fn by_etag(list: &str, etag: &str) -> bool {
        let conditions = Conditions {
            if_none_match: Some(list.as_bytes()),
            if_modified_since: Some(MODIFIED),
            ..Conditions::default()
        };
        conditions.not_modified(StatusCode::OK, Some(etag.as_bytes()), Some(MODIFIED))
    }

    fn by_date(since: &str) -> bool {
        let conditions = Conditions {
            if_none_match: None,
            if_modified_since: Some(since.as_bytes()),
            ..Conditions::default()
        };
        conditions.not_modified(StatusCode::OK, None, Some(MODIFIED))
    }

    /// RFC 9110 sections 8.8.3.2 and 13.1.2. If-Modified-Since, though it holds, is not asked.
    #[test]
    fn if_none_match() {
        let cases = [
            ("\"a\"", "\"a\"", true),
            ("W/\"a\"", "\"a\"", true),
            ("\"a\"", "W/\"a\"", true),
            ("W/\"a\"", "W/\"a\"", true),
            ("\"x\", \"a\"", "\"a\"", true),
            ("\"x\",W/\"a\" , \"y\"", "\"a\"", true),
            ("\"x,\\\"", "\"x,\\\"", true),
            ("*", "\"a\"", true),
            ("\"\"", "\"\"", true),
            ("\"b\"", "\"a\"", false),
            ("\"A\"", "\"a\"", false),
            ("w/\"a\"", "\"a\"", false),
            ("a", "\"a\"", false),
            ("a", "a", false),
            ("\"a", "\"a\"", false),
            ("x, \"a\"", "\"a\"", false),
            ("", "\"a\"", false),
        ];
        for (list, etag, holds) in cases {
            assert_eq!(by_etag(list, etag), holds, "{list} {etag}");
        }
        let none = Conditions {
            if_none_match: Some(b"\"a\""),
            if_modified_since: None,
            ..Conditions::default()
        };
        assert!(!none.not_modified(StatusCode::OK, None, None));
    }

    /// RFC 9110 section 13.1.3.
    #[test]
    fn if_modified_since() {
        assert!(by_date("Sun, 22 Nov 2026 12:00:00 GMT"));
        assert!(by_date("Sun, 22 Nov 2026 12:00:01 GMT"));
        assert!(by_date("Sunday, 22-Nov-26 12:00:01 GMT"));
        assert!(!by_date("Sun, 22 Nov 2026 11:59:59 GMT"));
        assert!(!by_date("soon"));
        assert!(!by_date(""));
        let since = Conditions {
            if_none_match: None,
            if_modified_since: Some(MODIFIED),
            ..Conditions::default()
        };
        assert!(!since.not_modified(StatusCode::OK, None, None));
    }

    #[test]
    fn only_a_200_is_not_modified() {
        let any = Conditions {
            if_none_match: Some(b"*"),
            if_modified_since: None,
            ..Conditions::default()
        };
        assert!(any.not_modified(StatusCode::OK, None, None));
        assert!(!any.not_modified(StatusCode::NOT_FOUND, Some(b"\"a\""), None));
        assert!(!Conditions::default().not_modified(StatusCode::OK, Some(b"\"a\""), None));
    }

    #[test]
    fn conditions_that_appear_twice_are_ignored() {
        let etag: (&[u8], &[u8]) = (b"if-none-match", b"\"a\"");
        let date: (&[u8], &[u8]) = (b"if-modified-since", MODIFIED);
        let read = Conditions::read([etag, date, (b"accept", b"*/*")]);
        assert_eq!(
            (read.if_none_match, read.if_modified_since),
            (Some(etag.1), Some(date.1))
        );
        assert!(Conditions::read([etag, etag, date]).is_empty());
        assert!(Conditions::read([date, date]).is_empty());
        let range: (&[u8], &[u8]) = (b"range", b"bytes=0-1");
        let if_range: (&[u8], &[u8]) = (b"if-range", b"\"a\"");
        assert_eq!(Conditions::read([range, if_range]).range, Some(range.1));
        assert_eq!(Conditions::read([range, range]).range, None);
        assert_eq!(Conditions::read([range, if_range, if_range]).range, None);
        assert!(Conditions::read([]).is_empty());
    }
}
