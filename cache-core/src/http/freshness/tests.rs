use super::*;
use crate::http::samples::map;
use proptest::prelude::*;

/// Sun, 22 Nov 2026 12:00:00 GMT.
const NOW_S: u64 = 1_795_348_800;
const NOW_MS: u64 = NOW_S * 1000;

/// Fields of a response.
type Sample<'a> = &'a [(&'a str, &'a str)];

fn date(offset_s: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S.saturating_add_signed(offset_s));
    httpdate::fmt_http_date(time)
}

fn decide(status: u16, fields: &[(&str, &str)]) -> Decision {
    decide_with(RequestFacts::default(), status, fields, 0)
}

fn decide_with(
    request: RequestFacts,
    status: u16,
    fields: &[(&str, &str)],
    default_s: u64,
) -> Decision {
    let status = StatusCode::from_u16(status).unwrap();
    let caching = Caching {
        default_ttl: Duration::from_secs(default_s),
        ..Caching::default()
    };
    policy(
        request,
        status,
        &map(fields),
        NOW_MS,
        &caching,
        &Rules::default(),
    )
}

fn times(fields: &[(&str, &str)]) -> Lifetime {
    match decide(200, fields) {
        Decision {
            storage: Storage::Store(times),
            ..
        } => times,
        other => panic!("{fields:?}: {other:?}"),
    }
}

fn cache_control(value: &str) -> [(&str, &str); 1] {
    [("cache-control", value)]
}

#[test]
fn the_test_clock_is_what_it_says() {
    assert_eq!(date(0), "Sun, 22 Nov 2026 12:00:00 GMT");
}

/// RFC 9111 section 3: what is for the one who asked.
#[test]
fn private() {
    let cases: [(u16, Sample, &str); 16] = [
        (200, &cache_control("no-store, max-age=60"), "no-store"),
        (200, &cache_control("private, max-age=60"), "private"),
        (
            200,
            &cache_control("private=\"x\", max-age=60"),
            "names-fields",
        ),
        (200, &cache_control("no-cache, max-age=60"), "no-cache"),
        (
            200,
            &cache_control("max-age=60; public"),
            "malformed-cache-control",
        ),
        (
            200,
            &cache_control("must-understand, no-store, max-age=\"60"),
            "malformed-cache-control",
        ),
        (
            299,
            &cache_control("must-understand, max-age=60"),
            "must-understand",
        ),
        (
            299,
            &cache_control("must-understand, no-store, max-age=60"),
            "no-store",
        ),
        (
            200,
            &cache_control("max-age=0, must-revalidate"),
            "must-revalidate",
        ),
        (
            200,
            &cache_control("max-age=0, proxy-revalidate"),
            "must-revalidate",
        ),
        (
            200,
            &cache_control("s-maxage=0, max-age=60"),
            "must-revalidate",
        ),
        (
            200,
            &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            "set-cookie",
        ),
        (
            200,
            &[("cache-control", "max-age=60"), ("vary", "*")],
            "vary",
        ),
        (
            200,
            &[
                ("cache-control", "max-age=60"),
                ("vary", "Accept-Encoding, *"),
            ],
            "vary",
        ),
        (206, &cache_control("max-age=60"), "partial"),
        (304, &cache_control("max-age=60"), "not-modified"),
    ];
    for (status, fields, reason) in cases {
        let want = decision(Storage::Private, reason);
        assert_eq!(decide(status, fields), want, "{status} {fields:?}");
    }
}

/// RFC 9111 section 3, section 4.2.2.
#[test]
fn shared_with_those_who_wait() {
    let expired = date(-1);
    let cases: [(u16, Sample, &str); 11] = [
        (200, &[], "no-lifetime"),
        (404, &[], "no-lifetime"),
        (302, &[], "no-lifetime"),
        (500, &[], "no-lifetime"),
        (503, &cache_control("public"), "no-lifetime"),
        (200, &cache_control("max-age=0"), "no-lifetime"),
        (200, &cache_control("max-age=x"), "no-lifetime"),
        (200, &[("expires", "0")], "no-lifetime"),
        (200, &[("expires", &expired)], "no-lifetime"),
        (
            200,
            &[("cache-control", "max-age=60"), ("age", "60")],
            "already-stale",
        ),
        (200, &[("vary", "accept-encoding")], "no-lifetime"),
    ];
    for (status, fields, reason) in cases {
        let want = decision(Storage::Share, reason);
        assert_eq!(decide(status, fields), want, "{status} {fields:?}");
    }
}

/// RFC 9111 section 4.2.1.
#[test]
fn lifetimes() {
    let (soon, past) = (date(60), date(-60));
    let (now, ago) = (date(0), date(-10));
    let cases: [(&[(&str, &str)], u32); 11] = [
        (&cache_control("max-age=60"), 60),
        (&cache_control("s-maxage=30, max-age=60"), 30),
        (&cache_control("s-maxage=90, max-age=60"), 90),
        (&[("cache-control", "max-age=5"), ("expires", &soon)], 5),
        (&[("cache-control", "max-age=5"), ("expires", &past)], 5),
        (&[("expires", &soon)], 60),
        (&[("expires", &soon), ("date", &now)], 60),
        (&[("expires", &soon), ("date", &ago)], 70),
        (&[("cache-control", "public"), ("expires", &soon)], 60),
        (&cache_control("max-age=60, max-age=20"), 20),
        (&cache_control("max-age=99999999999"), MAX_SECONDS),
    ];
    for (fields, lifetime_s) in cases {
        assert_eq!(times(fields).lifetime_s, lifetime_s, "{fields:?}");
    }
    let two = [("expires", soon.as_str()), ("expires", soon.as_str())];
    assert_eq!(decide(200, &two).storage, Storage::Share);
}

/// RFC 9111 section 4.2.3.
#[test]
fn ages() {
    let (future, ago) = (date(100), date(-20));
    let cases: [(&[(&str, &str)], u32); 7] = [
        (&[], 0),
        (&[("date", &ago)], 20),
        (&[("date", &future)], 0),
        (&[("date", "yesterday")], 0),
        (&[("age", "7")], 7),
        (&[("date", &ago), ("age", "7")], 20),
        (&[("date", &ago), ("age", "70")], 70),
    ];
    for (fields, initial_age_s) in cases {
        let fields = [&cache_control("max-age=600"), fields].concat();
        assert_eq!(times(&fields).initial_age_s, initial_age_s, "{fields:?}");
    }
    let slow = RequestFacts {
        sent_unix_ms: NOW_MS - 3_500,
        ..RequestFacts::default()
    };
    let fields = [("cache-control", "max-age=600"), ("age", "7")];
    let Storage::Store(times) = decide_with(slow, 200, &fields, 0).storage else {
        panic!("a fresh response is kept");
    };
    assert_eq!(
        times.initial_age_s, 10,
        "age plus the delay of the response"
    );
}

/// RFC 9111 section 5.1.
#[test]
fn the_first_age_holds_and_what_is_none_is_ignored() {
    let cases: [(&[(&str, &str)], u32); 9] = [
        (&[("age", "0, 7")], 0),
        (&[("age", "7, 0")], 7),
        (&[("age", "7"), ("age", "0")], 7),
        (&[("age", "7;x=1")], 7),
        (&[("age", "x")], 0),
        (&[("age", "-7")], 0),
        (&[("age", "7.0")], 0),
        (&[("age", "x, 7")], 0),
        (&[("age", "")], 0),
    ];
    for (ages, initial_age_s) in cases {
        let fields = [&cache_control("max-age=600"), ages].concat();
        assert_eq!(times(&fields).initial_age_s, initial_age_s, "{ages:?}");
    }
    let old = [("cache-control", "max-age=600"), ("age", "99999999999")];
    assert_eq!(decide(200, &old).reason, "already-stale");
}

/// RFC 9111 section 4.2.2.
#[test]
fn heuristic_lifetime() {
    let (day_ago, long_ago, soon) = (date(-86_400), date(-86_400 * 365), date(60));
    let kept = |status, fields: &[(&str, &str)]| {
        let decided = decide(status, fields);
        match decided.storage {
            Storage::Store(times) => Some((times.lifetime_s, decided.reason)),
            _ => None,
        }
    };
    let modified = [("last-modified", day_ago.as_str())];
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(
            kept(status, &modified),
            Some((8_640, "heuristic")),
            "{status}"
        );
    }
    for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
        assert_eq!(kept(status, &modified), None, "{status}");
    }
    let public = [modified[0], ("cache-control", "public")];
    assert_eq!(kept(599, &public), Some((8_640, "heuristic")));
    let long = [("last-modified", long_ago.as_str())];
    assert_eq!(kept(200, &long), Some((86_400, "heuristic")), "bounded");
    let explicit = [modified[0], ("expires", soon.as_str())];
    assert_eq!(kept(200, &explicit), Some((60, "explicit")));
}

/// RFC 9111 section 4.3: what is never fresh is worth keeping if it can be validated.
#[test]
fn kept_for_validation() {
    let past = date(-60);
    let cases = [
        ("no-cache, max-age=60", "no-cache", true),
        ("max-age=0, must-revalidate", "must-revalidate", true),
        ("s-maxage=0", "must-revalidate", true),
        ("max-age=0", "no-lifetime", false),
    ];
    for (value, reason, alone) in cases {
        for validator in [("etag", "\"a\""), ("last-modified", past.as_str())] {
            let decided = decide(200, &[("cache-control", value), validator]);
            let Storage::Store(times) = decided.storage else {
                panic!("{value}: {decided:?}");
            };
            assert_eq!((decided.reason, decided.alone), (reason, alone), "{value}");
            assert_eq!(fresh_at(&times, NOW_MS, NOW_MS).state, State::Expired);
        }
    }
    let etag = ("etag", "\"a\"");
    let other = decide(404, &[("cache-control", "max-age=0"), etag]);
    assert_eq!(other.storage, Storage::Share, "a 404 is not validated");
    let private = decide(200, &[("cache-control", "private"), etag]);
    assert_eq!(private.storage, Storage::Private);
}

#[test]
fn configured_windows_and_cookies() {
    let caching = Caching {
        stale_if_error: Duration::from_secs(9),
        store_set_cookie: true,
        ..Caching::default()
    };
    let decide = |value: &str| {
        let fields = map(&[("cache-control", value), ("set-cookie", "a=b")]);
        policy(
            RequestFacts::default(),
            StatusCode::OK,
            &fields,
            NOW_MS,
            &caching,
            &Rules::default(),
        )
    };
    let window = |value: &str| match decide(value).storage {
        Storage::Store(times) => Some(times.sie_s),
        _ => None,
    };
    assert_eq!(window("max-age=60"), Some(9));
    assert_eq!(window("max-age=60, stale-if-error=3"), Some(3));
    for closing in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
        assert_eq!(
            window(&format!("max-age=60, {closing}")),
            Some(0),
            "{closing}"
        );
    }
    assert_eq!(decide("public").reason, "set-cookie", "no lifetime named");
}

/// The configured default stands in for heuristics (RFC 9111 section 4.2.2).
#[test]
fn default_lifetime() {
    let kept = |status, fields: &[(&str, &str)]| {
        let decided = decide_with(RequestFacts::default(), status, fields, 30);
        match decided.storage {
            Storage::Store(times) => Some((times.lifetime_s, decided.reason)),
            _ => None,
        }
    };
    let default = Some((30, "default-ttl"));
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414] {
        assert_eq!(kept(status, &[]), default, "{status}");
    }
    for status in [201, 302, 303, 307, 400, 401, 403, 500, 501, 502, 503, 504] {
        assert_eq!(kept(status, &[]), None, "{status}");
    }
    assert_eq!(kept(302, &cache_control("public")), default);
    assert_eq!(kept(503, &cache_control("public")), None);
    assert_eq!(
        kept(503, &cache_control("max-age=5")),
        Some((5, "explicit"))
    );
    assert_eq!(kept(200, &cache_control("max-age=0")), None);
    assert_eq!(kept(200, &cache_control("private")), None);
    assert_eq!(kept(200, &[("expires", "0")]), None);
}

/// RFC 9111 section 5.2.2.3.
#[test]
fn must_understand() {
    let fields = cache_control("must-understand, no-store, max-age=60");
    assert_eq!(times(&fields).lifetime_s, 60);
}

/// RFC 9111 section 3.5.
#[test]
fn authorization() {
    let request = RequestFacts {
        authorization: true,
        ..RequestFacts::default()
    };
    let stored = |value| match decide_with(request, 200, &cache_control(value), 30).storage {
        Storage::Store(times) => Some(times.flags.contains(Flags::AUTHORIZED)),
        _ => None,
    };
    assert_eq!(stored("max-age=60"), None);
    assert_eq!(stored("s-maxage=60"), Some(true));
    assert_eq!(stored("public"), Some(true));
    assert_eq!(stored("max-age=60, must-revalidate"), Some(true));
    let plain = times(&cache_control("max-age=60"));
    assert!(!plain.flags.contains(Flags::AUTHORIZED));
}

/// RFC 5861, RFC 9111 section 4.2.4, RFC 8246.
#[test]
fn stale_windows_and_flags() {
    let both = "max-age=60, stale-while-revalidate=10, stale-if-error=100";
    let open = times(&cache_control(both));
    assert_eq!((open.swr_s, open.sie_s), (10, 100));
    for closing in ["must-revalidate", "proxy-revalidate"] {
        let value = format!("{both}, {closing}");
        let closed = times(&cache_control(&value));
        assert_eq!((closed.swr_s, closed.sie_s), (0, 0));
        assert!(closed.flags.contains(Flags::MUST_REVALIDATE));
    }
    let cdn = times(&cache_control("s-maxage=1, stale-while-revalidate=59"));
    assert_eq!((cdn.lifetime_s, cdn.swr_s), (1, 59));
    let stale_only = times(&cache_control("max-age=0, stale-while-revalidate=5"));
    assert_eq!((stale_only.lifetime_s, stale_only.swr_s), (0, 5));
    let immutable = times(&cache_control("max-age=60, immutable"));
    assert!(immutable.flags.contains(Flags::IMMUTABLE));
}

/// RFC 9111 section 4.2, RFC 5861.
#[test]
fn standing_over_time() {
    let times = Lifetime {
        lifetime_s: 60,
        initial_age_s: 10,
        swr_s: 5,
        sie_s: 20,
        flags: Flags::default(),
    };
    let cases = [
        (0, 10, 50, State::Fresh),
        (999, 10, 50, State::Fresh),
        (1_000, 11, 49, State::Fresh),
        (49_999, 59, 1, State::Fresh),
        (50_000, 60, 0, State::StaleWhileRevalidate),
        (54_999, 64, -4, State::StaleWhileRevalidate),
        (55_000, 65, -5, State::StaleIfError),
        (69_999, 79, -19, State::StaleIfError),
        (70_000, 80, -20, State::Expired),
    ];
    for (after_ms, age_s, ttl_s, state) in cases {
        let want = Freshness {
            age_s,
            ttl_s,
            state,
        };
        assert_eq!(
            fresh_at(&times, NOW_MS, NOW_MS + after_ms),
            want,
            "{after_ms}"
        );
    }
    let put_back = fresh_at(&times, NOW_MS, NOW_MS - 5_000);
    assert_eq!((put_back.age_s, put_back.ttl_s), (10, 50));
}

#[test]
fn a_lifetime_that_was_ended_leaves_the_windows() {
    let times = |swr_s, sie_s| Lifetime {
        lifetime_s: 60,
        swr_s,
        sie_s,
        ..Lifetime::default()
    };
    let ended_at = |times: &Lifetime, after_ms| {
        let stands = fresh_at(times, NOW_MS, NOW_MS + after_ms);
        let ended = ended(times, stands);
        assert_eq!(ended.age_s, stands.age_s);
        (ended.state, ended.ttl_s)
    };
    assert_eq!(ended_at(&times(0, 0), 1_000), (State::Expired, 0));
    assert_eq!(
        ended_at(&times(30, 0), 1_000),
        (State::StaleWhileRevalidate, 0)
    );
    assert_eq!(ended_at(&times(0, 30), 1_000), (State::StaleIfError, 0));
    assert_eq!(
        ended_at(&times(30, 90), 100_000),
        (State::StaleIfError, -40)
    );
    assert_eq!(ended_at(&times(30, 30), 100_000), (State::Expired, -40));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// What is kept was allowed to be, whatever else the origin said.
    #[test]
    fn nothing_forbidden_is_kept(
        forbidding in prop::sample::select(vec!["no-store", "private", "no-cache"]),
        others in prop::collection::vec(
            prop::sample::select(vec!["public", "max-age=60", "s-maxage=60", "immutable", "x=\"y,z\"", ""]),
            0..5,
        ),
        at in 0usize..5,
        status in 200u16..600,
        default_s in 0u64..100,
    ) {
        let mut directives = others;
        directives.insert(at.min(directives.len()), forbidding);
        let value = directives.join(", ");
        let decided = decide_with(RequestFacts::default(), status, &cache_control(&value), default_s);
        prop_assert_eq!(decided.storage, Storage::Private);
    }

    #[test]
    fn a_kept_response_is_usable_and_never_gets_younger(
        max_age in 0u32..1000,
        age in 0u32..1000,
        swr in 0u32..100,
        after in prop::collection::vec(0u64..2_000_000, 2),
    ) {
        let value = format!("max-age={max_age}, stale-while-revalidate={swr}");
        let age = age.to_string();
        let decided = decide(200, &[("cache-control", &value), ("age", &age)]);
        if let Storage::Store(times) = decided.storage {
            let on_arrival = fresh_at(&times, NOW_MS, NOW_MS);
            prop_assert_ne!(on_arrival.state, State::Expired);
            let (early, late) = (after[0].min(after[1]), after[0].max(after[1]));
            let early = fresh_at(&times, NOW_MS, NOW_MS + early);
            let late = fresh_at(&times, NOW_MS, NOW_MS + late);
            prop_assert!(early.age_s <= late.age_s && early.ttl_s >= late.ttl_s);
        }
    }
}

fn by(rules: &Rules, status: u16, fields: &[(&str, &str)]) -> (Option<u32>, &'static str) {
    let status = StatusCode::from_u16(status).unwrap();
    let (request, caching) = (RequestFacts::default(), Caching::default());
    let decision = policy(request, status, &map(fields), NOW_MS, &caching, rules);
    match decision.storage {
        Storage::Store(times) => (Some(times.lifetime_s), decision.reason),
        _ => (None, decision.reason),
    }
}

/// What a route says of lifetimes, and what no route can say.
#[test]
fn routes_bound_and_replace_lifetimes() {
    let seconds = Duration::from_secs;
    let bounded = Rules {
        min_ttl: seconds(10),
        max_ttl: seconds(20),
        ..Rules::default()
    };
    let forced = Rules {
        force_ttl: Some(seconds(5)),
        ..Rules::default()
    };
    let ours = Rules {
        respect_origin: false,
        default_ttl: Some(seconds(7)),
        ..Rules::default()
    };
    let long = cache_control("max-age=60");
    let no_cache = [("cache-control", "no-cache"), ("etag", "\"a\"")];
    let cases: [(&Rules, &[(&str, &str)], _); 10] = [
        (&bounded, &long, (Some(20), "max-ttl")),
        (&bounded, &cache_control("max-age=1"), (Some(10), "min-ttl")),
        (
            &bounded,
            &cache_control("max-age=15"),
            (Some(15), "explicit"),
        ),
        (&bounded, &no_cache, (Some(0), "no-cache")),
        (&forced, &long, (Some(5), "force-ttl")),
        (&forced, &no_cache, (Some(5), "force-ttl")),
        (&ours, &long, (Some(7), "default-ttl")),
        (&ours, &no_cache, (Some(7), "default-ttl")),
        (&forced, &[("set-cookie", "a=b")], (None, "set-cookie")),
        (&Rules::default(), &long, (Some(60), "explicit")),
    ];
    for (rules, fields, want) in cases {
        assert_eq!(by(rules, 200, fields), want, "{fields:?}");
    }
    for rules in [&bounded, &forced, &ours] {
        for value in [
            "no-store, max-age=60",
            "private, max-age=60",
            "max-age=\"60",
        ] {
            assert_eq!(by(rules, 200, &cache_control(value)).0, None, "{value}");
        }
        assert_eq!(by(rules, 200, &[("vary", "*")]).0, None);
    }
}

#[test]
fn errors_are_kept_for_a_bounded_time() {
    let rules = Rules {
        negative_ttl: Some(Duration::from_secs(3)),
        error_ttl: Duration::from_secs(1),
        negative_max: Duration::from_secs(9),
        force_ttl: Some(Duration::from_secs(100)),
        ..Rules::default()
    };
    let long = cache_control("max-age=60");
    for status in [404, 405, 410, 414, 501] {
        assert_eq!(
            by(&rules, status, &[]),
            (Some(3), "negative-ttl"),
            "{status}"
        );
        assert_eq!(by(&Rules::default(), status, &[]).0, None, "{status}");
    }
    for status in [500, 502, 503, 504] {
        assert_eq!(
            by(&rules, status, &[]),
            (Some(1), "negative-ttl"),
            "{status}"
        );
        assert_eq!(by(&rules, status, &cache_control("no-store")).0, None);
    }
    assert_eq!(
        by(&rules, 403, &[]).0,
        None,
        "it may depend on the one who asks"
    );
    let unbound = Rules {
        force_ttl: None,
        ..rules
    };
    assert_eq!(by(&unbound, 404, &long), (Some(9), "negative-max"));
}

#[test]
fn windows_of_a_route_are_for_responses_that_name_none() {
    let rules = Rules {
        stale_while_revalidate: Duration::from_secs(4),
        stale_if_error: Some(Duration::from_secs(8)),
        ..Rules::default()
    };
    let windows = |value: &str| {
        let fields = map(&cache_control(value));
        let (request, caching) = (RequestFacts::default(), Caching::default());
        match policy(request, StatusCode::OK, &fields, NOW_MS, &caching, &rules).storage {
            Storage::Store(times) => (times.swr_s, times.sie_s),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(windows("max-age=60"), (4, 8));
    assert_eq!(windows("max-age=60, stale-while-revalidate=1"), (1, 8));
    assert_eq!(windows("max-age=60, stale-if-error=0"), (4, 0));
    for closing in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
        assert_eq!(
            windows(&format!("max-age=60, {closing}")),
            (0, 0),
            "{closing}"
        );
    }
}
