//! HTTP/3 clients of others, run in the clients' namespace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::process::inside;
use super::{Edge, HOST, SERVER, places};

/// What a client saw of one response.
#[derive(Debug, Deserialize)]
pub struct Fetched {
    /// 0 where no whole response came.
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub http_version: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub length: u64,
    #[serde(default)]
    pub sha256: String,
    /// Of the body that was sent (upload).
    #[serde(default)]
    pub sent_sha256: String,
    pub error: Option<String>,
    /// Local ports used (aioquic).
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Bytes received before the port changed (aioquic).
    #[serde(default)]
    pub rebound_at: u64,
    /// Bytes of every download of the connection when this one was complete (aioquic).
    #[serde(default)]
    pub beside: Vec<u64>,
    /// The server took the early data that it was asked for in (aioquic).
    #[serde(default)]
    pub early: bool,
    /// It came before the client had sent more than its first flight (aioquic).
    #[serde(default)]
    pub unconfirmed: bool,
    /// Pictures of the page that were drawn (Chromium).
    #[serde(default)]
    pub pictures: u64,
}

/// What a server was seen to make of a rule.
#[derive(Debug, Deserialize)]
pub struct Rule {
    pub name: String,
    pub kept: bool,
    pub seen: serde_json::Value,
}

impl Fetched {
    /// The value of a header, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn cache_status(&self) -> &str {
        self.header("cache-status")
    }

    pub fn is_hit(&self) -> bool {
        self.cache_status().contains("; hit")
    }

    /// Asserts a whole 200 over HTTP/3 with exactly these bytes.
    #[track_caller]
    pub fn assert_body(&self, expected: &[u8]) {
        self.assert_body_over("h3", expected);
    }

    /// Asserts a whole 200 over this version of HTTP with exactly these bytes.
    #[track_caller]
    pub fn assert_body_over(&self, version: &str, expected: &[u8]) {
        assert_eq!(self.error, None, "{self:?}");
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.http_version, version, "{self:?}");
        self.assert_bytes(expected);
    }

    /// Asserts exactly these bytes, whatever the status.
    #[track_caller]
    pub fn assert_bytes(&self, expected: &[u8]) {
        assert_eq!(self.length, expected.len() as u64, "{self:?}");
        assert_eq!(self.sha256, sha256(expected), "{self:?}");
    }
}

/// One head of a response, interim or final.
#[derive(Debug, Deserialize)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// The certificates that a name was shown, by their SHA-256.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct Shown {
    pub tcp: String,
    pub quic: String,
}

/// What became of a broken rule.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    /// The error code of the connection's close.
    pub connection: Option<u64>,
    /// The error code of the stream's reset.
    pub stream: Option<u64>,
    pub status: Option<u16>,
}

/// What became of an attack, or of a broken rule of HTTP/1.1.
#[derive(Debug, Deserialize)]
pub struct TcpOutcome {
    pub name: String,
    /// Of the last response.
    pub status: Option<u16>,
    /// HTTP/2's error code.
    #[serde(default)]
    pub goaway: Option<u32>,
    /// The server ended the connection.
    pub closed: bool,
}

/// What became of the requests of a client that kept asking.
#[derive(Debug, Deserialize)]
pub struct Steady {
    pub ok: u64,
    /// Refused unseen, and asked for again.
    pub retried: u64,
    pub connections: u64,
    /// Connections that were told to end.
    pub goaways: u64,
    /// Attempts to connect that came to nothing.
    pub refused: Vec<String>,
    pub failed: Vec<serde_json::Value>,
    /// Digests of the bodies by path.
    pub bodies: BTreeMap<String, Vec<String>>,
}

impl Steady {
    /// Every request was answered, and with the right bytes.
    pub fn assert_flawless(&self, edge: &Edge) {
        assert!(
            self.failed.is_empty() && self.refused.is_empty(),
            "{self:?}"
        );
        assert!(self.ok > 0, "{self:?}");
        for (path, digests) in &self.bodies {
            assert_eq!(digests[..], [sha256(&edge.origin.body(path))], "{path}");
        }
    }
}

impl Edge {
    /// Breaks rules over TCP, each on a connection of its own.
    pub fn probe_tcp(&self, names: &[&str]) -> Vec<TcpOutcome> {
        let mut command = self.python("tcp.py");
        command.args(["--server", SERVER]).args(names);
        self.lines(&command)
    }

    /// Asks for every rule of RFC 9113 and RFC 7541 that a server can be asked for.
    pub fn ask_http2(&self) -> Vec<Rule> {
        let mut command = self.python("http2.py");
        command.args(["--server", SERVER]);
        self.lines(&command)
    }

    /// GET by libcurl, one after the other on one connection.
    pub fn curl(&self, paths: &[&str]) -> Vec<Fetched> {
        self.curl_with(&[], paths)
    }

    /// Like [`Self::curl`], with options of the script.
    pub fn curl_with(&self, options: &[&str], paths: &[&str]) -> Vec<Fetched> {
        let (address, port) = SERVER.split_once(':').expect("an address and a port");
        let mut command = self.python("curl.py");
        command
            .args(["--resolve", &format!("{HOST}:{port}:{address}")])
            .args(options)
            .args(paths.iter().map(|path| format!("https://{HOST}{path}")));
        self.lines(&command)
    }

    /// Every head that one request of libcurl is answered with.
    pub fn heads(&self, version: &str, options: &[&str], path: &str) -> Vec<Head> {
        let (address, port) = SERVER.split_once(':').expect("an address and a port");
        let mut command = self.python("heads.py");
        command
            .args(["--resolve", &format!("{HOST}:{port}:{address}")])
            .args(["--version", version])
            .args(options)
            .arg(format!("https://{HOST}{path}"));
        self.lines(&command)
    }

    /// What clients are shown that ask for these names.
    pub fn certificates(&self, names: &[&str]) -> Vec<Shown> {
        let mut command = self.python("certificates.py");
        command.args(["--server", SERVER]).args(names);
        self.lines(&command)
    }

    /// GET by aioquic, all at once on one connection.
    pub fn aioquic(&self, options: &[&str], paths: &[&str]) -> Vec<Fetched> {
        let mut command = self.python("download.py");
        command.args(["--server", SERVER]).args(options).args(paths);
        self.lines(&command)
    }

    /// Requests by aioquic in the early data of resumed sessions.
    pub fn early(&self, options: &[&str], paths: &[&str]) -> Vec<Fetched> {
        let mut command = self.python("early.py");
        command.args(["--server", SERVER]).args(options).args(paths);
        self.lines(&command)
    }

    /// POST of so many bytes, sent while the answer is read.
    pub fn upload(&self, version: &str, bytes: u64, options: &[&str], path: &str) -> Fetched {
        let mut command = self.python("upload.py");
        command
            .args(["--server", SERVER, "--version", version])
            .args(["--bytes", &bytes.to_string()])
            .args(options)
            .arg(path);
        self.lines(&command).remove(0)
    }

    /// Keeps asking for the paths over so many connections, as a client does that goes by GOAWAY; what became
    /// of it as `steady.py` reports it.
    pub fn steady(&self, seconds: f64, connections: usize, paths: &[&str]) -> Steady {
        let mut command = self.python("steady.py");
        command
            .args(["--server", SERVER, "--seconds", &seconds.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(paths);
        self.lines(&command).remove(0)
    }

    /// Starts a download with aioquic and leaves without a word after so many bytes.
    pub fn vanish_after(&self, bytes: u64, path: &str) {
        let mut command = self.python("download.py");
        command.args(["--server", SERVER, "--vanish-at", &bytes.to_string(), path]);
        self.run_client(&command);
    }

    /// Breaks rules with aioquic, each on a connection of its own.
    pub fn probe(&self, names: &[&str]) -> Vec<Outcome> {
        let mut command = self.python("probe.py");
        command.args(["--server", SERVER]).args(names);
        self.lines(&command)
    }

    /// Opens `page` in headless Chromium and fetches the paths from its script.
    pub fn chromium(&self, page: &str, paths: &[&str]) -> Vec<Fetched> {
        let (address, port) = SERVER.split_once(':').expect("an address and a port");
        let mut command = Command::new("node");
        command
            .arg(places::script("chromium.mjs"))
            .arg(places::node_folder())
            .arg(self.certificate())
            .args([HOST, port, address, page])
            .args(paths);
        self.lines(&command)
    }

    /// Asks for one path very often at the same time; what became of it as `popcache-bench load
    /// --herd` reports it.
    pub fn herd(&self, path: &str, requests: u64) -> serde_json::Value {
        self.herd_with(&["--connections", "100"], path, requests)
    }

    /// Asks for as many equal parts of a film at the same time, each on a connection of its own.
    pub fn herd_of_parts(&self, path: &str, parts: u64) -> serde_json::Value {
        let connections = parts.to_string();
        self.herd_with(&["--parts", "--connections", &connections], path, parts)
    }

    fn herd_with(&self, options: &[&str], path: &str, requests: u64) -> serde_json::Value {
        let mut command = Command::new(places::binary("popcache-bench"));
        command
            .args(["load", "--herd", &requests.to_string(), "--json"])
            .args(options)
            .args(["--connect", SERVER, "--name", HOST, "--url", path]);
        // It fails where a request does, which the report says as well.
        let output = self.client_output(&command);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("popcache-bench load --json printed no JSON ({error}): {errors}")
        })
    }

    /// Sends packets to the appliance as `popcache-bench gen` does with these options, and returns its
    /// report.
    pub fn generate(&self, options: &[&str]) -> serde_json::Value {
        let mut command = Command::new(places::binary("popcache-bench"));
        command
            .args(["gen", "--to", SERVER, "--quiet", "--json"])
            .args(options);
        let output = self.run_client(&command);
        serde_json::from_slice(&output.stdout).expect("popcache-bench gen --json prints JSON")
    }

    /// The file of the certificate to trust.
    pub fn certificate(&self) -> std::path::PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(places::python());
        command
            .arg(places::script(script))
            .arg("--ca")
            .arg(self.certificate());
        command
    }

    /// Runs a client that prints a line of JSON for each thing it did.
    fn lines<T: DeserializeOwned>(&self, command: &Command) -> Vec<T> {
        let output = self.run_client(command);
        let text = String::from_utf8(output.stdout).expect("clients print UTF-8");
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        text.lines().map(parse).collect()
    }

    fn client_output(&self, command: &Command) -> Output {
        inside(self.network.client(), command, &["timeout", "180"])
            .output()
            .expect("start a client")
    }

    fn run_client(&self, command: &Command) -> Output {
        let output = self.client_output(command);
        let errors = String::from_utf8_lossy(&output.stderr);
        let name = Path::new(command.get_program()).display();
        assert!(
            output.status.success(),
            "{name} ended with {}: {errors}",
            output.status
        );
        output
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
