//! The upstream: carries out the shards' [`FetchCommand`]s on the control thread (tokio, hyper).
//!
//! ```text
//!   shard's commands -> Upstream::command -> one task a fetch -> Fleet: which node -> its Pool -> connections
//!   shard's events   <- EventSender (bounded) <---'   ^            ^
//!   shard's credit   -----------------------------> Credit     probes
//! ```
//!
//! A fetch reads from its origin only what the shard has given credit for, plus what one connection
//! buffers (at most 64 KiB over HTTP/1.1 and 256 KiB a stream over HTTP/2). Every wait is bounded in
//! time, and by number: `max_fetches` for all, `max_connections` for a node. A
//! node is a shield or one address of an origin; which one is asked is [`cache_core::upstream`]'s
//! decision, carried out in `ask`.
//!
//! - `config`: what it is told; `events`: the edge to the shards; `stats`: what is counted.
//! - `upload`: bodies of requests that come in pieces.
//! - `fetch`: one fetch from request to end; `ask`: to its head; `fields`: heads in and out.
//! - `fleet`: the nodes and the policy; `probe`: active checks.
//! - `pool`, `lease`, `connect`, `http1`, `http2`: the connections; `interim`: responses before the final
//!   one; `failure`: errors in the terms of RFC 9209.

mod ask;
mod config;
mod connect;
mod events;
mod failure;
mod fetch;
mod fields;
mod fleet;
mod http1;
mod http2;
mod interim;
mod last_word;
mod lease;
mod pool;
mod probe;
mod stats;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cache_core::io::{
    FetchCommand, FetchError, FetchErrorKind, FetchEvent, FetchId, FetchRequest, OriginId,
    RequestBody, ShardId,
};
use cache_core::upstream::{RouteId, spread};
use http::{Method, header};
use tokio::task::AbortHandle;

pub use config::{
    ClientIdentity, Endpoint, Http2Mode, OriginConfig, ShieldConfig, UpstreamConfig, UpstreamError,
};
pub(crate) use events::ShardGone;
pub use events::{EventSender, event_channel};
pub use stats::{NodeSnapshot, OriginSnapshot, UpstreamStats};

use events::Credit;
use failure::Place;
use fetch::{Fetch, Stop, Timeouts};
use fields::{Identity, Outgoing};
use fleet::Fleet;
use stats::{OriginStats, count};
use upload::Upload;

/// Fetches from all origins for all shards. Dropping it ends every fetch without an event.
pub struct Upstream {
    origins: Vec<Origin>,
    fleet: Arc<Fleet>,
    identity: Identity,
    timeouts: Timeouts,
    probe_timeout: Duration,
    hedge_paths: Vec<String>,
    max_fetches: usize,
    max_interim: u32,
    early_hints: bool,
    flying: Arc<Flying>,
    probes: OnceLock<AbortHandle>,
    /// Another goes on with the fetches in flight.
    is_succeeded: AtomicBool,
}

struct Origin {
    route: RouteId,
    place: Place,
    stats: Arc<OriginStats>,
}

impl Upstream {
    /// Checks the configuration and reads the `ca` files. Connects to nothing yet.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        config::check(&config)?;
        let identity = Identity::new(&config.node_name, &config.node_id)?;
        let seed = spread::stable_hash(&[config.node_id.as_bytes()]);
        let fleet = Arc::new(Fleet::new(&config, seed)?);
        let origins = (0..).zip(&config.origins);
        let origins = origins.map(|(number, origin)| Origin::new(RouteId(number), origin));
        Ok(Self {
            origins: origins.collect(),
            fleet,
            identity,
            timeouts: Timeouts {
                first_byte: config.first_byte_timeout,
                idle: config.idle_timeout,
                total: config.total_timeout,
            },
            probe_timeout: config.probe_timeout,
            hedge_paths: config.hedge_paths,
            max_fetches: config.max_fetches,
            max_interim: config.max_interim,
            early_hints: config.early_hints,
            flying: Arc::default(),
            probes: OnceLock::new(),
            is_succeeded: AtomicBool::new(false),
        })
    }

    /// Takes the place of `former`: fetches in flight go on, and origins of the same name are counted on.
    /// Nodes are known as little as at start.
    pub fn succeed(mut self, former: &Self) -> Self {
        self.flying = Arc::clone(&former.flying);
        for origin in &mut self.origins {
            let mut known = former.origins.iter();
            if let Some(known) = known.find(|known| known.stats.name() == origin.stats.name()) {
                origin.stats = Arc::clone(&known.stats);
            }
        }
        former.is_succeeded.store(true, Ordering::Relaxed);
        self
    }

    /// Begins to probe the nodes that have a health path. Must be called within a tokio runtime,
    /// which then runs the probes.
    pub fn start_probes(&self) {
        let probes = tokio::spawn(probe::run(self.fleet.clone(), self.probe_timeout));
        // Once is enough.
        if let Err(second) = self.probes.set(probes.abort_handle()) {
            second.abort();
        }
    }

    /// Carries out one command of a shard; its answers go to `events` (see [`FetchCommand`]). Returns
    /// at once. Must be called within a tokio runtime, which then runs the fetch.
    pub fn command(&self, shard: ShardId, command: FetchCommand, events: &EventSender) {
        match command {
            FetchCommand::Start { id, request } => {
                if let Err(error) = self.start(shard, id, *request, events) {
                    events.send_soon(id, FetchEvent::Failed(error));
                }
            }
            FetchCommand::Credit { id, bytes } => self.flying.grant((shard, id), bytes),
            FetchCommand::Body { id, bytes } => {
                self.flying.upload((shard, id), |upload| upload.push(bytes));
            }
            FetchCommand::BodyEnd { id } => self.flying.upload((shard, id), Upload::end),
            FetchCommand::Cancel { id } => self.flying.cancel((shard, id)),
        }
    }

    /// Fetches in flight, of all shards.
    pub fn in_flight(&self) -> usize {
        self.flying.lock().len()
    }

    /// A handle on the counters.
    pub fn stats(&self) -> UpstreamStats {
        let origins = self.origins.iter().map(|origin| origin.stats.clone());
        UpstreamStats::new(origins.collect(), self.fleet.clone())
    }

    fn start(
        &self,
        shard: ShardId,
        id: FetchId,
        request: FetchRequest,
        events: &EventSender,
    ) -> Result<(), FetchError> {
        let origin = self.origin(request.origin)?;
        count(&origin.stats.started);
        let accepted = self.accept(origin, id, request, events);
        match accepted {
            Ok(fetch) => self.flying.launch((shard, id), fetch),
            Err(error) => {
                origin.stats.failed(error.kind);
                return Err(error);
            }
        }
        Ok(())
    }

    fn accept(
        &self,
        origin: &Origin,
        id: FetchId,
        request: FetchRequest,
        events: &EventSender,
    ) -> Result<Fetch, FetchError> {
        if self.in_flight() >= self.max_fetches {
            return Err(origin.place.error(
                FetchErrorKind::LimitReached,
                format_args!(
                    "{} fetches are in flight already; raise max_fetches",
                    self.max_fetches
                ),
            ));
        }
        let credit = Arc::new(Credit::new(request.window));
        let key = spread::stable_hash(&[&request.authority, &request.target]);
        let may_hedge = self.may_hedge(&request);
        let upload = match &request.body {
            RequestBody::Whole(_) => None,
            RequestBody::Streamed { length } => Some(Arc::new(Upload::new(id, *length, events))),
        };
        let outgoing = Outgoing::new(request, upload.as_ref(), &self.identity, &origin.place)?;
        Ok(Fetch {
            id,
            outgoing,
            upload,
            fleet: self.fleet.clone(),
            route: origin.route,
            key,
            may_hedge,
            max_interim: self.max_interim,
            early_hints: self.early_hints,
            place: origin.place.clone(),
            stats: origin.stats.clone(),
            timeouts: self.timeouts,
            credit,
            events: events.clone(),
        })
    }

    /// Second requests are for what is small: not for parts of what is large, and for the paths that
    /// are configured.
    fn may_hedge(&self, request: &FetchRequest) -> bool {
        matches!(request.method, Method::GET | Method::HEAD)
            && !request.headers.contains_key(header::RANGE)
            && self
                .hedge_paths
                .iter()
                .any(|path| request.target.starts_with(path.as_bytes()))
    }

    fn origin(&self, id: OriginId) -> Result<&Origin, FetchError> {
        self.origins.get(usize::from(id.0)).ok_or_else(|| FetchError {
            kind: FetchErrorKind::ProtocolError,
            detail: format!(
                "no origin has number {}: {} are configured; shard and upstream read different configurations",
                id.0,
                self.origins.len()
            ),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(probes) = self.probes.get() {
            probes.abort();
        }
        if self.is_succeeded.load(Ordering::Relaxed) {
            return;
        }
        for (_, flight) in self.flying.lock().drain() {
            flight.task.abort();
        }
    }
}

impl Origin {
    fn new(route: RouteId, origin: &OriginConfig) -> Self {
        Self {
            route,
            place: Place::new(format!("origin {:?}", origin.name)),
            stats: Arc::new(OriginStats::new(&origin.name)),
        }
    }
}

type FlightKey = (ShardId, FetchId);

/// The fetches in flight. Whoever takes an entry out of the map decides how the fetch is counted.
#[derive(Default)]
struct Flying {
    fetches: Mutex<HashMap<FlightKey, Flight>>,
}

struct Flight {
    credit: Arc<Credit>,
    /// Of a request whose body comes in pieces.
    upload: Option<Arc<Upload>>,
    stats: Arc<OriginStats>,
    task: AbortHandle,
}

impl Flying {
    fn launch(self: &Arc<Self>, key: FlightKey, fetch: Fetch) {
        let credit = fetch.credit.clone();
        let upload = fetch.upload.clone();
        let stats = fetch.stats.clone();
        // Under the lock, so that the task cannot end before its entry exists.
        let mut fetches = self.lock();
        let task = tokio::spawn(self.clone().fly(key, fetch)).abort_handle();
        let flight = Flight {
            credit,
            upload,
            stats,
            task,
        };
        let before = fetches.insert(key, flight);
        debug_assert!(before.is_none(), "a shard used a fetch id twice: {key:?}");
    }

    async fn fly(self: Arc<Self>, key: FlightKey, fetch: Fetch) {
        let outcome = fetch.run().await;
        let Some(flight) = self.lock().remove(&key) else {
            // Cancelled while it ended.
            return;
        };
        let last = match outcome {
            Ok(()) => {
                count(&flight.stats.ok);
                FetchEvent::End
            }
            Err(Stop::Failed(error)) => {
                tracing::debug!(shard = key.0, fetch = key.1.0, %error, "fetch failed");
                flight.stats.failed(error.kind);
                FetchEvent::Failed(error)
            }
            Err(Stop::Unwanted) => {
                count(&flight.stats.cancelled);
                return;
            }
        };
        // Without a receiver nobody waits for the end either.
        let _ = fetch.events.send(fetch.id, last).await;
    }

    fn grant(&self, key: FlightKey, bytes: u32) {
        // Credit may cross the fetch's end on its way.
        if let Some(flight) = self.lock().get(&key) {
            flight.credit.grant(bytes);
        }
    }

    /// What comes after the fetch's end is for nobody.
    fn upload(&self, key: FlightKey, act: impl FnOnce(&Upload)) {
        let flights = self.lock();
        let upload = flights.get(&key).and_then(|flight| flight.upload.clone());
        drop(flights);
        if let Some(upload) = upload {
            act(&upload);
        }
    }

    fn cancel(&self, key: FlightKey) {
        if let Some(flight) = self.lock().remove(&key) {
            count(&flight.stats.cancelled);
            flight.task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Flight>> {
        // No code panics half-way through a change under this lock.
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
