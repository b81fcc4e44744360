//! `cargo xtask run --smoke`: a miss and a hit over HTTP/3, byte for byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::demo::{Demo, HOST, port_suffix};
use crate::command::output;
use crate::net;
use crate::workspace::Workspace;

const PATH: &str = "/emotes/1.png";
const TIMEOUT: Duration = Duration::from_secs(10);

/// What `curl.py` prints for each URL.
#[derive(Deserialize)]
struct Fetched {
    status: u16,
    http_version: String,
    headers: Vec<(String, String)>,
    body_file: String,
}

impl Fetched {
    fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(have, _)| have == name)
            .map_or("", |(_, value)| value)
    }
}

/// Fetches one object twice from the clients' namespace.
///
/// # Errors
/// A response is not a 200 over HTTP/3 with the origin's bytes, or was not a miss and then a hit.
pub fn run(workspace: &Workspace, demo: &Demo) -> anyhow::Result<()> {
    let expected = origin_body(demo.origin_address, PATH)?;
    let fetched = fetch_twice(workspace, demo)?;
    ensure!(
        fetched.len() == 2,
        "curl fetched {} of 2 objects",
        fetched.len()
    );
    for (one, expected_status) in fetched.iter().zip(["fwd=", "hit"]) {
        let cache_status = one.header("cache-status");
        let body = fs::read(&one.body_file)?;
        println!(
            "{} over {}, {} bytes, cache-status: {cache_status}",
            one.status,
            one.http_version,
            body.len()
        );
        ensure!(one.status == 200, "status {} instead of 200", one.status);
        ensure!(
            one.http_version == "h3",
            "{} instead of h3",
            one.http_version
        );
        ensure!(
            cache_status.contains(expected_status),
            "cache-status `{cache_status}` does not say `{expected_status}`"
        );
        ensure!(body == expected, "the body differs from the origin's");
    }
    println!(
        "smoke: a miss and a hit over HTTP/3, bytes equal to the origin's ({})",
        demo.ready
    );
    Ok(())
}

fn fetch_twice(workspace: &Workspace, demo: &Demo) -> anyhow::Result<Vec<Fetched>> {
    let url = format!("https://{HOST}{}{PATH}", port_suffix(demo.port));
    let lines = output(
        net::client_command(&workspace.venv_python())
            .arg(workspace.clients_dir().join("curl.py"))
            .arg("--ca")
            .arg(&demo.certificate.file)
            .arg("--resolve")
            .arg(format!("{HOST}:{}:{}", demo.port, net::SERVER))
            .arg("--save")
            .arg(workspace.run_dir().join("smoke"))
            .args([&url, &url]),
    )
    .context("curl over HTTP/3 from the clients' namespace")?;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("curl.py printed `{line}`")))
        .collect()
}

/// The object as the origin itself gives it. HTTP/1.0, so that the body is plain bytes to the end.
fn origin_body(origin: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&origin, TIMEOUT)
        .with_context(|| format!("cannot connect to the demo origin on {origin}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    let head_end = response
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("the demo origin's response has no end of its head")?;
    ensure!(
        response.starts_with(b"HTTP/1.0 200") || response.starts_with(b"HTTP/1.1 200"),
        "the demo origin does not answer 200 to {path}"
    );
    Ok(response.split_off(head_end + 4))
}
