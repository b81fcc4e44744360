//! What the tier may serve: every version of every key that was ever offered, and which of them are
//! forbidden since.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use cache_core::purge::{MAX_TAGS, TagSlot};
use cache_core::store::{KeyHash, ObjectMeta};

pub const KEYS: u32 = 48;
/// Keys with a hash of their own.
pub const APART: u32 = KEYS - 2;

/// One version of an object.
#[derive(Clone, Debug)]
pub struct Version {
    pub meta: ObjectMeta,
    pub tags: Vec<TagSlot>,
    pub any_tag: bool,
    pub head: Vec<u8>,
    pub body_len: usize,
}

#[derive(Default)]
pub struct Model {
    pub versions: HashMap<(u32, u32), Version>,
    /// The latest version of each key.
    pub latest: HashMap<u32, u32>,
    /// Versions that a purge covers.
    dead: HashSet<(u32, u32)>,
    /// Least version that may be served: newer ones took the place of older ones, until the process
    /// ends.
    floor: HashMap<u32, u32>,
}

pub fn key(number: u32) -> Vec<u8> {
    format!("https://edge.test/{}/{number}", number % 5).into_bytes()
}

/// Spread like a real hash, the same in every run. The last two keys have the same.
pub fn hash(number: u32) -> KeyHash {
    let number = number.min(KEYS - 2);
    let mixed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    KeyHash((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

/// Bytes that begin at a place of their own for each version of each key, in noise that does not
/// repeat.
pub fn body(number: u32, version: u32, len: usize) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut state = 1 << 63;
        let words = (0..NOISE_BYTES / 8).map(|_| {
            state = next(state);
            state ^ state >> 33
        });
        words.flat_map(u64::to_le_bytes).collect()
    });
    let name = u64::from(number) << 32 | u64::from(version) | 1 << 63;
    let start = (next(next(name)) >> 20) as usize % (NOISE_BYTES - len);
    noise[start..start + len].to_vec()
}

const NOISE_BYTES: usize = 4 << 20;

fn next(state: u64) -> u64 {
    state
        .wrapping_mul(0x5851_f42d_4c95_7f2d)
        .wrapping_add(0x1405_7b7e_f767_814f)
}

impl Model {
    /// A version of a key that is newer than all before.
    pub fn add(
        &mut self,
        number: u32,
        meta: ObjectMeta,
        tags: Vec<TagSlot>,
        body_len: usize,
    ) -> u32 {
        let latest = self.latest.entry(number).or_default();
        *latest += 1;
        let version = *latest;
        let any_tag = tags.len() > MAX_TAGS;
        self.versions.insert(
            (number, version),
            Version {
                meta: ObjectMeta {
                    body_len: body_len as u64,
                    ..meta
                },
                any_tag,
                tags: tags.into_iter().take(MAX_TAGS).collect(),
                head: format!("{number}/{version}/").into_bytes(),
                body_len,
            },
        );
        version
    }

    /// The version that a head belongs to.
    pub fn named(&self, head: &[u8]) -> Option<(u32, u32)> {
        let text = std::str::from_utf8(head).ok()?;
        let mut parts = text.split('/');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Every version so far that the purge covers is dead.
    pub fn purge(&mut self, covers: impl Fn(u32, &Version) -> bool) {
        for (name, version) in &self.versions {
            if covers(name.0, version) {
                self.dead.insert(*name);
            }
        }
    }

    pub fn is_dead(&self, name: (u32, u32)) -> bool {
        self.dead.contains(&name)
    }

    /// A version was taken: older ones are not to be seen until a crash.
    pub fn raise(&mut self, number: u32, version: u32) {
        let floor = self.floor.entry(number).or_default();
        *floor = version.max(*floor);
    }

    /// What may be served now.
    pub fn allowed(&self, number: u32) -> HashSet<u32> {
        let floor = self.floor.get(&number).copied().unwrap_or(0);
        let latest = self.latest.get(&number).copied().unwrap_or(0);
        (floor.max(1)..=latest)
            .filter(|version| !self.is_dead((number, *version)))
            .collect()
    }

    /// The process ended: newer versions may be lost, older ones may be seen again.
    pub fn crash(&mut self) {
        self.floor.clear();
    }
}
