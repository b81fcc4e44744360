//! How an idle shard sleeps without holding up the other tasks of its executor.
//!
//! glommio cannot poll a foreign descriptor, but it can read one. So the shard's own [`Ring`]
//! watches the packet sockets and a timer, and signals the shard's doorbell when one is ready; other
//! threads ring the same doorbell; and the shard awaits a glommio read of it:
//!
//! ```text
//! sockets --.
//! timerfd --+-> own ring -> doorbell (eventfd) <- other threads
//!                               |
//!                               '-> glommio read -> the shard's task runs again
//! ```
//!
//! glommio 0.9 can park with a runnable task: a task woken while its preemption timer has just
//! expired is not run before the executor sleeps (`run_task_queues` answers "nothing ran"). Measured
//! with a timer of 200 us: one lost wake-up in about 20,000. So shards keep glommio's default timer,
//! give way by their own clock ([`give_way`]), and a [`heartbeat`] bounds what is left of the risk.
//!
//! The order that loses no wake-up: [`Sleeper::arm`], look at lanes and sockets once more, then
//! [`Sleeper::sleep`] or [`Sleeper::cancel`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::doorbell::Doorbell;
use super::ring::Ring;

/// Submissions and completions in flight: one per watched descriptor.
const RING_ENTRIES: u32 = 64;
const TIMER: u64 = u64::MAX;
const WRITABLE: u64 = u64::MAX - 1;

pub struct Sleeper {
    ring: Ring,
    timer: TimerFd,
    /// The timer is running; spares a system call when there is no deadline.
    timer_set: bool,
    watched: Vec<OwnedFd>,
    waiting_for_room: bool,
    bell: Arc<Doorbell>,
    /// A duplicate of the doorbell's eventfd, owned by glommio.
    bell_file: BufferedFile,
}

impl Sleeper {
    /// Must be called on the shard's thread inside its executor. `sockets` wake the shard when
    /// they are readable; they are duplicated, so they may be closed at any time.
    pub fn new(bell: Arc<Doorbell>, sockets: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let ring = Ring::new(RING_ENTRIES)?;
        ring.signal(bell.as_fd())?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        let raw = bell.as_fd().try_clone_to_owned()?.into_raw_fd();
        // SAFETY: `raw` was just made, is open and has no other owner.
        let bell_file = unsafe { BufferedFile::from_raw_fd(raw) };
        let watched = sockets
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<Result<_, _>>()?;
        let mut sleeper = Self {
            ring,
            timer,
            timer_set: false,
            watched,
            waiting_for_room: false,
            bell,
            bell_file,
        };
        sleeper
            .ring
            .watch(sleeper.timer.as_fd(), libc::POLLIN, TIMER)?;
        for token in 0..sleeper.watched.len() {
            sleeper.watch_socket(token)?;
        }
        Ok(sleeper)
    }

    fn watch_socket(&mut self, token: usize) -> io::Result<()> {
        self.ring
            .watch(self.watched[token].as_fd(), libc::POLLIN, token as u64)
    }

    /// Prepares to sleep until `deadline`, a ring of the doorbell, a readable socket, or room in
    /// `full_socket`. The caller looks at its lanes and sockets once more after this.
    pub fn arm(
        &mut self,
        deadline: Option<Instant>,
        full_socket: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        self.bell.will_sleep();
        self.set_timer(deadline)?;
        if let Some(socket) = full_socket
            && !self.waiting_for_room
        {
            self.ring.watch_once(socket, libc::POLLOUT, WRITABLE)?;
            self.waiting_for_room = true;
        }
        // Reaping itself signals the eventfd. What the kernel deferred after the last reap may
        // have been cleared with that signal, so it must be looked for once more.
        loop {
            self.reap()?;
            self.bell.clear();
            if !self.ring.has_deferred_work() {
                return Ok(());
            }
        }
    }

    /// The second look found something: senders need not ring.
    pub fn cancel(&mut self) {
        self.bell.awake();
    }

    /// Lets the executor run other tasks, or sleep, until the doorbell rings. May end early.
    pub async fn sleep(&mut self) -> io::Result<()> {
        let woken = self.bell_file.read_at(0, size_of::<u64>()).await;
        self.bell.awake();
        woken.map(drop).map_err(io::Error::from)
    }

    fn set_timer(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match deadline {
            Some(deadline) => {
                // Zero would stop the timer.
                let left = deadline.saturating_duration_since(Instant::now());
                let left = TimeSpec::from_duration(left.max(Duration::from_nanos(1)));
                self.timer
                    .set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?;
                self.timer_set = true;
            }
            None if self.timer_set => {
                self.timer.unset()?;
                self.timer_set = false;
            }
            None => {}
        }
        Ok(())
    }

    /// Consumes events that were reported while the shard was busy, and renews watches that the
    /// kernel ended.
    fn reap(&mut self) -> io::Result<()> {
        let mut ended = Vec::new();
        let waiting_for_room = &mut self.waiting_for_room;
        self.ring.reap(|event| match event.token {
            WRITABLE => *waiting_for_room = false,
            _ if event.more => {}
            token => ended.push(token),
        })?;
        for token in ended {
            match token {
                TIMER => self.ring.watch(self.timer.as_fd(), libc::POLLIN, TIMER)?,
                token => self.watch_socket(token as usize)?,
            }
        }
        Ok(())
    }
}

/// Lets every other task of the executor run once and glommio reap its I/O. A plain yield would
/// not: the executor goes on with its runnable tasks until its preemption timer expires.
pub async fn give_way() {
    glommio::timer::sleep(Duration::ZERO).await;
}

/// A sleeping shard is woken this often: it announces quiescence, so that others can reuse arena
/// segments, and it notices a wake-up that glommio lost.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// Rings `bell` now and then. Spawn it beside the sleeping task.
pub async fn heartbeat(bell: Arc<Doorbell>) {
    loop {
        glommio::timer::sleep(HEARTBEAT).await;
        bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::rt::lane::lane;

    fn in_executor<F: Future<Output = ()> + 'static>(task: impl FnOnce() -> F + Send + 'static) {
        LocalExecutorBuilder::new(Placement::Unbound)
            .spawn(move || async move { task().await })
            .expect("executor")
            .join()
            .expect("task");
    }

    fn long_from_now() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(3600))
    }

    #[test]
    fn a_socket_a_timer_and_a_doorbell_each_wake_a_sleeper() {
        in_executor(|| async {
            let bell = Arc::new(Doorbell::new().expect("eventfd"));
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
            let address = socket.local_addr().expect("address");
            let mut sleeper = Sleeper::new(bell.clone(), &[socket.as_fd()]).expect("sleeper");
            for round in 0..3u8 {
                sleeper.arm(long_from_now(), None).expect("arm");
                socket.send_to(&[round], address).expect("send");
                sleeper.sleep().await.expect("sleep");
                let mut byte = [0xff];
                socket.recv(&mut byte).expect("datagram");
                assert_eq!(byte, [round]);
            }
            let deadline = Instant::now() + Duration::from_millis(2);
            while Instant::now() < deadline {
                sleeper.arm(Some(deadline), None).expect("arm");
                sleeper.sleep().await.expect("sleep");
            }
            let (mut tx, mut rx) = lane::<u8>(bell, 1, 1);
            let ringer = std::thread::spawn(move || {
                tx.send(42, false);
                tx.flush();
            });
            while rx.is_empty() {
                sleeper.arm(long_from_now(), None).expect("arm");
                match rx.is_empty() {
                    true => sleeper.sleep().await.expect("sleep"),
                    false => sleeper.cancel(),
                }
            }
            assert_eq!(rx.recv(), Some(42));
            ringer.join().expect("ringer");
        });
    }

    #[test]
    fn a_task_beside_a_sleeper_goes_on() {
        in_executor(|| async {
            let bell = Arc::new(Doorbell::new().expect("eventfd"));
            let mut sleeper = Sleeper::new(bell.clone(), &[]).expect("sleeper");
            let beside = glommio::spawn_local(async move {
                for _ in 0..3 {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                bell.ring();
            });
            sleeper.arm(long_from_now(), None).expect("arm");
            sleeper.sleep().await.expect("sleep");
            beside.await;
        });
    }
}
