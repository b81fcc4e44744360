//! A shard's own io_uring: readiness of its descriptors now, disk reads later.
//!
//! Completions are deferred: the kernel notes them, signals one eventfd, and the shard's thread
//! runs them when it calls [`Ring::reap`]. A busy shard that never reaps is therefore not
//! interrupted by packets, however many arrive.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};

/// One finished operation, or one event of a repeating one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the operation was started with.
    pub token: u64,
    /// Negative: an errno. For a poll: the ready events.
    pub result: i32,
    /// The operation goes on and will complete again.
    pub more: bool,
}

/// Belongs to the thread that made it: the kernel refuses submissions from any other.
pub struct Ring {
    uring: IoUring,
}

impl Ring {
    /// A ring with room for `entries` submissions at once.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where io_uring is missing or disabled, `EINVAL` before Linux 6.1,
    /// `ENOMEM` where RLIMIT_MEMLOCK is used up.
    pub fn new(entries: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)?;
        Ok(Self { uring })
    }

    /// Signals `eventfd` whenever there is something to [`Ring::reap`].
    pub fn signal(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Reports each time that `fd` becomes ready for `events` (`POLLIN` ...), until a completion
    /// comes without `more`. The kernel keeps the file open while it is watched.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, events: i16, token: u64) -> io::Result<()> {
        self.submit_poll(fd, events, token, true)
    }

    /// Reports once when `fd` is ready for `events`.
    pub fn watch_once(&mut self, fd: BorrowedFd<'_>, events: i16, token: u64) -> io::Result<()> {
        self.submit_poll(fd, events, token, false)
    }

    fn submit_poll(
        &mut self,
        fd: BorrowedFd<'_>,
        events: i16,
        token: u64,
        multi: bool,
    ) -> io::Result<()> {
        let flags = u32::from(events.cast_unsigned());
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), flags)
            .multi(multi)
            .build()
            .user_data(token);
        // SAFETY: a poll names no memory, only a descriptor, and the kernel takes its own
        // reference to the file when the entry is submitted, which happens below.
        unsafe { self.uring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the io_uring submission queue is full"))?;
        self.uring.submit().map(drop)
    }

    /// Runs what the kernel deferred and hands over every completion. Does not wait, and is free
    /// of system calls when nothing is pending.
    pub fn reap(&mut self, mut each: impl FnMut(Completion)) -> io::Result<()> {
        if self.has_deferred_work() {
            match self.uring.submit() {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
        }
        for entry in self.uring.completion() {
            each(Completion {
                token: entry.user_data(),
                result: entry.result(),
                more: io_uring::cqueue::more(entry.flags()),
            });
        }
        Ok(())
    }

    /// There is something to [`Ring::reap`].
    pub fn has_deferred_work(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::eventfd::EventFd;

    use super::*;

    fn reaped(ring: &mut Ring) -> Vec<Completion> {
        let mut all = Vec::new();
        ring.reap(|c| all.push(c)).expect("reap");
        all
    }

    #[test]
    fn a_watch_reports_again_and_again_and_signals_the_eventfd() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("socketpair");
        let event = EventFd::new().expect("eventfd");
        let mut ring = Ring::new(8).expect("ring");
        ring.signal(event.as_fd()).expect("register");
        ring.watch(ours.as_fd(), libc::POLLIN, 7).expect("watch");
        assert_eq!(reaped(&mut ring), []);
        for _ in 0..3 {
            theirs.write_all(b"x").expect("write");
            assert!(event.read().expect("signalled") > 0);
            let got = reaped(&mut ring);
            assert_eq!(got.len(), 1);
            assert_eq!((got[0].token, got[0].more), (7, true));
            assert_ne!(got[0].result & i32::from(libc::POLLIN), 0);
            ours.read_exact(&mut [0]).expect("read");
        }
        assert_eq!(reaped(&mut ring), []);
    }

    #[test]
    fn what_became_ready_before_the_watch_is_reported() {
        let (ours, mut theirs) = UnixStream::pair().expect("socketpair");
        theirs.write_all(b"x").expect("write");
        let mut ring = Ring::new(8).expect("ring");
        ring.watch_once(ours.as_fd(), libc::POLLIN, 1)
            .expect("watch");
        let got = reaped(&mut ring);
        assert_eq!(got.len(), 1);
        assert!(!got[0].more);
    }
}
