//! What the generated datagrams carry: good QUIC, forged QUIC, broken QUIC, and reflectors' answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use quinn_proto::{Endpoint, EndpointConfig};
use rand::Rng;
use rand::rngs::SmallRng;

use super::frame::IdAt;
use crate::load::tls;

/// Bytes of a datagram that begins a connection (RFC 9000 section 14.1).
pub const INITIAL: usize = 1200;

/// Different first flights among the Initials.
const FLIGHTS: usize = 64;

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first flight of a real client: right keys, a ClientHello. A server begins a handshake.
    Initial,
    /// An Initial with a connection id of its own and a body that no key opens.
    ForgedInitial,
    /// A short header with a connection id that nobody issued.
    Short,
    /// Lengths, versions and sizes that no server accepts.
    Malformed,
    /// What reflectors send to the victim of an amplification attack.
    Amplification,
    /// The beginning of a TCP connection, which has no payload.
    Syn,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Initial,
        Self::ForgedInitial,
        Self::Short,
        Self::Malformed,
        Self::Amplification,
        Self::Syn,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::ForgedInitial => "forged-initial",
            Self::Short => "short",
            Self::Malformed => "malformed",
            Self::Amplification => "amplification",
            Self::Syn => "syn",
        }
    }
}

/// One payload of a kind.
#[derive(Debug)]
pub struct Payload {
    pub bytes: Vec<u8>,
    pub id: IdAt,
    /// The port that it has to come from.
    pub port: Option<u16>,
}

impl Payload {
    fn fixed(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            id: None,
            port: None,
        }
    }
}

/// The payloads of a kind. `size`: bytes of a short header's datagram.
///
/// # Errors
/// Where TLS cannot be had.
pub fn payloads(kind: Kind, size: usize, random: &mut SmallRng) -> Result<Vec<Payload>> {
    Ok(match kind {
        Kind::Initial => first_flights(FLIGHTS)?,
        Kind::ForgedInitial => vec![forged_initial(random)],
        Kind::Short => vec![short(size, random)],
        Kind::Malformed => malformed(random),
        Kind::Amplification => amplification(random),
        Kind::Syn => bail!("a SYN is no datagram"),
    })
}

/// The first datagrams of `count` connections of a real client.
fn first_flights(count: usize) -> Result<Vec<Payload>> {
    let config = tls::client_config()?;
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
    let remote: SocketAddr = ([192, 0, 2, 1], 443).into();
    let now = Instant::now();
    let mut flights = Vec::with_capacity(count);
    for _ in 0..count {
        let (_, mut connection) = endpoint
            .connect(now, config.clone(), remote, "edge.test")
            .context("cannot begin a connection")?;
        let mut bytes = Vec::new();
        if connection.poll_transmit(now, 1, &mut bytes).is_none() {
            bail!("a new connection has nothing to send");
        }
        flights.push(Payload::fixed(bytes));
    }
    Ok(flights)
}

fn forged_initial(random: &mut SmallRng) -> Payload {
    Payload {
        bytes: long(0xc3, 1, &[7; 8], INITIAL, random),
        id: Some(6),
        port: None,
    }
}

fn short(size: usize, random: &mut SmallRng) -> Payload {
    let mut bytes = noise(size, random);
    bytes[0] = 0x41;
    // The number of the first key, so that the forgery costs its server a MAC.
    bytes[1] = 0;
    Payload {
        bytes,
        id: Some(2),
        port: None,
    }
}

fn malformed(random: &mut SmallRng) -> Vec<Payload> {
    let mut beyond = long(0xc3, 1, &[7; 8], INITIAL, random);
    beyond[16..18].copy_from_slice(&0x7fff_u16.to_be_bytes());
    let mut from_server = long(0xc3, 0, &[7; 8], INITIAL, random);
    from_server[0] = 0x80;
    [
        vec![0x41, 1, 2, 3, 4],
        beyond,
        long(0xc3, 1, &[7; 21], INITIAL, random),
        long(0xc3, 1, &[7; 4], INITIAL, random),
        long(0xc3, 1, &[7; 8], 300, random),
        long(0xc3, 0x1a2a_3a4a, &[7; 8], 300, random),
        from_server,
    ]
    .map(Payload::fixed)
    .into()
}

/// The heads of what is sent by DNS, NTP, CLDAP, SSDP and memcached, filled up.
fn amplification(random: &mut SmallRng) -> Vec<Payload> {
    let answers: [(u16, &[u8], usize); 5] = [
        (
            53,
            b"\x12\x34\x81\x80\x00\x01\x00\x10\x00\x00\x00\x00",
            1232,
        ),
        (123, b"\xd7\x00\x03\x2a\x00\x06\x00\x48", 440),
        (389, b"\x30\x84\x00\x00\x05\x00\x02\x01\x01\x64", 1400),
        (
            1900,
            b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n",
            320,
        ),
        (
            11211,
            b"\x00\x00\x00\x00\x00\x01\x00\x00VALUE a 0 1400\r\n",
            1400,
        ),
    ];
    let payload = |(port, head, size): (u16, &[u8], usize)| {
        let mut bytes = noise(size, random);
        bytes[..head.len()].copy_from_slice(head);
        Payload {
            bytes,
            id: None,
            port: Some(port),
        }
    };
    answers.into_iter().map(payload).collect()
}

/// A long header with an empty token and noise behind it, `size` bytes in all.
fn long(first: u8, version: u32, id: &[u8], size: usize, random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.push(id.len() as u8);
    bytes.extend(id);
    bytes.extend([0, 0]);
    let rest = size - bytes.len() - 2;
    bytes.extend((0x4000 | rest as u16).to_be_bytes());
    bytes.extend(noise(rest, random));
    bytes
}

fn noise(length: usize, random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..]);
    bytes
}

#[cfg(test)]
mod tests {
    use cache_ebpf::cid::{CidKey, CidKeys};
    use cache_ebpf::maps::{Counters, MAX_PORTS, Rules, counter_names};
    use cache_ebpf::packet::Packet;
    use cache_ebpf::tables::HostTables;
    use cache_ebpf::vary::vary;
    use cache_ebpf::verdict::{Given, Seen, decide};
    use rand::SeedableRng;

    use super::super::frame::{Template, tests::path};
    use super::*;

    /// What the guard's library says of each payload of `kind`, in their fifth variation.
    fn said(kind: Kind) -> Vec<&'static str> {
        let mut random = SmallRng::seed_from_u64(3);
        let payloads = payloads(kind, 64, &mut random).expect("made");
        let path = path("198.18.64.0/18", "198.18.0.1:443");
        let mut ports = [0; MAX_PORTS];
        ports[0] = 443;
        let rules = Rules::new(4, ports);
        let keys = CidKeys::new(0, CidKey::from_bytes(*b"0123456789abcdef"));
        let (mut tables, mut seen) = (HostTables::default(), Seen::NOTHING);
        let mut all = Vec::new();
        for payload in payloads {
            let template =
                Template::datagram(&path, payload.port, &payload.bytes, payload.id).expect("fits");
            let mut frame = template.frame.clone();
            vary(&mut frame[..], &template.variation, 5).expect("long enough");
            let mut counters = Counters::ZERO;
            let given = Given {
                queue: 0,
                rules: &rules,
                keys: &keys,
            };
            let packet = Packet::new(&frame);
            decide(|| packet, given, &mut tables, &mut counters, &mut seen);
            all.extend(
                counter_names()
                    .zip(counters.values)
                    .filter_map(|(name, count)| (count > 0).then_some(name)),
            );
        }
        all
    }

    #[test]
    fn the_guard_reads_every_kind_as_what_it_is() {
        assert_eq!(said(Kind::Initial), ["quic_initial"; FLIGHTS]);
        assert_eq!(said(Kind::ForgedInitial), ["quic_initial"]);
        assert_eq!(said(Kind::Short), ["quic_short_unknown"]);
        assert_eq!(
            said(Kind::Malformed),
            [
                "quic_malformed",
                "quic_malformed",
                "quic_malformed",
                "quic_malformed",
                "quic_initial_undersized",
                "quic_other_version_undersized",
                "quic_from_server",
            ]
        );
    }

    #[test]
    fn first_flights_fill_a_datagram_and_differ() {
        let flights = first_flights(3).expect("made");
        assert!(flights.iter().all(|flight| flight.bytes.len() == INITIAL));
        assert_ne!(flights[0].bytes[6..14], flights[1].bytes[6..14]);
    }

    #[test]
    fn reflectors_answer_from_their_ports() {
        let mut random = SmallRng::seed_from_u64(3);
        let answers = payloads(Kind::Amplification, 64, &mut random).expect("made");
        let ports: Vec<_> = answers.iter().map(|answer| answer.port).collect();
        assert_eq!(ports, [53, 123, 389, 1900, 11211].map(Some));
        let mut rules = Rules::new(1, [0; MAX_PORTS]);
        rules.set_reflectors(&[53, 123, 389, 1900, 11211]);
        assert!(ports.into_iter().flatten().all(|port| rules.reflects(port)));
    }
}
