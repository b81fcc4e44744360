//! The demo origin, and asking it directly: what it holds, and how often it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::network::within;
use super::process::Process;
use super::{HOST, places};

/// Where it listens, in the appliance's namespace.
pub const ADDRESS: &str = "127.0.0.1:8080";

/// The first start draws its pictures.
const START: Duration = Duration::from_secs(120);
/// Among its counts.
const FILM_BYTES: &str = "__film_bytes";
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Origin {
    process: Option<Process>,
    namespace: String,
    log: PathBuf,
}

impl Origin {
    pub fn start(namespace: &str, log: &Path) -> Self {
        let mut origin = Self {
            process: None,
            namespace: namespace.to_owned(),
            log: log.to_owned(),
        };
        origin.resume();
        origin
    }

    /// Ends it: connections to it are refused from now on.
    pub fn stop(&mut self) {
        self.process.take().expect("the origin runs").stop();
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        assert!(self.process.is_none(), "the origin runs already");
        let mut process = Process::start(
            &self.namespace,
            Command::new(places::binary("popcache-bench")).args(["origin", "--listen", ADDRESS]),
            &self.log,
        );
        process.wait_for_line("popcache-bench: origin ready on", START);
        self.process = Some(process);
    }

    /// The body that it gives for a path. This request is counted by it too.
    pub fn body(&self, path: &str) -> Vec<u8> {
        let response = self.get(path);
        let end = response
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a response has a head");
        response[end + 4..].to_vec()
    }

    /// How often a path was asked for.
    pub fn requests(&self, path: &str) -> u64 {
        self.counts().get(path).copied().unwrap_or(0)
    }

    /// What of a film was asked for, and how often.
    pub fn asked_for(&self, path: &str) -> Vec<(String, u64)> {
        let counts = self.counts().into_iter();
        counts
            .filter(|(target, _)| target.starts_with(path))
            .collect()
    }

    /// Body bytes of films that it has sent.
    pub fn film_bytes(&self) -> u64 {
        self.counts()[FILM_BYTES]
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        serde_json::from_slice(&self.body("/__counts")).expect("the counts are JSON")
    }

    pub fn post(&self, path: &str) {
        let response = self.ask("POST", path);
        assert!(response.starts_with(b"HTTP/1.0 200"), "{path}");
    }

    /// HTTP/1.0, so that the body is plain bytes up to the end of the connection.
    fn get(&self, path: &str) -> Vec<u8> {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> Vec<u8> {
        within(&self.namespace, || {
            let mut stream = TcpStream::connect(ADDRESS).expect("connect to the origin");
            stream
                .set_read_timeout(Some(TIMEOUT))
                .expect("bound the wait");
            write!(stream, "{method} {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n")
                .expect("ask the origin");
            let mut response = Vec::new();
            stream
                .read_to_end(&mut response)
                .expect("read the origin's answer");
            response
        })
    }
}
