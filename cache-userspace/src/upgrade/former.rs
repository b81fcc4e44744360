//! The side that hands over: a thread that waits for the node's successor.

use std::fs::File;
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
    /// Has what memory holds written to the tier, and then nothing more.
    RestTier,
    /// Has the tier written again: it is this process's alone.
    WakeTier,
    /// Closes the AF_XDP sockets.
    LeaveAfXdp,
    /// Lets go of so many of the first sockets of each shard, which `successor` has now, and drains.
    Leave { count: usize, successor: u32 },
}

/// Asks the control thread, which answers when it is done, and whether it could be.
pub type Asking = mpsc::Sender<(HandoverOrder, oneshot::Sender<bool>)>;

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
    /// The drives of the tier, open and locked.
    pub drives: Vec<Arc<File>>,
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
        if let Err(error) = self.wake_tier() {
            tracing::error!(%error, "the tier is not written to");
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
        if let Some(refusal) = refusal(&hello) {
            line.send(&Answer::Refused(refusal.clone()), &[])?;
            bail!("process {pid}, version {}: {refusal}", hello.version);
        }
        tracing::info!(pid, version = hello.version, "a successor asks");
        let handed_over = self.offer(&line, hello.pid);
        if handed_over.is_err() {
            self.go_on();
        }
        handed_over.map(|()| line)
    }

    /// Nobody took over: what rests goes on, and what a successor changed before it failed is put back.
    fn go_on(&self) {
        let parts = [
            ("XDP", self.put_xdp_back()),
            ("the guard", self.let_guard_rest(false)),
            ("the tier", self.wake_tier()),
        ];
        for (part, went_on) in parts {
            if let Err(error) = went_on {
                let error = format!("{error:#}");
                tracing::error!(part, error, "does not go on after an upgrade that failed");
            }
        }
    }

    /// The program goes by our keys and rules again.
    fn put_xdp_back(&self) -> anyhow::Result<()> {
        let Some(xdp) = &self.offered.xdp else {
            return Ok(());
        };
        let mut xdp = xdp.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = xdp.cid_keys();
        xdp.set_cid_keys(keys)?;
        Ok(xdp.change(|_| ())?)
    }

    fn offer(&self, line: &Line, successor: u32) -> anyhow::Result<()> {
        let offer = self.describe();
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let words = [stdout.as_fd(), stderr.as_fd()];
        line.send(&Answer::Offer(offer.clone()), &words)?;
        line.send_fds(&self.offered.sockets.fds())?;
        let drives: Vec<_> = self
            .offered
            .drives
            .iter()
            .map(|file| file.as_fd())
            .collect();
        line.send_fds(&drives)?;
        expect(line, Step::Fits).context("it does not fit")?;
        self.let_guard_rest(true)?;
        if !self.offered.drives.is_empty() {
            self.ask(HandoverOrder::RestTier)
                .context("the tier's drives do not take in time what is written to them")?;
        }
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
            drives: self.offered.drives.len(),
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

    fn wake_tier(&self) -> anyhow::Result<()> {
        match self.offered.drives.is_empty() {
            true => Ok(()),
            false => self.ask(HandoverOrder::WakeTier),
        }
    }

    fn ask(&self, order: HandoverOrder) -> anyhow::Result<()> {
        let (reply, done) = oneshot::channel();
        let sent = self.asking.blocking_send((order, reply));
        let done = sent.ok().and_then(|()| done.blocking_recv().ok());
        let was_done = done.context("the node is stopping")?;
        ensure!(was_done, "it could not be done");
        Ok(())
    }
}

fn refusal(hello: &Hello) -> Option<String> {
    let theirs = hello.protocol;
    (theirs != PROTOCOL).then(|| {
        format!(
            "it speaks protocol {theirs} of handing over, this node (version {}) speaks {PROTOCOL}: restart instead",
            version()
        )
    })
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
