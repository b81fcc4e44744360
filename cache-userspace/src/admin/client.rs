//! The admin API's client: what `popcache status`, `purge`, `pin` and others talk through.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::request::{PinRequest, PurgeRequest};
use crate::explain::{Question, Report};
use crate::guard::order::Done;
use crate::node::{
    ConfigReport, PinReport, PinsReport, PurgeOrder, PurgeReport, ReloadReport, UnpinReport,
};
use crate::status::StatusDocument;

/// The whole of a request and its answer; longer than a node waits for its shards.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Largest answer read, in bytes: a node's pins, thousands a shard, each with its URL.
const MAX_ANSWER: usize = 256 << 20;

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no popcache answers on {}: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    #[error("the node refuses: {error} ({hint})")]
    Refused { error: String, hint: String },
    #[error("the node's answer makes no sense: {0}")]
    Nonsense(String),
}

impl ClientError {
    /// Whether there was no node to ask, as opposed to one that refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Asks the node at `socket` how it is.
pub async fn status(socket: &Path) -> Result<StatusDocument, ClientError> {
    ask(socket, Method::GET, "/v1/status", None).await
}

/// Makes the node at `socket` purge what is named.
pub async fn purge(
    socket: &Path,
    order: PurgeOrder,
    soft: bool,
) -> Result<PurgeReport, ClientError> {
    post(socket, "/v1/purge", &PurgeRequest::from((order, soft))).await
}

/// Makes the node at `socket` keep the object of a URL.
pub async fn pin(socket: &Path, url: &str) -> Result<PinReport, ClientError> {
    let url = url.to_owned();
    post(socket, "/v1/pin", &PinRequest { url }).await
}

/// Takes a pin back.
pub async fn unpin(socket: &Path, url: &str) -> Result<UnpinReport, ClientError> {
    let url = url.to_owned();
    post(socket, "/v1/unpin", &PinRequest { url }).await
}

/// Asks the node at `socket` what it would do with a request.
pub async fn explain(socket: &Path, question: &Question) -> Result<Report, ClientError> {
    post(socket, "/v1/explain", question).await
}

/// Asks the node at `socket` what is pinned.
pub async fn pins(socket: &Path) -> Result<PinsReport, ClientError> {
    ask(socket, Method::GET, "/v1/pins", None).await
}

/// Makes the node at `socket` read its certificates again.
pub async fn reload_tls(socket: &Path) -> Result<ReloadReport, ClientError> {
    ask(socket, Method::POST, "/v1/reload-tls", None).await
}

/// Asks the node at `socket` for its effective configuration.
pub async fn config(socket: &Path) -> Result<Value, ClientError> {
    ask(socket, Method::GET, "/v1/config", None).await
}

/// Makes the node at `socket` read its configuration again.
pub async fn reload(socket: &Path) -> Result<ConfigReport, ClientError> {
    ask(socket, Method::POST, "/v1/reload", None).await
}

/// Asks the node at `socket` for one of the guard's documents, such as `events?after=7`; the report
/// itself is the empty one.
pub async fn guard<T: DeserializeOwned>(socket: &Path, document: &str) -> Result<T, ClientError> {
    let path = match document {
        "" => "/v1/guard".to_owned(),
        document => format!("/v1/guard/{document}"),
    };
    ask(socket, Method::GET, &path, None).await
}

/// Makes the guard of the node at `socket` do what `request` says, such as `list`.
pub async fn change_guard(
    socket: &Path,
    what: &str,
    request: &impl Serialize,
) -> Result<Done, ClientError> {
    post(socket, &format!("/v1/guard/{what}"), request).await
}

async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    request: &impl Serialize,
) -> Result<T, ClientError> {
    let body = serde_json::to_value(request);
    let body = body.map_err(|error| ClientError::Nonsense(error.to_string()))?;
    ask(socket, Method::POST, path, Some(body)).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<T, ClientError> {
    let unreachable = |reason: String| ClientError::Unreachable {
        socket: socket.to_owned(),
        reason,
    };
    let exchange = exchange(socket, method, path, body);
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(answer) => decode(answer?),
        Err(_) => Err(unreachable(format!(
            "no answer within {} s",
            TIMEOUT.as_secs()
        ))),
    }
}

/// A status code and a body.
type Answer = (http::StatusCode, Bytes);

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Answer, ClientError> {
    let broken = |error: hyper::Error| ClientError::Unreachable {
        socket: socket.to_owned(),
        reason: format!("the connection broke: {error}"),
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| ClientError::Unreachable {
            socket: socket.to_owned(),
            reason: why_unreachable(&error),
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let driver = tokio::spawn(connection);
    let body = body.map(|value| value.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "popcache")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| ClientError::Nonsense(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| ClientError::Nonsense(error.to_string()))?
        .to_bytes();
    driver.abort();
    Ok((status, body))
}

fn decode<T: DeserializeOwned>((status, body): Answer) -> Result<T, ClientError> {
    let nonsense = |error: serde_json::Error| ClientError::Nonsense(format!("{status}: {error}"));
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(nonsense);
    }
    let error: Value = serde_json::from_slice(&body).map_err(nonsense)?;
    let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    Err(ClientError::Refused {
        error: field("error"),
        hint: field("hint"),
    })
}

fn why_unreachable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            "there is no such socket; is it running, and is this its admin.socket?".to_owned()
        }
        ErrorKind::ConnectionRefused => {
            "it is not running (the socket is left from a crash)".to_owned()
        }
        ErrorKind::PermissionDenied => {
            "you may not use this socket: be root or in its group".to_owned()
        }
        _ => error.to_string(),
    }
}
