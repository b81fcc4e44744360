//! HTTP/2 with prior knowledge, against hyper's server.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::channel::{self, Channel};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

type Body = BoxBody<Bytes, Infallible>;

/// Where a test's server listens, and its first connection once there is one.
struct Server {
    url: String,
    first: mpsc::Receiver<JoinHandle<hyper::Result<()>>>,
}

/// A hyper server that answers every request by `respond`.
async fn serve<F>(max_streams: u32, respond: F) -> Server
where
    F: Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (connections, first) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            let service = service_fn(move |request| {
                let response = respond(request);
                async move {
                    match response.extensions().get() {
                        Some(Reset) => Err(Reset),
                        None => Ok(response),
                    }
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(max_streams)
                .serve_connection(TokioIo::new(stream), service);
            let _ = connections.send(tokio::spawn(connection)).await;
        }
    });
    Server { url, first }
}

/// Marks a response in whose stead the server resets the stream.
#[derive(Clone, Debug, thiserror::Error)]
#[error("told to reset")]
struct Reset;

fn shard(server: &Server) -> Shard {
    shard_with(server, |_| ())
}

fn shard_with(server: &Server, limit: impl FnOnce(&mut UpstreamConfig)) -> Shard {
    let mut config = config(&server.url);
    config.origins[0].http2 = Http2Mode::PriorKnowledge;
    limit(&mut config);
    Shard::new(config)
}

fn full(bytes: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(bytes.into()).boxed())
}

/// A response whose body the test sends piece by piece.
fn fed() -> (channel::Sender<Bytes>, Response<Body>) {
    let (feed, body) = Channel::new(1);
    (feed, Response::new(body.boxed()))
}

#[tokio::test]
async fn a_request_names_the_clients_authority_and_this_node() {
    let server = serve(100, |request| {
        let authority = request.uri().authority().map_or("none", |a| a.as_str());
        let headers = request.headers();
        let seen = format!(
            "{:?} {authority} {} host={} via={:?} loop={:?}",
            request.version(),
            request.uri().path(),
            headers.contains_key("host"),
            headers["via"],
            headers["cdn-loop"],
        );
        full(seen)
    })
    .await;
    let mut shard = shard(&server);
    shard.get("/x");
    let answer = shard.answer().await.expect("an answer");
    let seen = String::from_utf8(answer.body).expect("text");
    let expected =
        "HTTP/2.0 edge.test /x host=false via=\"1.1 popcache\" loop=\"popcache; node=0\"";
    assert_eq!(seen, expected);
    assert_eq!(answer.length, Some(expected.len() as u64));
}

#[tokio::test]
async fn many_fetches_share_one_connection() {
    let server = serve(100, |_| full("hello")).await;
    let mut shard = shard(&server);
    for _ in 0..40 {
        shard.get("/");
    }
    shard.ends(40).await;
    let stats = shard.stats();
    assert_eq!((stats.connections_made, stats.reused), (1, 39));
}

#[tokio::test]
async fn past_the_origins_stream_limit_another_connection_is_made() {
    let (feed, slow) = fed();
    let slow = Arc::new(Mutex::new(Some(slow)));
    let server = serve(1, move |request| match request.uri().path() {
        "/slow" => slow.lock().unwrap().take().expect("one slow request"),
        _ => full("hello"),
    })
    .await;
    let mut shard = shard_with(&server, |config| config.max_connections = 2);
    shard.get("/slow");
    shard.head().await;
    for _ in 0..10 {
        shard.get("/");
    }
    shard.ends(10).await;
    assert_eq!(shard.stats().connections_made, 2);
    drop(feed);
}

#[tokio::test]
async fn no_more_than_window_and_credit_is_delivered() {
    let (feed, response) = fed();
    let response = Arc::new(Mutex::new(Some(response)));
    let server = serve(100, move |_| {
        response.lock().unwrap().take().expect("one request")
    })
    .await;
    let mut shard = shard(&server);
    let id = shard.start(Method::GET, "/", 1_000);
    // 16 MiB, far more than a stream's window.
    let sending = tokio::spawn(async move {
        let mut feed = feed;
        for _ in 0..256 {
            feed.send_data(Bytes::from(vec![7; 64 << 10]))
                .await
                .expect("read");
        }
    });
    assert_eq!(shard.head().await, (StatusCode::OK, None));
    shard.body(1_000).await;
    shard.stays_silent().await;
    assert!(!sending.is_finished());
    shard.credit(id, NO_LIMIT);
    shard.body((16 << 20) - 1_000).await;
    assert!(matches!(shard.next().await.1, FetchEvent::End));
    soon(sending).await.expect("sent");
}

#[tokio::test]
async fn streams_without_credit_do_not_stall_the_others() {
    let server = serve(100, |_| full(vec![7; 1 << 20])).await;
    let mut shard = shard(&server);
    let held = 40;
    for _ in 0..held {
        shard.start(Method::GET, "/", 0);
    }
    for _ in 0..held {
        shard.head().await;
    }
    shard.stays_silent().await;
    shard.get("/");
    let answer = shard.answer().await.expect("an answer");
    assert_eq!(answer.body.len(), 1 << 20);
    assert_eq!(shard.stats().connections_made, 1);
}

#[tokio::test]
async fn cancel_resets_the_stream_and_nothing_else() {
    let (feed, slow) = fed();
    let slow = Arc::new(Mutex::new(Some(slow)));
    let server = serve(100, move |request| match request.uri().path() {
        "/slow" => slow.lock().unwrap().take().expect("one slow request"),
        _ => full("hello"),
    })
    .await;
    let mut shard = shard(&server);
    let id = shard.get("/slow");
    shard.head().await;
    shard.cancel(id);
    assert_eq!(shard.upstream.in_flight(), 0);
    let mut feed = feed;
    soon(async {
        // Until the server has seen the reset and dropped the body.
        while feed.send_data(Bytes::from_static(b"more")).await.is_ok() {}
    })
    .await;
    shard.get("/");
    assert_eq!(shard.answer().await.expect("an answer").body, b"hello");
    assert_eq!(shard.stats().connections_made, 1);
}

#[tokio::test]
async fn a_stream_that_the_origin_resets_fails_alone() {
    let server = serve(100, |request| {
        let mut response = full("hello");
        if request.uri().path() == "/broken" {
            response.extensions_mut().insert(Reset);
        }
        response
    })
    .await;
    let mut shard = shard(&server);
    shard.get("/");
    shard.answer().await.expect("before");
    shard.get("/broken");
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    shard.get("/");
    shard.answer().await.expect("after");
    let stats = shard.stats();
    assert_eq!((stats.connections_made, stats.retried), (1, 0));
}

#[tokio::test]
async fn a_wrong_length_is_a_failure_both_ways() {
    for declared in ["3", "9"] {
        let server = serve(100, move |_| {
            let mut response = full("hello");
            response
                .headers_mut()
                .insert("content-length", declared.parse().unwrap());
            response
        })
        .await;
        let mut shard = shard(&server);
        shard.get("/");
        let error = shard.fails().await;
        assert_eq!(error.kind, FetchErrorKind::ResponseIncomplete, "{error}");
        assert!(
            error.detail.contains(&format!("declared {declared}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = serve(100, |request| {
        let mut response = full("hello");
        let (count, size) = match request.uri().path() {
            "/wide" => (2, 50_000),
            _ => (129, 1),
        };
        for _ in 0..count {
            let value = "a".repeat(size).parse().expect("a value");
            response.headers_mut().append("x", value);
        }
        response
    })
    .await;
    for target in ["/wide", "/many"] {
        let mut shard = shard(&server);
        shard.get(target);
        let error = shard.fails().await;
        assert_eq!(error.kind, FetchErrorKind::ProtocolError, "{error}");
        assert!(error.detail.contains("larger than"), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_went_away_is_replaced() {
    let mut server = serve(100, |_| full("hello")).await;
    let mut shard = shard(&server);
    shard.get("/1");
    shard.answer().await.expect("the first");
    soon(server.first.recv())
        .await
        .expect("a connection")
        .abort();
    shard.get("/2");
    assert_eq!(shard.answer().await.expect("the second").body, b"hello");
    assert_eq!(shard.stats().connections_made, 2);
}

#[tokio::test]
async fn a_connection_lost_mid_body_is_an_incomplete_response() {
    let (feed, slow) = fed();
    let slow = Arc::new(Mutex::new(Some(slow)));
    let mut server = serve(100, move |_| {
        slow.lock().unwrap().take().expect("one request")
    })
    .await;
    let mut shard = shard(&server);
    shard.get("/");
    shard.head().await;
    soon(server.first.recv())
        .await
        .expect("a connection")
        .abort();
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ResponseIncomplete, "{error}");
    drop(feed);
}

#[tokio::test]
async fn those_who_wait_for_the_only_attempt_fail_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let mut config = config(&format!("http://{}", listener.local_addr().expect("bound")));
    config.origins[0].http2 = Http2Mode::PriorKnowledge;
    drop(listener);
    let mut shard = Shard::new(config);
    for _ in 0..20 {
        shard.get("/");
    }
    for _ in 0..20 {
        assert_eq!(
            shard.failure().await.kind,
            FetchErrorKind::ConnectionRefused
        );
    }
}

#[tokio::test]
async fn an_origin_that_speaks_http1_only_is_a_clear_failure() {
    let origin = super::origin::Origin::bind().await;
    let mut config = config(&origin.url());
    config.origins[0].http2 = Http2Mode::PriorKnowledge;
    let mut shard = Shard::new(config);
    shard.get("/");
    let mut connection = origin.accept().await;
    connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ProtocolError, "{error}");
}
