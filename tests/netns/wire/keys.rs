//! Routes, keys and classes, as clients and origins see them.

use crate::harness::{Backend, Edge};

on_one_backend! {
    tokens_and_campaigns_share_one_object,
    missing_objects_are_remembered_for_a_while,
    clients_cannot_shape_what_others_get,
    an_explanation_is_what_happens,
}

const EMOTES: &str = "[[route]]\nname = \"emotes\"\npaths = \"/emotes/\"\nclass = \"emote\"\n\
    query_drop = [\"utm_*\", \"token\"]\nquery_sort = true\nstrip_segments = \"tok=*\"\n";

fn hits(edge: &Edge, options: &[&str], paths: &[&str]) -> Vec<bool> {
    let fetched = edge.curl_with(options, paths);
    fetched.iter().map(|one| one.is_hit()).collect()
}

fn tokens_and_campaigns_share_one_object(backend: Backend) {
    let edge = Edge::start_with(backend, EMOTES);
    let paths = [
        "/emotes/tok=1/1.png?utm_source=a&token=x",
        "/emotes/tok=2/1.png?%74oken=y",
        "/emotes/1.png",
    ];
    assert_eq!(hits(&edge, &[], &paths), [false, true, true]);
    // The origin was asked for what the key says, and for nothing of the client's.
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
    let sorted = ["/emotes/1.png?v=1&a=2", "/emotes/1.png?a=2&v=1"];
    assert_eq!(hits(&edge, &[], &sorted), [false, true]);
    edge.control(&["purge", "https://edge.test/emotes/tok=9/1.png?token=z"]);
    assert_eq!(hits(&edge, &[], &["/emotes/1.png"]), [false]);
}

fn missing_objects_are_remembered_for_a_while(backend: Backend) {
    let edge = Edge::start_with(backend, EMOTES);
    let missing = ["/emotes/x.png", "/emotes/x.png"];
    let answers = edge.curl(&missing);
    assert_eq!([answers[0].status, answers[1].status], [404, 404]);
    assert!(answers[1].is_hit(), "{answers:?}");
    assert_eq!(edge.origin.requests("/emotes/x.png"), 1);
    let elsewhere = edge.curl(&["/nope", "/nope"]);
    assert!(!elsewhere[1].is_hit(), "{elsewhere:?}");
}

fn clients_cannot_shape_what_others_get(backend: Backend) {
    let edge = Edge::start(backend);
    let poison = [
        "--header",
        "X-Forwarded-Host: evil.test",
        "--header",
        "X-Original-URL: /emotes/2.png",
        "--header",
        "Cache-Control: no-cache, no-store, max-age=0",
        "--header",
        "Pragma: no-cache",
    ];
    let path = ["/emotes/1.png"];
    let expected = edge.origin.body(path[0]);
    assert_eq!(hits(&edge, &poison, &path), [false]);
    let clean = edge.curl(&path);
    clean[0].assert_body(&expected);
    assert_eq!(hits(&edge, &poison, &path), [true], "nor ask again");
    assert_eq!(edge.origin.requests(path[0]), 2, "one of them was ours");
    for path in ["/a%0", "/%"] {
        assert_eq!(edge.curl(&[path])[0].status, 400, "{path}");
        assert_eq!(edge.origin.requests(path), 0);
    }
    let only = ["--header", "Cache-Control: only-if-cached"];
    assert_eq!(edge.curl_with(&only, &["/emotes/1.png"])[0].status, 200);
    assert_eq!(edge.curl_with(&only, &["/emotes/3.png"])[0].status, 504);
    assert_eq!(edge.origin.requests("/emotes/3.png"), 0);
}

fn an_explanation_is_what_happens(backend: Backend) {
    let edge = Edge::start_with(backend, EMOTES);
    let url = "https://edge.test/emotes/tok=1/1.png?utm_source=a";
    let explain = |more: &[&str]| -> serde_json::Value {
        let arguments = [&["explain", url, "--json"], more].concat();
        serde_json::from_str(&edge.control(&arguments)).expect("JSON")
    };
    let before = explain(&[]);
    assert_eq!(before["verdict"], "fetch", "{before:#}");
    assert_eq!(before["key"], "edge.test/emotes/1.png");
    assert_eq!(
        [&before["route"], &before["class"], &before["tier"]],
        ["emotes", "emote", "absent"]
    );
    edge.curl(&["/emotes/1.png"]);
    let after = explain(&[]);
    assert_eq!(after["verdict"], "hit", "{after:#}");
    assert_eq!(after["tier"], "ram");
    let object = &after["object"];
    assert_eq!(object["status"], 200);
    assert_eq!(object["lifetime_source"], "explicit", "{after:#}");
    let (age, ttl) = (object["age_s"].as_i64(), object["ttl_s"].as_i64());
    let sum = age.and_then(|age| ttl.map(|ttl| age + ttl));
    assert_eq!(sum, object["lifetime_s"].as_i64());
    assert_eq!(explain(&["--method", "POST"])["verdict"], "pass");
    assert_eq!(
        explain(&["-H", "Authorization: Basic eA=="])["verdict"],
        "pass"
    );
    let page = edge.control(&["explain", url]);
    assert!(page.starts_with("verdict  hit: fresh for "), "{page}");
    let refused = edge.refused(&["explain", "https://edge.test/a/../b"]);
    assert!(refused.contains("dot segments"), "{refused}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
}
