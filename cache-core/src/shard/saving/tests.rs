//! A shard that stops and starts again, with a drive of memory.

use std::time::Duration;

use super::*;
use crate::shard::lone::Lone;

/// One with two variants of a resource in memory, of so many bytes, that nobody asked for twice.
fn filled(bytes: usize) -> Lone {
    let mut lone = Lone::new(1 << 20, true);
    for language in ["en", "de"] {
        let id = lone.ask_in(language).expect("fetched");
        lone.answer_varying(id, bytes);
    }
    let stats = lone.shard.tier_stats().expect("a tier");
    assert_eq!(stats.objects, 0, "nothing has left memory");
    lone
}

fn saved(lone: &Lone) -> Saved {
    lone.shard.saved().expect("it stops")
}

#[test]
fn what_memory_held_is_there_at_the_next_start() {
    let mut lone = filled(1_000);
    assert_eq!(lone.shard.saved(), None);
    lone.stop();
    lone.settle();
    assert!(lone.shard.is_settled());
    let expected = Saved {
        objects: 2,
        bytes: 2_000,
        is_over: true,
        ..Saved::default()
    };
    assert_eq!(saved(&lone), expected);
    lone.crash();
    for language in ["en", "de"] {
        assert_eq!(lone.ask_in(language), None, "the drive has it");
    }
    assert!(lone.ask_in("fr").is_some());
    // All of it is there already.
    lone.stop();
    lone.settle();
    assert_eq!((saved(&lone).objects, saved(&lone).known), (0, 2));
}

#[test]
fn what_is_worth_most_goes_first_and_the_rest_is_left_when_the_time_is_up() {
    let mut lone = filled(1_000);
    lone.stop();
    lone.pass(Duration::from_secs(5));
    lone.settle();
    assert!(lone.shard.is_settled());
    let Saved { objects, left, .. } = saved(&lone);
    assert_eq!((objects, left), (0, 2));
    lone.crash();
    assert!(lone.ask_in("en").is_some());
}

#[test]
fn no_more_than_half_of_the_tier_is_written_over() {
    // The tier has 8 MiB.
    let mut lone = Lone::new(1 << 20, true);
    for language in ["en", "de", "fr", "es", "it", "pt", "nl", "fi"] {
        let id = lone.ask_in(language).expect("fetched");
        lone.answer_varying(id, 900_000);
    }
    lone.stop();
    lone.settle();
    let Saved { bytes, left, .. } = saved(&lone);
    assert!((4 << 20..5 << 20).contains(&bytes), "{bytes}");
    assert!(left > 0 && lone.shard.is_settled());
}

#[test]
fn what_has_expired_is_not_written_and_a_drive_that_fails_ends_it() {
    let mut lone = filled(1_000);
    lone.pass(Duration::from_secs(61));
    lone.stop();
    lone.settle();
    assert_eq!(saved(&lone).objects, 0);
    assert!(lone.shard.is_settled());
    let mut lone = filled(900_000);
    lone.fail_writes();
    lone.stop();
    lone.settle();
    assert!(saved(&lone).is_over);
}
