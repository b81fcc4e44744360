//! A stop: what was asked for is answered, and clients are told to go elsewhere.

use std::thread;
use std::time::Duration;

use crate::harness::{Backend, Edge};

on_both_backends! {
    requests_in_flight_are_answered_before_a_node_ends,
    a_client_that_goes_by_goaway_loses_nothing,
}

/// Long enough for every client to have asked.
const HEAD_START: Duration = Duration::from_millis(1_500);

fn requests_in_flight_are_answered_before_a_node_ends(backend: Backend) {
    let mut edge = Edge::start(backend);
    let path = "/slow/4000/drained";
    let body = edge.origin.body(path);
    thread::scope(|scope| {
        let over_h3 = scope.spawn(|| edge.aioquic(&[], &[path]));
        let over_tcp = ["v1", "v2"].map(|version| {
            let edge = &edge;
            scope.spawn(move || edge.curl_with(&["--version", version], &[path]))
        });
        edge.wait_for("waiters", 3);
        thread::sleep(HEAD_START / 10);
        edge.begin_to_stop();
        over_h3.join().expect("aioquic")[0].assert_body(&body);
        for (client, shown) in over_tcp.into_iter().zip(["http/1.1", "h2"]) {
            client.join().expect("curl")[0].assert_body_over(shown, &body);
        }
    });
    edge.stop_popcache();
    // Theirs together, and the one that told us what to expect.
    assert_eq!(edge.origin.requests(path), 2);
}

fn a_client_that_goes_by_goaway_loses_nothing(backend: Backend) {
    let mut edge = Edge::start(backend);
    let paths = ["/emotes/1.png", "/emotes/2.png", "/slow/300/b"];
    edge.aioquic(&[], &paths);
    let tally = thread::scope(|scope| {
        let client = scope.spawn(|| edge.steady(4.0, 4, &paths));
        thread::sleep(HEAD_START);
        edge.begin_to_stop();
        client.join().expect("the client")
    });
    edge.stop_popcache();
    println!("{tally:?}");
    assert!(tally.failed.is_empty(), "{tally:?}");
    assert!(tally.ok > 20, "{tally:?}");
    // Everyone was told, and nobody is let in any more.
    assert!(tally.goaways >= 4, "{tally:?}");
    assert_eq!(tally.connections, 4, "{tally:?}");
    assert!(!tally.refused.is_empty(), "{tally:?}");
}
