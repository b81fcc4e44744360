//! The guard as an operator sees it: what the rules of the XDP program do, who is let in or kept out,
//! and what was dropped.
//!
//! ```text
//!  [guard] of the configuration --.
//!  feeds (files of prefixes) -----+--> guard thread --> tables (unused generation), then RULES: one flip
//!  orders (admin API, CLI) -------'        |  ^
//!                      state file <--------'  '-- EVENTS ring, once a quarter of a second
//! ```
//!
//! One thread owns all of it, so that a change is either in force whole or not at all: prefixes are
//! read and checked first, then the tables are written that no packet is judged by, then one word makes
//! the program go by them. What fails on the way leaves everything as it was.
//!
//! Changes made while running go before the configuration and outlive the process: they are in the
//! state file before the answer says so. Entries with an end are taken back by the thread; while no
//! daemon runs, the program goes on by what it was told last.

mod cid_keys;
mod desk;
mod events;
mod lists;
pub mod order;
pub mod prefixes;
pub mod settings;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::xdp::{Xdp, XdpError};
pub use cid_keys::Shards;
use desk::Desk;
pub use events::{EventLine, TopLine};
pub use order::{Answer, Order};
use prefixes::FeedError;
pub use settings::GuardConfig;
pub use state::{Line, ListName};

/// How often the thread looks after what nobody asked for: events, ends of entries, keys.
const TICK: Duration = Duration::from_millis(250);

/// Orders that may wait; more are refused.
const QUEUE: usize = 16;

/// Why the guard did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("there is no guard: {0}")]
    Absent(&'static str),
    #[error("the guard has {QUEUE} orders to carry out already")]
    Busy,
    #[error("the guard has ended")]
    Ended,
    #[error("another process is taking over: ask again when it has")]
    Resting,
    #[error("{0}")]
    Prefix(String),
    #[error("there is no rule {0:?}; `popcache guard list` names them all")]
    Rule(String),
    #[error("{0:?} is no mode: monitor, drop, off or configured")]
    Mode(String),
    #[error("{0}")]
    Rate(String),
    #[error("no prefix is named")]
    Nothing,
    #[error(
        "{0} was not listed while running: what the configuration or a feed lists is taken out there"
    )]
    NotListed(String),
    #[error("more than guard.max_entries = {most} prefixes would be listed while running")]
    TooMany { most: usize },
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(
        "the lists need more places than there are ({most} for single addresses, half-used /24 and IPv6)"
    )]
    Full { most: u32 },
    #[error("in force, but not kept over a restart: cannot write {}: {source}", path.display())]
    NotKept {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Xdp(#[from] XdpError),
}

type Reply = oneshot::Sender<Result<Answer, GuardError>>;

/// A handle on the guard's thread, which ends when the last of them is dropped.
#[derive(Clone)]
pub struct Guard {
    orders: SyncSender<(Order, Reply)>,
    counts: Arc<Mutex<Counts>>,
}

impl Guard {
    /// Makes the program go by `config` and by what was changed while earlier daemons ran, and
    /// starts the thread.
    ///
    /// # Errors
    /// A feed is broken, the lists do not fit, or the kernel refused an update.
    pub fn start(
        config: GuardConfig,
        xdp: Arc<Mutex<Xdp>>,
        shards: Shards,
    ) -> anyhow::Result<Self> {
        let counts = Arc::default();
        let desk = Desk::open(config, xdp, shards, Arc::clone(&counts)).context("guard")?;
        let (orders, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || run(desk, &queue))
            .context("cannot start the guard's thread")?;
        Ok(Self { orders, counts })
    }

    /// Has an order carried out.
    ///
    /// # Errors
    /// See [`GuardError`]; all is as before unless the error says otherwise.
    pub async fn ask(&self, order: Order) -> Result<Answer, GuardError> {
        let (reply, answer) = oneshot::channel();
        match self.orders.try_send((order, reply)) {
            Ok(()) => answer.await.unwrap_or(Err(GuardError::Ended)),
            Err(TrySendError::Full(_)) => Err(GuardError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(GuardError::Ended),
        }
    }

    /// [`Self::ask`] of a thread that may wait.
    ///
    /// # Errors
    /// The same.
    pub fn ask_now(&self, order: Order) -> Result<Answer, GuardError> {
        let (reply, answer) = oneshot::channel();
        match self.orders.try_send((order, reply)) {
            Ok(()) => answer.blocking_recv().unwrap_or(Err(GuardError::Ended)),
            Err(TrySendError::Full(_)) => Err(GuardError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(GuardError::Ended),
        }
    }

    /// What `status` shows.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let counts = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.snapshot()
    }
}

fn run(mut desk: Desk, queue: &Receiver<(Order, Reply)>) {
    loop {
        match queue.recv_timeout(TICK) {
            Ok((order, reply)) => {
                desk.look_after(unix_now());
                let answer = desk.carry_out(order, unix_now());
                if let Err(Err(error)) = reply.send(answer) {
                    tracing::warn!(%error, "the guard failed, and nobody waits to hear it");
                }
            }
            Err(RecvTimeoutError::Timeout) => desk.look_after(unix_now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the guard has done, and what it holds.
        #[derive(Clone, Copy, Debug, Default)]
        struct Counts {
            $($(#[$doc])* $name: u64,)*
        }

        impl Counts {
            fn snapshot(&self) -> BTreeMap<String, u64> {
                BTreeMap::from([$((stringify!($name).to_owned(), self.$name),)*])
            }
        }
    };
}

counts! {
    /// Prefixes in the allow list, however they came there.
    allowed_prefixes,
    blocked_prefixes,
    /// Prefixes that were listed while running.
    entries,
    /// Those that reached `guard.max_entries`.
    entries_refused,
    entries_expired,
    /// Times that the lists were swapped.
    swaps,
    /// Changes that were refused whole.
    changes_refused,
    events,
    bucket_key_rotations,
    cid_key_rotations,
}
