//! Bodies of requests that come in pieces, over both versions.

use http::Response;

use super::origin::Origin;
use super::*;

/// More than a stream's window of HTTP/2.
const PIECES: usize = 20;
const PIECE: usize = 16 << 10;

impl Shard {
    fn post(&mut self, length: Option<u64>) -> FetchId {
        let body = cache_core::io::RequestBody::Streamed { length };
        self.start_with(Method::POST, "/", NO_LIMIT, body)
    }

    fn piece(&self, id: FetchId, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        self.command(FetchCommand::Body { id, bytes });
    }

    /// Reads until so many bytes of the body are gone.
    async fn room(&mut self, mut bytes: usize) {
        while bytes > 0 {
            match self.next().await.1 {
                FetchEvent::Room(room) => bytes -= room as usize,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A node over HTTP/2 that takes a body as it comes and says how long it was.
async fn http2() -> Shard {
    let origin = Origin::bind().await;
    let mut config = config(&origin.url());
    config.origins[0].http2 = Http2Mode::PriorKnowledge;
    tokio::spawn(async move {
        let stream = origin.accept().await.into_stream();
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(measure(request.into_body(), respond));
        }
    });
    Shard::new(config)
}

async fn measure(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        length += data.len();
        body.flow_control()
            .release_capacity(data.len())
            .expect("room");
    }
    let mut stream = respond
        .send_response(Response::new(()), false)
        .expect("a head");
    let text = Bytes::from(length.to_string());
    stream.send_data(text, true).expect("a body");
}

#[tokio::test]
async fn a_body_goes_out_over_http2_as_it_comes() {
    for declared in [Some((PIECES * PIECE) as u64), None] {
        let mut shard = http2().await;
        let id = shard.post(declared);
        for _ in 0..PIECES {
            shard.piece(id, vec![7; PIECE]);
            shard.room(PIECE).await;
        }
        shard.command(FetchCommand::BodyEnd { id });
        let answer = shard.answer().await.expect("an answer");
        assert_eq!(answer.body, (PIECES * PIECE).to_string().as_bytes());
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_stream_along() {
    let mut shard = http2().await;
    let id = shard.post(None);
    shard.piece(id, vec![7; PIECE]);
    shard.room(PIECE).await;
    shard.cancel(id);
    // The connection is not lost with it.
    let id = shard.post(Some(0));
    shard.command(FetchCommand::BodyEnd { id });
    assert_eq!(shard.answer().await.expect("an answer").body, b"0");
    assert_eq!(shard.stats().connections_made, 1);
}

#[tokio::test]
async fn a_body_goes_out_over_http1_as_it_comes() {
    let origin = Origin::bind().await;
    let mut shard = Shard::new(config(&origin.url()));
    let id = shard.post(Some(4));
    let (mut connection, head) = origin.request().await;
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    shard.piece(id, b"ab".to_vec());
    shard.room(2).await;
    assert_eq!(connection.take(2).await, b"ab");
    shard.piece(id, b"cd".to_vec());
    shard.command(FetchCommand::BodyEnd { id });
    assert_eq!(connection.take(2).await, b"cd");
    connection.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    shard.room(2).await;
    assert_eq!(
        shard.answer().await.expect("an answer").status,
        StatusCode::NO_CONTENT
    );
}

/// What was streamed is never sent twice, whatever the method.
#[tokio::test]
async fn a_streamed_body_is_not_tried_again() {
    let origin = Origin::bind().await;
    let mut shard = Shard::new(config(&origin.url()));
    let body = cache_core::io::RequestBody::Streamed { length: Some(2) };
    let id = shard.start_with(Method::PUT, "/", NO_LIMIT, body);
    shard.piece(id, b"ab".to_vec());
    shard.command(FetchCommand::BodyEnd { id });
    let (connection, _) = origin.request().await;
    drop(connection);
    shard.room(2).await;
    let error = shard.fails().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    assert_eq!(shard.stats().connections_made, 1);
}

/// A node that answers at once and closes while the body is still on its way: its kernel resets the connection.
#[tokio::test]
async fn an_answer_outlives_the_body_that_nobody_took() {
    for _ in 0..50 {
        let origin = Origin::bind().await;
        let mut shard = Shard::new(config(&origin.url()));
        let id = shard.post(Some(1 << 20));
        let (mut connection, _) = origin.request().await;
        connection
            .send("HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n")
            .await;
        drop(connection);
        for _ in 0..4 {
            shard.piece(id, vec![7; PIECE]);
        }
        let first = loop {
            match shard.next().await.1 {
                FetchEvent::Room(_) => {}
                first => break first,
            }
        };
        let answer = shard.answer_from(id, first).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), &*answer.body), (403, &b"no\n"[..]));
    }
}
