//! The node's TLS identity: a chain and key from PEM files, or a self-signed one.
//!
//! Whatever it came from, the [`Identity`] knows the SHA-256 of its public key (SPKI), so that a
//! client can pin it: Chromium takes it as `--ignore-certificate-errors-spki-list`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{TlsConfig, TlsFiles};
use crate::sessions::Sessions;

/// What the node proves who it is with.
#[derive(Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Base64 of the SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: String,
    /// The names that a self-signed certificate was made for; empty for one from files.
    pub self_signed_for: Vec<String>,
}

/// How long a self-signed certificate is good for. A new one is made at every start.
const SELF_SIGNED_DAYS: u64 = 90;

/// A client's clock may be this much behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// Largest PEM file read, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// The configured identity, or a new self-signed one where none is configured.
pub fn load(tls: &TlsConfig) -> anyhow::Result<Identity> {
    match &tls.files {
        Some(files) => from_files(files),
        None => self_signed(&tls.names),
    }
}

impl Identity {
    /// Chain and key as rustls shows them.
    pub fn certified(&self) -> anyhow::Result<CertifiedKey> {
        certified_key(&self.chain, &self.key)
    }

    /// Says in the log what clients will see.
    pub fn log(&self) {
        if self.self_signed_for.is_empty() {
            tracing::info!(spki_sha256 = %self.spki_sha256, "certificate loaded");
            return;
        }
        tracing::warn!(
            names = %self.self_signed_for.join(", "),
            days = SELF_SIGNED_DAYS,
            spki_sha256 = %self.spki_sha256,
            "no tls.certificate: made a self-signed one for this run; browsers need its SPKI hash",
        );
    }
}

/// TLS for QUIC: TLS 1.3 alone, ALPN `h3`. With `sessions`, which all cores share, a client resumes each of
/// them once and may send early data; without, its tickets are good on every core and as often as it likes,
/// and there is no early data.
pub fn quic_config(
    shown: Arc<dyn ResolvesServerCert>,
    sessions: Option<Arc<Sessions>>,
) -> anyhow::Result<ServerConfig> {
    let mut config = server_config(shown, &[&rustls::version::TLS13], &[b"h3"])?;
    if let Some(sessions) = sessions {
        config.session_storage = sessions;
        // RFC 9001 section 4.6.1: all or none; QUIC's own windows bound it.
        config.max_early_data_size = u32::MAX;
        return Ok(config);
    }
    with_ticketer(config)
}

/// TLS for TCP: 1.2 as well, ALPN `h2` and `http/1.1`.
pub fn tcp_config(shown: Arc<dyn ResolvesServerCert>) -> anyhow::Result<ServerConfig> {
    with_ticketer(server_config(
        shown,
        rustls::ALL_VERSIONS,
        &[b"h2", b"http/1.1"],
    )?)
}

/// With tickets that hold all there is of a session, under a key of this process.
fn with_ticketer(mut config: ServerConfig) -> anyhow::Result<ServerConfig> {
    config.ticketer = aws_lc_rs::Ticketer::new().context("no key for session tickets")?;
    Ok(config)
}

fn server_config(
    shown: Arc<dyn ResolvesServerCert>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> anyhow::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .context("the TLS library offers no such version of TLS")?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Without AES-256 in TLS 1.3: processors have instructions for SHA-256 and not for its SHA-384, so that its key schedule
/// takes a fifth of a handshake, and each packet four rounds more. What is left every client has (RFC 8446 section 9.1),
/// in its own order: one without instructions for AES puts ChaCha20 first.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_slow = |suite| suite == CipherSuite::TLS13_AES_256_GCM_SHA384;
    provider
        .cipher_suites
        .retain(|suite| !is_slow(suite.suite()));
    provider
}

/// The certificates in a PEM file.
pub fn load_authorities(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    certificates(path, &read_pem(path)?)
}

/// A chain and its key from PEM files.
pub fn from_files(files: &TlsFiles) -> anyhow::Result<Identity> {
    let chain = certificates(&files.certificate, &read_pem(&files.certificate)?)?;
    let key = PrivateKeyDer::from_pem_slice(&read_pem(&files.key)?)
        .map_err(|e| anyhow!("{}: {}", files.key.display(), key_trouble(e)))?;
    let certified = certified_key(&chain, &key).with_context(|| {
        format!(
            "{} with {}",
            files.certificate.display(),
            files.key.display()
        )
    })?;
    Ok(Identity {
        spki_sha256: spki_sha256(&certified)?,
        chain,
        key,
        self_signed_for: Vec::new(),
    })
}

fn self_signed(names: &[String]) -> anyhow::Result<Identity> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .context("cannot make a key for a self-signed certificate")?;
    let certificate = self_signed_parameters(names, SystemTime::now())
        .and_then(|parameters| Ok(parameters.self_signed(&key)?))
        .with_context(|| {
            format!(
                "cannot make a self-signed certificate for {}",
                names.join(", ")
            )
        })?;
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::from(key);
    let certified = certified_key(&chain, &key)?;
    Ok(Identity {
        spki_sha256: spki_sha256(&certified)?,
        chain,
        key,
        self_signed_for: names.to_vec(),
    })
}

fn self_signed_parameters(
    names: &[String],
    now: SystemTime,
) -> anyhow::Result<rcgen::CertificateParams> {
    let since_epoch = now
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut parameters = rcgen::CertificateParams::new(names)?;
    parameters.not_before = epoch + since_epoch.saturating_sub(CLOCK_SKEW);
    parameters.not_after = epoch + since_epoch + Duration::from_secs(SELF_SIGNED_DAYS * 86_400);
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "popcache self-signed");
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

fn read_pem(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    if size > MAX_PEM {
        bail!(
            "{} has {size} bytes: that is not a PEM file",
            path.display()
        );
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn certificates(path: &Path, pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| anyhow!("{} is not valid PEM: {e}", path.display()))?;
    if found.is_empty() {
        bail!(
            "{} holds no certificate (no BEGIN CERTIFICATE line)",
            path.display()
        );
    }
    Ok(found)
}

fn certified_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> anyhow::Result<CertifiedKey> {
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            anyhow!("the key does not belong to the first certificate (is the leaf first in the file?)")
        }
        rustls::Error::InvalidCertificate(why) => anyhow!("the first certificate is not valid: {why:?}"),
        error => anyhow!("the key cannot be used: {error}; use ECDSA P-256 or P-384, RSA, or Ed25519"),
    })
}

fn key_trouble(error: rustls_pki_types::pem::Error) -> String {
    match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            "holds no private key (encrypted keys cannot be read)".to_owned()
        }
        error => format!("is not valid PEM: {error}"),
    }
}

fn spki_sha256(certified: &CertifiedKey) -> anyhow::Result<String> {
    let spki = certified
        .key
        .public_key()
        .context("the key has no public half to be pinned")?;
    let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, spki.as_ref());
    Ok(base64::engine::general_purpose::STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustls::sign::SingleCertAndKey;

    use super::*;

    #[test]
    fn suites_with_sha384_are_left_to_tls_1_2() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(|s| s.suite()).collect();
        let spoken = suites
            .iter()
            .filter(|suite| format!("{suite:?}").starts_with("TLS13_"));
        let expected = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        assert!(spoken.eq(&expected), "{suites:?}");
        assert!(suites.contains(&CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384));
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).expect("temporary file");
        path
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(names(&["edge.test"])).expect("certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load_pair(certificate: PathBuf, key: PathBuf) -> anyhow::Result<Identity> {
        load(&TlsConfig {
            files: Some(TlsFiles { certificate, key }),
            others: Vec::new(),
            names: Vec::new(),
            early_data: true,
            max_sessions: 1024,
        })
    }

    #[test]
    fn a_self_signed_identity_serves_h3_only() {
        let tls = TlsConfig {
            files: None,
            others: Vec::new(),
            names: names(&["edge.test", "10.77.0.1"]),
            early_data: true,
            max_sessions: 1024,
        };
        let identity = load(&tls).expect("self-signed");
        assert_eq!(identity.self_signed_for, tls.names);
        assert_eq!(identity.spki_sha256.len(), 44);
        let shown = identity.certified().map(SingleCertAndKey::from);
        let shown = Arc::new(shown.expect("a certificate"));
        let tcp = tcp_config(shown.clone()).expect("configuration for TCP");
        assert_eq!(tcp.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        let config = quic_config(shown.clone(), None).expect("server configuration");
        assert_eq!(config.alpn_protocols, [b"h3"]);
        assert_eq!(config.max_early_data_size, 0);
        assert!(config.ticketer.enabled());
        let sessions = Arc::new(Sessions::new(16));
        let config = quic_config(shown, Some(sessions)).expect("server configuration");
        assert_eq!(config.max_early_data_size, u32::MAX);
        assert!(!config.ticketer.enabled());
    }

    #[test]
    fn clones_of_the_configuration_share_ticket_keys() {
        let tls = TlsConfig {
            files: None,
            others: Vec::new(),
            names: names(&["edge.test"]),
            early_data: true,
            max_sessions: 1024,
        };
        let one = load(&tls)
            .and_then(|i| quic_config(Arc::new(SingleCertAndKey::from(i.certified()?)), None))
            .expect("configuration");
        let other = one.clone();
        let ticket = one.ticketer.encrypt(b"session").expect("ticket");
        assert_eq!(
            other.ticketer.decrypt(&ticket).as_deref(),
            Some(&b"session"[..])
        );
    }

    #[test]
    fn files_load_and_pin_like_openssl_would() {
        let dir = tempfile::tempdir().expect("directory");
        let (certificate, key) = pair();
        let identity = load_pair(
            write(dir.path(), "cert.pem", &certificate),
            write(dir.path(), "key.pem", &key),
        )
        .expect("a good pair");
        assert!(identity.self_signed_for.is_empty());
        let parsed = rcgen::KeyPair::from_pem(&key).expect("key");
        let spki = rcgen::PublicKeyData::subject_public_key_info(&parsed);
        let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &spki);
        let expected = base64::engine::general_purpose::STANDARD.encode(hash);
        assert_eq!(identity.spki_sha256, expected);
    }

    #[test]
    fn every_trouble_names_the_file() {
        let dir = tempfile::tempdir().expect("directory");
        let (certificate, key) = pair();
        let (_, other_key) = pair();
        let cert = write(dir.path(), "cert.pem", &certificate);
        let good_key = write(dir.path(), "key.pem", &key);
        let foreign = write(dir.path(), "foreign.pem", &other_key);
        let empty = write(dir.path(), "empty.pem", "");
        let broken = write(
            dir.path(),
            "broken.pem",
            &certificate.replace("-----END", "-----EN"),
        );
        let missing = dir.path().join("missing.pem");
        for (certificate, key, file, why) in [
            (&missing, &good_key, "missing.pem", "No such file"),
            (&cert, &missing, "missing.pem", "No such file"),
            (&empty, &good_key, "empty.pem", "no certificate"),
            (&broken, &good_key, "broken.pem", "not valid PEM"),
            (&cert, &cert, "cert.pem", "no private key"),
            (&cert, &foreign, "foreign.pem", "does not belong"),
        ] {
            let error = load_pair(certificate.clone(), key.clone()).expect_err(why);
            let text = format!("{error:#}");
            assert!(text.contains(file) && text.contains(why), "{text}");
        }
    }
}
