//! Cache-Status (RFC 9211): how a request was answered, for whoever debugs.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry, Parser};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request was forwarded (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The request's method is not answered from the cache.
    Method,
    /// Nothing was stored for the URI.
    UriMiss,
    /// Other variants may be stored, the one asked for is not.
    VaryMiss,
    /// Something fresh was stored, and the request asks for more (its Cache-Control).
    Request,
    /// Something was stored, and too old.
    Stale,
    /// Some of what was asked for was stored, and the rest is fetched.
    Partial,
    /// The cache was told not to handle the request.
    Bypass,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// From the cache; `ttl` seconds of freshness are left (negative: stale for so long).
    Hit { ttl: i64 },
    /// The same, read from the second tier.
    TierHit { ttl: i64 },
    Forwarded {
        why: Forward,
        /// The response was stored.
        stored: bool,
        /// The request joined another one's fetch.
        collapsed: bool,
        /// The origin confirmed what was stored (304).
        confirmed: bool,
        /// A token that says more, e.g. the reason of [`super::freshness::Decision`].
        detail: Option<&'static str>,
    },
    /// Answered by the node itself, e.g. 503; `detail`, a token, says why.
    Own { detail: &'static str },
}

impl Forward {
    fn token(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
            Self::Bypass => "bypass",
        }
    }
}

/// Whether the nearest cache upstream, the last one of the list, answered from what it had. False
/// where there is no readable Cache-Status.
pub fn nearest_was_hit(headers: &HeaderMap) -> bool {
    let mut list = Vec::new();
    for value in headers.get_all(CACHE_STATUS) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value.as_bytes());
    }
    let Ok(list) = Parser::new(&list).parse::<List>() else {
        return false;
    };
    let hit = |parameters: &sfv::Parameters| {
        parameters
            .get("hit")
            .is_some_and(|hit| *hit == BareItem::Boolean(true))
    };
    match list.last() {
        Some(ListEntry::Item(cache)) => hit(&cache.params),
        _ => false,
    }
}

/// Appends the field value for the cache called `name`, a token. Allocates only if `out` must grow.
pub fn write(out: &mut Vec<u8>, name: &str, status: &CacheStatus) {
    out.extend_from_slice(name.as_bytes());
    match *status {
        CacheStatus::Hit { ttl } => {
            out.extend_from_slice(b"; hit; ttl=");
            write_int(out, ttl);
        }
        CacheStatus::TierHit { ttl } => {
            out.extend_from_slice(b"; hit; ttl=");
            write_int(out, ttl);
            write_parameter(out, "detail", "nvme");
        }
        CacheStatus::Forwarded {
            why,
            stored,
            collapsed,
            confirmed,
            detail,
        } => {
            write_parameter(out, "fwd", why.token());
            if confirmed {
                write_parameter(out, "fwd-status", "304");
            }
            if stored {
                out.extend_from_slice(b"; stored");
            }
            if collapsed {
                out.extend_from_slice(b"; collapsed");
            }
            if let Some(detail) = detail {
                write_parameter(out, "detail", detail);
            }
        }
        CacheStatus::Own { detail } => write_parameter(out, "detail", detail),
    }
}

fn write_parameter(out: &mut Vec<u8>, name: &str, token: &str) {
    out.extend_from_slice(b"; ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    out.extend_from_slice(token.as_bytes());
}

fn write_int(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = [0; 20];
    out.extend_from_slice(super::decimal(value.unsigned_abs(), &mut digits));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: CacheStatus) -> String {
        let mut out = Vec::new();
        write(&mut out, "popcache", &status);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_nearest_cache_is_the_last_one() {
        let was_hit = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_STATUS, http::HeaderValue::from_static(value));
            }
            nearest_was_hit(&headers)
        };
        assert!(was_hit(&[
            "origin-cache; fwd=uri-miss",
            "shield; hit; ttl=3"
        ]));
        assert!(was_hit(&["\"a shield, quoted\"; hit"]));
        assert!(!was_hit(&[
            "origin-cache; hit, shield; fwd=stale; collapsed"
        ]));
        assert!(!was_hit(&["shield; hit=?0"]));
        assert!(!was_hit(&["not a ; ; list; hit"]));
        assert!(!was_hit(&[]));
    }

    fn forwarded(why: Forward) -> CacheStatus {
        CacheStatus::Forwarded {
            why,
            stored: false,
            collapsed: false,
            confirmed: false,
            detail: None,
        }
    }

    /// RFC 9211 section 2.
    #[test]
    fn every_form() {
        let stored = CacheStatus::Forwarded {
            why: Forward::UriMiss,
            stored: true,
            collapsed: false,
            confirmed: false,
            detail: None,
        };
        let collapsed = CacheStatus::Forwarded {
            why: Forward::Stale,
            stored: true,
            collapsed: true,
            confirmed: true,
            detail: Some("no-store"),
        };
        let cases = [
            (CacheStatus::Hit { ttl: 43 }, "popcache; hit; ttl=43"),
            (CacheStatus::Hit { ttl: 0 }, "popcache; hit; ttl=0"),
            (CacheStatus::Hit { ttl: -7 }, "popcache; hit; ttl=-7"),
            (stored, "popcache; fwd=uri-miss; stored"),
            (
                collapsed,
                "popcache; fwd=stale; fwd-status=304; stored; collapsed; detail=no-store",
            ),
            (forwarded(Forward::Bypass), "popcache; fwd=bypass"),
            (forwarded(Forward::VaryMiss), "popcache; fwd=vary-miss"),
            (forwarded(Forward::Method), "popcache; fwd=method"),
            (forwarded(Forward::Request), "popcache; fwd=request"),
            (CacheStatus::Own { detail: "busy" }, "popcache; detail=busy"),
        ];
        for (status, want) in cases {
            assert_eq!(written(status), want);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for ttl in [i64::MIN, i64::MAX] {
            let want = format!("popcache; hit; ttl={ttl}");
            assert_eq!(written(CacheStatus::Hit { ttl }), want);
        }
    }
}
