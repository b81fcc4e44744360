//! Transmits that found no room.

use std::collections::VecDeque;

use cache_core::io::{Outbox, Transmit};

use super::PacketStats;

/// Most bytes that wait. A shard stops writing when anything waits, so this is what one turn makes
/// beyond what the kernel took.
pub const MAX_BACKLOG_BYTES: usize = 4 << 20;

#[derive(Default)]
pub struct Backlog {
    waiting: VecDeque<Transmit>,
    bytes: usize,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn front(&self) -> Option<&Transmit> {
        self.waiting.front()
    }

    /// Keeps a transmit for later, or drops and counts it when the backlog is full.
    pub fn push(&mut self, transmit: Transmit, outbox: &mut Outbox, stats: &PacketStats) {
        if self.bytes + transmit.data.len() > MAX_BACKLOG_BYTES {
            stats.send_dropped.inc();
            outbox.recycle(transmit.data);
        } else {
            self.bytes += transmit.data.len();
            self.waiting.push_back(transmit);
        }
        stats.send_backlog.set(self.waiting.len() as u64);
    }

    /// Takes the first transmit out.
    pub fn pop(&mut self, stats: &PacketStats) -> Option<Transmit> {
        let transmit = self.waiting.pop_front()?;
        self.bytes -= transmit.data.len();
        stats.send_backlog.set(self.waiting.len() as u64);
        Some(transmit)
    }

    /// Takes the first `count` transmits out, done with, and gives their buffers back.
    pub fn remove(&mut self, count: usize, outbox: &mut Outbox, stats: &PacketStats) {
        for transmit in self.waiting.drain(..count) {
            self.bytes -= transmit.data.len();
            outbox.recycle(transmit.data);
        }
        stats.send_backlog.set(self.waiting.len() as u64);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Transmit> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(bytes: usize) -> Transmit {
        Transmit {
            destination: "127.0.0.1:1".parse().expect("address"),
            src_ip: None,
            ecn: None,
            segment_size: None,
            data: vec![0; bytes],
        }
    }

    #[test]
    fn it_holds_its_bound_and_frees_room_again() {
        let (mut backlog, mut outbox, stats) = (
            Backlog::default(),
            Outbox::default(),
            PacketStats::default(),
        );
        for _ in 0..3 {
            backlog.push(transmit(MAX_BACKLOG_BYTES / 2), &mut outbox, &stats);
        }
        assert_eq!((backlog.iter().count(), stats.send_dropped.get()), (2, 1));
        backlog.remove(2, &mut outbox, &stats);
        assert!(backlog.is_empty());
        backlog.push(transmit(MAX_BACKLOG_BYTES), &mut outbox, &stats);
        assert_eq!((stats.send_backlog.get(), stats.send_dropped.get()), (1, 1));
    }
}
