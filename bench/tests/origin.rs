//! The origin over real sockets: what tests and demonstrations count on.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use popcache_bench::origin::{Fault, Options, Origin, body};

/// Starts an origin in a runtime of its own until the process ends.
fn start(fault: Option<(Fault, u8)>) -> SocketAddr {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emotes-{number}"));
    let options = Options {
        emotes: 3,
        dir,
        fault,
        ..Options::default()
    };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listen = "127.0.0.1:0".parse().expect("an address");
            let origin = Origin::bind(listen, options).await.expect("a free port");
            tell.send(origin.address().expect("bound"))
                .expect("the test waits");
            origin.serve().await.expect("it goes on");
        });
    });
    told.recv().expect("an origin")
}

struct Answer {
    head: String,
    body: Vec<u8>,
    /// The connection ended with an error instead of an end.
    broken: bool,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn ask(origin: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(origin).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let (line, fields) = request.split_once('|').unwrap_or((request, ""));
    let text = format!("{line} HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(text.as_bytes()).expect("sent");
    let (mut bytes, mut part, mut broken) = (Vec::new(), [0; 65_536], false);
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(error) => {
                assert_ne!(
                    error.kind(),
                    ErrorKind::WouldBlock,
                    "no answer to {request}"
                );
                broken = true;
                break;
            }
        }
    }
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(0, |at| at + 4);
    let body = bytes.split_off(end);
    Answer {
        head: String::from_utf8(bytes).expect("a head is text"),
        body,
        broken,
    }
}

#[test]
fn answers_hold_the_known_bytes() {
    let origin = start(None);
    for (target, cache_control) in [
        ("/emotes/2.png", "public, max-age=86400, immutable"),
        ("/size/5000?v=3", "max-age=3600"),
        ("/media/20mb.bin", "max-age=3600"),
        ("/slow/30/name", "max-age=3600"),
        ("/drip/1000/40", "max-age=3600"),
        ("/private", "private, max-age=3600"),
        ("/no-store", "no-store"),
        ("/index", "max-age=60"),
    ] {
        let answer = ask(origin, &format!("GET {target}"));
        let expected = body(target).expect("known");
        assert_eq!((answer.status(), answer.broken), (200, false), "{target}");
        assert!(answer.body == expected, "{target}: other bytes");
        assert_eq!(
            answer.field("content-length"),
            Some(expected.len().to_string().as_str()),
            "{target}"
        );
        assert_eq!(
            answer.field("cache-control"),
            Some(cache_control),
            "{target}"
        );
        assert!(answer.field("etag").is_some(), "{target}");
    }
    let chunked = ask(origin, "GET /chunked/9");
    assert!(chunked.field("content-length").is_none() && chunked.body.starts_with(b"9\r\n"));
}

#[test]
fn heads_validators_and_statuses() {
    let origin = start(None);
    let head = ask(origin, "HEAD /size/77");
    assert_eq!(
        (head.status(), head.field("content-length"), head.body.len()),
        (200, Some("77"), 0)
    );
    let tag = head.field("etag").expect("a tag").to_owned();
    let same = ask(origin, &format!("GET /size/77|if-none-match: {tag}\r\n"));
    assert_eq!((same.status(), same.body.len()), (304, 0));
    for (target, status) in [
        ("/status/503", 503),
        ("/status/204", 204),
        ("/status/100", 400),
        ("/emotes/3.png", 404),
        ("/slow/x/name", 404),
        ("/size/1?delay=x", 400),
    ] {
        assert_eq!(
            ask(origin, &format!("GET {target}")).status(),
            status,
            "{target}"
        );
    }
    let asked = ask(origin, "GET /size/4?cc=max-age%3D7");
    assert_eq!(asked.field("cache-control"), Some("max-age=7"));
    let live: serde_json::Value =
        serde_json::from_slice(&ask(origin, "GET /live/status.json").body).expect("JSON");
    assert!(live["counter"].is_u64());
}

#[test]
fn requests_are_counted_and_forgotten() {
    let origin = start(None);
    for target in ["/size/1", "/size/1", "/size/1?v=2", "/nope"] {
        ask(origin, &format!("GET {target}"));
    }
    let counts = ask(origin, "GET /__counts").body;
    assert_eq!(counts, br#"{"/nope":1,"/size/1":2,"/size/1?v=2":1}"#);
    assert_eq!(ask(origin, "GET /__reset").status(), 405);
    assert_eq!(ask(origin, "POST /__reset").status(), 200);
    assert_eq!(ask(origin, "GET /__counts").body, b"{}");
}

#[test]
fn faults_spoil_answers_as_asked() {
    let origin = start(None);
    let half = ask(origin, "GET /size/4000?fault=truncate");
    assert_eq!((half.status(), half.body.len()), (200, 2000));
    assert_eq!(ask(origin, "GET /truncate").body.len(), 2048);
    assert!(ask(origin, "GET /size/1?fault=close").head.is_empty());
    assert_eq!(ask(origin, "GET /size/1?fault=error").status(), 500);
    assert_eq!(ask(origin, "GET /size/1?fault=melt").status(), 400);
}

#[test]
fn a_share_of_the_answers_is_spoilt() {
    let origin = start(Some((Fault::Error, 25)));
    let spoilt = (0..40)
        .filter(|_| ask(origin, "GET /size/1").status() == 500)
        .count();
    assert_eq!(spoilt, 10);
}
