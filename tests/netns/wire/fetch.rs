//! Objects byte for byte, through three HTTP/3 stacks of others.

use crate::harness::{Backend, Edge, Fetched};

const MEDIA: &str = "/media/20mb.bin";

on_both_backends! {
    curl_gets_a_miss_then_hits,
    aioquic_gets_fifty_objects_at_once,
    chromium_shows_a_page_over_h3,
    head_answers_like_get_without_a_body,
    statuses_of_the_origin_pass_through,
    a_large_object_arrives_whole,
    bytes_arrive_while_the_origin_still_sends,
    what_must_not_be_stored_is_not,
}

fn curl_gets_a_miss_then_hits(backend: Backend) {
    let edge = Edge::start(backend);
    for path in [
        "/emotes/1.png",
        "/size/0",
        "/size/1",
        "/size/65536",
        "/size/65537",
        "/chunked/100000",
    ] {
        let fetched = edge.curl(&[path, path, path]);
        assert_eq!(edge.origin.requests(path), 1, "{path}");
        let body = edge.origin.body(path);
        for one in &fetched {
            one.assert_body(&body);
        }
        assert!(
            fetched[0].cache_status().contains("fwd="),
            "{:?}",
            fetched[0]
        );
        assert!(fetched[1].is_hit() && fetched[2].is_hit(), "{fetched:?}");
    }
}

fn aioquic_gets_fifty_objects_at_once(backend: Backend) {
    let edge = Edge::start(backend);
    let paths: Vec<_> = (0..50).map(|n| format!("/emotes/{n}.png")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let fetched = edge.aioquic(&[], &paths);
        assert_eq!(fetched.len(), paths.len());
        for (path, one) in paths.iter().zip(&fetched) {
            one.assert_body(&edge.origin.body(path));
        }
    }
}

fn chromium_shows_a_page_over_h3(backend: Backend) {
    let edge = Edge::start(backend);
    let paths = [
        "/emotes/5.png",
        "/emotes/777.png",
        "/size/300000",
        "/size/300000?v=2",
    ];
    let fetched = edge.chromium("/index", &paths);
    assert_eq!(fetched.len(), paths.len());
    for (path, one) in paths.iter().zip(&fetched) {
        one.assert_body(&edge.origin.body(path));
    }
    assert_eq!(fetched[0].pictures, 200);
}

fn head_answers_like_get_without_a_body(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/size/5000";
    let check = |one: &Fetched| {
        assert_eq!((one.status, one.length), (200, 0), "{one:?}");
        assert_eq!(one.header("content-length"), "5000", "{one:?}");
    };
    // Not in the cache, then in it. (aioquic's own client rejects a HEAD's Content-Length.)
    for _ in 0..2 {
        edge.curl_with(&["--method", "HEAD"], &[path])
            .iter()
            .for_each(check);
        edge.curl(&[path])[0].assert_body(&edge.origin.body(path));
    }
}

fn statuses_of_the_origin_pass_through(backend: Backend) {
    let edge = Edge::start(backend);
    for status in [204, 302, 400, 404, 410, 500, 502, 503] {
        let path = format!("/status/{status}");
        for one in edge
            .curl(&[&path])
            .iter()
            .chain(&edge.aioquic(&[], &[&path]))
        {
            assert_eq!(one.status, status, "{one:?}");
            assert_eq!(one.http_version, "h3", "{one:?}");
        }
    }
    // A method that the node does not answer is passed on; its success makes the object stale.
    edge.curl(&["/emotes/1.png", "/emotes/1.png"]);
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
    let passed_on = edge.curl_with(&["--method", "DELETE"], &["/emotes/1.png"]);
    assert_eq!(passed_on[0].status, 200, "{passed_on:?}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 2);
    edge.curl(&["/emotes/1.png"]);
    assert_eq!(edge.origin.requests("/emotes/1.png"), 3);
    // A tunnel and a mirror of credentials are neither.
    let refused = edge.curl_with(&["--method", "TRACE"], &["/emotes/1.png"]);
    assert_eq!(refused[0].status, 405, "{refused:?}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 3);
}

fn a_large_object_arrives_whole(backend: Backend) {
    let edge = Edge::start(backend);
    let body = edge.origin.body(MEDIA);
    let fetched = edge.curl(&[MEDIA, MEDIA]);
    fetched.iter().for_each(|one| one.assert_body(&body));
    assert!(fetched[1].is_hit(), "{:?}", fetched[1].cache_status());
    edge.aioquic(&[], &[MEDIA, MEDIA])
        .iter()
        .for_each(|one| one.assert_body(&body));
    // Ours, and the one that told us what to expect.
    assert_eq!(edge.origin.requests(MEDIA), 2);
}

fn bytes_arrive_while_the_origin_still_sends(backend: Backend) {
    let mut edge = Edge::start(backend);
    // The origin takes three minutes for this body, the client waits one for its first part.
    edge.vanish_after(50_000, "/drip/2000000/180000");
    edge.assert_alive();
}

fn what_must_not_be_stored_is_not(backend: Backend) {
    let edge = Edge::start(backend);
    for path in ["/private", "/no-store", "/size/100?cc=max-age%3D0"] {
        let fetched = edge.curl(&[path, path]);
        // Each asked the origin; the first may have done so twice, once for all and once for itself.
        assert!(edge.origin.requests(path) >= 2, "{path}");
        let body = edge.origin.body(path);
        fetched.iter().for_each(|one| one.assert_body(&body));
        assert!(!fetched[1].is_hit(), "{:?}", fetched[1]);
    }
}
