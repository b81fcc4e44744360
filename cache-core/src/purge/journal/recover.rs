//! What the two areas of a journal come to.

use std::collections::BTreeMap;

use super::block::{BLOCK, Block, Kind};
use super::{Found, item};
use crate::purge::Purge;
use crate::purge::state::{Entry, State};

/// Added to the highest number seen when confirmed entries are lost: more purges than both areas
/// hold.
const DAMAGE_LEAP: u32 = 1 << 20;

/// The number that is purged up to when nothing at all could be read.
const BLANK_LEAP: u32 = 1 << 30;

/// What one area holds of its youngest generation.
#[derive(Debug, Default)]
pub(super) struct Area {
    pub generation: u64,
    snapshot: Option<Snapshot>,
    entries: BTreeMap<u64, Appended>,
    /// The highest number of a purge in any block of it that could be read.
    highest: u32,
    is_blank: bool,
}

#[derive(Debug)]
struct Snapshot {
    state: State,
    /// Number of the last block of entries that it covers.
    covers: u64,
}

#[derive(Clone, Debug)]
struct Appended {
    /// Number of the first block of the same append: all before it were confirmed.
    group: u64,
    entries: Vec<Entry>,
}

pub(super) struct Recovered {
    pub state: State,
    pub found: Found,
    /// The area that must not be written over next.
    pub area: u8,
    /// Number of the next block of entries.
    pub next: u64,
    /// Blocks from this one on may never have been confirmed.
    pub sure: u64,
}

impl Area {
    pub fn read(identity: u64, bytes: &[u8]) -> Self {
        let blocks: Vec<(u64, Block<'_>)> = (0..)
            .zip(bytes.as_chunks::<BLOCK>().0)
            .filter_map(|(at, bytes)| Some((at, Block::decode(identity, bytes)?)))
            .collect();
        let generation = blocks.iter().map(|(_, block)| block.generation).max();
        let Some(generation) = generation else {
            return Self {
                is_blank: true,
                ..Self::default()
            };
        };
        let mut area = Self {
            generation,
            ..Self::default()
        };
        let mut parts = Vec::new();
        let mut wanted = 1;
        let mut covers = 0;
        for (at, block) in blocks {
            if block.generation != generation {
                continue;
            }
            let Some(items) = item::unpack(block.payload) else {
                continue;
            };
            area.note_numbers(&items);
            match block.kind {
                Kind::Entries => area.add_entries(&block, items),
                Kind::Snapshot if block.number == at && parts.len() as u64 == at => {
                    (wanted, covers) = (block.group, block.covers);
                    parts.push(items);
                }
                Kind::Snapshot => {}
            }
        }
        if parts.len() as u64 == wanted {
            let state = item::to_state(parts.into_iter().flatten().collect());
            area.snapshot = state.map(|state| Snapshot { state, covers });
        }
        area
    }

    fn add_entries(&mut self, block: &Block<'_>, items: Vec<item::Item>) {
        let entries = items.into_iter().filter_map(|item| match item {
            item::Item::Entry(entry) => Some(entry),
            _ => None,
        });
        let appended = Appended {
            group: block.group,
            entries: entries.collect(),
        };
        self.entries.insert(block.number, appended);
    }

    fn note_numbers(&mut self, items: &[item::Item]) {
        for item in items {
            let number = match item {
                item::Item::Entry(Entry::Purge { number, .. }) => *number,
                item::Item::Head { counter, .. } => *counter,
                _ => 0,
            };
            self.highest = self.highest.max(number);
        }
    }
}

/// The youngest complete snapshot with all that follows it.
pub(super) fn recover(areas: &[Area; 2], fresh: State) -> Recovered {
    let youngest = (0..2u8)
        .filter(|area| areas[usize::from(*area)].snapshot.is_some())
        .max_by_key(|area| areas[usize::from(*area)].generation);
    let base = youngest.and_then(|area| {
        let snapshot = areas[usize::from(area)].snapshot.as_ref()?;
        Some((area, snapshot))
    });
    let since = youngest.map_or(0, |area| areas[usize::from(area)].generation);
    let entries = entries_since(areas, since);
    let last = entries.last_key_value().map_or(0, |(number, _)| *number);
    let Some((area, snapshot)) = base else {
        let mut state = fresh;
        for appended in entries.values() {
            apply(&mut state, appended);
        }
        purge_what_may_be_lost(&mut state, areas);
        return Recovered {
            state,
            found: Found::Damaged,
            area: 1,
            next: last + 1,
            sure: last + 1,
        };
    };
    let mut state = snapshot.state.clone();
    let mut next = snapshot.covers + 1;
    while let Some(appended) = entries.get(&next) {
        apply(&mut state, appended);
        next += 1;
    }
    let mut later = entries.range(next..);
    let is_whole = later.all(|(_, appended)| appended.group <= next);
    if is_whole {
        return Recovered {
            state,
            found: Found::Whole,
            area,
            next,
            sure: snapshot.covers + 1,
        };
    }
    for (_, appended) in entries.range(next..) {
        apply(&mut state, appended);
    }
    purge_what_may_be_lost(&mut state, areas);
    Recovered {
        state,
        found: Found::Damaged,
        area,
        next: last + 1,
        sure: snapshot.covers + 1,
    }
}

/// Blocks of entries of this generation and later ones. A number may be there twice, of an append
/// that failed and of the one that took its place in the next generation: the latter counts.
fn entries_since(areas: &[Area; 2], generation: u64) -> BTreeMap<u64, Appended> {
    let mut areas: Vec<&Area> = areas
        .iter()
        .filter(|area| area.generation >= generation)
        .collect();
    areas.sort_by_key(|area| area.generation);
    let entries = areas.iter().flat_map(|area| area.entries.iter());
    entries
        .map(|(number, appended)| (*number, appended.clone()))
        .collect()
}

fn apply(state: &mut State, appended: &Appended) {
    for entry in &appended.entries {
        state.apply(entry);
    }
}

fn purge_what_may_be_lost(state: &mut State, areas: &[Area; 2]) {
    let highest = areas.iter().map(|area| area.highest).max().unwrap_or(0);
    let leap = match areas.iter().all(|area| area.is_blank) {
        true => BLANK_LEAP,
        false => DAMAGE_LEAP,
    };
    let number = highest.max(state.counter).saturating_add(leap);
    state.apply(&Entry::Purge {
        number,
        purge: Purge::All,
        soft: false,
    });
}
