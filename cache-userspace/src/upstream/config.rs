//! What the upstream is told at start, typed; and what is refused before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Everything the upstream needs to know. An [`cache_core::io::OriginId`] is an index into
/// `origins`.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub origins: Vec<OriginConfig>,
    /// Name lookup, TCP, TLS and HTTP/2 preface together; also how long a fetch waits for one of
    /// `max_connections` to come free.
    pub connect_timeout: Duration,
    /// From the request until the final response head.
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body. Time spent waiting for credit does not count.
    pub idle_timeout: Duration,
    /// The whole fetch, waiting for credit included.
    pub total_timeout: Duration,
    /// Connections open to one origin at the same time, idle ones included.
    pub max_connections: usize,
    /// Fetches of all shards and origins at the same time.
    pub max_fetches: usize,
    /// The node's name in Via and CDN-Loop: a token (RFC 9110 section 5.6.2).
    pub node_name: String,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(300),
            max_connections: 64,
            max_fetches: 4_096,
            node_name: "popcache".to_owned(),
        }
    }
}

/// One origin: where to connect and how.
#[derive(Clone, Debug)]
pub struct OriginConfig {
    pub name: String,
    /// `http://host[:port]` or `https://host[:port]`, without path.
    pub url: Uri,
    /// PEM file with the certificate authorities to trust instead of the public ones.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to verify by TLS, where it is not the host of `url`.
    pub server_name: Option<String>,
    pub http2: Http2Mode,
}

impl OriginConfig {
    /// An origin with nothing but a name and a URL: HTTP/1.1, public certificate authorities.
    pub fn new(name: impl Into<String>, url: Uri) -> Self {
        Self {
            name: name.into(),
            url,
            ca: None,
            server_name: None,
            http2: Http2Mode::Off,
        }
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
    #[error(
        "origin {name:?}: url {url:?} {problem}; write http://HOST[:PORT] or https://HOST[:PORT]"
    )]
    Url {
        name: String,
        url: String,
        problem: &'static str,
    },
    #[error("origin {name:?}: ca file {}: {problem}; give a PEM file with at least one certificate", path.display())]
    Ca {
        name: String,
        path: PathBuf,
        problem: String,
    },
    #[error(
        "origin {name:?}: {server_name:?} is not a host name or IP address; correct server_name or the host of url"
    )]
    ServerName { name: String, server_name: String },
    #[error("origin {name:?}: {problem}")]
    Tls { name: String, problem: String },
    #[error(
        "node name {0:?} cannot stand in Via and CDN-Loop; use letters, digits, '-', '.' and '_' only"
    )]
    NodeName(String),
    #[error("upstream {0} is 0, which would refuse every fetch; set it to at least 1")]
    ZeroBound(&'static str),
    #[error("{0} origins are configured, and at most 65536 can be")]
    TooManyOrigins(usize),
}

/// Checks what does not belong to one origin.
pub(super) fn check(config: &UpstreamConfig) -> Result<(), UpstreamError> {
    let origins = config.origins.len();
    if origins > usize::from(u16::MAX) + 1 {
        return Err(UpstreamError::TooManyOrigins(origins));
    }
    for (name, zero) in [
        ("max_connections", config.max_connections == 0),
        ("max_fetches", config.max_fetches == 0),
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
    fn origin_ids_must_fit() {
        let origin = OriginConfig::new("o", Uri::from_static("http://o"));
        let config = UpstreamConfig {
            origins: vec![origin; 65_537],
            ..UpstreamConfig::default()
        };
        assert!(matches!(
            check(&config),
            Err(UpstreamError::TooManyOrigins(65_537))
        ));
    }
}
