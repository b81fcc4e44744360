//! One TCP connection: TLS, then HTTP/2 or HTTP/1.1 as ALPN says, until it ends or is ended.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use cache_core::stats::Stat;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Registered;
use super::heads::Heads;
use super::meter::{Lens, Meter};
use super::service::Service;
use super::watch::Order;
use crate::rt::tcp::{Stream, spawn};

/// RFC 9113 section 10.5: streams that the client reset before they were looked at, and streams that
/// we had to reset, that HTTP/2 remembers of one connection before it gives it up.
const MAX_RESET_PENDING: usize = 20;
const MAX_RESET_BY_US: usize = 64;

/// Windows for what clients send, which is little.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of answers that HTTP/2 holds for one stream ahead of the socket.
const SEND_BUFFER: usize = 64 << 10;

/// The least that hyper takes as the bound of a head.
const MIN_HEAD: usize = 8 << 10;

/// Serves a connection to its end.
pub async fn serve(place: Registered, stream: Stream, secure: bool) {
    let place = Rc::new(place);
    if let Err(error) = stream.send_at_once() {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    if !secure {
        return http1(stream, place, false).await;
    }
    let handshake = place.core.tls.accept(stream);
    let tls = match until_closed(&place, handshake).await {
        Some(Ok(tls)) => tls,
        Some(Err(error)) => {
            place.core.stats.handshakes_failed.inc();
            tracing::debug!(%error, "TLS handshake");
            return;
        }
        None => return,
    };
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(tls, place).await,
        _ => http1(tls, place, true).await,
    }
}

async fn http1<S>(stream: S, place: Rc<Registered>, secure: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = Gauge::raise(&place, |place| &place.core.stats.h1_connections);
    let core = &place.core;
    let heads = Rc::new(RefCell::new(Heads::default()));
    place
        .watch
        .open(core.now.get(), core.bounds.max_idle_frames);
    let io = Meter::new(stream, Rc::clone(&place), Lens::Http1(Rc::clone(&heads)));
    let service = Service::new(Rc::clone(&place), secure, Some(heads));
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(core.shared.max_field_section.max(MIN_HEAD))
        .serve_connection(TokioIo::new(io), service);
    drive(&place, connection, |connection| {
        connection.graceful_shutdown()
    })
    .await;
}

async fn http2<S>(stream: S, place: Rc<Registered>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = Gauge::raise(&place, |place| &place.core.stats.h2_connections);
    let core = &place.core;
    place
        .watch
        .open(core.now.get(), core.bounds.max_idle_frames);
    let io = Meter::new(stream, Rc::clone(&place), Lens::Http2(Default::default()));
    let service = Service::new(Rc::clone(&place), true, None);
    let max_section = u32::try_from(core.shared.max_field_section).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(OnThisCore)
        .max_concurrent_streams(core.shared.max_streams)
        .max_header_list_size(max_section)
        .max_pending_accept_reset_streams(MAX_RESET_PENDING)
        .max_local_error_reset_streams(MAX_RESET_BY_US)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    drive(&place, connection, |connection| {
        connection.graceful_shutdown()
    })
    .await;
}

/// Runs a connection as long as its watch lets it.
async fn drive<C>(place: &Registered, connection: C, drain: impl Fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let ended = poll_fn(|cx| {
        while let Poll::Ready(order) = poll_order(place, cx) {
            match order {
                Order::Drain => drain(connection.as_mut()),
                Order::Close => return Poll::Ready(Ok(())),
            }
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        if error.is_parse() || is_http2(&error) {
            place.core.stats.protocol_errors.inc();
        }
        tracing::debug!(%error, "TCP connection");
    }
}

/// `None` when it was ended first.
async fn until_closed<T>(place: &Registered, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // Nothing was begun that could be finished.
        if poll_order(place, cx).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

fn poll_order(place: &Registered, cx: &mut Context<'_>) -> Poll<Order> {
    place.watch.poll_order(cx, place.core.now.get())
}

/// The client broke HTTP/2, in a way that ends the connection.
fn is_http2(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| !error.is_io())
}

/// Counts a connection while it lives.
struct Gauge {
    place: Rc<Registered>,
    which: fn(&Registered) -> &Stat,
}

impl Gauge {
    fn raise(place: &Rc<Registered>, which: fn(&Registered) -> &Stat) -> Self {
        which(place).set(which(place).get() + 1);
        Self {
            place: Rc::clone(place),
            which,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        let gauge = (self.which)(&self.place);
        gauge.set(gauge.get() - 1);
    }
}

/// Where hyper's tasks run.
#[derive(Clone, Copy)]
struct OnThisCore;

impl<F> hyper::rt::Executor<F> for OnThisCore
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        spawn(task);
    }
}
