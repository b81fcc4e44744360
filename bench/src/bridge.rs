//! HTTP/1.1 in, HTTP/3 out: for test suites that know no HTTP/3.
//!
//! It translates the framing and nothing else. Fields of one hop are dropped, as RFC 9114 section
//! 4.2 demands; an answer that the server cut off is cut off for the client too.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::quic::BidiStream;
use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig, VarInt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::load::tls::any_h3_server;

/// Response frames between the two sides.
const BODY_QUEUE: usize = 4;
/// Shorter than the server's idle timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

type Sending = SendRequest<h3_quinn::OpenStreams, Bytes>;
type Answer = Response<Either<Channel<Bytes, BrokenAnswer>, Empty<Bytes>>>;

/// What the bridge connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// TCP address for HTTP/1.1.
    pub listen: SocketAddr,
    /// UDP address of the HTTP/3 server.
    pub server: SocketAddr,
    /// The server's name in TLS. Any certificate is taken.
    pub name: String,
}

/// A bound bridge.
pub struct Bridge {
    listener: TcpListener,
    upstream: Arc<Upstream>,
}

/// The HTTP/3 server did not send an answer to its end.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP/3 server cut its answer off")]
struct BrokenAnswer;

/// One connection to the server, made again once it is lost.
struct Upstream {
    endpoint: Endpoint,
    server: SocketAddr,
    name: String,
    connection: Mutex<Option<(quinn::Connection, Sending)>>,
}

impl Bridge {
    /// Binds; connects with the first request. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// An address in use.
    pub async fn bind(options: Options) -> Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on TCP {}: is it taken?", options.listen))?;
        let mut endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())
            .context("cannot open a UDP socket")?;
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        let crypto = QuicClientConfig::try_from(any_h3_server()?);
        let mut config = ClientConfig::new(Arc::new(crypto.context("no QUIC cipher suite")?));
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        Ok(Self {
            listener,
            upstream: Arc::new(Upstream {
                endpoint,
                server: options.server,
                name: options.name,
                connection: Mutex::new(None),
            }),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the socket.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("a bound socket has no address")
    }

    /// Answers until dropped.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub async fn serve(&self) -> Result<()> {
        loop {
            let (stream, _) = self.listener.accept().await.context("cannot accept")?;
            let upstream = Arc::clone(&self.upstream);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&upstream), request));
                // Clients leave when they like; there is nobody to tell.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    /// Tells the server that nothing more comes.
    pub async fn close(&self) {
        let endpoint = &self.upstream.endpoint;
        endpoint.close(VarInt::from_u32(0), b"the bridge ends");
        endpoint.wait_idle().await;
    }
}

impl Upstream {
    async fn sender(&self) -> Result<Sending> {
        let mut kept = self.connection.lock().await;
        if let Some((connection, sender)) = kept.as_ref()
            && connection.close_reason().is_none()
        {
            return Ok(sender.clone());
        }
        let connection = self
            .endpoint
            .connect(self.server, &self.name)
            .context("no valid server name")?
            .await
            .with_context(|| format!("no QUIC connection to {}", self.server))?;
        let (mut driver, sender) =
            h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        tokio::spawn(async move { driver.wait_idle().await });
        *kept = Some((connection, sender.clone()));
        Ok(sender)
    }
}

/// Answers one request: with the server's answer, or with 502 and the reason where there is none.
async fn answer(upstream: Arc<Upstream>, request: Request<Incoming>) -> Result<Answer> {
    match exchange(&upstream, request).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let reason = format!("{error:#}").replace(|c: char| c.is_ascii_control(), " ");
            let mut answer = Response::new(Either::Right(Empty::new()));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
                .headers_mut()
                .insert("bridge-error", reason.try_into()?);
            Ok(answer)
        }
    }
}

async fn exchange(upstream: &Upstream, request: Request<Incoming>) -> Result<Answer> {
    let (head, mut body) = translate(request)?;
    let mut sender = upstream.sender().await?;
    let mut stream = sender.send_request(head).await?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the client's body broke off")?.into_data() {
            // A server that refuses the body has an answer ready.
            if stream.send_data(data).await.is_err() {
                break;
            }
        }
    }
    let _refused_bodies_need_no_end = stream.finish().await;
    let head = stream.recv_response().await?;
    let (mut parts, ()) = head.into_parts();
    parts.version = Version::HTTP_11;
    let (pieces, channel) = Channel::new(BODY_QUEUE);
    tokio::spawn(pass_body(stream, pieces));
    Ok(Response::from_parts(parts, Either::Left(channel)))
}

/// The request as HTTP/3 has it: scheme and authority, no fields of one hop.
fn translate(request: Request<Incoming>) -> Result<(Request<()>, Incoming)> {
    let (mut parts, body) = request.into_parts();
    let host = parts
        .headers
        .remove(header::HOST)
        .context("no Host field")?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let uri = Uri::builder()
        .scheme("https")
        .authority(host.as_bytes())
        .path_and_query(target)
        .build()
        .context("Host and target make no URI")?;
    drop_hop_by_hop(&mut parts.headers);
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.uri_mut() = uri;
    *head.headers_mut() = parts.headers;
    Ok((head, body))
}

/// RFC 9110 section 7.6.1.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

async fn pass_body<S: BidiStream<Bytes>>(
    mut stream: RequestStream<S, Bytes>,
    mut pieces: Sender<Bytes, BrokenAnswer>,
) {
    loop {
        match stream.recv_data().await {
            Ok(Some(mut data)) => {
                let data = data.copy_to_bytes(data.remaining());
                if pieces.send_data(data).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(_) => {
                pieces.abort(BrokenAnswer);
                return;
            }
        }
    }
}
