//! What the upstream is told at start, typed; and what is refused before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use cache_core::upstream::{Settings, Tier};
use http::Uri;

/// Everything the upstream needs to know. An [`cache_core::io::OriginId`] is an index into
/// `origins`.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub origins: Vec<OriginConfig>,
    /// Asked before the origins, each key at one of them.
    pub shields: Vec<ShieldConfig>,
    /// Which node is asked, and when another.
    pub policy: Settings,
    /// Name lookup, TCP, TLS and HTTP/2 preface together; also how long a fetch waits for one of
    /// `max_connections` to come free.
    pub connect_timeout: Duration,
    /// From the request until the final response head.
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body. Time spent waiting for credit does not count.
    pub idle_timeout: Duration,
    /// The whole fetch, waiting for credit included.
    pub total_timeout: Duration,
    /// How long the addresses of a name are used before they are looked up again.
    pub dns_ttl: Duration,
    /// One probe of a node, connecting included.
    pub probe_timeout: Duration,
    /// Beginnings of the paths that a second node is asked for when the first is slow.
    pub hedge_paths: Vec<String>,
    /// Connections open to one node at the same time, idle ones included.
    pub max_connections: usize,
    /// Fetches of all shards and origins at the same time.
    pub max_fetches: usize,
    /// Interim responses (1xx) that one request may be told before the final one.
    pub max_interim: u32,
    /// What a 103 has for clients is passed on to them.
    pub early_hints: bool,
    /// The node's name in Via and CDN-Loop: a token (RFC 9110 section 5.6.2).
    pub node_name: String,
    /// What tells this node from others of its name in CDN-Loop: a token.
    pub node_id: String,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            shields: Vec::new(),
            policy: Settings::default(),
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(300),
            dns_ttl: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(2),
            hedge_paths: vec!["/".to_owned()],
            max_connections: 64,
            max_fetches: 4_096,
            max_interim: 16,
            early_hints: true,
            node_name: "popcache".to_owned(),
            node_id: "0".to_owned(),
        }
    }
}

/// One origin: where to connect and how.
#[derive(Clone, Debug)]
pub struct OriginConfig {
    pub name: String,
    /// `http://host[:port]` or `https://host[:port]` of each of its addresses, without path.
    pub urls: Vec<Uri>,
    /// PEM file with the certificate authorities to trust instead of the public ones.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to verify by TLS, where it is not the host of the URL.
    pub server_name: Option<String>,
    pub http2: Http2Mode,
    /// Target of the probes of each address; `None`: no probes.
    pub health_path: Option<String>,
}

impl OriginConfig {
    /// An origin with nothing but a name and a URL: HTTP/1.1, public certificate authorities.
    pub fn new(name: impl Into<String>, url: Uri) -> Self {
        Self {
            name: name.into(),
            urls: vec![url],
            ca: None,
            server_name: None,
            http2: Http2Mode::Off,
            health_path: None,
        }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.urls.iter().map(|url| Endpoint {
            name: self.name.clone(),
            tier: Tier::Origin,
            url: url.clone(),
            ca: self.ca.clone(),
            server_name: self.server_name.clone(),
            identity: None,
            http2: self.http2,
            health_path: self.health_path.clone(),
        })
    }
}

/// One shield, and whose misses go there.
#[derive(Clone, Debug)]
pub struct ShieldConfig {
    pub endpoint: Endpoint,
    /// Names of origins; empty: all.
    pub origins: Vec<String>,
}

impl ShieldConfig {
    pub(super) fn serves(&self, origin: &str) -> bool {
        self.origins.is_empty() || self.origins.iter().any(|name| name == origin)
    }
}

/// Where one node is, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub name: String,
    pub tier: Tier,
    pub url: Uri,
    pub ca: Option<PathBuf>,
    pub server_name: Option<String>,
    /// What we prove who we are with.
    pub identity: Option<ClientIdentity>,
    pub http2: Http2Mode,
    pub health_path: Option<String>,
}

/// PEM files of a client certificate's chain, leaf first, and of its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Endpoint {
    /// How messages call it.
    pub(super) fn label(&self) -> String {
        format!("{} {:?}", self.tier.name(), self.name)
    }
}

/// Whether HTTP/2 is spoken to an origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2Mode {
    /// HTTP/1.1 only.
    #[default]
    Off,
    /// https: offered by ALPN, HTTP/1.1 where the origin does not take it. http: HTTP/1.1.
    Negotiate,
    /// HTTP/2 or nothing; over http without asking first (RFC 9113 section 3.3).
    PriorKnowledge,
}

/// Why the upstream cannot start. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{name}: url {url:?} {problem}; write http://HOST[:PORT] or https://HOST[:PORT]")]
    Url {
        name: String,
        url: String,
        problem: &'static str,
    },
    #[error("{name}: ca file {}: {problem}; give a PEM file with at least one certificate", path.display())]
    Ca {
        name: String,
        path: PathBuf,
        problem: String,
    },
    #[error(
        "{name}: {server_name:?} is not a host name or IP address; correct server_name or the host of url"
    )]
    ServerName { name: String, server_name: String },
    #[error("{name}: {problem}")]
    Tls { name: String, problem: String },
    #[error(
        "node name {0:?} cannot stand in Via and CDN-Loop; use letters, digits, '-', '.' and '_' only"
    )]
    NodeName(String),
    #[error("upstream {0} is 0, which would refuse every fetch; set it to at least 1")]
    ZeroBound(&'static str),
    #[error("{name}: client certificate {} or its key: {problem}; give PEM files, the chain with its leaf first", path.display())]
    Identity {
        name: String,
        path: PathBuf,
        problem: String,
    },
    #[error("origin {0:?} has no url; give it at least one")]
    NoUrl(String),
    #[error("{0} shields and addresses of origins are configured, and at most 65536 can be")]
    TooManyNodes(usize),
}

/// Checks what does not belong to one origin.
pub(super) fn check(config: &UpstreamConfig) -> Result<(), UpstreamError> {
    if let Some(origin) = config.origins.iter().find(|origin| origin.urls.is_empty()) {
        return Err(UpstreamError::NoUrl(origin.name.clone()));
    }
    let addresses: usize = config.origins.iter().map(|origin| origin.urls.len()).sum();
    let nodes = addresses + config.shields.len();
    if nodes > usize::from(u16::MAX) + 1 {
        return Err(UpstreamError::TooManyNodes(nodes));
    }
    for (name, zero) in [
        ("max_connections", config.max_connections == 0),
        ("max_fetches", config.max_fetches == 0),
        ("max_attempts", config.policy.max_attempts == 0),
        ("dns_ttl", config.dns_ttl.is_zero()),
        ("probe_timeout", config.probe_timeout.is_zero()),
        ("health_interval", config.policy.health.interval.is_zero()),
        ("connect_timeout", config.connect_timeout.is_zero()),
        ("first_byte_timeout", config.first_byte_timeout.is_zero()),
        ("idle_timeout", config.idle_timeout.is_zero()),
        ("total_timeout", config.total_timeout.is_zero()),
    ] {
        if zero {
            return Err(UpstreamError::ZeroBound(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_zero_bounds_do_not() {
        assert!(check(&UpstreamConfig::default()).is_ok());
        let config = UpstreamConfig {
            idle_timeout: Duration::ZERO,
            ..UpstreamConfig::default()
        };
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains("idle_timeout"), "{error}");
    }

    #[test]
    fn node_ids_must_fit() {
        let origin = OriginConfig::new("o", Uri::from_static("http://o"));
        let config = UpstreamConfig {
            origins: vec![origin; 65_537],
            ..UpstreamConfig::default()
        };
        assert!(matches!(
            check(&config),
            Err(UpstreamError::TooManyNodes(65_537))
        ));
    }
}
