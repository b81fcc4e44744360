//! The side that takes over, from before it has anything of its own until the former node has ended.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdout};

use super::former::expect;
use super::line::Line;
use super::{
    Answer, Hello, Offer, PROTOCOL, START_LIMIT, STEP_LIMIT, Sockets, Step, socket_beside, version,
};
use crate::config::Config;
use crate::config::explain::rounded;
use crate::rt::packet::{UdpSocket, open_beside, steer};
use crate::tier_files::device;

/// How much longer than its drain may take a former node may live.
const LINGER: Duration = Duration::from_secs(60);

/// A node that starts in the place of another.
pub struct Takeover {
    line: Line,
    pub offer: Offer,
    pub sockets: Sockets,
    /// The drives of the tier, in the order of their numbers.
    pub drives: Vec<File>,
    /// Where the former node's words go.
    words: Vec<OwnedFd>,
    drain_limit: Duration,
}

impl Takeover {
    /// Asks the node that runs for its sockets and drives. Nothing has changed for it yet, but that AF_XDP is left, and
    /// that its tier rests.
    ///
    /// # Errors
    /// There is none, it refuses, or this configuration needs a restart.
    pub fn ask(config: &Config) -> anyhow::Result<Self> {
        require_memory(config)?;
        let path = socket_beside(&config.admin.socket);
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("no node to take over from answers on {}", path.display()))?;
        let line = Line::new(stream)?;
        line.patience(STEP_LIMIT)?;
        let hello = Hello {
            protocol: PROTOCOL,
            version: version(),
            pid: std::process::id(),
        };
        line.send(&hello, &[])?;
        let (answer, words): (Answer, _) = line.receive().context("the node did not answer")?;
        let offer = match answer {
            Answer::Offer(offer) => offer,
            Answer::Refused(why) => bail!("the node that runs refuses: {why}"),
        };
        let fds = line.receive_fds(offer.sockets()).context("no sockets")?;
        let drives = line.receive_fds(offer.drives).context("no drives")?;
        let drives: Vec<File> = drives.into_iter().map(File::from).collect();
        fits(config, &offer)?;
        are_the_drives(&config.tier.devices, &drives)?;
        line.send(&Step::Fits, &[])?;
        // What its memory holds is written first.
        line.patience(START_LIMIT)?;
        expect(&line, Step::Begin).context("the node that runs")?;
        line.patience(STEP_LIMIT)?;
        Ok(Self {
            sockets: Sockets::adopt(&offer, fds),
            drives,
            line,
            offer,
            words,
            drain_limit: config.server.drain_limit,
        })
    }

    /// From here on what is new is ours, and the former node drains. `enter` is called at the last moment at which the
    /// former one could still go on alone.
    ///
    /// # Errors
    /// The former node is gone or does not answer, `enter` failed, or the kernel refuses the sockets.
    pub fn switch(self, enter: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Predecessor> {
        let udp = &self.sockets.udp;
        let beside = open_beside(udp)?;
        self.line.send(&Step::Ready, &[])?;
        let fds: Vec<_> = beside.iter().flatten().map(UdpSocket::fd).collect();
        self.line.send_fds(&fds)?;
        expect(&self.line, Step::Go).context("the former node")?;
        drop(beside);
        enter()?;
        steer(udp, Some(self.offer.cid_key))?;
        self.line.send(&Step::Switched, &[])?;
        expect(&self.line, Step::Gone).context("the former node")?;
        self.speak_where_it_spoke();
        Ok(Predecessor {
            line: self.line,
            pid: self.offer.pid,
            limit: self.drain_limit + LINGER,
        })
    }

    /// Whoever started us may go.
    fn speak_where_it_spoke(&self) {
        if let [stdout, stderr] = &self.words[..] {
            let moved = dup2_stdout(stdout).and_then(|()| dup2_stderr(stderr));
            if let Err(error) = moved {
                tracing::debug!(%error, "the log stays where it was");
            }
        }
    }
}

/// A node that drains.
pub struct Predecessor {
    line: Line,
    pid: u32,
    limit: Duration,
}

impl Predecessor {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns once the process has ended, or has taken much longer than it may. Meanwhile `refuse` answers those that
    /// would take over from this node.
    pub(super) fn wait_for_its_end(self, listener: &UnixListener, refuse: impl Fn(UnixStream)) {
        let deadline = Instant::now() + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(pid = self.pid, "the former node does not end");
                return;
            }
            let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [watch(self.line.as_fd()), watch(listener.as_fd())];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, left).is_err() {
                continue;
            }
            let [ended, asked] = fds.map(|fd| fd.any().unwrap_or(false));
            if ended && !is_open(&self.line) {
                return;
            }
            if asked && let Ok((stream, _)) = listener.accept() {
                refuse(stream);
            }
        }
    }
}

/// The former node says nothing more: what can be read is the end.
fn is_open(line: &Line) -> bool {
    match line.receive::<Step>() {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// The sockets are those of the configuration, and one a shard.
fn fits(config: &Config, offer: &Offer) -> anyhow::Result<()> {
    let shards = config.server.cpus.len();
    ensure!(
        shards == usize::from(offer.shards),
        "the node that runs has {} cores, server.cores says {shards}: restart instead",
        offer.shards
    );
    let server = &config.server;
    let tls = server.listen_tcp.as_ref().unwrap_or(&server.listen);
    let all = [
        ("server.listen", &server.listen, &offer.udp),
        ("server.listen_tcp", tls, &offer.tls),
        ("server.listen_clear", &server.listen_clear, &offer.clear),
    ];
    for (key, wanted, there) in all {
        ensure!(
            are_same(wanted, there),
            "{key} is {wanted:?}, the node that runs listens on {there:?}: restart instead"
        );
    }
    Ok(())
}

/// One set, in whatever order it is named.
fn are_the_drives(wanted: &[PathBuf], there: &[File]) -> anyhow::Result<()> {
    let wanted_set: BTreeSet<_> = wanted.iter().map(|path| device::identity(path)).collect();
    let there_set: BTreeSet<_> = there.iter().map(device::identity_of_open).collect();
    ensure!(
        wanted_set == there_set && !there_set.contains(&None),
        "tier.devices is {wanted:?}, and the {} drives of the node that runs are others: restart instead",
        there.len()
    );
    Ok(())
}

/// Port 0 is any.
fn are_same(wanted: &[SocketAddr], there: &[SocketAddr]) -> bool {
    let is_same = |(a, b): (&SocketAddr, &SocketAddr)| {
        a.ip() == b.ip() && (a.port() == 0 || a.port() == b.port())
    };
    wanted.len() == there.len() && wanted.iter().zip(there).all(is_same)
}

/// For a while both nodes hold their arenas.
fn require_memory(config: &Config) -> anyhow::Result<()> {
    let info = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    let huge = number("HugePages_Free:") * (number("Hugepagesize:") << 10);
    let plain = number("MemAvailable:") << 10;
    let needed = config.memory.ram;
    if huge >= needed || plain >= needed.saturating_add(needed / 8) {
        return Ok(());
    }
    Err(anyhow!(
        "for a moment two nodes run: another {} for memory.ram is needed, and {} of hugepages and {} of other memory are \
         free. Restart instead, or give the new configuration a smaller memory.ram",
        rounded(needed),
        rounded(huge),
        rounded(plain)
    ))
}

/// How long a whole start may take, for who waits for it.
pub const TAKEOVER_LIMIT: Duration = START_LIMIT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_the_same_whatever_their_order_and_names() {
        let directory = tempfile::tempdir().expect("directory");
        let names = ["a", "b", "c"].map(|name| directory.path().join(name));
        let files: Vec<File> = names
            .iter()
            .map(|name| File::create(name).expect("made"))
            .collect();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&names[0], &link).expect("a link");
        let same = |wanted: &[PathBuf], there: &[File]| are_the_drives(wanted, there).is_ok();
        assert!(same(&[], &[]));
        assert!(same(&[names[1].clone(), link.clone()], &files[..2]));
        assert!(!same(&names[..2], &files[1..]));
        assert!(!same(&names[..1], &files[..2]));
        assert!(!same(&[], &files[..1]));
        assert!(!same(&[directory.path().join("none")], &files[..1]));
        // Twice one device is no set of two.
        assert!(!same(&[names[0].clone(), link], &files[..2]));
    }

    #[test]
    fn addresses_are_the_same_but_for_a_port_that_the_kernel_chose() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            let parsed = texts.iter().map(|text| text.parse().expect("address"));
            parsed.collect()
        };
        let there = addresses(&["10.0.0.1:443", "[::1]:8443"]);
        assert!(are_same(&there, &there));
        assert!(are_same(&addresses(&["10.0.0.1:0", "[::1]:0"]), &there));
        assert!(!are_same(
            &addresses(&["10.0.0.1:444", "[::1]:8443"]),
            &there
        ));
        assert!(!are_same(
            &addresses(&["10.0.0.2:443", "[::1]:8443"]),
            &there
        ));
        assert!(!are_same(&addresses(&["10.0.0.1:443"]), &there));
    }
}
