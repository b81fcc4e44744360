//! Compressing what origins send as it is: between the upstream and the shard, on threads of their
//! own.
//!
//! ```text
//!  fetch -- Head, Body..., End --> gathered --> a thread, if one is free --> Head, Body..., End --> shard
//!                                     '-- too large, no thread, no gain: as it came ------------------^
//! ```
//!
//! What is gathered is no more than a fetch may deliver without being asked for more, so that the
//! shard's credit holds as it stands.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use cache_core::http::compress::{self, Coding};
use cache_core::io::{FetchCommand, FetchEvent, FetchId};
use http::{HeaderMap, StatusCode};
use tokio::sync::{Semaphore, mpsc};

use crate::upstream::{EventSender, ShardGone, event_channel};

/// For small text that is read many times: most of the gain, at tens of MB a second.
const BROTLI_QUALITY: u32 = 5;
/// log2 of the window; 4 MiB hold most bodies.
const BROTLI_WINDOW: u32 = 22;
const BROTLI_BUFFER: usize = 16 << 10;
const ZSTD_LEVEL: i32 = 6;

/// Events of one fetch that wait to be looked at.
const EVENTS: usize = 16;

/// Body bytes of one event, as [`FetchEvent::Body`] promises.
const MAX_CHUNK: usize = 64 << 10;

/// Shared by all fetches.
#[derive(Debug)]
pub struct Compressor {
    threads: Semaphore,
    /// Largest body.
    max: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    compressed: AtomicU64,
    busy: AtomicU64,
    no_gain: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// A response whose body is being gathered.
struct Gathered {
    status: StatusCode,
    headers: HeaderMap,
    length: Option<u64>,
    body: BytesMut,
}

impl Compressor {
    /// `threads` at a time, for bodies of up to `max` bytes.
    pub fn new(threads: usize, max: u64) -> Self {
        Self {
            threads: Semaphore::new(threads),
            max,
            counters: Counters::default(),
        }
    }

    /// For `status` and metrics.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let Counters {
            compressed,
            busy,
            no_gain,
            bytes_in,
            bytes_out,
        } = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("compressed", read(compressed)),
            ("compress_busy", read(busy)),
            ("compress_no_gain", read(no_gain)),
            ("compress_bytes_in", read(bytes_in)),
            ("compress_bytes_out", read(bytes_out)),
        ]
    }

    /// Where the events of a command go: to the shard, or through here first. Must be called within a
    /// tokio runtime.
    pub fn between(self: &Arc<Self>, command: &FetchCommand, shard: &EventSender) -> EventSender {
        let FetchCommand::Start { request, .. } = command else {
            return shard.clone();
        };
        if !request.compress {
            return shard.clone();
        }
        let asked = Coding::asked(&request.headers);
        let (sender, events) = event_channel(EVENTS);
        let (this, shard) = (Arc::clone(self), shard.clone());
        tokio::spawn(async move {
            if let Err(ShardGone) = this.pass(asked, events, &shard).await {
                tracing::debug!("a shard has ended before its fetch");
            }
        });
        sender
    }

    async fn pass(
        &self,
        asked: Option<Coding>,
        mut events: mpsc::Receiver<(FetchId, FetchEvent)>,
        shard: &EventSender,
    ) -> Result<(), ShardGone> {
        while let Some((id, event)) = events.recv().await {
            match event {
                FetchEvent::Head {
                    status,
                    mut headers,
                    length,
                } if compress::may_code(status, &headers, length, self.max) => {
                    compress::vary(&mut headers);
                    let head = Gathered {
                        status,
                        headers,
                        length,
                        body: BytesMut::new(),
                    };
                    match asked {
                        Some(coding) => self.gather(id, coding, head, &mut events, shard).await?,
                        None => head.send(id, shard).await?,
                    }
                }
                event => shard.send(id, event).await?,
            }
        }
        Ok(())
    }

    /// Takes the body in and sends it on, coded if that can be. What follows is not looked at.
    async fn gather(
        &self,
        id: FetchId,
        coding: Coding,
        mut head: Gathered,
        events: &mut mpsc::Receiver<(FetchId, FetchEvent)>,
        shard: &EventSender,
    ) -> Result<(), ShardGone> {
        while let Some((id, event)) = events.recv().await {
            match event {
                FetchEvent::Body(bytes) => head.body.extend_from_slice(&bytes),
                FetchEvent::End => {
                    self.code(coding, &mut head).await;
                    head.send(id, shard).await?;
                    return shard.send(id, FetchEvent::End).await;
                }
                // Too late.
                FetchEvent::Hints(_) => {}
                // Nothing was sent: the shard may still have something to stand in.
                other => return shard.send(id, other).await,
            }
            if head.body.len() as u64 > self.max {
                break;
            }
        }
        head.send(id, shard).await
    }

    /// Codes the body, if a thread is free and it becomes smaller.
    async fn code(&self, coding: Coding, head: &mut Gathered) {
        let length = head.body.len();
        if (length as u64) < compress::MIN_BODY {
            return;
        }
        let Ok(_thread) = self.threads.try_acquire() else {
            self.counters.busy.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let body = head.body.clone().freeze();
        let coded = tokio::task::spawn_blocking(move || encode(coding, &body)).await;
        match coded.map_err(io::Error::other).flatten() {
            Ok(coded) if coded.len() < length => {
                let Counters {
                    compressed,
                    bytes_in,
                    bytes_out,
                    ..
                } = &self.counters;
                compressed.fetch_add(1, Ordering::Relaxed);
                bytes_in.fetch_add(length as u64, Ordering::Relaxed);
                bytes_out.fetch_add(coded.len() as u64, Ordering::Relaxed);
                head.length = Some(coded.len() as u64);
                compress::recode(&mut head.headers, coding, coded.len() as u64);
                head.body = BytesMut::from(&coded[..]);
            }
            Ok(_) => {
                self.counters.no_gain.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.counters.no_gain.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, coding = coding.name(), "a body was not compressed");
            }
        }
    }
}

impl Gathered {
    async fn send(self, id: FetchId, shard: &EventSender) -> Result<(), ShardGone> {
        let Self {
            status,
            headers,
            length,
            body,
        } = self;
        let head = FetchEvent::Head {
            status,
            headers,
            length,
        };
        shard.send(id, head).await?;
        let mut body = body.freeze();
        while !body.is_empty() {
            let chunk: Bytes = body.split_to(body.len().min(MAX_CHUNK));
            shard.send(id, FetchEvent::Body(chunk)).await?;
        }
        Ok(())
    }
}

fn encode(coding: Coding, body: &[u8]) -> io::Result<Vec<u8>> {
    match coding {
        Coding::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            encoder.finish()
        }
        Coding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
        Coding::Br => {
            let (quality, window) = (BROTLI_QUALITY, BROTLI_WINDOW);
            let mut encoder =
                brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, quality, window);
            encoder.write_all(body)?;
            encoder.flush()?;
            Ok(encoder.into_inner())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use cache_core::io::{FetchError, FetchErrorKind, FetchRequest, OriginId};
    use http::{HeaderValue, Method};

    use super::*;

    const ID: FetchId = FetchId(7);

    fn decode(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let read = match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(coded).read_to_end(&mut body),
            Coding::Zstd => zstd::stream::read::Decoder::new(coded)
                .and_then(|mut decoder| decoder.read_to_end(&mut body)),
            Coding::Br => brotli::Decompressor::new(coded, 4096).read_to_end(&mut body),
        };
        read.expect("well-formed");
        body
    }

    fn text() -> Bytes {
        Bytes::from("{\"channel\": 42, \"live\": true}, ".repeat(1000))
    }

    fn head(length: Option<u64>) -> FetchEvent {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("etag", HeaderValue::from_static("\"a\""));
        FetchEvent::Head {
            status: StatusCode::OK,
            headers,
            length,
        }
    }

    /// What a shard is told of a fetch that asks for `coding` and goes like this.
    async fn told(
        compressor: Compressor,
        coding: &'static str,
        events: Vec<FetchEvent>,
    ) -> (HeaderMap, Vec<u8>, Option<FetchEvent>) {
        let mut headers = HeaderMap::new();
        headers.insert("accept-encoding", HeaderValue::from_static(coding));
        let request = FetchRequest {
            origin: OriginId(0),
            method: Method::GET,
            authority: Bytes::new(),
            target: Bytes::new(),
            headers,
            compress: true,
            body: cache_core::io::RequestBody::default(),
            window: 1 << 20,
        };
        let command = FetchCommand::Start {
            id: ID,
            request: Box::new(request),
        };
        let (shard, mut told) = event_channel(64);
        let sender = Arc::new(compressor).between(&command, &shard);
        drop(shard);
        for event in events {
            sender.send(ID, event).await.expect("taken");
        }
        drop(sender);
        let (mut fields, mut body, mut end) = (HeaderMap::new(), Vec::new(), None);
        while let Some((ID, event)) = told.recv().await {
            match event {
                FetchEvent::Head {
                    headers, length, ..
                } => {
                    fields = headers;
                    if let Some(length) = length {
                        fields.insert("declared", length.into());
                    }
                }
                FetchEvent::Body(bytes) => body.extend_from_slice(&bytes),
                other => end = Some(other),
            }
        }
        (fields, body, end)
    }

    fn whole() -> Vec<FetchEvent> {
        let (length, body) = (text().len() as u64, text());
        let (first, rest) = (body.slice(..5000), body.slice(5000..));
        vec![
            head(Some(length)),
            FetchEvent::Body(first),
            FetchEvent::Body(rest),
            FetchEvent::End,
        ]
    }

    #[tokio::test]
    async fn a_body_arrives_in_the_coding_that_was_asked_for() {
        for coding in [Coding::Br, Coding::Zstd, Coding::Gzip] {
            let compressor = Compressor::new(1, 1 << 20);
            let (fields, body, end) = told(compressor, coding.name(), whole()).await;
            assert!(body.len() < text().len() / 10, "{coding:?}: {}", body.len());
            assert_eq!(decode(coding, &body), text());
            assert_eq!(fields["content-encoding"], coding.name());
            assert_eq!(fields["etag"], "W/\"a\"");
            assert_eq!(fields["vary"], "accept-encoding");
            assert_eq!(fields["declared"], body.len().to_string());
            assert!(matches!(end, Some(FetchEvent::End)));
        }
    }

    #[tokio::test]
    async fn at_its_bounds_a_body_stays_as_it_came() {
        let cases = [
            ("no thread", Compressor::new(0, 1 << 20), "br", whole()),
            ("too large", Compressor::new(1, 1000), "br", {
                let mut events = whole();
                events[0] = head(None);
                events
            }),
            ("identity", Compressor::new(1, 1 << 20), "identity", whole()),
        ];
        for (why, compressor, coding, events) in cases {
            let (fields, body, end) = told(compressor, coding, events).await;
            assert_eq!(body, text(), "{why}");
            assert!(!fields.contains_key("content-encoding"), "{why}");
            assert_eq!(fields["etag"], "\"a\"", "{why}");
            assert_eq!(
                fields["vary"], "accept-encoding",
                "{why}: others may get another"
            );
            assert!(matches!(end, Some(FetchEvent::End)), "{why}");
        }
    }

    #[tokio::test]
    async fn a_fetch_that_fails_has_no_head() {
        let failed = FetchEvent::Failed(FetchError {
            kind: FetchErrorKind::BodyTimeout,
            detail: "slow".to_owned(),
        });
        let events = vec![head(None), FetchEvent::Body(text()), failed];
        let (fields, body, end) = told(Compressor::new(1, 1 << 20), "gzip", events).await;
        assert!(fields.is_empty() && body.is_empty());
        assert!(matches!(end, Some(FetchEvent::Failed(_))));
    }
}
