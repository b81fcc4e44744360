//! What becomes of those who wait for one fetch.

use crate::harness::{Backend, Edge};

on_both_backends! {
    a_body_that_outgrows_memory_reaches_everyone_whole,
}

fn a_body_that_outgrows_memory_reaches_everyone_whole(backend: Backend) {
    const CLIENTS: u64 = 12;
    let path = "/chunked/60000000?delay=500";
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
