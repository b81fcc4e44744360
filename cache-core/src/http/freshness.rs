//! What may be kept, for how long, and how old it is: RFC 9111 sections 3 and 4 for a shared cache,
//! RFC 5861 for staleness.
//!
//! Stricter than the RFC on purpose:
//! - a response with Set-Cookie is for the one who asked, unless the configuration says otherwise;
//! - so is a 206: ranges are cut from whole objects;
//! - what is never fresh is kept only where it can be validated.
//!
//! Laxer in one point: a response that is not kept for want of a lifetime may still answer the
//! requests that were waiting for it ([`Storage::Share`]). They came before it was made, so it is as
//! fresh for them as for the first.

use std::time::{Duration, SystemTime};

use http::header::{self, AsHeaderName};
use http::{HeaderMap, StatusCode};

use crate::config::Caching;

use super::cache_control::{MAX_SECONDS, ResponseDirectives, delta_seconds};
use super::routes::Rules;
use super::{freshen, targeted};

/// What of the request bears on storing its response.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts {
    /// It was sent upstream with Authorization (RFC 9111 section 3.5).
    pub authorization: bool,
    /// What private and no-cache name is not stored with the rest ([`super::withheld`]). Without that,
    /// such a response is for the one who asked.
    pub withholds: bool,
    /// When it was sent upstream, milliseconds since the Unix epoch; 0: not known.
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
    /// Nobody but the one who asked may have this answer. Kept, it must be validated for each
    /// request (`no-cache`, and must-revalidate on what is never fresh).
    pub alone: bool,
}

/// Times of a storable response, in seconds, none above [`MAX_SECONDS`].
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
    /// Not to be served stale outside its windows, whoever asks for it: must-revalidate,
    /// proxy-revalidate and no-cache, which close the windows too, and s-maxage.
    pub const MUST_REVALIDATE: Self = Self(1);
    /// May answer requests with Authorization (RFC 9111 section 3.5).
    pub const AUTHORIZED: Self = Self(2);
    /// RFC 8246.
    pub const IMMUTABLE: Self = Self(4);

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn with(self, other: Self, wanted: bool) -> Self {
        if wanted { Self(self.0 | other.0) } else { self }
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

/// Decides about a response that arrived at `now_unix_ms`, milliseconds since the Unix epoch.
pub fn policy(
    request: RequestFacts,
    status: StatusCode,
    headers: &HeaderMap,
    now_unix_ms: u64,
    caching: &Caching,
    rules: &Rules,
) -> Decision {
    let (named, targeted) = targeted::directives(headers, caching);
    let directives = respected(&named, rules);
    if let Some(reason) = private_reason(request, status, headers, &directives) {
        return decision(Storage::Private, reason);
    }
    let clock = Clock::read(request, headers, now_unix_ms);
    let explicit =
        explicit_lifetime(headers, &directives, targeted, &clock).filter(|_| rules.respect_origin);
    let cookie = headers.contains_key(header::SET_COOKIE);
    if cookie && !(caching.store_set_cookie && explicit.is_some()) {
        return decision(Storage::Private, "set-cookie");
    }
    let (lifetime_s, reason) = match explicit {
        _ if directives.no_cache => (0, "no-cache"),
        Some(explicit) => (explicit, "explicit"),
        None => match implied_lifetime(status, headers, &directives, &clock, (caching, rules)) {
            Some(implied) => implied,
            None => return decision(Storage::Share, "no-lifetime"),
        },
    };
    let (lifetime_s, reason) = bounded(status, lifetime_s, reason, &directives, rules);
    let times = Lifetime {
        lifetime_s,
        initial_age_s: clock.initial_age_s,
        ..stale_windows(&directives, caching, rules)
    };
    if times.initial_age_s < lifetime_s.saturating_add(times.swr_s.max(times.sie_s)) {
        return decision(Storage::Store(times), reason);
    }
    never_fresh(times, &directives, freshen::has_validator(status, headers))
}

/// What of a response's directives counts. Whom it may be given to is for the origin alone to say.
fn respected(named: &ResponseDirectives, rules: &Rules) -> ResponseDirectives {
    if rules.respect_origin && rules.force_ttl.is_none() {
        return *named;
    }
    let windows = |seconds: Option<u32>| seconds.filter(|_| rules.respect_origin);
    ResponseDirectives {
        no_store: named.no_store,
        private: named.private,
        public: named.public,
        must_understand: named.must_understand,
        no_transform: named.no_transform,
        malformed: named.malformed,
        names_fields: named.names_fields,
        immutable: named.immutable && rules.respect_origin,
        stale_while_revalidate: windows(named.stale_while_revalidate),
        stale_if_error: windows(named.stale_if_error),
        ..ResponseDirectives::default()
    }
}

/// A lifetime within the bounds of its route.
fn bounded(
    status: StatusCode,
    lifetime_s: u32,
    reason: &'static str,
    directives: &ResponseDirectives,
    rules: &Rules,
) -> (u32, &'static str) {
    if directives.no_cache {
        return (lifetime_s, reason);
    }
    let is_error = status.is_client_error() || status.is_server_error();
    let (low, high) = (seconds(rules.min_ttl), seconds(rules.max_ttl));
    match rules.force_ttl {
        _ if is_error => match seconds(rules.negative_max) {
            most if lifetime_s > most => (most, "negative-max"),
            _ => (lifetime_s, reason),
        },
        Some(forced) => (seconds(forced), "force-ttl"),
        None if lifetime_s < low => (low, "min-ttl"),
        None if lifetime_s > high => (high, "max-ttl"),
        None => (lifetime_s, reason),
    }
}

/// Lifetime of an error that names none, where the route has one.
fn error_lifetime(status: StatusCode, rules: &Rules) -> Option<Duration> {
    match status.as_u16() {
        404 | 405 | 410 | 414 | 501 => rules.negative_ttl,
        500 | 502 | 503 | 504 => Some(rules.error_ttl).filter(|ttl| !ttl.is_zero()),
        _ => None,
    }
}

/// About a response that is stale already when it arrives.
fn never_fresh(times: Lifetime, directives: &ResponseDirectives, validator: bool) -> Decision {
    let must_revalidate =
        directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage == Some(0);
    let reason = match (directives.no_cache, must_revalidate, times.lifetime_s) {
        (true, ..) => "no-cache",
        (_, true, _) => "must-revalidate",
        (.., 0) => "no-lifetime",
        _ => "already-stale",
    };
    let alone = directives.no_cache || must_revalidate;
    let storage = match (validator, alone) {
        (true, _) => Storage::Store(times),
        (false, true) => Storage::Private,
        (false, false) => Storage::Share,
    };
    Decision {
        storage,
        reason,
        alone,
    }
}

/// How a response stored at `stored_unix_ms` stands at `now_unix_ms`. A clock that was put back
/// makes it no younger than it was.
pub fn fresh_at(times: &Lifetime, stored_unix_ms: u64, now_unix_ms: u64) -> Freshness {
    let resident_s = now_unix_ms.saturating_sub(stored_unix_ms) / 1000;
    let age_s = u64::from(times.initial_age_s) + resident_s;
    let ttl_s = i64::from(times.lifetime_s) - age_s as i64;
    let stale_s = -ttl_s;
    let state = if ttl_s > 0 {
        State::Fresh
    } else if stale_s < i64::from(times.swr_s) {
        State::StaleWhileRevalidate
    } else if stale_s < i64::from(times.sie_s) {
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

/// How a response that stood so stands once its lifetime was ended from outside (a soft purge): stale,
/// within its windows as if they began now.
pub fn ended(times: &Lifetime, stands: Freshness) -> Freshness {
    let state = match stands.state {
        State::Fresh if times.swr_s > 0 => State::StaleWhileRevalidate,
        State::Fresh if times.sie_s > 0 => State::StaleIfError,
        State::Fresh => State::Expired,
        state => state,
    };
    Freshness {
        ttl_s: stands.ttl_s.min(0),
        state,
        ..stands
    }
}

/// Why a response may be given to nobody but the one who asked (RFC 9111 sections 3 and 3.5).
fn private_reason(
    request: RequestFacts,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
) -> Option<&'static str> {
    // RFC 9111 section 5.2.2.3: made for caches that know the status, to ignore the no-store which
    // stands beside it for the others.
    let excused = directives.must_understand && is_understood(status) && !directives.malformed;
    let reasons = [
        (directives.malformed, "malformed-cache-control"),
        (directives.no_store && !excused, "no-store"),
        (directives.private, "private"),
        (
            directives.names_fields && !request.withholds,
            "names-fields",
        ),
        (
            directives.must_understand && !is_understood(status),
            "must-understand",
        ),
        (
            request.authorization && !allows_authorized(directives),
            "authorization",
        ),
        (varies_by_everything(headers), "vary"),
        (status.is_informational(), "not-final"),
        (status == StatusCode::PARTIAL_CONTENT, "partial"),
        (status == StatusCode::NOT_MODIFIED, "not-modified"),
    ];
    reasons
        .into_iter()
        .find_map(|(holds, reason)| holds.then_some(reason))
}

/// RFC 9111 section 3.5.
fn allows_authorized(directives: &ResponseDirectives) -> bool {
    directives.public || directives.must_revalidate || directives.s_maxage.is_some()
}

/// Which fields else Vary names is for [`super::vary`] to say.
fn varies_by_everything(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .any(|name| name == b"*")
}

/// Statuses whose meaning for caches we know (RFC 9110 section 15).
fn is_understood(status: StatusCode) -> bool {
    is_heuristically_cacheable(status)
        || matches!(
            status.as_u16(),
            302 | 303 | 307 | 400 | 401 | 403 | 409 | 421 | 429 | 451 | 500 | 502 | 503 | 504
        )
}

/// RFC 9110 section 15.1, without 206.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// RFC 9111 section 4.2.2, but for failures of the origin: an error is kept only if it asks to be.
fn may_default(status: StatusCode, directives: &ResponseDirectives) -> bool {
    !status.is_server_error() && (is_heuristically_cacheable(status) || directives.public)
}

/// RFC 9111 section 4.2.1: s-maxage, else max-age, else Expires, which goes with Cache-Control.
fn explicit_lifetime(
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    clock: &Clock,
) -> Option<u32> {
    let named = directives.s_maxage.or(directives.max_age);
    match targeted {
        true => named,
        false => named.or_else(|| expires_lifetime(headers, clock)),
    }
}

/// RFC 9111 section 4.2.2: a part of the time since Last-Modified, where there is one, else the
/// configured default.
fn implied_lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    clock: &Clock,
    (caching, rules): (&Caching, &Rules),
) -> Option<(u32, &'static str)> {
    if let Some(ttl) = error_lifetime(status, rules) {
        return Some((seconds(ttl), "negative-ttl"));
    }
    let cacheable = is_heuristically_cacheable(status) || directives.public;
    let modified_s = single_date(headers, header::LAST_MODIFIED);
    if let Some(modified_s) = modified_s.filter(|_| cacheable && caching.heuristic_percent > 0) {
        let unchanged_s = clock.date_s.saturating_sub(modified_s);
        let part = unchanged_s.saturating_mul(u64::from(caching.heuristic_percent)) / 100;
        let lifetime_s = clamp(part).min(seconds(caching.heuristic_max));
        return Some((lifetime_s, "heuristic"));
    }
    let ttl = rules.default_ttl.unwrap_or(caching.default_ttl);
    may_default(status, directives).then(|| (seconds(ttl), "default-ttl"))
}

/// Expires less Date. Section 5.3: what is no date is in the past; so is one of several.
fn expires_lifetime(headers: &HeaderMap, clock: &Clock) -> Option<u32> {
    if !headers.contains_key(header::EXPIRES) {
        return None;
    }
    let expires_s = single_date(headers, header::EXPIRES).unwrap_or(0);
    Some(clamp(expires_s.saturating_sub(clock.date_s)))
}

/// The windows of RFC 5861 and the flags. must-revalidate and proxy-revalidate close the windows;
/// s-maxage, which implies proxy-revalidate, does not: an origin that names both means both. It does
/// close the window that is configured for origins that name none.
fn stale_windows(directives: &ResponseDirectives, caching: &Caching, rules: &Rules) -> Lifetime {
    let must_revalidate = directives.must_revalidate || directives.proxy_revalidate;
    let window = |seconds: Option<u32>| match must_revalidate || directives.no_cache {
        true => 0,
        false => seconds.unwrap_or(0),
    };
    let default = |window: Duration| directives.s_maxage.is_none().then(|| seconds(window));
    let while_failing = rules.stale_if_error.unwrap_or(caching.stale_if_error);
    Lifetime {
        swr_s: window(
            directives
                .stale_while_revalidate
                .or(default(rules.stale_while_revalidate)),
        ),
        sie_s: window(directives.stale_if_error.or(default(while_failing))),
        flags: Flags::default()
            .with(
                Flags::MUST_REVALIDATE,
                must_revalidate || directives.no_cache || directives.s_maxage.is_some(),
            )
            .with(Flags::AUTHORIZED, allows_authorized(directives))
            .with(Flags::IMMUTABLE, directives.immutable),
        ..Lifetime::default()
    }
}

/// The times of a response.
struct Clock {
    /// Date, or the time of arrival where there is none; seconds since the Unix epoch.
    date_s: u64,
    /// RFC 9111 section 4.2.3.
    initial_age_s: u32,
}

impl Clock {
    fn read(request: RequestFacts, headers: &HeaderMap, now_unix_ms: u64) -> Self {
        let now_s = now_unix_ms / 1000;
        let date_s = single_date(headers, header::DATE).unwrap_or(now_s);
        let apparent_age_s = now_s.saturating_sub(date_s);
        let response_delay_s = now_unix_ms.saturating_sub(request.sent_unix_ms) / 1000;
        // A request that was never given a time is taken to have been answered at once.
        let response_delay_s = match request.sent_unix_ms {
            0 => 0,
            _ => response_delay_s,
        };
        let corrected_age_s = age_value(headers).saturating_add(response_delay_s);
        Self {
            date_s,
            initial_age_s: clamp(apparent_age_s.max(corrected_age_s)),
        }
    }
}

/// The Age that a response came with, to be passed on with it.
pub fn received_age(headers: &HeaderMap) -> Option<u64> {
    headers
        .contains_key(header::AGE)
        .then(|| age_value(headers))
}

/// RFC 9111 section 5.1: of several ages the first one holds; what is no number is as good as absent.
/// Parameters, as a structured field might have, are passed over.
fn age_value(headers: &HeaderMap) -> u64 {
    let field = headers.get(header::AGE).map(|value| value.as_bytes());
    let first = field.and_then(|value| value.split(|b| matches!(b, b',' | b';')).next());
    let seconds = first.and_then(|age| delta_seconds(age.trim_ascii()));
    u64::from(seconds.unwrap_or(0))
}

/// The date of a field that must appear once, in seconds since the Unix epoch.
fn single_date(headers: &HeaderMap, name: impl AsHeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let (first, more) = (values.next()?, values.next());
    if more.is_some() {
        return None;
    }
    unix_seconds(first.as_bytes())
}

/// An HTTP-date (RFC 9110 section 5.6.7) in seconds since the Unix epoch.
pub(super) fn unix_seconds(date: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(date).ok()?;
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn seconds(duration: Duration) -> u32 {
    clamp(duration.as_secs())
}

fn clamp(seconds: u64) -> u32 {
    seconds.min(u64::from(MAX_SECONDS)) as u32
}

fn decision(storage: Storage, reason: &'static str) -> Decision {
    Decision {
        storage,
        reason,
        alone: storage == Storage::Private,
    }
}

#[cfg(test)]
mod tests;
