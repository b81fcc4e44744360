//! The bounded list of prefix purges.

use bytes::Bytes;

use super::Verdict;

/// Prefixes remembered unless there is a reason for another number. Each costs a comparison per lookup
/// of an object older than it.
pub const DEFAULT_PREFIXES: usize = 64;

/// Most that may be: the journal has room for them.
pub const MAX_PREFIXES: usize = 256;

/// Bytes of a prefix.
pub const MAX_PREFIX: usize = 1024;

/// One purge of all keys that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixPurge {
    pub number: u32,
    pub soft: bool,
    pub prefix: Bytes,
}

/// Prefix purges, oldest first; none is covered by a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    entries: Vec<PrefixPurge>,
}

/// A prefix that had to leave: from now on everything before its number is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    pub number: u32,
    pub soft: bool,
}

impl Prefixes {
    pub fn entries(&self) -> &[PrefixPurge] {
        &self.entries
    }

    /// Adds the latest purge, and takes out what it covers.
    pub fn push(&mut self, new: PrefixPurge) {
        self.entries.retain(|old| {
            let covered = old.prefix.starts_with(&new.prefix) && (old.soft || !new.soft);
            !covered
        });
        self.entries.push(new);
    }

    /// Takes the oldest out until there are `most`.
    pub fn fold(&mut self, most: usize) -> impl Iterator<Item = Folded> {
        let too_many = self.entries.len().saturating_sub(most);
        let folded = self.entries.drain(..too_many);
        folded.map(|PrefixPurge { number, soft, .. }| Folded { number, soft })
    }

    /// A purge of everything has come: what it covers is not needed any more.
    pub fn covered_by_all(&mut self, soft: bool) {
        self.entries.retain(|old| soft && !old.soft);
    }

    pub fn judge(&self, stamp: u32, key: &[u8]) -> Verdict {
        let mut verdict = Verdict::Valid;
        // The youngest first: older ones than the object end the search.
        for entry in self.entries.iter().rev() {
            if entry.number <= stamp || verdict == Verdict::Hard {
                break;
            }
            if key.starts_with(&entry.prefix) {
                let this = if entry.soft {
                    Verdict::Soft
                } else {
                    Verdict::Hard
                };
                verdict = verdict.max(this);
            }
        }
        verdict
    }
}
