//! Messages over HTTP/1.1: right ones, odd ones, and lies.

use super::origin::Origin;
use super::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

async fn start() -> (Origin, Shard) {
    let origin = Origin::bind().await;
    let shard = Shard::new(config(&origin.url()));
    (origin, shard)
}

/// What a shard makes of one response, after which the origin closes.
async fn outcome(method: Method, response: impl AsRef<[u8]>) -> Result<Answer, FetchError> {
    let (origin, mut shard) = start().await;
    shard.start(method, "/", NO_LIMIT);
    let (mut connection, _) = origin.request().await;
    // It may be refused half-way, which is for the outcome to show.
    let _ = connection.try_send(response.as_ref()).await;
    drop(connection);
    shard.answer().await
}

async fn fails(response: impl AsRef<[u8]>, kind: FetchErrorKind, detail: &str) {
    let error = outcome(Method::GET, response).await.expect_err("a failure");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.detail.contains(detail), "{error}");
    assert!(error.detail.contains("\"demo\""), "{error}");
}

#[tokio::test]
async fn a_request_goes_out_in_full_and_its_answer_comes_back() {
    let (origin, mut shard) = start().await;
    shard.get("/emote.png?v=2");
    let (mut connection, request) = origin.request().await;
    let mut lines: Vec<_> = request.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /emote.png?v=2 HTTP/1.1");
    lines.sort_unstable();
    let expected = [
        "accept-encoding: identity",
        "cdn-loop: popcache; node=0",
        "host: edge.test",
        "surrogate-capability: popcache=\"Surrogate/1.0\"",
        "via: 1.1 popcache",
    ];
    assert_eq!(lines, expected);
    connection
        .send("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nETag: \"x\"\r\nKeep-Alive: timeout=9\r\n\r\ngone")
        .await;
    let answer = shard.answer().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.length, Some(4));
    assert_eq!(answer.body, b"gone");
    assert_eq!(answer.headers["etag"], "\"x\"");
    assert!(!answer.headers.contains_key("keep-alive"));
    let stats = shard.stats();
    assert_eq!((stats.started, stats.ok, stats.bytes), (1, 1, 4));
    assert_eq!(stats.failed_total(), 0);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    let mut connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the first");
    shard.get("/2");
    assert!(connection.request().await.starts_with("GET /2 "));
    connection.send(HELLO).await;
    shard.answer().await.expect("the second");
    let stats = shard.stats();
    assert_eq!((stats.connections_made, stats.reused), (1, 1));
    assert_eq!(stats.connections_open, 1);
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let (origin, mut shard) = start().await;
    for _ in 0..2 {
        shard.get("/");
        let connection = origin
            .answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            .await;
        shard.answer().await.expect("an answer");
        connection.closed().await;
    }
    assert_eq!(shard.stats().reused, 0);
}

#[tokio::test]
async fn an_idle_connection_that_closed_is_not_used() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    drop(origin.answer(HELLO).await);
    shard.answer().await.expect("the first");
    shard
        .until(|shard| shard.stats().connections_open == 0)
        .await;
    shard.get("/2");
    let _connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the second");
    assert_eq!(shard.stats().retried, 0);
}

#[tokio::test]
async fn a_pooled_connection_that_closes_on_the_request_is_replaced_once() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    let mut connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the first");
    shard.get("/2");
    assert!(connection.request().await.starts_with("GET /2 "));
    drop(connection);
    let (mut connection, request) = origin.request().await;
    assert!(request.starts_with("GET /2 "));
    connection.send(HELLO).await;
    assert_eq!(shard.answer().await.expect("the second").body, b"hello");
    // A new connection gets no second chance.
    shard.get("/3");
    connection.request().await;
    drop(connection);
    let (connection, _) = origin.request().await;
    drop(connection);
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    assert_eq!(shard.stats().retried, 2);
}

#[tokio::test]
async fn a_new_connection_that_closes_is_a_failure_at_once() {
    let (origin, mut shard) = start().await;
    shard.get("/");
    drop(origin.request().await);
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    let stats = shard.stats();
    assert_eq!((stats.connections_made, stats.retried), (1, 0));
    assert_eq!(stats.failed["connection_terminated"], 1);
}

#[tokio::test]
async fn an_unsafe_method_is_not_sent_twice() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    let mut connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the first");
    shard.start(Method::DELETE, "/2", NO_LIMIT);
    connection.request().await;
    drop(connection);
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    assert_eq!(shard.stats().retried, 0);
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let answer = outcome(Method::GET, format!("{interim}{HELLO}"))
        .await
        .expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.headers.contains_key("link"));
    assert_eq!(answer.body, b"hello");
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_refused() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    fails(switching, FetchErrorKind::ProtocolError, "101").await;
}

#[tokio::test]
async fn chunks_come_without_their_trailers() {
    let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
        5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n";
    let answer = outcome(Method::GET, response).await.expect("an answer");
    assert_eq!(answer.body, b"hello world");
    assert_eq!(answer.length, None);
    assert!(answer.headers.is_empty(), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    let answer = outcome(Method::GET, "HTTP/1.0 200 OK\r\n\r\nold style")
        .await
        .expect("an answer");
    assert_eq!(answer.body, b"old style");
    assert_eq!(answer.length, None);
}

#[tokio::test]
async fn some_answers_have_no_body_and_leave_the_connection_usable() {
    let (origin, mut shard) = start().await;
    shard.start(Method::HEAD, "/head", NO_LIMIT);
    let (mut connection, request) = origin.request().await;
    assert!(request.starts_with("HEAD /head "));
    connection
        .send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")
        .await;
    let answer = shard.answer().await.expect("an answer to HEAD");
    assert_eq!((answer.length, answer.body.len()), (None, 0));
    assert_eq!(answer.headers["content-length"], "99");
    for head in [
        "204 No Content\r\n\r\n",
        "304 Not Modified\r\ncontent-length: 9\r\n\r\n",
    ] {
        shard.get("/");
        connection.request().await;
        connection.send(format!("HTTP/1.1 {head}")).await;
        let answer = shard.answer().await.expect(head);
        assert_eq!((answer.length, answer.body.len()), (None, 0));
    }
    assert_eq!(shard.stats().connections_made, 1);
}

#[tokio::test]
async fn too_few_bytes_are_a_failure() {
    use FetchErrorKind::ResponseIncomplete;
    fails(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        ResponseIncomplete,
        "declared 9",
    )
    .await;
    fails(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        ResponseIncomplete,
        "sent 0",
    )
    .await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    fails(
        format!("{chunked}5\r\nhel"),
        ResponseIncomplete,
        "broke off",
    )
    .await;
    fails(
        format!("{chunked}5\r\nhello\r\n"),
        ResponseIncomplete,
        "broke off",
    )
    .await;
}

#[tokio::test]
async fn what_follows_a_whole_answer_belongs_to_none() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    let connection = origin
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nlonger")
        .await;
    let answer = shard.answer().await.expect("a whole answer");
    assert_eq!(answer.body, b"lon");
    connection.closed().await;
    assert_eq!(shard.stats().surplus, 1);
    shard.get("/2");
    let _connection = origin.answer(HELLO).await;
    assert_eq!(shard.answer().await.expect("the second").body, b"hello");
}

#[tokio::test]
async fn a_connection_with_bytes_left_over_is_not_used_again() {
    let (origin, mut shard) = start().await;
    shard.get("/1");
    let mut connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the first");
    connection
        .send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        .await;
    connection.closed().await;
    shard
        .until(|shard| shard.stats().connections_open == 0)
        .await;
    shard.get("/2");
    let _connection = origin.answer(HELLO).await;
    assert_eq!(shard.answer().await.expect("the second").body, b"hello");
}

#[tokio::test]
async fn what_is_not_http_is_a_failure() {
    use FetchErrorKind::ProtocolError;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    fails("SSH-2.0-OpenSSH_9.2\r\n", ProtocolError, "not valid HTTP").await;
    fails(
        b"\x15\x03\x01\x00\x02\x02\x00\r\n\r\n",
        ProtocolError,
        "not valid HTTP",
    )
    .await;
    fails(
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        ProtocolError,
        "not valid HTTP",
    )
    .await;
    fails(
        "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
        ProtocolError,
        "",
    )
    .await;
    fails(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        ProtocolError,
        "",
    )
    .await;
    fails(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        ProtocolError,
        "Transfer-Encoding",
    )
    .await;
    fails(
        format!("{chunked}5\r\nhello\r\nxyz\r\n"),
        ProtocolError,
        "after 5 bytes",
    )
    .await;
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_fields() {
    let wide = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    fails(
        wide,
        FetchErrorKind::ProtocolError,
        "larger than 65536 bytes",
    )
    .await;
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(129));
    fails(many, FetchErrorKind::ProtocolError, "128 fields").await;
    let enough = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n",
        "x: 1\r\n".repeat(127)
    );
    assert!(outcome(Method::GET, enough).await.is_ok());
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut response =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    response.extend_from_slice(&body);
    let (origin, mut shard) = start().await;
    shard.get("/");
    let (mut connection, _) = origin.request().await;
    let sending = tokio::spawn(async move { connection.send(response).await });
    let answer = shard.answer().await.expect("an answer");
    sending.await.expect("sent");
    assert!(answer.body == body);
    assert_eq!(shard.stats().bytes, 3_000_000);
}
