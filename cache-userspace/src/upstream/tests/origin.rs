//! An HTTP/1.1 origin that sends whatever bytes a test wants.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::soon;

pub(super) struct Origin {
    listener: TcpListener,
}

impl Origin {
    pub(super) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        Self { listener }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("bound"))
    }

    pub(super) async fn accept(&self) -> Connection {
        let (stream, _) = soon(self.listener.accept()).await.expect("accept");
        Connection { stream }
    }

    /// Accepts a connection and reads its first request.
    pub(super) async fn request(&self) -> (Connection, String) {
        let mut connection = self.accept().await;
        let request = connection.request().await;
        (connection, request)
    }

    /// Answers the first request of a new connection and lets the connection live.
    pub(super) async fn answer(&self, response: &str) -> Connection {
        let (mut connection, _) = self.request().await;
        connection.send(response).await;
        connection
    }
}

pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Reads one request head; none of ours has a body.
    pub(super) async fn request(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(self.stream.read_u8()).await.expect("a request"));
        }
        String::from_utf8(head).expect("an ASCII head")
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref()))
            .await
            .expect("the upstream reads");
    }

    /// Sends, or says why the upstream does not take it.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits until the upstream closes its side.
    pub(super) async fn closed(mut self) {
        let mut byte = [0];
        // A reset is an end as well.
        let read = soon(self.stream.read(&mut byte)).await.unwrap_or(0);
        assert_eq!(read, 0, "another request came instead");
    }
}
