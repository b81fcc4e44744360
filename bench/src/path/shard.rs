//! A shard of its own, driven as the loop of a core drives it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use cache_core::config::{Caching, ClientFields, Limits, OriginRoute, Role, ShardConfig};
use cache_core::conn::quic::{CidKeys, QuicSetup};
use cache_core::io::{
    ClientRequest, Datagram, FetchCommand, FetchEvent, Input, Now, Outbox, RequestBody,
    RequestEvent, RequestId,
};
use cache_core::purge::Purges;
use cache_core::stats::ShardStats;
use cache_core::store::{self, StoreConfig};
use cache_ebpf::cid::CidKey;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hugepages::PagePolicy;

use super::Arrived;
use crate::identity::Identity;

/// Datagrams taken before a turn, and transmits of a turn, as in the loop of a core.
const RECEIVE_BUDGET: usize = 128;
const MAX_TRANSMITS: usize = 64;
const UNIX_MS: u64 = 1_800_000_000_000;

pub(super) struct Shard {
    shard: cache_core::shard::Shard,
    outbox: Outbox,
    began: Instant,
    next_request: u64,
    pub(super) taken: usize,
    pub(super) sent: usize,
    pub(super) sends: usize,
    /// Bytes of the turn that sent most, without its last send.
    pub(super) largest_turn: usize,
}

/// One send of the shard.
pub(super) struct Served {
    pub(super) segment: Option<usize>,
    pub(super) data: Vec<u8>,
}

impl Shard {
    pub(super) fn new() -> Result<Self> {
        let purges = Arc::new(Purges::new(1, 1 << 10));
        let config = StoreConfig {
            ram_bytes: 256 << 20,
            pages: PagePolicy::Plain,
            ..StoreConfig::default()
        };
        let (mut stores, _) = store::build(&config, purges).context("no memory")?;
        let store = stores.pop().context("a store for each shard")?;
        let config = ShardConfig {
            shard: 0,
            shards: 1,
            node_name: "popcache".to_owned(),
            node_id: "0".to_owned(),
            role: Role::Edge,
            origins: vec![OriginRoute {
                name: "demo".to_owned(),
                hosts: vec!["edge.test".to_owned()],
                client_fields: ClientFields::default(),
            }],
            caching: Caching::default(),
            limits: Limits::default(),
        };
        let quic = quic()?;
        let shard = cache_core::shard::Shard::new(
            config,
            store,
            &quic,
            Arc::<ShardStats>::default(),
            [7; 32],
            true,
        );
        Ok(Self {
            shard,
            outbox: Outbox::default(),
            began: Instant::now(),
            next_request: 0,
            taken: 0,
            sent: 0,
            sends: 0,
            largest_turn: 0,
        })
    }

    /// Has an object fetched, by a request that comes without QUIC.
    pub(super) fn fill(&mut self, now: Instant, target: &str, bytes: usize) -> Result<()> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let request = ClientRequest {
            method: Method::GET,
            secure: true,
            authority: Bytes::from_static(b"edge.test"),
            target: Bytes::copy_from_slice(target.as_bytes()),
            headers: HeaderMap::new(),
            body: RequestBody::Whole(Bytes::new()),
        };
        let event = RequestEvent::Begin(Box::new(request));
        self.handle(now, Input::Request { id, event });
        let Some(FetchCommand::Start { id, .. }) = self.outbox.fetches.pop() else {
            bail!("{target} is not fetched");
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::CACHE_CONTROL, "public, max-age=86400"),
            (header::ETAG, "\"0123456789abcdef\""),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        let head = FetchEvent::Head {
            status: StatusCode::OK,
            headers,
            length: Some(bytes as u64),
        };
        let body = FetchEvent::Body(vec![0x5a; bytes].into());
        for event in [head, body, FetchEvent::End] {
            self.handle(now, Input::Fetch { id, event });
        }
        let max_transmits = MAX_TRANSMITS;
        self.handle(now, Input::Turn { max_transmits });
        self.outbox.answers.clear();
        self.outbox.fetches.clear();
        Ok(())
    }

    pub(super) fn connections(&self) -> usize {
        self.shard.connections()
    }

    /// Since the objects were filled in.
    #[cfg(test)]
    pub(super) fn fetches(&self) -> usize {
        self.outbox.fetches.len()
    }

    /// Takes what arrived and returns what is sent.
    pub(super) fn serve(&mut self, now: Instant, inbox: Vec<Arrived>) -> Vec<Served> {
        let mut served = Vec::new();
        let mut inbox = inbox.into_iter().peekable();
        let mut due = self.shard.next_timeout().is_some_and(|at| at <= now);
        while due || inbox.peek().is_some() || self.shard.wants_turn() {
            due = false;
            for Arrived { remote, data } in inbox.by_ref().take(RECEIVE_BUDGET) {
                self.datagram(now, remote, data);
            }
            let max_transmits = MAX_TRANSMITS;
            self.handle(now, Input::Turn { max_transmits });
            self.sends += self.outbox.transmits.len();
            let sizes = self.outbox.transmits.iter().map(|sent| sent.data.len());
            self.largest_turn = self.largest_turn.max(sizes.rev().skip(1).sum());
            for transmit in self.outbox.transmits.drain(..) {
                let segment = transmit.segment_size;
                let segments = transmit.data.len().div_ceil(segment.unwrap_or(usize::MAX));
                self.sent += segments;
                let data = transmit.data;
                served.push(Served { segment, data });
            }
        }
        served
    }

    /// Gives the buffer of a send back.
    pub(super) fn recycle(&mut self, served: Served) {
        self.outbox.recycle(served.data);
    }

    fn datagram(&mut self, now: Instant, remote: SocketAddr, data: BytesMut) {
        self.taken += 1;
        let datagram = Datagram {
            remote,
            local_ip: None,
            ecn: None,
            data,
        };
        self.handle(now, Input::Datagram(datagram));
    }

    fn handle(&mut self, mono: Instant, input: Input) {
        let passed = mono.saturating_duration_since(self.began);
        let unix_ms = UNIX_MS + passed.as_millis() as u64;
        self.shard
            .handle(Now { mono, unix_ms }, input, &mut self.outbox);
    }
}

fn quic() -> Result<QuicSetup> {
    let tls = Identity::new("edge.test")?.into_h3_server()?;
    let mut cids = CidKeys::new(1, CidKey::from_bytes([3; 16]));
    cids.activate(1);
    Ok(QuicSetup::new(Arc::new(tls), cids, &Limits::default())?)
}
