//! The load generator: HTTP/3 on quinn-proto, one pinned thread, no runtime.
//!
//! **Closed loop**: `connections` x `streams` requests are always under way; a latency is what one
//! of them waited. **Open loop** (`rate`): request `n` is due at `n / rate` whatever the server
//! does, and its latency counts from then, so that a server that stalls is charged for all the
//! requests that should have been sent meanwhile (no coordinated omission).
//!
//! The server's processor time is read at both ends of the measured time by the same thread, so it
//! belongs to exactly the requests that are counted.

pub(crate) mod direct;
mod engine;
mod h3;
pub mod herd;
mod huffman;
mod net;
mod peer;
pub mod plot;
mod qpack;
mod report;
mod run;
pub(crate) mod targets;
pub mod tcp;
pub(crate) mod tls;

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use report::{Distribution, Report};
pub use run::run;
pub use targets::{expand, of_trace};

/// Connections of one run.
pub const MAX_CONNECTIONS: usize = 50_000;
/// Requests under way on one connection.
pub const MAX_STREAMS: usize = 65_536;
/// Sockets of one run.
pub const MAX_SOCKETS: usize = 1024;

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// This many successes.
    Requests(u64),
    /// For this long.
    Time(Duration),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    pub remote: SocketAddr,
    /// For SNI and `:authority`.
    pub name: String,
    pub paths: Vec<String>,
    /// Exponent of the popularity of the paths; 0 asks for them in turn.
    pub zipf: f64,
    /// Positions in `paths`, to be asked for in this order instead; empty: none.
    pub order: Vec<u32>,
    pub connections: usize,
    pub streams: usize,
    /// Requests a second of the open loop; `None`: closed loop.
    pub rate: Option<f64>,
    pub amount: Amount,
    pub warmup: Duration,
    /// Share of the requests that open a connection of their own.
    pub new_connections: f64,
    /// Share of those connections that send their request in the first flight (0-RTT), once the
    /// server has given a session to one of them.
    pub zero_rtt: f64,
    /// A run without any progress for this long is over.
    pub timeout: Duration,
    pub verify: bool,
    pub core: Option<usize>,
    pub sockets: usize,
    /// Busy waiting before the thread sleeps.
    pub spin: Duration,
    /// Processes whose processor time is measured.
    pub watch: Vec<i32>,
    pub seed: u64,
    /// A line a second on stderr.
    pub progress: bool,
}

impl Options {
    /// A closed loop of 1 x 1 for a second; the caller sets what differs.
    pub fn new(remote: SocketAddr, name: &str, paths: Vec<String>) -> Self {
        Self {
            remote,
            name: name.to_owned(),
            paths,
            zipf: 0.0,
            order: Vec::new(),
            connections: 1,
            streams: 1,
            rate: None,
            amount: Amount::Time(Duration::from_secs(1)),
            warmup: Duration::ZERO,
            new_connections: 0.0,
            zero_rtt: 0.0,
            timeout: Duration::from_secs(30),
            verify: false,
            core: None,
            sockets: 1,
            spin: Duration::from_micros(50),
            watch: Vec::new(),
            seed: 1,
            progress: false,
        }
    }

    fn check(&self) -> Result<()> {
        within("connections", self.connections, 1, MAX_CONNECTIONS)?;
        within("streams", self.streams, 1, MAX_STREAMS)?;
        within("sockets", self.sockets, 1, MAX_SOCKETS)?;
        ensure!(
            (0.0..=1.0).contains(&self.new_connections),
            "the share of new connections is {}: it must be 0 to 1",
            self.new_connections
        );
        ensure!(
            (0.0..=10.0).contains(&self.zipf),
            "zipf is {}: it must be 0 to 10",
            self.zipf
        );
        ensure!(
            (0.0..=1.0).contains(&self.zero_rtt),
            "the share of 0-RTT is {}: it must be 0 to 1",
            self.zero_rtt
        );
        ensure!(
            self.zero_rtt == 0.0 || self.new_connections > 0.0,
            "0-RTT is for new connections: give --new-connections too"
        );
        ensure!(
            self.order.is_empty() || self.zipf == 0.0,
            "a trace has an order of its own: leave --zipf away"
        );
        if let Some(rate) = self.rate {
            ensure!(
                (0.1..=1e7).contains(&rate),
                "rate is {rate}: it must be 0.1 to 10000000 a second"
            );
        }
        Ok(())
    }
}

fn within(what: &str, value: usize, least: usize, most: usize) -> Result<()> {
    ensure!(
        (least..=most).contains(&value),
        "{what} is {value}: it must be {least} to {most}"
    );
    Ok(())
}

/// Where to connect and what to ask for, from URLs (`https://host:port/path`) or bare paths.
///
/// # Errors
/// A URL that is not https, URLs of several hosts, or a host that does not resolve.
pub fn locate(
    urls: &[String],
    connect: Option<SocketAddr>,
    name: Option<&str>,
) -> Result<(SocketAddr, String, Vec<String>)> {
    let mut host: Option<&str> = name;
    let mut authority: Option<&str> = None;
    let mut paths = Vec::with_capacity(urls.len());
    for url in urls {
        if url.starts_with('/') {
            paths.push(url.clone());
            continue;
        }
        let Some(rest) = url.strip_prefix("https://") else {
            bail!("`{url}` is neither a path nor an https URL");
        };
        let (at, path) = rest
            .find('/')
            .map_or((rest, "/"), |slash| rest.split_at(slash));
        ensure!(
            authority.is_none_or(|known| known == at),
            "`{url}` is of another server than the URLs before"
        );
        authority = Some(at);
        host.get_or_insert(split_port(at).0);
        paths.push(path.to_owned());
    }
    let remote = match (connect, authority) {
        (Some(address), _) => address,
        (None, Some(at)) => resolve(at)?,
        (None, None) => bail!("bare paths need a server: give --connect ADDRESS"),
    };
    let host = host
        .unwrap_or("edge.test")
        .trim_matches(['[', ']'])
        .to_owned();
    Ok((remote, host, paths))
}

/// Host and port of an authority; 443 where it names none.
fn split_port(authority: &str) -> (&str, u16) {
    let parts = authority.rsplit_once(':');
    let with_port = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    with_port.unwrap_or((authority, 443))
}

fn resolve(authority: &str) -> Result<SocketAddr> {
    let (host, port) = split_port(authority);
    let mut addresses = (host.trim_matches(['[', ']']), port)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve `{host}`"))?;
    addresses
        .next()
        .with_context(|| format!("`{host}` has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_located() {
        let urls = ["https://127.0.0.1:4433/a".to_owned(), "/b".to_owned()];
        let (remote, host, paths) = locate(&urls, None, Some("edge.test")).expect("valid");
        assert_eq!(
            (remote.port(), host.as_str(), paths),
            (4433, "edge.test", vec!["/a".into(), "/b".into()])
        );
        let (remote, host, _) = locate(&["https://[::1]/".to_owned()], None, None).expect("valid");
        assert_eq!(
            (remote.to_string().as_str(), host.as_str()),
            ("[::1]:443", "::1")
        );
    }

    #[test]
    fn unusable_urls_say_why() {
        let none = locate(&["/a".to_owned()], None, None).expect_err("no server");
        assert!(none.to_string().contains("--connect"));
        assert!(locate(&["http://x/".to_owned()], None, None).is_err());
        assert!(
            locate(
                &["https://127.0.0.1/".to_owned(), "https://[::1]/".to_owned()],
                None,
                None
            )
            .is_err()
        );
    }

    #[test]
    fn options_are_bounded() {
        let options = Options::new("127.0.0.1:1".parse().expect("valid"), "x", vec!["/".into()]);
        assert!(options.check().is_ok());
        let many = Options {
            connections: MAX_CONNECTIONS + 1,
            ..options.clone()
        };
        assert!(
            many.check()
                .expect_err("too many")
                .to_string()
                .contains("connections")
        );
        assert!(
            Options {
                rate: Some(0.0),
                ..options
            }
            .check()
            .is_err()
        );
    }
}
