//! Ctrl-C and its kin as something to ask for, so that the ordinary way out puts everything back.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT, SIGTERM and SIGHUP, held back from this process until it asks. Programs that it starts
/// receive them as usual: the standard library clears the mask for them.
pub struct Signals(SignalFd);

impl Signals {
    pub fn block() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context("cannot block signals")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
            .context("cannot read signals from a descriptor")?;
        Ok(Self(fd))
    }

    /// Waits at most this long; true when one of the signals came.
    pub fn wait(&self, at_most: Duration) -> anyhow::Result<bool> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let ready = nix::poll::poll(&mut fds, timeout).context("cannot wait for signals")?;
        Ok(ready > 0)
    }
}
