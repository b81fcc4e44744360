use std::thread;

use proptest::prelude::*;

use super::*;

const HARD: bool = false;
const SOFT: bool = true;

fn purges() -> (Arc<Purges>, Purger) {
    let purges = Arc::new(Purges::new(7, 1024));
    let purger = purges.writer().expect("the first writer");
    (purges, purger)
}

fn prefix(text: &str) -> Purge {
    Purge::Prefix(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_tag_purge_covers_what_was_fetched_before_it_and_no_more() {
    let (purges, mut purger) = purges();
    let (emotes, sets) = (purges.slot(b"emotes"), purges.slot(b"sets"));
    assert_ne!(emotes, sets);
    let before = purges.stamp();
    assert_eq!(purges.judge(before, [emotes], b"k"), Verdict::Valid);
    assert_eq!(purger.purge(&Purge::Tag(emotes), HARD), Ok(before + 1));
    assert_eq!(purges.judge(before, [sets, emotes], b"k"), Verdict::Hard);
    assert_eq!(purges.judge(before, [sets], b"k"), Verdict::Valid);
    assert_eq!(purges.judge(before, [], b"k"), Verdict::Valid);
    assert_eq!(purges.judge(purges.stamp(), [emotes], b"k"), Verdict::Valid);
}

#[test]
fn the_harder_purge_wins_whichever_comes_last() {
    let (purges, mut purger) = purges();
    let tag = purges.slot(b"a");
    for (first, last) in [(HARD, SOFT), (SOFT, HARD)] {
        let before = purges.stamp();
        purger.purge(&Purge::Tag(tag), first).unwrap();
        let between = purges.stamp();
        purger.purge(&Purge::Tag(tag), last).unwrap();
        assert_eq!(purges.judge(before, [tag], b"k"), Verdict::Hard);
        let expected = if last == SOFT {
            Verdict::Soft
        } else {
            Verdict::Hard
        };
        assert_eq!(purges.judge(between, [tag], b"k"), expected);
    }
}

#[test]
fn an_object_with_too_many_tags_is_covered_by_every_tag_purge_and_by_no_url_purge() {
    let (purges, mut purger) = purges();
    let before = purges.stamp();
    purger.purge(&Purge::Url(KeyHash(1)), HARD).unwrap();
    assert_eq!(purges.judge(before, [TagSlot::ANY], b"k"), Verdict::Valid);
    let tag = purges.slot(b"whatever");
    purger.purge(&Purge::Tag(tag), SOFT).unwrap();
    assert_eq!(purges.judge(before, [TagSlot::ANY], b"k"), Verdict::Soft);
    purger.purge(&Purge::Tag(tag), HARD).unwrap();
    assert_eq!(purges.judge(before, [TagSlot::ANY], b"k"), Verdict::Hard);
    assert_eq!(
        purges.judge(purges.stamp(), [TagSlot::ANY], b"k"),
        Verdict::Valid
    );
}

#[test]
fn a_prefix_purge_covers_keys_that_begin_so() {
    let (purges, mut purger) = purges();
    let before = purges.stamp();
    purger.purge(&prefix("edge.test/set/"), HARD).unwrap();
    assert_eq!(purges.judge(before, [], b"edge.test/set/1"), Verdict::Hard);
    assert_eq!(purges.judge(before, [], b"edge.test/set"), Verdict::Valid);
    let after = purges.stamp();
    assert_eq!(purges.judge(after, [], b"edge.test/set/1"), Verdict::Valid);
    purger.purge(&prefix("edge.test/"), SOFT).unwrap();
    assert_eq!(purges.judge(before, [], b"edge.test/set/1"), Verdict::Hard);
    assert_eq!(purges.judge(after, [], b"edge.test/set/1"), Verdict::Soft);
    purger.purge(&prefix(""), HARD).unwrap();
    assert_eq!(purges.judge(after, [], b"other.test/"), Verdict::Hard);
}

#[test]
fn the_oldest_prefix_of_a_full_list_becomes_a_purge_of_all_before_it() {
    let (purges, mut purger) = purges();
    let before = purges.stamp();
    purger.purge(&prefix("first/"), HARD).unwrap();
    let after = purges.stamp();
    for i in 1..DEFAULT_PREFIXES {
        purger.purge(&prefix(&format!("{i}/")), HARD).unwrap();
    }
    assert_eq!(purges.judge(before, [], b"other/"), Verdict::Valid);
    purger.purge(&prefix("last/"), HARD).unwrap();
    assert_eq!(purges.stats().prefixes_folded.get(), 1);
    assert_eq!(purges.judge(before, [], b"other/"), Verdict::Hard);
    assert_eq!(purges.judge(after, [], b"other/"), Verdict::Valid);
    assert_eq!(purges.judge(after, [], b"1/"), Verdict::Hard);
}

#[test]
fn the_list_is_as_long_as_was_asked_for_also_after_a_restart() {
    let purges = Arc::new(Purges::new(7, 1024).with_prefixes(3));
    let mut purger = purges.writer().unwrap();
    let mut state = State::new(7, 1024);
    let before = purges.stamp();
    for (name, folded) in [("a/", 0), ("b/", 0), ("c/", 0), ("d/", 1), ("e/", 2)] {
        let number = purger.purge(&prefix(name), HARD).unwrap();
        assert_eq!(purges.stats().prefixes_folded.get(), folded, "{name}");
        state.apply(&state::Entry::Purge {
            number,
            purge: prefix(name),
            soft: HARD,
        });
    }
    assert_eq!(purges.judge(before, [], b"other/"), Verdict::Hard);
    // The journal had room for all of them, so that no more than they cover is purged.
    let restored = Arc::new(Purges::restore(&state).with_prefixes(2));
    assert_eq!(restored.judge(before, [], b"other/"), Verdict::Valid);
    assert_eq!(restored.judge(before, [], b"a/1"), Verdict::Hard);
    restored
        .writer()
        .unwrap()
        .purge(&prefix("f/"), HARD)
        .unwrap();
    assert_eq!(restored.stats().prefixes_folded.get(), 4);
    assert_eq!(restored.judge(before, [], b"a/1"), Verdict::Hard);
}

#[test]
fn a_prefix_within_a_purged_one_takes_no_room() {
    let (purges, mut purger) = purges();
    for i in 0..2 * MAX_PREFIXES {
        purger
            .purge(&prefix(&format!("a/{}", i % 3)), HARD)
            .unwrap();
        purger.purge(&prefix("a/"), HARD).unwrap();
    }
    assert_eq!(purges.prefixes.load().entries().len(), 1);
    purger.purge(&prefix("a/1"), SOFT).unwrap();
    purger.purge(&Purge::All, SOFT).unwrap();
    assert_eq!(
        purges.prefixes.load().entries().len(),
        1,
        "the hard one stays"
    );
    assert_eq!(purges.stats().prefixes_folded.get(), 0);
}

#[test]
fn bounds_refuse_with_a_reason_and_change_nothing() {
    let (purges, mut purger) = purges();
    let long = prefix(&"a".repeat(MAX_PREFIX + 1));
    let length = MAX_PREFIX + 1;
    assert_eq!(
        purger.purge(&long, HARD),
        Err(PurgeError::PrefixTooLong { length })
    );
    purges.counter.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(purger.purge(&Purge::All, HARD), Err(PurgeError::Exhausted));
    assert_eq!(purges.judge(0, [], b"k"), Verdict::Valid);
    assert_eq!(purges.stats().refused.get(), 2);
}

/// The behaviour at the table's bound: more is purged than was asked for, never less.
#[test]
fn keys_that_share_a_slot_are_purged_together_and_no_purged_one_survives() {
    let purges = Arc::new(Purges::new(7, 4));
    let mut purger = purges.writer().unwrap();
    let names: Vec<String> = (0..64).map(|i| format!("emote-{i}")).collect();
    for name in &names {
        let before = purges.stamp();
        let slot = purges.slot(name.as_bytes());
        purger.purge(&Purge::Tag(slot), HARD).unwrap();
        let judge = |stamp, tag: &str| purges.judge(stamp, [purges.slot(tag.as_bytes())], b"k");
        let purged = |other: &&String| judge(before, other) == Verdict::Hard;
        let shares = |other: &&String| purges.slot(other.as_bytes()) == slot;
        assert!(purged(&name) && judge(purges.stamp(), name) == Verdict::Valid);
        assert!(names.iter().all(|other| purged(&other) == shares(&other)));
        assert!(names.iter().filter(shares).count() > 1, "64 in 4 slots");
    }
}

#[test]
fn there_is_one_writer_at_a_time() {
    let (purges, purger) = purges();
    assert!(purges.writer().is_none());
    drop(purger);
    assert!(purges.writer().is_some());
}

#[test]
fn slots_depend_on_the_seed_and_stay_inside_the_table() {
    let (a, b) = (Purges::new(1, 1000), Purges::new(2, 1000));
    assert_eq!(a.slots(), 1024);
    let tags: Vec<String> = (0..200).map(|i| format!("tag-{i}")).collect();
    assert!(tags.iter().all(|tag| a.slot(tag.as_bytes()).0 < a.slots()));
    let same = tags
        .iter()
        .filter(|tag| a.slot(tag.as_bytes()) == b.slot(tag.as_bytes()));
    assert!(same.count() < 10);
    // Records and journals name slots: the same key must keep its slot in later versions.
    let slot = Purges::new(42, DEFAULT_SLOTS).slot(b"emote-1");
    assert_eq!(slot, TagSlot(3155));
}

/// A thread purges one tag after the other; readers check that whoever was told of a purge (by a
/// counter of its own, as by a lane) finds it, and that a stamp taken afterwards is never covered by it.
#[test]
fn readers_on_other_threads_find_every_purge_they_were_told_of() {
    let purges = Arc::new(Purges::new(3, 64));
    let told = Arc::new(AtomicU32::new(0));
    let rounds: u32 = 20_000;
    let kinds = [
        Purge::Tag(TagSlot(5)),
        prefix("edge.test/a"),
        Purge::Tag(TagSlot(9)),
        Purge::All,
        Purge::Url(KeyHash(4)),
    ];
    let covers = |number: u32| (number - 1) % kinds.len() as u32 != 4;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = told.load(Ordering::Acquire);
                    let after = purges.stamp();
                    assert!(after >= number);
                    if number > 0 && covers(number) {
                        let tags = [TagSlot(5), TagSlot(9)];
                        let verdict = purges.judge(number - 1, tags, b"edge.test/a");
                        assert_eq!(verdict, Verdict::Hard, "purge {number} was told of");
                    }
                    if number == rounds {
                        return;
                    }
                }
            });
        }
        let mut purger = purges.writer().expect("the only writer");
        for i in 0..rounds {
            let number = purger
                .purge(&kinds[i as usize % kinds.len()], HARD)
                .unwrap();
            told.store(number, Ordering::Release);
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Purge(Purge, bool),
    Store { tags: Vec<u32>, key: String },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || "[ab]{0,4}";
    let purge = prop_oneof![
        6 => (0..4u32).prop_map(|slot| Purge::Tag(TagSlot(slot))),
        6 => key().prop_map(|text| prefix(&text)),
        1 => Just(Purge::All),
        2 => any::<u64>().prop_map(|hash| Purge::Url(KeyHash(hash))),
    ];
    let step = prop_oneof![
        (purge, any::<bool>()).prop_map(|(purge, soft)| Step::Purge(purge, soft)),
        (prop::collection::vec(0..4u32, 0..3), key())
            .prop_map(|(tags, key)| Step::Store { tags, key }),
    ];
    prop::collection::vec(step, 1..60)
}

fn covers(purge: &Purge, tags: &[u32], key: &str) -> bool {
    match purge {
        Purge::Tag(slot) => tags.contains(&slot.0),
        Purge::Prefix(prefix) => key.as_bytes().starts_with(prefix),
        Purge::All => true,
        Purge::Url(_) => false,
    }
}

proptest! {
    /// Below the bounds, verdicts are those of a list of all purges.
    #[test]
    fn verdicts_are_those_of_a_list_of_all_purges(steps in steps()) {
        let (purges, mut purger) = purges();
        let mut objects: Vec<(u32, Vec<u32>, String, Verdict)> = Vec::new();
        for step in steps {
            match step {
                Step::Store { tags, key } => {
                    objects.push((purges.stamp(), tags, key, Verdict::Valid));
                }
                Step::Purge(purge, soft) => {
                    purger.purge(&purge, soft).unwrap();
                    let verdict = if soft { Verdict::Soft } else { Verdict::Hard };
                    for (_, tags, key, expected) in &mut objects {
                        if covers(&purge, tags, key) {
                            *expected = (*expected).max(verdict);
                        }
                    }
                }
            }
            for (stamp, tags, key, expected) in &objects {
                let slots = tags.iter().map(|&slot| TagSlot(slot));
                prop_assert_eq!(purges.judge(*stamp, slots, key.as_bytes()), *expected);
            }
        }
    }
}

#[test]
fn what_another_process_has_purged_is_learned_and_named() {
    let slots = 64;
    let mut state = State::new(3, slots);
    let entry = |state: &mut State, purge: Purge| {
        let number = state.counter + 1;
        let entry = state::Entry::Purge {
            number,
            purge,
            soft: false,
        };
        state.apply(&entry);
    };
    entry(&mut state, Purge::Url(KeyHash(1)));
    let purges = Arc::new(Purges::restore(&state));
    let stamp = purges.stamp();
    entry(&mut state, Purge::Tag(TagSlot(7)));
    entry(&mut state, Purge::Url(KeyHash(2)));
    entry(&mut state, prefix("edge.test/set/"));
    assert_eq!(purges.catch_up(&state), [KeyHash(2)]);
    assert_eq!(purges.stamp(), 4);
    assert_eq!(purges.judge(stamp, [TagSlot(7)], b"k"), Verdict::Hard);
    assert_eq!(purges.judge(stamp, [], b"edge.test/set/1"), Verdict::Hard);
    assert_eq!(purges.judge(stamp, [TagSlot(8)], b"k"), Verdict::Valid);
    assert!(purges.was_removed(KeyHash(2), stamp));
    assert!(!purges.was_removed(KeyHash(1), stamp));
    let mut purger = purges.writer().expect("the first writer");
    assert_eq!(purger.purge(&Purge::All, HARD), Ok(5));
}
