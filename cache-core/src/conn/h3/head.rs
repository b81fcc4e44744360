//! Response heads: pre-encoded when an object is stored, completed when it is served.
//!
//! ```text
//!  HEADERS | length | prefix :status fields... | age | cache-status || DATA | length | (body)
//!  `---------------'`-- encode_static, kept --'`-- written per response -----------'
//! ```

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::frame::{FrameHeader, kind, write_varint};
use super::qpack::{self, Line, Lines, Name, static_table};
use crate::config::Role;
use crate::http::targeted::SURROGATE_CONTROL;
use crate::http::{decimal, surrogate_key};

/// Fields that differ from one response to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic<'a> {
    /// Seconds; `None` leaves the field out.
    pub age: Option<u64>,
    /// A Cache-Status value ([`crate::http::cache_status`]); empty leaves the field out.
    pub cache_status: &'a [u8],
}

/// Encodes what stays the same of a response head for users: section prefix, `:status` and the
/// fields, but for hop-by-hop fields, Age, Cache-Status, and what is meant for caches (surrogate keys,
/// Surrogate-Control). No frame header.
pub fn encode_static(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    encode_for(Role::Edge, status, headers)
}

/// The same for those whom a node of this role serves.
pub fn encode_for(role: Role, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + headers.len() * 32);
    qpack::write_prefix(&mut out);
    qpack::write_field(&mut out, b":status", status.as_str().as_bytes());
    for (name, value) in headers {
        let left_out = is_left_out(name, headers) || (role == Role::Edge && is_for_caches(name));
        if !left_out {
            qpack::write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out
}

/// Appends a HEADERS frame of `static_head` and `dynamic` and, for a body of known length that
/// follows, the header of its DATA frame (none for a length of 0, which needs no frame). Allocates
/// only if `out` must grow.
pub fn write_response(
    out: &mut Vec<u8>,
    static_head: &[u8],
    dynamic: Dynamic<'_>,
    body_len: Option<u64>,
) {
    write_with_room(out, static_head, dynamic, body_len, 0);
}

/// The same in a buffer of its own with room for `behind` bytes more. None is left over once they are
/// there: such a buffer becomes `Bytes` without another allocation.
pub fn response(
    static_head: &[u8],
    dynamic: Dynamic<'_>,
    body_len: Option<u64>,
    behind: usize,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_with_room(&mut out, static_head, dynamic, body_len, behind);
    out
}

fn write_with_room(
    out: &mut Vec<u8>,
    static_head: &[u8],
    dynamic: Dynamic<'_>,
    body_len: Option<u64>,
    behind: usize,
) {
    let mut digits = [0; 20];
    let age = dynamic.age.map(|age| decimal(age, &mut digits));
    let length = static_head.len() + dynamic.encoded_len(age);
    let headers = FrameHeader {
        kind: kind::HEADERS,
        length: length as u64,
    };
    let data = body_len.filter(|&len| len > 0).map(|len| FrameHeader {
        kind: kind::DATA,
        length: len,
    });
    let frames = headers.encoded_len() + length + data.map_or(0, FrameHeader::encoded_len);
    out.reserve_exact(frames + behind);
    headers.write(out);
    let payload = out.len();
    out.extend_from_slice(static_head);
    dynamic.write(age, out);
    debug_assert_eq!(out.len() - payload, length);
    if let Some(data) = data {
        data.write(out);
    }
}

/// A HEADERS frame of an interim response (RFC 9114 section 4.1).
pub fn interim(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let fields = encode_static(status, headers);
    Bytes::from(response(&fields, Dynamic::default(), None, 0))
}

/// The value of a field of a head that [`encode_static`] made, decoded to `scratch`. `None` where
/// there is no such field or the value does not fit. `name` in lower case.
pub fn find_field<'a>(static_head: &[u8], name: &[u8], scratch: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut lines = Lines::new(static_head).ok()?;
    while let Ok(Some(line)) = lines.next_line() {
        if line_name(&line, scratch) == Some(name) {
            let len = line.value.decode(scratch).ok()?.len;
            return Some(&scratch[..len]);
        }
    }
    None
}

/// The fields of a head that [`encode_static`] made. `None`: it was not.
pub fn decode_static(static_head: &[u8]) -> Option<HeaderMap> {
    decode(static_head).map(|(_, headers)| headers)
}

/// Status and fields of a head that we encoded. All values lie in one allocation.
pub fn decode(section: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut values = BytesMut::zeroed(section.len() * 2);
    let mut name = Vec::new();
    let (mut status, mut headers) = (None, HeaderMap::with_capacity(16));
    let mut lines = Lines::new(section).ok()?;
    while let Some(line) = lines.next_line().ok()? {
        if let Name::Literal(text) = &line.name {
            name.resize(text.room().max(name.len()), 0);
        }
        let name = line_name(&line, &mut name)?;
        if values.len() < line.value.room() {
            values = BytesMut::zeroed(line.value.room().max(section.len()));
        }
        let len = line.value.decode(&mut values).ok()?.len;
        let value = values.split_to(len).freeze();
        if name == b":status" {
            status = Some(StatusCode::from_bytes(&value).ok()?);
            continue;
        }
        let name = HeaderName::from_bytes(name).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some((status?, headers))
}

/// Appends to `out` the static head of a 304 in the place of a head that [`encode_static`] made:
/// its fields but for those that describe the body (RFC 9110 section 15.4.5).
pub fn write_not_modified(static_head: &[u8], out: &mut Vec<u8>) {
    qpack::write_prefix(out);
    qpack::write_field(out, b":status", b"304");
    copy_lines(static_head, out, |name| !describes_body(name));
}

/// What a 206 says of its own (RFC 9110 section 15.3.7).
#[derive(Clone, Copy, Debug)]
pub struct Partial<'a> {
    pub length: u64,
    pub what: PartialOf<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum PartialOf<'a> {
    /// One range, with this Content-Range.
    Range(&'a [u8]),
    /// Several, in a body of this Content-Type.
    Ranges(&'a [u8]),
}

/// Appends to `out` the static head of a 206 in the place of a head of a 200 that [`encode_static`]
/// made.
pub fn write_partial(static_head: &[u8], partial: Partial<'_>, out: &mut Vec<u8>) {
    qpack::write_prefix(out);
    qpack::write_field(out, b":status", b"206");
    let mut digits = [0; 20];
    let length = decimal(partial.length, &mut digits);
    qpack::write_field(out, b"content-length", length);
    let typed = match partial.what {
        PartialOf::Range(range) => {
            qpack::write_field(out, b"content-range", range);
            false
        }
        PartialOf::Ranges(content_type) => {
            qpack::write_field(out, b"content-type", content_type);
            true
        }
    };
    copy_lines(static_head, out, |name| match name {
        b":status" | b"content-length" | b"content-range" => false,
        b"content-type" => !typed,
        _ => true,
    });
}

/// Copies the lines of a static head whose names are to be kept.
fn copy_lines(static_head: &[u8], out: &mut Vec<u8>, keep: impl Fn(&[u8]) -> bool) {
    let mut scratch = [0; 64];
    let Ok(mut lines) = Lines::new(static_head) else {
        return;
    };
    loop {
        let before = lines.rest();
        let Ok(Some(line)) = lines.next_line() else {
            return;
        };
        if line_name(&line, &mut scratch).is_none_or(&keep) {
            let len = before.len() - lines.rest().len();
            out.extend_from_slice(&before[..len]);
        }
    }
}

/// Appends the header of a DATA frame of `len` bytes.
pub fn data_frame_header(out: &mut Vec<u8>, len: u64) {
    write_varint(out, kind::DATA);
    write_varint(out, len);
}

/// The index of Age in the static table.
const AGE: u8 = 2;

/// A literal field line's first half with the name `cache-status`.
const CACHE_STATUS: &[u8] = b"\x27\x05cache-status";

/// The name of a line, unless it is longer than `scratch`.
fn line_name<'a>(line: &Line<'_>, scratch: &'a mut [u8]) -> Option<&'a [u8]> {
    match line.name {
        Name::Static(index) => Some(static_table::ENTRIES[index as usize].0),
        Name::Literal(name) => {
            let len = name.decode(scratch).ok()?.len;
            Some(&scratch[..len])
        }
    }
}

fn describes_body(name: &[u8]) -> bool {
    matches!(
        name,
        b":status"
            | b"content-length"
            | b"content-type"
            | b"content-encoding"
            | b"content-language"
            | b"content-range"
            | b"accept-ranges"
    )
}

impl Dynamic<'_> {
    fn encoded_len(&self, age: Option<&[u8]>) -> usize {
        let age = age.map_or(0, |digits| 2 + digits.len());
        let status = match self.cache_status.len() {
            0 => 0,
            len => CACHE_STATUS.len() + string_len(len),
        };
        age + status
    }

    fn write(&self, age: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(digits) = age {
            qpack::write_plain_field(out, AGE, digits);
        }
        if !self.cache_status.is_empty() {
            out.extend_from_slice(CACHE_STATUS);
            qpack::write_prefixed_int(out, 0, 7, self.cache_status.len() as u64);
            out.extend_from_slice(self.cache_status);
        }
    }
}

/// Bytes of a plain string of `len` bytes with its length before it.
fn string_len(len: usize) -> usize {
    let mut prefix = 1;
    if len >= 127 {
        let mut rest = len - 127;
        prefix += 1;
        while rest >= 128 {
            rest >>= 7;
            prefix += 1;
        }
    }
    prefix + len
}

/// RFC 9114 section 4.2 (connection-specific fields and whatever Connection names), and the fields
/// of [`Dynamic`].
fn is_left_out(name: &HeaderName, headers: &HeaderMap) -> bool {
    let fixed = *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::AGE
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "cache-status"
        );
    fixed || is_named_by_connection(name, headers)
}

/// What an origin says to caches and not to users.
fn is_for_caches(name: &HeaderName) -> bool {
    surrogate_key::is_internal(name) || *name == SURROGATE_CONTROL
}

fn is_named_by_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|token| {
            token
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameHeader;
    use super::super::qpack::Text;
    use super::*;
    use proptest::prelude::*;

    fn text(text: Text<'_>) -> String {
        let mut out = vec![0; 70_000];
        let len = text.decode(&mut out).unwrap().len;
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    fn decode(section: &[u8]) -> Vec<(String, String)> {
        let mut lines = Lines::new(section).unwrap();
        let mut fields = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            let name = match line.name {
                Name::Static(index) => {
                    String::from_utf8(static_table::ENTRIES[index as usize].0.to_vec()).unwrap()
                }
                Name::Literal(name) => text(name),
            };
            fields.push((name, text(line.value)));
        }
        fields
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn stored() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "image/png"),
            ("content-length", "3"),
            ("etag", "\"abc\""),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("age", "7"),
            ("cache-status", "shield; hit"),
            ("surrogate-control", "max-age=1"),
            ("surrogate-key", "emotes emote-3"),
            ("cache-tag", "emotes"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_kept_part_leaves_out_what_is_hop_by_hop_or_for_caches() {
        let head = encode_static(StatusCode::OK, &stored());
        let want = [
            field(":status", "200"),
            field("content-type", "image/png"),
            field("content-length", "3"),
            field("etag", "\"abc\""),
        ];
        assert_eq!(decode(&head), want);
    }

    #[test]
    fn a_206_has_the_fields_of_the_whole_but_for_those_of_its_own() {
        let head = encode_static(StatusCode::OK, &stored());
        let mut out = Vec::new();
        let what = PartialOf::Range(b"bytes 1-2/3");
        write_partial(&head, Partial { length: 2, what }, &mut out);
        let want = [
            field(":status", "206"),
            field("content-length", "2"),
            field("content-range", "bytes 1-2/3"),
            field("content-type", "image/png"),
            field("etag", "\"abc\""),
        ];
        assert_eq!(decode(&out), want);
        out.clear();
        let what = PartialOf::Ranges(b"multipart/byteranges; boundary=x");
        write_partial(&head, Partial { length: 99, what }, &mut out);
        let want = [
            field(":status", "206"),
            field("content-length", "99"),
            field("content-type", "multipart/byteranges; boundary=x"),
            field("etag", "\"abc\""),
        ];
        assert_eq!(decode(&out), want);
    }

    #[test]
    fn an_edge_gets_what_is_for_caches() {
        let head = encode_for(Role::Shield, StatusCode::OK, &stored());
        let more = [
            field("surrogate-control", "max-age=1"),
            field("surrogate-key", "emotes emote-3"),
            field("cache-tag", "emotes"),
        ];
        assert_eq!(decode(&head)[4..], more);
    }

    #[test]
    fn every_status_can_be_sent() {
        for status in 100..=999 {
            let status = StatusCode::from_u16(status).unwrap();
            let head = encode_static(status, &HeaderMap::new());
            assert_eq!(decode(&head), [field(":status", status.as_str())]);
        }
    }

    #[test]
    fn a_whole_response() {
        let head = encode_static(StatusCode::OK, &stored());
        let dynamic = Dynamic {
            age: Some(17),
            cache_status: b"popcache; hit; ttl=43",
        };
        let mut out = Vec::new();
        write_response(&mut out, &head, dynamic, Some(3));
        let (headers, used) = FrameHeader::parse(&out).unwrap();
        assert_eq!(headers.kind, kind::HEADERS);
        let (section, rest) = out[used..].split_at(headers.length as usize);
        let fields = decode(section);
        let want = [
            field("age", "17"),
            field("cache-status", "popcache; hit; ttl=43"),
        ];
        assert_eq!(fields[4..], want);
        assert_eq!(rest, [0, 3]);
    }

    #[test]
    fn fields_of_a_kept_head_are_found_again() {
        let mut headers = stored();
        let long = "v".repeat(100);
        headers.insert("x-long", HeaderValue::from_str(&long).unwrap());
        let head = encode_static(StatusCode::OK, &headers);
        let mut scratch = [0; 64];
        assert_eq!(
            find_field(&head, b"etag", &mut scratch),
            Some(&b"\"abc\""[..])
        );
        assert_eq!(
            find_field(&head, b"content-type", &mut scratch),
            Some(&b"image/png"[..])
        );
        assert_eq!(
            find_field(&head, b":status", &mut scratch),
            Some(&b"200"[..])
        );
        assert_eq!(find_field(&head, b"last-modified", &mut scratch), None);
        assert_eq!(
            find_field(&head, b"x-long", &mut scratch),
            None,
            "does not fit"
        );
        assert_eq!(
            find_field(b"\x02\x00", b"etag", &mut scratch),
            None,
            "not a head"
        );
    }

    #[test]
    fn a_kept_head_is_decoded_again() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("etag", "\"a\""),
            ("x-two", "1"),
            ("x-two", "2"),
            ("x-long", &"v".repeat(3000)),
        ] {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let head = encode_static(StatusCode::OK, &headers);
        assert_eq!(decode_static(&head), Some(headers));
        assert_eq!(decode_static(b"\x02\x00"), None);
    }

    /// RFC 9110 section 15.4.5.
    #[test]
    fn a_304_keeps_what_does_not_describe_the_body() {
        let mut headers = stored();
        headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
        headers.insert("x-other", HeaderValue::from_static("kept"));
        let head = encode_static(StatusCode::OK, &headers);
        let mut out = Vec::new();
        write_not_modified(&head, &mut out);
        let want = [
            field(":status", "304"),
            field("etag", "\"abc\""),
            field("cache-control", "max-age=60"),
            field("x-other", "kept"),
        ];
        assert_eq!(decode(&out), want);
    }

    #[test]
    fn an_empty_body_needs_no_frame() {
        let head = encode_static(StatusCode::NO_CONTENT, &HeaderMap::new());
        for body in [None, Some(0)] {
            let mut out = Vec::new();
            write_response(&mut out, &head, Dynamic::default(), body);
            assert_eq!(out, [&[1, head.len() as u8][..], &head].concat());
        }
    }

    #[test]
    fn a_response_fits_the_room_it_had() {
        let head = encode_static(StatusCode::OK, &stored());
        let mut out = Vec::with_capacity(256);
        let before = out.as_ptr();
        let dynamic = Dynamic {
            age: Some(u64::MAX),
            cache_status: b"popcache; hit; ttl=43",
        };
        write_response(&mut out, &head, dynamic, Some(1 << 40));
        assert_eq!(out.as_ptr(), before);
    }

    proptest! {
        #[test]
        fn frame_length_is_right(
            age in prop::option::of(any::<u64>()),
            status in "[ -~]{0,300}",
            static_len in 0usize..40_000,
            body in prop::option::of(0u64..1 << 40),
        ) {
            let mut headers = HeaderMap::new();
            headers.insert("x", HeaderValue::from_str(&"v".repeat(static_len)).unwrap());
            let head = encode_static(StatusCode::OK, &headers);
            let dynamic = Dynamic { age, cache_status: status.as_bytes() };
            let mut out = Vec::new();
            write_response(&mut out, &head, dynamic, body);
            let mut own = response(&head, dynamic, body, 7);
            prop_assert_eq!(&own, &out);
            own.extend_from_slice(b"7 bytes");
            prop_assert_eq!(own.len(), own.capacity());
            let (frame, used) = FrameHeader::parse(&out).unwrap();
            let (section, rest) = out[used..].split_at(frame.length as usize);
            let fields = decode(section);
            let mut want = vec![field(":status", "200"), field("x", &"v".repeat(static_len))];
            want.extend(age.map(|age| field("age", &age.to_string())));
            want.extend((!status.is_empty()).then(|| field("cache-status", &status)));
            prop_assert_eq!(fields, want);
            match body {
                None | Some(0) => prop_assert!(rest.is_empty()),
                Some(len) => {
                    let (data, _) = FrameHeader::parse(rest).unwrap();
                    prop_assert_eq!(data, FrameHeader { kind: kind::DATA, length: len });
                }
            }
        }
    }
}
