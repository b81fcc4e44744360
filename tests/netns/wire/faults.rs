//! Origins that fail and clients that misbehave without breaking a rule.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Backend, Edge};

const MEDIA: &str = "/media/20mb.bin";
/// How long a counter may take to move.
const PATIENCE: Duration = Duration::from_secs(30);

on_both_backends! {
    while_the_origin_is_down_hits_are_served_and_misses_say_so,
    a_slow_origin_is_given_up_on,
    a_torn_body_is_never_passed_off_as_whole,
    a_client_that_changes_its_port_keeps_its_download,
    a_client_that_roams_loses_no_request,
    a_client_that_vanishes_is_forgotten,
}

fn while_the_origin_is_down_hits_are_served_and_misses_say_so(backend: Backend) {
    let mut edge = Edge::start(backend);
    let kept = edge.origin.body("/emotes/1.png");
    edge.curl(&["/emotes/1.png"])[0].assert_body(&kept);
    edge.origin.stop();

    let fetched = edge.curl(&["/emotes/1.png", "/emotes/2.png"]);
    fetched[0].assert_body(&kept);
    assert!(fetched[0].is_hit(), "{fetched:?}");
    assert_eq!(fetched[1].status, 502, "{fetched:?}");
    let why = fetched[1].cache_status();
    assert!(why.contains("detail=connection_refused"), "{fetched:?}");

    edge.origin.resume();
    let body = edge.origin.body("/emotes/2.png");
    edge.curl(&["/emotes/2.png"])[0].assert_body(&body);
}

fn a_slow_origin_is_given_up_on(backend: Backend) {
    let edge = Edge::start_with(backend, "[upstream]\nfirst_byte_timeout = \"300ms\"");
    let fetched = edge.curl(&["/slow/60000/a"]);
    assert_eq!(fetched[0].status, 504, "{fetched:?}");
    assert!(!fetched[0].cache_status().is_empty(), "{fetched:?}");
}

fn a_torn_body_is_never_passed_off_as_whole(backend: Backend) {
    let edge = Edge::start_with(backend, "[upstream]\nidle_timeout = \"300ms\"");
    for path in ["/truncate", "/stall", "/size/500000?fault=truncate"] {
        for _ in 0..2 {
            let fetched = edge.curl(&[path]);
            let torn = fetched[0].error.is_some() || fetched[0].status >= 500;
            assert!(torn, "{path}: {fetched:?}");
        }
        assert_eq!(edge.origin.requests(path), 2, "{path} was kept");
    }
}

fn a_client_that_changes_its_port_keeps_its_download(backend: Backend) {
    let edge = Edge::start(backend);
    let body = edge.origin.body(MEDIA);
    for _ in 0..4 {
        let fetched = edge
            .aioquic(&["--rebind-at", "2000000"], &[MEDIA])
            .remove(0);
        fetched.assert_body(&body);
        assert_ne!(fetched.ports[0], fetched.ports[1]);
        assert!(fetched.rebound_at < fetched.length, "{fetched:?}");
    }
}

/// Connections on either core, whose packets come by either queue, with ids that stay and ids that change.
fn a_client_that_roams_loses_no_request(backend: Backend) {
    let edge = Edge::start(backend);
    let media = edge.origin.body(MEDIA);
    let path = "/emotes/1.png";
    let picture = edge.origin.body(path);
    edge.curl(&[MEDIA, path]);
    for new_ids in [&[][..], &["--new-ids"]] {
        for _ in 0..4 {
            let options = [&["--roam", "2000000", "--ask", path], new_ids].concat();
            let fetched = edge.aioquic(&options, &[MEDIA]);
            fetched[0].assert_body(&media);
            assert!(fetched.len() > 4, "it did not roam: {fetched:?}");
            for one in &fetched[1..] {
                one.assert_body(&picture);
            }
            let mut ports = fetched[0].ports.clone();
            ports.sort_unstable();
            ports.dedup();
            assert!(ports.len() > 4, "{ports:?}");
        }
    }
    // The kernel gives each socket what is its own; queues are as the NIC hashes.
    if backend == Backend::AfXdp {
        assert!(edge.counter("datagrams_handed_over") > 0);
    }
    assert_eq!(edge.counter("datagrams_forged"), 0);
}

fn a_client_that_vanishes_is_forgotten(backend: Backend) {
    let mut edge = Edge::start_with(backend, "[limits]\nidle_timeout = \"1s\"");
    for _ in 0..5 {
        edge.vanish_after(1_000_000, MEDIA);
    }
    let deadline = Instant::now() + PATIENCE;
    while edge.counter("connections") > 0 {
        assert!(Instant::now() < deadline, "{:#}", edge.status());
        thread::sleep(Duration::from_millis(100));
    }
    edge.assert_alive();
    let body = edge.origin.body(MEDIA);
    edge.curl(&[MEDIA])[0].assert_body(&body);
}
