//! The operator's side: status, purge, pins, restart.

use crate::harness::{Backend, Edge};

on_both_backends! {
    a_purged_object_is_fetched_again,
    a_pinned_object_is_fetched_and_kept,
    status_tells_what_the_node_did,
    a_restart_keeps_xdp_attached,
}

fn a_purged_object_is_fetched_again(backend: Backend) {
    let edge = Edge::start(backend);
    let paths = ["/emotes/1.png", "/emotes/2.png"];
    let warm = edge.curl(&paths).len() + edge.curl(&paths).len();
    assert_eq!(warm, 4);
    edge.control(&["purge", "https://edge.test/emotes/1.png"]);
    let fetched = edge.curl(&paths);
    assert!(!fetched[0].is_hit(), "{fetched:?}");
    assert!(fetched[1].is_hit(), "{fetched:?}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 2);
    assert_eq!(edge.origin.requests("/emotes/2.png"), 1);

    edge.control(&["purge", "--all"]);
    let fetched = edge.curl(&paths);
    assert!(fetched.iter().all(|one| !one.is_hit()), "{fetched:?}");
}

fn a_pinned_object_is_fetched_and_kept(backend: Backend) {
    let edge = Edge::start(backend);
    let url = "https://edge.test/emotes/1.png";
    let answer = edge.control(&["pin", url]);
    assert!(answer.starts_with("awaited: "), "{answer}");
    edge.wait_for("pins_kept", 1);
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
    let fetched = edge.curl(&["/emotes/1.png"]);
    assert!(fetched[0].is_hit(), "{fetched:?}");

    let refused = edge.refused(&["pin", "https://elsewhere.test/a"]);
    assert!(refused.contains("no origin serves"), "{refused}");
    let listed = edge.control(&["pins"]);
    assert!(listed.contains(url), "{listed}");
    assert!(listed.contains("1 pinned, 1 kept in "), "{listed}");

    // The pin outlives its object.
    edge.control(&["purge", url]);
    edge.wait_for("pins_kept", 0);
    assert!(!edge.curl(&["/emotes/1.png"])[0].is_hit());
    edge.wait_for("pins_kept", 1);
    let answer = edge.control(&["unpin", url]);
    assert!(answer.starts_with("unpinned: "), "{answer}");
    edge.wait_for("pins", 0);
    assert!(edge.curl(&["/emotes/1.png"])[0].is_hit());
}

fn status_tells_what_the_node_did(backend: Backend) {
    let edge = Edge::start(backend);
    edge.curl(&["/emotes/1.png", "/emotes/1.png", "/emotes/1.png"]);
    let status = edge.status();
    assert_eq!(status["backend"]["kind"], backend.name(), "{status:#}");
    assert_eq!(status["xdp"]["attached"], true, "{status:#}");
    assert_eq!(
        status["shards"].as_array().map(Vec::len),
        Some(2),
        "{status:#}"
    );
    assert_eq!(edge.counter("requests"), 3, "{status:#}");
    assert_eq!(edge.counter("hits"), 2, "{status:#}");
    assert_eq!(status["origins"][0]["started"], 1, "{status:#}");
    let page = edge.control(&["status"]);
    assert!(page.contains(backend.name()), "{page}");
}

fn a_restart_keeps_xdp_attached(backend: Backend) {
    let mut edge = Edge::start(backend);
    let body = edge.origin.body("/emotes/1.png");
    assert!(is_attached(&edge));
    for _ in 0..2 {
        edge.stop_popcache();
        assert!(is_attached(&edge), "{}", edge.network().interface());
        edge.start_popcache();
        edge.curl(&["/emotes/1.png"])[0].assert_body(&body);
    }
}

fn is_attached(edge: &Edge) -> bool {
    edge.network().interface().contains("prog/xdp")
}
