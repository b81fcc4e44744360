//! What a connection has been seen to do, and what follows from it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::TcpBounds;

/// A connection that was told to end gracefully may take so long for it: over HTTP/1.1, where a client hears of
/// it with an answer only, it waits so long for a request.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// What counts of a connection's past.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// TLS is not up yet.
    pub handshaking: bool,
    /// Since it began, or since its last request was answered.
    pub quiet_since: Instant,
    /// When the first byte of a request head that is not complete arrived.
    pub head_since: Option<Instant>,
    /// When the oldest of the request bodies that are being read began.
    pub body_since: Option<Instant>,
    /// When the client last took something, or asked for something.
    pub progress: Instant,
    /// Requests not answered to the end.
    pub active: u32,
    /// Those of them that wait for the shard, not for the client.
    pub hungry: u32,
    /// The socket takes no more.
    pub blocked: bool,
    /// Frames it may still waste.
    pub frames_left: u32,
    pub draining_since: Option<Instant>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// It may finish what it began.
    Drain,
    /// As `Drain`, as nothing is going on.
    Idle,
    /// The others end it at once.
    SlowHandshake,
    SlowHead,
    SlowBody,
    SlowReader,
    Flood,
    /// It was told to end, and asks for nothing more.
    Leftover,
}

/// Decides from what was seen.
pub fn judge(seen: &Seen, now: Instant, bounds: &TcpBounds) -> Verdict {
    let over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
    if seen.handshaking {
        return match over(seen.quiet_since, bounds.handshake_timeout) {
            true => Verdict::SlowHandshake,
            false => Verdict::Keep,
        };
    }
    if seen.frames_left == 0 {
        return Verdict::Flood;
    }
    let waits_for_client = seen.active > seen.hungry || seen.blocked;
    if waits_for_client && over(seen.progress, bounds.send_timeout) {
        return Verdict::SlowReader;
    }
    if seen
        .body_since
        .is_some_and(|since| over(since, bounds.body_timeout))
    {
        return Verdict::SlowBody;
    }
    if seen.active > 0 {
        return Verdict::Keep;
    }
    if seen
        .head_since
        .is_some_and(|since| over(since, bounds.header_timeout))
    {
        return Verdict::SlowHead;
    }
    if seen
        .draining_since
        .is_some_and(|since| over(since, DRAIN_GRACE))
    {
        return Verdict::Leftover;
    }
    match seen.draining_since.is_none() && over(seen.quiet_since, bounds.idle_timeout) {
        true => Verdict::Idle,
        false => Verdict::Keep,
    }
}

/// What a connection's task is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Drain,
    Close,
}

/// Written by the connection's parts, read by the ticker.
pub struct Watch {
    handshaking: Cell<bool>,
    quiet_since: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    body_since: Cell<Option<Instant>>,
    progress: Cell<Instant>,
    active: Cell<u32>,
    hungry: Rc<Cell<u32>>,
    blocked: Cell<bool>,
    frames_left: Cell<u32>,
    draining_since: Cell<Option<Instant>>,
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
    pub requests: Cell<u64>,
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Self {
            handshaking: Cell::new(true),
            quiet_since: Cell::new(now),
            head_since: Cell::new(None),
            body_since: Cell::new(None),
            progress: Cell::new(now),
            active: Cell::new(0),
            hungry: Rc::default(),
            blocked: Cell::new(false),
            frames_left: Cell::new(u32::MAX),
            draining_since: Cell::new(None),
            order: Cell::new(None),
            waker: RefCell::default(),
            requests: Cell::new(0),
        }
    }

    pub fn seen(&self) -> Seen {
        Seen {
            handshaking: self.handshaking.get(),
            quiet_since: self.quiet_since.get(),
            head_since: self.head_since.get(),
            body_since: self.body_since.get(),
            progress: self.progress.get(),
            active: self.active.get(),
            hungry: self.hungry.get(),
            blocked: self.blocked.get(),
            frames_left: self.frames_left.get(),
            draining_since: self.draining_since.get(),
        }
    }

    /// Answers that wait for the shard count themselves here.
    pub fn hungry(&self) -> Rc<Cell<u32>> {
        Rc::clone(&self.hungry)
    }

    /// TLS is up, or there is none.
    pub fn open(&self, now: Instant, max_idle_frames: u32) {
        self.handshaking.set(false);
        self.quiet_since.set(now);
        self.progress.set(now);
        self.frames_left.set(max_idle_frames.max(1));
    }

    /// Bytes of the client arrived.
    pub fn read(&self, now: Instant) {
        if self.active.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(now));
        }
    }

    /// HTTP/2 has other bytes than those of requests; its idle connections end by `idle_timeout`.
    pub fn read_frames(&self, idle: u32) {
        let left = self.frames_left.get().saturating_sub(idle);
        self.frames_left.set(left);
        if left == 0 {
            self.wake();
        }
    }

    pub fn wrote(&self, now: Instant) {
        self.blocked.set(false);
        self.progress.set(now);
    }

    pub fn block(&self, now: Instant) {
        if !self.blocked.replace(true) && self.active.get() == 0 {
            self.progress.set(now);
        }
    }

    pub fn request_begins(&self, now: Instant) {
        self.head_since.set(None);
        if self.active.get() == 0 {
            self.progress.set(now);
        }
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
    }

    pub fn request_ends(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        self.quiet_since.set(now);
        self.progress.set(now);
    }

    pub fn body_begins(&self, now: Instant) {
        if self.body_since.get().is_none() {
            self.body_since.set(Some(now));
        }
        // Nothing is owed to a client that still speaks.
        self.hungry.set(self.hungry.get() + 1);
    }

    pub fn body_ends(&self, now: Instant) {
        self.body_since.set(None);
        self.hungry.set(self.hungry.get() - 1);
        self.progress.set(now);
    }

    /// Some of the wasted frames are forgotten.
    pub fn refill(&self, max: u32, elapsed: Duration) {
        let left = self.frames_left.get();
        if left > 0 && left < max {
            let back = f64::from(max) / 10.0 * elapsed.as_secs_f64();
            self.frames_left
                .set(left.saturating_add(back as u32).min(max));
        }
    }

    pub fn sentence(&self, verdict: Verdict) {
        let order = match verdict {
            Verdict::Keep => return,
            Verdict::Drain | Verdict::Idle => Order::Drain,
            _ => Order::Close,
        };
        if order == Order::Drain && self.draining_since.get().is_some() {
            return;
        }
        self.order.set(Some(order));
        self.wake();
    }

    /// Ends the connection once its requests are answered.
    pub fn drain(&self) {
        self.sentence(Verdict::Drain);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// What the connection's task is to do.
    pub fn poll_order(&self, cx: &mut Context<'_>, now: Instant) -> Poll<Order> {
        match self.order.take() {
            Some(order) => {
                if order == Order::Drain {
                    self.draining_since.set(Some(now));
                }
                Poll::Ready(order)
            }
            None => {
                let mut waker = self.waker.borrow_mut();
                if !waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()))
                {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> TcpBounds {
        let seconds = Duration::from_secs;
        TcpBounds {
            max_connections: 1,
            max_requests: 10,
            handshake_timeout: seconds(1),
            header_timeout: seconds(2),
            body_timeout: seconds(3),
            idle_timeout: seconds(4),
            send_timeout: seconds(5),
            max_idle_frames: 100,
        }
    }

    /// What is judged of a connection that was opened at 0 and treated so, at each second from 0.
    fn verdicts(treat: impl Fn(&Watch, Instant)) -> Vec<Verdict> {
        let start = Instant::now();
        let watch = Watch::new(start);
        watch.open(start, 100);
        treat(&watch, start);
        let at = |second| {
            judge(
                &watch.seen(),
                start + Duration::from_secs(second),
                &bounds(),
            )
        };
        (0..7).map(at).collect()
    }

    /// `Keep` until `second`, then this.
    fn from(second: usize, verdict: Verdict) -> Vec<Verdict> {
        let mut want = vec![Verdict::Keep; second];
        want.resize(7, verdict);
        want
    }

    #[test]
    fn a_handshake_has_its_time() {
        let start = Instant::now();
        let watch = Watch::new(start);
        let seen = watch.seen();
        assert_eq!(judge(&seen, start, &bounds()), Verdict::Keep);
        let late = start + Duration::from_secs(1);
        assert_eq!(judge(&seen, late, &bounds()), Verdict::SlowHandshake);
    }

    #[test]
    fn a_quiet_connection_ends_when_idle() {
        assert_eq!(verdicts(|_, _| {}), from(4, Verdict::Idle));
    }

    #[test]
    fn a_head_must_come_in_time_however_many_bytes_trickle_in() {
        let trickle = |watch: &Watch, start: Instant| {
            for ms in [0, 500, 1000, 1500] {
                watch.read(start + Duration::from_millis(ms));
            }
        };
        assert_eq!(verdicts(trickle), from(2, Verdict::SlowHead));
    }

    #[test]
    fn an_answer_that_waits_for_the_shard_is_waited_for() {
        let hungry = |watch: &Watch, start: Instant| {
            watch.request_begins(start);
            watch.hungry().set(1);
        };
        assert_eq!(verdicts(hungry), from(7, Verdict::Keep));
    }

    #[test]
    fn a_client_that_takes_nothing_is_left() {
        let owed = |watch: &Watch, start: Instant| watch.request_begins(start);
        assert_eq!(verdicts(owed), from(5, Verdict::SlowReader));
        let blocked = |watch: &Watch, start: Instant| {
            watch.request_begins(start);
            watch.request_ends(start);
            watch.block(start);
        };
        let verdicts = verdicts(blocked);
        assert_eq!(verdicts[..4], [Verdict::Keep; 4]);
        assert_eq!(verdicts[5..], [Verdict::SlowReader; 2]);
    }

    #[test]
    fn a_body_must_come_in_time() {
        let body = |watch: &Watch, start: Instant| {
            watch.request_begins(start);
            watch.body_begins(start);
        };
        assert_eq!(verdicts(body), from(3, Verdict::SlowBody));
    }

    #[test]
    fn idle_frames_are_forgotten_slowly() {
        let flood = |watch: &Watch, _| {
            watch.read_frames(60);
            watch.refill(100, Duration::from_secs(1));
            watch.read_frames(49);
        };
        assert_eq!(verdicts(flood)[0], Verdict::Keep);
        let flood = |watch: &Watch, _| watch.read_frames(100);
        assert_eq!(verdicts(flood), from(0, Verdict::Flood));
    }
}
