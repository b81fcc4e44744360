//! Every wait ends, and says which wait it was. Short timeouts are configured; how long anything
//! took is not asserted.

use super::origin::Origin;
use super::*;

const SHORT: Duration = Duration::from_millis(150);

async fn start(shorten: impl FnOnce(&mut UpstreamConfig)) -> (Origin, Shard) {
    let origin = Origin::bind().await;
    let mut config = config(&origin.url());
    shorten(&mut config);
    (origin, Shard::new(config))
}

#[tokio::test]
async fn a_refused_connection() {
    let url = Origin::bind().await.url();
    let mut shard = Shard::new(config(&url));
    shard.get("/");
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionRefused, "{error}");
    assert!(error.detail.contains(&url), "{error}");
    assert_eq!(shard.stats().connections_made, 0);
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    // Longer than a DNS label may be, so that no resolver is asked.
    let mut shard = Shard::new(config(&format!("http://{}.test", "o".repeat(70))));
    shard.get("/");
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::DnsError, "{error}");
}

#[tokio::test]
async fn no_tls_answer_within_the_connect_timeout() {
    let origin = Origin::bind().await;
    let mut config = config(&origin.url().replace("http:", "https:"));
    config.connect_timeout = SHORT;
    let mut shard = Shard::new(config);
    shard.get("/");
    let _connection = origin.accept().await;
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTimeout, "{error}");
    assert!(error.detail.contains("connect_timeout"), "{error}");
}

#[tokio::test]
async fn no_head_within_the_first_byte_timeout() {
    let (origin, mut shard) = start(|config| config.first_byte_timeout = SHORT).await;
    shard.get("/");
    let (mut connection, _) = origin.request().await;
    // Neither interim responses nor half a head count.
    connection
        .send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n")
        .await;
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ResponseTimeout, "{error}");
    assert!(error.detail.contains("first_byte_timeout"), "{error}");
    connection.closed().await;
}

#[tokio::test]
async fn a_body_that_stalls() {
    let (origin, mut shard) = start(|config| config.idle_timeout = SHORT).await;
    shard.get("/");
    let connection = origin
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        .await;
    shard.head().await;
    shard.body(4).await;
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::BodyTimeout, "{error}");
    assert!(error.detail.contains("4 body bytes"), "{error}");
    connection.closed().await;
    assert_eq!(shard.stats().failed["body_timeout"], 1);
}

#[tokio::test]
async fn a_body_that_trickles_for_ever() {
    let (origin, mut shard) = start(|config| config.total_timeout = SHORT).await;
    shard.get("/");
    let mut connection = origin.answer("HTTP/1.1 200 OK\r\n\r\n").await;
    let trickling = tokio::spawn(async move {
        while connection.try_send(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::BodyTimeout, "{error}");
    assert!(error.detail.contains("total_timeout"), "{error}");
    soon(trickling).await.expect("the connection was closed");
}

#[tokio::test]
async fn a_shard_that_gives_no_credit_is_not_the_origins_fault() {
    let (origin, mut shard) = start(|config| config.idle_timeout = SHORT).await;
    let id = shard.start(Method::GET, "/", 2);
    let _connection = origin
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    shard.head().await;
    assert_eq!(shard.body(2).await, b"he");
    tokio::time::sleep(SHORT * 3).await;
    shard.credit(id, 3);
    assert_eq!(shard.body(3).await, b"llo");
    assert!(matches!(shard.next().await.1, FetchEvent::End));
}

#[tokio::test]
async fn but_it_cannot_hold_a_connection_past_the_total_timeout() {
    let (origin, mut shard) = start(|config| config.total_timeout = SHORT).await;
    shard.start(Method::GET, "/", 2);
    let connection = origin
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    shard.head().await;
    shard.body(2).await;
    assert_eq!(shard.failure().await.kind, FetchErrorKind::BodyTimeout);
    connection.closed().await;
}
