//! TLS and transport settings of the load client.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{DigitallySignedStruct, NamedGroup, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::site::IDLE_SECONDS;

/// Tickets kept for connections that resume.
const MAX_TICKETS: usize = 1024;

/// Without session resumption, so that each new connection costs a full handshake.
pub(crate) fn client_config() -> Result<ClientConfig> {
    transport(any_h3_server()?)
}

/// With sessions and early data (RFC 9001 section 4.6): a connection resumes what one before it with
/// the same configuration was given.
pub(super) fn resuming_config() -> Result<ClientConfig> {
    let mut tls = any_h3_server()?;
    tls.resumption = Resumption::store(Arc::<Tickets>::default());
    tls.enable_early_data = true;
    transport(tls)
}

/// The latest tickets of the one server, the last first, each used once.
///
/// The TLS library's own store keeps eight of a server: connections that are made side by side are given
/// more than that at once, use up what is kept, and the next of them have nothing to resume.
#[derive(Debug, Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl Tickets {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    /// The group that is tried first is one that every server here has.
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    /// QUIC has no TLS 1.2.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        kept.push_back(ticket);
        if kept.len() > MAX_TICKETS {
            kept.pop_front();
        }
    }

    /// The last: a server with room for few sessions forgets the others first.
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().pop_back()
    }
}

/// Without path MTU discovery, since a client sends little.
fn transport(tls: rustls::ClientConfig) -> Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).context("no QUIC cipher suite")?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None);
    transport.max_idle_timeout(Some(
        Duration::from_secs(IDLE_SECONDS)
            .try_into()
            .context("minutes are a valid timeout")?,
    ));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// TLS 1.3 for HTTP/3 with a server that signed its own certificate.
pub(crate) fn any_h3_server() -> Result<rustls::ClientConfig> {
    let mut tls = any_server()?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(tls)
}

/// TLS 1.3 with a server that signed its own certificate, no ALPN yet.
pub(super) fn any_server() -> Result<rustls::ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    // The first use collects entropy for tens of milliseconds, which is not a handshake's cost.
    if provider.secure_random.fill(&mut [0; 32]).is_err() {
        bail!("the system gives no random bytes");
    }
    let verifier = Arc::new(AnyServer(provider.signature_verification_algorithms));
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("no TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.resumption = Resumption::disabled();
    Ok(tls)
}

/// Takes any certificate: servers under test sign their own. Signatures are still checked, so that
/// a handshake costs the client what it costs a browser.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
