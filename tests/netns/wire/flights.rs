//! What becomes of those who wait for one fetch.

use std::thread;

use crate::harness::{Backend, Edge, Fetched};

/// Requests of a herd, over a hundred connections that lie on every core.
const HERD: u64 = 300;

on_both_backends! {
    clients_of_every_version_follow_one_fetch,
    who_began_the_fetch_may_leave,
    what_must_not_be_shared_is_asked_for_by_everyone_at_once,
    an_origin_that_is_too_slow_is_one_answer_for_all,
    an_origin_that_dies_midway_cuts_everyone_off,
    more_than_may_wait_are_refused,
    a_body_that_outgrows_memory_reaches_everyone_whole,
}

fn clients_of_every_version_follow_one_fetch(backend: Backend) {
    let edge = Edge::start(backend);
    // Slow enough that all come while it is on its way.
    let path = "/drip/400000/4000";
    let get = |version: &str| edge.curl_with(&["--version", version], &[path]).remove(0);
    let all: Vec<Fetched> = thread::scope(|scope| {
        let get = &get;
        let clients = ["v3only", "v2", "v1", "v3only", "v2", "v1"];
        let clients = clients.map(|version| scope.spawn(move || get(version)));
        clients
            .map(|client| client.join().expect("a client"))
            .into()
    });
    assert_eq!(edge.origin.requests(path), 1, "{all:?}");
    let body = edge.origin.body(path);
    for (one, version) in all.iter().zip(["h3", "h2", "http/1.1"].iter().cycle()) {
        one.assert_body_over(version, &body);
    }
}

fn who_began_the_fetch_may_leave(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/drip/2000000/4000";
    edge.vanish_after(1_000, path);
    // What it began goes on, for whoever comes.
    let all = edge.curl(&[path]);
    let body = edge.origin.body(path);
    all[0].assert_body(&body);
    // Ours, and the one that told us what to expect.
    assert_eq!(edge.origin.requests(path), 2);
}

fn what_must_not_be_shared_is_asked_for_by_everyone_at_once(backend: Backend) {
    let edge = Edge::start_with(
        backend,
        "[upstream]\nmax_connections = 400\n[limits]\nuncacheable_ttl = \"300s\"\n",
    );
    let path = "/no-store?delay=300";
    let report = edge.herd(path, HERD);
    assert_eq!(report["identical"], HERD, "{report:#}");
    // One after the other they would have taken a minute and a half, and the herd gives up after half of one
    // without an answer; those who waited for the first asked together.
    assert_eq!(edge.origin.requests(path), HERD);
    assert!(edge.counter("uncacheable") > 0, "it is not remembered");
    let before = by_shard(&edge);
    edge.herd(path, HERD);
    assert_eq!(edge.origin.requests(path), 2 * HERD);
    // A shard that had not heard of it asks the owner, and its requests wait for that answer together.
    for ((knew, collapsed), (_, now)) in before.into_iter().zip(by_shard(&edge)) {
        assert!(knew == 0 || now == collapsed, "they waited again");
    }
}

/// What each shard remembers as uncacheable, and the requests that it has collapsed.
fn by_shard(edge: &Edge) -> Vec<(u64, u64)> {
    let status = edge.status();
    let shards = status["shards"].as_array().expect("a list");
    let counters = shards.iter().map(|shard| &shard["counters"]);
    let count = |counter: &serde_json::Value| counter.as_u64().expect("a number");
    counters
        .map(|of| (count(&of["uncacheable"]), count(&of["collapsed"])))
        .collect()
}

fn an_origin_that_is_too_slow_is_one_answer_for_all(backend: Backend) {
    let edge = Edge::start_with(backend, "[upstream]\nfirst_byte_timeout = \"1s\"\n");
    let path = "/slow/60000/herd";
    let report = edge.herd(path, HERD);
    assert_eq!(report["errors"]["status 504"], HERD, "{report:#}");
    assert_eq!(edge.origin.requests(path), 1);
}

fn an_origin_that_dies_midway_cuts_everyone_off(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/size/2000000?fault=truncate&delay=300";
    let report = edge.herd(path, HERD);
    assert_eq!(report["identical"], 0, "{report:#}");
    assert_eq!(report["failed"], HERD, "{report:#}");
    assert_eq!(
        report["errors"]["timeout"],
        serde_json::Value::Null,
        "{report:#}"
    );
    assert_eq!(edge.counter("waiters"), 0);
    assert_eq!(edge.counter("flights"), 0);
}

fn more_than_may_wait_are_refused(backend: Backend) {
    let edge = Edge::start_with(backend, "[limits]\nmax_waiters = 20\n");
    let path = "/slow/2000/herd";
    let report = edge.herd(path, HERD);
    let refused = edge.counter("waiters_refused");
    assert!(
        refused > 0 && report["errors"]["status 503"] == refused,
        "{report:#}"
    );
    assert_eq!(report["identical"], HERD - refused, "{report:#}");
    assert_eq!(edge.origin.requests(path), 1);
}

fn a_body_that_outgrows_memory_reaches_everyone_whole(backend: Backend) {
    const CLIENTS: u64 = 4;
    let path = "/chunked/30000000?delay=500";
    let more = "[memory]\nram = \"64 MiB\"\n[limits]\nmax_heap_fill = \"4 MiB\"\nfetch_window = \"512 KiB\"\n";
    let edge = Edge::start_with(backend, more);
    let report = edge.herd(path, CLIENTS);
    assert_eq!(report["identical"], CLIENTS, "{report:#}");
    assert_eq!(edge.origin.requests(path), 1, "they followed one fetch");
    assert_eq!(edge.counter("windows"), 1);
    assert_eq!(edge.counter("waiters_left_behind"), 0);
    // Not kept: the next one asks for itself.
    let body = edge.origin.body(path);
    edge.curl(&[path])[0].assert_body(&body);
}
