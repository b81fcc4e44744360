//! Wakes a thread that sleeps, and costs nothing while it runs.
//!
//! A doorbell is an eventfd and a flag. Lanes are polled by a running shard, so a sender only pays
//! for a system call when the receiver said that it sleeps:
//!
//! ```text
//! receiver                              sender
//! sleeping = true                       push into the lane
//! fence(SeqCst)                         fence(SeqCst)
//! look into every lane once more        sleeping? -> sleeping = false, write the eventfd
//! nothing there -> wait for the eventfd
//! ```
//!
//! The two fences are ordered: either the receiver's second look sees the message, or the sender
//! sees `sleeping`. A wake-up can be spurious, never lost.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_utils::CachePadded;
use nix::sys::eventfd::{EfdFlags, EventFd};

pub struct Doorbell {
    sleeping: CachePadded<AtomicBool>,
    event: EventFd,
}

impl Doorbell {
    pub fn new() -> io::Result<Self> {
        // Blocking on purpose: io_uring fails a read of a non-blocking file instead of waiting.
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self {
            sleeping: CachePadded::new(AtomicBool::new(false)),
            event,
        })
    }

    /// Receiver: from now on senders ring. The caller looks into its lanes once more after this
    /// (and after [`Doorbell::clear`], if it calls that) and sleeps only if they are empty.
    pub fn will_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Receiver: awake again, senders need not ring.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Sender: wakes the receiver if it sleeps. Call it once after a batch of pushes.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only if the counter would overflow, and then the receiver is woken anyhow.
            let _ = self.event.write(1);
        }
    }

    /// The eventfd would wake its reader now.
    #[cfg(test)]
    pub fn was_rung(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
    }

    /// Receiver: takes back rings that nobody waited for, without blocking.
    pub fn clear(&self) {
        let mut count = 0u64;
        let iov = libc::iovec {
            iov_base: (&raw mut count).cast(),
            iov_len: size_of::<u64>(),
        };
        // SAFETY: `iov` names eight writable bytes that outlive the call; the descriptor is ours.
        // RWF_NOWAIT makes an empty eventfd fail with EAGAIN, which is what is wanted.
        let _ = unsafe { libc::preadv2(self.event.as_raw_fd(), &iov, 1, -1, libc::RWF_NOWAIT) };
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_receiver_is_not_disturbed() {
        let bell = Doorbell::new().expect("eventfd");
        bell.ring();
        assert!(!bell.was_rung());
    }

    #[test]
    fn a_sleeper_is_woken_once_and_old_rings_are_forgotten() {
        let bell = Doorbell::new().expect("eventfd");
        bell.will_sleep();
        bell.ring();
        assert!(bell.was_rung());
        bell.will_sleep();
        bell.clear();
        assert!(!bell.was_rung());
        bell.awake();
        bell.ring();
        assert!(!bell.was_rung());
    }
}
