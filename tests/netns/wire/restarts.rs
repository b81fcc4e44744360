//! Restarts under load, counted packet by packet: what was sent, what was answered, what the program has seen.
//!
//! A *handover* (`popcache upgrade`) loses nothing: every datagram is answered, once, by the one process or the other. A
//! *stop and start* leaves the program in force with its counters, and packets for nobody go to the kernel, which
//! refuses them; the program loses none of them and drops none.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::harness::questions::{Asker, Questions};
use crate::harness::{Backend, Edge, Ends};

on_both_backends! {
    every_datagram_is_answered_once_while_processes_take_over_from_each_other,
    the_program_counts_every_datagram_while_processes_end_and_begin,
}

const CONFIGURATION: &str = "[server]\ndrain_limit = \"1s\"\n[memory]\nram = \"64 MiB\"\npages = \"plain\"\n\
                             [guard]\nstate_file = \"guard.json\"\n";
const PATH: &str = "/emotes/1.png";
/// Of each process at least, beside starting and ending.
const BETWEEN: Duration = Duration::from_millis(100);

/// `POPCACHE_RESTARTS=100` asks for more, which takes some minutes.
fn rounds() -> usize {
    let asked = std::env::var("POPCACHE_RESTARTS").ok();
    asked.map_or(5, |text| text.parse().expect("a number of restarts"))
}

fn every_datagram_is_answered_once_while_processes_take_over_from_each_other(backend: Backend) {
    let edge = warm(backend);
    let before = Seen::of(&edge);
    let questions = asked_beside(&edge.asker(), || {
        for _ in 0..rounds() {
            edge.upgrade();
            thread::sleep(BETWEEN);
        }
    });
    let seen = Seen::since(&edge, &before);
    println!("{} handovers: {questions:?}, {seen:?}", rounds());
    assert_eq!(questions.answered, questions.sent, "{questions:?}");
    assert_eq!(questions.twice, 0, "{questions:?}");
    assert!(questions.strange.is_empty(), "{questions:?}");
    assert_eq!(seen.asked, questions.sent, "{seen:?}");
    assert_eq!(seen.dropped, 0, "{seen:?}");
    edge.curl(&[PATH])[0].assert_body(&edge.origin.body(PATH));
}

fn the_program_counts_every_datagram_while_processes_end_and_begin(backend: Backend) {
    let mut edge = warm(backend);
    let before = Seen::of(&edge);
    let questions = asked_beside(&edge.asker(), || {
        for _ in 0..rounds() {
            thread::sleep(BETWEEN);
            edge.stop_popcache();
            thread::sleep(BETWEEN);
            edge.start_popcache();
        }
    });
    let seen = Seen::since(&edge, &before);
    let rounds = rounds();
    let missing = questions.sent - questions.answered;
    println!(
        "{rounds} stops and starts: {} sent, {} answered, {missing} for nobody; {seen:?}",
        questions.sent, questions.answered
    );
    assert_eq!(seen.asked, questions.sent, "{seen:?}, {questions:?}");
    assert_eq!((seen.dropped, seen.strangers), (0, 0), "{seen:?}");
    assert!(
        questions.answered > 0 && questions.twice == 0,
        "{questions:?}"
    );
    edge.curl(&[PATH])[0].assert_body(&edge.origin.body(PATH));
}

fn warm(backend: Backend) -> Edge {
    let edge = Edge::start_with(backend, CONFIGURATION);
    edge.curl(&[PATH])[0].assert_body(&edge.origin.body(PATH));
    edge
}

/// What was asked while `work` was done.
fn asked_beside(asker: &Asker, work: impl FnOnce()) -> Questions {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| asker.ask_until(&over));
        let ends = Ends(&over);
        work();
        drop(ends);
        asking.join().expect("the client")
    })
}

/// What the program has counted, which goes on over restarts.
#[derive(Debug)]
struct Seen {
    /// Of the version that nobody speaks.
    asked: u64,
    /// By any rule.
    dropped: u64,
    /// Connection ids that this node did not make.
    strangers: u64,
}

impl Seen {
    fn of(edge: &Edge) -> Self {
        let status = edge.status();
        let counters = status["xdp"]["counters"].as_object().expect("counters");
        let dropped = counters
            .iter()
            .filter(|(name, _)| name.starts_with("dropped_"));
        Self {
            asked: counters["quic_other_version"].as_u64().expect("a number"),
            dropped: dropped
                .map(|(_, value)| value.as_u64().expect("a number"))
                .sum(),
            strangers: counters["quic_short_unknown"].as_u64().expect("a number"),
        }
    }

    fn since(edge: &Edge, before: &Self) -> Self {
        let now = Self::of(edge);
        Self {
            asked: now.asked - before.asked,
            dropped: now.dropped - before.dropped,
            strangers: now.strangers - before.strangers,
        }
    }
}
