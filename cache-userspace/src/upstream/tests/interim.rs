//! Responses before the final one, and what comes after a body: over both versions.

use http::{Response, header};

use super::origin::Origin;
use super::*;

const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const HINT: &str =
    "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nset-cookie: a=1\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const PROCESSING: &str = "HTTP/1.1 102 Processing\r\nx: y\r\n\r\n";
const MAX: u32 = 3;

/// What a node says to its only request.
#[derive(Clone, Copy)]
enum Speaks {
    Http1,
    Http2,
}

const BOTH: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

/// Asks a node that says so many hints, and that many other interim responses, before it answers.
async fn asked(speaks: Speaks, hints: usize, others: usize, early_hints: bool) -> Shard {
    let origin = Origin::bind().await;
    let mut config = config(&origin.url());
    config.max_interim = MAX;
    config.early_hints = early_hints;
    if let Speaks::Http2 = speaks {
        config.origins[0].http2 = Http2Mode::PriorKnowledge;
    }
    let mut shard = Shard::new(config);
    shard.get("/");
    match speaks {
        Speaks::Http1 => {
            let (mut connection, _) = origin.request().await;
            let said = HINT.repeat(hints) + &CONTINUE.repeat(others / 2);
            let said = said + &PROCESSING.repeat(others - others / 2) + FINAL;
            // It may be refused half-way.
            let _ = connection.try_send(said.as_bytes()).await;
            // Closed with what it is held by.
            tokio::spawn(connection.closed());
        }
        Speaks::Http2 => {
            tokio::spawn(say_over_http2(origin, hints, others));
        }
    }
    shard
}

async fn say_over_http2(origin: Origin, hints: usize, others: usize) {
    let stream = origin.accept().await.into_stream();
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request.expect("a request");
        let interim = |status: u16| {
            let head = Response::builder().status(status);
            let head = head.header("link", "</a.css>; rel=preload");
            head.header("set-cookie", "a=1").body(()).expect("a head")
        };
        for _ in 0..hints {
            respond.send_informational(interim(103)).expect("a hint");
        }
        for _ in 0..others {
            respond.send_informational(interim(100)).expect("another");
        }
        let head = Response::builder().header("content-length", 5).body(());
        let stream = respond.send_response(head.expect("a head"), false);
        let mut stream = stream.expect("a stream");
        stream
            .send_data(Bytes::from_static(b"hello"), false)
            .expect("a body");
        let trailers = HeaderMap::from_iter([(header::ETAG, "\"t\"".parse().expect("a value"))]);
        stream.send_trailers(trailers).expect("trailers");
    }
}

/// Hints before the head, and the answer.
async fn hints_and_answer(shard: &mut Shard) -> (usize, Result<Answer, FetchError>) {
    let mut hints = 0;
    loop {
        let (id, event) = shard.next().await;
        match event {
            FetchEvent::Hints(headers) => {
                assert_eq!(headers.len(), 1, "{headers:?}");
                assert_eq!(headers["link"], "</a.css>; rel=preload");
                hints += 1;
            }
            first => return (hints, shard.answer_from(id, first).await),
        }
    }
}

#[tokio::test]
async fn interim_responses_are_never_the_answer() {
    for speaks in BOTH {
        let mut shard = asked(speaks, 1, 2, true).await;
        let (hints, answer) = hints_and_answer(&mut shard).await;
        let answer = answer.expect("the final one");
        assert_eq!((hints, answer.status), (1, StatusCode::OK));
        assert_eq!(answer.body, b"hello");
        for name in ["link", "set-cookie", "etag"] {
            assert!(!answer.headers.contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn hints_may_be_kept_from_clients() {
    for speaks in BOTH {
        let mut shard = asked(speaks, 2, 0, false).await;
        let (hints, answer) = hints_and_answer(&mut shard).await;
        assert_eq!(
            (hints, answer.expect("an answer").status),
            (0, StatusCode::OK)
        );
    }
}

#[tokio::test]
async fn too_many_end_the_fetch() {
    for speaks in BOTH {
        for (hints, others) in [(2, 2), (0, 4), (4, 0), (0, 2_000)] {
            let mut shard = asked(speaks, hints, others, true).await;
            let (told, answer) = hints_and_answer(&mut shard).await;
            let error = answer.expect_err("a flood");
            assert_eq!(error.kind, FetchErrorKind::ProtocolError, "{error}");
            assert!(error.detail.contains("more than 3 interim"), "{error}");
            assert!(told <= MAX as usize);
            assert_eq!(shard.stats().failed["protocol_error"], 1);
        }
    }
}
