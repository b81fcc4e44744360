//! One fetch: a task that asks an origin and tells the shard, at the shard's pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cache_core::http::cache_status;
use cache_core::io::{FetchError, FetchErrorKind, FetchEvent, FetchId};
use cache_core::upstream::{RouteId, Tier};
use http::Response;
use tokio::time::{Instant, timeout, timeout_at};

use super::ask::Answer;
use super::events::{Credit, EventSender, ShardGone};
use super::failure::{Broken, Place};
use super::fields::{self, Outgoing, ResponseHead};
use super::fleet::{Fleet, Node};
use super::lease::{After, Body, Lease};
use super::stats::{OriginStats, count};
use super::upload::Upload;

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
    /// The request's body, if it comes in pieces.
    pub(super) upload: Option<Arc<Upload>>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) route: RouteId,
    /// The hash of what is asked for.
    pub(super) key: u64,
    /// A second node may be asked when the first is slow.
    pub(super) may_hedge: bool,
    /// Interim responses that may come before the final one.
    pub(super) max_interim: u32,
    /// Hints (103) go to the shard.
    pub(super) early_hints: bool,
    /// The origin.
    pub(super) place: Place,
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
        let late = |kind| self.place.total_timeout(kind, self.timeouts.total);
        let answer = timeout_at(deadline, self.ask())
            .await
            .map_err(|_| late(FetchErrorKind::ResponseTimeout))??;
        let outcome = answer.outcome();
        let Answer {
            response,
            lease,
            going,
            ..
        } = answer;
        let told = timeout_at(deadline, self.tell(response, lease, going.node())).await;
        match told {
            Ok(Ok(())) => going.end(outcome),
            Ok(Err(Stop::Failed(error))) => {
                going.failed(&error);
                return Err(error.into());
            }
            Ok(Err(Stop::Unwanted)) => return Err(Stop::Unwanted),
            // Its client may have been the slow one.
            Err(_) => return Err(late(FetchErrorKind::BodyTimeout).into()),
        }
        Ok(())
    }

    /// Passes the response on.
    async fn tell(&self, response: Response<Body>, lease: Lease, node: &Node) -> Result<(), Stop> {
        let place = &node.pool.dialer.place;
        let (head, body) = fields::response_head(response, self.outgoing.method(), place)?;
        self.count_answer(node, &head);
        let length = head.length;
        let event = FetchEvent::Head {
            status: head.status,
            headers: head.headers,
            length,
        };
        self.events.send(self.id, event).await?;
        let received = self.pass_body(body, length, node).await?;
        if self.upload.as_ref().is_some_and(|upload| !upload.is_sent()) {
            // Answered without the whole request: the connection is in the middle of it.
            drop(lease);
            return Ok(());
        }
        if lease.give_back().await == After::Surplus {
            // RFC 9112 section 6.3: the response is whole. What follows it belongs to none, and went
            // with its connection.
            count(&self.stats.surplus);
            tracing::debug!(received, "more came than was declared");
        }
        Ok(())
    }

    fn count_answer(&self, node: &Node, head: &ResponseHead) {
        let hit = cache_status::nearest_was_hit(&head.headers);
        if hit {
            count(&node.stats.hits);
        }
        if node.tier == Tier::Shield {
            count(&self.stats.shield_answers);
            self.stats
                .shield_hits
                .fetch_add(u64::from(hit), Ordering::Relaxed);
        }
    }

    /// Passes the body on and returns its length.
    async fn pass_body(
        &self,
        mut body: Body,
        length: Option<u64>,
        node: &Node,
    ) -> Result<u64, Stop> {
        let place = &node.pool.dialer.place;
        let mut received = 0;
        while let Some(data) = self.next_data(&mut body, received, place).await? {
            let data = data.map_err(|error| place.in_body(&error, length, received))?;
            received += data.len() as u64;
            if let Some(length) = length.filter(|&length| received > length) {
                return Err(place.wrong_length(length, received).into());
            }
            self.deliver(data, node).await?;
        }
        if let Some(length) = length.filter(|&length| received != length) {
            return Err(place.wrong_length(length, received).into());
        }
        Ok(received)
    }

    async fn next_data(
        &self,
        body: &mut Body,
        received: u64,
        place: &Place,
    ) -> Result<Option<Result<Bytes, Broken>>, FetchError> {
        timeout(self.timeouts.idle, body.data())
            .await
            .map_err(|_| place.body_timeout(self.timeouts.idle, received))
    }

    /// Delivers as credit comes in. Meanwhile nothing is read from the connection beyond what its
    /// buffers hold.
    async fn deliver(&self, mut data: Bytes, node: &Node) -> Result<(), ShardGone> {
        while !data.is_empty() {
            let taken = self.credit.take(data.len().min(MAX_CHUNK)).await;
            let chunk = data.split_to(taken);
            self.events.send(self.id, FetchEvent::Body(chunk)).await?;
            let add = |counter: &AtomicU64| counter.fetch_add(taken as u64, Ordering::Relaxed);
            add(&self.stats.bytes);
            add(&node.stats.bytes);
            if node.tier == Tier::Shield {
                add(&self.stats.shield_bytes);
            }
        }
        Ok(())
    }
}
