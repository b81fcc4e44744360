//! Who has a lane to whom: every shard to every other, and each both ways to the control thread.

use std::io;
use std::sync::Arc;

use cache_core::io::{Command, FetchCommand, FetchEvent, FetchId, Reply, ShardId};
use cache_core::shard::LaneMessage;

use super::doorbell::Doorbell;
use super::lane::{Receiver, Sender, lane};
use super::packet::UdpSocket;

/// Messages in flight in one lane. Many shards have many lanes, so each is shorter.
fn lane_capacity(shards: u8) -> usize {
    (8192 / usize::from(shards.max(1))).clamp(64, 1024)
}

/// From the control thread to a shard.
#[derive(Debug)]
pub enum ToShard {
    Fetch {
        id: FetchId,
        event: FetchEvent,
    },
    Command {
        id: u64,
        command: Command,
    },
    /// Receive from these sockets as well.
    Join(Vec<UdpSocket>),
    /// Go on without the AF_XDP socket; the reply says that it is closed.
    LeaveAfXdp {
        id: u64,
    },
    /// Let go of the sockets that were there first, so that another node goes on with them. They are emptied
    /// first. No TCP connections are accepted any more.
    Leave {
        count: usize,
    },
    /// The other node did not come: let go of the last sockets instead.
    Stay {
        count: usize,
    },
    /// Leave the loop now.
    Stop,
}

/// From a shard to the control thread.
#[derive(Debug)]
pub enum ToControl {
    Fetch(FetchCommand),
    Reply { id: u64, reply: Reply },
}

/// A shard's lane to and from one other.
pub struct Peer {
    pub shard: ShardId,
    pub to: Sender<LaneMessage>,
    pub from: Receiver<LaneMessage>,
}

/// What one shard holds.
pub struct ShardLanes {
    pub bell: Arc<Doorbell>,
    /// In the order of the shards, without itself.
    pub peers: Vec<Peer>,
    pub to_control: Sender<ToControl>,
    pub from_control: Receiver<ToShard>,
    /// Dropped last: the control thread then sees that the lanes are abandoned.
    _farewell: Farewell,
}

impl ShardLanes {
    /// Queues a message to another shard.
    pub fn send(&mut self, shard: ShardId, message: LaneMessage) {
        let droppable = message.droppable();
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.shard == shard) {
            peer.to.send(message, droppable);
        }
    }

    /// Sends what waits and wakes who sleeps.
    pub fn flush(&mut self) {
        for peer in &mut self.peers {
            peer.to.flush();
        }
        self.to_control.flush();
    }

    /// A lane's backlog has reached its bound.
    pub fn is_congested(&self) -> bool {
        self.to_control.is_congested() || self.peers.iter().any(|peer| peer.to.is_congested())
    }

    /// Something waits for room in a lane.
    pub fn has_backlog(&self) -> bool {
        self.to_control.backlog() > 0 || self.peers.iter().any(|peer| peer.to.backlog() > 0)
    }

    pub fn take_dropped(&mut self) -> u64 {
        self.peers
            .iter_mut()
            .map(|peer| peer.to.take_dropped())
            .sum()
    }
}

/// The control thread's lanes to and from one shard.
pub struct ShardEnd {
    pub to: Sender<ToShard>,
    pub from: Receiver<ToControl>,
}

/// What the control thread holds.
pub struct ControlLanes {
    pub bell: Arc<Doorbell>,
    /// In the order of the shards.
    pub shards: Vec<ShardEnd>,
}

/// Rings the control thread when a shard ends, whatever ended it.
struct Farewell(Arc<Doorbell>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// All lanes of a node. `max_backlog` is `limits.max_lane_backlog`.
pub fn mesh(shards: u8, max_backlog: usize) -> io::Result<(Vec<ShardLanes>, ControlLanes)> {
    let capacity = lane_capacity(shards);
    let control_bell = Arc::new(Doorbell::new()?);
    let bells: Vec<_> = (0..shards)
        .map(|_| Doorbell::new().map(Arc::new))
        .collect::<Result<_, _>>()?;
    let mut peers = peers(&bells, capacity, max_backlog);
    let mut control = Vec::new();
    let mut lanes = Vec::new();
    for bell in bells {
        let (to_shard, from_control) = lane(bell.clone(), capacity, max_backlog);
        let (to_control, from_shard) = lane(control_bell.clone(), capacity, max_backlog);
        control.push(ShardEnd {
            to: to_shard,
            from: from_shard,
        });
        lanes.push(ShardLanes {
            bell,
            peers: std::mem::take(&mut peers[lanes.len()]),
            to_control,
            from_control,
            _farewell: Farewell(control_bell.clone()),
        });
    }
    Ok((
        lanes,
        ControlLanes {
            bell: control_bell,
            shards: control,
        },
    ))
}

fn peers(bells: &[Arc<Doorbell>], capacity: usize, max_backlog: usize) -> Vec<Vec<Peer>> {
    let mut peers: Vec<Vec<Peer>> = bells.iter().map(|_| Vec::new()).collect();
    for a in 0..bells.len() {
        for b in a + 1..bells.len() {
            let (to_b, from_a) = lane(bells[b].clone(), capacity, max_backlog);
            let (to_a, from_b) = lane(bells[a].clone(), capacity, max_backlog);
            peers[a].push(Peer {
                shard: b as ShardId,
                to: to_b,
                from: from_b,
            });
            peers[b].push(Peer {
                shard: a as ShardId,
                to: to_a,
                from: from_a,
            });
        }
    }
    peers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_reaches_every_other_and_no_more() {
        let (mut lanes, _control) = mesh(3, 10).expect("eventfds");
        for (n, own) in lanes.iter().enumerate() {
            let others: Vec<usize> = own.peers.iter().map(|p| usize::from(p.shard)).collect();
            let expected: Vec<usize> = (0..3).filter(|other| *other != n).collect();
            assert_eq!(others, expected);
        }
        for from in 0..3u8 {
            for to in (0..3u8).filter(|to| *to != from) {
                lanes[usize::from(from)].send(to, LaneMessage::Hits(Vec::new()));
                for (n, own) in lanes.iter_mut().enumerate() {
                    for peer in &mut own.peers {
                        let expected = n == usize::from(to) && peer.shard == from;
                        assert_eq!(peer.from.recv().is_some(), expected, "{from} -> {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_control_thread_is_rung_when_a_shard_is_gone() {
        let (mut lanes, control) = mesh(2, 10).expect("eventfds");
        control.bell.will_sleep();
        drop(lanes.remove(1));
        assert!(control.bell.was_rung());
        assert!(control.shards[1].from.is_abandoned());
        assert!(!control.shards[0].from.is_abandoned());
    }
}
