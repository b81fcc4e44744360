//! One fetch: a task that asks an origin and tells the shard, at the shard's pace.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cache_core::io::{FetchError, FetchErrorKind, FetchEvent, FetchId};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::events::{Credit, EventSender, ShardGone};
use super::failure::{self, Place};
use super::fields::{self, Outgoing};
use super::lease::{After, Lease};
use super::pool::{Freshness, Pool};
use super::stats::{OriginStats, count};

/// Body bytes of one event, as [`FetchEvent::Body`] promises.
const MAX_CHUNK: usize = 64 << 10;

/// The bounds in time of every fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) first_byte: Duration,
    pub(super) idle: Duration,
    pub(super) total: Duration,
}

/// A fetch that was accepted.
pub(super) struct Fetch {
    pub(super) id: FetchId,
    pub(super) outgoing: Outgoing,
    pub(super) pool: Arc<Pool>,
    pub(super) stats: Arc<OriginStats>,
    pub(super) timeouts: Timeouts,
    pub(super) credit: Arc<Credit>,
    pub(super) events: EventSender,
}

/// Why a fetch stopped short of its end.
pub(super) enum Stop {
    Failed(FetchError),
    /// The shard went away.
    Unwanted,
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl From<ShardGone> for Stop {
    fn from(_: ShardGone) -> Self {
        Self::Unwanted
    }
}

impl Fetch {
    /// Sends Head and Body events. What ends the fetch is returned, not sent, so that its slot is
    /// free before the shard knows.
    pub(super) async fn run(&self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.timeouts.total;
        let late = |kind| self.place().total_timeout(kind, self.timeouts.total);
        let (response, lease) = timeout_at(deadline, self.ask())
            .await
            .map_err(|_| late(FetchErrorKind::ResponseTimeout))??;
        timeout_at(deadline, self.tell(response, lease))
            .await
            .map_err(|_| late(FetchErrorKind::BodyTimeout))?
    }

    /// Gets the response head, from a second connection where a pooled one turned out closed.
    async fn ask(&self) -> Result<(Response<Incoming>, Lease), FetchError> {
        let mut lease = self.pool.checkout(Freshness::Any).await?;
        let error = match self.send(&mut lease).await? {
            Ok(response) => return Ok((response, lease)),
            Err(error) => error,
        };
        let again = self.may_retry(&lease, &error);
        if !failure::stream_only(&error) {
            lease.discard();
        }
        if !again {
            return Err(self.place().before_head(&error));
        }
        // Its place may be the one that the second connection needs.
        drop(lease);
        tracing::debug!(%error, "a pooled connection did not take the request, asking again");
        count(&self.stats.retried);
        let mut lease = self.pool.checkout(Freshness::New).await?;
        match self.send(&mut lease).await? {
            Ok(response) => Ok((response, lease)),
            Err(error) => Err(self.place().before_head(&error)),
        }
    }

    async fn send(
        &self,
        lease: &mut Lease,
    ) -> Result<hyper::Result<Response<Incoming>>, FetchError> {
        let request = self.outgoing.request(lease.form());
        timeout(self.timeouts.first_byte, lease.send(request))
            .await
            .map_err(|_| self.place().head_timeout(self.timeouts.first_byte))
    }

    fn may_retry(&self, lease: &Lease, error: &hyper::Error) -> bool {
        lease.reused && self.outgoing.method().is_safe() && failure::may_retry(error)
    }

    /// Passes the response on.
    async fn tell(&self, response: Response<Incoming>, lease: Lease) -> Result<(), Stop> {
        let (head, body) = fields::response_head(response, self.outgoing.method(), self.place())?;
        let length = head.length;
        let event = FetchEvent::Head {
            status: head.status,
            headers: head.headers,
            length,
        };
        self.events.send(self.id, event).await?;
        let received = self.pass_body(body, length).await?;
        match (lease.give_back().await, length) {
            (After::Surplus, Some(declared)) => {
                let received = format_args!("more than {received}");
                Err(self.place().wrong_length(declared, received).into())
            }
            _ => Ok(()),
        }
    }

    /// Passes the body on and returns its length.
    async fn pass_body(&self, mut body: Incoming, length: Option<u64>) -> Result<u64, Stop> {
        let mut received = 0;
        while let Some(frame) = self.next_frame(&mut body, received).await? {
            let frame = frame.map_err(|error| self.place().in_body(&error, length, received))?;
            // Trailers belong to this hop's framing; nobody behind us asked for them.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len() as u64;
            if let Some(length) = length.filter(|&length| received > length) {
                return Err(self.place().wrong_length(length, received).into());
            }
            self.deliver(data).await?;
        }
        if let Some(length) = length.filter(|&length| received != length) {
            return Err(self.place().wrong_length(length, received).into());
        }
        Ok(received)
    }

    async fn next_frame(
        &self,
        body: &mut Incoming,
        received: u64,
    ) -> Result<Option<hyper::Result<hyper::body::Frame<Bytes>>>, FetchError> {
        timeout(self.timeouts.idle, body.frame())
            .await
            .map_err(|_| self.place().body_timeout(self.timeouts.idle, received))
    }

    /// Delivers as credit comes in. Meanwhile nothing is read from the connection beyond what its
    /// buffers hold.
    async fn deliver(&self, mut data: Bytes) -> Result<(), ShardGone> {
        while !data.is_empty() {
            let taken = self.credit.take(data.len().min(MAX_CHUNK)).await;
            let chunk = data.split_to(taken);
            self.events.send(self.id, FetchEvent::Body(chunk)).await?;
            self.stats.bytes.fetch_add(taken as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn place(&self) -> &Place {
        &self.pool.dialer.place
    }
}
