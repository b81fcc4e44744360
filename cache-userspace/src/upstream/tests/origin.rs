//! An HTTP/1.1 origin that sends whatever bytes a test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

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

    /// The next bytes of a request's body.
    pub(super) async fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = soon(self.stream.read_exact(&mut bytes)).await;
        read.expect("a body");
        bytes
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
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

/// What a lying origin does with a request.
pub(super) enum Says {
    /// These bytes; the connection goes on.
    Bytes(Vec<u8>),
    /// Nothing, ever.
    Nothing,
    /// It closes the connection.
    Close,
}

/// An origin that serves any number of connections as it is told.
pub(super) struct Lying {
    pub(super) url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<String>,
    /// Connections that the upstream closed without an answer.
    closed: usize,
}

impl Lying {
    pub(super) async fn start(says: impl Fn(&str) -> Says + Clone + Send + Sync + 'static) -> Self {
        Self::start_counting(move |_, request| says(request)).await
    }

    /// `says` is told the number of the request, from 0.
    pub(super) async fn start_counting(
        says: impl Fn(usize, &str) -> Says + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Origin::bind().await.listener, says)
    }

    /// The same at an address that was somebody else's.
    pub(super) async fn start_on(
        url: &str,
        says: impl Fn(&str) -> Says + Clone + Send + Sync + 'static,
    ) -> Self {
        let address = url.trim_start_matches("http://");
        let listener = TcpListener::bind(address).await.expect("the port is free");
        Self::listen(listener, move |_, request| says(request))
    }

    fn listen(
        listener: TcpListener,
        says: impl Fn(usize, &str) -> Says + Clone + Send + Sync + 'static,
    ) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::<Mutex<Seen>>::default();
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(lie(stream, says.clone(), all.clone()));
            }
        });
        Self { url, seen }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests_for("") as usize
    }

    /// Requests whose head holds this.
    pub(super) fn requests_for(&self, part: &str) -> u64 {
        let seen = self.seen.lock().expect("no test panics with it");
        let requests = seen.requests.iter();
        requests.filter(|request| request.contains(part)).count() as u64
    }

    /// Waits until so many connections were closed by the upstream while it waited for an answer.
    pub(super) async fn closed(&self, count: u64) {
        soon(async {
            while (self.seen.lock().expect("no test panics with it").closed as u64) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn lie(mut stream: TcpStream, says: impl Fn(usize, &str) -> Says, seen: Arc<Mutex<Seen>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let number = {
            let mut seen = seen.lock().expect("no test panics with it");
            seen.requests.push(head.clone());
            seen.requests.len() - 1
        };
        match says(number, &head) {
            Says::Bytes(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Says::Nothing => {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    seen.lock().expect("no test panics with it").closed += 1;
                    return;
                }
            }
            Says::Close => return,
        }
    }
}
