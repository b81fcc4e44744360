//! The order of answers on one connection (RFC 9218).

use crate::harness::{Backend, Edge, Fetched};

/// Within the windows that aioquic grants, so that only the order decides.
const SEGMENT: &str = "/size/900000";
const OTHER: &str = "/size/900001";
const EMOTE: &str = "/size/4000";

on_both_backends! {
    an_emote_overtakes_a_segment,
    the_client_decides_by_field_and_by_frame,
    incremental_answers_share_and_others_do_not,
}

fn an_emote_overtakes_a_segment(backend: Backend) {
    let edge = warm(backend);
    let fetched = get(&edge, &[], &[SEGMENT, EMOTE]);
    // Asked for after it, and complete while most of it was still to come.
    assert!(fetched[1].beside[0] < 500_000, "{fetched:?}");
}

fn the_client_decides_by_field_and_by_frame(backend: Backend) {
    let edge = warm(backend);
    let urgent_segment = ["--priority=u=1", "--priority=u=6"];
    for more in [&[][..], &["--by-update"]] {
        let options = [&urgent_segment[..], more].concat();
        let fetched = get(&edge, &options, &[SEGMENT, EMOTE]);
        assert_eq!(fetched[1].beside[0], 900_000, "{more:?}: {fetched:?}");
        // Of two large ones the later is the more urgent.
        let options = [&["--priority=u=6", "--priority=u=1"], more].concat();
        let fetched = get(&edge, &options, &[SEGMENT, OTHER]);
        assert!(fetched[1].beside[0] < 800_000, "{more:?}: {fetched:?}");
    }
    assert_eq!(edge.counter("priorities_forgotten"), 0);
}

fn incremental_answers_share_and_others_do_not(backend: Backend) {
    let edge = warm(backend);
    // Above 64 KiB, and no more than a socket's buffer has room for: what is lost comes out of order.
    let (small, large) = ("/size/70000", "/size/70001");
    edge.aioquic(&[], &[small, large]);
    let fetched = get(&edge, &["--priority=i", "--priority=i"], &[small, large]);
    assert!(fetched[0].beside[1] > 35_000, "{fetched:?}");
    let fetched = get(&edge, &[], &[small, large]);
    assert!(fetched[0].beside[1] < 35_000, "{fetched:?}");
}

/// An edge that has the objects in memory.
fn warm(backend: Backend) -> Edge {
    let edge = Edge::start(backend);
    for path in [SEGMENT, OTHER, EMOTE] {
        edge.aioquic(&[], &[path]);
    }
    edge
}

fn get(edge: &Edge, options: &[&str], paths: &[&str]) -> Vec<Fetched> {
    let fetched = edge.aioquic(options, paths);
    for (one, path) in fetched.iter().zip(paths) {
        one.assert_body(&edge.origin.body(path));
        assert!(one.is_hit(), "{one:?}");
    }
    fetched
}
