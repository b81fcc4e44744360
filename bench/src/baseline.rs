//! The ecosystem's default: an HTTP/3 server of quinn, h3 and tokio that answers from memory.
//!
//! It is written as their examples are: a task a connection, a task a request, a `HashMap` of
//! prepared bodies. All objects are in memory before the first request, so what is measured is the
//! stack, not a cache.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use h3::quic::BidiStream;
use h3::server::{Connection, RequestResolver, RequestStream};
use http::{Method, Response, StatusCode};
use nix::sys::socket::{setsockopt, sockopt};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};

use rustls::server::StoresServerSessions;

use crate::origin::body;

/// Kernel buffers asked for, bytes.
const KERNEL_BUFFER: usize = 4 << 20;

/// What the server holds and where it listens.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    pub name: String,
    /// Targets whose bodies are put into memory.
    pub paths: Vec<String>,
    /// Request streams that a client may have open.
    pub max_streams: u32,
    pub early_data: EarlyData,
}

/// What the server does with requests in a client's first flight (0-RTT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    Taken,
    /// Sessions are given out and then forgotten, as by a server that was started anew.
    Forgotten,
}

/// A bound server.
pub struct Baseline {
    endpoint: Endpoint,
    objects: Arc<HashMap<String, Object>>,
}

struct Object {
    body: Bytes,
    content_type: &'static str,
    entity_tag: String,
}

impl Baseline {
    /// Fills the memory and binds. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// A target that the demo origin does not know; an address in use.
    pub fn bind(options: &Options) -> Result<Self> {
        let objects = options
            .paths
            .iter()
            .map(|path| Ok((path.clone(), Object::load(path)?)));
        let objects = objects.collect::<Result<HashMap<_, _>>>()?;
        let socket = UdpSocket::bind(options.listen)
            .with_context(|| format!("cannot listen on UDP {}: is it taken?", options.listen))?;
        // Without the right to pass the system's limit the socket keeps its default.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBufForce, &KERNEL_BUFFER);
        let server = server_config(options)?;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )
        .context("cannot start a QUIC endpoint")?;
        Ok(Self {
            endpoint,
            objects: Arc::new(objects),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the socket.
    pub fn address(&self) -> Result<SocketAddr> {
        self.endpoint
            .local_addr()
            .context("a bound socket has no address")
    }

    /// Answers until dropped.
    pub async fn serve(self) {
        while let Some(incoming) = self.endpoint.accept().await {
            let objects = self.objects.clone();
            tokio::spawn(async move {
                // Clients leave when they like; there is nobody to tell.
                let _ = connection(incoming, objects).await;
            });
        }
    }
}

impl Object {
    fn load(path: &str) -> Result<Self> {
        let body =
            body(path).with_context(|| format!("the demo origin has no body for `{path}`"))?;
        let picture = path.starts_with("/emotes/");
        Ok(Self {
            content_type: if picture {
                "image/png"
            } else {
                "application/octet-stream"
            },
            entity_tag: format!("\"{:x}\"", body.len()),
            body,
        })
    }
}

fn server_config(options: &Options) -> Result<ServerConfig> {
    let mut tls = crate::identity::Identity::new(&options.name)?.into_h3_server()?;
    // QUIC knows only none or all of it (RFC 9001 section 4.6.1).
    tls.max_early_data_size = u32::MAX;
    if options.early_data == EarlyData::Forgotten {
        tls.session_storage = Arc::new(Forgetful);
    }
    let mut config = ServerConfig::with_crypto(Arc::new(
        QuicServerConfig::try_from(tls).context("no QUIC cipher suite")?,
    ));
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(options.max_streams));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Takes every session and keeps none.
#[derive(Debug)]
struct Forgetful;

impl StoresServerSessions for Forgetful {
    fn put(&self, _key: Vec<u8>, _value: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

async fn connection(incoming: Incoming, objects: Arc<HashMap<String, Object>>) -> Result<()> {
    let quic = h3_quinn::Connection::new(incoming.await?);
    let mut connection: Connection<_, Bytes> = Connection::new(quic).await?;
    while let Some(resolver) = connection.accept().await? {
        let objects = objects.clone();
        tokio::spawn(async move {
            // A request that the client gave up needs no answer.
            let _ = request(resolver, &objects).await;
        });
    }
    Ok(())
}

async fn request(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    objects: &HashMap<String, Object>,
) -> Result<()> {
    let (request, stream) = resolver.resolve_request().await?;
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    match objects.get(target) {
        Some(object) => answer(stream, object, request.method()).await,
        None => missing(stream).await,
    }
}

async fn answer<S: BidiStream<Bytes>>(
    mut stream: RequestStream<S, Bytes>,
    object: &Object,
    method: &Method,
) -> Result<()> {
    let response = Response::builder()
        .status(StatusCode::OK)
        .header("content-type", object.content_type)
        .header("content-length", object.body.len())
        .header("cache-control", "max-age=3600")
        .header("etag", &object.entity_tag)
        .header("cache-status", "baseline; hit")
        .body(())?;
    stream.send_response(response).await?;
    if method != Method::HEAD {
        stream.send_data(object.body.clone()).await?;
    }
    stream.finish().await?;
    Ok(())
}

async fn missing<S: BidiStream<Bytes>>(mut stream: RequestStream<S, Bytes>) -> Result<()> {
    let response = Response::builder()
        .status(StatusCode::NOT_FOUND)
        .header("content-length", 0)
        .body(())?;
    stream.send_response(response).await?;
    stream.finish().await?;
    Ok(())
}
