//! Self-signed certificates for servers under test.

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
}
