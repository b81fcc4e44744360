//! The closed loop over HTTP/2 or HTTP/1.1 and TLS 1.3: hyper on one thread. What the client itself
//! costs is not what is measured; it only has to keep the server busy.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::plot::Curve;
use super::report::{distribution, record};
use super::{Amount, Options, Report, tls};
use crate::cpu;

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// Longest latency kept apart, nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// Answers of the whole run.
struct Counts {
    measuring: Cell<bool>,
    over: Cell<bool>,
    /// Requests that may still begin, where their number is given.
    left: Cell<u64>,
    next_path: Cell<usize>,
    requests: Cell<u64>,
    hits: Cell<u64>,
    bytes: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    latency: RefCell<Histogram<u64>>,
}

/// Runs the load and reports the measured part of it.
///
/// # Errors
/// No connection can be made, or an option is one that HTTP/3 alone has.
pub fn run(options: &Options, version: Version) -> Result<Report> {
    options.check()?;
    ensure!(
        options.rate.is_none() && options.new_connections == 0.0 && !options.verify,
        "--rate, --new-connections and --verify are for HTTP/3"
    );
    if version == Version::Http1 {
        ensure!(options.streams == 1, "HTTP/1.1 has one request at a time");
    }
    if let Some(core) = options.core {
        cpu::pin(core)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    LocalSet::new().block_on(&runtime, measure(options, version))
}

async fn measure(options: &Options, version: Version) -> Result<Report> {
    let counts = Rc::new(Counts::new(options.amount)?);
    let mut workers = Vec::new();
    for _ in 0..options.connections {
        let sender = connect(options, version).await?;
        for _ in 0..options.streams {
            let client = Client {
                sender: sender.share()?,
                authority: options.name.clone(),
                paths: options.paths.clone(),
                counts: Rc::clone(&counts),
            };
            workers.push(spawn_local(client.run()));
            if version == Version::Http1 {
                break;
            }
        }
    }
    tokio::time::sleep(options.warmup).await;
    let own = [std::process::id() as i32];
    let (busy, own_busy) = (cpu::time_of(&options.watch)?, cpu::time_of(&own)?);
    let began = Instant::now();
    counts.measuring.set(true);
    if let Amount::Time(time) = options.amount {
        tokio::time::sleep(time).await;
    } else {
        for worker in &mut workers {
            worker.await.context("a worker failed")?;
        }
    }
    counts.measuring.set(false);
    let seconds = began.elapsed().as_secs_f64();
    let busy = cpu::time_of(&options.watch)?.saturating_sub(busy);
    let own_busy = cpu::time_of(&own)?.saturating_sub(own_busy);
    counts.over.set(true);
    let report = counts.report(seconds, (!options.watch.is_empty()).then_some(busy));
    Ok(Report {
        client_cpu_us_per_request: own_busy.as_secs_f64() * 1e6 / report.requests.max(1) as f64,
        client_busy: own_busy.as_secs_f64() / seconds,
        ..report
    })
}

impl Counts {
    fn new(amount: Amount) -> Result<Self> {
        Ok(Self {
            measuring: Cell::new(false),
            over: Cell::new(false),
            left: Cell::new(match amount {
                Amount::Requests(count) => count,
                Amount::Time(_) => u64::MAX,
            }),
            next_path: Cell::new(0),
            requests: Cell::new(0),
            hits: Cell::new(0),
            bytes: Cell::new(0),
            errors: RefCell::default(),
            latency: RefCell::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
        })
    }

    fn failed(&self, what: String) {
        *self.errors.borrow_mut().entry(what).or_default() += 1;
    }

    fn report(&self, seconds: f64, busy: Option<Duration>) -> Report {
        let requests = self.requests.get();
        let errors = self.errors.borrow().clone();
        Report {
            requests,
            failed: errors.values().sum(),
            errors,
            seconds,
            rps: requests as f64 / seconds,
            bytes: self.bytes.get(),
            latency_us: distribution(&self.latency.borrow()),
            curves: vec![Curve::of("latency", &self.latency.borrow())],
            early_accepted: 0,
            early_rejected: 0,
            first_byte_us: Default::default(),
            handshake_us: Default::default(),
            hits: self.hits.get(),
            forwarded: requests - self.hits.get(),
            server_cpu_us_per_request: busy
                .map(|busy| busy.as_secs_f64() * 1e6 / requests.max(1) as f64),
            client_cpu_us_per_request: 0.0,
            client_busy: 0.0,
        }
    }
}

type Body = Empty<Bytes>;

enum Sender {
    Http1(RefCell<Option<http1::SendRequest<Body>>>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    /// The sender of one more worker.
    fn share(&self) -> Result<Self> {
        match self {
            Self::Http1(only) => match only.take() {
                Some(sender) => Ok(Self::Http1(RefCell::new(Some(sender)))),
                None => bail!("an HTTP/1.1 connection has one worker"),
            },
            Self::Http2(sender) => Ok(Self::Http2(sender.clone())),
        }
    }
}

async fn connect(options: &Options, version: Version) -> Result<Sender> {
    let stream = TcpStream::connect(options.remote)
        .await
        .with_context(|| format!("cannot connect to {} (TCP)", options.remote))?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    let mut config = tls::any_server()?;
    config.alpn_protocols = vec![match version {
        Version::Http1 => b"http/1.1".to_vec(),
        Version::Http2 => b"h2".to_vec(),
    }];
    let name = ServerName::try_from(options.name.clone()).context("no server name")?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream: TlsStream<TcpStream> = connector.connect(name, stream).await.context("TLS")?;
    let io = TokioIo::new(stream);
    Ok(match version {
        Version::Http1 => {
            let (sender, connection) = http1::handshake(io).await.context("HTTP/1.1")?;
            spawn_local(async move {
                let _its_requests_fail_with_it = connection.await;
            });
            Sender::Http1(RefCell::new(Some(sender)))
        }
        Version::Http2 => {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (sender, connection) = http2::handshake(executor, io).await.context("HTTP/2")?;
            spawn_local(async move {
                let _its_requests_fail_with_it = connection.await;
            });
            Sender::Http2(sender)
        }
    })
}

/// One request after the other.
struct Client {
    sender: Sender,
    authority: String,
    paths: Vec<String>,
    counts: Rc<Counts>,
}

impl Client {
    async fn run(mut self) {
        while !self.counts.over.get() && self.counts.left.get() > 0 {
            self.counts.left.set(self.counts.left.get() - 1);
            let began = Instant::now();
            match self.ask().await {
                Ok((hit, bytes)) => self.count(began, hit, bytes),
                Err(error) => {
                    return self.counts.failed(format!("{error:#}"));
                }
            }
        }
    }

    fn count(&self, began: Instant, hit: bool, bytes: u64) {
        let counts = &self.counts;
        if counts.measuring.get() {
            counts.requests.set(counts.requests.get() + 1);
            counts.hits.set(counts.hits.get() + u64::from(hit));
            counts.bytes.set(counts.bytes.get() + bytes);
            record(&mut counts.latency.borrow_mut(), began.elapsed());
        }
    }

    /// Whether it was a hit, and the length of its body.
    async fn ask(&mut self) -> Result<(bool, u64)> {
        let number = self.counts.next_path.get();
        self.counts.next_path.set((number + 1) % self.paths.len());
        let path = &self.paths[number];
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = Request::get(path).header("host", &self.authority);
                let Some(sender) = sender.get_mut() else {
                    bail!("no connection")
                };
                sender.ready().await.context("HTTP/1.1")?;
                sender.send_request(request.body(Empty::new())?).await?
            }
            Sender::Http2(sender) => {
                let request = Request::get(format!("https://{}{path}", self.authority));
                sender.send_request(request.body(Empty::new())?).await?
            }
        };
        read(response).await
    }
}

async fn read(response: http::Response<Incoming>) -> Result<(bool, u64)> {
    ensure!(
        response.status() == StatusCode::OK,
        "status {}",
        response.status()
    );
    let verdict = response.headers().get("cache-status");
    let hit = verdict.is_some_and(|value| value.as_bytes().windows(5).any(|part| part == b"; hit"));
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok((hit, bytes))
}
