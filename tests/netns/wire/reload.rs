//! Another configuration while clients are served.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::flood::forged_short;
use crate::harness::{Backend, Edge, HOST};

on_both_backends! {
    rules_change_under_a_client_that_loses_nothing,
    a_thousand_reloads_of_the_guard_lose_no_packet,
}

const PATIENCE: Duration = Duration::from_secs(20);

fn route(class: &str) -> String {
    format!(
        "[[class]]\nname = \"{class}\"\n[[route]]\nname = \"r\"\npaths = \"/emotes/\"\nclass = \"{class}\"\n"
    )
}

fn rules_change_under_a_client_that_loses_nothing(backend: Backend) {
    let edge = Edge::start_with(backend, &route("first"));
    let paths = ["/emotes/1.png", "/size/70000", "/slow/200/a", "/no-store"];
    edge.aioquic(&[], &paths);
    let rounds = thread::scope(|scope| {
        let client = scope.spawn(|| edge.steady(5.0, 4, &paths));
        let mut rounds = 0;
        while !client.is_finished() {
            let class = ["second", "third"][rounds % 2];
            edge.configure(&format!(
                "{}[cache]\ndefault_ttl = \"{}s\"\n",
                route(class),
                1 + rounds
            ));
            let said = edge.control(&["reload"]);
            assert!(said.contains("cache.default_ttl"), "{said}");
            rounds += 1;
        }
        let tally = client.join().expect("the client");
        println!("{rounds} reloads: {tally:?}");
        tally.assert_flawless(&edge);
        assert_eq!((tally.connections, tally.retried), (4, 0), "{tally:?}");
        rounds
    });
    assert!(rounds > 5, "{rounds}");
    assert_eq!(edge.counter("reconfigured"), 2 * rounds as u64);
    let classes = edge.status()["classes"].clone();
    let hits = |class: &str| classes[class]["hits"].as_u64().unwrap_or(0);
    assert!(hits("first") + hits("second") > 0, "{classes:#}");

    // What waits is named until it is taken back; the rest of the same file holds.
    edge.configure("[memory]\nram = \"128 MiB\"\n[cache]\nstale_if_error = \"5s\"\n");
    let said = edge.control(&["reload"]);
    assert!(said.contains("cache.stale_if_error"), "{said}");
    assert!(said.contains("waiting for a restart: memory.ram"), "{said}");
    let page = edge.control(&["status"]);
    assert!(page.contains("waiting for a restart: memory.ram"), "{page}");

    // What is wrong changes nothing.
    edge.configure("[cache]\ndefault_ttl = \"1 year\"\nstale_if_error = \"9s\"\n");
    let refused = edge.refused(&["reload"]);
    assert!(refused.contains("default_ttl"), "{refused}");
    edge.reload_by_signal();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(edge.counter("reconfigured"), 2 * (rounds as u64 + 1));

    // A host more, by signal.
    let other =
        "[[origin]]\nname = \"more\"\nhosts = [\"more.test\"]\nurl = \"http://127.0.0.1:8080\"\n";
    let explain = ["explain", "https://more.test/emotes/9.png"];
    assert!(
        edge.control(&explain).contains("421"),
        "{HOST} alone is served"
    );
    edge.configure(other);
    edge.reload_by_signal();
    let deadline = Instant::now() + PATIENCE;
    while edge.control(&explain).contains("421") {
        assert!(Instant::now() < deadline, "the signal changed nothing");
        thread::sleep(Duration::from_millis(20));
    }
}

const RELOADS: usize = 1_000;

/// Packets of a source that the block list has and has not, while the list comes and goes.
fn a_thousand_reloads_of_the_guard_lose_no_packet(backend: Backend) {
    const COUNTERS: [&str; 3] = ["dropped_block_list", "dropped_cid_mac", "event_lost"];
    let guard =
        |blocked: &str| format!("[guard]\nstate_file = \"guard.json\"\nblock = [{blocked}]\n");
    let edge = Edge::start_with(backend, &guard(""));
    edge.curl(&["/emotes/1.png"]);
    let read = || {
        let status = edge.status();
        let counters = &status["xdp"]["counters"];
        COUNTERS.map(|name| counters[name].as_u64().expect("a counter"))
    };
    let before = read();
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let train: Vec<_> = (0..240).map(|_| forged_short()).collect();
            let mut sent = 0;
            while !over.load(Relaxed) {
                edge.flood(&train);
                sent += train.len() as u64;
            }
            sent
        });
        for round in 0..RELOADS {
            edge.configure(&guard(["\"10.77.0.128/25\"", ""][round % 2]));
            edge.post("/v1/reload");
        }
        over.store(true, Relaxed);
        sender.join().expect("the sender")
    });
    let moved = || {
        let now = read();
        [now[0] - before[0], now[1] - before[1]]
    };
    let deadline = Instant::now() + PATIENCE;
    while moved().iter().sum::<u64>() < sent && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let [listed, forged] = moved();
    println!("{RELOADS} reloads, {sent} packets: {listed} by the list, {forged} by their ids");
    assert_eq!(listed + forged, sent);
    assert!(listed > 0 && forged > listed, "both rules were in force");
    assert_eq!(edge.counter("datagrams_forged"), 0, "none got through");
    let swaps = edge.status()["guard"]["swaps"].as_u64().expect("swaps");
    assert!(swaps >= RELOADS as u64, "{swaps}");
}
