//! Requests as real clients send them, for tests.

use super::frame::{FrameHeader, kind};
use super::qpack;
use super::{FieldSection, Progress, RequestReader};

/// Name and value of each field, in the client's order.
pub type Sample = &'static [(&'static str, &'static str)];

/// Chromium fetching an image.
pub const CHROMIUM: Sample = &[
    (":method", "GET"),
    (":authority", "edge.test"),
    (":scheme", "https"),
    (":path", "/emotes/v2/305954156/default/dark/2.0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ),
    (
        "sec-ch-ua",
        "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"",
    ),
    ("sec-ch-ua-mobile", "?0"),
    (
        "accept",
        "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    ),
    ("sec-fetch-site", "same-site"),
    ("sec-fetch-mode", "no-cors"),
    ("sec-fetch-dest", "image"),
    ("referer", "https://www.edge.test/"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-US,en;q=0.9"),
    ("priority", "u=2, i"),
];

/// curl with its defaults.
pub const CURL: Sample = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "edge.test:4433"),
    (":path", "/status.json?channel=42"),
    ("user-agent", "curl/8.21.0"),
    ("accept", "*/*"),
];

/// A player that asks again for a playlist it holds.
pub const PLAYER: Sample = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "edge.test"),
    (":path", "/live/a/playlist.m3u8?_HLS_msn=12&_HLS_part=3"),
    ("accept", "*/*"),
    ("origin", "https://player.test"),
    ("if-none-match", "\"5f3-62a1\""),
    ("cache-control", "max-age=0"),
    ("user-agent", "AppleCoreMedia/1.0.0.22A3370"),
    (
        "x-playback-session-id",
        "0D8F2C52-3C1E-4C0B-9A3E-0B8B9E4D7D11",
    ),
];

/// The field section of a request, as a client with a static table and Huffman coding sends it.
pub fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    qpack::write_prefix(&mut out);
    for (name, value) in fields {
        qpack::write_field(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

/// A frame.
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = payload.len() as u64;
    FrameHeader { kind, length }.write(&mut out);
    out.extend_from_slice(payload);
    out
}

/// Chromium's request with another method and more fields, as it is read.
pub fn request_with(method: &str, extra: &[(&str, &str)]) -> FieldSection {
    read(&[&[(":method", method)], &CHROMIUM[1..], extra].concat())
}

/// A request as it is read.
pub fn read(fields: &[(&str, &str)]) -> FieldSection {
    let mut section = FieldSection::new(16 << 10);
    let read = RequestReader::new().push(&headers(fields), true, &mut section);
    assert_eq!(read, Ok(Progress::Request));
    section
}

/// The HEADERS frame of a request.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, &section(fields))
}
