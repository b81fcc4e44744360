//! A shard's own io_uring: one that watches its sockets (see [`super::sleep`]), one for its drives
//! (see [`super::disk`]).
//!
//! Completions are deferred: the kernel notes them, signals one eventfd, and the shard's thread
//! runs them when it calls [`Ring::reap`]. A busy shard that never reaps is therefore not
//! interrupted by packets, however many arrive.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

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

    /// Puts an operation into the submission queue; false when that is full. The kernel sees it at
    /// the next [`Ring::submit`].
    ///
    /// # Safety
    /// The memory that `entry` names stays valid, and nobody else uses it, until the operation's
    /// completion was reaped.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: by the caller's contract.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Shows the kernel what was pushed, and waits until `want` completions can be reaped.
    ///
    /// # Errors
    /// `EBUSY`, `EAGAIN`, `EINTR`: the rest stays in the queue, try again.
    pub fn submit(&mut self, want: usize) -> io::Result<()> {
        self.uring.submit_and_wait(want).map(drop)
    }

    /// Waits for one completion, not longer than `limit`.
    ///
    /// # Errors
    /// `ETIME` when none came.
    pub fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let limit = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&limit);
        let submitter = self.uring.submitter();
        submitter.submit_with_args(1, &arguments).map(drop)
    }

    /// Operations that the kernel has not seen yet.
    pub fn unsubmitted(&mut self) -> usize {
        self.uring.submission().len()
    }

    /// Lets operations name descriptors by their place in `files`, which spares the kernel from
    /// looking them up. It keeps the files open.
    pub fn register_files(&self, files: &[RawFd]) -> io::Result<()> {
        self.uring.submitter().register_files(files)
    }

    /// Makes `memory` buffer number 0 of fixed operations: pinned once instead of at each of them.
    ///
    /// # Errors
    /// `ENOMEM` when it is more than RLIMIT_MEMLOCK leaves (pages of hugetlb count in full),
    /// `EFAULT` above 1 GiB.
    ///
    /// # Safety
    /// `memory` stays mapped while the ring lives.
    pub unsafe fn register_memory(&self, memory: libc::iovec) -> io::Result<()> {
        // SAFETY: by the caller's contract.
        unsafe { self.uring.submitter().register_buffers(&[memory]) }
    }

    /// Asks the kernel to give up every operation under way, and waits at most `limit` for it.
    pub fn cancel_all(&self, limit: Duration) -> io::Result<()> {
        let limit = types::Timespec::from(limit);
        let every = types::CancelBuilder::any();
        let submitter = self.uring.submitter();
        submitter.register_sync_cancel(Some(limit), every)
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
