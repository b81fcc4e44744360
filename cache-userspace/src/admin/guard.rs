//! The guard's routes.

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use super::server::ApiError;
use crate::guard::order::{
    Answer, Done, LimitRequest, ListRequest, ModeRequest, Order, RemoveRequest, Report,
};
use crate::guard::{EventLine, GuardError, TopLine};
use crate::node::NodeHandle;

/// Lines of `GET /v1/guard/top` where nothing is said.
const TOP_LINES: usize = 20;

pub(super) const ROUTES: &str = "GET /v1/guard, /v1/guard/events, /v1/guard/top, POST /v1/guard/list, \
                                 /v1/guard/remove, /v1/guard/monitor, /v1/guard/limit, /v1/guard/reload";

const LIST_HINT: &str =
    r#"send {"list": "block", "prefixes": ["192.0.2.0/24"], "seconds": 3600, "note": "why"}"#;
const REMOVE_HINT: &str = r#"send {"prefixes": ["192.0.2.0/24"]}"#;
const MODE_HINT: &str = r#"send {"rules": ["cid_mac"], "mode": "monitor"}"#;
const LIMIT_HINT: &str = r#"send {"limit": "packets", "rate": {"rate": 50000, "burst": 100000}}"#;

pub(super) fn routes() -> Router<NodeHandle> {
    Router::new()
        .route("/v1/guard", get(report))
        .route("/v1/guard/events", get(events))
        .route("/v1/guard/top", get(top))
        .route("/v1/guard/list", post(list))
        .route("/v1/guard/remove", post(remove))
        .route("/v1/guard/monitor", post(monitor))
        .route("/v1/guard/limit", post(limit))
        .route("/v1/guard/reload", post(reload))
}

async fn report(State(node): State<NodeHandle>) -> Result<Json<Report>, ApiError> {
    match ask(&node, Order::Report).await? {
        Answer::Report(report) => Ok(Json(*report)),
        other => Err(astray(&other)),
    }
}

/// What `GET /v1/guard/events` may be asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    #[serde(default)]
    pub after: u64,
}

async fn events(
    State(node): State<NodeHandle>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Vec<EventLine>>, ApiError> {
    let Query(EventsQuery { after }) = query.map_err(|error| bad_query(&error))?;
    match ask(&node, Order::Events { after }).await? {
        Answer::Events(events) => Ok(Json(events)),
        other => Err(astray(&other)),
    }
}

#[derive(Debug, Deserialize)]
struct TopQuery {
    most: Option<usize>,
}

async fn top(
    State(node): State<NodeHandle>,
    query: Result<Query<TopQuery>, QueryRejection>,
) -> Result<Json<Vec<TopLine>>, ApiError> {
    let Query(TopQuery { most }) = query.map_err(|error| bad_query(&error))?;
    let most = most.unwrap_or(TOP_LINES);
    match ask(&node, Order::Top { most }).await? {
        Answer::Top(top) => Ok(Json(top)),
        other => Err(astray(&other)),
    }
}

async fn list(
    State(node): State<NodeHandle>,
    request: Result<Json<ListRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    change(&node, Order::List(body(request, LIST_HINT)?)).await
}

async fn remove(
    State(node): State<NodeHandle>,
    request: Result<Json<RemoveRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    change(&node, Order::Remove(body(request, REMOVE_HINT)?)).await
}

async fn monitor(
    State(node): State<NodeHandle>,
    request: Result<Json<ModeRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    change(&node, Order::Monitor(body(request, MODE_HINT)?)).await
}

async fn limit(
    State(node): State<NodeHandle>,
    request: Result<Json<LimitRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    change(&node, Order::Limit(body(request, LIMIT_HINT)?)).await
}

async fn reload(State(node): State<NodeHandle>) -> Result<Json<Done>, ApiError> {
    change(&node, Order::Reload).await
}

async fn change(node: &NodeHandle, order: Order) -> Result<Json<Done>, ApiError> {
    match ask(node, order).await? {
        Answer::Done(done) => Ok(Json(done)),
        other => Err(astray(&other)),
    }
}

async fn ask(node: &NodeHandle, order: Order) -> Result<Answer, ApiError> {
    Ok(node.guard(order).await?)
}

fn body<T>(request: Result<Json<T>, JsonRejection>, hint: &str) -> Result<T, ApiError> {
    let Json(request) = request.map_err(|rejection| ApiError::from_rejection(rejection, hint))?;
    Ok(request)
}

fn bad_query(error: &QueryRejection) -> ApiError {
    let hint = "numbers behind ?after= and ?most=";
    ApiError::new(StatusCode::BAD_REQUEST, error.body_text(), hint)
}

/// The guard answers what it was asked: this would be a bug of ours.
fn astray(answer: &Answer) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the guard answered something else: {answer:?}"),
        "this is a bug of popcache",
    )
}

/// The status and the hint of what the guard refuses.
pub(super) fn refusal(error: &GuardError) -> (StatusCode, &'static str) {
    match error {
        GuardError::Prefix(_) | GuardError::Nothing => (
            StatusCode::BAD_REQUEST,
            "nothing has changed; write prefixes as 192.0.2.0/24 or 2001:db8::/32",
        ),
        GuardError::Rule(_) | GuardError::Mode(_) | GuardError::Rate(_) => {
            (StatusCode::BAD_REQUEST, "nothing has changed")
        }
        GuardError::NotListed(_) => (
            StatusCode::NOT_FOUND,
            "nothing has changed; `popcache guard list` shows where prefixes come from",
        ),
        GuardError::TooMany { .. } | GuardError::Full { .. } | GuardError::Feed(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "nothing has changed: the old lists stay in force",
        ),
        GuardError::Absent(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "set packet.interface, so that an XDP program is attached",
        ),
        GuardError::NotKept { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "make guard.state_file a file that can be written, then ask again",
        ),
        GuardError::Busy | GuardError::Ended | GuardError::Resting => {
            (StatusCode::SERVICE_UNAVAILABLE, "ask again in a moment")
        }
        GuardError::Xdp(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the kernel refused; the old rules stay in force",
        ),
    }
}
