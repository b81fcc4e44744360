//! The admin API over real sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::client::{self, ClientError};
use super::{Listeners, bind, serve_admin};
use crate::config::AdminConfig;
use crate::node::tests::node;
use crate::node::{PinState, PurgeOrder};
use cache_core::io::{Command, PinError, PinStats, Pinned, Reply};
use cache_core::store::StoreError;

const TOKEN: &str = "correct-horse-battery";

/// A node on sockets in its own directory; its shards answer every purge with 2 objects each, and keep
/// what is pinned.
struct Running {
    dir: tempfile::TempDir,
    tcp: Option<std::net::SocketAddr>,
    server: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(with_tcp: bool) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let listeners = bind(&config(dir.path(), with_tcp)).expect("bound");
        let tcp = listeners.tcp_address();
        Self {
            dir,
            tcp,
            server: tokio::spawn(serve(listeners)),
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("admin.sock")
    }

    async fn ask(&self, request: &str) -> String {
        let stream = UnixStream::connect(self.socket()).await.expect("connected");
        exchange(stream, request).await
    }

    async fn ask_tcp(&self, request: &str) -> String {
        let address = self.tcp.expect("a TCP listener");
        let stream = TcpStream::connect(address).await.expect("connected");
        exchange(stream, request).await
    }
}

fn config(dir: &Path, with_tcp: bool) -> AdminConfig {
    let token = dir.join("token");
    std::fs::write(&token, TOKEN).expect("write");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    AdminConfig {
        socket: dir.join("admin.sock"),
        tcp: with_tcp.then(|| "127.0.0.1:0".parse().expect("address")),
        token_file: Some(token),
    }
}

fn pinned(pinned: Result<Pinned, PinError>) -> Reply {
    Reply::Pinned {
        pinned,
        on_drives: false,
    }
}

async fn serve(listeners: Listeners) {
    let (node, mut shards) = node();
    let answer = async {
        while let Some(asked) = shards.recv().await {
            let reply = match asked.command {
                Command::SeePurges { .. } | Command::PurgeKeys { .. } => {
                    Reply::Purged { objects: 2 }
                }
                Command::Pin(key) if key.starts_with(b"edge.test/") => {
                    pinned(Ok(Pinned::Kept { bytes: 7 }))
                }
                Command::Pin(key) if key.starts_with(b"full.test/") => {
                    pinned(Err(StoreError::TooManyPins { max: 4 }.into()))
                }
                Command::Pin(_) => pinned(Err(PinError::UnknownHost)),
                Command::Unpin(_) => Reply::Unpinned { was_pinned: true },
                Command::Pins => Reply::Pins {
                    pins: Vec::new(),
                    stats: PinStats {
                        budget: 10,
                        ..PinStats::default()
                    },
                },
                Command::Explain(_) => Reply::Explained(None),
                other => panic!("nobody asks for {other:?}"),
            };
            asked.reply.send(reply).expect("someone waits");
        }
    };
    let (served, ()) = tokio::join!(serve_admin(listeners, node), answer);
    served.expect("served");
}

/// Sends `request` with `Connection: close` and reads all of the answer.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A refused body may end in a reset; what arrived before it is the answer.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

const JSON: &str = "content-type: application/json\r\n";

/// Status code and body.
fn parts(answer: &str) -> (u16, serde_json::Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head[9..12].parse().expect("a status code");
    (code, serde_json::from_str(body).expect("JSON"))
}

#[tokio::test]
async fn the_client_reads_the_status_and_purges() {
    let running = Running::start(false);
    let status = client::status(&running.socket()).await.expect("status");
    assert_eq!(status.shards.len(), 2);
    assert_eq!(status.shards[0].get("requests"), 10);
    let report = client::purge(&running.socket(), PurgeOrder::Everything, false).await;
    let report = report.expect("purged");
    assert_eq!((report.objects, report.shards), (Some(4), 2));
    let tags = PurgeOrder::Tags(vec!["emotes".to_owned(), "sets".to_owned()]);
    let report = client::purge(&running.socket(), tags, true).await;
    let report = report.expect("purged");
    assert_eq!(
        (report.objects, report.purges, report.soft),
        (None, 2, true)
    );
    let urls = PurgeOrder::Urls(vec!["edge.test/a".to_owned()]);
    let refused = client::purge(&running.socket(), urls, false).await;
    let refused = refused.expect_err("no URL");
    assert!(matches!(&refused, ClientError::Refused { .. }), "{refused}");
    assert!(
        refused.to_string().contains("https://host/path"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_client_pins_unpins_and_lists() {
    let running = Running::start(false);
    let socket = running.socket();
    let pinned = client::pin(&socket, "https://edge.test/a").await;
    let pinned = pinned.expect("pinned");
    assert_eq!((pinned.state, pinned.bytes), (PinState::Kept, Some(7)));
    let unpinned = client::unpin(&socket, "https://edge.test/a").await;
    assert!(unpinned.expect("unpinned").was_pinned);
    let pins = client::pins(&socket).await.expect("listed");
    assert_eq!((pins.pins.len(), pins.budget), (0, 20));
    for (url, says) in [
        ("https://full.test/a", "raise memory.max_pins"),
        ("https://other.test/a", "no origin serves this host"),
        ("other.test/a", "https://host/path"),
    ] {
        let refused = client::pin(&socket, url).await.expect_err(url);
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("admin.sock");
    let error = client::status(&path).await.expect_err("nobody");
    assert!(
        error.is_unreachable() && error.to_string().contains("is it running"),
        "{error}"
    );
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a crashed run's socket"));
    let error = client::status(&path).await.expect_err("nobody");
    assert!(
        error.is_unreachable() && error.to_string().contains("crash"),
        "{error}"
    );
}

#[tokio::test]
async fn bad_requests_are_json_errors_with_hints() {
    let running = Running::start(false);
    let big = format!("{{\"url\": \"{}\"}}", "x".repeat(1 << 20));
    for (request, code, words) in [
        (request("GET", "/nope", "", ""), 404, "there is no /nope"),
        (
            request("POST", "/v1/status", "", ""),
            405,
            "POST does not apply",
        ),
        (
            request("GET", "/v1/purge", "", ""),
            405,
            "GET does not apply",
        ),
        (request("POST", "/v1/purge", "", "{}"), 415, "Content-Type"),
        (request("POST", "/v1/purge", JSON, "{"), 400, "JSON"),
        (request("GET", "/v1/pin", "", ""), 405, "GET does not apply"),
        (
            request("POST", "/v1/unpin", JSON, "{\"urls\": []}"),
            422,
            "unknown field",
        ),
        (
            request("POST", "/v1/pin", JSON, "{}"),
            422,
            "https://host/path",
        ),
        (
            request("POST", "/v1/pin", JSON, "{\"url\": \"https://full.test/\"}"),
            507,
            "popcache pins",
        ),
        (
            request("POST", "/v1/purge", JSON, "{}"),
            400,
            "say what to purge",
        ),
        (
            request("POST", "/v1/purge", JSON, "{\"all\": false}"),
            400,
            "say what to purge",
        ),
        (
            request(
                "POST",
                "/v1/purge",
                JSON,
                "{\"all\": true, \"url\": \"https://a/\"}",
            ),
            400,
            "one of them",
        ),
        (
            request("POST", "/v1/purge", JSON, "{\"everything\": true}"),
            422,
            "unknown field",
        ),
        (
            request("POST", "/v1/purge", JSON, "{\"url\": 5}"),
            422,
            "a string or a list",
        ),
        (
            request("POST", "/v1/purge", JSON, &big),
            413,
            "at most 1048576 bytes",
        ),
    ] {
        let answer = running.ask(&request).await;
        let (found, body) = parts(&answer);
        assert_eq!(found, code, "{answer}");
        let (error, hint) = (body["error"].as_str(), body["hint"].as_str());
        assert!(
            error.is_some_and(|e| !e.is_empty()) && hint.is_some_and(|h| !h.is_empty()),
            "{answer}"
        );
        assert!(answer.contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_get_is_answered_with_json() {
    let running = Running::start(false);
    let (code, status) = parts(&running.ask(&request("GET", "/v1/status", "", "")).await);
    assert_eq!(
        (code, status["backend"]["kind"].as_str()),
        (200, Some("udp"))
    );
    let (code, config) = parts(&running.ask(&request("GET", "/v1/config", "", "")).await);
    assert_eq!((code, config["settings"].is_array()), (200, true));
}

#[tokio::test]
async fn tcp_wants_the_token_for_everything() {
    let running = Running::start(true);
    for path in ["/v1/status", "/v1/config", "/nope"] {
        for field in [
            "",
            "authorization: Bearer wrong\r\n",
            "authorization: Basic abc\r\n",
        ] {
            let answer = running.ask_tcp(&request("GET", path, field, "")).await;
            let (code, body) = parts(&answer);
            assert_eq!(code, 401, "{answer}");
            assert!(
                answer.to_lowercase().contains("www-authenticate: bearer"),
                "{answer}"
            );
            assert!(
                body["hint"]
                    .as_str()
                    .is_some_and(|h| h.contains("admin.token_file"))
            );
        }
    }
    let field = format!("authorization: Bearer {TOKEN}\r\n");
    let (code, _) = parts(
        &running
            .ask_tcp(&request("GET", "/v1/status", &field, ""))
            .await,
    );
    assert_eq!(code, 200);
    let (code, _) = parts(&running.ask(&request("GET", "/v1/status", "", "")).await);
    assert_eq!(code, 200, "the Unix socket wants no token");
}

#[tokio::test]
async fn the_socket_is_gone_when_the_server_is() {
    let running = Running::start(false);
    client::status(&running.socket()).await.expect("status");
    running.server.abort();
    while !running.server.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(!running.socket().exists());
}
