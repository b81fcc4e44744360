//! RFC 9110 and RFC 9111 as clients and origins see them, over every version of HTTP.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::scripted::{self, HEADER};
use crate::harness::{Backend, Edge, Fetched};

const VERSIONS: [&str; 3] = ["v3only", "v2", "v1"];
const PATIENCE: Duration = Duration::from_secs(30);

fn edge(more: &str) -> Edge {
    Edge::start_with(Backend::Udp, &format!("{}{more}", scripted::section()))
}

/// An origin that fails is asked again all the same.
const PATIENT: &str = "[upstream]\nbreaker_after = 1000\nbreaker_requests = 1000\n";

/// Asks the scripted origin's host.
fn ask(edge: &Edge, options: &[&str], path: &str) -> Fetched {
    let options = [&HEADER, options].concat();
    edge.curl_with(&options, &[path]).remove(0)
}

fn ok(fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\n{fields}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Asks again until the answer is as wanted.
fn until(edge: &Edge, path: &str, wanted: impl Fn(&Fetched) -> bool) -> Fetched {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = edge.curl(&[path]).remove(0);
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn is_stale_hit(answer: &Fetched) -> bool {
    answer.cache_status().contains("hit; ttl=-") || answer.cache_status().contains("hit; ttl=0")
}

#[test]
fn text_is_compressed_once_for_each_coding() {
    let edge = edge("[[route]]\nname = \"pages\"\npaths = \"/index\"\nclass = \"metadata\"\n");
    let body = edge.origin.body("/index");
    let asked = edge.origin.requests("/index");
    for (round, coding) in [(0, "gzip"), (0, "br"), (1, "gzip"), (1, "br"), (2, "gzip")] {
        let field = format!("Accept-Encoding: {coding}");
        let version = VERSIONS[round];
        let answer = &edge.curl_with(&["--version", version, "--header", &field], &["/index"])[0];
        assert_eq!(answer.header("content-encoding"), coding, "{answer:?}");
        assert!(
            answer.header("vary").contains("accept-encoding"),
            "{answer:?}"
        );
        assert!(answer.header("etag").starts_with("W/"), "{answer:?}");
        let length: usize = answer
            .header("content-length")
            .parse()
            .unwrap_or(usize::MAX);
        assert!(length < body.len() / 2, "{answer:?}");
        assert_eq!(answer.is_hit(), round > 0, "{answer:?}");
        answer.assert_bytes(&body);
    }
    let plain = &edge.curl_with(&["--header", "Accept-Encoding: identity"], &["/index"])[0];
    assert_eq!(plain.header("content-encoding"), "", "{plain:?}");
    plain.assert_bytes(&body);
    assert_eq!(edge.origin.requests("/index"), asked + 3);
    assert_eq!(edge.status()["compression"]["compressed"], 2);
}

/// `hello\n` in gzip.
const HELLO_GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\x00\x20\x30\x3a\x36\x06\x00\x00\x00";

#[test]
fn what_the_origin_has_coded_passes_through_once_for_each_coding() {
    let edge = edge(
        "[[route]]\nname = \"coded\"\npaths = \"/coded\"\nclass = \"metadata\"\nencodings = [\"zstd\", \"gzip\"]\n",
    );
    let origin = edge.script(|head| {
        let coding = ["gzip", "zstd"].into_iter().find(|coding| {
            head.contains(&format!("accept-encoding: {coding}"))
        });
        let fields = "content-type: text/plain\r\ncache-control: max-age=60\r\nvary: accept-encoding\r\n";
        match coding {
            Some("gzip") => {
                let length = HELLO_GZIP.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{fields}content-encoding: gzip\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                [head.as_bytes(), HELLO_GZIP].concat()
            }
            _ => ok(fields, "hello\n"),
        }
    });
    let gzip = ["--header", "Accept-Encoding: gzip;q=0.5, deflate"];
    for hit in [false, true, true] {
        let answer = ask(&edge, &gzip, "/coded");
        assert_eq!(answer.header("content-encoding"), "gzip", "{answer:?}");
        assert_eq!(answer.is_hit(), hit, "{answer:?}");
        answer.assert_bytes(b"hello\n");
    }
    for hit in [false, true] {
        let answer = ask(&edge, &["--header", "Accept-Encoding: identity"], "/coded");
        assert_eq!(answer.header("content-encoding"), "", "{answer:?}");
        assert_eq!(answer.is_hit(), hit, "{answer:?}");
        answer.assert_bytes(b"hello\n");
    }
    assert_eq!(origin.asked().len(), 2, "{:?}", origin.asked());
}

/// RFC 5861 section 3.
#[test]
fn stale_objects_are_served_while_they_are_asked_for_again() {
    let edge = edge("");
    let path = "/size/100?cc=max-age%3D1%2C%20stale-while-revalidate%3D600";
    let body = edge.origin.body(path);
    let asked = edge.origin.requests(path);
    edge.curl(&[path])[0].assert_body(&body);
    let stale = until(&edge, path, is_stale_hit);
    stale.assert_body(&body);
    let deadline = Instant::now() + PATIENCE;
    while edge.origin.requests(path) < asked + 2 {
        assert!(Instant::now() < deadline, "nobody asked again");
        thread::sleep(Duration::from_millis(20));
    }
    until(&edge, path, |answer| {
        answer.is_hit() && !is_stale_hit(answer)
    })
    .assert_body(&body);
    assert!(edge.counter("hits_stale") > 0);
}

/// RFC 5861 section 4, RFC 9111 section 5.2.2.2, RFC 9209.
#[test]
fn stale_objects_stand_in_for_a_failing_origin_unless_they_forbid_it() {
    let mut edge = edge(PATIENT);
    let lasting = "/size/100?cc=max-age%3D1%2C%20stale-if-error%3D600";
    let strict = "/size/100?cc=max-age%3D1%2C%20must-revalidate";
    let body = edge.origin.body(lasting);
    edge.curl(&[lasting, strict])
        .iter()
        .for_each(|one| one.assert_body(&body));
    edge.origin.stop();
    let refused = until(&edge, strict, |answer| !answer.is_hit());
    assert_eq!((refused.status, refused.length), (502, 0), "{refused:?}");
    let why = refused.header("proxy-status");
    assert_eq!(why, "popcache; error=connection_refused", "{refused:?}");
    until(&edge, lasting, is_stale_hit).assert_body(&body);
    for version in VERSIONS {
        let answers = edge.curl_with(&["--version", version], &[lasting, strict]);
        answers[0].assert_bytes(&body);
        assert!(is_stale_hit(&answers[0]), "{answers:?}");
        assert_eq!(answers[1].status, 502, "{answers:?}");
    }
    edge.origin.resume();
    until(&edge, strict, |answer| answer.status == 200).assert_body(&body);
}

/// RFC 9209 and RFC 9112: what cannot be told apart from an attack, or is no answer, is none.
#[test]
fn broken_answers_of_the_origin_are_errors_that_say_why() {
    let edge = edge(PATIENT);
    let cases: [(&str, &str, u16, &str); 9] = [
        ("/closed", "", 502, "connection_terminated"),
        ("/ssh", "SSH-2.0-x\r\n\r\n", 502, "http_protocol_error"),
        (
            "/two-lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
            502,
            "http_protocol_error",
        ),
        (
            "/signed-length",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
            502,
            "http_protocol_error",
        ),
        (
            "/unknown-coding",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: x\r\n\r\nab",
            502,
            "http_protocol_error",
        ),
        (
            "/nul",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
            502,
            "http_protocol_error",
        ),
        (
            "/bare-cr",
            "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
            502,
            "http_protocol_error",
        ),
        (
            "/name-with-space",
            "HTTP/1.1 200 OK\r\nx y: b\r\ncontent-length: 0\r\n\r\n",
            502,
            "http_protocol_error",
        ),
        (
            "/switching",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            502,
            "http_protocol_error",
        ),
    ];
    let answers: Vec<_> = cases.iter().map(|case| (case.0, case.1)).collect();
    let origin = edge.script(move |head| {
        let found = answers
            .iter()
            .find(|(path, _)| head.starts_with(&format!("GET {path} ")));
        found.map_or(Vec::new(), |(_, answer)| answer.as_bytes().to_vec())
    });
    for (path, _, status, error) in cases {
        for version in VERSIONS {
            let answer = ask(&edge, &["--version", version], path);
            assert_eq!(
                (answer.status, answer.length),
                (status, 0),
                "{path}: {answer:?}"
            );
            let want = format!("popcache; error={error}");
            assert_eq!(answer.header("proxy-status"), want, "{path}: {answer:?}");
        }
    }
    assert!(origin.asked().len() >= 27, "errors are not kept");
    // A whole answer, whatever follows it.
    let surplus = edge.status()["origins"][0]["surplus"].as_u64();
    assert_eq!(surplus, Some(0));
}

/// RFC 9110 sections 6.5 and 15.2: neither is kept, and neither is taken for the answer.
#[test]
fn interim_responses_and_trailers_do_no_harm() {
    let edge = edge("");
    let origin = edge.script(|head| {
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </x.css>; rel=preload\r\nx-early: 1\r\n\r\n";
        let processing = "HTTP/1.1 102 Processing\r\n\r\n";
        let last = match head.starts_with("GET /trailers ") {
            true => b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntrailer: x-late\r\n\
                transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-late: 1\r\nset-cookie: a=b\r\n\r\n"
                .to_vec(),
            false => ok("cache-control: max-age=60\r\n", "hello"),
        };
        [early.as_bytes(), processing.as_bytes(), &last].concat()
    });
    for path in ["/early", "/trailers"] {
        for (round, version) in VERSIONS.into_iter().enumerate() {
            let answer = ask(&edge, &["--version", version], path);
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.assert_bytes(b"hello");
            for name in ["x-early", "x-late", "set-cookie"] {
                assert_eq!(answer.header(name), "", "{answer:?}");
            }
            assert_eq!(answer.is_hit(), round > 0, "{answer:?}");
        }
    }
    assert_eq!(origin.asked().len(), 2);
}

/// RFC 9110 sections 13.1 and 15.4.5.
#[test]
fn conditions_are_answered_at_the_edge() {
    let edge = edge("");
    let path = "/size/5000";
    let first = edge.curl(&[path]).remove(0);
    let etag = first.header("etag").to_owned();
    assert!(!etag.is_empty(), "{first:?}");
    for version in VERSIONS {
        for method in ["GET", "HEAD"] {
            for (field, status) in [
                (format!("If-None-Match: {etag}"), 304),
                (format!("If-None-Match: \"x\", W/{etag}"), 304),
                ("If-None-Match: \"x\"".to_owned(), 200),
            ] {
                let options = ["--version", version, "--method", method, "--header", &field];
                let answer = &edge.curl_with(&options, &[path])[0];
                assert_eq!(answer.status, status, "{field}: {answer:?}");
                assert_eq!(answer.header("etag"), etag, "{answer:?}");
                assert!(answer.is_hit(), "{answer:?}");
                let length = if method == "GET" && status == 200 {
                    5000
                } else {
                    0
                };
                assert_eq!(answer.length, length, "{answer:?}");
            }
        }
    }
    assert_eq!(edge.origin.requests(path), 1);
}

/// RFC 9111 section 3.5.
#[test]
fn answers_to_credentials_are_shared_where_origin_and_route_allow_it() {
    let edge =
        edge("[[route]]\nname = \"members\"\npaths = \"/members/\"\nstore_authorized = true\n");
    let origin = edge.script(|head| match head.split(' ').nth(1) {
        Some("/members/all" | "/elsewhere") => ok("cache-control: public, max-age=60\r\n", "all"),
        Some("/members/vary") => ok(
            "cache-control: public, max-age=60\r\nvary: authorization\r\n",
            "one",
        ),
        _ => ok("cache-control: max-age=60\r\n", "one"),
    });
    let secret = [
        "--header",
        "Authorization: Bearer x",
        "--header",
        "X-Forwarded-Host: evil.test",
    ];
    let shared = |options: &[&str], path: &str| ask(&edge, options, path).is_hit();
    assert!(!shared(&secret, "/members/all"));
    // Wherever it was kept, the next request finds it.
    assert!(shared(&secret, "/members/all") && shared(&[], "/members/all"));
    let first = &origin.asked()[0];
    assert!(first.contains("authorization: Bearer x"), "{first}");
    assert!(!first.contains("evil.test"), "{first}");
    for path in ["/members/one", "/members/vary", "/elsewhere"] {
        assert!(!shared(&secret, path) && !shared(&secret, path), "{path}");
        assert!(!shared(&[], path), "{path}");
    }
    assert_eq!(origin.asked().len(), 1 + 9);
    assert_eq!(edge.counter("passes_kept"), 1);
    // Elsewhere its own request goes to the origin as it is.
    let passed = origin.asked();
    let passed = passed
        .iter()
        .find(|head| head.starts_with("GET /elsewhere"));
    assert!(passed.is_some_and(|head| head.contains("evil.test")));
}

/// RFC 9110 section 9.3.3, RFC 9111 section 4.4.
#[test]
fn answers_to_post_are_kept_where_origin_and_route_allow_it() {
    let edge = edge("[[route]]\nname = \"forms\"\npaths = \"/forms/\"\nstore_posted = true\n");
    let origin = edge.script(|head| match head.split(' ').nth(1) {
        Some("/forms/own" | "/own") => {
            let path = head.split(' ').nth(1).unwrap_or_default();
            ok(
                &format!("cache-control: max-age=60\r\ncontent-location: {path}\r\n"),
                "posted",
            )
        }
        _ => ok(
            "cache-control: max-age=60\r\ncontent-location: /x\r\n",
            "posted",
        ),
    });
    for (path, kept) in [
        ("/forms/own", true),
        ("/forms/other", false),
        ("/own", false),
    ] {
        let posted = ask(&edge, &["--method", "POST"], path);
        assert_eq!(posted.status, 200, "{posted:?}");
        assert_eq!(ask(&edge, &[], path).is_hit(), kept, "{path}");
    }
    // What a later success changed is not there any more.
    ask(&edge, &["--method", "DELETE"], "/forms/own");
    assert!(!ask(&edge, &[], "/forms/own").is_hit());
    assert_eq!(origin.asked().len(), 3 + 2 + 2);
}

/// RFC 9111 sections 5.2.2.4 and 5.2.2.7.
#[test]
fn fields_for_one_client_are_not_given_to_others() {
    let edge = edge("");
    let origin = edge.script(|_| {
        let cache =
            "cache-control: max-age=60, private=\"set-cookie, x-user\", no-cache=\"x-once\"\r\n";
        ok(
            &format!("{cache}set-cookie: a=b\r\nx-user: me\r\nx-once: 1\r\nx-all: 1\r\n"),
            "hello",
        )
    });
    let first = ask(&edge, &[], "/");
    let seen = |answer: &Fetched| {
        ["set-cookie", "x-user", "x-once", "x-all"].map(|n| !answer.header(n).is_empty())
    };
    assert_eq!(seen(&first), [true; 4], "{first:?}");
    for version in VERSIONS {
        let answer = ask(&edge, &["--version", version], "/");
        assert!(answer.is_hit(), "{answer:?}");
        assert_eq!(seen(&answer), [false, false, false, true], "{answer:?}");
        answer.assert_bytes(b"hello");
    }
    assert_eq!(origin.asked().len(), 1);
}
