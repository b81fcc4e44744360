//! The operator's side: status, purge, pins, restart.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::{Backend, Edge};

on_one_backend! {
    a_purged_object_is_fetched_again,
    a_pinned_object_is_fetched_and_kept,
    a_purge_covers_what_has_the_key_or_the_prefix,
    a_soft_purge_serves_stale_while_it_fetches,
    status_tells_what_the_node_did,
    top_shows_what_goes_on,
    a_restart_keeps_xdp_attached,
    a_class_past_its_budget_goes_before_the_others,
}

fn a_class_past_its_budget_goes_before_the_others(backend: Backend) {
    let edge = Edge::start_with(
        backend,
        "[memory]\nram = \"24 MiB\"\n\
         [[class]]\nname = \"bulk\"\npaths = \"/size/\"\nram = \"2 MiB\"\n",
    );
    let paths = |kind: &str, count: usize| -> Vec<String> {
        let path = |i| format!("/{kind}/{}", 100_000 + i);
        (0..count).map(path).collect()
    };
    let fetch = |paths: &[String]| {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        edge.curl(&paths)
    };
    // 2.5 MB of others, asked for once, then 20 MB of the class, where 12 MiB fit.
    let others = paths("chunked", 25);
    fetch(&others);
    fetch(&paths("size", 200));
    let again = fetch(&others);
    let hits = again.iter().filter(|one| one.is_hit()).count();
    // Large bodies are compared a few at a time, so one may go for a worse one now and then.
    assert!(hits >= others.len() * 4 / 5, "{hits}: {again:?}");
}

fn a_purged_object_is_fetched_again(backend: Backend) {
    let edge = Edge::start(backend);
    let paths = ["/emotes/1.png", "/emotes/2.png"];
    let warm = edge.curl(&paths).len() + edge.curl(&paths).len();
    assert_eq!(warm, 4);
    edge.control(&["purge", "https://edge.test/emotes/1.png"]);
    let fetched = edge.curl(&paths);
    assert!(!fetched[0].is_hit(), "{fetched:?}");
    assert!(fetched[1].is_hit(), "{fetched:?}");
    assert_eq!(edge.origin.requests("/emotes/1.png"), 2);
    assert_eq!(edge.origin.requests("/emotes/2.png"), 1);

    edge.control(&["purge", "--all"]);
    let fetched = edge.curl(&paths);
    assert!(fetched.iter().all(|one| !one.is_hit()), "{fetched:?}");
}

fn a_pinned_object_is_fetched_and_kept(backend: Backend) {
    let edge = Edge::start(backend);
    let url = "https://edge.test/emotes/1.png";
    let answer = edge.control(&["pin", url]);
    assert!(answer.starts_with("awaited: "), "{answer}");
    edge.wait_for("pins_kept", 1);
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
    let fetched = edge.curl(&["/emotes/1.png"]);
    assert!(fetched[0].is_hit(), "{fetched:?}");

    let refused = edge.refused(&["pin", "https://elsewhere.test/a"]);
    assert!(refused.contains("no origin serves"), "{refused}");
    let listed = edge.control(&["pins"]);
    assert!(listed.contains(url), "{listed}");
    assert!(listed.contains("1 pinned, 1 kept in "), "{listed}");

    // The pin outlives its object.
    edge.control(&["purge", url]);
    edge.wait_for("pins_kept", 0);
    assert!(!edge.curl(&["/emotes/1.png"])[0].is_hit());
    edge.wait_for("pins_kept", 1);
    let answer = edge.control(&["unpin", url]);
    assert!(answer.starts_with("unpinned: "), "{answer}");
    edge.wait_for("pins", 0);
    assert!(edge.curl(&["/emotes/1.png"])[0].is_hit());
}

fn a_purge_covers_what_has_the_key_or_the_prefix(backend: Backend) {
    let edge = Edge::start(backend);
    let paths = ["/emotes/1.png", "/emotes/2.png"];
    let hits = || {
        edge.curl(&paths)
            .iter()
            .map(|one| one.is_hit())
            .collect::<Vec<_>>()
    };
    hits();
    assert_eq!(hits(), [true, true]);
    let said = edge.control(&["purge", "--tag", "emote-1"]);
    assert!(said.contains("unknown"), "{said}");
    assert_eq!(hits(), [false, true]);
    edge.control(&["purge", "--tag", "no-such-key", "--tag", "emotes"]);
    assert_eq!(hits(), [false, false]);
    edge.control(&["purge", "--prefix", "https://edge.test/emotes/2"]);
    assert_eq!(hits(), [true, false]);
    let said = edge.control(&["purge", "--all", "--json"]);
    assert!(said.contains("\"objects\":2"), "{said}");
    assert_eq!(hits(), [false, false]);
    let answer = &edge.curl(&paths)[0];
    assert!(answer.is_hit());
    assert_eq!(answer.header("surrogate-key"), "", "{answer:?}");
}

fn a_soft_purge_serves_stale_while_it_fetches(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/emotes/3.png?cc=max-age=600,stale-while-revalidate=60";
    let url = format!("https://edge.test{path}");
    let purges = [
        vec!["purge", "--soft", url.as_str()],
        vec!["purge", "--soft", "--tag", "emote-3"],
    ];
    edge.curl(&[path]);
    for (fetches, purge) in (1..).zip(&purges) {
        assert!(edge.curl(&[path])[0].is_hit());
        assert_eq!(edge.origin.requests(path), fetches);
        edge.control(purge);
        let stale = &edge.curl(&[path])[0];
        assert!(stale.is_hit(), "{stale:?}");
        while edge.origin.requests(path) == fetches {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn status_tells_what_the_node_did(backend: Backend) {
    let edge = Edge::start(backend);
    edge.curl(&["/emotes/1.png", "/emotes/1.png", "/emotes/1.png"]);
    let status = edge.status();
    assert_eq!(status["backend"]["kind"], backend.name(), "{status:#}");
    assert_eq!(status["xdp"]["attached"], true, "{status:#}");
    assert_eq!(
        status["shards"].as_array().map(Vec::len),
        Some(2),
        "{status:#}"
    );
    assert_eq!(edge.counter("requests"), 3, "{status:#}");
    assert_eq!(edge.counter("hits"), 2, "{status:#}");
    assert_eq!(status["origins"][0]["started"], 1, "{status:#}");
    let page = edge.control(&["status"]);
    assert!(page.contains(backend.name()), "{page}");
}

fn top_shows_what_goes_on(backend: Backend) {
    let edge = Edge::start(backend);
    let over = AtomicBool::new(false);
    let rates = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                edge.curl(&["/emotes/1.png", "/emotes/1.png"]);
            }
        });
        let shown = edge.control(&["top", "--interval", "3s", "--count", "2", "--json"]);
        over.store(true, Relaxed);
        shown
    });
    let lines: Vec<serde_json::Value> = rates
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{rates}");
    for line in lines {
        assert!(line["all"]["requests"].as_f64() > Some(0.0), "{line:#}");
        assert_eq!(line["shards"].as_array().map(Vec::len), Some(2), "{line:#}");
    }
    let page = edge.control(&["top", "--interval", "100ms", "--count", "1"]);
    assert!(page.contains("requests") && page.contains("demo"), "{page}");
}

fn a_restart_keeps_xdp_attached(backend: Backend) {
    let mut edge = Edge::start(backend);
    let body = edge.origin.body("/emotes/1.png");
    assert!(is_attached(&edge));
    for _ in 0..2 {
        edge.stop_popcache();
        assert!(is_attached(&edge), "{}", edge.network().interface());
        edge.start_popcache();
        edge.curl(&["/emotes/1.png"])[0].assert_body(&body);
    }
}

fn is_attached(edge: &Edge) -> bool {
    edge.network().interface().contains("prog/xdp")
}
