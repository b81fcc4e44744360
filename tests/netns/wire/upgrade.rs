//! One process takes over from another while clients are served.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::tier::TierFile;

use crate::harness::{Backend, Edge, Ends, HOST};

on_both_backends! {
    upgrades_under_load_lose_no_request,
    an_upgrade_that_cannot_be_leaves_the_node_as_it_is,
    the_tier_goes_over_and_purges_hold,
    an_upgrade_that_fails_late_changes_nothing,
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

const SERVER: &str = "[server]\ndrain_limit = \"5s\"\n";
const GUARD: &str = "[guard]\nstate_file = \"guard.json\"\n";

/// A configuration with a tier in `file`.
fn with_tier(file: &TierFile) -> String {
    let memory = "[memory]\nram = \"64 MiB\"\n";
    format!("{SERVER}{memory}{}{GUARD}", file.section())
}

/// Everything that memory and tier held is read from the tier by the new process, without its origin, but for what was
/// purged: before, or at any moment of the upgrade.
fn the_tier_goes_over_and_purges_hold(backend: Backend) {
    let file = TierFile::new(&format!("upgrade-{}", backend.name()));
    let mut edge = Edge::start_with(backend, &with_tier(&file));
    // On the tier, and not in memory.
    let mut paths = sizes(200_000, 30);
    edge.curl(&refs(&paths));
    let mut purged = sizes(90_000, 20);
    edge.curl(&refs(&purged));
    edge.stop_popcache();
    edge.start_popcache();
    assert!(edge.counter("tier_objects") >= 50);
    // In memory, and not on the tier.
    let (in_memory, more) = (sizes(210_000, 30), sizes(80_000, 20));
    edge.curl(&refs(&in_memory));
    edge.curl(&refs(&more));
    paths.extend(in_memory);
    purged.extend(more);

    let asked_for = ["/emotes/1.png", "/size/70000", "/slow/150/a"];
    let over = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let (edge, over) = (&edge, &over);
        let over_h3 = scope.spawn(move || requests_over_h3(edge, &asked_for, over));
        let over_tcp = scope.spawn(move || requests_over_tcp(edge, "v2", over));
        let ends = Ends(over);
        let purging = scope.spawn(|| purge_until(edge, &purged, over));
        edge.upgrade();
        drop(ends);
        let (requests, _) = over_h3.join().expect("the client");
        let requests_over_tcp = over_tcp.join().expect("curl");
        let count = purging.join().expect("purged");
        println!(
            "an upgrade beside {requests} requests over HTTP/3, {requests_over_tcp} over HTTP/2 and {count} purges"
        );
        count
    });
    edge.wait_for("tier_resting", 0);
    let later = ["/emotes/7.png".to_owned(), "/emotes/8.png".to_owned()];
    edge.curl(&refs(&later));
    let (bodies, later_bodies) = (bodies(&edge, &paths), bodies(&edge, &later));
    edge.origin.stop();
    assert_from_tier(&edge, &paths, &bodies);
    for answer in edge.curl(&refs(&purged[..count])) {
        assert!(answer.status >= 500, "it was purged: {answer:?}");
    }
    // The new process writes, too.
    edge.stop_popcache();
    edge.start_popcache();
    assert_from_tier(&edge, &later, &later_bodies);
}

fn sizes(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|bytes| format!("/size/{bytes}"))
        .collect()
}

fn refs(paths: &[String]) -> Vec<&str> {
    paths.iter().map(String::as_str).collect()
}

fn bodies(edge: &Edge, paths: &[String]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| edge.origin.body(path)).collect()
}

fn assert_from_tier(edge: &Edge, paths: &[String], bodies: &[Vec<u8>]) {
    for (answer, body) in edge.curl(&refs(paths)).iter().zip(bodies) {
        assert!(answer.cache_status().contains("detail=nvme"), "{answer:?}");
        answer.assert_body(body);
    }
}

/// Purges one after the other, as one does who asks again when nobody answers. How many there were.
fn purge_until(edge: &Edge, paths: &[String], over: &AtomicBool) -> usize {
    let mut count = 0;
    while !over.load(Relaxed) && count < paths.len() {
        let url = format!("https://{HOST}{}", paths[count]);
        count += usize::from(edge.try_control(&["purge", &url]));
        thread::sleep(Duration::from_millis(20));
    }
    count
}

/// A CA file that can be read once: the configuration is found good, and the start that follows is not. The node has
/// changed its XDP program, closed its AF_XDP sockets and let its tier rest by then.
fn an_upgrade_that_fails_late_changes_nothing(backend: Backend) {
    let file = TierFile::new(&format!("late-{}", backend.name()));
    let configuration = with_tier(&file);
    let mut edge = Edge::start_with(backend, &configuration);
    let paths = ["/emotes/3.png", "/size/70000"];
    let bodies = paths.map(|path| edge.origin.body(path));
    edge.curl(&paths);
    let pid = edge.pid();
    let pipe = edge.scratch("ca.pem");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    edge.configure(&format!(
        "{configuration}[[origin]]\nname = \"late\"\nhosts = [\"late.test\"]\nurl = \"https://10.77.0.1:9\"\nca = \"{}\"\n",
        pipe.display()
    ));
    let authority = fs::read(edge.certificate()).expect("a certificate");
    thread::scope(|scope| {
        scope.spawn(|| {
            write_to(&pipe, &authority);
            // Nobody reads any more when this one comes.
            thread::sleep(Duration::from_millis(300));
            write_to(&pipe, b"nothing");
        });
        // One connection from before to after.
        let (edge, paths) = (&edge, &paths);
        let client = scope.spawn(move || edge.curl_with(&["--pause", "0.3"], &[paths[0]; 20]));
        let refused = edge.refused(&["upgrade"]);
        assert!(refused.contains("ca file"), "{refused}");
        for fetched in client.join().expect("curl") {
            fetched.assert_body(&bodies[0]);
        }
    });
    let status = edge.status();
    assert_eq!(status["pid"], pid);
    let counters = &status["xdp"]["counters"];
    assert_eq!(counters["dropped_cid_mac"], 0, "{counters:#}");
    assert_eq!(edge.counter("connections_accepted"), 2);
    edge.wait_for("tier_resting", 0);
    // Another one finds everything as it has to be.
    edge.configure(&configuration);
    edge.upgrade();
    edge.origin.stop();
    for (fetched, body) in edge.curl(&paths).iter().zip(&bodies) {
        assert!(fetched.is_hit(), "{fetched:?}");
        fetched.assert_body(body);
    }
}

/// Waits for a reader.
fn write_to(pipe: &Path, bytes: &[u8]) {
    fs::write(pipe, bytes).expect("somebody reads");
}
