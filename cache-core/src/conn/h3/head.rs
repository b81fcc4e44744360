//! Response heads: pre-encoded when an object is stored, completed when it is served.

use http::{HeaderMap, StatusCode};

/// Fields that differ from one response to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic<'a> {
    /// Seconds; `None` leaves the field out.
    pub age: Option<u64>,
    /// A Cache-Status value ([`crate::http::cache_status`]); empty leaves the field out.
    pub cache_status: &'a [u8],
}

/// Encodes what stays the same of a response head: section prefix, `:status` and the fields, but
/// for hop-by-hop fields, Age and Cache-Status. No frame header.
pub fn encode_static(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let _ = (status, headers);
    Vec::new()
}

/// Appends a HEADERS frame of `static_head` and `dynamic` and, for a body of known length that
/// follows, the header of its DATA frame. Allocates only if `out` must grow.
pub fn write_response(
    out: &mut Vec<u8>,
    static_head: &[u8],
    dynamic: Dynamic<'_>,
    body_len: Option<u64>,
) {
    let _ = (out, static_head, dynamic, body_len);
}

/// Appends the header of a DATA frame of `len` bytes.
pub fn data_frame_header(out: &mut Vec<u8>, len: u64) {
    let _ = (out, len);
}
