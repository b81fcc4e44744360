//! The upstream against origins on real loopback sockets. A test plays both sides: the shard by
//! [`Shard`], the origin by [`origin::Origin`] (byte by byte) or by hyper's server.

mod http1;
mod http2;
mod interim;
mod limits;
mod nodes;
mod origin;
mod timeouts;
mod tls;
mod uploads;

use std::time::Duration;

use bytes::Bytes;
use cache_core::io::{
    FetchCommand, FetchError, FetchErrorKind, FetchEvent, FetchId, FetchRequest, OriginId,
};
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::sync::mpsc;

use super::*;

/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any body here.
const NO_LIMIT: u32 = u32::MAX;

/// Plays a shard: commands out, events in.
struct Shard {
    upstream: Upstream,
    sender: EventSender,
    events: mpsc::Receiver<(FetchId, FetchEvent)>,
    next_id: u64,
}

/// A whole response.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    length: Option<u64>,
    body: Vec<u8>,
}

impl Shard {
    fn new(config: UpstreamConfig) -> Self {
        Self::with_room(config, 64)
    }

    fn with_room(config: UpstreamConfig, capacity: usize) -> Self {
        let (sender, events) = event_channel(capacity);
        Self {
            upstream: Upstream::new(config).expect("configuration"),
            sender,
            events,
            next_id: 0,
        }
    }

    fn get(&mut self, target: &str) -> FetchId {
        self.start(Method::GET, target, NO_LIMIT)
    }

    fn start(&mut self, method: Method, target: &str, window: u32) -> FetchId {
        self.start_with(
            method,
            target,
            window,
            cache_core::io::RequestBody::default(),
        )
    }

    fn start_with(
        &mut self,
        method: Method,
        target: &str,
        window: u32,
        body: cache_core::io::RequestBody,
    ) -> FetchId {
        let id = FetchId(self.next_id);
        self.next_id += 1;
        let request = FetchRequest {
            origin: OriginId(0),
            method,
            authority: Bytes::from_static(b"edge.test"),
            target: Bytes::copy_from_slice(target.as_bytes()),
            headers: HeaderMap::new(),
            compress: false,
            body,
            window,
        };
        self.command(FetchCommand::Start {
            id,
            request: Box::new(request),
        });
        id
    }

    fn credit(&self, id: FetchId, bytes: u32) {
        self.command(FetchCommand::Credit { id, bytes });
    }

    fn cancel(&self, id: FetchId) {
        self.command(FetchCommand::Cancel { id });
    }

    fn command(&self, command: FetchCommand) {
        self.upstream.command(0, command, &self.sender);
    }

    async fn next(&mut self) -> (FetchId, FetchEvent) {
        soon(self.events.recv()).await.expect("we hold a sender")
    }

    /// The next event, which must be a head.
    async fn head(&mut self) -> (StatusCode, Option<u64>) {
        match self.next().await.1 {
            FetchEvent::Head { status, length, .. } => (status, length),
            other => panic!("no head: {other:?}"),
        }
    }

    /// The next event, which must be a failure.
    async fn failure(&mut self) -> FetchError {
        match self.next().await.1 {
            FetchEvent::Failed(error) => error,
            other => panic!("no failure: {other:?}"),
        }
    }

    /// Reads one fetch, the only one in flight, to its end.
    async fn answer(&mut self) -> Result<Answer, FetchError> {
        loop {
            match self.next().await {
                (_, FetchEvent::Hints(_)) => {}
                (id, first) => return self.answer_from(id, first).await,
            }
        }
    }

    async fn answer_from(&mut self, id: FetchId, first: FetchEvent) -> Result<Answer, FetchError> {
        let FetchEvent::Head {
            status,
            headers,
            length,
        } = first
        else {
            return match first {
                FetchEvent::Failed(error) => Err(error),
                other => panic!("no head: {other:?}"),
            };
        };
        let mut body = Vec::new();
        loop {
            let (of, event) = self.next().await;
            assert_eq!(of, id);
            match event {
                FetchEvent::Body(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= 64 << 10);
                    body.extend_from_slice(&bytes);
                }
                FetchEvent::End => break,
                FetchEvent::Failed(error) => return Err(error),
                FetchEvent::Head { .. } => panic!("a second head"),
                FetchEvent::Hints(_) | FetchEvent::Room(_) => {}
            }
        }
        Ok(Answer {
            status,
            headers,
            length,
            body,
        })
    }

    /// Reads until this many fetches have ended well.
    async fn ends(&mut self, mut fetches: usize) {
        while fetches > 0 {
            match self.next().await.1 {
                FetchEvent::End => fetches -= 1,
                FetchEvent::Failed(error) => panic!("{error}"),
                FetchEvent::Head { .. }
                | FetchEvent::Hints(_)
                | FetchEvent::Body(_)
                | FetchEvent::Room(_) => (),
            }
        }
    }

    /// The failure of one fetch, the only one in flight, whatever came before it.
    async fn fails(&mut self) -> FetchError {
        self.answer().await.expect_err("a failure")
    }

    /// Reads `count` body bytes of the only fetch in flight, and no more.
    async fn body(&mut self, count: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < count {
            match self.next().await.1 {
                FetchEvent::Body(bytes) => body.extend_from_slice(&bytes),
                other => panic!("no body: {other:?}"),
            }
        }
        assert_eq!(body.len(), count);
        body
    }

    /// Gives every task of this thread the chance to do what it should not, and checks that no
    /// event came of it.
    async fn stays_silent(&mut self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(self.events.try_recv().is_err());
    }

    fn stats(&self) -> OriginSnapshot {
        self.upstream.stats().snapshot().remove(0)
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        soon(async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing happened")
}

/// One origin at `url`, patient in everything; whom it asks does not depend on how loaded the
/// machine is.
fn config(url: &str) -> UpstreamConfig {
    let url: Uri = url.parse().expect("a url");
    let mut policy = cache_core::upstream::Settings::default();
    policy.hedges.budget.percent = 0;
    UpstreamConfig {
        policy,
        origins: vec![OriginConfig::new("demo", url)],
        connect_timeout: PATIENCE,
        first_byte_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        total_timeout: PATIENCE,
        ..UpstreamConfig::default()
    }
}

#[tokio::test]
async fn an_unknown_origin_fails_clearly() {
    let mut shard = Shard::new(UpstreamConfig::default());
    shard.get("/");
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ProtocolError);
    assert!(error.detail.contains("number 0"), "{error}");
}

#[test]
fn a_bad_configuration_does_not_start() {
    let named = UpstreamConfig {
        node_name: "no token".to_owned(),
        ..UpstreamConfig::default()
    };
    assert!(matches!(
        Upstream::new(named),
        Err(UpstreamError::NodeName(_))
    ));
    let error = Upstream::new(config("ftp://o")).err().expect("refused");
    assert!(matches!(error, UpstreamError::Url { .. }), "{error}");
}
