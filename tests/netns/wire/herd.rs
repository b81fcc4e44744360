//! Request collapsing: many requests for one missing object.

use crate::harness::{Backend, Edge};

const REQUESTS: u64 = 10_000;
/// Slow enough that every request waits for the same fetch.
const SLOW: &str = "/slow/5000/herd";

on_both_backends! { ten_thousand_requests_make_one_fetch }

fn ten_thousand_requests_make_one_fetch(backend: Backend) {
    let edge = Edge::start(backend);
    let report = edge.herd(SLOW, REQUESTS);
    // The body is a function of the path, and the client compares each one.
    assert_eq!(report["identical"], REQUESTS, "{report:#}");
    assert_eq!(report["before_first_answer"], REQUESTS, "{report:#}");
    assert_eq!(edge.origin.requests(SLOW), 1);
}
