//! Handshakes of the node's own TLS configuration with a client of rustls, over QUIC without a network: every
//! key exchange and kind of certificate, and sessions that are resumed on another core.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use cache_userspace::sessions::Sessions;
use cache_userspace::tls_files;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ServerConfig, StreamEvent,
};
use rustls::RootCertStore;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;

const NAME: &str = "edge.test";

/// Rounds of packets after which nothing more is expected.
const ROUNDS: usize = 20;

struct Identity {
    shown: Arc<dyn ResolvesServerCert>,
    roots: Arc<RootCertStore>,
}

impl Identity {
    fn with(key: &rcgen::KeyPair) -> Self {
        let parameters = rcgen::CertificateParams::new([NAME.to_owned()]).expect("a name");
        let certificate = parameters.self_signed(key).expect("a certificate");
        let chain = vec![certificate.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).expect("a root");
        let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, der, &provider).expect("a key for it");
        Self {
            shown: Arc::new(SingleCertAndKey::from(certified)),
            roots: Arc::new(roots),
        }
    }

    fn ecdsa() -> Self {
        Self::with(&rcgen::KeyPair::generate().expect("a key"))
    }

    /// A core that shows it.
    fn core(&self, sessions: Option<&Arc<Sessions>>) -> Core {
        let sessions = sessions.cloned();
        let tls = tls_files::quic_config(self.shown.clone(), sessions).expect("a configuration");
        let crypto = QuicServerConfig::try_from(Arc::new(tls)).expect("suites for QUIC");
        let server = ServerConfig::with_crypto(Arc::new(crypto));
        let config = Arc::new(EndpointConfig::default());
        Core(Endpoint::new(config, Some(Arc::new(server)), true, None))
    }

    /// A client that offers one key exchange.
    fn client(&self, group: &'static dyn SupportedKxGroup) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![group];
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        tls.enable_early_data = true;
        let crypto = QuicClientConfig::try_from(tls).expect("suites for QUIC");
        ClientConfig::new(Arc::new(crypto))
    }
}

/// A server endpoint.
struct Core(Endpoint);

/// What a connection came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    connected: bool,
    /// The server had the client's stream before its handshake was complete.
    early: bool,
    /// What the client sent first, in datagrams.
    flight: Vec<Vec<u8>>,
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 443).into()
}

impl Core {
    /// A client connects, opens a stream at once if it may, and leaves.
    fn visit(&mut self, config: &ClientConfig) -> Outcome {
        let now = Instant::now();
        let endpoint = Arc::new(EndpointConfig::default());
        let mut client = Endpoint::new(endpoint, None, true, None);
        let (handle, mut connection) = client
            .connect(now, config.clone(), address(), NAME)
            .expect("a connection");
        if connection.has_0rtt() {
            let id = connection.streams().open(Dir::Bi).expect("a stream");
            let written = connection.send_stream(id).write(b"early");
            assert_eq!(written.ok(), Some(5));
        }
        let mut outcome = Outcome::default();
        let mut served = None;
        for round in 0..ROUNDS {
            let sent = flush(&mut client, handle, &mut connection);
            for datagram in &sent {
                self.take(datagram, &mut served, &mut outcome);
            }
            if round == 0 {
                outcome.flight = sent;
            }
            let Some((handle, server)) = &mut served else {
                continue;
            };
            outcome.early |= has_stream(server);
            for datagram in flush(&mut self.0, *handle, server) {
                deliver(&mut client, &datagram, &mut connection);
            }
        }
        while let Some(event) = connection.poll() {
            outcome.connected |= matches!(event, Event::Connected);
        }
        outcome
    }

    /// Someone sends datagrams again. Whether that made another connection, which the endpoint that still
    /// knows the first one does not do, and what became of it.
    fn replay(&mut self, flight: &[Vec<u8>]) -> (bool, Outcome) {
        let mut outcome = Outcome::default();
        let mut served = None;
        for datagram in flight {
            self.take(datagram, &mut served, &mut outcome);
        }
        if let Some((_, server)) = &mut served {
            outcome.early |= has_stream(server);
        }
        (served.is_some(), outcome)
    }

    fn take(
        &mut self,
        datagram: &[u8],
        served: &mut Option<(ConnectionHandle, Connection)>,
        outcome: &mut Outcome,
    ) {
        let mut answer = Vec::new();
        let now = Instant::now();
        let data = BytesMut::from(datagram);
        match self.0.handle(now, address(), None, None, data, &mut answer) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.0.accept(incoming, now, &mut answer, None);
                *served = Some(accepted.map_err(|error| error.cause).expect("accepted"));
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, server)) = served {
                    server.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
        if let Some((_, server)) = served {
            outcome.early |= server.is_handshaking() && has_stream(server);
        }
    }
}

fn has_stream(server: &mut Connection) -> bool {
    let early = server.is_handshaking();
    let mut opened = false;
    while let Some(event) = server.poll() {
        opened |= matches!(event, Event::Stream(StreamEvent::Opened { .. }));
    }
    early && opened
}

/// The datagrams that a connection has to send.
fn flush(
    endpoint: &mut Endpoint,
    handle: ConnectionHandle,
    connection: &mut Connection,
) -> Vec<Vec<u8>> {
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
    let mut datagrams = Vec::new();
    let mut buffer = Vec::new();
    while let Some(transmit) = connection.poll_transmit(Instant::now(), 1, &mut buffer) {
        datagrams.push(buffer[..transmit.size].to_vec());
        buffer.clear();
    }
    datagrams
}

fn deliver(client: &mut Endpoint, datagram: &[u8], connection: &mut Connection) {
    let mut answer = Vec::new();
    let data = BytesMut::from(datagram);
    let event = client.handle(Instant::now(), address(), None, None, data, &mut answer);
    if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
        connection.handle_event(event);
    }
}

fn count(sessions: &Sessions, wanted: &str) -> u64 {
    let counters = sessions.counters();
    let found = counters.iter().find(|(name, _)| *name == wanted);
    found.expect("a counter of that name").1
}

#[test]
fn every_key_exchange_with_every_kind_of_certificate() {
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let of = |kind| rcgen::KeyPair::generate_for(kind).expect("a key");
    let keys = [
        ("ECDSA P-256", of(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("ECDSA P-384", of(&rcgen::PKCS_ECDSA_P384_SHA384)),
        ("RSA", rsa.expect("a key")),
        ("Ed25519", of(&rcgen::PKCS_ED25519)),
    ];
    let groups = [
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    for (kind, key) in &keys {
        let identity = Identity::with(key);
        let mut core = identity.core(None);
        for group in groups {
            let outcome = core.visit(&identity.client(group));
            assert!(outcome.connected, "{kind} with {:?}", group.name());
        }
    }
}

#[test]
fn a_session_of_one_core_is_good_on_another_once() {
    let identity = Identity::ecdsa();
    let sessions = Arc::new(Sessions::new(64));
    let mut cores = [
        identity.core(Some(&sessions)),
        identity.core(Some(&sessions)),
    ];
    let client = identity.client(aws_lc_rs::kx_group::X25519MLKEM768);
    let first = cores[0].visit(&client);
    assert!(first.connected && !first.early);
    assert_eq!(count(&sessions, "sessions"), 2);

    let second = cores[1].visit(&client);
    assert!(second.connected && second.early);
    assert_eq!(count(&sessions, "sessions_resumed"), 1);
    // The same bytes again, to either core: the second took them first and knows the connection.
    for (core, connects) in cores.iter_mut().zip([true, false]) {
        let (connected, outcome) = core.replay(&second.flight);
        assert_eq!((connected, outcome.early), (connects, false));
    }
    assert_eq!(count(&sessions, "sessions_resumed"), 1);
    assert!(count(&sessions, "sessions_replayed") >= 1);
}

#[test]
fn without_sessions_there_is_no_early_data() {
    let identity = Identity::ecdsa();
    let mut core = identity.core(None);
    let client = identity.client(aws_lc_rs::kx_group::X25519);
    for _ in 0..3 {
        let outcome = core.visit(&client);
        assert!(outcome.connected && !outcome.early);
    }
}
