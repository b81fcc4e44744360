//! Every interleaving (up to a bound of preemptions) of one look-up with the owner of an index that
//! moves, replaces and clears entries. The index is the cache's own file; under loom the words of its
//! table are loom's.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hugepages --release --test loom_index --target-dir target/loom`
#![cfg(loom)]

#[allow(dead_code)]
#[path = "../../cache-core/src/index.rs"]
mod index;

/// What the index takes from its crate.
mod store {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct KeyHash(pub u64);
}

use hugepages::{Backing, PagePolicy, Table};
use index::Index;
use loom::sync::Arc;
use loom::thread;
use store::KeyHash;

const LINES: usize = 3;
const SLOTS: usize = 8;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    builder.check(check);
}

fn empty() -> Index {
    let (mut region, _) = Backing::map(LINES * 64, PagePolicy::Plain).unwrap();
    Index::new(Table::new(region.take(LINES * 64).unwrap()).unwrap())
}

/// The `n`th key of these two lines.
fn key(index: &Index, first: usize, second: usize, n: usize) -> KeyHash {
    let mixed = |n: u64| {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        KeyHash((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    };
    let lines_of = |hash: KeyHash| {
        let ids: Vec<usize> = index
            .lines(hash)
            .map(|(id, _)| id.number() / SLOTS)
            .collect();
        (ids[0], ids[ids.len() - 1])
    };
    let of_lines = |hash: &KeyHash| lines_of(*hash) == (first, second);
    (0..).map(mixed).filter(of_lines).nth(n).unwrap()
}

/// Adds an entry as the store does.
fn add(index: &Index, hash: KeyHash, location: u64) {
    let room = index.room(hash).unwrap();
    index.set(room.slot, hash, location, false);
}

fn remove(index: &Index, hash: KeyHash, location: u64) {
    index.clear(index.find(hash, location).unwrap());
}

fn is_there(index: &Index, hash: KeyHash, location: u64) -> bool {
    index.find(hash, location).is_some()
}

/// Lines 0 and 1 full of keys that have only these two, but for the places of `spare` of line 0.
fn crowd(index: &Index, spare: usize) {
    for n in 0..SLOTS {
        add(index, key(index, 1, 0, n), 100 + n as u64);
    }
    for n in 0..SLOTS - spare {
        add(index, key(index, 0, 1, n), 200 + n as u64);
    }
}

#[test]
fn a_key_that_moves_to_its_second_line_is_found_throughout() {
    model(|| {
        let index = Arc::new(empty());
        crowd(&index, 1);
        let (mover, new) = (key(&index, 0, 2, 0), key(&index, 0, 1, SLOTS));
        add(&index, mover, 1);
        let shared = Arc::clone(&index);
        let looking = thread::spawn(move || assert!(is_there(&shared, mover, 1)));
        add(&index, new, 2);
        looking.join().unwrap();
        assert!(is_there(&index, mover, 1) && is_there(&index, new, 2));
    });
}

#[test]
fn a_key_that_moves_back_may_be_missed_and_others_may_not() {
    model(|| {
        let index = Arc::new(empty());
        crowd(&index, 1);
        let (mover, new) = (key(&index, 2, 0, SLOTS), key(&index, 0, 1, SLOTS));
        // It came when its first line was full.
        (0..SLOTS).for_each(|n| add(&index, key(&index, 2, 1, n), 300 + n as u64));
        add(&index, mover, 1);
        remove(&index, key(&index, 2, 1, 0), 300);
        let shared = Arc::clone(&index);
        let other = key(&index, 0, 1, 0);
        let looking = thread::spawn(move || {
            for (_, slot) in shared.candidates(mover) {
                // A slot that was overwritten meanwhile is another's, which the key of its record says.
                assert!(!slot.is_of(mover) || slot.location() == 1);
            }
            assert!(is_there(&shared, other, 200));
        });
        add(&index, new, 2);
        looking.join().unwrap();
        assert!(is_there(&index, mover, 1) && is_there(&index, new, 2));
    });
}

#[test]
fn a_key_in_its_second_line_is_found_while_its_first_empties() {
    model(|| {
        let index = Arc::new(empty());
        crowd(&index, 0);
        let spilled = key(&index, 0, 2, 0);
        add(&index, spilled, 1);
        let shared = Arc::clone(&index);
        let looking = thread::spawn(move || assert!(is_there(&shared, spilled, 1)));
        remove(&index, key(&index, 0, 1, 0), 200);
        remove(&index, key(&index, 0, 1, 1), 201);
        looking.join().unwrap();
        remove(&index, spilled, 1);
        assert!(index.candidates(spilled).next().is_none());
    });
}

#[test]
fn a_replaced_entry_names_the_old_record_or_the_new_one() {
    model(|| {
        let index = Arc::new(empty());
        let hash = key(&index, 0, 1, 0);
        add(&index, hash, 1);
        let shared = Arc::clone(&index);
        let looking = thread::spawn(move || {
            let seen: Vec<u64> = shared.candidates(hash).map(|(_, s)| s.location()).collect();
            assert!(seen == [1] || seen == [2], "{seen:?}");
        });
        index.set(index.find(hash, 1).unwrap(), hash, 2, false);
        looking.join().unwrap();
    });
}
