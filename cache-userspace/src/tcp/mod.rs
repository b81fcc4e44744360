//! HTTP/2 and HTTP/1.1 over TCP, for clients without UDP: h2, hyper and rustls on each core, before the
//! same shard that answers HTTP/3.
//!
//! ```text
//!  listener -> cork -> TLS (ALPN) -> meter (bytes, frames) -> service (hyper) | http2 (h2) -> rt::door -> Shard
//!                                       '---- watch <- ticker: timeouts, drain ----'
//! ```
//!
//! A connection is a task of its core. What it must not do (be slow, flood, stay for ever) is decided
//! by [`watch::judge`] from what its [`watch::Watch`] has seen.

mod asking;
mod body;
mod connection;
mod frames;
mod heads;
mod http2;
mod incoming;
mod meter;
mod request;
mod service;
pub mod stats;
mod uploads;
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use tokio_rustls::TlsAcceptor;

use crate::rt::door::Door;
use crate::rt::tcp::{Accepting, Listener, pause, spawn};
use stats::TcpStats;
use watch::{Verdict, Watch};

/// Bounds of a core's TCP connections.
#[derive(Clone, Debug)]
pub struct TcpBounds {
    /// Open connections; past it a new one is closed at once.
    pub max_connections: usize,
    /// After so many the client is asked to open another connection.
    pub max_requests: u64,
    pub handshake_timeout: Duration,
    /// From a request's first byte to the end of its head (HTTP/1.1).
    pub header_timeout: Duration,
    /// For a client that sends nothing of its request's body.
    pub body_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// For a client that takes nothing of what waits for it.
    pub send_timeout: Duration,
    /// Frames that do nothing (PING, SETTINGS, RST_STREAM, empty DATA ...) in a burst; a tenth of it
    /// comes back each second.
    pub max_idle_frames: u32,
}

/// Bounds that TCP has in common with HTTP/3.
#[derive(Clone, Debug)]
pub struct SharedBounds {
    pub max_streams: u32,
    pub max_field_section: usize,
    pub max_request_body: u64,
    pub max_request_bodies: usize,
    pub upload_window: u32,
}

/// What one core listens on, and how.
pub struct TcpPlan {
    pub secure: Vec<Listener>,
    pub clear: Vec<Listener>,
    pub tls: Arc<rustls::ServerConfig>,
    pub bounds: TcpBounds,
    pub shared: SharedBounds,
    /// Where HTTP/3 is to be had.
    pub alt_svc: Option<HeaderValue>,
    pub stats: Arc<TcpStats>,
}

/// How often connections are judged: the precision of every timeout.
const TICK: Duration = Duration::from_millis(250);

/// What all connections of a core share.
pub struct Core {
    door: Door,
    tls: TlsAcceptor,
    bounds: TcpBounds,
    shared: SharedBounds,
    alt_svc: Option<HeaderValue>,
    stats: Arc<TcpStats>,
    watches: RefCell<Vec<Rc<Watch>>>,
    /// The time, one tick old at most.
    now: Cell<Instant>,
    /// The same as Date has it, to the second.
    date: RefCell<HeaderValue>,
    /// Bodies of requests that are being read.
    bodies: Cell<usize>,
}

impl TcpPlan {
    /// Listens from now on. Must be called inside the core's executor.
    pub fn start(self, door: Door) {
        let core = Rc::new(Core {
            door,
            tls: TlsAcceptor::from(self.tls),
            bounds: self.bounds,
            shared: self.shared,
            alt_svc: self.alt_svc,
            stats: self.stats,
            watches: RefCell::default(),
            now: Cell::new(Instant::now()),
            date: RefCell::new(date()),
            bodies: Cell::new(0),
        });
        for listener in self.secure {
            spawn(accept(Rc::clone(&core), listener.open(), true));
        }
        for listener in self.clear {
            spawn(accept(Rc::clone(&core), listener.open(), false));
        }
        spawn(tick(core));
    }
}

/// After an error that would only repeat itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept(core: Rc<Core>, listener: Accepting, secure: bool) {
    loop {
        match listener.accept().await {
            Ok(stream) => core.admit(stream, secure),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TCP connection");
                pause(ACCEPT_PAUSE).await;
            }
        }
        // The kernel had given us this one already; the next is the other node's.
        if core.door.has_left() {
            return;
        }
    }
}

/// Judges every connection now and then.
async fn tick(core: Rc<Core>) {
    loop {
        pause(TICK).await;
        let now = Instant::now();
        core.now.set(now);
        core.date.replace(date());
        let draining = core.door.is_draining();
        let watches = core.watches.borrow();
        for watch in watches.iter() {
            watch.refill(core.bounds.max_idle_frames, TICK);
            let seen = watch.seen();
            let verdict = match watch::judge(&seen, now, &core.bounds) {
                // Its first request is on its way.
                Verdict::Keep if draining && !seen.handshaking => Verdict::Drain,
                verdict => verdict,
            };
            core.stats.count(&verdict);
            watch.sentence(verdict);
        }
    }
}

/// The time for Date (RFC 9110 section 6.6.1).
fn date() -> HeaderValue {
    let now = httpdate::fmt_http_date(SystemTime::now());
    // It is text.
    HeaderValue::try_from(now).unwrap_or(HeaderValue::from_static(""))
}

impl Core {
    fn admit(self: &Rc<Self>, stream: crate::rt::tcp::Stream, secure: bool) {
        let open = self.watches.borrow().len();
        let is_ending = self.door.is_draining() && !self.door.has_left();
        if open >= self.bounds.max_connections || is_ending {
            self.stats.connections_refused.inc();
            return;
        }
        self.stats.connections_accepted.inc();
        let watch = Rc::new(Watch::new(Instant::now()));
        self.watches.borrow_mut().push(Rc::clone(&watch));
        self.count_connections();
        let registered = Registered {
            core: Rc::clone(self),
            watch,
        };
        spawn(connection::serve(registered, stream, secure));
    }

    fn count_connections(&self) {
        let open = self.watches.borrow().len();
        self.stats.connections.set(open as u64);
        self.door.set_connections(open);
    }
}

/// A connection's place among those that are watched.
pub struct Registered {
    pub core: Rc<Core>,
    pub watch: Rc<Watch>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.core
            .watches
            .borrow_mut()
            .retain(|watch| !Rc::ptr_eq(watch, &self.watch));
        self.core.count_connections();
    }
}
