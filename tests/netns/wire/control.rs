//! The operator's side: status, purge, restart.

use crate::harness::{Backend, Edge};

on_both_backends! {
    a_purged_object_is_fetched_again,
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
