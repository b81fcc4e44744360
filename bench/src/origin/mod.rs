//! The demo origin: an HTTP/1.1 server with content whose every byte is known beforehand.
//!
//! | path | answer |
//! |---|---|
//! | `/emotes/N.png` | a picture of 1 to 8 KB, `max-age=86400, immutable` |
//! | `/live/status.json` | changes each second, `max-age=1` |
//! | `/media/20mb.bin` | 20 MiB, `max-age=3600` |
//! | `/size/BYTES` | that many bytes, `max-age=3600`; `?v=` gives other bytes |
//! | `/chunked/BYTES` | the same without a declared length |
//! | `/drip/BYTES/MS` | the same, spread over that time in 20 parts |
//! | `/slow/MS/NAME` | 4 KiB after that time, `max-age=3600` |
//! | `/status/CODE` | that status |
//! | `/private`, `/no-store` | 4 KiB that a shared cache must not keep |
//! | `/stall`, `/truncate` | half of a promised body, then silence / a closed connection |
//! | `/film/BYTES` | see [`film`]: large, in parts, in editions; `/film/BYTES/...` is another |
//! | `/echo` | the request's body as it comes, `/take`: its length, `/early`: 403 before any of it is read |
//! | `/headers` | the request's fields as JSON, `no-store` |
//! | `/index` | a page of pictures |
//! | `/__counts` | requests per target (path and query as asked) as a JSON object |
//! | `POST /__reset` | forgets the counts |
//! | `POST /__edition` | every film is another one from now on |
//!
//! Any path takes `?delay=MS`, `?fault=KIND` (see [`Fault`]) and `?cc=VALUE`, which replaces the
//! Cache-Control field (percent-encoded). All other content is in [`body()`].

pub mod body;
pub mod emotes;
pub mod film;
mod respond;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use body::body;
pub use respond::FILM_BYTES;

/// Connections served at the same time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Targets counted one by one; requests for further ones are counted under [`OTHER_TARGETS`].
const MAX_COUNTED: usize = 200_000;
const OTHER_TARGETS: &str = "other";

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// 500.
    Error,
    /// The connection closes without an answer.
    Close,
    /// Half of the body, then the connection closes.
    Truncate,
    /// Half of the body, then nothing more.
    Stall,
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub emotes: u32,
    pub dir: PathBuf,
    /// Before every answer.
    pub delay: Duration,
    /// A fault and the share of answers that it spoils, in percent.
    pub fault: Option<(Fault, u8)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            emotes: 10_000,
            dir: crate::place::target_dir().join("emotes"),
            delay: Duration::ZERO,
            fault: None,
        }
    }
}

/// Parses `KIND:PERCENT`.
///
/// # Errors
/// Names what is wrong with the argument.
pub fn parse_fault(text: &str) -> Result<(Fault, u8)> {
    let (kind, percent) = text.split_once(':').with_context(|| {
        format!("fault `{text}` lacks a share: write KIND:PERCENT, such as error:5")
    })?;
    let percent = percent.parse().ok().filter(|p| *p <= 100);
    let percent =
        percent.with_context(|| format!("the share in fault `{text}` is not 0 to 100"))?;
    Ok((fault_by_name(kind)?, percent))
}

fn fault_by_name(kind: &str) -> Result<Fault> {
    match <Fault as clap::ValueEnum>::from_str(kind, false) {
        Ok(fault) => Ok(fault),
        Err(_) => bail!("unknown fault `{kind}`: one of error, close, truncate, stall"),
    }
}

/// A bound origin that does not answer yet.
pub struct Origin {
    listener: TcpListener,
    state: Arc<State>,
}

/// What all connections share.
struct State {
    options: Options,
    emotes: Vec<Bytes>,
    counts: Mutex<BTreeMap<String, u64>>,
    requests: AtomicU64,
    films: film::Films,
}

impl Origin {
    /// Draws what is missing and binds.
    ///
    /// # Errors
    /// An address in use or a directory that cannot be written.
    pub async fn bind(listen: SocketAddr, options: Options) -> Result<Self> {
        let emotes = store::load(&options.dir, options.emotes)?;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen}: is another origin running there?")
        })?;
        let state = State {
            options,
            emotes,
            counts: Mutex::default(),
            requests: AtomicU64::new(0),
            films: film::Films::default(),
        };
        Ok(Self {
            listener,
            state: Arc::new(state),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the socket.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("a bound listener has no address")
    }

    /// Answers until dropped.
    ///
    /// # Errors
    /// Never by a client's doing; only where the listener itself breaks.
    pub async fn serve(self) -> Result<()> {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = room
                .clone()
                .acquire_owned()
                .await
                .context("the semaphore is never closed")?;
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the client went away: neither ends the origin.
                    eprintln!("origin: cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            // A socket that refuses the option still works.
            let _ = stream.set_nodelay(true);
            let state = self.state.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| respond::respond(&state, request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A fault closes by an error, and clients leave when they like.
                let _ = connection.await;
                drop(place);
            });
        }
    }
}

impl State {
    fn count(&self, target: &str) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut counts = self.counts.lock().expect("no panic while counting");
        let known = counts.contains_key(target) || counts.len() < MAX_COUNTED;
        let key = if known { target } else { OTHER_TARGETS };
        *counts.entry(key.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_parse_or_say_why_not() {
        assert_eq!(parse_fault("error:5").expect("valid"), (Fault::Error, 5));
        for (text, part) in [
            ("error", "KIND:PERCENT"),
            ("melt:5", "unknown fault"),
            ("error:101", "0 to 100"),
        ] {
            let error = parse_fault(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
