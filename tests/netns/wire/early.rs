//! Sessions that are resumed, and requests in early data (RFC 8446 section 8, RFC 8470).

use crate::harness::{Backend, Edge};

const PICTURE: &str = "/emotes/1.png";

on_both_backends! {
    sessions_are_resumed_on_every_core,
    a_hit_is_answered_from_the_first_flight_alone,
    what_memory_does_not_answer_waits_for_the_handshake,
    nothing_goes_upstream_for_who_never_completes_it,
    past_the_bound_it_is_425,
    a_replayed_flight_is_executed_once,
}

fn sessions_are_resumed_on_every_core(backend: Backend) {
    const TIMES: u64 = 20;
    let edge = Edge::start(backend);
    edge.curl(&[PICTURE]);
    let resumed = edge.early(&["--times", &TIMES.to_string()], &[PICTURE]);
    assert_eq!(resumed.len() as u64, TIMES);
    let body = edge.origin.body(PICTURE);
    for one in &resumed {
        one.assert_body(&body);
        assert!(one.early && one.is_hit(), "{one:?}");
    }
    // Each was given out by the one before, and they came to either core.
    assert_eq!(sessions(&edge, "resumed"), TIMES);
    assert_eq!(sessions(&edge, "replayed") + sessions(&edge, "unknown"), 0);
    let by_shard = by_shard(&edge, "early_requests");
    assert!(
        by_shard.iter().all(|&requests| requests > 0),
        "{by_shard:?}"
    );
    assert!(sessions(&edge, "given") > TIMES);
    let metrics = edge.metrics();
    assert!(metrics.contains("popcache_tls_sessions_resumed_total 20"));
}

fn a_hit_is_answered_from_the_first_flight_alone(backend: Backend) {
    let edge = Edge::start(backend);
    // Together within three times what the client has sent (RFC 9000 section 8.1).
    let paths = ["/size/300", "/size/500"];
    edge.curl(&paths);
    let fetched = edge.early(&["--withhold", "20"], &paths);
    for (one, path) in fetched.iter().zip(paths) {
        assert!(one.early && one.unconfirmed && one.is_hit(), "{one:?}");
        one.assert_body(&edge.origin.body(path));
    }
    assert_eq!(edge.counter("early_delayed"), 0);
}

fn what_memory_does_not_answer_waits_for_the_handshake(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/size/3000?new";
    let fetched = edge.early(&["--withhold", "1"], &[path]);
    let one = &fetched[0];
    assert!(one.early && !one.unconfirmed, "{one:?}");
    one.assert_body(&edge.origin.body(path));
    // A method that changes something, for what memory has.
    let deleted = edge.early(&["--withhold", "1", "--method", "DELETE"], &[path]);
    let one = &deleted[0];
    assert!(
        one.early && !one.unconfirmed && one.status == 200,
        "{one:?}"
    );
    assert_eq!(edge.counter("early_delayed"), 2);
    assert_eq!(edge.counter("early_waiting"), 0);
    assert_eq!(edge.counter("early_refused"), 0);
}

fn nothing_goes_upstream_for_who_never_completes_it(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/size/3000?never";
    for method in ["GET", "DELETE"] {
        let options = ["--withhold", "1", "--vanish", "--method", method];
        let fetched = edge.early(&options, &[path]);
        assert!(fetched[0].error.is_some(), "{fetched:?}");
    }
    assert_eq!(edge.counter("early_delayed"), 2);
    assert_eq!(edge.origin.requests(path), 0);
}

fn past_the_bound_it_is_425(backend: Backend) {
    let edge = Edge::start_with(backend, "[limits]\nmax_early_waiting = 0\n");
    let path = "/size/3000?new";
    let fetched = edge.early(&["--withhold", "20"], &[path]);
    let one = &fetched[0];
    assert!(one.early && one.unconfirmed, "{one:?}");
    assert_eq!(one.status, 425, "{one:?}");
    assert!(one.cache_status().contains("early-data"), "{one:?}");
    assert_eq!(edge.counter("early_refused"), 1);
    assert_eq!(edge.origin.requests(path), 0);
}

fn a_replayed_flight_is_executed_once(backend: Backend) {
    const COPIES: u64 = 20;
    let edge = Edge::start(backend);
    edge.curl(&[PICTURE]);
    let before = edge.counter("hits");
    let accepted = by_shard(&edge, "connections_accepted");
    let fetched = edge.early(&["--replay", &COPIES.to_string()], &[PICTURE]);
    assert!(fetched[0].early && fetched[0].is_hit(), "{fetched:?}");
    // Who saw copies found the session used: both cores by AF_XDP, over sockets those that the kernel gave
    // some. Of copies with one connection id a core looks at the
    // first, whose handshake is never complete, and takes the others for its packets.
    let now = by_shard(&edge, "connections_accepted");
    let more: Vec<u64> = now.iter().zip(&accepted).map(|(n, a)| n - a).collect();
    let least = match backend {
        Backend::AfXdp => 2,
        Backend::Udp => 1,
    };
    let cores = more.iter().filter(|&&copies| copies > 0).count();
    assert!(cores >= least, "{more:?}");
    let replayed = sessions(&edge, "replayed");
    assert!(replayed >= least as u64, "{replayed}");
    assert_eq!(more.iter().sum::<u64>(), replayed + 2);
    assert_eq!(sessions(&edge, "resumed"), 1);
    assert_eq!(edge.counter("early_requests"), 1);
    assert_eq!(edge.counter("hits"), before + 1);
}

fn sessions(edge: &Edge, what: &str) -> u64 {
    let status = edge.status();
    let count = &status["tls"][format!("sessions_{what}")];
    count
        .as_u64()
        .unwrap_or_else(|| panic!("no {what} in {status:#}"))
}

fn by_shard(edge: &Edge, counter: &str) -> Vec<u64> {
    let status = edge.status();
    let shards = status["shards"].as_array().expect("a list");
    let values = shards.iter().map(|shard| &shard["counters"][counter]);
    values
        .map(|value| value.as_u64().expect("a number"))
        .collect()
}
