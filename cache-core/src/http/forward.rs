//! The fields of requests that go upstream.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::conn::h3::FieldSection;

/// For a fetch that answers many: nothing of any one client's request, so that no client can shape
/// what the others get. One coding (identity), so that there is one variant.
pub fn canonical() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
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
