//! Cache keys.

/// Why a request has no cache key; answered with 400 (421 is for authorities nobody serves).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("bad authority: {0}")]
    Authority(&'static str),
    #[error("bad target: {0}")]
    Target(&'static str),
    /// Answered with 414.
    #[error("the request target is longer than {limit} bytes")]
    TooLong { limit: usize },
}

/// Why a URL given by an operator has no cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not an absolute URL of the form https://host[:port]/path[?query]")]
    NotHttps,
    #[error(transparent)]
    Bad(#[from] BadRequest),
}

/// Clears `out` and writes the cache key of (authority, path and query) to it.
pub fn write_key(
    authority: &[u8],
    target: &[u8],
    max_target: usize,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    let _ = (authority, target, max_target, out);
    Ok(())
}

/// The key of `https://host[:port]/path[?query]`: the bytes [`write_key`] gives for a request of it.
pub fn key_of_url(url: &str) -> Result<Vec<u8>, KeyError> {
    let _ = url;
    Err(KeyError::NotHttps)
}

/// Splits a key into authority (with port unless 443) and target.
pub fn split(key: &[u8]) -> (&[u8], &[u8]) {
    key.split_at(key.iter().position(|&b| b == b'/').unwrap_or(key.len()))
}

/// The host of a key, lower-case, without port: what [`crate::config::OriginRoute::hosts`] names.
pub fn host(key: &[u8]) -> &[u8] {
    split(key).0
}
