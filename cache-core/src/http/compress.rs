//! Which responses the node compresses itself, and what becomes of their fields.
//!
//! Only what is for everybody and is text: a response with Set-Cookie, private or no-store may hold a
//! secret beside what a stranger put there, and its length would tell (BREACH). The coded form is a
//! variant like one that the origin had made: Vary names Accept-Encoding, and a strong ETag becomes
//! a weak one, since the bytes are no longer those that it names (RFC 9110 section 8.8.1).

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::cache_control::ResponseDirectives;

/// A content coding (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Br,
    Zstd,
    Gzip,
}

/// Smaller bodies gain less than the head of a frame.
pub const MIN_BODY: u64 = 256;

/// Digests of the bytes before they were coded.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Parts of media types of text.
const TEXT: [&[u8]; 7] = [
    b"json",
    b"xml",
    b"javascript",
    b"ecmascript",
    b"mpegurl",
    b"dash+xml",
    b"wasm",
];

impl Coding {
    /// The coding that a fetch asks for; it names one at most.
    pub fn asked(request: &HeaderMap) -> Option<Self> {
        match request.get(ACCEPT_ENCODING)?.as_bytes() {
            b"br" => Some(Self::Br),
            b"zstd" => Some(Self::Zstd),
            b"gzip" => Some(Self::Gzip),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// Whether a response may be compressed. `length` is that of its body, where it is known.
pub fn may_code(status: StatusCode, headers: &HeaderMap, length: Option<u64>, max: u64) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let directives = ResponseDirectives::read(lines.map(HeaderValue::as_bytes));
    let for_all = !directives.private && !directives.no_store && !directives.no_transform;
    let whole = [CONTENT_ENCODING, CONTENT_RANGE, SET_COOKIE]
        .iter()
        .all(|name| !headers.contains_key(name));
    let fits = length.is_none_or(|length| (MIN_BODY..=max).contains(&length));
    status == StatusCode::OK && for_all && whole && fits && is_text(headers)
}

fn is_text(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let essence = value.as_bytes().split(|&b| b == b';').next();
    let essence = essence
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    let part = |part: &[u8]| essence.windows(part.len()).any(|found| found == part);
    essence.starts_with(b"text/") || TEXT.into_iter().any(part)
}

/// Says that requests with another Accept-Encoding get another form.
pub fn vary(headers: &mut HeaderMap) {
    let names = headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','));
    let named = |name: &[u8]| {
        let name = name.trim_ascii();
        name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")
    };
    if !names.into_iter().any(named) {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Makes the fields those of the coded form, which has `length` bytes.
pub fn recode(headers: &mut HeaderMap, coding: Coding, length: u64) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.insert(CONTENT_LENGTH, length.into());
    headers.remove(ACCEPT_RANGES);
    for digest in DIGESTS {
        headers.remove(digest);
    }
    if let Some(etag) = headers
        .get(ETAG)
        .filter(|etag| !etag.as_bytes().starts_with(b"W/"))
    {
        let weak = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat());
        if let Ok(weak) = weak {
            headers.insert(ETAG, weak);
        }
    }
    vary(headers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::samples::map;

    #[test]
    fn text_for_everybody_is_compressed() {
        let may = |fields: &[(&'static str, &'static str)]| {
            may_code(StatusCode::OK, &map(fields), Some(1000), 2000)
        };
        for text in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/html",
            "image/svg+xml",
            "application/vnd.apple.mpegurl",
            "application/dash+xml",
        ] {
            assert!(may(&[("content-type", text)]), "{text}");
        }
        let json = ("content-type", "application/json");
        for other in [
            ("content-type", "image/png"),
            ("content-type", "video/mp4; x=\"json\""),
        ] {
            assert!(!may(&[other]), "{other:?}");
        }
        for beside in [
            ("set-cookie", "a=b"),
            ("cache-control", "private"),
            ("cache-control", "no-store"),
            ("cache-control", "no-transform"),
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-1/2"),
        ] {
            assert!(!may(&[json, beside]), "{beside:?}");
        }
        assert!(!may(&[]));
        let sized = |length| may_code(StatusCode::OK, &map(&[json]), length, 2000);
        assert!(sized(None) && sized(Some(256)) && sized(Some(2000)));
        assert!(!sized(Some(255)) && !sized(Some(2001)));
        assert!(!may_code(StatusCode::NOT_FOUND, &map(&[json]), None, 2000));
    }

    #[test]
    fn the_coded_form_is_another_representation() {
        let mut headers = map(&[
            ("etag", "\"a\""),
            ("content-length", "1000"),
            ("content-md5", "x"),
            ("accept-ranges", "bytes"),
            ("vary", "Origin"),
        ]);
        recode(&mut headers, Coding::Zstd, 77);
        let want = map(&[
            ("etag", "W/\"a\""),
            ("content-length", "77"),
            ("content-encoding", "zstd"),
            ("vary", "Origin"),
            ("vary", "accept-encoding"),
        ]);
        assert_eq!(headers, want);
        recode(&mut headers, Coding::Zstd, 77);
        assert_eq!(headers, want, "nothing is said twice");
    }

    #[test]
    fn a_fetch_asks_for_one_coding() {
        let asked = |value| Coding::asked(&map(&[("accept-encoding", value)]));
        assert_eq!(asked("br"), Some(Coding::Br));
        assert_eq!(asked("identity"), None);
        assert_eq!(asked("gzip, br"), None);
        assert_eq!(Coding::asked(&HeaderMap::new()), None);
    }
}
