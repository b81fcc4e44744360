//! Credit, cancellation, and the bounds on fetches and connections.

use super::origin::{Connection, Origin};
use super::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// An origin whose upstream waits only shortly for one of few connections.
async fn start(limit: impl FnOnce(&mut UpstreamConfig)) -> (Origin, Shard) {
    let origin = Origin::bind().await;
    let mut config = config(&origin.url());
    limit(&mut config);
    (origin, Shard::new(config))
}

#[tokio::test]
async fn no_more_than_window_and_credit_is_delivered() {
    let (origin, mut shard) = start(|_| ()).await;
    let id = shard.start(Method::GET, "/", 1_000);
    let body: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut connection, _) = origin.request().await;
    connection
        .send("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n")
        .await;
    let sent = body.clone();
    let sending = tokio::spawn(async move { connection.send(sent).await });
    shard.head().await;
    let mut seen = shard.body(1_000).await;
    shard.stays_silent().await;
    shard.credit(id, 500);
    seen.extend(shard.body(500).await);
    shard.stays_silent().await;
    shard.credit(id, 198_500);
    seen.extend(shard.body(198_500).await);
    // The end needs no credit.
    assert!(matches!(shard.next().await.1, FetchEvent::End));
    assert!(seen == body);
    soon(sending).await.expect("sent");
}

#[tokio::test]
async fn without_credit_the_socket_is_not_read() {
    // More than the kernel buffers for a socket.
    const BODY: usize = 64 << 20;
    let (origin, mut shard) = start(|_| ()).await;
    let id = shard.start(Method::GET, "/", 10);
    let (mut connection, _) = origin.request().await;
    connection
        .send(format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n"))
        .await;
    let sending = tokio::spawn(async move { connection.send(vec![7; BODY]).await });
    shard.head().await;
    shard.body(10).await;
    shard.stays_silent().await;
    assert!(!sending.is_finished());
    shard.credit(id, NO_LIMIT);
    shard.body(BODY - 10).await;
    assert!(matches!(shard.next().await.1, FetchEvent::End));
    soon(sending).await.expect("sent");
}

#[tokio::test]
async fn an_empty_window_delivers_the_head_only() {
    let (origin, mut shard) = start(|_| ()).await;
    let id = shard.start(Method::GET, "/", 0);
    let _connection = origin.answer(HELLO).await;
    assert_eq!(shard.head().await, (StatusCode::OK, Some(5)));
    shard.stays_silent().await;
    shard.credit(id, 5);
    shard.body(5).await;
    assert!(matches!(shard.next().await.1, FetchEvent::End));
}

#[tokio::test]
async fn a_full_event_channel_delays_and_loses_nothing() {
    let origin = Origin::bind().await;
    let mut shard = Shard::with_room(config(&origin.url()), 1);
    for _ in 0..3 {
        shard.get("/");
    }
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(origin.answer(HELLO).await);
    }
    let mut ends = 0;
    let mut bytes = 0;
    while ends < 3 {
        match shard.next().await.1 {
            FetchEvent::End => ends += 1,
            FetchEvent::Body(body) => bytes += body.len(),
            FetchEvent::Head { .. } | FetchEvent::Hints(_) | FetchEvent::Room(_) => (),
            FetchEvent::Failed(error) => panic!("{error}"),
        }
    }
    assert_eq!(bytes, 15);
}

async fn stalled(origin: &Origin, shard: &mut Shard) -> Connection {
    let connection = origin
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        .await;
    shard.head().await;
    shard.body(4).await;
    connection
}

#[tokio::test]
async fn cancel_closes_the_connection_and_frees_the_slot() {
    let (origin, mut shard) = start(|config| {
        config.max_fetches = 1;
        config.max_connections = 1;
    })
    .await;
    let id = shard.get("/1");
    let connection = stalled(&origin, &mut shard).await;
    shard.cancel(id);
    assert_eq!(shard.upstream.in_flight(), 0);
    shard.get("/2");
    connection.closed().await;
    let _connection = origin.answer(HELLO).await;
    // Nothing of the cancelled fetch comes in between.
    assert_eq!(shard.answer().await.expect("the second").body, b"hello");
    let stats = shard.stats();
    assert_eq!((stats.started, stats.ok, stats.cancelled), (2, 1, 1));
}

#[tokio::test]
async fn cancel_works_before_the_head_and_without_credit() {
    let (origin, mut shard) = start(|_| ()).await;
    let id = shard.get("/");
    let (connection, _) = origin.request().await;
    shard.cancel(id);
    connection.closed().await;
    let id = shard.start(Method::GET, "/", 1);
    let connection = origin.answer(HELLO).await;
    shard.head().await;
    shard.body(1).await;
    shard.cancel(id);
    connection.closed().await;
    shard
        .until(|shard| shard.stats().connections_open == 0)
        .await;
    // Twice, late, or for nobody: no harm.
    shard.cancel(id);
    shard.credit(id, 1);
    shard.cancel(FetchId(99));
    shard.stays_silent().await;
    assert_eq!(shard.stats().cancelled, 2);
}

#[tokio::test]
async fn fetches_are_bounded() {
    let (origin, mut shard) = start(|config| config.max_fetches = 1).await;
    shard.get("/1");
    let (mut connection, _) = origin.request().await;
    let second = shard.get("/2");
    let (refused, event) = shard.next().await;
    assert_eq!(refused, second);
    let FetchEvent::Failed(error) = event else {
        panic!("not refused: {event:?}");
    };
    assert_eq!(error.kind, FetchErrorKind::LimitReached);
    assert!(error.detail.contains("max_fetches"), "{error}");
    connection.send(HELLO).await;
    shard.answer().await.expect("the first");
    shard.get("/3");
    connection.request().await;
    connection.send(HELLO).await;
    shard.answer().await.expect("the third");
    assert_eq!(shard.stats().failed["limit_reached"], 1);
}

#[tokio::test]
async fn a_fetch_waits_for_a_busy_connection() {
    let (origin, mut shard) = start(|config| config.max_connections = 1).await;
    shard.get("/1");
    let (mut connection, _) = origin.request().await;
    shard.get("/2");
    shard.stays_silent().await;
    connection.send(HELLO).await;
    assert!(connection.request().await.starts_with("GET /2 "));
    shard.answer().await.expect("the first");
    connection.send(HELLO).await;
    shard.answer().await.expect("the second");
    assert_eq!(shard.stats().connections_made, 1);
}

#[tokio::test]
async fn a_fetch_that_waits_takes_the_place_of_a_connection_that_closed() {
    let (origin, mut shard) = start(|config| config.max_connections = 1).await;
    shard.get("/1");
    let (mut connection, _) = origin.request().await;
    shard.get("/2");
    connection
        .send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .await;
    shard.answer().await.expect("the first");
    connection.closed().await;
    let _connection = origin.answer(HELLO).await;
    shard.answer().await.expect("the second");
    assert_eq!(shard.stats().connections_made, 2);
}

#[tokio::test]
async fn but_it_does_not_wait_for_ever() {
    let (origin, mut shard) = start(|config| {
        config.max_connections = 1;
        config.connect_timeout = Duration::from_millis(150);
    })
    .await;
    shard.get("/1");
    let (mut connection, _) = origin.request().await;
    shard.get("/2");
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::LimitReached);
    assert!(error.detail.contains("max_connections"), "{error}");
    connection.send(HELLO).await;
    shard.answer().await.expect("the first");
}

#[tokio::test]
async fn a_cancelled_wait_does_not_hold_up_the_next() {
    let (origin, mut shard) = start(|config| config.max_connections = 1).await;
    shard.get("/1");
    let (mut connection, _) = origin.request().await;
    let second = shard.get("/2");
    shard.get("/3");
    shard.stays_silent().await;
    shard.cancel(second);
    connection.send(HELLO).await;
    assert!(connection.request().await.starts_with("GET /3 "));
    shard.answer().await.expect("the first");
    connection.send(HELLO).await;
    shard.answer().await.expect("the third");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fetches_use_no_more_connections_than_allowed() {
    let (origin, mut shard) = start(|config| config.max_connections = 3).await;
    for _ in 0..50 {
        shard.get("/");
    }
    let serving = tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            let mut connection = origin.accept().await;
            connections.push(tokio::spawn(async move {
                loop {
                    connection.request().await;
                    connection.send(HELLO).await;
                }
            }));
        }
    });
    shard.ends(50).await;
    let stats = shard.stats();
    assert_eq!((stats.connections_made, stats.reused), (3, 47));
    assert_eq!(shard.upstream.in_flight(), 0);
    serving.abort();
}

#[tokio::test]
async fn a_connection_nobody_needs_is_closed() {
    let (origin, mut shard) = start(|_| ()).await;
    shard.get("/");
    let connection = origin.answer(HELLO).await;
    shard.answer().await.expect("an answer");
    tokio::time::pause();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(61)).await;
    }
    tokio::time::resume();
    connection.closed().await;
}

#[tokio::test]
async fn fetches_end_with_their_shard() {
    let (origin, mut shard) = start(|_| ()).await;
    shard.get("/");
    let mut connection = stalled(&origin, &mut shard).await;
    shard.events.close();
    connection.send("x").await;
    connection.closed().await;
    shard.until(|shard| shard.upstream.in_flight() == 0).await;
    assert_eq!(shard.stats().cancelled, 1);
}

#[tokio::test]
async fn and_with_the_upstream() {
    let (origin, mut shard) = start(|_| ()).await;
    shard.get("/1");
    let busy = stalled(&origin, &mut shard).await;
    shard.get("/2");
    let idle = origin.answer(HELLO).await;
    shard.answer().await.expect("the second");
    drop(shard);
    busy.closed().await;
    idle.closed().await;
}
