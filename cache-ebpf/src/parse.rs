//! From an Ethernet frame to the UDP payload, or to the TCP header.
//!
//! Follows at most two VLAN tags, IPv4 options and four IPv6 extension headers (hop-by-hop, routing,
//! destination; what is behind an authentication header is not looked for). It validates what it
//! needs to find the payload and leaves the rest (checksums) to whoever takes the packet.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{packet::Packet, reason::Reason};

/// VLAN tags that are followed: one, or a service tag around a customer tag.
pub const MAX_VLAN_TAGS: usize = 2;

/// IPv6 extension headers that are followed.
pub const MAX_EXTENSION_HEADERS: usize = 4;

const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

// Flags of a TCP header, RFC 9293 section 3.1.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

// IPv6 extension headers, RFC 8200 section 4.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Where a packet says it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub v6: bool,
    /// The upper half of an IPv6 address; 0 for IPv4.
    pub high: u64,
    /// The lower half of an IPv6 address, or the IPv4 address.
    pub low: u64,
}

impl Source {
    pub const fn v4(address: u32) -> Self {
        Self {
            v6: false,
            high: 0,
            low: address as u64,
        }
    }

    pub const fn v6(address: u128) -> Self {
        Self {
            v6: true,
            high: (address >> 64) as u64,
            low: address as u64,
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.to_bits()),
            IpAddr::V6(address) => Self::v6(address.to_bits()),
        }
    }
}

impl From<Source> for IpAddr {
    fn from(source: Source) -> Self {
        if source.v6 {
            let address = u128::from(source.high) << 64 | u128::from(source.low);
            Ipv6Addr::from_bits(address).into()
        } else {
            Ipv4Addr::from_bits(source.low as u32).into()
        }
    }
}

/// What IP says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Offset of the IP header.
    pub ip: usize,
    pub source: Source,
    /// What is next, or the reason why it is not looked at.
    pub transport: Result<Transport, Reason>,
}

impl Network {
    /// Offset of the UDP header.
    ///
    /// # Errors
    /// The reason why there is none.
    #[inline(always)]
    pub fn udp(&self) -> Result<usize, Reason> {
        match self.transport {
            Ok(Transport::Udp(at)) => Ok(at),
            Ok(Transport::Tcp(_)) => Err(Reason::NotUdp),
            Err(reason) => Err(reason),
        }
    }
}

/// The header behind IP's, and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp(usize),
    Tcp(usize),
}

/// A whole UDP datagram in a packet, or a segment of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: u16,
    pub destination: u16,
    /// Offset of the payload; of TCP, of its header.
    pub payload: usize,
    /// Bytes of payload as the UDP header says, all of them within the packet; of TCP all from its
    /// header on, padding of a short frame included.
    pub length: usize,
}

impl Segment {
    /// Nothing at all.
    pub const NONE: Self = Self {
        source: 0,
        destination: 0,
        payload: 0,
        length: 0,
    };

    /// The `N` payload bytes at `offset`, never link-layer padding behind the payload.
    #[inline(always)]
    pub fn read<const N: usize>(&self, packet: &Packet<'_>, offset: usize) -> Option<[u8; N]> {
        if offset + N > self.length {
            return None;
        }
        packet.read(self.payload + offset)
    }
}

/// Reads `packet` up to its IP header.
///
/// # Errors
/// The reason why there is none that can be read.
#[inline(always)]
pub fn network(packet: &Packet<'_>) -> Result<Network, Reason> {
    let (ethertype, ip) = link(packet)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, ip),
        ETHERTYPE_IPV6 => ipv6(packet, ip),
        _ => Err(Reason::NotIp),
    }
}

/// Reads the UDP header at `transport`.
///
/// # Errors
/// The reason why there is no whole datagram.
#[inline(always)]
pub fn udp(packet: &Packet<'_>, transport: usize) -> Result<Segment, Reason> {
    let transport = packet.place(transport);
    let [s0, s1, d0, d1, l0, l1, _, _] = read::<UDP_LEN>(packet, transport)?;
    let length = u16::from_be_bytes([l0, l1]) as usize;
    let payload = transport + UDP_LEN;
    if length < UDP_LEN || transport + length > packet.len() {
        return Err(Reason::Truncated);
    }
    Ok(Segment {
        source: u16::from_be_bytes([s0, s1]),
        destination: u16::from_be_bytes([d0, d1]),
        payload,
        length: length - UDP_LEN,
    })
}

/// Reads the TCP header at `transport`, and whether it opens a connection (SYN without ACK).
///
/// # Errors
/// There is no whole header.
#[inline(always)]
pub fn tcp(packet: &Packet<'_>, transport: usize) -> Result<(Segment, bool), Reason> {
    let transport = packet.place(transport);
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, _, flags, ..] =
        read::<TCP_LEN>(packet, transport)?;
    let segment = Segment {
        source: u16::from_be_bytes([s0, s1]),
        destination: u16::from_be_bytes([d0, d1]),
        payload: transport,
        length: packet.len() - transport,
    };
    Ok((segment, flags & (SYN | ACK) == SYN))
}

/// The ethertype below the VLAN tags and the offset of what it announces.
#[inline(always)]
fn link(packet: &Packet<'_>) -> Result<(u16, usize), Reason> {
    let mut offset = ETHERNET_LEN;
    let mut ethertype = u16::from_be_bytes(read(packet, offset - 2)?);
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        offset += VLAN_TAG_LEN;
        ethertype = u16::from_be_bytes(read(packet, offset - 2)?);
    }
    Ok((ethertype, offset))
}

#[inline(always)]
fn ipv4(packet: &Packet<'_>, ip: usize) -> Result<Network, Reason> {
    let header = read::<IPV4_LEN>(packet, ip)?;
    let [
        version_ihl,
        _,
        _,
        _,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        a,
        b,
        c,
        d,
        ..,
    ] = header;
    let header_len = (version_ihl & 0x0f) as usize * 4;
    if version_ihl >> 4 != 4 || header_len < IPV4_LEN {
        return Err(Reason::Truncated);
    }
    let more_fragments_or_offset = u16::from_be_bytes([f0, f1]) & 0x3fff;
    let transport = if more_fragments_or_offset != 0 {
        Err(Reason::Fragment)
    } else {
        transport(protocol, ip + header_len)
    };
    Ok(Network {
        ip,
        source: Source::v4(u32::from_be_bytes([a, b, c, d])),
        transport,
    })
}

#[inline(always)]
fn ipv6(packet: &Packet<'_>, ip: usize) -> Result<Network, Reason> {
    let [version, _, _, _, _, _, next, _] = read::<8>(packet, ip)?;
    if version >> 4 != 6 {
        return Err(Reason::Truncated);
    }
    let source = Source {
        v6: true,
        high: u64::from_be_bytes(read(packet, ip + 8)?),
        low: u64::from_be_bytes(read(packet, ip + 16)?),
    };
    Ok(Network {
        ip,
        source,
        transport: behind_extensions(packet, ip + IPV6_LEN, next),
    })
}

/// What is behind the extension headers that start at `offset`.
#[inline(always)]
fn behind_extensions(packet: &Packet<'_>, offset: usize, next: u8) -> Result<Transport, Reason> {
    let (mut offset, mut next) = (offset, next);
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
        }
        let [after, length] = read::<2>(packet, offset)?;
        offset += (length as usize + 1) * 8;
        next = after;
    }
    match next {
        FRAGMENT => Err(Reason::Fragment),
        next if is_extension(next) => Err(Reason::Ipv6Extensions),
        next => transport(next, offset),
    }
}

#[inline(always)]
fn transport(protocol: u8, at: usize) -> Result<Transport, Reason> {
    match protocol {
        PROTOCOL_UDP => Ok(Transport::Udp(at)),
        PROTOCOL_TCP => Ok(Transport::Tcp(at)),
        _ => Err(Reason::NotUdp),
    }
}

/// Whether `next` is an extension header that is followed. One branch for all three: the verifier
/// walks the rest of the loop once more for every branch.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    const FOLLOWED: u64 = 1 << HOP_BY_HOP | 1 << ROUTING | 1 << DESTINATION;
    next < 64 && (FOLLOWED >> next) & 1 == 1
}

#[inline(always)]
fn read<const N: usize>(packet: &Packet<'_>, offset: usize) -> Result<[u8; N], Reason> {
    packet.read(offset).ok_or(Reason::Truncated)
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    /// An Ethernet header, `tags` and an ethertype.
    fn ethernet(tags: &[u16], ethertype: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame
    }

    fn ipv4_header(options: usize, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut header = vec![0; 20 + options];
        header[0] = 0x40 | (header.len() / 4) as u8;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[9] = protocol;
        header
    }

    fn ipv6_header(next: u8) -> Vec<u8> {
        let mut header = vec![0; IPV6_LEN];
        header[0] = 0x60;
        header[6] = next;
        header
    }

    fn udp_header(destination: u16, payload: usize) -> Vec<u8> {
        let mut header = vec![0x30, 0x39];
        header.extend(destination.to_be_bytes());
        header.extend(((payload + UDP_LEN) as u16).to_be_bytes());
        header.extend([0, 0]);
        header
    }

    fn parsed(parts: &[Vec<u8>]) -> Result<Segment, Reason> {
        whole(&Packet::new(&parts.concat()))
    }

    fn whole(packet: &Packet<'_>) -> Result<Segment, Reason> {
        udp(packet, network(packet)?.udp()?)
    }

    #[test]
    fn plain_ipv4() {
        let frame = [
            ethernet(&[], ETHERTYPE_IPV4),
            ipv4_header(0, 0, 17),
            udp_header(443, 3),
            vec![1, 2, 3, 0, 0],
        ];
        let expected = Segment {
            source: 12345,
            destination: 443,
            payload: 42,
            length: 3,
        };
        let found = parsed(&frame).unwrap();
        assert_eq!(found, expected);
        let bytes = frame.concat();
        assert_eq!(found.read(&Packet::new(&bytes), 0), Some([1, 2, 3]));
        assert_eq!(
            found.read::<4>(&Packet::new(&bytes), 0),
            None,
            "padding is not payload"
        );
    }

    #[test]
    fn vlan_tags_are_followed_up_to_two() {
        for (tags, expected) in [
            (&[0x8100][..], Ok(46)),
            (&[0x88a8, 0x8100], Ok(50)),
            (&[0x88a8, 0x8100, 0x8100], Err(Reason::NotIp)),
        ] {
            let frame = [
                ethernet(tags, ETHERTYPE_IPV4),
                ipv4_header(0, 0, 17),
                udp_header(1, 0),
            ];
            assert_eq!(parsed(&frame).map(|udp| udp.payload), expected);
        }
    }

    #[test]
    fn ipv4_options_are_skipped() {
        let frame = [
            ethernet(&[], ETHERTYPE_IPV4),
            ipv4_header(40, 0, 17),
            udp_header(9, 0),
        ];
        assert_eq!(parsed(&frame).unwrap().payload, 14 + 60 + 8);
    }

    #[test]
    fn fragments_are_told_apart_but_dont_fragment_is_none() {
        for (field, is_fragment) in [(0x4000, false), (0x2000, true), (0x0001, true)] {
            let frame = [
                ethernet(&[], ETHERTYPE_IPV4),
                ipv4_header(0, field, 17),
                udp_header(9, 0),
            ];
            assert_eq!(parsed(&frame) == Err(Reason::Fragment), is_fragment);
        }
        let frame = [
            ethernet(&[], ETHERTYPE_IPV6),
            ipv6_header(FRAGMENT),
            vec![17; 16],
        ];
        assert_eq!(parsed(&frame), Err(Reason::Fragment));
    }

    #[test]
    fn a_header_length_below_twenty_is_refused() {
        let mut ip = ipv4_header(0, 0, 17);
        ip[0] = 0x44;
        let frame = [ethernet(&[], ETHERTYPE_IPV4), ip, udp_header(9, 0)];
        assert_eq!(parsed(&frame), Err(Reason::Truncated));
    }

    #[test]
    fn ipv6_extension_headers_are_followed_up_to_the_bound() {
        for count in 0..=MAX_EXTENSION_HEADERS + 1 {
            let first = if count == 0 { 17 } else { HOP_BY_HOP };
            let mut frame = vec![ethernet(&[], ETHERTYPE_IPV6), ipv6_header(first)];
            for i in 1..=count {
                let mut header = vec![0; 16];
                header[0] = if i == count { 17 } else { DESTINATION };
                header[1] = 1;
                frame.push(header);
            }
            frame.push(udp_header(443, 0));
            let expected = if count <= MAX_EXTENSION_HEADERS {
                Ok(14 + 40 + 16 * count + 8)
            } else {
                Err(Reason::Ipv6Extensions)
            };
            assert_eq!(parsed(&frame).map(|udp| udp.payload), expected, "{count}");
        }
    }

    #[test]
    fn other_protocols_are_named() {
        let tcp = [ethernet(&[], ETHERTYPE_IPV4), ipv4_header(0, 0, 6)];
        assert_eq!(parsed(&tcp), Err(Reason::NotUdp));
        let icmp6 = [ethernet(&[], ETHERTYPE_IPV6), ipv6_header(58)];
        assert_eq!(parsed(&icmp6), Err(Reason::NotUdp));
        assert_eq!(parsed(&[ethernet(&[], 0x0806)]), Err(Reason::NotIp));
    }

    #[test]
    fn tcp_is_read_up_to_its_flags() {
        let segment = |flags| {
            let mut header = vec![0; TCP_LEN + 7];
            header[..4].copy_from_slice(&[0xc3, 0x50, 0x01, 0xbb]);
            header[13] = flags;
            header
        };
        let read = |parts: &[Vec<u8>]| {
            let frame = parts.concat();
            let packet = Packet::new(&frame);
            match network(&packet)?.transport? {
                Transport::Tcp(at) => tcp(&packet, at),
                Transport::Udp(_) => Err(Reason::OtherPort),
            }
        };
        for (flags, opens) in [
            (SYN, true),
            (SYN | 0xc0, true),
            (SYN | ACK, false),
            (ACK, false),
        ] {
            let v6 = [
                ethernet(&[], ETHERTYPE_IPV6),
                ipv6_header(6),
                segment(flags),
            ];
            let expected = Segment {
                source: 50_000,
                destination: 443,
                payload: 54,
                length: TCP_LEN + 7,
            };
            assert_eq!(read(&v6), Ok((expected, opens)), "{flags:x}");
        }
        let mut cut = segment(SYN);
        cut.truncate(TCP_LEN - 1);
        let v4 = [ethernet(&[], ETHERTYPE_IPV4), ipv4_header(4, 0, 6), cut];
        assert_eq!(read(&v4), Err(Reason::Truncated));
    }

    #[test]
    fn a_udp_length_beyond_the_packet_or_below_its_header_is_refused() {
        for length in [0u16, 7, 12] {
            let mut udp = udp_header(443, 0);
            udp[4..6].copy_from_slice(&length.to_be_bytes());
            let frame = [
                ethernet(&[], ETHERTYPE_IPV4),
                ipv4_header(0, 0, 17),
                udp,
                vec![0; 3],
            ];
            assert_eq!(parsed(&frame), Err(Reason::Truncated));
        }
    }

    #[test]
    fn sources_are_read_whatever_follows() {
        let mut ip = ipv4_header(0, 0x2000, 6);
        ip[12..16].copy_from_slice(&[192, 0, 2, 7]);
        let frame = [ethernet(&[], ETHERTYPE_IPV4), ip].concat();
        let found = network(&Packet::new(&frame)).unwrap();
        assert_eq!(found.source, Source::v4(0xc000_0207));
        assert_eq!(found.transport, Err(Reason::Fragment));

        let mut ip = ipv6_header(58);
        let address: Ipv6Addr = "2001:db8::17".parse().unwrap();
        ip[8..24].copy_from_slice(&address.octets());
        let frame = [ethernet(&[0x8100], ETHERTYPE_IPV6), ip].concat();
        let found = network(&Packet::new(&frame)).unwrap();
        assert_eq!(IpAddr::from(found.source), address);
        assert_eq!(found.transport, Err(Reason::NotUdp));
    }

    #[test]
    fn every_prefix_of_a_packet_is_refused_without_a_panic() {
        let frame = [
            ethernet(&[0x8100], ETHERTYPE_IPV6),
            ipv6_header(HOP_BY_HOP),
            vec![17, 0, 0, 0, 0, 0, 0, 0],
            udp_header(443, 20),
            vec![0; 20],
        ]
        .concat();
        assert!(whole(&Packet::new(&frame)).is_ok());
        for end in 0..frame.len() {
            let cut = whole(&Packet::new(&frame[..end]));
            assert_eq!(cut, Err(Reason::Truncated), "cut at {end}");
        }
    }
}
