//! One process takes over from another while clients are served.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::{Backend, Edge, Ends};

on_both_backends! {
    upgrades_under_load_lose_no_request,
    an_upgrade_that_cannot_be_leaves_the_node_as_it_is,
}

const CONFIGURATION: &str = "[server]\ndrain_limit = \"5s\"\n[memory]\nram = \"64 MiB\"\npages = \"plain\"\n[guard]\nstate_file = \"guard.json\"\n";

/// `POPCACHE_UPGRADES=100` asks for more, which takes some minutes.
fn rounds() -> u64 {
    let asked = std::env::var("POPCACHE_UPGRADES").ok();
    asked.map_or(10, |text| text.parse().expect("a number of upgrades"))
}

/// How long clients of HTTP/3 ask before others follow them, in seconds.
const LEG: f64 = 8.0;

fn upgrades_under_load_lose_no_request(backend: Backend) {
    let mut edge = Edge::start_with(backend, CONFIGURATION);
    let paths = ["/emotes/1.png", "/size/70000", "/slow/150/a", "/no-store"];
    edge.aioquic(&[], &paths);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (edge, over) = (&edge, &over);
        let over_h3 = scope.spawn(move || requests_over_h3(edge, &paths, over));
        let over_tcp =
            ["v1", "v2"].map(|version| scope.spawn(move || requests_over_tcp(edge, version, over)));
        let ends = Ends(over);
        for round in 1..=rounds() {
            let said = edge.upgrade();
            assert!(said.contains("serves"), "{said}");
            let status = edge.status();
            assert_eq!(status["generation"], round, "{status:#}");
            assert_eq!(status["backend"]["kind"], backend.name(), "{status:#}");
        }
        drop(ends);
        let (requests, goaways) = over_h3.join().expect("the client");
        let tcp = over_tcp.map(|client| client.join().expect("curl"));
        println!(
            "{} upgrades: {requests} requests over HTTP/3, {goaways} connections told to go; over TCP {tcp:?}",
            rounds()
        );
        assert!(goaways >= rounds(), "{goaways}");
        assert!(tcp.iter().all(|&requests| requests > 0), "{tcp:?}");
    });
    // The last one is as good as one that was started.
    let body = edge.origin.body(paths[1]);
    edge.curl(&[paths[1]])[0].assert_body(&body);
    edge.control(&["reload"]);
    edge.stop_popcache();
    edge.start_popcache();
    edge.curl(&[paths[1]])[0].assert_body(&body);
}

/// Asks until it is over; every answer is whole. How many there were, and how many connections were told to end.
fn requests_over_h3(edge: &Edge, paths: &[&str], over: &AtomicBool) -> (u64, u64) {
    let (mut requests, mut goaways) = (0, 0);
    while !over.load(Relaxed) {
        let tally = edge.steady(LEG, 6, paths);
        tally.assert_flawless(edge);
        requests += tally.ok;
        goaways += tally.goaways;
    }
    (requests, goaways)
}

/// The same over TCP.
fn requests_over_tcp(edge: &Edge, version: &str, over: &AtomicBool) -> usize {
    let (path, body) = ("/emotes/2.png", edge.origin.body("/emotes/2.png"));
    let shown = if version == "v2" { "h2" } else { "http/1.1" };
    let mut requests = 0;
    while !over.load(Relaxed) {
        let options = ["--version", version, "--pause", "0.05"];
        for fetched in edge.curl_with(&options, &[path; 20]) {
            fetched.assert_body_over(shown, &body);
            requests += 1;
        }
    }
    requests
}

fn an_upgrade_that_cannot_be_leaves_the_node_as_it_is(backend: Backend) {
    let edge = Edge::start_with(backend, CONFIGURATION);
    let path = "/emotes/3.png";
    let body = edge.origin.body(path);
    let pid = edge.pid();
    let cases = [
        (
            "[server]\nlisten_clear = \"10.77.0.1:80\"\n",
            "server.listen_clear",
        ),
        ("[memory]\nram = \"8 TiB\"\n", "memory.ram"),
        ("[cache]\ndefault_ttl = \"1 year\"\n", "default_ttl"),
        (
            "[server]\nuser = \"no-such-user\"\n[memory]\nram = \"64 MiB\"\npages = \"plain\"\n",
            "no such user",
        ),
    ];
    for (configuration, says) in cases {
        edge.configure(configuration);
        let refused = edge.refused(&["upgrade"]);
        assert!(refused.contains(says), "{configuration}: {refused}");
        edge.curl(&[path])[0].assert_body(&body);
        assert_eq!(edge.status()["pid"], pid);
    }
    edge.configure(CONFIGURATION);
    edge.upgrade();
    edge.curl(&[path])[0].assert_body(&body);
}
