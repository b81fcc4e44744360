//! Responses before the final one (1xx): of the origin, and of our own.

use crate::harness::{Backend, Edge, Head, scripted};

const VERSIONS: [&str; 3] = ["http/1.1", "h2", "h3"];

const HINT: &str =
    "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nset-cookie: a=1\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";

on_one_backend! {
    hints_reach_those_who_can_use_them_and_are_not_kept,
    a_flood_of_interim_responses_is_an_error,
    who_asks_whether_to_send_a_body_is_told,
}

fn edge(backend: Backend, more: &str) -> Edge {
    Edge::start_with(backend, &format!("{more}{}", scripted::section()))
}

fn heads(edge: &Edge, version: &str, options: &[&str], path: &str) -> Vec<Head> {
    edge.heads(version, &[options, &scripted::HEADER].concat(), path)
}

fn statuses(heads: &[Head]) -> Vec<u16> {
    heads.iter().map(|head| head.status).collect()
}

fn hints_reach_those_who_can_use_them_and_are_not_kept(backend: Backend) {
    let edge = edge(backend, "");
    let origin = edge.script(|_| [HINT, FINAL].concat().into_bytes());
    for version in VERSIONS {
        let path = format!("/{}", version.replace('/', "-"));
        let miss = heads(&edge, version, &[], &path);
        match version {
            "http/1.1" => assert_eq!(statuses(&miss), [200]),
            _ => {
                assert_eq!(statuses(&miss), [103, 200], "{version}");
                let hint = ("link".to_owned(), "</a.css>; rel=preload".to_owned());
                assert_eq!(miss[0].headers, [hint], "{version}");
            }
        }
        let last = miss.last().expect("a final head");
        assert!(!last.headers.iter().any(|(name, _)| name == "link"));
        assert_eq!(statuses(&heads(&edge, version, &[], &path)), [200], "a hit");
        // What is never shared is hinted at all the same.
        let private = heads(&edge, version, &["--header", "Authorization: me"], &path);
        assert_eq!(statuses(&private), statuses(&miss));
    }
    assert_eq!(origin.asked().len(), 6);
    assert_eq!(edge.counter("early_hints"), 6);
}

fn a_flood_of_interim_responses_is_an_error(backend: Backend) {
    let edge = edge(backend, "[upstream]\nmax_interim = 5\n");
    let _origin = edge.script(|_| (HINT.repeat(6) + FINAL).into_bytes());
    for version in VERSIONS {
        let seen = heads(&edge, version, &[], "/flood");
        let (last, hints) = seen.split_last().expect("an answer");
        assert_eq!(last.status, 502, "{version}");
        let why = last.headers.iter().find(|(name, _)| name == "proxy-status");
        let why = &why.expect("Proxy-Status").1;
        assert!(why.contains("error=http_protocol_error"), "{why}");
        assert!(hints.len() <= 5 && hints.iter().all(|head| head.status == 103));
    }
}

/// RFC 9110 section 10.1.1.
fn who_asks_whether_to_send_a_body_is_told(backend: Backend) {
    let edge = edge(backend, "");
    let origin = edge.script(|_| FINAL.as_bytes().to_vec());
    for version in VERSIONS {
        let options = ["--post", "2000000", "--header", "Expect: 100-continue"];
        let seen = heads(&edge, version, &options, "/");
        assert_eq!(statuses(&seen), [100, 200], "{version}");
    }
    for asked in origin.asked() {
        assert!(!asked.to_ascii_lowercase().contains("expect:"), "{asked}");
    }
}
