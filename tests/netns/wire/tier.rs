//! The second tier on a real file: what memory has lost comes back from it, also after a crash.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::harness::{Backend, Edge, Fetched, places};

/// More bodies than fit in memory; fewer than an empty tier takes whatever they are.
const OBJECTS: usize = 100;
const BYTES: usize = 200_000;

/// A tier's file, gone with the test.
pub(super) struct TierFile(PathBuf);

impl TierFile {
    pub fn new(name: &str) -> Self {
        let path = places::target_folder().join(format!("tier-{}-{name}", std::process::id()));
        Self(path)
    }

    pub fn configuration(&self) -> String {
        format!("[memory]\nram = \"24 MiB\"\n{}", self.section())
    }

    /// `[tier]` alone.
    pub fn section(&self) -> String {
        format!(
            "[tier]\ndevices = [\"{}\"]\nsize = \"256 MiB\"\nsegment = \"1 MiB\"\n",
            self.0.display()
        )
    }
}

impl Drop for TierFile {
    fn drop(&mut self) {
        if fs::remove_file(&self.0).is_err() {
            eprintln!("could not remove {}", self.0.display());
        }
    }
}

fn paths() -> Vec<String> {
    let path = |i| format!("/size/{}", BYTES + i);
    (0..OBJECTS).map(path).collect()
}

/// Fetches all, checks every byte, and says which came from the tier.
fn fetch(edge: &Edge, paths: &[String]) -> Vec<bool> {
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let fetched = edge.curl(&asked);
    assert_eq!(fetched.len(), paths.len());
    let from_tier = |answer: &Fetched| answer.header("cache-status").contains("detail=nvme");
    for (path, answer) in paths.iter().zip(&fetched) {
        answer.assert_body(&edge.origin.body(path));
    }
    fetched.iter().map(from_tier).collect()
}

fn count(which: &[bool]) -> usize {
    which.iter().filter(|one| **one).count()
}

#[test]
fn what_memory_has_lost_comes_back_from_the_tier_also_after_a_crash() {
    let file = TierFile::new("crash");
    let mut edge = Edge::start_with(Backend::Udp, &file.configuration());
    let paths = paths();
    fetch(&edge, &paths);
    fetch(&edge, &paths);
    let third = fetch(&edge, &paths);
    assert!(count(&third) >= OBJECTS / 4, "{}", count(&third));
    assert!(edge.counter("tier_hits") > 0);
    // What came back and left memory again is known there, and not written a second time.
    assert!(edge.counter("tier_known") > 0);
    let admitted = edge.counter("tier_admitted");
    assert!(admitted <= OBJECTS as u64, "{admitted}");

    // only-if-cached is answered by the tier too, and asks nobody else.
    let fetches = edge.counter("fetches_started");
    let only = ["--header", "Cache-Control: only-if-cached"];
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let cached = edge.curl_with(&only, &asked);
    let nvme = cached
        .iter()
        .filter(|one| one.cache_status().contains("detail=nvme"));
    assert!(nvme.count() > 0, "{:?}", cached[0]);
    let refused = cached.iter().filter(|one| one.status == 504).count();
    assert!(
        cached.iter().all(|one| [200, 504].contains(&one.status)),
        "{cached:?}"
    );
    assert_eq!(
        edge.counter("fetches_started"),
        fetches,
        "{refused} refused"
    );

    // One that the tier has, and that must not come back.
    let purged = third
        .iter()
        .position(|hit| *hit)
        .expect("one from the tier");
    let url = format!("https://edge.test{}", paths[purged]);
    edge.control(&["purge", &url]);
    edge.kill_popcache();
    edge.start_popcache();
    let recovered = fetch(&edge, &paths);
    assert!(count(&recovered) >= OBJECTS / 8, "{}", count(&recovered));
    assert!(!recovered[purged]);
    assert!(edge.counter("fetches_started") >= 1);

    // A purge of everything covers what lies on the drive as well.
    edge.control(&["purge", "--all"]);
    edge.stop_popcache();
    edge.start_popcache();
    assert_eq!(count(&fetch(&edge, &paths)), 0);
    assert_eq!(edge.counter("fetches_started"), OBJECTS as u64);
}

#[test]
fn a_clean_stop_loses_nothing_that_the_tier_took() {
    let file = TierFile::new("stop");
    let mut edge = Edge::start_with(Backend::AfXdp, &file.configuration());
    let paths = paths();
    fetch(&edge, &paths);
    fetch(&edge, &paths);
    while edge.counter("tier_objects") == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    let held = edge.counter("tier_objects");
    edge.stop_popcache();
    edge.start_popcache();
    assert!(edge.counter("tier_recovered_objects") >= held);
    assert!(count(&fetch(&edge, &paths)) > 0);
}

/// Nothing has left memory, so that nothing would be on the drive but for the stop.
#[test]
fn what_memory_held_at_a_clean_stop_is_served_at_the_next_start_without_its_origin() {
    let file = TierFile::new("warm");
    let mut edge = Edge::start_with(Backend::Udp, &file.configuration());
    let mut paths: Vec<String> = paths().into_iter().take(30).collect();
    paths.extend((1..=20).map(|i| format!("/emotes/{i}.png")));
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let bodies: Vec<_> = paths.iter().map(|path| edge.origin.body(path)).collect();
    edge.curl(&asked);
    assert_eq!(edge.counter("tier_objects"), 0);
    edge.control(&["purge", &format!("https://edge.test{}", paths[0])]);
    edge.stop_popcache();
    edge.origin.stop();
    edge.start_popcache();
    let answers = edge.curl(&asked);
    assert!(answers[0].status >= 500, "it was purged: {:?}", answers[0]);
    for (answer, body) in answers.iter().zip(&bodies).skip(1) {
        let status = answer.header("cache-status");
        assert!(
            answer.is_hit() && status.contains("detail=nvme"),
            "{status}"
        );
        answer.assert_body(body);
    }
}

#[test]
fn an_answered_pin_and_a_purge_by_key_outlive_a_crash() {
    let file = TierFile::new("pins");
    let mut edge = Edge::start_with(Backend::Udp, &file.configuration());
    let paths = ["/emotes/1.png", "/emotes/2.png"];
    let body = edge.origin.body(paths[1]);
    edge.curl(&paths);
    for path in paths {
        let said = edge.control(&["pin", &format!("https://edge.test{path}")]);
        assert!(said.contains("on the drives too"), "{said}");
    }
    edge.control(&["purge", "--tag", "emote-1"]);
    edge.kill_popcache();
    edge.origin.stop();
    edge.start_popcache();
    let answers = edge.curl(&paths);
    assert!(answers[0].status >= 500, "{:?}", answers[0]);
    assert!(answers[1].is_hit(), "{:?}", answers[1]);
    answers[1].assert_body(&body);
}
