//! Self-signed certificates for servers under test.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate and its key, in both forms that servers take.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Identity {
    /// Makes an ECDSA P-256 certificate for `name`.
    ///
    /// # Errors
    /// A name that is no DNS name.
    pub fn new(name: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])
            .with_context(|| format!("cannot make a certificate for `{name}`"))?;
        let key = made.signing_key;
        Ok(Self {
            certificate: made.cert.der().clone(),
            certificate_pem: made.cert.pem(),
            key_pem: key.serialize_pem(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// What a server of HTTP/3 shows its clients.
    ///
    /// # Errors
    /// A cryptography provider without TLS 1.3.
    pub fn into_h3_server(self) -> Result<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("no TLS 1.3")?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate], self.key)
            .context("the certificate made here is not usable")?;
        tls.alpn_protocols = vec![b"h3".to_vec()];
        Ok(tls)
    }
}
