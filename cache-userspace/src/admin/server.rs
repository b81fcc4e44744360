//! The admin API's routes, and the loop that accepts its connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use cache_core::io::PinError;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::listen::Listeners;
use super::request::{EXPLAIN_HINT, PIN_HINT, PURGE_HINT, PinRequest, PurgeRequest};
use super::token::Token;
use crate::explain::{Question, Report};
use crate::metrics;
use crate::node::{
    ConfigReport, NodeError, NodeHandle, PinReport, PinsReport, PurgeReport, ReloadReport,
    UnpinReport,
};
use crate::purging::PurgingError;
use crate::status::StatusDocument;

/// Largest request body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Connections at a time on each listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;

/// A connection must send its request head within this, and again after each answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the admin API until the returned future is dropped.
///
/// # Errors
/// The listeners cannot be handed to the runtime.
pub async fn serve_admin(listeners: Listeners, node: NodeHandle) -> anyhow::Result<()> {
    let Listeners { unix, tcp, socket } = listeners;
    let unix = UnixListener::from_std(unix).context("admin socket")?;
    let open = routes(node.clone());
    match tcp {
        None => accept(unix, open).await,
        Some((listener, token)) => {
            let listener = TcpListener::from_std(listener).context("admin TCP listener")?;
            let closed = routes(node).layer(middleware::from_fn_with_state(token, authorize));
            tokio::join!(accept(unix, open), accept(listener, closed));
        }
    }
    drop(socket);
    Ok(())
}

fn routes(node: NodeHandle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/v1/config", get(config))
        .route("/v1/purge", post(purge))
        .route("/v1/pin", post(pin))
        .route("/v1/unpin", post(unpin))
        .route("/v1/pins", get(pins))
        .route("/v1/reload-tls", post(reload_tls))
        .route("/v1/reload", post(reload))
        .route("/v1/explain", post(explain))
        .merge(super::guard::routes())
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}

async fn status(State(node): State<NodeHandle>) -> Json<StatusDocument> {
    Json(node.status())
}

async fn metrics(State(node): State<NodeHandle>) -> Result<Response, ApiError> {
    let page = metrics::page(node.status()).map_err(|error| {
        let hint = "this is a bug of popcache";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), hint)
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response())
}

async fn config(State(node): State<NodeHandle>) -> Json<serde_json::Value> {
    Json(node.config().as_ref().clone())
}

async fn purge(
    State(node): State<NodeHandle>,
    request: Result<Json<PurgeRequest>, JsonRejection>,
) -> Result<Json<PurgeReport>, ApiError> {
    let Json(request) =
        request.map_err(|rejection| ApiError::from_rejection(rejection, PURGE_HINT))?;
    let soft = request.soft;
    let order = request
        .order()
        .map_err(|why| ApiError::new(StatusCode::BAD_REQUEST, why, PURGE_HINT))?;
    tracing::debug!(?order, soft, "to be purged");
    let report = node.purge(order, soft).await?;
    let PurgeReport { purges, shards, .. } = report;
    tracing::info!(objects = report.objects, purges, soft, shards, "purged");
    Ok(Json(report))
}

async fn pin(
    State(node): State<NodeHandle>,
    request: Result<Json<PinRequest>, JsonRejection>,
) -> Result<Json<PinReport>, ApiError> {
    let report = node.pin(&pin_url(request)?).await?;
    tracing::info!(url = report.url, bytes = report.bytes, "pinned");
    Ok(Json(report))
}

async fn unpin(
    State(node): State<NodeHandle>,
    request: Result<Json<PinRequest>, JsonRejection>,
) -> Result<Json<UnpinReport>, ApiError> {
    let report = node.unpin(&pin_url(request)?).await?;
    tracing::info!(url = report.url, was_pinned = report.was_pinned, "unpinned");
    Ok(Json(report))
}

fn pin_url(request: Result<Json<PinRequest>, JsonRejection>) -> Result<String, ApiError> {
    let Json(request) =
        request.map_err(|rejection| ApiError::from_rejection(rejection, PIN_HINT))?;
    Ok(request.url)
}

async fn explain(
    State(node): State<NodeHandle>,
    request: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Report>, ApiError> {
    let Json(question) =
        request.map_err(|rejection| ApiError::from_rejection(rejection, EXPLAIN_HINT))?;
    Ok(Json(node.explain(&question).await?))
}

async fn pins(State(node): State<NodeHandle>) -> Result<Json<PinsReport>, ApiError> {
    Ok(Json(node.pins().await?))
}

async fn reload_tls(State(node): State<NodeHandle>) -> Result<Json<ReloadReport>, ApiError> {
    Ok(Json(node.reload_tls()?))
}

async fn reload(State(node): State<NodeHandle>) -> Result<Json<ConfigReport>, ApiError> {
    Ok(Json(node.reload().await?))
}

const ROUTES: &str = "GET /metrics, GET /v1/status, GET /v1/config, GET /v1/pins, POST /v1/purge, POST /v1/pin, \
                      POST /v1/unpin, POST /v1/reload, POST /v1/reload-tls, POST /v1/explain";

fn all_routes() -> String {
    format!("{ROUTES}, {}", super::guard::ROUTES)
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "{} does not apply to {}",
            request.method(),
            request.uri().path()
        ),
        all_routes(),
    )
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is no {}", request.uri().path()),
        all_routes(),
    )
}

async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    let field = request.headers().get(header::AUTHORIZATION);
    if field.is_some_and(|field| token.authorizes(field.as_bytes())) {
        return next.run(request).await;
    }
    let error = ApiError::new(
        StatusCode::UNAUTHORIZED,
        "the bearer token is missing or wrong",
        "send Authorization: Bearer with the content of admin.token_file",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

/// An error as clients see it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: String,
    hint: String,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: error.into(),
                hint: hint.into(),
            },
        }
    }

    pub(super) fn from_rejection(rejection: JsonRejection, body: &str) -> Self {
        let hint = match rejection.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "set Content-Type: application/json".to_owned(),
            StatusCode::PAYLOAD_TOO_LARGE => format!("a request has at most {MAX_BODY} bytes"),
            _ => body.to_owned(),
        };
        Self::new(rejection.status(), rejection.body_text(), hint)
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let (status, hint) = match &error {
            NodeError::Guard(error) => super::guard::refusal(error),
            NodeError::Explain(_) => (StatusCode::BAD_REQUEST, EXPLAIN_HINT),
            NodeError::Url { .. } => (
                StatusCode::BAD_REQUEST,
                "write the URL as a client asks for it: https://host/path?query",
            ),
            NodeError::Tag { .. } => (
                StatusCode::BAD_REQUEST,
                "write one surrogate key as the origin sends it",
            ),
            NodeError::Purging(PurgingError::Refused(_)) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "nothing was purged; the message says what stands against it",
            ),
            NodeError::Purging(PurgingError::PinRefused(_)) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "nothing was pinned; the message says what stands against it",
            ),
            NodeError::Pin { error, .. } => match error {
                PinError::UnknownHost => (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "name a host of an [[origin]]",
                ),
                PinError::Refused(_) => (
                    StatusCode::INSUFFICIENT_STORAGE,
                    "`popcache pins` shows what is pinned; each shard has an equal part of memory.pinned",
                ),
            },
            NodeError::Purging(PurgingError::HasEnded) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing was done: connect again, and the other process answers",
            ),
            NodeError::Purging(PurgingError::NotDurable(_)) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "asking again is harmless, and needed once the drive takes writes",
            ),
            NodeError::Config(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "nothing has changed; `popcache check` finds the same",
            ),
            NodeError::Tls(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "nothing has changed: clients are shown what they were shown before",
            ),
            NodeError::NoAnswer { .. } => (
                StatusCode::GATEWAY_TIMEOUT,
                "it may have been done, or done in part; asking again is harmless",
            ),
            NodeError::Stopping { .. } | NodeError::Interrupted => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the node is stopping: what it held in memory goes with it",
            ),
        };
        Self::new(status, error.to_string(), hint)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Accepts for ever. (The listener itself waits out a lack of descriptors.)
async fn accept<L: Listener>(mut listener: L, routes: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let (stream, _) = listener.accept().await;
        let connection = converse(stream, routes.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

/// One connection from its first request to its end.
async fn converse<S>(stream: S, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin API: connection ended");
    }
}
