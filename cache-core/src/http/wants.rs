//! What a client's Cache-Control asks of a stored response (RFC 9111 section 5.2.1), and whether one
//! may be used for it.
//!
//! A cache may follow those directives or not. Those that can only save a question to the origin
//! are followed by default; those that cause one are for the operator to allow: otherwise any
//! stranger could aim requests at the origin. Pragma, which RFC 9111 section 5.4 has retired, is
//! never looked at.

use crate::config::ClientCacheControl;
use crate::conn::h3::FieldSection;

use super::cache_control::RequestDirectives;
use super::freshness::{Flags, Freshness, Lifetime, State};

/// What to do with a stored response for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Serve,
    /// Serve it stale, and ask the origin meanwhile (RFC 5861 section 3).
    ServeAndRevalidate,
    /// It is too old: ask the origin first.
    TooOld,
    /// It is fresh, but the request asks for more (`fwd=request` of RFC 9211).
    NotAskedFor,
}

/// Reads the directives of a request that the configuration lets count.
pub fn read(section: &FieldSection, allowed: ClientCacheControl) -> RequestDirectives {
    if allowed == ClientCacheControl::Ignore || section.get(b"cache-control").is_none() {
        return RequestDirectives::default();
    }
    let lines = section
        .fields()
        .filter_map(|(name, value)| (name == b"cache-control").then_some(value));
    let asked = RequestDirectives::read(lines);
    match allowed {
        ClientCacheControl::Follow => asked,
        ClientCacheControl::Harmless | ClientCacheControl::Ignore => RequestDirectives {
            only_if_cached: asked.only_if_cached,
            max_stale: asked.max_stale,
            stale_if_error: asked.stale_if_error,
            ..RequestDirectives::default()
        },
    }
}

/// Judges a stored response that stands so.
pub fn judge(wants: &RequestDirectives, times: &Lifetime, stands: Freshness) -> Use {
    if wants.no_cache || wants.no_store {
        return Use::NotAskedFor;
    }
    let fresh = stands.state == State::Fresh;
    // RFC 8246 section 2: a reload need not ask about what never changes.
    let unchanging = fresh && times.flags.contains(Flags::IMMUTABLE);
    let too_old = wants
        .max_age
        .is_some_and(|max| stands.age_s > u64::from(max));
    let too_soon = wants
        .min_fresh
        .is_some_and(|min| stands.ttl_s < i64::from(min));
    if too_soon || (too_old && !unchanging) {
        return if fresh { Use::NotAskedFor } else { Use::TooOld };
    }
    match stands.state {
        State::Fresh => Use::Serve,
        // Section 5.2.1.1: with max-age and no max-stale, the client wants nothing stale.
        State::StaleWhileRevalidate if wants.max_age.is_none() => Use::ServeAndRevalidate,
        _ if may_be_stale_for(wants.max_stale, times, stands) => Use::Serve,
        _ => Use::TooOld,
    }
}

/// Whether a stored response may answer a request with Authorization without a question: it is fresh
/// enough, and for everyone (RFC 9111 section 3.5).
pub fn may_have_authorized(wants: &RequestDirectives, times: &Lifetime, stands: Freshness) -> bool {
    times.flags.contains(Flags::AUTHORIZED)
        && stands.state == State::Fresh
        && judge(wants, times, stands) == Use::Serve
}

/// Whether a stored response may be served because its origin fails: by what it said itself, or what
/// the request says (RFC 5861 section 4).
pub fn may_stand_in(wants: &RequestDirectives, times: &Lifetime, stands: Freshness) -> bool {
    if wants.no_cache || wants.no_store {
        return false;
    }
    let too_old = wants
        .max_age
        .is_some_and(|max| stands.age_s > u64::from(max));
    (stands.state != State::Expired && !too_old)
        || may_be_stale_for(wants.stale_if_error, times, stands)
        || may_be_stale_for(wants.max_stale, times, stands)
}

/// Whether a response is stale for no longer than the client bears, and may be stale at all.
fn may_be_stale_for(seconds: Option<u32>, times: &Lifetime, stands: Freshness) -> bool {
    let forbidden = times.flags.contains(Flags::MUST_REVALIDATE);
    seconds.is_some_and(|seconds| !forbidden && -stands.ttl_s <= i64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::h3::samples::request_with;
    use crate::http::freshness::fresh_at;

    fn wants(line: &str, allowed: ClientCacheControl) -> RequestDirectives {
        read(&request_with("GET", &[("cache-control", line)]), allowed)
    }

    /// A response of 100 s with windows of 10 s and 20 s, at this age.
    fn at(age_s: u64, flags: Flags, line: &str) -> (Use, bool) {
        let times = Lifetime {
            lifetime_s: 100,
            swr_s: 10,
            sie_s: 20,
            flags,
            ..Lifetime::default()
        };
        let stands = fresh_at(&times, 0, age_s * 1000);
        let wants = wants(line, ClientCacheControl::Follow);
        (
            judge(&wants, &times, stands),
            may_stand_in(&wants, &times, stands),
        )
    }

    /// RFC 9111 section 5.2.1.
    #[test]
    fn every_directive() {
        let none = Flags::default();
        let cases = [
            (50, "", (Use::Serve, true)),
            (105, "", (Use::ServeAndRevalidate, true)),
            (115, "", (Use::TooOld, true)),
            (125, "", (Use::TooOld, false)),
            (50, "no-cache", (Use::NotAskedFor, false)),
            (50, "no-store", (Use::NotAskedFor, false)),
            (105, "no-cache", (Use::NotAskedFor, false)),
            (0, "max-age=0", (Use::Serve, true)),
            (1, "max-age=0", (Use::NotAskedFor, false)),
            (50, "max-age=50", (Use::Serve, true)),
            (105, "max-age=200", (Use::TooOld, true)),
            (105, "max-age=200, max-stale=5", (Use::Serve, true)),
            (50, "min-fresh=50", (Use::Serve, true)),
            (51, "min-fresh=50", (Use::NotAskedFor, true)),
            (105, "min-fresh=0", (Use::TooOld, true)),
            (105, "max-stale=5", (Use::ServeAndRevalidate, true)),
            (115, "max-stale=15", (Use::Serve, true)),
            (125, "max-stale=24", (Use::TooOld, false)),
            (1000, "max-stale", (Use::Serve, true)),
            (125, "stale-if-error=25", (Use::TooOld, true)),
            (125, "stale-if-error=24", (Use::TooOld, false)),
            (
                125,
                "stale-if-error=99, no-cache",
                (Use::NotAskedFor, false),
            ),
        ];
        for (age_s, line, want) in cases {
            assert_eq!(at(age_s, none, line), want, "{line} at {age_s}");
        }
    }

    #[test]
    fn nobody_gets_stale_what_must_be_revalidated() {
        for line in ["max-stale", "stale-if-error=9999"] {
            assert_eq!(at(125, Flags::MUST_REVALIDATE, line), (Use::TooOld, false));
        }
    }

    /// RFC 8246 section 2.
    #[test]
    fn a_reload_does_not_ask_about_what_is_immutable() {
        assert_eq!(at(50, Flags::IMMUTABLE, "max-age=0").0, Use::Serve);
        assert_eq!(at(50, Flags::IMMUTABLE, "no-cache").0, Use::NotAskedFor);
        assert_eq!(at(105, Flags::IMMUTABLE, "max-age=0").0, Use::TooOld);
    }

    #[test]
    fn a_stranger_cannot_aim_requests_at_the_origin() {
        let line = "no-cache, no-store, max-age=0, min-fresh=9, only-if-cached, max-stale=1, stale-if-error=2";
        let harmless = RequestDirectives {
            only_if_cached: true,
            max_stale: Some(1),
            stale_if_error: Some(2),
            ..RequestDirectives::default()
        };
        assert_eq!(wants(line, ClientCacheControl::Harmless), harmless);
        let ignored = wants(line, ClientCacheControl::Ignore);
        assert_eq!(ignored, RequestDirectives::default());
        assert!(wants(line, ClientCacheControl::Follow).no_cache);
    }
}
