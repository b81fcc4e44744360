//! The body of a flight as far as it has come, or as far back as it is needed.

use std::collections::VecDeque;

use bytes::Bytes;

/// Pieces in order. They keep their numbers when those before them are dropped.
#[derive(Debug, Default)]
pub struct Pieces {
    first: usize,
    kept: VecDeque<Bytes>,
}

impl Pieces {
    pub fn push(&mut self, piece: Bytes) {
        self.kept.push_back(piece);
    }

    /// The piece of this number. `None`: it has not come, or was dropped.
    pub fn get(&self, number: usize) -> Option<&Bytes> {
        self.kept.get(number.checked_sub(self.first)?)
    }

    /// The number of the next piece to come.
    pub fn end(&self) -> usize {
        self.first + self.kept.len()
    }

    /// Whether this piece was dropped.
    pub fn is_gone(&self, number: usize) -> bool {
        number < self.first
    }

    /// Drops the pieces before this one.
    pub fn drop_before(&mut self, number: usize) {
        let count = number.saturating_sub(self.first).min(self.kept.len());
        self.kept.drain(..count);
        self.first += count;
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        self.kept.iter_mut()
    }
}
