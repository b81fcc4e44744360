//! Bodies of requests that are passed on as they come.

use crate::harness::{Backend, Edge};

const MIB: u64 = 1 << 20;
const VERSIONS: [&str; 3] = ["http/1.1", "h2", "h3"];

on_one_backend! {
    a_long_body_is_passed_on_as_it_comes,
    a_client_that_stops_sending_is_told,
    an_origin_may_answer_early,
    a_body_that_is_too_long_is_refused,
}

fn a_long_body_is_passed_on_as_it_comes(backend: Backend) {
    let edge = Edge::start(backend);
    edge.curl(&["/size/1000"]);
    let before = edge.memory_peak();
    for (version, bytes) in [("http/1.1", 50 * MIB), ("h2", 50 * MIB), ("h3", 6 * MIB)] {
        let one = edge.upload(version, bytes, &[], "/echo");
        assert_eq!((one.status, one.length), (200, bytes), "{one:?}");
        assert_eq!(one.sha256, one.sent_sha256, "{one:?}");
    }
    assert_eq!(edge.counter("request_body_bytes"), 106 * MIB);
    // Its windows, and what the allocator keeps of them.
    let more = edge.memory_peak().saturating_sub(before);
    assert!(more < 24 * MIB, "{more} bytes for a body of 50 MiB");
    assert_eq!(edge.counter("passes"), 0);
}

fn a_client_that_stops_sending_is_told(backend: Backend) {
    let edge = Edge::start_with(backend, "[upstream]\nfirst_byte_timeout = \"1s\"\n");
    for version in VERSIONS {
        // Of an answer that does not begin before the body has ended.
        let one = edge.upload(version, MIB, &["--stall-at", "300000"], "/take");
        assert_eq!(one.status, 408, "{one:?}");
    }
    assert_eq!(edge.curl(&["/size/1000"])[0].status, 200);
}

fn an_origin_may_answer_early(backend: Backend) {
    let edge = Edge::start(backend);
    for version in VERSIONS {
        let one = edge.upload(version, 20 * MIB, &[], "/early");
        assert_eq!((one.status, one.length), (403, 11), "{one:?}");
    }
    assert_eq!(edge.counter("passes"), 0);
    assert_eq!(edge.curl(&["/size/1000"])[0].status, 200);
}

fn a_body_that_is_too_long_is_refused(backend: Backend) {
    let edge = Edge::start_with(backend, "[limits]\nmax_request_body = \"1 MiB\"\n");
    let one = edge.upload("h3", 2 * MIB, &[], "/echo");
    assert_eq!(one.status, 413, "{one:?}");
    assert_eq!(edge.counter("request_bodies_too_large"), 1);
    let one = edge.upload("h2", 2 * MIB, &[], "/echo");
    assert_eq!(one.status, 413, "{one:?}");
    assert_eq!(edge.counter("tcp_bodies_too_large"), 1);
}
