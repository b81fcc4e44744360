//! The connections of one node: bounded, kept alive, handed from fetch to fetch.
//!
//! ```text
//!            checkout                                   give_back
//!   fetch ------------> Lease (idle HTTP/1.1 | stream of an HTTP/2 connection) ------> idle | next waiter
//!            |  none free, fewer than max open -> Slot: this fetch connects
//!            '  none free, max open            -> waits its turn, at most the connect timeout
//! ```
//!
//! A pool of our own over hyper's connections, because a request's authority is the client's while
//! its connection belongs to the origin: a pool keyed by the request's URI would keep one set
//! of connections for every host name, and could bound neither their sum nor their wait.
//!
//! A [`Slot`] is the right to have one connection. It lives in the task that runs the connection, so
//! `max` bounds sockets, not leases. Everything is given back by `Drop`, so that a fetch may be
//! cancelled at any await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cache_core::io::FetchError;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Dialer, Driver, Protocol, Sender};
use super::failure::Broken;
use super::http1::Http1;
use super::http2::Http2;
use super::lease::{Lease, Requests, Stream};
use super::stats::NodeStats;

/// A connection without requests is closed after this long, give or take as long again.
const KEEP_IDLE: Duration = Duration::from_secs(60);

/// See the module's description.
pub(super) struct Pool {
    pub(super) dialer: Dialer,
    max: usize,
    patience: Duration,
    pub(super) stats: Arc<NodeStats>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    /// Slots in existence: connections and attempts.
    open: usize,
    /// Slots that are still attempts.
    connecting: usize,
    /// What the origin speaks, as soon as that is known.
    speaks: Option<Protocol>,
    /// HTTP/1.1 connections without a request, the most recently used last.
    idle: Vec<Idle>,
    /// HTTP/2 connections.
    shared: Vec<Shared>,
    /// Fetches in their order of arrival.
    waiting: VecDeque<oneshot::Sender<Grant>>,
}

struct Idle {
    id: u64,
    sender: Http1,
    surplus: Arc<AtomicBool>,
    since: Instant,
}

struct Shared {
    id: u64,
    sender: Http2,
    used: usize,
    since: Instant,
}

enum Grant {
    Lease(Lease),
    Connect(Slot),
    Failed(FetchError),
}

/// Which connections a checkout accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Any,
    /// No idle connection. The most recently used one was found closed by the origin; the others
    /// have been idle for longer and go as well.
    New,
}

impl Pool {
    /// `patience` bounds the wait for one of `max` connections.
    pub(super) fn new(
        dialer: Dialer,
        max: usize,
        patience: Duration,
        stats: Arc<NodeStats>,
    ) -> Arc<Self> {
        let speaks = dialer.protocol();
        Arc::new(Self {
            dialer,
            max,
            patience,
            stats,
            state: Mutex::new(State {
                speaks,
                ..State::default()
            }),
        })
    }

    /// Takes a free connection, makes one, or waits for one.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        freshness: Freshness,
    ) -> Result<Lease, FetchError> {
        let grant = match self.grant_or_queue(freshness) {
            Ok(grant) => grant,
            Err(turn) => match timeout(self.patience, turn).await {
                Ok(Ok(grant)) => grant,
                _ => return Err(self.dialer.place.connections_busy(self.max, self.patience)),
            },
        };
        match grant {
            Grant::Lease(lease) => Ok(lease),
            Grant::Connect(slot) => self.connect(slot).await,
            Grant::Failed(error) => Err(error),
        }
    }

    fn grant_or_queue(
        self: &Arc<Self>,
        freshness: Freshness,
    ) -> Result<Grant, oneshot::Receiver<Grant>> {
        let mut state = self.lock();
        if let Some(grant) = self.grant(&mut state, freshness) {
            return Ok(grant);
        }
        // The longest waiting give up first, so the dead are at the front.
        while state
            .waiting
            .front()
            .is_some_and(oneshot::Sender::is_closed)
        {
            state.waiting.pop_front();
        }
        let (turn, receiver) = oneshot::channel();
        state.waiting.push_back(turn);
        Err(receiver)
    }

    fn grant(self: &Arc<Self>, state: &mut State, freshness: Freshness) -> Option<Grant> {
        if let Some(lease) = self.share(state) {
            return Some(Grant::Lease(lease));
        }
        match freshness {
            Freshness::New => state.idle.clear(),
            Freshness::Any => {
                if let Some(lease) = self.reuse(state) {
                    return Some(Grant::Lease(lease));
                }
            }
        }
        // One connection may turn out to serve everybody, unless it is known to be HTTP/1.1.
        let alone = state.connecting == 0 || state.speaks == Some(Protocol::Http1);
        if state.open < self.max && alone {
            state.open += 1;
            state.connecting += 1;
            return Some(Grant::Connect(Slot {
                pool: Arc::downgrade(self),
                connecting: true,
            }));
        }
        None
    }

    fn share(self: &Arc<Self>, state: &mut State) -> Option<Lease> {
        let shared = state
            .shared
            .iter_mut()
            .find(|shared| shared.used < shared.sender.max_streams())?;
        shared.used += 1;
        Some(Lease {
            pool: self.clone(),
            id: shared.id,
            reused: true,
            requests: Requests::Http2 {
                sender: shared.sender.clone(),
                _stream: Stream::new(self, shared.id),
            },
        })
    }

    fn reuse(self: &Arc<Self>, state: &mut State) -> Option<Lease> {
        while let Some(idle) = state.idle.pop() {
            if idle.sender.is_ready() {
                return Some(Lease {
                    pool: self.clone(),
                    id: idle.id,
                    reused: true,
                    requests: Requests::Http1 {
                        sender: idle.sender,
                        surplus: idle.surplus,
                    },
                });
            }
        }
        None
    }

    async fn connect(self: &Arc<Self>, slot: Slot) -> Result<Lease, FetchError> {
        match self.dialer.dial().await {
            Ok((sender, driver)) => Ok(self.enroll(sender, driver, slot)),
            Err(error) => {
                self.fail_waiting(&error);
                Err(error)
            }
        }
    }

    fn enroll(self: &Arc<Self>, sender: Sender, driver: Driver, mut slot: Slot) -> Lease {
        let surplus = Arc::new(AtomicBool::new(false));
        let mut state = self.lock();
        slot.connecting = false;
        state.connecting -= 1;
        let id = state.next_id;
        state.next_id += 1;
        let requests = match sender {
            Sender::Http1(sender) => {
                state.speaks = Some(Protocol::Http1);
                Requests::Http1 {
                    sender,
                    surplus: surplus.clone(),
                }
            }
            Sender::Http2(sender) => {
                state.speaks = Some(Protocol::Http2);
                state.shared.push(Shared {
                    id,
                    sender: sender.clone(),
                    used: 1,
                    since: Instant::now(),
                });
                Requests::Http2 {
                    sender,
                    _stream: Stream::new(self, id),
                }
            }
        };
        drop(state);
        self.stats.connection_opened();
        tokio::spawn(drive(driver, slot, id, surplus, self.stats.clone()));
        // Others may share the connection, or connect too now that it is known not to be shared.
        self.serve_waiting();
        Lease {
            pool: self.clone(),
            id,
            reused: false,
            requests,
        }
    }

    /// Nothing is connected and the only attempt failed: those who waited for it fail with it,
    /// instead of trying the same one after the other.
    fn fail_waiting(&self, error: &FetchError) {
        let mut state = self.lock();
        if state.open > state.connecting {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for turn in waiting {
            // One that stopped waiting needs no answer.
            let _ = turn.send(Grant::Failed(error.clone()));
        }
    }

    /// Gives to the waiting what there is to give, in their order.
    fn serve_waiting(self: &Arc<Self>) {
        while let Some((turn, grant)) = self.next_waiting() {
            // Refused by one that has just stopped waiting: the grant comes back here, is dropped
            // without the lock, and by that serves the next.
            drop(turn.send(grant));
        }
    }

    fn next_waiting(self: &Arc<Self>) -> Option<(oneshot::Sender<Grant>, Grant)> {
        let mut state = self.lock();
        while state
            .waiting
            .front()
            .is_some_and(oneshot::Sender::is_closed)
        {
            state.waiting.pop_front();
        }
        state.waiting.front()?;
        let grant = self.grant(&mut state, Freshness::Any)?;
        let turn = state.waiting.pop_front()?;
        Some((turn, grant))
    }

    pub(super) fn keep(self: &Arc<Self>, id: u64, sender: Http1, surplus: Arc<AtomicBool>) {
        let since = Instant::now();
        self.lock().idle.push(Idle {
            id,
            sender,
            surplus,
            since,
        });
        self.serve_waiting();
    }

    pub(super) fn release_stream(self: &Arc<Self>, id: u64) {
        if let Some(shared) = self.lock().shared.iter_mut().find(|shared| shared.id == id) {
            shared.used -= 1;
            shared.since = Instant::now();
        }
        self.serve_waiting();
    }

    /// Drops our hold on a connection; it closes when its last request is done.
    pub(super) fn forget(&self, id: u64) {
        let mut state = self.lock();
        state.idle.retain(|idle| idle.id != id);
        state.shared.retain(|shared| shared.id != id);
    }

    fn forget_if_unused(&self, id: u64, for_long: Duration) {
        let mut state = self.lock();
        state
            .idle
            .retain(|idle| idle.id != id || idle.since.elapsed() < for_long);
        state.shared.retain(|shared| {
            shared.id != id || shared.used > 0 || shared.since.elapsed() < for_long
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics half-way through a change under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a connection to its end and frees its slot then.
async fn drive(
    mut driver: Driver,
    slot: Slot,
    id: u64,
    surplus: Arc<AtomicBool>,
    stats: Arc<NodeStats>,
) {
    let result = loop {
        tokio::select! {
            result = &mut driver => break result,
            () = sleep(KEEP_IDLE) => {
                if let Some(pool) = slot.pool.upgrade() {
                    pool.forget_if_unused(id, KEEP_IDLE);
                }
            }
        }
    };
    if let Err(error) = &result {
        tracing::debug!(%error, "upstream connection ended");
        let is_surplus = matches!(error, Broken::Http1(error) if is_surplus(error));
        surplus.store(is_surplus, Ordering::Release);
    }
    drop(driver);
    stats.connection_closed();
    if let Some(pool) = slot.pool.upgrade() {
        pool.forget(id);
    }
}

/// Whether a connection without a request broke because the origin sent more than it had declared.
/// hyper's other errors of such a connection have a cause beneath them.
fn is_surplus(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_none()
        && !error.is_incomplete_message()
        && !error.is_parse()
        && !error.is_canceled()
        && !error.is_closed()
}

/// The right to have one connection open.
struct Slot {
    pool: Weak<Pool>,
    connecting: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let mut state = pool.lock();
        state.open -= 1;
        state.connecting -= usize::from(self.connecting);
        drop(state);
        pool.serve_waiting();
    }
}
