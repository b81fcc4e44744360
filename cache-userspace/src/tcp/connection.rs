//! One TCP connection: TLS, then HTTP/2 or HTTP/1.1 as ALPN says, until it ends or is ended.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use cache_core::stats::Stat;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::heads::Heads;
use super::meter::{Lens, Meter};
use super::service::Service;
use super::watch::Order;
use super::{Registered, http2};
use crate::rt::cork::{Cork, cork};
use crate::rt::tcp::Stream;

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
    let (stream, cork) = cork(stream);
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
        Some(b"h2") => http2(tls, cork, place).await,
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
    let service = Service::new(Rc::clone(&place), secure, heads);
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(core.shared.max_field_section.max(MIN_HEAD))
        .serve_connection(TokioIo::new(io), service);
    let drain = |connection: Pin<&mut _>| {
        // A request may be on its way to an idle connection of a node that drains: its answer is the last one.
        if place.watch.seen().active > 0 || !core.door.is_draining() {
            http1::Connection::graceful_shutdown(connection);
        }
    };
    drive(&place, connection, drain, hyper::Error::is_parse).await;
}

async fn http2<S>(stream: S, cork: Cork, place: Rc<Registered>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = Gauge::raise(&place, |place| &place.core.stats.h2_connections);
    let core = &place.core;
    place
        .watch
        .open(core.now.get(), core.bounds.max_idle_frames);
    let io = Meter::new(stream, Rc::clone(&place), Lens::Http2(Default::default()));
    let connection = http2::Connection::new(io, cork, Rc::clone(&place));
    let broken = |error: &h2::Error| !error.is_io();
    drive(
        &place,
        connection,
        |connection| connection.get_mut().drain(),
        broken,
    )
    .await;
}

/// Runs a connection as long as its watch lets it. `is_broken`: the client is at fault.
async fn drive<C, E>(
    place: &Registered,
    connection: C,
    drain: impl Fn(Pin<&mut C>),
    is_broken: impl Fn(&E) -> bool,
) where
    C: Future<Output = Result<(), E>>,
    E: std::error::Error,
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
        if is_broken(&error) {
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
