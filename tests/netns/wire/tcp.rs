//! HTTP/2 and HTTP/1.1 over TLS: the same cache, and no more patience with those who break rules.

use crate::harness::{Backend, Edge};

/// Each ends with the connection, and others are served meanwhile.
const ATTACKS: &[&str] = &[
    "h2-ping-flood",
    "h2-settings-flood",
    "h2-empty-data-flood",
    "h2-rapid-reset",
    "h2-made-you-reset",
    "h2-continuation-flood",
    "h2-priority-flood",
    "h2-zero-window",
    "h1-slow-head",
    "h1-slow-body",
    "h1-idle",
];

/// Case, status, and whether the connection ends with it.
const HTTP1: &[(&str, u16, bool)] = &[
    ("h1-no-host", 400, true),
    ("h1-two-hosts", 400, true),
    ("h1-bad-host", 400, false),
    ("h1-absolute-differs", 400, true),
    ("h1-both-lengths", 400, true),
    ("h1-lengths-reversed", 400, true),
    ("h1-two-lengths", 400, true),
    ("h1-other-lengths", 400, true),
    ("h1-signed-length", 400, true),
    ("h1-coding-space", 400, true),
    ("h1-coding-1.0", 400, true),
    ("h1-coding-gzip", 501, true),
    ("h1-bad-chunk", 400, true),
    ("h1-obs-fold", 400, true),
    ("h1-nul", 400, true),
    ("h1-bare-cr", 400, true),
    ("h1-userinfo", 400, false),
    ("h1-name-space", 400, true),
    ("h1-no-colon", 400, true),
    ("h1-backslash", 400, false),
    ("h1-encoded-dots", 400, false),
    ("h1-length-list", 400, true),
    ("h1-two-codings", 400, true),
    ("h1-huge-chunk", 400, true),
    ("h1-dot-segments", 400, false),
    ("h1-connect", 405, false),
    ("h1-trace", 405, false),
    ("h1-long-target", 414, false),
    ("h1-long-field", 431, true),
    ("h1-many-fields", 431, true),
    ("h1-large-body", 413, true),
    ("h1-absolute", 200, false),
    ("h1-pipelined", 200, false),
    ("h1-expect", 200, false),
];

/// In `clients/http2.py`.
const RULES: usize = 178;

#[test]
fn the_same_objects_over_every_version() {
    let edge = Edge::start(Backend::Udp);
    for path in ["/size/0", "/size/70000", "/chunked/100000", "/size/2000000"] {
        let versions = [("v2", "h2"), ("v1", "http/1.1"), ("v2", "h2")];
        let get = |(version, shown)| {
            (
                shown,
                edge.curl_with(&["--version", version], &[path, path]),
            )
        };
        let fetched = versions.map(get);
        let over_h3 = &edge.curl(&[path])[0];
        assert_eq!(edge.origin.requests(path), 1, "{path}");
        let body = edge.origin.body(path);
        over_h3.assert_body(&body);
        for (shown, both) in &fetched {
            for one in both {
                one.assert_body_over(shown, &body);
                assert_eq!(one.header("alt-svc"), "h3=\":443\"; ma=86400", "{one:?}");
            }
            assert!(both[1].is_hit(), "{both:?}");
        }
    }
    assert!(edge.counter("tcp_requests") >= 24);
}

#[test]
fn head_answers_like_get_without_a_body() {
    let edge = Edge::start(Backend::Udp);
    for version in ["v1", "v2"] {
        let options = ["--version", version, "--method", "HEAD"];
        let head = &edge.curl_with(&options, &["/size/5000"])[0];
        assert_eq!((head.status, head.length), (200, 0), "{head:?}");
        assert_eq!(head.header("content-length"), "5000", "{head:?}");
    }
}

/// Section by section; the tool that is used for this counts 146 of them.
#[test]
fn every_rule_of_http2_is_kept() {
    let mut edge = Edge::start(Backend::Udp);
    let rules = edge.ask_http2();
    let broken = rules.iter().filter(|rule| !rule.kept);
    let broken: Vec<_> = broken
        .map(|rule| format!("{}: {}", rule.name, rule.seen))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(rules.len(), RULES);
    edge.assert_alive();
    edge.curl_with(&["--version", "v2"], &["/size/10"])[0]
        .assert_body_over("h2", &edge.origin.body("/size/10"));
}

#[test]
fn ambiguous_or_broken_requests_of_http1_are_refused() {
    let edge = Edge::start(Backend::Udp);
    let names: Vec<_> = HTTP1.iter().map(|case| case.0).collect();
    for (outcome, &(name, status, closed)) in edge.probe_tcp(&names).iter().zip(HTTP1) {
        assert_eq!(outcome.name, name);
        assert_eq!(outcome.status, Some(status), "{outcome:?}");
        assert!(outcome.closed || !closed, "{outcome:?}");
    }
    assert!(edge.counter("tcp_ambiguous_lengths") >= 3);
}

#[test]
fn attacks_end_while_others_are_served() {
    let short = "[tcp]\nheader_timeout = \"2s\"\nbody_timeout = \"2s\"\nidle_timeout = \"2s\"\nsend_timeout = \"2s\"\n";
    let mut edge = Edge::start_with(Backend::Udp, short);
    for outcome in edge.probe_tcp(ATTACKS) {
        let ended = outcome.goaway.is_some() || outcome.closed;
        assert!(ended, "{outcome:?}");
    }
    edge.assert_alive();
    edge.wait_for("tcp_connections", 0);
    for counter in [
        "tcp_floods",
        "tcp_header_timeouts",
        "tcp_body_timeouts",
        "tcp_idle_timeouts",
        "tcp_send_timeouts",
    ] {
        assert!(edge.counter(counter) > 0, "{counter}");
    }
    edge.curl_with(&["--version", "v1"], &["/size/10"])[0]
        .assert_body_over("http/1.1", &edge.origin.body("/size/10"));
}
