//! What may be kept, for how long, and how old it is (RFC 9111 sections 3 and 4).

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// What of the request bears on storing its response.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts {
    /// It carried Authorization (RFC 9111 section 3.5).
    pub authorization: bool,
    /// When it was sent upstream, milliseconds since the Unix epoch.
    pub sent_unix_ms: u64,
}

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Keep it.
    Store(Lifetime),
    /// Do not keep it, but requests that already wait for it may have it.
    Share,
    /// Only the request it was made for may have it.
    Private,
}

/// A decision and its reason, a token fit for Cache-Status `detail` and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub storage: Storage,
    pub reason: &'static str,
}

/// Times of a storable response, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Freshness lifetime (RFC 9111 section 4.2.1).
    pub lifetime_s: u32,
    /// `corrected_initial_age` when the response arrived (section 4.2.3).
    pub initial_age_s: u32,
    /// RFC 5861 section 3; 0 when absent or forbidden.
    pub swr_s: u32,
    /// RFC 5861 section 4; 0 when absent or forbidden.
    pub sie_s: u32,
    pub flags: Flags,
}

/// Facts about a stored response that later requests need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Never to be served stale (must-revalidate, proxy-revalidate, s-maxage).
    pub const MUST_REVALIDATE: Self = Self(1);
    /// May answer requests with Authorization (RFC 9111 section 3.5).
    pub const AUTHORIZED: Self = Self(2);
    /// RFC 8246.
    pub const IMMUTABLE: Self = Self(4);

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a stored response stands at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Value of the Age field, seconds.
    pub age_s: u64,
    /// Seconds of freshness left; 0 or less: stale.
    pub ttl_s: i64,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Fresh,
    /// May be served while it is being revalidated.
    StaleWhileRevalidate,
    /// May be served only when the origin fails.
    StaleIfError,
    Expired,
}

/// Decides about a response that arrived at `now_unix_ms`.
pub fn policy(
    request: RequestFacts,
    status: StatusCode,
    headers: &HeaderMap,
    now_unix_ms: u64,
    default_ttl: Duration,
) -> Decision {
    let _ = (request, status, headers, now_unix_ms, default_ttl);
    Decision {
        storage: Storage::Share,
        reason: "no-lifetime",
    }
}

/// How a response stored at `stored_unix_ms` stands at `now_unix_ms`.
pub fn fresh_at(times: &Lifetime, stored_unix_ms: u64, now_unix_ms: u64) -> Freshness {
    let resident_s = now_unix_ms.saturating_sub(stored_unix_ms) / 1000;
    let age_s = u64::from(times.initial_age_s) + resident_s;
    let ttl_s = i64::from(times.lifetime_s) - age_s as i64;
    let over_s = -ttl_s;
    let state = if ttl_s > 0 {
        State::Fresh
    } else if over_s < i64::from(times.swr_s) {
        State::StaleWhileRevalidate
    } else if over_s < i64::from(times.sie_s) {
        State::StaleIfError
    } else {
        State::Expired
    };
    Freshness {
        age_s,
        ttl_s,
        state,
    }
}
