//! The side that hands over: a thread that waits for the node's successor.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use nix::unistd::geteuid;
use tokio::sync::{mpsc, oneshot};

use super::line::Line;
use super::sockets::by_shard;
use super::{
    Answer, Generation, Hello, Offer, PROTOCOL, Predecessor, SETTLE, START_LIMIT, STEP_LIMIT,
    Sockets, Step, version,
};
use crate::guard::{Guard, Order};
use crate::rt::packet::{UdpSocket, steer};
use crate::rt::tcp::Listener;
use crate::xdp::Xdp;

/// What the control thread does for a handover.
#[derive(Debug)]
pub enum HandoverOrder {
    /// Has the shards receive from these too.
    Join(Vec<Vec<UdpSocket>>),
    /// Nobody came for the others: so many of the last ones of each shard go.
    Stay { count: usize },
    /// Closes the AF_XDP sockets.
    LeaveAfXdp,
    /// Lets go of so many of the first sockets of each shard, which `successor` has now, and drains.
    Leave { count: usize, successor: u32 },
}

/// Asks the control thread, which answers when it is done.
pub type Asking = mpsc::Sender<(HandoverOrder, oneshot::Sender<()>)>;

/// What a node has to hand over.
pub struct Offered {
    pub sockets: Sockets,
    pub shards: u8,
    /// Where there is an XDP program: the queues are steered by it, and it knows the latest key.
    pub xdp: Option<Arc<Mutex<Xdp>>>,
    /// The key of connection ids where there is none.
    pub cid_key: u8,
    pub is_af_xdp: bool,
    pub guard: Option<Guard>,
    /// Why nobody can take over from this node.
    pub refusal: Option<String>,
    pub generation: Arc<Generation>,
}

/// See [`super`].
pub struct Handover {
    offered: Offered,
    asking: Asking,
}

impl Handover {
    /// Waits for the end of the node before this one, then for the one after it, on a thread of its own.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        offered: Offered,
        asking: Asking,
        listener: UnixListener,
        predecessor: Option<Predecessor>,
    ) -> anyhow::Result<()> {
        listener.set_nonblocking(false)?;
        let handover = Self { offered, asking };
        let run = move || handover.run(&listener, predecessor);
        let thread = thread::Builder::new().name("upgrade".to_owned());
        thread
            .spawn(run)
            .context("cannot start the upgrade thread")?;
        Ok(())
    }

    fn run(self, listener: &UnixListener, predecessor: Option<Predecessor>) {
        if let Some(predecessor) = predecessor {
            let pid = predecessor.pid();
            let draining = format!("an upgrade goes on: process {pid} drains its connections");
            predecessor.wait_for_its_end(listener, |stream| refuse(stream, &draining));
            self.alone();
        }
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the upgrade socket");
                    thread::sleep(SETTLE);
                    continue;
                }
            };
            match self.hand_over(stream) {
                // The line ends with the process: that is how the successor knows.
                Ok(line) => {
                    let _until_the_end = line;
                    loop {
                        thread::park();
                    }
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "not handed over"),
            }
        }
    }

    /// The node before this one has ended.
    fn alone(&self) {
        if let Err(error) = steer(&self.offered.sockets.udp, None) {
            tracing::error!(%error, "packets are steered as if two nodes ran");
        }
        if let (true, Some(xdp)) = (self.offered.is_af_xdp, &self.offered.xdp) {
            let mut xdp = xdp.lock().unwrap_or_else(PoisonError::into_inner);
            for queue in 0..u32::from(self.offered.shards) {
                if let Err(error) = xdp.set_af_xdp(queue, true) {
                    tracing::error!(queue, %error, "packets of this queue go by UDP");
                }
            }
        }
        self.offered.generation.alone();
        tracing::info!("the former node has ended");
    }

    /// The line to a successor that has taken over.
    fn hand_over(&self, stream: UnixStream) -> anyhow::Result<Line> {
        let line = Line::new(stream)?;
        line.patience(STEP_LIMIT)?;
        let (uid, pid) = line.peer()?;
        ensure!(
            uid == 0 || uid == geteuid().as_raw(),
            "user {uid} (process {pid}) asked: only root and the node's own user may"
        );
        let (hello, _): (Hello, _) = line.receive().context("no word of who asks")?;
        if let Some(refusal) = self.refusal(&hello) {
            line.send(&Answer::Refused(refusal.clone()), &[])?;
            bail!("process {pid}, version {}: {refusal}", hello.version);
        }
        tracing::info!(pid, version = hello.version, "a successor asks");
        let handed_over = self.offer(&line, hello.pid);
        if handed_over.is_err()
            && let Err(error) = self.let_guard_rest(false)
        {
            tracing::error!(%error, "the guard");
        }
        handed_over.map(|()| line)
    }

    fn refusal(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL {
            let theirs = hello.protocol;
            return Some(format!(
                "it speaks protocol {theirs} of handing over, this node (version {}) speaks {PROTOCOL}: restart instead",
                version()
            ));
        }
        self.offered.refusal.clone()
    }

    fn offer(&self, line: &Line, successor: u32) -> anyhow::Result<()> {
        let offer = self.describe();
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let words = [stdout.as_fd(), stderr.as_fd()];
        line.send(&Answer::Offer(offer.clone()), &words)?;
        line.send_fds(&self.offered.sockets.fds())?;
        expect(line, Step::Fits).context("it does not fit")?;
        self.let_guard_rest(true)?;
        if self.offered.is_af_xdp {
            self.leave_af_xdp()?;
        }
        line.send(&Step::Begin, &[])?;
        line.patience(START_LIMIT)?;
        expect(line, Step::Ready).context("the successor did not start")?;
        line.patience(STEP_LIMIT)?;
        let count = usize::from(offer.shards) * offer.udp.len();
        let beside = line.receive_fds(count)?;
        self.join(&offer, beside)?;
        let switched = line
            .send(&Step::Go, &[])
            .map_err(anyhow::Error::from)
            .and_then(|()| expect(line, Step::Switched));
        let count = offer.udp.len();
        if let Err(error) = switched {
            steer(&self.offered.sockets.udp, None)?;
            self.ask(HandoverOrder::Stay { count })?;
            return Err(error.context("the successor did not switch"));
        }
        thread::sleep(SETTLE);
        self.ask(HandoverOrder::Leave { count, successor })?;
        // If it has died now, the service manager starts another.
        if let Err(error) = line.send(&Step::Gone, &[]) {
            tracing::error!(%error, "the successor is gone");
        }
        Ok(())
    }

    fn describe(&self) -> Offer {
        let addresses = |sockets: &Sockets| -> [Vec<_>; 3] {
            let udp = sockets.udp.iter().take(1).flatten();
            let tls = sockets.tls.iter().take(1).flatten();
            let clear = sockets.clear.iter().take(1).flatten();
            [
                udp.map(UdpSocket::address).collect(),
                tls.map(Listener::address).collect(),
                clear.map(Listener::address).collect(),
            ]
        };
        let [udp, tls, clear] = addresses(&self.offered.sockets);
        Offer {
            version: version(),
            pid: std::process::id(),
            generation: self.offered.generation.number,
            shards: self.offered.shards,
            udp,
            tls,
            clear,
            cid_key: self.cid_key(),
        }
    }

    fn cid_key(&self) -> u8 {
        let known = self.offered.xdp.as_ref().and_then(|xdp| {
            let xdp = xdp.lock().unwrap_or_else(PoisonError::into_inner);
            xdp.cid_keys().active().map(|(key, _)| key)
        });
        known.unwrap_or(self.offered.cid_key)
    }

    fn join(&self, offer: &Offer, beside: Vec<OwnedFd>) -> anyhow::Result<()> {
        let mut fds = beside.into_iter();
        let sockets = by_shard(offer.shards, &offer.udp, &mut fds, UdpSocket::adopt);
        self.ask(HandoverOrder::Join(sockets))
    }

    /// Packets come by the kernel from now on.
    fn leave_af_xdp(&self) -> anyhow::Result<()> {
        if let Some(xdp) = &self.offered.xdp {
            let mut xdp = xdp.lock().unwrap_or_else(PoisonError::into_inner);
            for queue in 0..u32::from(self.offered.shards) {
                xdp.set_af_xdp(queue, false)?;
            }
        }
        thread::sleep(SETTLE);
        self.ask(HandoverOrder::LeaveAfXdp)
    }

    fn let_guard_rest(&self, rests: bool) -> anyhow::Result<()> {
        if let Some(guard) = &self.offered.guard {
            guard.ask_now(Order::Rest(rests))?;
        }
        Ok(())
    }

    fn ask(&self, order: HandoverOrder) -> anyhow::Result<()> {
        let (reply, done) = oneshot::channel();
        let sent = self.asking.blocking_send((order, reply));
        let done = sent.is_ok() && done.blocking_recv().is_ok();
        ensure!(done, "the node is stopping");
        Ok(())
    }
}

pub(super) fn expect(line: &Line, step: Step) -> anyhow::Result<()> {
    let (heard, _): (Step, _) = line.receive().map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => anyhow::anyhow!("it has ended"),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow::anyhow!("it took too long"),
        _ => error.into(),
    })?;
    ensure!(heard == step, "it said {heard:?} where {step:?} was due");
    Ok(())
}

/// Tells one that asks why not.
fn refuse(stream: UnixStream, why: &str) {
    let told = Line::new(stream).and_then(|line| {
        line.patience(STEP_LIMIT)?;
        line.send(&Answer::Refused(why.to_owned()), &[])
    });
    if let Err(error) = told {
        tracing::debug!(%error, "the upgrade socket");
    }
}
