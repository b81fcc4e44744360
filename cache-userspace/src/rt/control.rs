//! The control thread: tokio with the upstream, the admin API and signals, between the shards.
//!
//! ```text
//!  shards --ToControl--> listen --FetchCommand--> Upstream --events--> feed (one a shard) --ToShard--> shards
//!                          '--Reply--> waiting   admin --ShardCommand--> ask --> feed
//! ```
//!
//! Everything runs on one thread, so what the tasks share is in an `Rc`. A shard that cannot keep up
//! leaves its events where they are: the upstream's channel fills and fetches wait.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use cache_core::io::{Command, FetchEvent, FetchId, Reply, ShardId};
use cache_core::stats::ShardStats;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::doorbell::Doorbell;
use super::lane::{Receiver, Sender};
use super::mesh::{ControlLanes, ToControl, ToShard};
use crate::admin::{Listeners, serve_admin};
use crate::compress::Compressor;
use crate::node::{NodeHandle, ShardCommand};
use crate::service::Service;
use crate::tcp::stats::TcpStats;
use crate::upgrade::HandoverOrder;
use crate::upstream::{EventSender, Upstream, event_channel};

/// Fetch events of one shard between the upstream and the lane.
const EVENT_CHANNEL: usize = 256;
/// Messages taken from one shard before the other tasks run.
const LISTEN_BUDGET: usize = 256;
/// Events moved into a lane at once.
const FEED_BATCH: usize = 64;
/// How often a full lane is tried again.
const LANE_RETRY: Duration = Duration::from_millis(1);

const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long shards may take to leave their loops once told to, beside [`Control::save_limit`].
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often [`Service::tick`] is called.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What the control thread runs.
pub struct Control {
    pub lanes: ControlLanes,
    pub upstream: Arc<ArcSwap<Upstream>>,
    pub compressor: Arc<Compressor>,
    /// What the admin API asks of the shards.
    pub commands: mpsc::Receiver<ShardCommand>,
    /// What a handover to another process asks.
    pub handover: mpsc::Receiver<(HandoverOrder, oneshot::Sender<bool>)>,
    pub admin: Listeners,
    pub node: NodeHandle,
    pub stats: Vec<Arc<ShardStats>>,
    pub tcp: Vec<Arc<TcpStats>>,
    /// What is told of the node's state.
    pub service: Service,
    /// How long open connections may take to end after the first signal.
    pub drain_limit: Duration,
    /// How long shards may write what memory holds to the tier.
    pub save_limit: Duration,
}

impl Control {
    /// Runs until a signal or until a shard ends by itself, calling `ready` once everything
    /// answers. The shards have been told to stop when this returns.
    ///
    /// # Errors
    /// The runtime cannot be made, the admin API failed, or a shard ended unasked.
    pub fn run(self, ready: impl FnOnce(&Service)) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the control thread's runtime")?;
        LocalSet::new().block_on(&runtime, self.serve(ready))
    }

    async fn serve(mut self, ready: impl FnOnce(&Service)) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let (asked, waiting) = (Rc::new(RefCell::new(Vec::new())), Waiting::default());
        let mut events = Vec::new();
        let mut lanes = Vec::new();
        for end in self.lanes.shards {
            let (sender, receiver) = event_channel(EVENT_CHANNEL);
            let (commands, command_queue) = mpsc::channel(EVENT_CHANNEL);
            spawn_local(feed(end.to, receiver, command_queue));
            asked.borrow_mut().push(commands);
            events.push(sender);
            lanes.push(end.from);
        }
        let shards = Shards {
            commands: asked,
            waiting: waiting.clone(),
        };
        let (gone_sender, mut gone) = watch::channel(0);
        self.upstream.load().start_probes();
        let listener = Listen {
            bell: self.lanes.bell,
            lanes,
            upstream: self.upstream,
            compressor: self.compressor,
            events,
            waiting,
            gone: gone_sender,
        };
        spawn_local(listener.run());
        spawn_local(ask(self.commands, shards.clone()));
        let node = self.node.clone();
        let pins = node.clone();
        spawn_local(async move { pins.fetch_pins().await });
        spawn_local(reload_on_hangup(node.clone())?);
        let mut admin = spawn_local(serve_admin(self.admin, node.clone()));
        let mut tick = interval(HOUSEKEEPING);
        let (stats, tcp) = (self.stats, self.tcp);
        let open = || {
            let quic = stats.iter().map(|stats| stats.connections.get());
            let tcp = tcp.iter().map(|stats| stats.connections.get());
            quic.chain(tcp).sum()
        };
        ready(&self.service);
        let end = loop {
            tokio::select! {
                name = signals.next() => {
                    tracing::info!(signal = name, "stopping: no new connections");
                    self.service.stopping();
                    shards.drain(true).await;
                    wait_for_connections(open, self.drain_limit, &mut signals).await;
                    break Ok(());
                }
                Some((order, done)) = self.handover.recv() => {
                    if let HandoverOrder::RestTier = order {
                        let (shards, limit) = (shards.clone(), STOP_LIMIT + self.save_limit);
                        // It may take seconds.
                        spawn_local(async move { done.send(shards.rest_tier(limit).await) });
                        continue;
                    }
                    let left = shards.hand_over(order).await;
                    let Some(successor) = left else {
                        // Who asked waits for this, or is gone.
                        let _ = done.send(true);
                        continue;
                    };
                    tracing::info!(successor, "another process has taken over");
                    admin.abort();
                    // The successor binds its address.
                    let _aborted = (&mut admin).await;
                    node.end_purging().await;
                    self.service.succeeded_by(successor);
                    let _ = done.send(true);
                    wait_for_connections(open, self.drain_limit, &mut signals).await;
                    break Ok(());
                }
                _ = gone.changed() => break Err(anyhow::anyhow!("a shard ended unasked")),
                result = &mut admin => {
                    break result.map_err(anyhow::Error::from).flatten().context("the admin API ended");
                }
                _ = tick.tick() => self.service.tick(),
            }
        };
        stop(&shards, gone, STOP_LIMIT + self.save_limit).await;
        end
    }
}

/// SIGHUP: the configuration is read again. The log says what came of it.
fn reload_on_hangup(node: NodeHandle) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let _what_the_log_says = node.reload().await;
        }
    })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Replies that someone waits for.
type Waiting = Rc<RefCell<WaitingReplies>>;

#[derive(Default)]
struct WaitingReplies {
    next_id: u64,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
}

/// Asks shards.
#[derive(Clone)]
struct Shards {
    commands: Rc<RefCell<Vec<mpsc::Sender<ToShard>>>>,
    waiting: Waiting,
}

impl Shards {
    async fn ask(&self, shard: ShardId, command: Command, reply: oneshot::Sender<Reply>) {
        let id = self.expect(reply);
        self.tell(usize::from(shard), ToShard::Command { id, command })
            .await;
    }

    /// The number under which a reply is waited for.
    fn expect(&self, reply: oneshot::Sender<Reply>) -> u64 {
        let mut waiting = self.waiting.borrow_mut();
        // Those that gave up waiting.
        waiting.replies.retain(|_, reply| !reply.is_closed());
        waiting.next_id += 1;
        let id = waiting.next_id;
        waiting.replies.insert(id, reply);
        id
    }

    async fn tell(&self, shard: usize, message: ToShard) {
        let queue = self.commands.borrow().get(shard).cloned();
        if let Some(queue) = queue {
            // A shard that is gone is noticed elsewhere; the asker's reply is dropped at the end.
            let _ = queue.send(message).await;
        }
    }

    fn count(&self) -> usize {
        self.commands.borrow().len()
    }

    /// Has every connection told to end.
    async fn drain(&self, refuse_new: bool) {
        drop(self.ask_all(|| Command::Drain { refuse_new }).await);
    }

    /// The process that everything new goes to, once it does.
    async fn hand_over(&self, order: HandoverOrder) -> Option<u32> {
        match order {
            HandoverOrder::Join(sockets) => {
                for (shard, sockets) in sockets.into_iter().enumerate() {
                    self.tell(shard, ToShard::Join(sockets)).await;
                }
            }
            HandoverOrder::Stay { count } => self.tell_all(|| ToShard::Stay { count }).await,
            HandoverOrder::LeaveAfXdp => self.leave_af_xdp().await,
            HandoverOrder::RestTier => {}
            HandoverOrder::WakeTier => self.wake_tier().await,
            HandoverOrder::Leave { count, successor } => {
                self.tell_all(|| ToShard::Leave { count }).await;
                self.drain(false).await;
                return Some(successor);
            }
        }
        None
    }

    /// False: a shard's drives do not take in time what it has for them.
    async fn rest_tier(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let answers = self.ask_all(|| Command::RestTier).await;
        let mut is_at_rest = true;
        for answer in answers {
            is_at_rest &= matches!(timeout_at(deadline, answer).await, Ok(Ok(_)));
        }
        is_at_rest
    }

    async fn wake_tier(&self) {
        drop(self.ask_all(|| Command::WakeTier).await);
    }

    async fn ask_all(&self, command: impl Fn() -> Command) -> Vec<oneshot::Receiver<Reply>> {
        let mut answers = Vec::new();
        for shard in 0..self.count() {
            let (reply, answer) = oneshot::channel();
            self.ask(shard as ShardId, command(), reply).await;
            answers.push(answer);
        }
        answers
    }

    async fn tell_all(&self, message: impl Fn() -> ToShard) {
        for shard in 0..self.count() {
            self.tell(shard, message()).await;
        }
    }

    /// Returns when every shard has closed its socket, so that another can be bound to the queue.
    async fn leave_af_xdp(&self) {
        let mut answers = Vec::new();
        for shard in 0..self.count() {
            let (reply, answer) = oneshot::channel();
            let id = self.expect(reply);
            self.tell(shard, ToShard::LeaveAfXdp { id }).await;
            answers.push(answer);
        }
        for answer in answers {
            if timeout(STOP_LIMIT, answer).await.is_err() {
                tracing::warn!("a shard does not close its AF_XDP socket");
            }
        }
    }
}

/// Passes the admin API's commands on.
async fn ask(mut commands: mpsc::Receiver<ShardCommand>, shards: Shards) {
    while let Some(asked) = commands.recv().await {
        shards.ask(asked.shard, asked.command, asked.reply).await;
    }
}

/// Waits until no connection is open, the time is up, or a second signal comes.
async fn wait_for_connections(open: impl Fn() -> u64, limit: Duration, signals: &mut Signals) {
    let deadline = Instant::now() + limit;
    loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping at once");
                return;
            }
            () = sleep(DRAIN_POLL) => {}
        }
        let open = open();
        if open == 0 || Instant::now() >= deadline {
            tracing::info!(connections_left = open, "drained");
            return;
        }
    }
}

/// Makes every shard leave its loop, and waits for that.
async fn stop(shards: &Shards, mut gone: watch::Receiver<usize>, limit: Duration) {
    for shard in 0..shards.count() {
        shards.tell(shard, ToShard::Stop).await;
    }
    let all = gone.wait_for(|gone| *gone >= shards.count());
    if timeout(limit, all).await.is_err() {
        tracing::warn!("a shard did not stop in time");
    }
}

/// Moves one shard's events and commands into its lane.
async fn feed(
    mut lane: Sender<ToShard>,
    mut events: mpsc::Receiver<(FetchId, FetchEvent)>,
    mut commands: mpsc::Receiver<ToShard>,
) {
    let mut batch = Vec::with_capacity(FEED_BATCH);
    loop {
        let waits = lane.backlog() > 0;
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => lane.send(command, false),
                None => return,
            },
            taken = events.recv_many(&mut batch, FEED_BATCH), if !waits => {
                if taken == 0 {
                    return;
                }
                for (id, event) in batch.drain(..) {
                    lane.send(ToShard::Fetch { id, event }, false);
                }
            }
            () = sleep(LANE_RETRY), if waits => {}
        }
        lane.flush();
    }
}

/// Takes what the shards send.
struct Listen {
    bell: Arc<Doorbell>,
    lanes: Vec<Receiver<ToControl>>,
    upstream: Arc<ArcSwap<Upstream>>,
    compressor: Arc<Compressor>,
    events: Vec<EventSender>,
    waiting: Waiting,
    /// How many shards have ended.
    gone: watch::Sender<usize>,
}

impl Listen {
    async fn run(mut self) -> anyhow::Result<()> {
        // SAFETY: the clone of the doorbell that the result owns keeps the descriptor open.
        let bell =
            unsafe { AsyncFd::register_with_interest(self.bell.clone(), Interest::READABLE) }
                .context("cannot wait for the control thread's doorbell")?;
        loop {
            while self.take() > 0 {
                yield_now().await;
            }
            self.bell.will_sleep();
            if self.take() == 0 {
                let mut ready = bell.readable().await?;
                self.bell.clear();
                ready.clear_ready();
            }
            self.bell.awake();
        }
    }

    /// Takes a bounded number of messages from every shard.
    fn take(&mut self) -> usize {
        let mut taken = 0;
        for shard in 0..self.lanes.len() {
            for _ in 0..LISTEN_BUDGET {
                let Some(message) = self.lanes[shard].recv() else {
                    break;
                };
                self.handle(shard, message);
                taken += 1;
            }
        }
        let gone = self.lanes.iter().filter(|lane| lane.is_abandoned()).count();
        self.gone
            .send_if_modified(|known| std::mem::replace(known, gone) != gone);
        taken
    }

    fn handle(&mut self, shard: usize, message: ToControl) {
        match message {
            ToControl::Fetch(command) => {
                let events = self.compressor.between(&command, &self.events[shard]);
                let upstream = self.upstream.load();
                upstream.command(shard as ShardId, command, &events);
            }
            ToControl::Reply { id, reply } => {
                if let Some(waiting) = self.waiting.borrow_mut().replies.remove(&id) {
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.send(reply);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sys::signal::{Signal, raise};

    use super::super::mesh::{ShardLanes, mesh};
    use super::*;
    use crate::config::AdminConfig;
    use crate::node::PurgeOrder;
    use crate::node::tests::node;
    use crate::upstream::UpstreamConfig;

    /// Plays a shard: answers commands until it is told to stop, and says what it was asked.
    fn play(mut lanes: ShardLanes, objects: u64) -> Vec<String> {
        let mut asked = Vec::new();
        loop {
            match lanes.from_control.recv() {
                Some(ToShard::Stop) => return asked,
                Some(ToShard::Command { id, command }) => {
                    asked.push(format!("{command:?}"));
                    let reply = Reply::Purged { objects };
                    lanes.to_control.send(ToControl::Reply { id, reply }, false);
                    lanes.flush();
                }
                Some(other) => panic!("{other:?}"),
                None => thread::yield_now(),
            }
        }
    }

    fn control(directory: &std::path::Path, lanes: ControlLanes) -> (Control, NodeHandle) {
        let (node, commands) = node();
        let admin = crate::admin::bind(&AdminConfig {
            socket: directory.join("admin.sock"),
            tcp: None,
            token_file: None,
        });
        let control = Control {
            lanes,
            upstream: Arc::new(ArcSwap::from_pointee(
                Upstream::new(UpstreamConfig::default()).expect("upstream"),
            )),
            compressor: Arc::new(Compressor::new(1, 1 << 10)),
            commands,
            handover: mpsc::channel(1).1,
            admin: admin.expect("socket"),
            node: node.clone(),
            stats: vec![Arc::default(), Arc::default()],
            tcp: Vec::new(),
            service: Service::new(&[]),
            drain_limit: Duration::from_secs(10),
            save_limit: Duration::ZERO,
        };
        (control, node)
    }

    /// One test, since signals reach every control thread of the process.
    #[test]
    fn commands_are_answered_and_signals_drain_and_stop() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut lanes, ends) = mesh(2, 16).expect("lanes");
        let (control, node) = control(directory.path(), ends);
        let players: Vec<_> = lanes
            .drain(..)
            .zip([1, 10])
            .map(|(lanes, objects)| thread::spawn(move || play(lanes, objects)))
            .collect();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let purger = thread::spawn(move || {
            is_ready.recv().expect("ready");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let report = runtime
                .expect("runtime")
                .block_on(node.purge(PurgeOrder::Everything, false));
            raise(Signal::SIGTERM).expect("signal");
            report
        });
        let ended = control.run(move |_| ready.send(()).expect("the purger waits"));
        assert!(ended.is_ok(), "{ended:?}");
        let report = purger.join().expect("purger").expect("report");
        assert_eq!(report.objects, Some(11));
        for player in players {
            let asked = player.join().expect("player");
            assert_eq!(
                asked,
                [
                    "SeePurges { everything: true }",
                    "Drain { refuse_new: true }"
                ]
            );
        }

        let (mut lanes, ends) = mesh(2, 16).expect("lanes");
        let (control, _) = self::control(directory.path(), ends);
        let last = lanes.remove(1);
        drop(lanes);
        let player = thread::spawn(move || play(last, 0));
        let ended = control.run(|_| ());
        assert!(ended.is_err_and(|error| error.to_string().contains("a shard ended")));
        player.join().expect("the other one was told to stop");
    }
}
