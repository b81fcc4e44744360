//! What a request asks of the cache.

use crate::conn::h3::FieldSection;

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Look in the cache; on a miss share a fetch.
    Lookup { head_only: bool },
    /// Ask upstream for this request alone: it carries credentials (RFC 9111 section 3.5).
    Bypass { head_only: bool },
    /// Answered with 405 and Allow: GET, HEAD.
    MethodNotAllowed,
}

/// Decides by method and Authorization. Methods are case-sensitive (RFC 9110 section 9.1).
pub fn classify(section: &FieldSection) -> Handling {
    let head_only = match section.method() {
        b"GET" => false,
        b"HEAD" => true,
        _ => return Handling::MethodNotAllowed,
    };
    match section.get(b"authorization") {
        Some(_) => Handling::Bypass { head_only },
        None => Handling::Lookup { head_only },
    }
}
