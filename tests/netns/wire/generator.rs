//! The packet generator against the real XDP program: what it sends is what the guard counts.

use crate::harness::{Backend, Edge};

/// Packets of each run; at a rate that no ring on the way is too small for.
const COUNT: u64 = 300;
const RATE: &str = "3000";

/// Kinds, and the counters of which one counts each packet of the kind.
const KINDS: [(&str, &[&str]); 4] = [
    ("initial", &["quic_initial"]),
    ("forged-initial", &["quic_initial"]),
    ("short", &["quic_short_unknown", "dropped_cid_mac"]),
    (
        "malformed",
        &[
            "quic_malformed",
            "quic_initial_undersized",
            "quic_other_version_undersized",
            "quic_from_server",
            "dropped_malformed",
            "dropped_undersized",
            "dropped_from_server",
        ],
    ),
];

/// What a guard that is set to drop may drop of any kind.
const RATES: [&str; 3] = [
    "dropped_rate_packets",
    "dropped_rate_bytes",
    "dropped_rate_handshakes",
];

on_both_backends! { what_is_generated_is_counted_as_what_it_is }

fn what_is_generated_is_counted_as_what_it_is(backend: Backend) {
    let mut edge = Edge::start(backend);
    let body = edge.origin.body("/emotes/1.png");
    // Makes both ends know their neighbours.
    edge.curl(&["/emotes/1.png"])[0].assert_body(&body);
    for way in ["live-frames", "af-xdp", "udp-gso", "sendmmsg"] {
        for (kind, counters) in KINDS {
            let before = counted(&edge, counters);
            let count = COUNT.to_string();
            let mut options = vec![
                "--way", way, "--mix", kind, "--count", &count, "--rate", RATE,
            ];
            if matches!(way, "live-frames" | "af-xdp") {
                options.extend(["--from", "10.77.0.128/25"]);
            }
            let report = edge.generate(&options);
            assert_eq!(report["packets"], COUNT, "{report:#}");
            let moved = counted(&edge, counters) - before;
            assert_eq!(moved, COUNT, "{way} {kind}: {report:#}");
        }
    }
    assert_eq!(wrong_checksums(&edge), 0);
    edge.assert_alive();
    edge.curl(&["/emotes/1.png"])[0].assert_body(&body);
}

fn counted(edge: &Edge, names: &[&str]) -> u64 {
    let status = edge.status();
    let counters = &status["xdp"]["counters"];
    let count = |name: &&str| counters[*name].as_u64().unwrap_or(0);
    names.iter().chain(&RATES).map(count).sum()
}

/// Datagrams that the kernel threw away for their checksums.
fn wrong_checksums(edge: &Edge) -> u64 {
    edge.network().kernel_counter("snmp", "Udp", "InCsumErrors")
}
