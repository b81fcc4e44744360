//! An edge, its shield (both popcache, over real sockets) and the origin behind both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::{Backend, Edge, Fetched, shield};

const OBJECTS: usize = 40;
const FLUSHES: usize = 5;

on_one_backend! {
    flushing_an_edge_under_load_is_absorbed_by_its_shield,
    an_edge_whose_shield_dies_goes_on_with_the_origin,
    a_shield_that_asks_itself_says_so,
    an_edge_asks_its_shield_over_http2,
}

fn start(backend: Backend) -> (Edge, shield::Shield, Vec<String>) {
    let edge = Edge::start_with(backend, &shield::section());
    let shield = edge.start_shield();
    let paths = (1..=OBJECTS).map(|n| format!("/emotes/{n}.png")).collect();
    (edge, shield, paths)
}

fn fetch(edge: &Edge, paths: &[String]) -> Vec<Fetched> {
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    edge.curl(&paths)
}

fn assert_served(fetched: &[Fetched]) {
    for one in fetched {
        assert_eq!((one.status, &one.error), (200, &None), "{one:?}");
    }
}

fn flushing_an_edge_under_load_is_absorbed_by_its_shield(backend: Backend) {
    let (edge, shield, paths) = start(backend);
    let first = fetch(&edge, &paths);
    assert_served(&first);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                assert_served(&fetch(&edge, &paths));
                rounds += 1;
            }
            rounds
        });
        for _ in 0..FLUSHES {
            edge.control(&["purge", "--all"]);
            assert_served(&fetch(&edge, &paths));
        }
        over.store(true, Ordering::Relaxed);
        assert!(load.join().expect("every answer was good") > 0);
    });

    // Every object was fetched from the origin once, by the shield; never by the edge.
    let counts = paths.iter().map(|path| edge.origin.requests(path));
    assert_eq!(counts.collect::<Vec<_>>(), [1; OBJECTS]);
    let status = edge.status();
    let demo = &status["origins"][0];
    let answers = demo["shield_answers"].as_u64().expect("a number");
    let hits = demo["shield_hits"].as_u64().expect("a number");
    let objects = OBJECTS as u64;
    assert!(answers >= objects * (1 + FLUSHES as u64), "{demo:#}");
    assert_eq!(hits, answers - objects, "{demo:#}");
    assert_eq!(status["nodes"][1]["requests"], 0, "{status:#}");
    let shielded = shield.status();
    assert_eq!(shielded["origins"][0]["ok"], objects, "{shielded:#}");

    // The bytes are the origin's. Asked for last, since this counts as a request too.
    for (path, fetched) in paths.iter().zip(&first) {
        fetched.assert_body(&edge.origin.body(path));
    }
}

fn an_edge_whose_shield_dies_goes_on_with_the_origin(backend: Backend) {
    let (edge, shield, paths) = start(backend);
    assert_served(&fetch(&edge, &paths[..10]));
    shield.kill();
    assert_served(&fetch(&edge, &paths));
    let status = edge.status();
    assert_ne!(status["nodes"][0]["state"], "up", "{status:#}");
    assert_eq!(
        status["nodes"][1]["requests"],
        OBJECTS as u64 - 10,
        "{status:#}"
    );
}

fn a_shield_that_asks_itself_says_so(backend: Backend) {
    let edge = Edge::start_with(backend, &shield::section());
    let shield = edge.start_looped_shield();
    let fetched = edge.curl(&["/emotes/1.png"]).remove(0);
    assert_eq!(fetched.status, 508, "{fetched:?}");
    let why = fetched.header("proxy-status");
    assert!(why.contains("error=proxy_loop_detected"), "{fetched:?}");
    let status = shield.status();
    let counters = &status["shards"][0]["counters"];
    assert_eq!(counters["loops_refused"], 1, "{counters:#}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 0);
}

/// One connection for all that the edge asks for at once, by the shield's own authority.
fn an_edge_asks_its_shield_over_http2(backend: Backend) {
    let edge = Edge::start_with(backend, &shield::secure_section());
    let shield = edge.start_secure_shield();
    let paths: Vec<String> = (1..=OBJECTS).map(|n| format!("/emotes/{n}.png")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let fetched = edge.aioquic(&[], &paths);
    assert_served(&fetched);
    for (path, one) in paths.iter().zip(&fetched) {
        assert_eq!(edge.origin.requests(path), 1, "{path}");
        one.assert_body(&edge.origin.body(path));
    }
    let status = edge.status();
    let node = &status["nodes"][0];
    assert_eq!(node["requests"], OBJECTS as u64, "{node:#}");
    assert_eq!(node["connections_made"], 1, "{node:#}");
    let shielded = shield.status();
    let counters = &shielded["shards"][0]["counters"];
    assert_eq!(counters["tcp_requests"], OBJECTS as u64, "{counters:#}");
    assert_eq!(counters["h2_connections"], 1, "{counters:#}");
    // A body that outgrows HTTP/2's windows.
    let path = "/size/2000000";
    edge.curl(&[path])[0].assert_body(&edge.origin.body(path));
}
