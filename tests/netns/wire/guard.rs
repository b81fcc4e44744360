//! The guard, seen on real packets: floods beside clients, lists and modes by command.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::flood::{forged_short, initials};
use crate::harness::{Backend, Edge};

on_both_backends! {
    a_good_client_goes_on_beside_floods,
    commands_are_seen_on_packets_and_outlive_a_restart,
    connections_outlive_the_keys_of_their_ids,
}

const GUARD: &str = "[guard]\nstate_file = \"guard.json\"\nevent_sample = 1\n";
const PATIENCE: Duration = Duration::from_secs(20);
const FLOOD: usize = 10_000;

/// A counter of the XDP program.
fn counter(edge: &Edge, name: &str) -> u64 {
    let status = edge.status();
    let value = status["xdp"]["counters"][name].as_u64();
    value.unwrap_or_else(|| panic!("no counter {name} in {status:#}"))
}

fn wait_for(edge: &Edge, name: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counter(edge, name) < value {
        assert!(Instant::now() < deadline, "{name}: {}", counter(edge, name));
        thread::sleep(Duration::from_millis(20));
    }
}

fn a_good_client_goes_on_beside_floods(backend: Backend) {
    let more = format!("{GUARD}[limits]\nretry_above = 32\n");
    let edge = Edge::start_with(backend, &more);
    let path = "/emotes/1.png";
    let body = edge.origin.body(path);
    edge.curl(&[path])[0].assert_body(&body);

    let forged: Vec<_> = (0..FLOOD).map(|_| forged_short()).collect();
    let rounds = beside(&edge, &forged, || {
        for fetched in edge.curl(&[path; 5]) {
            fetched.assert_body(&body);
        }
    });
    println!("{rounds} good clients beside {FLOOD} forged short headers");
    wait_for(&edge, "dropped_cid_mac", FLOOD as u64 * 9 / 10);
    assert_eq!(edge.counter("datagrams_forged"), 0, "none got through");

    let rounds = beside(&edge, &initials(FLOOD), || {
        for fetched in edge.curl(&[path; 5]) {
            fetched.assert_body(&body);
        }
    });
    println!("{rounds} good clients beside {FLOOD} spoofed Initials");
    assert!(counter(&edge, "quic_initial") >= FLOOD as u64 / 2);
    assert!(
        edge.counter("retries_sent") > 0,
        "the endpoint asks for proof"
    );
    // At most so many at once on each shard, and nothing of those that were asked for proof.
    assert!(edge.counter("handshakes") <= 2 * 33);
    let events = edge.control(&["guard", "events"]);
    assert!(events.contains("dropped   cid_mac"), "{events}");
    let top = edge.control(&["guard", "top"]);
    assert!(top.contains("10.77.0."), "{top}");
}

/// Sends a flood, and has `good` done again and again until it is over. Says how often.
fn beside(edge: &Edge, flood: &[Vec<u8>], good: impl Fn()) -> usize {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            edge.flood(flood);
            over.store(true, Relaxed);
        });
        let mut rounds = 0;
        while !over.load(Relaxed) || rounds == 0 {
            good();
            rounds += 1;
        }
        rounds
    })
}

fn commands_are_seen_on_packets_and_outlive_a_restart(backend: Backend) {
    let mut edge = Edge::start_with(backend, GUARD);
    let path = "/emotes/2.png";
    let body = edge.origin.body(path);
    edge.curl(&[path])[0].assert_body(&body);

    let said = edge.control(&[
        "guard",
        "block",
        "10.77.0.2",
        "--for",
        "1h",
        "--note",
        "a test",
    ]);
    assert!(said.contains("1 blocked"), "{said}");
    edge.send_udp(&forged_short());
    wait_for(&edge, "dropped_block_list", 1);
    edge.control(&["guard", "monitor", "block_list"]);
    edge.curl(&[path])[0].assert_body(&body);
    assert!(counter(&edge, "monitored_block_list") > 0);
    edge.control(&["guard", "monitor", "block_list", "--mode", "configured"]);

    edge.stop_popcache();
    edge.send_udp(&forged_short());
    edge.start_popcache();
    let listed = edge.control(&["guard", "list"]);
    assert!(
        listed.contains("10.77.0.2") && listed.contains("a test"),
        "{listed}"
    );
    wait_for(&edge, "dropped_block_list", 2);

    edge.control(&["guard", "allow", "10.77.0.0/24"]);
    edge.curl(&[path])[0].assert_body(&body);
    assert!(counter(&edge, "allowed") > 0);
    edge.control(&["guard", "remove", "10.77.0.0/24", "10.77.0.2"]);
    edge.curl(&[path])[0].assert_body(&body);

    let refused = edge.refused(&["guard", "block", "10.77.0.2/24"]);
    assert!(refused.contains("bits behind the prefix"), "{refused}");
    let refused = edge.refused(&["guard", "remove", "10.77.0.9"]);
    assert!(refused.contains("was not listed"), "{refused}");
    let refused = edge.refused(&["guard", "monitor", "cid_mak"]);
    assert!(refused.contains("there is no rule"), "{refused}");
    let metrics = edge.metrics();
    for name in [
        "popcache_xdp_packets_total{counter=\"dropped_block_list\"} ",
        "popcache_tier_hits_total{shard=\"0\",tier=\"ram\"}",
        "popcache_guard_entries 0",
    ] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
}

/// One connection, its ids replaced five times.
fn connections_outlive_the_keys_of_their_ids(backend: Backend) {
    let more = format!("{GUARD}cid_key_lifetime = \"1s\"\n");
    let edge = Edge::start_with(backend, &more);
    let path = "/emotes/3.png";
    let body = edge.origin.body(path);
    for fetched in edge.curl_with(&["--pause", "0.8"], &[path; 8]) {
        fetched.assert_body(&body);
    }
    assert_eq!(edge.counter("connections_accepted"), 1);
    let turned = edge.status()["guard"]["cid_key_rotations"].as_u64();
    assert!(turned.is_some_and(|turned| turned >= 4), "{turned:?}");
    assert_eq!(counter(&edge, "dropped_cid_mac"), 0);
}
