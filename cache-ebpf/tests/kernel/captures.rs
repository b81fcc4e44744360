//! What real clients send, judged by the kernel and by the host.

use cache_ebpf::{
    maps::{MAX_PORTS, Rules},
    rule::{Mode, Rule},
};

use crate::{
    pcap,
    support::{Host, Kernel},
};

const INITIAL: &[&str] = &["quic_initial"];
const INITIAL_HOME: &[&str] = &["quic_initial", "cid_home"];
const HANDSHAKE_HOME: &[&str] = &["quic_handshake", "cid_home"];
const SHORT_HOME: &[&str] = &["quic_short", "cid_home"];

/// Runs a capture through both and compares the counters that moved, frame by frame.
fn check(name: &str, expected: &[&[&str]]) {
    let mut ports = [0; MAX_PORTS];
    ports[0] = pcap::PORT;
    let mut rules = Rules::new(2, ports);
    // What no client of the world may be dropped by.
    for rule in Rule::ALL {
        rules.modes.set(*rule, Mode::Drop);
    }
    let mut host = Host::new(rules, pcap::keys());
    let mut kernel = Kernel::load();
    kernel.follow(&host);
    let frames = pcap::frames(name);
    assert_eq!(frames.len(), expected.len(), "{name}");
    for (i, (frame, expected)) in frames.iter().zip(expected).enumerate() {
        let outcome = kernel.run(frame);
        assert_eq!(
            outcome,
            host.run(frame),
            "{name}, frame {i}: kernel and host disagree"
        );
        assert_eq!(outcome.moved(), *expected, "{name}, frame {i}");
    }
}

#[test]
fn aioquic() {
    check("aioquic", &[INITIAL, INITIAL_HOME, SHORT_HOME]);
}

#[test]
fn curl() {
    let mut expected = vec![INITIAL, INITIAL_HOME];
    expected.extend([SHORT_HOME; 6]);
    check("curl", &expected);
}

/// Its first flight is two Initials: the post-quantum key share does not fit into one.
#[test]
fn chromium() {
    let mut expected = vec![INITIAL, INITIAL, INITIAL_HOME, HANDSHAKE_HOME];
    expected.extend([SHORT_HOME; 3]);
    check("chromium", &expected);
}

/// An id is home by its own MAC only: under another key the same packets are strangers'.
#[test]
fn under_another_key_the_ids_are_unknown() {
    let mut ports = [0; MAX_PORTS];
    ports[7] = pcap::PORT;
    let keys = cache_ebpf::maps::CidKeys::new(1, cache_ebpf::cid::CidKey::from_bytes([7; 16]));
    let mut kernel = Kernel::load();
    kernel.set(Rules::new(2, ports), keys);
    let frames = pcap::frames("curl");
    let short = frames.last().expect("frames");
    assert_eq!(kernel.run(short).moved(), ["quic_short_unknown"]);
}
