//! Frames to send: Ethernet, IP and UDP around a payload, or TCP's SYN, and what may vary in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use cache_ebpf::checksum::{fold, sum};
use cache_ebpf::vary::Variation;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const HOPS: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

// A SYN (RFC 9293, section 3.1): where its sequence number and checksum are, and what else it says.
const SEQUENCE: u16 = 4;
const TCP_CHECKSUM: u16 = 16;
const SYN_LEN: usize = 24;
const SYN_LEN_AND_FLAGS: [u8; 2] = [6 << 4, 2];
const WINDOW: u16 = 64_240;
const MAXIMUM_SEGMENT: [u8; 4] = [2, 4, 5, 180];

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Addresses that packets claim to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    pub first: IpAddr,
    pub count: u32,
}

/// Source ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub count: u16,
}

/// Where frames come from and go to.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub source_mac: Mac,
    pub destination_mac: Mac,
    pub sources: Sources,
    pub ports: Ports,
    pub to: SocketAddr,
}

/// What is sent again and again, varied.
#[derive(Clone, Debug)]
pub struct Template {
    pub frame: Vec<u8>,
    pub variation: Variation,
    /// Offset of the UDP payload, where there is one.
    pub payload_at: usize,
}

/// Bytes of payload that vary too: eight from this even offset on.
pub type IdAt = Option<u16>;

impl Sources {
    /// `ADDRESS` or `ADDRESS/LENGTH`. At most 2^32 - 1 addresses are used of a prefix.
    ///
    /// # Errors
    /// Not a prefix, or one of IPv6 that is shorter than /96.
    pub fn parse(text: &str) -> Result<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("`{text}` is not an IP address or prefix"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => length
                .parse()
                .with_context(|| format!("`{text}` has no prefix length"))?,
        };
        ensure!(
            length <= longest && longest - length <= 32,
            "`{text}`: the prefix length must be {} to {longest}",
            longest - 32
        );
        let count = 1u64 << (longest - length);
        let mask = !(u128::from(count) - 1);
        Ok(Self {
            first: match address {
                IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask as u32).into(),
                IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask).into(),
            },
            count: u32::try_from(count).unwrap_or(u32::MAX),
        })
    }

    pub fn last(&self) -> IpAddr {
        let beyond = self.count - 1;
        match self.first {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() + beyond).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() + u128::from(beyond)).into(),
        }
    }

    /// The four bytes that vary.
    fn low(&self) -> u32 {
        match self.first {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => v6.to_bits() as u32,
        }
    }
}

impl Ports {
    /// `PORT` or `FIRST-LAST`.
    ///
    /// # Errors
    /// Not ports, none, or all 65,536.
    pub fn parse(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| -> Result<u16> {
            text.parse()
                .with_context(|| format!("`{text}` is not a port"))
        };
        let (first, last) = (port(first)?, port(last)?);
        ensure!(
            1 <= first && first <= last,
            "`{text}` has no ports: it must be FIRST-LAST, from 1 on"
        );
        Ok(Self {
            first,
            count: last - first + 1,
        })
    }
}

impl Template {
    /// A datagram along `path`. `port` stands for the path's ports where it is given.
    ///
    /// # Errors
    /// Addresses of two kinds, or a payload that fits into no datagram.
    pub fn datagram(path: &Path, port: Option<u16>, payload: &[u8], id: IdAt) -> Result<Self> {
        let length = u16::try_from(UDP + payload.len()).context("the payload is too long")?;
        let source_port = port.unwrap_or(path.ports.first);
        let (mut frame, pseudo) = headers(path, PROTOCOL_UDP, length)?;
        let udp_at = frame.len();
        for word in [source_port, path.to.port(), length, 0] {
            frame.extend(word.to_be_bytes());
        }
        frame.extend(payload);
        let varying = Varying {
            ports: port.is_none(),
            checksum: 6,
            id: id.map(|id| UDP as u16 + id),
        };
        Ok(Self {
            variation: seal(&mut frame, pseudo, path, udp_at, &varying),
            payload_at: udp_at + UDP,
            frame,
        })
    }

    /// The beginning of a TCP connection along `path`, its sequence number varying.
    ///
    /// # Errors
    /// Addresses of two kinds.
    pub fn syn(path: &Path) -> Result<Self> {
        let (mut frame, pseudo) = headers(path, PROTOCOL_TCP, SYN_LEN as u16)?;
        let tcp_at = frame.len();
        for port in [path.ports.first, path.to.port()] {
            frame.extend(port.to_be_bytes());
        }
        // Sequence and acknowledgement number; the latter means nothing in a SYN.
        frame.extend([0; 8]);
        frame.extend(SYN_LEN_AND_FLAGS);
        frame.extend(WINDOW.to_be_bytes());
        // Checksum and urgent pointer.
        frame.extend([0; 4]);
        frame.extend(MAXIMUM_SEGMENT);
        let varying = Varying {
            ports: true,
            checksum: TCP_CHECKSUM,
            id: Some(SEQUENCE),
        };
        Ok(Self {
            variation: seal(&mut frame, pseudo, path, tcp_at, &varying),
            payload_at: frame.len(),
            frame,
        })
    }

    /// A frame that is sent as it is.
    pub fn fixed(frame: Vec<u8>, payload_at: usize) -> Self {
        Self {
            frame,
            variation: Variation::default(),
            payload_at,
        }
    }
}

/// Ethernet and IP for `length` bytes of `protocol`, and the sum of the pseudo-header.
fn headers(path: &Path, protocol: u8, length: u16) -> Result<(Vec<u8>, u64)> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + usize::from(length));
    frame.extend(path.destination_mac);
    frame.extend(path.source_mac);
    let addresses = match (path.sources.first, path.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4(from, to, protocol, length)?);
            sum(&from.octets()) + sum(&to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd]);
            frame.extend(ipv6(from, to, protocol, length));
            sum(&from.octets()) + sum(&to.octets())
        }
        (from, to) => bail!("{from} and {to} are not of the same kind"),
    };
    Ok((frame, addresses + u64::from(protocol) + u64::from(length)))
}

/// What varies behind IP, by offsets from the header there.
struct Varying {
    ports: bool,
    checksum: u16,
    id: Option<u16>,
}

/// Fills in the checksum of the header at `at`, and says where all that varies is.
fn seal(frame: &mut [u8], pseudo: u64, path: &Path, at: usize, varying: &Varying) -> Variation {
    // Zero would mean that there is none (RFC 768); to TCP both are the same.
    let checksum = match fold(pseudo + sum(&frame[at..])) {
        0 => 0xffff,
        sum => sum,
    };
    let place = at + usize::from(varying.checksum);
    frame[place..][..2].copy_from_slice(&checksum.to_be_bytes());
    variation(path, at as u16, varying)
}

fn variation(path: &Path, udp_at: u16, varying: &Varying) -> Variation {
    let v4 = path.to.is_ipv4();
    let sources = path.sources.count > 1;
    let ports = varying.ports && path.ports.count > 1;
    let when = |varies: bool, at: u16| if varies { at } else { 0 };
    Variation {
        seed: 0,
        first_source: path.sources.low(),
        sources: path.sources.count,
        first_port: path.ports.first,
        ports: path.ports.count,
        // The last four bytes of the source; of IPv4 its only ones, behind the header's checksum.
        source_at: when(sources, if v4 { udp_at - 8 } else { udp_at - 20 }),
        ip_checksum_at: when(sources && v4, udp_at - 10),
        port_at: when(ports, udp_at),
        udp_checksum_at: udp_at + varying.checksum,
        id_at: varying.id.map_or(0, |id| udp_at + id),
        reserved: 0,
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, length: u16) -> Result<[u8; IPV4]> {
    let total = length.checked_add(IPV4 as u16);
    let total = total.context("the payload is too long")?;
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = HOPS;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let checksum = fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(header)
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, length: u16) -> [u8; IPV6] {
    let mut header = [0; IPV6];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = protocol;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..].copy_from_slice(&to.octets());
    header
}

#[cfg(test)]
pub(super) mod tests {
    use cache_ebpf::packet::Packet;
    use cache_ebpf::parse::{Transport, network, tcp, udp};
    use cache_ebpf::vary::vary;

    use super::*;

    pub fn path(sources: &str, to: &str) -> Path {
        Path {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            sources: Sources::parse(sources).expect("valid"),
            ports: Ports::parse("1000-1999").expect("valid"),
            to: to.parse().expect("valid"),
        }
    }

    /// The source of a frame, once both of its checksums were found to be right.
    fn checked(frame: &[u8]) -> (IpAddr, u16) {
        let packet = Packet::new(frame);
        let found = network(&packet).expect("IP");
        let at = found.udp().expect("UDP");
        let datagram = udp(&packet, at).expect("whole");
        let ip = &frame[found.ip..at];
        let addresses = match ip.len() {
            IPV4 => {
                assert_eq!(fold(sum(ip)), 0, "the header's checksum");
                &ip[12..]
            }
            _ => &ip[8..],
        };
        let pseudo = sum(addresses) + u64::from(PROTOCOL_UDP) + (frame.len() - at) as u64;
        assert_eq!(fold(pseudo + sum(&frame[at..])), 0, "UDP's checksum");
        assert_eq!(datagram.payload + datagram.length, frame.len());
        (found.source.into(), datagram.source)
    }

    #[test]
    fn every_variation_of_a_frame_has_right_checksums() {
        for (sources, to) in [
            ("198.18.64.0/18", "198.18.0.1:443"),
            ("2001:db8::/96", "[2001:db8::1]:443"),
        ] {
            let path = path(sources, to);
            for length in [12, 13, 1200] {
                let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
                let template = Template::datagram(&path, None, &payload, Some(2)).expect("fits");
                assert_eq!(checked(&template.frame), (path.sources.first, 1000));
                let mut frame = template.frame.clone();
                for n in 0..500 {
                    vary(&mut frame[..], &template.variation, n).expect("long enough");
                    let (source, port) = checked(&frame);
                    assert!((path.sources.first..=path.sources.last()).contains(&source));
                    assert!((1000..2000).contains(&port));
                    let id = template.payload_at + 2;
                    let drawn = template.variation.draw(n).id;
                    assert_eq!(frame[id..][..8], drawn.to_be_bytes());
                }
            }
        }
    }

    #[test]
    fn every_syn_is_one_and_has_a_right_checksum() {
        for (sources, to) in [
            ("198.18.64.0/18", "198.18.0.1:443"),
            ("2001:db8::/96", "[2001:db8::1]:443"),
        ] {
            let path = path(sources, to);
            let template = Template::syn(&path).expect("fits");
            let mut frame = template.frame.clone();
            let mut sequences = std::collections::BTreeSet::new();
            for n in 0..500 {
                vary(&mut frame[..], &template.variation, n).expect("long enough");
                let packet = Packet::new(&frame);
                let found = network(&packet).expect("IP");
                let Ok(Transport::Tcp(at)) = found.transport else {
                    panic!("{found:?}");
                };
                let (segment, opens) = tcp(&packet, at).expect("whole");
                assert!(opens && segment.destination == 443, "{segment:?}");
                assert!((1000..2000).contains(&segment.source));
                let addresses = &frame[if to.starts_with('[') { 22 } else { 26 }..at];
                let pseudo = sum(addresses) + u64::from(PROTOCOL_TCP) + SYN_LEN as u64;
                assert_eq!(fold(pseudo + sum(&frame[at..])), 0, "TCP's checksum");
                sequences.insert(frame[at + 4..][..4].to_vec());
            }
            assert_eq!(sequences.len(), 500);
        }
    }

    #[test]
    fn one_source_and_a_given_port_do_not_vary() {
        let path = path("192.0.2.1", "192.0.2.2:443");
        let template = Template::datagram(&path, Some(53), b"answer", None).expect("fits");
        let mut frame = template.frame.clone();
        vary(&mut frame[..], &template.variation, 7).expect("long enough");
        assert_eq!(frame, template.frame);
        assert_eq!(checked(&frame), (path.sources.first, 53));
    }

    #[test]
    fn ranges_are_read() {
        let sources = Sources::parse("10.1.2.3/8").expect("valid");
        assert_eq!(sources.first.to_string(), "10.0.0.0");
        assert_eq!(sources.last().to_string(), "10.255.255.255");
        let all = Sources::parse("0.0.0.0/0").expect("valid");
        assert_eq!(all.count, u32::MAX);
        assert_eq!(Sources::parse("fd00::7").expect("valid").count, 1);
        for bad in ["10.0.0.0/33", "fd00::/64", "x", "10.0.0.0/", "10.0.0.0/y"] {
            Sources::parse(bad).expect_err(bad);
        }
        let ports = Ports::parse("53").expect("valid");
        assert_eq!((ports.first, ports.count), (53, 1));
        for bad in ["0", "9-8", "1-65536", "a-b", ""] {
            Ports::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn addresses_of_two_kinds_are_refused() {
        let path = path("192.0.2.1", "[2001:db8::1]:443");
        Template::datagram(&path, None, b"x", None).expect_err("IPv4 to IPv6");
    }
}
