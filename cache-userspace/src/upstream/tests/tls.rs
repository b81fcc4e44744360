//! https origins with certificates of a CA made for the test.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate authority whose certificate lies in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's configuration with a certificate for `name`.
    fn server(&self, name: &str, alpn: &[&str]) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("matching key");
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    }
}

/// An https server that answers with what it saw: HTTP version, authority, server name.
async fn serve(config: ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us ends the handshake.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let name = stream
                    .get_ref()
                    .1
                    .server_name()
                    .unwrap_or("none")
                    .to_owned();
                let service = service_fn(move |request| {
                    let seen = seen(&request, &name);
                    async move { Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(seen)))) }
                });
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    url
}

fn seen(request: &Request<Incoming>, server_name: &str) -> String {
    let host = request
        .headers()
        .get("host")
        .and_then(|host| host.to_str().ok());
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let authority = host.or(authority).unwrap_or("none");
    format!("{:?} {authority} {server_name}", request.version())
}

struct Trust {
    ca: Option<PathBuf>,
    server_name: Option<&'static str>,
    http2: Http2Mode,
}

async fn ask(url: &str, trust: Trust) -> Result<String, FetchError> {
    let mut config = config(url);
    let origin = &mut config.origins[0];
    origin.ca = trust.ca;
    origin.server_name = trust.server_name.map(str::to_owned);
    origin.http2 = trust.http2;
    let mut shard = Shard::new(config);
    shard.get("/");
    let answer = shard.answer().await?;
    Ok(String::from_utf8(answer.body).expect("text"))
}

#[tokio::test]
async fn the_configured_authority_and_name_are_trusted() {
    let authority = Authority::new("test");
    let url = serve(authority.server("origin.test", &["http/1.1"])).await;
    let trust = Trust {
        ca: Some(authority.file()),
        server_name: Some("origin.test"),
        http2: Http2Mode::Off,
    };
    // Connected to the URL's address, asked for server_name, sent the client's authority.
    assert_eq!(
        ask(&url, trust).await.expect("an answer"),
        "HTTP/1.1 edge.test origin.test"
    );
}

#[tokio::test]
async fn without_server_name_the_urls_host_is_verified() {
    let authority = Authority::new("test");
    let url = serve(authority.server("127.0.0.1", &[])).await;
    let trust = Trust {
        ca: Some(authority.file()),
        server_name: None,
        http2: Http2Mode::Off,
    };
    assert_eq!(
        ask(&url, trust).await.expect("an answer"),
        "HTTP/1.1 edge.test none"
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("test");
    let url = serve(authority.server("other.test", &[])).await;
    let trust = Trust {
        ca: Some(authority.file()),
        server_name: Some("origin.test"),
        http2: Http2Mode::Off,
    };
    let error = ask(&url, trust).await.expect_err("a wrong name");
    assert_eq!(error.kind, FetchErrorKind::TlsCertificate, "{error}");
    assert!(error.detail.contains("set server_name"), "{error}");
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let known = Authority::new("known");
    let unknown = Authority::new("unknown");
    let url = serve(unknown.server("origin.test", &[])).await;
    let namesake = Authority::new("unknown");
    for ca in [Some(known.file()), Some(namesake.file()), None] {
        let trust = Trust {
            ca,
            server_name: Some("origin.test"),
            http2: Http2Mode::Off,
        };
        let error = ask(&url, trust).await.expect_err("an unknown issuer");
        assert_eq!(error.kind, FetchErrorKind::TlsCertificate, "{error}");
        assert!(error.detail.contains("set ca"), "{error}");
    }
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_refused() {
    let origin = super::origin::Origin::bind().await;
    let mut shard = Shard::new(config(&origin.url().replace("http:", "https:")));
    shard.get("/");
    let mut connection = origin.accept().await;
    connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::TlsError, "{error}");
}

#[tokio::test]
async fn http2_is_negotiated_where_both_want_it() {
    use Http2Mode::{Negotiate, Off, PriorKnowledge};
    let authority = Authority::new("test");
    let both = serve(authority.server("origin.test", &["h2", "http/1.1"])).await;
    let old = serve(authority.server("origin.test", &["http/1.1"])).await;
    for (url, http2, version) in [
        (&both, Negotiate, "HTTP/2.0"),
        (&both, PriorKnowledge, "HTTP/2.0"),
        (&both, Off, "HTTP/1.1"),
        (&old, Negotiate, "HTTP/1.1"),
    ] {
        let trust = Trust {
            ca: Some(authority.file()),
            server_name: Some("origin.test"),
            http2,
        };
        let seen = ask(url, trust).await.expect("an answer");
        assert_eq!(
            seen,
            format!("{version} edge.test origin.test"),
            "{http2:?}"
        );
    }
    let trust = Trust {
        ca: Some(authority.file()),
        server_name: Some("origin.test"),
        http2: PriorKnowledge,
    };
    let error = ask(&old, trust).await.expect_err("no HTTP/2 there");
    assert_eq!(error.kind, FetchErrorKind::TlsError, "{error}");
}

#[tokio::test]
async fn fetches_that_start_together_find_out_together_what_is_spoken() {
    let authority = Authority::new("test");
    for (alpn, at_most) in [(&["h2", "http/1.1"][..], 1), (&["http/1.1"], 4)] {
        let mut config = config(&serve(authority.server("origin.test", alpn)).await);
        config.max_connections = 4;
        config.origins[0].ca = Some(authority.file());
        config.origins[0].server_name = Some("origin.test".to_owned());
        config.origins[0].http2 = Http2Mode::Negotiate;
        let mut shard = Shard::new(config);
        for _ in 0..20 {
            shard.get("/");
        }
        shard.ends(20).await;
        let made = shard.stats().connections_made;
        assert!(
            (1..=at_most).contains(&made),
            "{made} connections, {alpn:?}"
        );
    }
}
