//! From a node's URL to a connection that takes requests: name lookup, TCP, TLS, HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cache_core::io::{FetchError, FetchErrorKind};
use http::uri::Scheme;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::config::{ClientIdentity, Endpoint, Http2Mode, UpstreamError};
use super::failure::{Broken, Place};
use super::http1::{self, Http1};
use super::http2::{self, Http2};

/// Bytes of a response head, and of what is read ahead of a body over HTTP/1.1.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Fields of a response head.
pub(super) const MAX_HEAD_FIELDS: usize = 128;
/// Addresses tried of a name that has many.
const MAX_ADDRESSES: usize = 8;

/// The HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) enum Sender {
    Http1(Http1),
    Http2(Http2),
}

/// Runs a connection; must be polled for requests to proceed.
pub(super) type Driver = Pin<Box<dyn Future<Output = Result<(), Broken>> + Send>>;

/// Everything needed to connect to one node.
pub(super) struct Dialer {
    pub(super) place: Place,
    pub(super) scheme: Scheme,
    pub(super) url: String,
    host: String,
    port: u16,
    tls: Option<Tls>,
    http2: Http2Mode,
    limit: Duration,
    names: Names,
}

/// The addresses of the node's name. One look-up at a time.
struct Names {
    ttl: Duration,
    known: Mutex<Option<Known>>,
    /// Counts connections, so that they begin with another address each.
    turn: AtomicUsize,
    stale: AtomicU64,
}

struct Known {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Dialer {
    /// Reads the `ca` file, if any, and checks the URL.
    pub(super) fn new(
        endpoint: &Endpoint,
        limit: Duration,
        dns_ttl: Duration,
    ) -> Result<Self, UpstreamError> {
        let (scheme, host, port) = split_url(endpoint)?;
        let tls = if scheme == Scheme::HTTPS {
            Some(Tls::new(endpoint, &host)?)
        } else {
            None
        };
        let url = endpoint.url.to_string().trim_end_matches('/').to_owned();
        Ok(Self {
            place: Place::new(format!("{} at {url}", endpoint.label())),
            scheme,
            url,
            host,
            port,
            tls,
            http2: endpoint.http2,
            limit,
            names: Names {
                ttl: dns_ttl,
                known: Mutex::new(None),
                turn: AtomicUsize::new(0),
                stale: AtomicU64::new(0),
            },
        })
    }

    /// The URL's authority.
    pub(super) fn authority(&self) -> &str {
        self.url
            .split_once("//")
            .map_or("", |(_, authority)| authority)
    }

    /// Look-ups that failed while older addresses were known.
    pub(super) fn dns_stale(&self) -> u64 {
        self.names.stale.load(Ordering::Relaxed)
    }

    /// The protocol that every connection will speak, where it is known before the first.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        match self.http2 {
            Http2Mode::Off => Some(Protocol::Http1),
            Http2Mode::Negotiate if self.tls.is_none() => Some(Protocol::Http1),
            Http2Mode::Negotiate => None,
            Http2Mode::PriorKnowledge => Some(Protocol::Http2),
        }
    }

    /// Opens one connection within the connect timeout.
    pub(super) async fn dial(&self) -> Result<(Sender, Driver), FetchError> {
        match timeout(self.limit, self.open()).await {
            Ok(result) => result,
            Err(_) => Err(self.place.connect_timeout(self.limit)),
        }
    }

    async fn open(&self) -> Result<(Sender, Driver), FetchError> {
        let stream = self.connect().await?;
        let Some(tls) = &self.tls else {
            let protocol = self.protocol().unwrap_or(Protocol::Http1);
            return self.handshake(stream, protocol).await;
        };
        let stream = tls
            .connector
            .connect(tls.name.clone(), stream)
            .await
            .map_err(|error| self.place.tls(&tls.name.to_str(), &error))?;
        let agreed_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        match (self.http2, agreed_h2) {
            (Http2Mode::PriorKnowledge, false) => Err(self.place.error(
                FetchErrorKind::ProtocolError,
                "does not offer HTTP/2 by ALPN; switch http2 off for it",
            )),
            (_, true) => self.handshake(stream, Protocol::Http2).await,
            (_, false) => self.handshake(stream, Protocol::Http1).await,
        }
    }

    /// Tries the addresses of the host in turn.
    async fn connect(&self) -> Result<TcpStream, FetchError> {
        let addresses = self.look_up().await?;
        // A silent address must leave time for those behind it.
        let share = self.limit / u32::try_from(addresses.len()).unwrap_or(1);
        let mut last = None;
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Only delays small requests when it fails.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(self.place.tcp(address, &error)),
                Err(_) => last = Some(self.place.connect_timeout(share)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_address()))
    }

    /// The addresses to try, in turn. Looked up at most once in `dns_ttl`; where that fails, those of
    /// the last time go on being used.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, FetchError> {
        let mut known = self.names.known.lock().await;
        let fresh = |known: &Known| known.at.elapsed() < self.names.ttl;
        if !known.as_ref().is_some_and(fresh) {
            match (self.resolve().await, known.as_mut()) {
                (Ok(addresses), _) => {
                    let at = Instant::now();
                    *known = Some(Known { at, addresses });
                }
                (Err(error), Some(known)) => {
                    tracing::warn!(%error, "the former addresses are used on");
                    self.names.stale.fetch_add(1, Ordering::Relaxed);
                    known.at = Instant::now();
                }
                (Err(error), None) => return Err(error),
            }
        }
        let mut addresses = known
            .as_ref()
            .map(|known| known.addresses.clone())
            .unwrap_or_default();
        let turn = self.names.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        Ok(addresses)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, FetchError> {
        // Time must be left for the addresses of before.
        let limit = self.limit / 2;
        let found = timeout(
            limit,
            tokio::net::lookup_host((self.host.as_str(), self.port)),
        );
        let found = match found.await {
            Ok(found) => found,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let addresses: Vec<_> = found
            .map_err(|error| self.place.dns(&self.host, &error))?
            .take(MAX_ADDRESSES)
            .collect();
        match addresses.is_empty() {
            true => Err(self.no_address()),
            false => Ok(addresses),
        }
    }

    fn no_address(&self) -> FetchError {
        self.place.error(
            FetchErrorKind::DnsError,
            format_args!("{} has no address; check its DNS records", self.host),
        )
    }

    async fn handshake<S>(
        &self,
        stream: S,
        protocol: Protocol,
    ) -> Result<(Sender, Driver), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = match protocol {
            Protocol::Http1 => http1::handshake(stream)
                .await
                .map(|(sender, driver)| (Sender::Http1(sender), driver))
                .map_err(Broken::from),
            Protocol::Http2 => http2::handshake(stream)
                .await
                .map(|(sender, driver)| (Sender::Http2(sender), driver))
                .map_err(Broken::from),
        };
        opened.map_err(|error| self.place.before_head(&error))
    }
}

fn split_url(endpoint: &Endpoint) -> Result<(Scheme, String, u16), UpstreamError> {
    let url = &endpoint.url;
    let refuse = |problem| UpstreamError::Url {
        name: endpoint.label(),
        url: url.to_string(),
        problem,
    };
    let scheme = url.scheme().ok_or_else(|| refuse("has no scheme"))?;
    let default_port = if *scheme == Scheme::HTTP {
        80
    } else if *scheme == Scheme::HTTPS {
        443
    } else {
        return Err(refuse("is neither http nor https"));
    };
    let authority = url.authority().ok_or_else(|| refuse("has no host"))?;
    if authority.as_str().contains('@') {
        return Err(refuse("carries a user name, which is not supported"));
    }
    if url.path_and_query().is_some_and(|path| path != "/") {
        return Err(refuse("has a path, but targets go to the origin unchanged"));
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(refuse("has no host"));
    }
    let port = authority.port_u16().unwrap_or(default_port);
    Ok((scheme.clone(), host.to_owned(), port))
}

impl Tls {
    fn new(endpoint: &Endpoint, host: &str) -> Result<Self, UpstreamError> {
        let label = endpoint.label();
        let wanted = endpoint.server_name.as_deref().unwrap_or(host);
        let name =
            ServerName::try_from(wanted.to_owned()).map_err(|_| UpstreamError::ServerName {
                name: label.clone(),
                server_name: wanted.to_owned(),
            })?;
        let roots = match &endpoint.ca {
            Some(path) => read_roots(&label, path)?,
            None => RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            },
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| UpstreamError::Tls {
                name: label.clone(),
                problem: error.to_string(),
            })?
            .with_root_certificates(roots);
        let mut config = match &endpoint.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let refuse = |problem: String| UpstreamError::Identity {
                    name: label.clone(),
                    path: identity.certificate.clone(),
                    problem,
                };
                let (chain, key) = read_identity(identity).map_err(refuse)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| refuse(error.to_string()))?
            }
        };
        config.alpn_protocols = alpn(endpoint.http2);
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

type Chain = Vec<CertificateDer<'static>>;

fn read_identity(identity: &ClientIdentity) -> Result<(Chain, PrivateKeyDer<'static>), String> {
    let chain = CertificateDer::pem_file_iter(&identity.certificate)
        .and_then(Iterator::collect::<Result<Chain, _>>)
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|error| error.to_string())?;
    Ok((chain, key))
}

fn alpn(mode: Http2Mode) -> Vec<Vec<u8>> {
    let offer: &[&[u8]] = match mode {
        Http2Mode::Off => &[b"http/1.1"],
        Http2Mode::Negotiate => &[b"h2", b"http/1.1"],
        Http2Mode::PriorKnowledge => &[b"h2"],
    };
    offer.iter().map(|protocol| protocol.to_vec()).collect()
}

fn read_roots(name: &str, path: &Path) -> Result<RootCertStore, UpstreamError> {
    let refuse = |problem: String| UpstreamError::Ca {
        name: name.to_owned(),
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))? {
        let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
        roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::super::config::OriginConfig;
    use super::*;

    fn dial(endpoint: &Endpoint) -> Result<Dialer, UpstreamError> {
        Dialer::new(endpoint, Duration::from_secs(1), Duration::from_secs(1))
    }

    fn endpoint(url: &'static str) -> Endpoint {
        let origin = OriginConfig::new("demo", Uri::from_static(url));
        origin.endpoints().next().expect("one url")
    }

    fn dialer(url: &'static str) -> Result<Dialer, UpstreamError> {
        dial(&endpoint(url))
    }

    #[test]
    fn urls_give_host_and_port() {
        for (url, host, port) in [
            ("http://o", "o", 80),
            ("https://o/", "o", 443),
            ("http://[::1]:8080", "::1", 8080),
            ("https://10.0.0.1:8443", "10.0.0.1", 8443),
        ] {
            let dialer = dialer(url).unwrap();
            assert_eq!((dialer.host.as_str(), dialer.port), (host, port));
        }
    }

    #[test]
    fn bad_urls_are_refused_with_the_reason() {
        for (url, reason) in [
            ("ftp://o", "neither http nor https"),
            ("/path", "no scheme"),
            ("http://user@o", "user name"),
            ("http://o/base", "path"),
        ] {
            let error = dialer(url).err().expect(url).to_string();
            assert!(error.contains(reason) && error.contains("demo"), "{error}");
        }
    }

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut origin = endpoint("https://o");
        origin.ca = Some(file.path().to_owned());
        let error = dial(&origin).err().unwrap();
        assert!(error.to_string().contains("no certificate"), "{error}");
        origin.ca = Some(file.path().with_extension("absent"));
        assert!(dial(&origin).is_err());
    }
}
