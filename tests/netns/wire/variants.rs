//! Which requests share an object: buckets, what reaches the origin, and whether `popcache explain` says so.

use crate::harness::scripted::{self, HEADER};
use crate::harness::{Backend, Edge};

fn edge(more: &str) -> Edge {
    Edge::start_with(Backend::Udp, &format!("{}{more}", scripted::section()))
}

fn kept(vary: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nvary: {vary}\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    )
    .into_bytes()
}

/// Sends each value of a field and says which were hits, and what values the origin saw.
fn share(rules: &str, field: &str, values: &[&str]) -> (Vec<bool>, Vec<String>) {
    let edge = edge(&format!(
        "[[route]]\nname = \"all\"\npaths = \"/\"\n{rules}\n"
    ));
    let name = field.to_ascii_lowercase();
    let vary = name.clone();
    let origin = edge.script(move |_| kept(&vary));
    let ask = |value: &&str| {
        let line = format!("{field}: {value}");
        let options = [&HEADER[..], &["--header", &line]].concat();
        edge.curl_with(&options, &["/picture"])[0].is_hit()
    };
    let hits = values.iter().map(ask).collect();
    let prefix = format!("{name}: ");
    let sent = origin.asked().into_iter().map(|head| {
        let line = head.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or("-").to_owned()
    });
    (hits, sent.collect())
}

#[test]
fn accept_is_one_of_a_few() {
    let (hits, sent) = share(
        "accept = [\"image/avif\", \"image/webp\"]",
        "Accept",
        &[
            "image/avif,image/webp,image/apng,*/*;q=0.8",
            "text/html, image/avif;q=0.9",
            "image/webp,*/*",
            "image/png,*/*;q=0.5",
            "image/avif;q=0, image/webp",
            "*/*",
        ],
    );
    assert_eq!(hits, [false, true, false, false, true, true]);
    assert_eq!(sent, ["image/avif,*/*", "image/webp,*/*", "*/*"]);
}

#[test]
fn accept_encoding_is_one_of_a_few() {
    let (hits, sent) = share(
        "encodings = [\"br\", \"gzip\"]",
        "Accept-Encoding",
        &[
            "gzip, deflate, br",
            "br;q=0.1, gzip;q=1",
            "deflate, gzip",
            "identity",
            "br;q=0, x-gzip, gzip;q=0.5",
            "zstd",
        ],
    );
    assert_eq!(hits, [false, true, false, false, true, true]);
    assert_eq!(sent, ["br", "gzip", "identity"]);
}

#[test]
fn user_agent_is_one_of_a_few() {
    let (hits, sent) = share(
        "user_agents = [\"tv: SmartTV|Tizen\", \"mobile: Android|iPhone\"]",
        "User-Agent",
        &[
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)",
            "Mozilla/5.0 (Linux; Android 14)",
            "Mozilla/5.0 (Linux; Tizen 6.0; Android)",
            "curl/8",
            "Mozilla/5.0 (X11; Linux x86_64)",
        ],
    );
    assert_eq!(hits, [false, true, false, false, true]);
    assert_eq!(sent.len(), 3, "{sent:?}");
    assert_eq!(&sent[..2], ["mobile", "tv"]);
}

/// Nothing that is not in the key reaches an origin whose answer others get, over any version.
#[test]
fn unkeyed_fields_reach_no_origin() {
    let edge = edge("");
    let origin = edge.script(|_| kept("x-forwarded-host, cookie, user-agent"));
    let poison = [
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Scheme: nothttps",
        "Forwarded: host=evil.test",
        "X-Original-URL: /evil",
        "X-Rewrite-URL: /evil",
        "X-HTTP-Method-Override: DELETE",
        "X-Host: evil.test",
        "Cookie: evil=1",
        "User-Agent: evil",
        "Origin: https://evil.test",
        "Referer: https://evil.test",
        "Accept-Language: evil",
        "Via: 1.1 evil",
    ];
    let mut options = HEADER.to_vec();
    for line in poison {
        options.extend(["--header", line]);
    }
    for version in ["v3only", "v2", "v1"] {
        let path = format!("/{version}");
        let poisoned = [&options[..], &["--version", version]].concat();
        let answer = &edge.curl_with(&poisoned, &[&path])[0];
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(edge.curl_with(&HEADER, &[&path])[0].is_hit(), "one for all");
    }
    let asked = origin.asked();
    assert_eq!(asked.len(), 3);
    for head in asked {
        // Via alone tells of the way so far.
        let lines = head.lines().filter(|line| !line.starts_with("via: "));
        let evil: Vec<_> = lines.filter(|line| line.contains("evil")).collect();
        assert!(evil.is_empty(), "{head}");
        assert!(
            !head.contains("1.2.3.4") && !head.contains("nothttps"),
            "{head}"
        );
        assert!(!head.contains("DELETE"), "{head}");
    }
}

/// What `popcache explain` says of a request is what then becomes of it.
#[test]
fn explanations_hold() {
    let edge = edge(
        "[[route]]\nname = \"live\"\npaths = \"/live/\"\nclass = \"playlist\"\nquery_keep = [\"q\"]\nstrip_segments = \"tok=*\"\nstore_authorized = true\nnegative_ttl = \"60s\"\nnegative_max = \"60s\"\n\
         [[route]]\nname = \"api\"\npaths = \"/api/\"\ncache = false\n",
    );
    let origin = edge.script(|head| match head.split(' ').nth(1) {
        Some("/live/none") => b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec(),
        Some("/short") => b"HTTP/1.1 200 OK\r\ncache-control: max-age=0, must-revalidate\r\netag: \"a\"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => kept("x-lang"),
    });
    let bearer: &[&str] = &["Authorization: Bearer x"];
    let only: &[&str] = &["Cache-Control: only-if-cached"];
    // Path, fields, verdict, and what Cache-Status then has.
    let steps: [(&str, &[&str], &str, &str); 13] = [
        ("/live/tok=1/a?q=1&x=2", &[], "fetch", "fwd=uri-miss"),
        ("/live/tok=2/a?x=3&q=1", &[], "hit", "; hit"),
        ("/live/a?q=2", &[], "fetch", "fwd=uri-miss"),
        ("/live/a?q=1", bearer, "pass", "fwd=bypass"),
        ("/live/b", only, "refuse", "only-if-cached"),
        ("/live/a?q=1", only, "hit", "; hit"),
        ("/live/none", &[], "fetch", "fwd=uri-miss"),
        ("/live/none", &[], "hit", "; hit"),
        ("/api/a", &[], "pass", "fwd=bypass"),
        ("/api/a", &[], "pass", "fwd=bypass"),
        ("/b", bearer, "pass", "fwd=bypass"),
        ("/short", &[], "fetch", "fwd=uri-miss"),
        ("/short", &[], "validate", "fwd=stale"),
    ];
    for (number, (path, fields, verdict, status)) in steps.into_iter().enumerate() {
        let url = format!("https://{}{path}", scripted::HOST);
        let mut arguments = vec!["explain", &url, "--json"];
        let mut options = HEADER.to_vec();
        for field in fields {
            arguments.extend(["-H", field]);
            options.extend(["--header", field]);
        }
        let before = origin.asked().len();
        let said: serde_json::Value =
            serde_json::from_str(&edge.control(&arguments)).expect("JSON");
        assert_eq!(origin.asked().len(), before, "explaining asks nobody");
        assert_eq!(said["verdict"], verdict, "step {number}: {said:#}");
        let answer = &edge.curl_with(&options, &[path])[0];
        let got = answer.cache_status();
        assert!(
            got.contains(status),
            "step {number}: {answer:?} after {said:#}"
        );
        let asked = ["fetch", "pass", "validate"].contains(&verdict);
        assert_eq!(origin.asked().len() > before, asked, "step {number}");
    }
    let status = edge.status();
    let playlist = &status["classes"]["playlist"];
    assert_eq!(playlist["hits"], 3, "{playlist:#}");
    assert_eq!(playlist["fills"], 3, "{playlist:#}");
}
