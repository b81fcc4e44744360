//! What the cache makes of a request, and why: the same decisions that answer it, put into words.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::cache_control::RequestDirectives;
use super::freshness::{Freshness, Lifetime};
use super::key::{self, BadRequest};
use super::request::{self, Handling};
use super::routes::{RouteId, Routes};
use super::wants::{self, Use};
use crate::conn::h3::FieldSection;

/// How a request is handled, and by whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub handling: Handling,
    pub route: RouteId,
}

/// Writes the key of a request to `key`, as its route's rules say if it is looked up, and says how it
/// is handled. A method that is not allowed has no key. `spare` is room to work in.
pub fn plan(
    section: &FieldSection,
    routes: &Routes,
    max_target: usize,
    key: &mut Vec<u8>,
    spare: &mut Vec<u8>,
) -> Result<Plan, BadRequest> {
    let handling = request::classify(section);
    if handling == Handling::MethodNotAllowed {
        let route = RouteId::default();
        return Ok(Plan { handling, route });
    }
    key::write_key(section.authority(), section.path(), max_target, key)?;
    let route = routes.find(key, section.method());
    let rules = routes.rules(route);
    let handling = match handling {
        Handling::Lookup { head_only } if !rules.cache => Handling::Bypass { head_only },
        Handling::Bypass { head_only } if rules.cache && rules.store_authorized => {
            Handling::Authorized { head_only }
        }
        handling => handling,
    };
    if matches!(
        handling,
        Handling::Lookup { .. } | Handling::Authorized { .. }
    ) {
        rules.key.rewrite(key, spare);
    }
    Ok(Plan { handling, route })
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Memory,
    /// On the second tier, as far as its index can tell.
    Tier,
    Nowhere,
}

/// What a shard knows of the object of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its key; of the variant, if the resource has some.
    pub key: Bytes,
    /// The fields that tell variants apart.
    pub fields: Vec<HeaderName>,
    pub place: Place,
    /// What is in memory.
    pub object: Option<SeenObject>,
    pub pinned: bool,
    /// The last answer was for one request only: requests do not wait for each other.
    pub uncacheable: bool,
    /// It is being fetched.
    pub fetching: bool,
}

/// An object in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenObject {
    pub status: u16,
    pub headers: HeaderMap,
    pub body_len: u64,
    /// Surrogate keys.
    pub tags: usize,
    pub stored_unix_ms: u64,
    pub times: Lifetime,
    pub stands: Freshness,
    pub purged_softly: bool,
}

/// What would be done, as a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub does: &'static str,
    pub why: String,
}

/// What the cache would do with a request now. `seen` is `None` where there is no cache to ask.
pub fn verdict(plan: &Plan, wants: &RequestDirectives, seen: Option<&Seen>) -> Verdict {
    let verdict = |does, why: &str| Verdict {
        does,
        why: why.to_owned(),
    };
    match plan.handling {
        Handling::MethodNotAllowed => verdict("refuse", "405: the method is not served"),
        Handling::PassOn => verdict("pass", "its method is not answered from the cache"),
        Handling::Bypass { .. } => verdict(
            "pass",
            "it has credentials (Authorization), or its route has cache = false",
        ),
        Handling::Authorized { .. } => match seen.and_then(|seen| seen.object.as_ref()) {
            Some(object) if wants::may_have_authorized(wants, &object.times, object.stands) => {
                let why = format!("fresh for {} s more, and for everyone", object.stands.ttl_s);
                Verdict { does: "hit", why }
            }
            _ => verdict(
                "pass",
                "it has credentials (Authorization), and nothing fresh that everyone may have is there",
            ),
        },
        Handling::Lookup { .. } => match seen {
            None => verdict(
                "look up",
                "the object, if it is there, answers or is validated",
            ),
            Some(seen) => looked_up(wants, seen),
        },
    }
}

fn looked_up(wants: &RequestDirectives, seen: &Seen) -> Verdict {
    let used = seen
        .object
        .as_ref()
        .map(|object| (object, wants::judge(wants, &object.times, object.stands)));
    let (does, why) = match used {
        Some((object, Use::Serve)) if object.stands.ttl_s > 0 && !object.purged_softly => {
            ("hit", format!("fresh for {} s more", object.stands.ttl_s))
        }
        Some((object, Use::Serve)) => {
            let stale_s = -object.stands.ttl_s;
            (
                "hit",
                format!("stale for {stale_s} s, which the request's max-stale allows"),
            )
        }
        Some((object, Use::ServeAndRevalidate)) => {
            let (stale_s, window) = (-object.stands.ttl_s, object.times.swr_s);
            let why = format!(
                "stale for {stale_s} s, within stale-while-revalidate ({window} s): served, and asked for meanwhile"
            );
            ("hit", why)
        }
        Some((_, Use::NotAskedFor)) => (
            "validate",
            "fresh, but the request's Cache-Control asks for more".to_owned(),
        ),
        Some((object, Use::TooOld)) => {
            let stale_s = -object.stands.ttl_s;
            let window = object.times.sie_s;
            let why = format!(
                "stale for {stale_s} s; should the origin fail, stale-if-error ({window} s) counts"
            );
            ("validate", why)
        }
        None => missing(seen),
    };
    match does {
        "hit" => Verdict { does, why },
        _ if wants.only_if_cached => Verdict {
            does: "refuse",
            why: "504: only-if-cached, and memory has no answer".to_owned(),
        },
        _ => Verdict { does, why },
    }
}

fn missing(seen: &Seen) -> (&'static str, String) {
    let (does, why) = match seen.place {
        Place::Tier => ("read tier", "it is on the second tier"),
        _ if seen.uncacheable => (
            "pass",
            "its last answer was for one request only, a moment ago",
        ),
        _ if seen.fetching => ("join", "it is being fetched"),
        _ if !seen.fields.is_empty() => ("fetch", "this variant of the resource is not there"),
        _ => ("fetch", "it is not there"),
    };
    (does, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientCacheControl;
    use crate::conn::h3::samples::{read, request_with};
    use crate::http::freshness::fresh_at;
    use crate::http::pattern::Pattern;
    use crate::http::routes::{Route, Rules};

    fn planned(routes: &Routes, fields: &[(&str, &str)]) -> (Result<Plan, BadRequest>, String) {
        let (mut key, mut spare) = (b"old".to_vec(), b"old".to_vec());
        let plan = plan(&read(fields), routes, 64, &mut key, &mut spare);
        (plan, String::from_utf8(key).unwrap())
    }

    fn request<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
        [
            (":method", method),
            (":authority", "E.test"),
            (":scheme", "https"),
            (":path", path),
        ]
    }

    fn routes() -> Routes {
        let route = |name: &str, path: &str, rules| Route {
            name: name.to_owned(),
            hosts: Vec::new(),
            paths: vec![Pattern::new(path).unwrap()],
            extensions: Vec::new(),
            methods: Vec::new(),
            rules,
        };
        let mut sorted = Rules::default();
        sorted.key.sort = true;
        let uncached = Rules {
            cache: false,
            ..Rules::default()
        };
        Routes::new(vec![
            route("api", "/api/", uncached),
            route("all", "/", sorted),
        ])
    }

    #[test]
    fn only_what_is_looked_up_has_its_key_rewritten() {
        let routes = routes();
        let handling = |fields: &[(&str, &str)]| {
            let (plan, key) = planned(&routes, fields);
            (plan.unwrap().handling, key)
        };
        let lookup = Handling::Lookup { head_only: false };
        let bypass = Handling::Bypass { head_only: false };
        assert_eq!(
            handling(&request("GET", "/a?b&a")),
            (lookup, "e.test/a?a&b".to_owned())
        );
        assert_eq!(
            handling(&request("POST", "/a?b&a")),
            (Handling::PassOn, "e.test/a?b&a".to_owned())
        );
        assert_eq!(
            handling(&request("GET", "/api/?b&a")),
            (bypass, "e.test/api/?b&a".to_owned())
        );
        let refused = planned(&routes, &request("TRACE", "/a")).0.unwrap();
        assert_eq!(refused.handling, Handling::MethodNotAllowed);
        assert!(planned(&routes, &request("GET", "/a/../b")).0.is_err());
    }

    /// Shapes that poison caches: none makes another request's key, or a key at all.
    #[test]
    fn no_shape_of_a_request_has_the_key_of_another() {
        let routes = Routes::default();
        let plain = planned(&routes, &request("GET", "/a")).1;
        for path in [
            "/a?",
            "/a/",
            "//a",
            "/A",
            "/%61",
            "/a%3F",
            "/a;x",
            "/a%2F",
            "/a%00",
            "/a%0D%0Ax",
        ] {
            let (plan, key) = planned(&routes, &request("GET", path));
            assert!(plan.is_err() || key != plain, "{path}");
        }
        for path in [
            "/a\\", "/./a", "/x/../a", "/%2e/a", "/.%2E/a", "/a#", "/\u{e9}",
        ] {
            assert!(planned(&routes, &request("GET", path)).0.is_err(), "{path}");
        }
        // Nothing of these is part of a key, and nothing of them reaches a shared fetch.
        let poison = [
            ("x-forwarded-host", "evil"),
            ("x-original-url", "/b"),
            ("x-rewrite-url", "/b"),
            ("x-http-method-override", "POST"),
        ];
        let fields = [&request("GET", "/a")[..], &poison].concat();
        assert_eq!(planned(&routes, &fields).1, plain);
    }

    fn seen(age_s: u64) -> Seen {
        let times = Lifetime {
            lifetime_s: 100,
            swr_s: 10,
            ..Lifetime::default()
        };
        Seen {
            key: Bytes::from_static(b"e/a"),
            fields: Vec::new(),
            place: Place::Memory,
            object: Some(SeenObject {
                status: 200,
                headers: HeaderMap::new(),
                body_len: 1,
                tags: 0,
                stored_unix_ms: 0,
                times,
                stands: fresh_at(&times, 0, age_s * 1000),
                purged_softly: false,
            }),
            pinned: false,
            uncacheable: false,
            fetching: false,
        }
    }

    #[test]
    fn verdicts_are_what_would_be_done() {
        let says = |line: &str, seen: &Seen| {
            let section = request_with("GET", &[("cache-control", line)]);
            let wants = wants::read(&section, ClientCacheControl::Follow);
            let plan = Plan {
                handling: Handling::Lookup { head_only: false },
                route: RouteId::default(),
            };
            verdict(&plan, &wants, Some(seen)).does
        };
        let gone = |place, uncacheable, fetching| Seen {
            object: None,
            place,
            uncacheable,
            fetching,
            ..seen(0)
        };
        assert_eq!(says("", &seen(1)), "hit");
        assert_eq!(says("", &seen(105)), "hit");
        assert_eq!(says("", &seen(111)), "validate");
        assert_eq!(says("no-cache", &seen(1)), "validate");
        assert_eq!(says("only-if-cached", &seen(1)), "hit");
        assert_eq!(says("only-if-cached", &seen(111)), "refuse");
        assert_eq!(says("max-stale", &seen(111)), "hit");
        assert_eq!(says("", &gone(Place::Tier, false, false)), "read tier");
        assert_eq!(says("", &gone(Place::Nowhere, true, false)), "pass");
        assert_eq!(says("", &gone(Place::Nowhere, false, true)), "join");
        assert_eq!(says("", &gone(Place::Nowhere, false, false)), "fetch");
    }
}
