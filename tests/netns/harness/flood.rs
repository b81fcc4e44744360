//! Floods from the clients' namespace, with sources that nobody has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cache_ebpf::checksum::{fold, sum};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;

use super::{Edge, HOST, SERVER, within};

/// Packets sent in a row: half of what a virtual NIC's queue holds.
const TRAIN: usize = 64;
/// Between two of them, so that a flood lasts longer than a client takes to start.
const PAUSE: Duration = Duration::from_millis(15);

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// `count` Initials, each of a handshake of its own that could go on.
pub fn initials(count: usize) -> Vec<Vec<u8>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("suites for QUIC");
    let config = ClientConfig::new(Arc::new(crypto));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let server: SocketAddr = SERVER.parse().expect("an address");
    let initial = |_| {
        let now = Instant::now();
        let (_, mut connection) = endpoint
            .connect(now, config.clone(), server, HOST)
            .expect("a connection");
        let mut initial = Vec::new();
        let transmit = connection.poll_transmit(now, 1, &mut initial);
        initial.truncate(transmit.expect("an Initial").size);
        initial
    };
    (0..count).map(initial).collect()
}

/// A short header with an id that nobody has made.
pub fn forged_short() -> Vec<u8> {
    let mut packet = vec![0; 32];
    ::aws_lc_rs::rand::fill(&mut packet).expect("randomness");
    packet[0] = 0x40 | packet[0] & 0x3f;
    packet
}

/// A whole frame to the appliance at `mac`, from an address that nobody has.
pub fn frame(mac: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 99), 50_000);
    let mut packet = datagram(source, SERVER.parse().expect("an address"), payload);
    let checksum = fold(sum(&packet[..IPV4_HEADER]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&mac[..], &[2, 0, 0, 0, 0, 99, 8, 0], &packet].concat()
}

impl Edge {
    /// Sends each payload to popcache from another address of the clients' network.
    pub fn flood(&self, payloads: &[Vec<u8>]) {
        within(self.network().client(), || {
            let raw = socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
            .expect("a raw socket");
            for (number, payload) in payloads.iter().enumerate() {
                let source = Ipv4Addr::new(10, 77, 0, 10 + (number % 240) as u8);
                let source = SocketAddrV4::new(source, 1024 + (number / 240 % 60_000) as u16);
                send(&raw, source, payload);
                if number % TRAIN == TRAIN - 1 {
                    thread::sleep(PAUSE);
                }
            }
        });
    }

    /// Sends a payload to popcache from the clients' own address.
    pub fn send_udp(&self, payload: &[u8]) {
        within(self.network().client(), || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let sent = socket.send_to(payload, SERVER).expect("sent");
            assert_eq!(sent, payload.len());
        });
    }
}

fn send(raw: &impl AsRawFd, source: SocketAddrV4, payload: &[u8]) {
    let server: SocketAddrV4 = SERVER.parse().expect("an address");
    let packet = datagram(source, server, payload);
    let to = SockaddrIn::from(server);
    match sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()) {
        Ok(sent) => assert_eq!(sent, packet.len()),
        Err(error) => panic!("raw packet: {}", io::Error::from(error)),
    }
}

/// IPv4 and UDP around a payload. The kernel fills in the IPv4 checksum; UDP goes without.
fn datagram(source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp = (UDP_HEADER + payload.len()) as u16;
    let whole = IPV4_HEADER as u16 + udp;
    let mut packet = vec![0x45, 0];
    packet.extend(whole.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
