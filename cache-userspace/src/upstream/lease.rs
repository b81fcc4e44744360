//! One fetch's hold on a connection of the [`Pool`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use tokio::time::timeout;

use super::failure::Broken;
use super::fields::Form;
use super::http1::{self, Http1};
use super::http2::{Http2, Received};
use super::interim::Interim;
use super::pool::Pool;
use super::stats::count;
use super::upload::Sending;

/// How long a connection may take to become ready again after a whole response.
const SETTLE: Duration = Duration::from_secs(1);

/// A connection, or a stream of one, for one fetch. Dropped before the response was read to its end,
/// an HTTP/1.1 connection closes and an HTTP/2 stream is reset.
pub(super) struct Lease {
    pub(super) pool: Arc<Pool>,
    /// The connection's number in its pool.
    pub(super) id: u64,
    /// Whether the connection had carried a request before.
    pub(super) reused: bool,
    pub(super) requests: Requests,
}

/// The sending half of the leased connection.
pub(super) enum Requests {
    Http1 {
        sender: Http1,
        surplus: Arc<AtomicBool>,
    },
    Http2 {
        sender: Http2,
        _stream: Stream,
    },
}

/// The body of a response, of either version.
pub(super) enum Body {
    Http1(Incoming),
    Http2(Received),
}

impl Body {
    /// The next bytes. Trailers are left out: they belong to this hop's framing, and nobody behind us
    /// asked for them (RFC 9110 section 6.5.1).
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, Broken>> {
        match self {
            Self::Http1(body) => loop {
                match body.frame().await?.map(Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_trailers)) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            },
            Self::Http2(body) => Some(body.data().await?.map_err(Broken::from)),
        }
    }
}

/// One of the streams that an HTTP/2 connection allows.
pub(super) struct Stream {
    pool: Arc<Pool>,
    id: u64,
}

impl Stream {
    pub(super) fn new(pool: &Arc<Pool>, id: u64) -> Self {
        Self {
            pool: pool.clone(),
            id,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pool.release_stream(self.id);
    }
}

/// What a connection said after a whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// Bytes that belong to no response.
    Surplus,
}

impl Lease {
    pub(super) fn form(&self) -> Form {
        match self.requests {
            Requests::Http1 { .. } => Form::Origin,
            Requests::Http2 { .. } => Form::Pseudo,
        }
    }

    /// Sends a request in the lease's form and waits for the final response head.
    pub(super) async fn send(
        &mut self,
        request: Request<Sending>,
        interim: &Arc<Interim>,
    ) -> Result<Response<Body>, Broken> {
        if self.reused {
            count(&self.pool.stats.reused);
        }
        match &mut self.requests {
            Requests::Http1 { sender, .. } => {
                let response = http1::send(sender, request, interim).await?;
                Ok(response.map(Body::Http1))
            }
            Requests::Http2 { sender, .. } => {
                let response = sender.send(request, interim).await?;
                Ok(response.map(Body::Http2))
            }
        }
    }

    /// Lets nobody else use this connection any more.
    pub(super) fn discard(&self) {
        self.pool.forget(self.id);
    }

    /// Keeps the connection for the next request. For after the last byte of a response.
    pub(super) async fn give_back(self) -> After {
        let Requests::Http1 {
            mut sender,
            surplus,
        } = self.requests
        else {
            return After::Nothing;
        };
        let ready = timeout(SETTLE, sender.ready()).await;
        if surplus.load(Ordering::Acquire) {
            return After::Surplus;
        }
        if matches!(ready, Ok(Ok(()))) {
            self.pool.keep(self.id, sender, surplus);
        }
        After::Nothing
    }
}
