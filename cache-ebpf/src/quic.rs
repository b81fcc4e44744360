//! The first bytes of a QUIC datagram: what is not encrypted and does not change between versions
//! (RFC 8999), and the packet types of versions 1 (RFC 9000) and 2 (RFC 9369).
//!
//! The fixed bit is not looked at: a peer may clear it at will (RFC 9287).

use crate::{cid::CID_LEN, packet::Packet, parse::Udp, reason::Reason};

/// Smallest UDP payload that may carry an Initial, RFC 9000 section 14.1.
pub const MIN_INITIAL_DATAGRAM: usize = 1200;

/// Longest connection id of versions 1 and 2, RFC 9000 section 17.2.
const MAX_CID: usize = 20;

/// Shortest connection id that a client may choose for the server, RFC 9000 section 7.2.
const MIN_INITIAL_CID: usize = 8;

const LONG_HEADER: u8 = 0x80;
const VERSION_NEGOTIATION: u32 = 0;
const VERSION_1: u32 = 0x0000_0001;
const VERSION_2: u32 = 0x6b33_43cf;

/// What the first packet of a datagram says in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`Reason::QuicShort`] stands for any short header; whether its id is ours is for the
    /// caller to find out.
    pub reason: Reason,
    /// Offset in the payload of a destination connection id that has the length of ours.
    pub cid: Option<usize>,
}

/// Reads the header of the first QUIC packet in `udp`.
#[inline(always)]
pub fn header(packet: &Packet<'_>, udp: &Udp) -> Header {
    match udp.read::<1>(packet, 0) {
        Some([first]) if first & LONG_HEADER != 0 => long(packet, udp, first),
        Some(_) => short(packet, udp),
        None => malformed(),
    }
}

#[inline(always)]
fn short(packet: &Packet<'_>, udp: &Udp) -> Header {
    const ID: usize = 1;
    match udp.read::<CID_LEN>(packet, ID) {
        Some(_) => Header {
            reason: Reason::QuicShort,
            cid: Some(ID),
        },
        None => malformed(),
    }
}

/// ```text
/// first (1) | version (4) | length (1) | destination id | length (1) | source id | ...
/// ```
#[inline(always)]
fn long(packet: &Packet<'_>, udp: &Udp, first: u8) -> Header {
    const IDS: usize = 6;
    let Some([v0, v1, v2, v3, cid_len]) = udp.read::<5>(packet, 1) else {
        return malformed();
    };
    let cid_len = cid_len as usize;
    let kind = packet_type(u32::from_be_bytes([v0, v1, v2, v3]), first);
    if kind == Reason::QuicOtherVersion || kind == Reason::QuicFromServer {
        return Header {
            reason: kind,
            cid: None,
        };
    }
    if cid_len > MAX_CID {
        return malformed();
    }
    match udp.read::<1>(packet, IDS + cid_len) {
        Some([source_len]) if source_len as usize <= MAX_CID => {}
        _ => return malformed(),
    }
    let reason = match kind {
        Reason::QuicInitial if cid_len < MIN_INITIAL_CID => Reason::QuicMalformed,
        Reason::QuicInitial if udp.length < MIN_INITIAL_DATAGRAM => Reason::QuicInitialUndersized,
        kind => kind,
    };
    Header {
        reason,
        cid: (cid_len == CID_LEN).then_some(IDS),
    }
}

/// The packet type of a long header. Version 2 counts the types from another start.
#[inline(always)]
fn packet_type(version: u32, first: u8) -> Reason {
    let bits = first >> 4;
    let number = match version {
        VERSION_1 => bits & 3,
        VERSION_2 => bits.wrapping_sub(1) & 3,
        VERSION_NEGOTIATION => return Reason::QuicFromServer,
        _ => return Reason::QuicOtherVersion,
    };
    match number {
        0 => Reason::QuicInitial,
        1 => Reason::QuicZeroRtt,
        2 => Reason::QuicHandshake,
        _ => Reason::QuicFromServer,
    }
}

#[inline(always)]
fn malformed() -> Header {
    Header {
        reason: Reason::QuicMalformed,
        cid: None,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn parsed(payload: &[u8]) -> Header {
        let udp = Udp {
            ip: 0,
            v6: false,
            source: 0,
            destination: 0,
            payload: 0,
            length: payload.len(),
        };
        header(&Packet::new(payload), &udp)
    }

    fn long_header(first: u8, version: u32, cid: &[u8], size: usize) -> Vec<u8> {
        let mut packet = Vec::from([first]);
        packet.extend(version.to_be_bytes());
        packet.push(cid.len() as u8);
        packet.extend(cid);
        packet.push(0);
        packet.resize(size.max(packet.len()), 0);
        packet
    }

    #[test]
    fn types_of_both_versions() {
        let types = [
            Reason::QuicInitial,
            Reason::QuicZeroRtt,
            Reason::QuicHandshake,
            Reason::QuicFromServer,
        ];
        for (i, expected) in types.into_iter().enumerate() {
            for (version, number) in [(VERSION_1, i), (VERSION_2, (i + 1) % 4)] {
                let first = 0xc0 | (number as u8) << 4;
                let packet = long_header(first, version, &[7; 8], 1200);
                assert_eq!(parsed(&packet).reason, expected, "{version:x} {number}");
            }
        }
    }

    #[test]
    fn an_initial_needs_1200_bytes_and_an_id_of_8() {
        for (cid, size, expected) in [
            (&[1; 8][..], 1200, Reason::QuicInitial),
            (&[1; 20], 1200, Reason::QuicInitial),
            (&[1; 8], 1199, Reason::QuicInitialUndersized),
            (&[1; 7], 1200, Reason::QuicMalformed),
            (&[1; 21], 1200, Reason::QuicMalformed),
        ] {
            let packet = long_header(0xc0, VERSION_1, cid, size);
            assert_eq!(parsed(&packet).reason, expected);
        }
    }

    #[test]
    fn other_versions_may_have_longer_ids() {
        let packet = long_header(0xc0, 0x0a1a_2a3a, &[1; 200], 1200);
        assert_eq!(parsed(&packet).reason, Reason::QuicOtherVersion);
    }

    #[test]
    fn version_negotiation_comes_from_a_server() {
        let packet = long_header(0xc0, 0, &[1; 8], 1200);
        assert_eq!(parsed(&packet).reason, Reason::QuicFromServer);
    }

    #[test]
    fn an_id_of_our_length_is_found() {
        let packet = long_header(0xe0, VERSION_1, b"abcdefghijkl", 100);
        assert_eq!(parsed(&packet).cid, Some(6));
        let packet = long_header(0xe0, VERSION_1, b"abcdefghijk", 100);
        assert_eq!(parsed(&packet).cid, None);
        let short = parsed(b"\x40abcdefghijkl");
        assert_eq!(short.reason, Reason::QuicShort);
        assert_eq!(short.cid, Some(1));
    }

    #[test]
    fn the_fixed_bit_is_not_looked_at() {
        assert_eq!(parsed(b"\x00abcdefghijkl").reason, Reason::QuicShort);
        let packet = long_header(0x80, VERSION_1, &[7; 8], 1200);
        assert_eq!(parsed(&packet).reason, Reason::QuicInitial);
    }

    #[test]
    fn cut_off_headers_are_malformed() {
        assert_eq!(parsed(b"").reason, Reason::QuicMalformed);
        assert_eq!(parsed(b"\x40abcdefghijk").reason, Reason::QuicMalformed);
        let packet = long_header(0xe0, VERSION_1, &[1; 20], 0);
        for end in 0..packet.len() {
            assert_eq!(parsed(&packet[..end]).reason, Reason::QuicMalformed);
        }
    }
}
