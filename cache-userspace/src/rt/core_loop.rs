//! What runs on a shard's core: one loop that feeds the shard and carries out its effects.
//!
//! ```text
//!  turn:  lanes -> drives -> packets -> Shard::handle(Turn) -> drives, packets, lanes
//!         nothing to do for `spin`? arm, look once more, sleep (see rt::sleep)
//! ```
//!
//! A turn is synchronous and bounded by the budgets below. Between turns the loop gives way to the
//! other tasks of its executor every [`GIVE_WAY_EVERY`].

use std::cell::RefCell;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cache_core::io::{Command, Datagram, Input, Now, Outbox, Reply, RequestEvent, RequestId};
use cache_core::shard::Shard;
use cache_core::stats::Stat;

use super::clock;
use super::disk::Disk;
use super::door::Answers;
use super::doorbell::Doorbell;
use super::mesh::{ShardLanes, ToControl, ToShard};
use super::packet::{PacketIo, Which};
use super::sleep::{self, Sleeper, heartbeat};
use super::stop::Stop;

/// Datagrams taken in one turn, about 100 us of work.
const RECEIVE_BUDGET: usize = 128;
/// Messages taken from one lane in one turn.
const LANE_BUDGET: usize = 128;
/// Turns in which sockets are emptied that another node goes on with: 8,192 datagrams.
const MAX_EMPTYING: usize = 64;
/// Transmits that a shard may write in one turn.
const MAX_TRANSMITS: usize = 64;

/// A busy loop lets the executor's other tasks run, and glommio reap its I/O, this often. It costs
/// about 40 us each time: at 1 ms that was 5 % of a busy core.
const GIVE_WAY_EVERY: Duration = Duration::from_millis(10);

/// The same while there are TCP connections, whose tasks then run this often beside a busy loop.
const GIVE_WAY_TO_TCP_EVERY: Duration = Duration::from_millis(1);

/// Nothing may hold a core for longer: what does is counted.
const LONG: Duration = Duration::from_micros(200);

/// What the loop does next.
enum Step {
    /// Another turn, perhaps after the other tasks had theirs.
    Again {
        busy: bool,
        give_way: bool,
    },
    Sleep,
    End,
}

/// Counters of the loop itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopStats {
    /// Rounds of the loop, with and without anything to do: that it lives.
    pub rounds: Stat,
    /// Turns in which the shard had something to do.
    pub turns: Stat,
    /// Turns that took longer than [`LONG`], by the clock: what else the kernel ran on the core is in it.
    pub long_turns: Stat,
    /// Times that other tasks (TCP connections, reaped I/O) kept the core for longer than [`LONG`].
    pub long_absences: Stat,
    /// The longest of both, microseconds.
    pub longest_us: Stat,
    /// Times that the core went to sleep.
    pub sleeps: Stat,
    /// Droppable lane messages lost because a lane was full.
    pub lane_dropped: Stat,
    /// Turns in which no packets were taken because a lane's backlog was full.
    pub lane_congested: Stat,
}

impl LoopStats {
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("turns", self.turns.get()),
            ("long_turns", self.long_turns.get()),
            ("long_absences", self.long_absences.get()),
            ("longest_us", self.longest_us.get()),
            ("sleeps", self.sleeps.get()),
            ("lane_dropped", self.lane_dropped.get()),
            ("lane_congested", self.lane_congested.get()),
        ]
    }

    /// Counts `which` where the core was held for too long.
    fn held(&self, which: &Stat, held: Duration) {
        if held > LONG {
            which.inc();
            let longest = self.longest_us.get().max(held.as_micros() as u64);
            self.longest_us.set(longest);
        }
    }
}

/// How a core reaches the world.
pub struct CoreIo {
    pub packets: PacketIo,
    /// The tier's drives, where there is a tier.
    pub disk: Option<Disk>,
    pub lanes: ShardLanes,
}

/// One core: its shard, and everything that the shard's effects need.
pub struct Core {
    shard: Shard,
    packets: PacketIo,
    disk: Option<Disk>,
    lanes: ShardLanes,
    outbox: Outbox,
    spin: Spin,
    stats: Arc<LoopStats>,
    /// A turn is due even if nothing arrived.
    turn_due: bool,
    /// When the sleeping loop wakes by itself.
    armed: Option<Instant>,
    /// Requests over TCP that wait for their answers.
    pub(super) answers: Answers,
    tcp_connections: usize,
    draining: bool,
    /// Another node has its sockets.
    has_left: bool,
    /// What wakes it has to be made again.
    sockets_changed: bool,
    /// Told to stop.
    stopping: Option<Stop>,
}

impl Core {
    /// `spin`: how long to poll, at most, after the last event before sleeping.
    pub fn new(shard: Shard, io: CoreIo, spin: Duration, stats: Arc<LoopStats>) -> Self {
        let CoreIo {
            packets,
            disk,
            lanes,
        } = io;
        Self {
            shard,
            packets,
            disk,
            lanes,
            outbox: Outbox::default(),
            spin: Spin::new(spin),
            stats,
            turn_due: true,
            armed: None,
            answers: Answers::default(),
            tcp_connections: 0,
            draining: false,
            has_left: false,
            sockets_changed: false,
            stopping: None,
        }
    }

    /// Has the drives wake this core. Once: it holds for whatever sleeps for it.
    pub fn hear_drives(&self) -> anyhow::Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        disk.signal(self.lanes.bell.as_fd())
            .context("cannot have the drives' io_uring ring the doorbell")
    }

    /// What sleeps for this core, and is made anew when its sockets change. Must be made inside its executor.
    pub fn sleeper(&self) -> anyhow::Result<Sleeper> {
        let bell = self.lanes.bell.clone();
        Sleeper::new(bell, &self.packets.fds()).context(
            "cannot set up io_uring (is it disabled by kernel.io_uring_disabled or a seccomp filter?)",
        )
    }

    /// Runs until the control thread says stop.
    pub async fn run(this: Rc<RefCell<Self>>, mut sleeper: Sleeper) -> anyhow::Result<()> {
        let bell = this.borrow().bell();
        let beat = glommio::spawn_local(heartbeat(bell));
        let stats = this.borrow().stats.clone();
        let mut now = clock::now();
        let mut last_event = now.mono;
        let mut gave_way = now.mono;
        loop {
            let step = this.borrow_mut().step(now, last_event, gave_way);
            match step {
                Step::End => break,
                Step::Sleep => {
                    if std::mem::take(&mut this.borrow_mut().sockets_changed) {
                        sleeper = this.borrow().sleeper()?;
                    }
                    if this.borrow_mut().fall_asleep(&mut sleeper)? {
                        let woken = sleeper.sleep().await;
                        woken.context("cannot wait for the core's doorbell")?;
                    }
                    now = clock::now();
                    let pause = now.mono.saturating_duration_since(last_event);
                    this.borrow_mut().spin.learn(pause);
                    (last_event, gave_way) = (now.mono, now.mono);
                    continue;
                }
                Step::Again { busy, give_way } => {
                    let began = now.mono;
                    now = clock::now();
                    if busy {
                        last_event = began;
                        stats.held(&stats.long_turns, now.mono - began);
                    }
                    if give_way {
                        if std::mem::take(&mut this.borrow_mut().sockets_changed) {
                            sleeper = this.borrow().sleeper()?;
                        }
                        sleep::give_way().await;
                        gave_way = now.mono;
                        now = clock::now();
                        stats.held(&stats.long_absences, now.mono - gave_way);
                    }
                }
            }
        }
        beat.cancel().await;
        Ok(())
    }

    fn is_over(&mut self, now: Now) -> bool {
        let stopping = self.stopping.as_mut();
        stopping.is_some_and(|stop| stop.is_over(now.mono, &self.shard))
    }

    fn step(&mut self, now: Now, last_event: Instant, gave_way: Instant) -> Step {
        self.stats.rounds.inc();
        if self.is_over(now) {
            return Step::End;
        }
        let busy = self.poll_once(now);
        if !busy && now.mono.saturating_duration_since(last_event) >= self.spin.now {
            return Step::Sleep;
        }
        let every = match self.tcp_connections {
            0 => GIVE_WAY_EVERY,
            _ => GIVE_WAY_TO_TCP_EVERY,
        };
        let give_way = now.mono.saturating_duration_since(gave_way) >= every;
        Step::Again { busy, give_way }
    }

    /// False when the second look found something to do.
    fn fall_asleep(&mut self, sleeper: &mut Sleeper) -> anyhow::Result<bool> {
        let wake_at = self.wake_at();
        let full = self.packets.blocked_fd();
        sleeper
            .arm(wake_at, full)
            .context("cannot arm the core's io_uring")?;
        if self.poll_once(clock::now()) {
            sleeper.cancel();
            return Ok(false);
        }
        self.stats.sleeps.inc();
        self.turn_due = true;
        self.armed = wake_at;
        Ok(true)
    }

    /// What wakes this core.
    pub fn bell(&self) -> Arc<Doorbell> {
        self.lanes.bell.clone()
    }

    /// Hands news of a request over TCP to the shard, between two turns. True when the loop has to
    /// wake up for what follows from it.
    pub(super) fn request(&mut self, id: RequestId, event: RequestEvent) -> bool {
        let input = Input::Request { id, event };
        self.shard.handle(clock::now(), input, &mut self.outbox);
        self.carry_out();
        self.turn_due = true;
        let due = self.shard.next_timeout();
        let earlier = due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed));
        earlier || self.shard.wants_turn() || self.lanes.has_backlog()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining || self.stopping.is_some()
    }

    /// Another node has the sockets: what still comes here is served, and told to end.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    pub(super) fn set_tcp_connections(&mut self, open: usize) {
        self.tcp_connections = open;
    }

    fn wake_at(&self) -> Option<Instant> {
        /// Nobody tells when there is room in a lane again.
        const LANE_RETRY: Duration = Duration::from_millis(1);
        let retry = self
            .lanes
            .has_backlog()
            .then(|| Instant::now() + LANE_RETRY);
        self.shard.next_timeout().into_iter().chain(retry).min()
    }

    /// One turn. False when there was nothing to do.
    fn poll_once(&mut self, now: Now) -> bool {
        let mut inputs = self.take_lanes(now) + self.take_disk(now);
        if self.lanes.is_congested() {
            self.stats.lane_congested.inc();
        } else {
            inputs += self.take_packets(now);
        }
        self.packets.send(&mut self.outbox);
        let room = !self.packets.is_blocked();
        let due = std::mem::take(&mut self.turn_due)
            || self.shard.next_timeout().is_some_and(|at| at <= now.mono)
            || (room && self.shard.wants_turn());
        if inputs == 0 && !due {
            self.lanes.flush();
            return false;
        }
        let max_transmits = if room { MAX_TRANSMITS } else { 0 };
        self.shard
            .handle(now, Input::Turn { max_transmits }, &mut self.outbox);
        self.carry_out();
        self.stats.turns.inc();
        true
    }

    fn take_packets(&mut self, now: Now) -> usize {
        let (shard, outbox) = (&mut self.shard, &mut self.outbox);
        let sink = |datagram: Datagram| shard.handle(now, Input::Datagram(datagram), outbox);
        self.packets.recv(RECEIVE_BUDGET, sink)
    }

    fn take_disk(&mut self, now: Now) -> usize {
        let Some(disk) = &mut self.disk else { return 0 };
        let (shard, outbox) = (&mut self.shard, &mut self.outbox);
        disk.reap(|done| shard.handle(now, Input::Disk(done), outbox))
    }

    /// Takes what waits in the sockets, for as long as that ends.
    fn empty_sockets(&mut self, now: Now) -> usize {
        let mut taken = 0;
        for _ in 0..MAX_EMPTYING {
            match self.take_packets(now) {
                0 => break,
                some => taken += some,
            }
        }
        taken
    }

    fn leave(&mut self, now: Now, count: usize) -> usize {
        let taken = self.empty_sockets(now);
        self.packets.leave(Which::First, count);
        (self.has_left, self.sockets_changed) = (true, true);
        taken
    }

    fn take_lanes(&mut self, now: Now) -> usize {
        let mut taken = 0;
        for peer in &mut self.lanes.peers {
            for _ in 0..LANE_BUDGET {
                let Some(message) = peer.from.recv() else {
                    break;
                };
                let from = peer.shard;
                self.shard
                    .handle(now, Input::Lane { from, message }, &mut self.outbox);
                taken += 1;
            }
        }
        for _ in 0..LANE_BUDGET {
            let input = match self.lanes.from_control.recv() {
                None => break,
                Some(ToShard::Fetch { id, event }) => Input::Fetch { id, event },
                Some(ToShard::Command { id, command }) => {
                    self.draining |= matches!(command, Command::Drain { .. });
                    Input::Command { id, command }
                }
                Some(ToShard::Join(sockets)) => {
                    self.packets.join(sockets);
                    self.sockets_changed = true;
                    continue;
                }
                Some(ToShard::Stay { count }) => {
                    self.packets.leave(Which::Last, count);
                    self.sockets_changed = true;
                    continue;
                }
                Some(ToShard::Leave { count }) => {
                    taken += self.leave(now, count);
                    continue;
                }
                Some(ToShard::LeaveAfXdp { id }) => {
                    // The reply wants a turn.
                    taken += 1 + self.empty_sockets(now);
                    self.packets.leave_af_xdp();
                    self.sockets_changed = true;
                    let reply = Reply::Done;
                    self.outbox.replies.push((id, reply));
                    continue;
                }
                Some(ToShard::Stop) => {
                    self.shard.stop(now);
                    self.stopping = Some(Stop::new(now.mono, &self.shard));
                    continue;
                }
            };
            self.shard.handle(now, input, &mut self.outbox);
            taken += 1;
        }
        taken
    }

    fn carry_out(&mut self) {
        self.answers.deliver(&mut self.outbox);
        for (shard, message) in self.outbox.lanes.drain(..) {
            self.lanes.send(shard, message);
        }
        for command in self.outbox.fetches.drain(..) {
            self.lanes.to_control.send(ToControl::Fetch(command), false);
        }
        for (id, reply) in self.outbox.replies.drain(..) {
            self.lanes
                .to_control
                .send(ToControl::Reply { id, reply }, false);
        }
        if let Some(disk) = &mut self.disk
            && !self.outbox.disk.is_empty()
        {
            disk.submit(&mut self.outbox.disk);
        }
        self.packets.send(&mut self.outbox);
        self.lanes.flush();
        self.stats.lane_dropped.add(self.lanes.take_dropped());
    }
}

/// How long to poll before sleeping. Falling asleep and waking costs about as much as polling for
/// 40 us, so polling pays where the next event comes sooner than that; where pauses have been longer,
/// as with a client that works through a large batch, it only burns the core.
struct Spin {
    most: Duration,
    now: Duration,
}

impl Spin {
    fn new(most: Duration) -> Self {
        Self { most, now: most }
    }

    /// The core slept, and `pause` lay between two events. Waking late is part of that, so a pause
    /// of twice `most` may well be one that polling would have bridged.
    fn learn(&mut self, pause: Duration) {
        self.now = if pause < 2 * self.most {
            self.most
        } else {
            self.now / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_the_core_for_long_is_counted() {
        let stats = LoopStats::default();
        stats.held(&stats.long_turns, LONG);
        assert_eq!((stats.long_turns.get(), stats.longest_us.get()), (0, 0));
        stats.held(&stats.long_turns, 3 * LONG);
        stats.held(&stats.long_absences, 2 * LONG);
        assert_eq!((stats.long_turns.get(), stats.long_absences.get()), (1, 1));
        assert_eq!(stats.longest_us.get(), 600);
    }

    #[test]
    fn polling_ends_where_pauses_are_long_and_begins_again_where_they_are_short() {
        let most = Duration::from_micros(50);
        let mut spin = Spin::new(most);
        spin.learn(Duration::from_micros(99));
        assert_eq!(spin.now, most);
        for _ in 0..16 {
            spin.learn(Duration::from_millis(1));
        }
        assert!(spin.now < Duration::from_micros(1));
        spin.learn(Duration::from_micros(30));
        assert_eq!(spin.now, most);
    }
}
