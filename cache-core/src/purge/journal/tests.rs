use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::purge::state::{COARSE_URLS, MAX_URLS};
use crate::purge::{Purge, Purges, TagSlot, Verdict};
use crate::store::KeyHash;

const IDENTITY: u64 = 77;
const AREA: usize = 4 << 20;
const SLOTS: u32 = 64;

fn fresh() -> State {
    State::new(5, SLOTS)
}

/// The two areas as a device has them.
#[derive(Clone)]
struct Disk([Vec<u8>; 2]);

impl Disk {
    fn new(bytes: usize) -> Self {
        Self([vec![0xa5; bytes], vec![0; bytes]])
    }

    fn write(&mut self, write: &JournalWrite) {
        let at = write.offset as usize;
        self.0[usize::from(write.area)][at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    /// Of each sector of the write, only those chosen arrive.
    fn tear(&mut self, write: &JournalWrite, mut arrives: impl FnMut(usize) -> bool) {
        let area = &mut self.0[usize::from(write.area)];
        for (i, sector) in write.bytes.chunks(SECTOR).enumerate() {
            if arrives(i) {
                let at = write.offset as usize + i * SECTOR;
                area[at..at + SECTOR].copy_from_slice(sector);
            }
        }
    }

    fn open(&self) -> (Journal, Found) {
        Journal::open(IDENTITY, fresh(), &self.0[0], &self.0[1]).expect("areas are large enough")
    }
}

const SECTOR: usize = 512;

fn begin() -> (Disk, Journal) {
    let mut disk = Disk::new(AREA);
    let (mut journal, write) = Journal::format(IDENTITY, fresh(), AREA as u64).expect("room");
    disk.write(&write);
    journal.confirm();
    (disk, journal)
}

fn put(disk: &mut Disk, journal: &mut Journal, entries: &[Entry]) {
    let write = journal.append(entries).expect("appended");
    disk.write(&write);
    journal.confirm();
}

fn tag(number: u32, slot: u32) -> Entry {
    Entry::Purge {
        number,
        purge: Purge::Tag(TagSlot(slot)),
        soft: false,
    }
}

fn every_kind() -> Vec<Entry> {
    let purges = [
        (Purge::Tag(TagSlot(3)), false),
        (Purge::Tag(TagSlot(3)), true),
        (Purge::Prefix(Bytes::from_static(b"edge.test/a")), false),
        (Purge::Url(KeyHash(0xdead_beef_dead_beef)), false),
        (Purge::All, true),
        (Purge::Prefix(Bytes::from_static(b"edge.test/")), true),
    ];
    let numbered = purges.into_iter().zip(1..);
    let mut entries: Vec<Entry> = numbered
        .map(|((purge, soft), number)| Entry::Purge {
            number,
            purge,
            soft,
        })
        .collect();
    entries.push(Entry::Pin(Bytes::from_static(b"edge.test/1")));
    entries.push(Entry::Pin(Bytes::from(vec![b'k'; MAX_PIN])));
    entries.push(Entry::Unpin(Bytes::from_static(b"edge.test/1")));
    entries
}

#[test]
fn every_kind_of_entry_is_found_again_from_entries_and_from_a_snapshot() {
    let (mut disk, mut journal) = begin();
    for entry in every_kind() {
        put(&mut disk, &mut journal, &[entry]);
    }
    let (mut reopened, found) = disk.open();
    assert_eq!(found, Found::Whole);
    assert_eq!(reopened.state(), journal.state());
    // The first append after a start writes a snapshot.
    put(&mut disk, &mut reopened, &[tag(100, 9)]);
    journal.append(&[tag(100, 9)]).unwrap();
    let (again, found) = disk.open();
    assert_eq!(found, Found::Whole);
    assert_eq!(again.state(), journal.state());
    assert_eq!(again.state().pins.len(), 1);
}

#[test]
fn a_full_area_is_followed_by_the_other_one_and_back() {
    let (mut disk, mut journal) = begin();
    let mut areas = BTreeSet::new();
    for number in 1..=1500 {
        let write = journal.append(&[tag(number, number % SLOTS)]).unwrap();
        areas.insert((journal.generation, write.area));
        disk.write(&write);
        journal.confirm();
        if number % 100 == 0 || write.offset == 0 {
            let (reopened, found) = disk.open();
            assert_eq!((reopened.state(), found), (journal.state(), Found::Whole));
        }
    }
    let generations: BTreeSet<u64> = areas.iter().map(|(generation, _)| *generation).collect();
    assert!(generations.len() >= 3, "{generations:?}");
}

#[test]
fn an_append_counts_from_its_last_sector_on_and_the_former_ones_at_any_time() {
    let (mut disk, mut journal) = begin();
    put(&mut disk, &mut journal, &[tag(1, 1)]);
    let entries: Vec<Entry> = (2..40)
        .map(|number| tag(number, number))
        .chain([Entry::Pin(Bytes::from(vec![b'p'; MAX_PIN])); 1])
        .collect();
    let before = journal.state().clone();
    let write = journal.append(&entries).unwrap();
    let sectors = write.bytes.len() / SECTOR;
    for arrived in 0..=sectors {
        let mut torn = disk.clone();
        torn.tear(&write, |sector| sector < arrived);
        let (reopened, found) = torn.open();
        assert_eq!(found, Found::Whole, "{arrived} of {sectors} sectors");
        if arrived == 0 {
            assert_eq!(*reopened.state(), before);
        }
        if arrived == sectors {
            assert_eq!(reopened.state(), journal.state());
        }
        assert!(reopened.state().tags.contains_key(&1));
    }
}

#[test]
fn a_crash_while_an_area_is_changed_leaves_the_former_one() {
    let (mut disk, mut journal) = begin();
    let mut number = 0;
    // Until just before the change.
    let change = loop {
        number += 1;
        let write = journal.append(&[tag(number, number % SLOTS)]).unwrap();
        if write.area == 1 {
            break write;
        }
        disk.write(&write);
        journal.confirm();
    };
    assert_eq!(change.offset, 0);
    let sectors = change.bytes.len() / SECTOR;
    for arrived in 0..sectors {
        let mut torn = disk.clone();
        torn.tear(&change, |sector| sector <= arrived);
        let (mut reopened, found) = torn.open();
        assert_eq!(found, Found::Whole);
        assert!(reopened.state().counter >= number - 1);
        // And it can go on from there, over the remains.
        put(&mut torn, &mut reopened, &[tag(number + 1, 7)]);
        let (again, found) = torn.open();
        assert_eq!((again.state(), found), (reopened.state(), Found::Whole));
    }
}

#[test]
fn a_write_that_failed_is_followed_by_a_new_generation() {
    let (mut disk, mut journal) = begin();
    put(&mut disk, &mut journal, &[tag(1, 1)]);
    journal.append(&[tag(2, 2)]).unwrap();
    journal.failed();
    let write = journal.append(&[tag(3, 3)]).unwrap();
    assert_eq!(write.offset, 0, "a snapshot");
    disk.write(&write);
    journal.confirm();
    let (reopened, found) = disk.open();
    assert_eq!((reopened.state(), found), (journal.state(), Found::Whole));
}

#[test]
fn one_damaged_block_loses_nothing() {
    let (mut disk, mut journal) = begin();
    for entry in every_kind() {
        put(&mut disk, &mut journal, &[entry]);
    }
    let (mut reopened, _) = disk.open();
    put(&mut disk, &mut reopened, &[tag(50, 1)]);
    put(&mut disk, &mut reopened, &[tag(51, 2)]);
    for area in 0..2 {
        for block in 0..24 {
            let mut damaged = disk.clone();
            damaged.0[area][block * BLOCK + 1000] ^= 4;
            let (again, found) = damaged.open();
            assert_eq!(found, Found::Whole, "block {block} of area {area}");
            assert_eq!(again.state(), reopened.state());
        }
    }
}

#[test]
fn lost_entries_that_were_confirmed_purge_everything_before() {
    let (mut disk, mut journal) = begin();
    let pin = Bytes::from_static(b"edge.test/pinned");
    put(&mut disk, &mut journal, &[tag(1, 1)]);
    put(&mut disk, &mut journal, &[tag(2, 2)]);
    put(&mut disk, &mut journal, &[Entry::Pin(pin.clone())]);
    // The snapshot is one block, then come two copies of each.
    for block in [3, 4] {
        disk.0[0][block * BLOCK..][..BLOCK].fill(0);
    }
    let (reopened, found) = disk.open();
    assert_eq!(found, Found::Damaged);
    let state = reopened.state();
    assert!(state.all.hard > 2 && state.counter == state.all.hard);
    assert!(state.pins.contains(&pin));
}

#[test]
fn areas_that_say_nothing_purge_everything() {
    let (disk, _) = begin();
    let blank = Disk::new(AREA);
    let (reopened, found) = blank.open();
    assert_eq!(found, Found::Damaged);
    assert!(reopened.state().all.hard > 1 << 20);
    let [area0, area1] = &disk.0;
    let (foreign, found) = Journal::open(IDENTITY + 1, fresh(), area0, area1).unwrap();
    assert_eq!(found, Found::Damaged);
    assert!(foreign.state().all.hard > 1 << 20);
}

#[test]
fn the_largest_state_fits_and_more_is_refused() {
    let mut disk = Disk::new(AREA);
    let state = State::new(1, 65_536);
    let (mut journal, write) = Journal::format(IDENTITY, state, AREA as u64).expect("room");
    disk.write(&write);
    journal.confirm();
    let mut number = 0;
    let mut purge = |purge: Purge| {
        number += 1;
        Entry::Purge {
            number,
            purge,
            soft: number % 2 == 0,
        }
    };
    let mut entries: Vec<Entry> = (0..65_536)
        .map(|slot| purge(Purge::Tag(TagSlot(slot))))
        .collect();
    let urls = (MAX_URLS + 3 * COARSE_URLS) as u64;
    entries.extend((0..urls).map(|hash| purge(Purge::Url(KeyHash(hash)))));
    entries.extend((0..MAX_PREFIXES).map(|i| {
        let mut prefix = vec![b'a'; MAX_PREFIX];
        prefix[0] = i as u8;
        purge(Purge::Prefix(Bytes::from(prefix)))
    }));
    // Keys for which a block has the least use.
    let key = |i: u32| {
        let mut key = vec![b'k'; PAYLOAD / 4 - item::PIN + 1];
        key[..4].copy_from_slice(&i.to_le_bytes());
        Entry::Pin(Bytes::from(key))
    };
    let pins = MAX_PINS_BYTES / (PAYLOAD / 4 + 1);
    entries.extend((0..pins as u32).map(key));
    for entries in entries.chunks(MAX_ENTRIES) {
        put(&mut disk, &mut journal, entries);
    }
    assert_eq!(journal.append(&[key(1 << 20)]), Err(JournalError::PinsFull));
    let length = MAX_PIN + 1;
    let long = Entry::Pin(Bytes::from(vec![b'k'; length]));
    assert_eq!(
        journal.append(&[long]),
        Err(JournalError::PinTooLong { length })
    );
    let (reopened, found) = disk.open();
    assert_eq!((reopened.state(), found), (journal.state(), Found::Whole));
    let (mut reopened, _) = disk.open();
    put(&mut disk, &mut reopened, &[tag(1 << 30, 0)]);
    assert_eq!(disk.open().0.state(), reopened.state());
    assert!(matches!(
        Journal::format(IDENTITY, State::new(1, 1 << 20), AREA as u64),
        Err(JournalError::AreaTooSmall {
            slots: 1_048_576,
            ..
        })
    ));
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Entry>),
    /// The write fails: some sectors of it arrive, by this seed.
    Fail(Vec<Entry>, u64),
    /// Power is lost in the middle of an append.
    Crash(Vec<Entry>, u64),
    Restart,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let key = || "[ab]{1,3}".prop_map(Bytes::from);
    let purge = prop_oneof![
        8 => (0..4u32).prop_map(|slot| Purge::Tag(TagSlot(slot))),
        4 => key().prop_map(Purge::Prefix),
        1 => Just(Purge::All),
        8 => (0..4u64).prop_map(|hash| Purge::Url(KeyHash(hash))),
    ];
    let entry = prop_oneof![
        6 => (purge, any::<bool>()).prop_map(|(purge, soft)| Entry::Purge { number: 0, purge, soft }),
        1 => key().prop_map(Entry::Pin),
        1 => key().prop_map(Entry::Unpin),
        // Fills blocks.
        1 => (0..4u8).prop_map(|i| Entry::Unpin(Bytes::from(vec![i; MAX_PIN]))),
    ];
    prop::collection::vec(entry, 1..12)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => entries().prop_map(Step::Append),
        2 => (entries(), any::<u64>()).prop_map(|(entries, seed)| Step::Fail(entries, seed)),
        3 => (entries(), any::<u64>()).prop_map(|(entries, seed)| Step::Crash(entries, seed)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// What was confirmed, and what was tried since.
struct Model {
    confirmed: State,
    tried: Vec<Entry>,
    number: u32,
}

impl Model {
    fn number(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        for entry in &mut entries {
            if let Entry::Purge { number, .. } = entry {
                self.number += 1;
                *number = self.number;
            }
        }
        entries
    }

    /// Everything confirmed holds, and nothing holds that was never tried.
    fn check(&self, state: &State) {
        let mut most = self.confirmed.clone();
        for entry in &self.tried {
            most.apply(entry);
        }
        for stamp in 0..=self.number {
            for hash in 0..4 {
                let removed = |state: &State| {
                    state.urls.covers(KeyHash(hash), stamp) || stamp < state.all.hard
                };
                assert!(removed(state) || !removed(&self.confirmed));
                assert!(removed(&most) || !removed(state));
            }
            for (slot, key) in [(0, "a"), (1, "b"), (2, "ab"), (3, "aab")] {
                let verdict = |state: &State| -> Verdict {
                    Purges::restore(state).judge(stamp, [TagSlot(slot)], key.as_bytes())
                };
                assert!(verdict(&self.confirmed) <= verdict(state));
                assert!(verdict(state) <= verdict(&most));
            }
        }
        let tried = |wanted: fn(&Entry) -> Option<&Bytes>| -> BTreeSet<&Bytes> {
            self.tried.iter().filter_map(wanted).collect()
        };
        let unpinned = tried(|entry| match entry {
            Entry::Unpin(key) => Some(key),
            _ => None,
        });
        let pinned = tried(|entry| match entry {
            Entry::Pin(key) => Some(key),
            _ => None,
        });
        let kept = |key: &Bytes| state.pins.contains(key) || unpinned.contains(key);
        assert!(self.confirmed.pins.iter().all(kept));
        let known = |key: &Bytes| self.confirmed.pins.contains(key) || pinned.contains(key);
        assert!(state.pins.iter().all(known));
    }
}

/// A bit for each sector, drawn from a seed.
fn lottery(seed: u64) -> impl FnMut(usize) -> bool {
    let mut state = seed | 1;
    move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Mostly whole blocks: some seeds let nearly everything arrive, some nearly nothing.
        (state >> 32) % 16 < seed % 17
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fails and whenever power is lost: what was confirmed holds.
    #[test]
    fn what_was_confirmed_holds(steps in steps()) {
        let (mut disk, mut journal) = begin();
        let mut model = Model { confirmed: fresh(), tried: Vec::new(), number: 0 };
        for step in steps {
            let (entries, arrives) = match step {
                Step::Append(entries) => (entries, None),
                Step::Fail(entries, seed) => (entries, Some((seed, false))),
                Step::Crash(entries, seed) => (entries, Some((seed, true))),
                Step::Restart => (Vec::new(), Some((0, true))),
            };
            let entries = model.number(entries);
            let write = journal.append(&entries).expect("appended");
            match arrives {
                None => {
                    disk.write(&write);
                    journal.confirm();
                    model.confirmed = journal.state().clone();
                    model.tried.clear();
                }
                Some((seed, crashes)) => {
                    disk.tear(&write, lottery(seed));
                    model.tried.extend(entries);
                    journal.failed();
                    if crashes {
                        let (reopened, found) = disk.open();
                        prop_assert_eq!(found, Found::Whole);
                        model.check(reopened.state());
                        journal = reopened;
                        model.number = model.number.max(journal.state().counter);
                    }
                }
            }
        }
    }
}
