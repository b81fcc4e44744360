//! Floods of SYNs: from spoofed sources, which the kernel's SYN cookies answer, and from one source, which the
//! guard's meter stops. What arrived is counted by the device, and by the guard: a virtual NIC drops what its other
//! end has no room for, before either sees it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cache_ebpf::reason::Reason;

use crate::harness::{Backend, Edge};

const GUARD: &str = "[guard]\nstate_file = \"guard.json\"\n";
const PATIENCE: Duration = Duration::from_secs(20);
const FLOOD: u64 = 60_000;
/// Nobody's, in the clients' network.
const SPOOFED: &str = "10.77.0.128/25";
const OVER_TCP: [&str; 2] = ["--version", "v2"];
const PATH: &str = "/emotes/1.png";
/// SYNs of one client's connection at most: it sends them again.
const SYNS_OF_A_CLIENT: u64 = 8;

#[test]
fn clients_are_served_beside_spoofed_syns_by_the_kernels_cookies() {
    let edge = Edge::start_with(Backend::Udp, GUARD);
    warm(&edge);
    let before = Arrived::at(&edge);
    let cookies = kernel(&edge, "SyncookiesSent");
    let served = clients_beside(&edge, || flood(&edge, SPOOFED, FLOOD));
    let arrived = Arrived::since(&edge, &before);
    let cookies = kernel(&edge, "SyncookiesSent") - cookies;
    println!("{served} good clients beside {FLOOD} spoofed SYNs, {cookies} cookies; {arrived:?}");
    arrived.assert_within(FLOOD, served);
    assert_eq!(arrived.dropped_syns, 0, "the rule only counts");
    assert!(cookies > 0, "the queues of half-open connections were full");
    assert!(cookies <= arrived.syns, "{cookies}: {arrived:?}");
}

#[test]
fn a_source_opens_as_many_connections_as_its_limit_says() {
    let edge = Edge::start_with(Backend::Udp, GUARD);
    warm(&edge);
    edge.control(&["guard", "limit", "syns", "10", "--burst", "50"]);
    edge.control(&["guard", "monitor", "rate_syns", "--mode", "drop"]);
    let listed = edge.control(&["guard", "list"]);
    assert!(
        listed.contains("10 a second, 50 at once (changed"),
        "{listed}"
    );
    let before = Arrived::at(&edge);
    let began = Instant::now();
    // The same address again and again, that is not the good clients'.
    let sent = FLOOD / 6;
    let served = clients_beside(&edge, || flood(&edge, "10.77.0.200", sent));
    let arrived = Arrived::since(&edge, &before);
    println!("{served} good clients beside {sent} SYNs of one source; {arrived:?}");
    arrived.assert_within(sent, served);
    // Of the source; the clients' own come on top, and are within their own limit.
    let let_in = 50 + 10 * (began.elapsed().as_secs() + 1);
    let clients = served * SYNS_OF_A_CLIENT;
    assert!(arrived.syns <= let_in + clients, "{let_in}: {arrived:?}");
    assert!(arrived.dropped_syns > arrived.syns, "{arrived:?}");
    let refused = edge.refused(&["guard", "limit", "syn", "5"]);
    assert!(refused.contains("syns"), "{refused}");
}

/// A first connection, so that both ends know their neighbours and the object is stored.
fn warm(edge: &Edge) {
    edge.curl_with(&OVER_TCP, &[PATH])[0].assert_body_over("h2", &edge.origin.body(PATH));
}

/// Packets that have come to the appliance, by who counted them.
#[derive(Debug)]
struct Arrived {
    /// By the device, as it gave them to the program.
    device: u64,
    /// By the program: each passed, or dropped by a rule.
    program: u64,
    /// Of those, SYNs that passed, and those dropped for their rate.
    syns: u64,
    dropped_syns: u64,
}

impl Arrived {
    /// At a moment in which nothing is under way between the two.
    fn at(edge: &Edge) -> Self {
        Self::once(edge, |_| true)
    }

    /// What has come since, once both have counted all of it.
    fn since(edge: &Edge, before: &Self) -> Self {
        let moved = |now: &Self| Self {
            device: now.device - before.device,
            program: now.program - before.program,
            syns: now.syns - before.syns,
            dropped_syns: now.dropped_syns - before.dropped_syns,
        };
        let is_whole = |now: &Self| {
            let moved = moved(now);
            moved.device == moved.program
        };
        moved(&Self::once(edge, is_whole))
    }

    fn once(edge: &Edge, is_whole: impl Fn(&Self) -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let first = device(edge);
            let counted = Self::counted(edge, first);
            let still = device(edge) == first;
            if (still && is_whole(&counted)) || Instant::now() > deadline {
                return counted;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn counted(edge: &Edge, device: u64) -> Self {
        let status = edge.status();
        let counters = status["xdp"]["counters"].as_object().expect("counters");
        let counter = |name: &str| counters[name].as_u64().expect("a number");
        let passed = Reason::NAMES.iter().map(|name| counter(name));
        let dropped = counters.keys().filter(|name| name.starts_with("dropped_"));
        Self {
            device,
            program: passed.chain(dropped.map(|name| counter(name))).sum(),
            syns: counter("tcp_syn"),
            dropped_syns: counter("dropped_rate_syns"),
        }
    }

    /// Every packet that came was passed or dropped by a rule, and came from the flood or from `clients`.
    fn assert_within(&self, sent: u64, clients: u64) {
        assert_eq!(self.device, self.program, "{self:?}");
        let syns = self.syns + self.dropped_syns;
        assert!(syns <= sent + clients * SYNS_OF_A_CLIENT, "{self:?}");
        assert!(syns > sent / 2, "hardly a flood: {self:?}");
    }
}

/// Packets that the appliance's device has given to the XDP program.
fn device(edge: &Edge) -> u64 {
    let text = edge.network().device_counters();
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        let of_queue = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
        of_queue.then(|| value.parse::<u64>().expect("a number"))
    });
    lines.sum()
}

/// What the appliance's kernel says of TCP.
fn kernel(edge: &Edge, name: &str) -> u64 {
    edge.network().kernel_counter("netstat", "TcpExt", name)
}

/// Sends `count` SYNs from `sources`; the report says how many.
fn flood(edge: &Edge, sources: &str, count: u64) {
    let text = count.to_string();
    let mut options = vec!["--way", "live-frames", "--mix", "syn", "--from", sources];
    options.extend(["--count", &text, "--rate", "20000"]);
    let report = edge.generate(&options);
    assert_eq!(report["packets"], count, "{report:#}");
}

/// New connections over TCP, each with a request, while a flood goes on. Says how many there were.
fn clients_beside(edge: &Edge, flood: impl FnOnce() + Send) -> u64 {
    let body = edge.origin.body(PATH);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            flood();
            over.store(true, Relaxed);
        });
        let mut served = 0;
        while !over.load(Relaxed) || served == 0 {
            edge.curl_with(&OVER_TCP, &[PATH])[0].assert_body_over("h2", &body);
            served += 1;
        }
        served
    })
}
