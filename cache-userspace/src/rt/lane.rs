//! Bounded one-way lanes between threads: shard to shard, control to shard, shard to control.
//!
//! A lane is a single-producer ring of fixed capacity. When it is full, what may be
//! lost is dropped and counted, the rest waits in the sender's backlog in order. The backlog is
//! bounded by the sender: past [`Sender::is_congested`] a shard takes no more packets until the
//! backlog has shrunk, and it never stops reading its own lanes, so two shards cannot wait for each
//! other.

use std::collections::VecDeque;
use std::sync::Arc;

use super::doorbell::Doorbell;

/// A new lane of `capacity` messages to the owner of `bell`. From `max_backlog` messages waiting for
/// room on, the sender counts as congested.
pub fn lane<T>(
    bell: Arc<Doorbell>,
    capacity: usize,
    max_backlog: usize,
) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let sender = Sender {
        ring: producer,
        backlog: VecDeque::new(),
        bell,
        max_backlog,
        pushed: false,
        dropped: 0,
    };
    (sender, Receiver { ring: consumer })
}

pub struct Sender<T> {
    ring: rtrb::Producer<T>,
    backlog: VecDeque<T>,
    bell: Arc<Doorbell>,
    max_backlog: usize,
    /// Something was pushed since the bell was last rung.
    pushed: bool,
    dropped: u64,
}

impl<T> Sender<T> {
    /// Queues a message; it is on its way after the next [`Sender::flush`] at the latest. A
    /// droppable message is dropped and counted when there is no room in the lane.
    pub fn send(&mut self, message: T, droppable: bool) {
        if self.backlog.is_empty() {
            match self.ring.push(message) {
                Ok(()) => self.pushed = true,
                Err(rtrb::PushError::Full(message)) => self.queue(message, droppable),
            }
        } else {
            self.queue(message, droppable);
        }
    }

    fn queue(&mut self, message: T, droppable: bool) {
        if droppable {
            self.dropped += 1;
        } else {
            self.backlog.push_back(message);
        }
    }

    /// Moves the backlog into the lane as far as there is room and wakes the receiver if it
    /// sleeps and there is something new for it.
    pub fn flush(&mut self) {
        while !self.backlog.is_empty() && !self.ring.is_full() {
            if let Some(message) = self.backlog.pop_front() {
                self.pushed |= self.ring.push(message).is_ok();
            }
        }
        if std::mem::take(&mut self.pushed) {
            self.bell.ring();
        }
    }

    /// Messages waiting for room in the lane.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// The backlog has reached its bound: the sender must stop taking in what makes messages.
    pub fn is_congested(&self) -> bool {
        self.backlog.len() >= self.max_backlog
    }

    /// Droppable messages lost since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// The receiver is gone for good.
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

pub struct Receiver<T> {
    ring: rtrb::Consumer<T>,
}

impl<T> Receiver<T> {
    pub fn recv(&mut self) -> Option<T> {
        self.ring.pop().ok()
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The sender is gone for good; messages may still be left.
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    const LANE_CAPACITY: usize = 64;

    /// What a shard's loop does, with poll(2) in place of its ring.
    fn blocking_recv(bell: &Doorbell, lane: &mut Receiver<u32>) -> u32 {
        loop {
            if let Some(message) = lane.recv() {
                return message;
            }
            bell.will_sleep();
            bell.clear();
            if lane.is_empty() {
                let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::NONE).expect("poll");
            }
            bell.awake();
        }
    }

    #[test]
    fn no_wake_up_is_lost_over_many_ping_pongs() {
        const ROUNDS: u32 = 100_000;
        let here = Arc::new(Doorbell::new().expect("eventfd"));
        let there = Arc::new(Doorbell::new().expect("eventfd"));
        let (mut ping, mut ping_rx) = lane(there.clone(), 4, 8);
        let (mut pong, mut pong_rx) = lane(here.clone(), 4, 8);
        let echo = thread::spawn(move || {
            for round in 0..ROUNDS {
                assert_eq!(blocking_recv(&there, &mut ping_rx), round);
                pong.send(round, false);
                pong.flush();
            }
        });
        for round in 0..ROUNDS {
            ping.send(round, false);
            ping.flush();
            assert_eq!(blocking_recv(&here, &mut pong_rx), round);
        }
        echo.join().expect("echo thread");
    }

    #[test]
    fn a_full_lane_keeps_order_and_drops_only_what_may_be_lost() {
        let bell = Arc::new(Doorbell::new().expect("eventfd"));
        let (mut tx, mut rx) = lane(bell, LANE_CAPACITY, 2);
        for n in 0..LANE_CAPACITY as u32 {
            tx.send(n, true);
        }
        tx.send(9_000, true);
        tx.send(9_001, false);
        assert!(!tx.is_congested());
        tx.send(9_002, false);
        tx.send(9_003, true);
        assert_eq!((tx.take_dropped(), tx.backlog()), (2, 2));
        assert!(tx.is_congested());
        let mut seen = Vec::new();
        loop {
            match rx.recv() {
                Some(n) => seen.push(n),
                None if tx.backlog() > 0 => tx.flush(),
                None => break,
            }
        }
        let expected: Vec<u32> = (0..LANE_CAPACITY as u32).chain([9_001, 9_002]).collect();
        assert_eq!(seen, expected);
        assert!(!tx.is_congested());
    }

    #[test]
    fn each_end_sees_that_the_other_is_gone() {
        let bell = Arc::new(Doorbell::new().expect("eventfd"));
        let (tx, rx) = lane::<u32>(bell.clone(), 1, 1);
        drop(tx);
        assert!(rx.is_abandoned());
        let (tx, rx) = lane::<u32>(bell, 1, 1);
        drop(rx);
        assert!(tx.is_abandoned());
    }
}
