//! Frames as bytes: what is read from one that arrived, and how one to send is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cache_core::io::EcnCodepoint;
use cache_ebpf::checksum::{fold, sum};
use cache_ebpf::packet::Packet;
use cache_ebpf::parse;

/// Ethernet and two VLAN tags.
pub const MAX_LINK_HEADER: usize = 22;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// All headers of a frame we send.
pub const MAX_HEADERS: usize = MAX_LINK_HEADER + IPV6_LEN + UDP_LEN;

const UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// A UDP datagram in a frame that arrived.
#[derive(Debug)]
pub struct Arrived<'a> {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub ecn: Option<EcnCodepoint>,
    pub payload: &'a [u8],
    /// The link header of a reply.
    pub reply: LinkHeader,
}

/// Everything in front of the IP header: Ethernet addresses, VLAN tags, ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    bytes: [u8; MAX_LINK_HEADER],
    len: u8,
}

impl LinkHeader {
    /// Taken from a frame that arrived, with the addresses swapped.
    fn reply_to(header: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_LINK_HEADER];
        let place = bytes.get_mut(..header.len())?;
        place.copy_from_slice(header);
        place[..6].copy_from_slice(&header[6..12]);
        place[6..12].copy_from_slice(&header[..6]);
        Some(Self {
            bytes,
            len: header.len() as u8,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Reads the datagram in a frame, if it has one. Checksums are not looked at: QUIC authenticates
/// every packet, addresses included, by the connection it belongs to.
pub fn read(frame: &[u8]) -> Option<Arrived<'_>> {
    let packet = Packet::new(frame);
    let network = parse::network(&packet).ok()?;
    let udp = parse::udp(&packet, network.udp().ok()?).ok()?;
    let ip = frame.get(network.ip..)?;
    let (source, destination, tos) = match network.source.v6 {
        false => {
            let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            (IpAddr::from(source), IpAddr::from(destination), *ip.get(1)?)
        }
        true => {
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            let class = u16::from_be_bytes(ip.get(..2)?.try_into().ok()?) >> 4;
            (IpAddr::from(source), IpAddr::from(destination), class as u8)
        }
    };
    Some(Arrived {
        remote: SocketAddr::new(source, udp.source),
        local: SocketAddr::new(destination, udp.destination),
        ecn: EcnCodepoint::from_bits(tos & 0b11),
        payload: frame.get(udp.payload..)?.get(..udp.length)?,
        reply: LinkHeader::reply_to(frame.get(..network.ip)?)?,
    })
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub link: LinkHeader,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The traffic class's low bits.
    pub ecn: u8,
}

/// Writes a frame with `payload` and returns its length. `None`: the addresses are of different
/// families, or the frame does not fit into `out`.
pub fn write(path: &Path, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let link = path.link.bytes();
    let udp_len = UDP_LEN + payload.len();
    let ip_len = match path.to {
        SocketAddr::V4(_) => IPV4_LEN,
        SocketAddr::V6(_) => IPV6_LEN,
    };
    let total = link.len() + ip_len + udp_len;
    let out = out.get_mut(..total)?;
    let (link_out, rest) = out.split_at_mut(link.len());
    let (ip_out, udp_out) = rest.split_at_mut(ip_len);
    link_out.copy_from_slice(link);
    let pseudo = match (path.from.ip(), path.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            write_ipv4(ip_out, from, to, path.ecn, udp_len as u16);
            sum(&from.octets()) + sum(&to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            write_ipv6(ip_out, from, to, path.ecn, udp_len as u16);
            sum(&from.octets()) + sum(&to.octets())
        }
        _ => return None,
    };
    udp_out[..2].copy_from_slice(&path.from.port().to_be_bytes());
    udp_out[2..4].copy_from_slice(&path.to.port().to_be_bytes());
    udp_out[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    udp_out[6..8].fill(0);
    udp_out[UDP_LEN..].copy_from_slice(payload);
    let checksum = fold(pseudo + u64::from(UDP) + udp_len as u64 + sum(udp_out));
    // Zero would mean "none" (RFC 768).
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    udp_out[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some(total)
}

fn write_ipv4(out: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, ecn: u8, udp_len: u16) {
    out[0] = 0x45;
    out[1] = ecn;
    out[2..4].copy_from_slice(&(IPV4_LEN as u16 + udp_len).to_be_bytes());
    // An unfragmented datagram needs no identification (RFC 6864).
    out[4..6].fill(0);
    out[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    out[8] = HOP_LIMIT;
    out[9] = UDP;
    out[10..12].fill(0);
    out[12..16].copy_from_slice(&from.octets());
    out[16..20].copy_from_slice(&to.octets());
    let checksum = fold(sum(out));
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn write_ipv6(out: &mut [u8], from: Ipv6Addr, to: Ipv6Addr, ecn: u8, udp_len: u16) {
    let class = u32::from(ecn) << 20;
    out[..4].copy_from_slice(&(6 << 28 | class).to_be_bytes());
    out[4..6].copy_from_slice(&udp_len.to_be_bytes());
    out[6] = UDP;
    out[7] = HOP_LIMIT;
    out[8..24].copy_from_slice(&from.octets());
    out[24..40].copy_from_slice(&to.octets());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(tags: usize, ethertype: u16) -> LinkHeader {
        let mut header = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for n in 0..tags {
            header.extend([0x81, 0, 0, 7 + n as u8]);
        }
        header.extend(ethertype.to_be_bytes());
        LinkHeader::reply_to(&header).expect("fits")
    }

    fn path(from: &str, to: &str, tags: usize) -> Path {
        let (from, to): (SocketAddr, SocketAddr) =
            (from.parse().expect("address"), to.parse().expect("address"));
        let ethertype = if to.is_ipv4() { 0x0800 } else { 0x86dd };
        Path {
            link: link(tags, ethertype),
            from,
            to,
            ecn: 0b10,
        }
    }

    #[test]
    fn a_frame_that_is_written_is_read_back() {
        for tags in 0..=2 {
            for (from, to) in [
                ("192.0.2.1:443", "198.51.100.7:50000"),
                ("[2001:db8::1]:443", "[2001:db8::2]:9"),
            ] {
                let path = path(from, to, tags);
                for length in [0, 1, 2, 3, 100, 1452] {
                    let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
                    let mut out = [0xaa; 2048];
                    let total = write(&path, &payload, &mut out).expect("fits");
                    let got = read(&out[..total]).expect("a datagram");
                    assert_eq!(got.payload, payload);
                    assert_eq!((got.remote, got.local), (path.from, path.to));
                    assert_eq!(got.ecn, Some(EcnCodepoint::Ect0));
                    assert_eq!(got.reply.bytes()[..6], path.link.bytes()[6..12]);
                    assert_eq!(got.reply.bytes()[12..], path.link.bytes()[12..]);
                    // A receiver sums everything with the checksum in it and gets zero.
                    let udp = &out[total - length - UDP_LEN..total];
                    let ips = |ip: IpAddr| match ip {
                        IpAddr::V4(ip) => sum(&ip.octets()),
                        IpAddr::V6(ip) => sum(&ip.octets()),
                    };
                    let pseudo = ips(path.from.ip()) + ips(path.to.ip());
                    assert_eq!(fold(pseudo + 17 + udp.len() as u64 + sum(udp)), 0);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let path = path("192.0.2.1:1", "192.0.2.2:2", 0);
        assert_eq!(write(&path, &[0; 2000], &mut [0; 2000]), None);
        let mixed = Path {
            to: "[::1]:1".parse().expect("address"),
            ..path
        };
        assert_eq!(write(&mixed, &[0; 10], &mut [0; 2000]), None);
        assert!(read(&[0; 10]).is_none());
    }
}
