//! What blocks of the journal hold, one after the other.
//!
//! ```text
//!  kind 1 byte, its top bit: soft           numbers little-endian
//!  1 tag     number 4, slot 4               5 pin    length 2, key
//!  2 prefix  number 4, length 2, bytes      6 unpin  length 2, key
//!  3 all     number 4                       7 head   seed 8, slots 4, counter 4, all 8, any tag 8
//!  4 url     number 4, key hash 8           8 mark   slot 4, hard 4, soft 4
//!                                           9 coarse place 4, number 4
//! ```
//! 1 to 6 are entries; a snapshot is 7, then any of 8, 9, 2, 4 and 5. A kind of 0 ends a block.

use bytes::Bytes;

use super::block::PAYLOAD;
use crate::purge::state::{Entry, Numbers, State};
use crate::purge::{PrefixPurge, Purge, TagSlot};
use crate::store::KeyHash;

/// Encoded bytes of a prefix beyond its own, and so on.
pub(super) const PREFIX: usize = 7;
pub(super) const PIN: usize = 3;
pub(super) const MARK: usize = 13;
pub(super) const URL: usize = 13;
pub(super) const COARSE: usize = 9;

const SOFT: u8 = 0x80;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Entry(Entry),
    Head {
        seed: u64,
        slots: u32,
        counter: u32,
        all: Numbers,
        any_tag: Numbers,
    },
    Mark {
        slot: u32,
        numbers: Numbers,
    },
    Coarse {
        place: u32,
        number: u32,
    },
}

/// Items in payloads of blocks, each whole in one; at least one payload if there is an item.
pub(super) fn pack(items: impl Iterator<Item = Item>) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let mut encoded = Vec::new();
    for item in items {
        encoded.clear();
        item.encode(&mut encoded);
        match payloads.last_mut() {
            Some(last) if last.len() + encoded.len() <= PAYLOAD => last.extend_from_slice(&encoded),
            _ => payloads.push(encoded.clone()),
        }
    }
    payloads
}

/// The items of a payload, or `None` if there is one that is not understood.
pub(super) fn unpack(payload: &[u8]) -> Option<Vec<Item>> {
    let mut rest = Cursor(payload);
    let mut items = Vec::new();
    while !rest.0.is_empty() {
        items.push(Item::decode(&mut rest)?);
    }
    Some(items)
}

/// A snapshot.
pub(super) fn of_state(state: &State) -> impl Iterator<Item = Item> {
    let head = Item::Head {
        seed: state.seed,
        slots: state.slots,
        counter: state.counter,
        all: state.all,
        any_tag: state.any_tag,
    };
    let tags = state.tags.iter();
    let marks = tags.map(|(&slot, &numbers)| Item::Mark { slot, numbers });
    let coarse = state.urls.coarse();
    let coarse = coarse.map(|(place, number)| Item::Coarse { place, number });
    let prefixes = state.prefixes.entries().iter().map(|entry| {
        let purge = Purge::Prefix(entry.prefix.clone());
        Item::purge(entry.number, purge, entry.soft)
    });
    let urls = state.urls.exact();
    let urls = urls.map(|(hash, number)| Item::purge(number, Purge::Url(hash), false));
    let pins = state.pins.iter();
    let pins = pins.map(|key| Item::Entry(Entry::Pin(key.clone())));
    std::iter::once(head)
        .chain(marks)
        .chain(coarse)
        .chain(prefixes)
        .chain(urls)
        .chain(pins)
}

/// The state of a snapshot's items; `None` if it does not begin with a head.
pub(super) fn to_state(items: Vec<Item>) -> Option<State> {
    let mut items = items.into_iter();
    let Item::Head {
        seed,
        slots,
        counter,
        all,
        any_tag,
    } = items.next()?
    else {
        return None;
    };
    let mut state = State::new(seed, slots);
    (state.counter, state.all, state.any_tag) = (counter, all, any_tag);
    for item in items {
        match item {
            Item::Head { .. } => return None,
            Item::Mark { slot, numbers } => {
                state.tags.insert(slot, numbers);
            }
            Item::Coarse { place, number } => state.urls.raise(place, number),
            Item::Entry(Entry::Purge {
                number,
                purge: Purge::Prefix(prefix),
                soft,
            }) => {
                // As many as there were, so that none has to leave.
                state.prefixes.push(PrefixPurge {
                    number,
                    soft,
                    prefix,
                });
            }
            Item::Entry(entry) => state.apply(&entry),
        }
    }
    Some(state)
}

impl Item {
    pub fn of_entry(entry: &Entry) -> Self {
        Self::Entry(entry.clone())
    }

    fn purge(number: u32, purge: Purge, soft: bool) -> Self {
        Self::Entry(Entry::Purge {
            number,
            purge,
            soft,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(Entry::Purge {
                number,
                purge,
                soft,
            }) => encode_purge(*number, purge, *soft, out),
            Self::Entry(Entry::Pin(key)) => encode_key(5, key, out),
            Self::Entry(Entry::Unpin(key)) => encode_key(6, key, out),
            Self::Head {
                seed,
                slots,
                counter,
                all,
                any_tag,
            } => {
                out.push(7);
                out.extend_from_slice(&seed.to_le_bytes());
                put(out, &[*slots, *counter, all.hard, all.soft]);
                put(out, &[any_tag.hard, any_tag.soft]);
            }
            Self::Mark { slot, numbers } => {
                out.push(8);
                put(out, &[*slot, numbers.hard, numbers.soft]);
            }
            Self::Coarse { place, number } => {
                out.push(9);
                put(out, &[*place, *number]);
            }
        }
    }

    fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        let kind = from.take::<1>()?[0];
        let soft = kind & SOFT != 0;
        let item = match kind & !SOFT {
            1 => {
                let number = from.u32()?;
                let slot = TagSlot(from.u32()?);
                Self::purge(number, Purge::Tag(slot), soft)
            }
            2 => {
                let number = from.u32()?;
                Self::purge(number, Purge::Prefix(from.key()?), soft)
            }
            3 => Self::purge(from.u32()?, Purge::All, soft),
            4 => {
                let number = from.u32()?;
                let hash = KeyHash(u64::from_le_bytes(*from.take()?));
                Self::purge(number, Purge::Url(hash), soft)
            }
            5 => Self::Entry(Entry::Pin(from.key()?)),
            6 => Self::Entry(Entry::Unpin(from.key()?)),
            7 => Self::Head {
                seed: u64::from_le_bytes(*from.take()?),
                slots: from.u32()?,
                counter: from.u32()?,
                all: from.numbers()?,
                any_tag: from.numbers()?,
            },
            8 => Self::Mark {
                slot: from.u32()?,
                numbers: from.numbers()?,
            },
            9 => Self::Coarse {
                place: from.u32()?,
                number: from.u32()?,
            },
            _ => return None,
        };
        Some(item)
    }
}

fn encode_purge(number: u32, purge: &Purge, soft: bool, out: &mut Vec<u8>) {
    let soft = if soft { SOFT } else { 0 };
    match purge {
        Purge::Tag(slot) => {
            out.push(1 | soft);
            put(out, &[number, slot.0]);
        }
        Purge::Prefix(prefix) => {
            out.push(2 | soft);
            put(out, &[number]);
            put_key(prefix, out);
        }
        Purge::All => {
            out.push(3 | soft);
            put(out, &[number]);
        }
        Purge::Url(hash) => {
            out.push(4 | soft);
            put(out, &[number]);
            out.extend_from_slice(&hash.0.to_le_bytes());
        }
    }
}

fn encode_key(kind: u8, key: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    put_key(key, out);
}

fn put_key(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn numbers(&mut self) -> Option<Numbers> {
        Some(Numbers {
            hard: self.u32()?,
            soft: self.u32()?,
        })
    }

    fn key(&mut self) -> Option<Bytes> {
        let len = u16::from_le_bytes(*self.take()?);
        let (key, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        Some(Bytes::copy_from_slice(key))
    }
}
