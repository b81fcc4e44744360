//! The first bytes of a QUIC datagram: what is not encrypted and does not change between versions
//! (RFC 8999), and the packet types of versions 1 (RFC 9000) and 2 (RFC 9369).
//!
//! Lengths are followed to the end of the first packet: one that does not fit into its datagram cannot
//! be authenticated. The fixed bit is only noted: a peer may clear it at will (RFC 9287).

use core::num::NonZeroUsize;

use crate::{cid::CID_LEN, packet::Packet, parse::Segment, reason::Reason};

/// Smallest UDP payload that may carry an Initial, RFC 9000 section 14.1.
pub const MIN_INITIAL_DATAGRAM: usize = 1200;

/// Longest connection id of versions 1 and 2, RFC 9000 section 17.2.
const MAX_CID: usize = 20;

/// Shortest connection id that a client may choose for the server, RFC 9000 section 7.2.
const MIN_INITIAL_CID: usize = 8;

/// Shortest rest of a packet behind its Length: a packet number and a sample for its protection, RFC
/// 9001 section 5.4.2.
const MIN_PROTECTED: u64 = 20;

const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;

// Types of a long header as version 1 numbers them, RFC 9000 section 17.2.
const INITIAL: u8 = 0;
const ZERO_RTT: u8 = 1;
const RETRY: u8 = 3;
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
    pub cid: Option<NonZeroUsize>,
    /// The fixed bit is clear in a packet of a version that has one.
    pub unfixed: bool,
    /// The first packet is followed by something that does not begin as a packet does.
    pub trailing: bool,
}

impl Header {
    /// Nothing was read.
    pub const NONE: Self = plain(Reason::QuicMalformed);
}

/// Reads the header of the first QUIC packet in `udp`.
#[inline(always)]
pub fn header(packet: &Packet<'_>, udp: &Segment) -> Header {
    match udp.read::<1>(packet, 0) {
        Some([first]) if first & LONG_HEADER != 0 => long(packet, udp, first),
        Some([first]) => short(packet, udp, first),
        None => plain(Reason::QuicMalformed),
    }
}

#[inline(always)]
fn short(packet: &Packet<'_>, udp: &Segment, first: u8) -> Header {
    const ID: usize = 1;
    match udp.read::<CID_LEN>(packet, ID) {
        Some(_) => Header {
            reason: Reason::QuicShort,
            cid: NonZeroUsize::new(ID),
            unfixed: first & FIXED_BIT == 0,
            trailing: false,
        },
        None => plain(Reason::QuicMalformed),
    }
}

/// ```text
/// first (1) | version (4) | length (1) | destination id | length (1) | source id | ...
/// ```
#[inline(always)]
fn long(packet: &Packet<'_>, udp: &Segment, first: u8) -> Header {
    const IDS: usize = 6;
    let Some([v0, v1, v2, v3, cid_len]) = udp.read::<5>(packet, 1) else {
        return plain(Reason::QuicMalformed);
    };
    let cid_len = cid_len as usize;
    let version = u32::from_be_bytes([v0, v1, v2, v3]);
    let small = udp.length < MIN_INITIAL_DATAGRAM;
    let number = match version {
        VERSION_1 => first >> 4 & 3,
        // Version 2 counts the types from another start.
        VERSION_2 => (first >> 4).wrapping_sub(1) & 3,
        VERSION_NEGOTIATION => return plain(Reason::QuicFromServer),
        _ if small => return plain(Reason::QuicOtherVersionUndersized),
        _ => return plain(Reason::QuicOtherVersion),
    };
    if number == RETRY {
        return plain(Reason::QuicFromServer);
    }
    let initial = number == INITIAL;
    if cid_len > MAX_CID || initial && cid_len < MIN_INITIAL_CID {
        return plain(Reason::QuicMalformed);
    }
    let Some(behind) = behind_ids(packet, udp, IDS + cid_len) else {
        return plain(Reason::QuicMalformed);
    };
    if initial && small {
        return plain(Reason::QuicInitialUndersized);
    }
    let Some(end) = end(packet, udp, behind, initial) else {
        return plain(Reason::QuicMalformed);
    };
    Header {
        reason: match number {
            INITIAL => Reason::QuicInitial,
            ZERO_RTT => Reason::QuicZeroRtt,
            _ => Reason::QuicHandshake,
        },
        cid: NonZeroUsize::new(if cid_len == CID_LEN { IDS } else { 0 }),
        unfixed: first & FIXED_BIT == 0,
        trailing: !continues(packet, udp, end, version),
    }
}

/// The offset behind the source connection id, whose length stands at `offset`.
#[inline(always)]
fn behind_ids(packet: &Packet<'_>, udp: &Segment, offset: usize) -> Option<usize> {
    let [source_len] = udp.read::<1>(packet, offset)?;
    (source_len as usize <= MAX_CID).then_some(offset + 1 + source_len as usize)
}

/// Where the packet ends whose token (of an Initial) or Length is at `offset`.
#[inline(always)]
fn end(packet: &Packet<'_>, udp: &Segment, offset: usize, initial: bool) -> Option<usize> {
    let mut offset = packet.place(offset);
    if initial {
        let (token_len, token) = variable(packet, udp, offset)?;
        if token_len > udp.length as u64 {
            return None;
        }
        offset = packet.place(token + token_len as usize);
    }
    let (length, behind) = variable(packet, udp, offset)?;
    if length < MIN_PROTECTED || length > udp.length as u64 {
        return None;
    }
    let end = behind + length as usize;
    (end <= udp.length).then_some(end)
}

/// A variable-length integer (RFC 9000 section 16) and the offset behind it.
#[inline(always)]
fn variable(packet: &Packet<'_>, udp: &Segment, offset: usize) -> Option<(u64, usize)> {
    let [first] = udp.read::<1>(packet, offset)?;
    let value = match first >> 6 {
        0 => u64::from(first),
        1 => u64::from(u16::from_be_bytes(udp.read(packet, offset)?)),
        2 => u64::from(u32::from_be_bytes(udp.read(packet, offset)?)),
        _ => u64::from_be_bytes(udp.read(packet, offset)?),
    };
    let size = 1 << (first >> 6);
    // The top two bits of the first byte are the size, not the value. No length in a datagram is
    // larger than 16 bits tell; and the verifier need not know which size it was.
    let value = (value & (u64::MAX >> (64 - 8 * size + 2))).min(u64::from(u16::MAX));
    let behind = packet.place(offset + size);
    Some((u64::from(packet.forget(value as u16)), behind))
}

/// Whether the datagram ends at `offset`, or has what may be another packet there: a long header of
/// the same version, a short header, or the zeros that some clients (aioquic) fill a datagram up with.
#[inline(always)]
fn continues(packet: &Packet<'_>, udp: &Segment, offset: usize, version: u32) -> bool {
    let offset = packet.place(offset);
    if offset == udp.length {
        return true;
    }
    let Some([first]) = udp.read::<1>(packet, offset) else {
        return false;
    };
    if first & LONG_HEADER == 0 {
        return first == 0 || first & FIXED_BIT != 0;
    }
    let next = udp.read::<4>(packet, offset + 1);
    next.is_some_and(|next| u32::from_be_bytes(next) == version)
}

#[inline(always)]
const fn plain(reason: Reason) -> Header {
    Header {
        reason,
        cid: None,
        unfixed: false,
        trailing: false,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn parsed(payload: &[u8]) -> Header {
        let udp = Segment {
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
        let start = if version == VERSION_2 { 0x10 } else { 0 };
        if first & 0x30 == start {
            packet.push(0);
        }
        let rest = size.saturating_sub(packet.len() + 2).max(20);
        packet.extend((0x4000 | rest as u16).to_be_bytes());
        packet.resize(packet.len() + rest, 0);
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
        let packet = long_header(0xc0, 0x0a1a_2a3a, &[1; 200], 1199);
        let reason = parsed(&packet).reason;
        assert_eq!(reason, Reason::QuicOtherVersionUndersized);
    }

    #[test]
    fn version_negotiation_comes_from_a_server() {
        let packet = long_header(0xc0, 0, &[1; 8], 1200);
        assert_eq!(parsed(&packet).reason, Reason::QuicFromServer);
    }

    #[test]
    fn an_id_of_our_length_is_found() {
        let packet = long_header(0xe0, VERSION_1, b"abcdefghijkl", 100);
        assert_eq!(parsed(&packet).cid, NonZeroUsize::new(6));
        let packet = long_header(0xe0, VERSION_1, b"abcdefghijk", 100);
        assert_eq!(parsed(&packet).cid, None);
        let short = parsed(b"\x40abcdefghijkl");
        assert_eq!(short.reason, Reason::QuicShort);
        assert_eq!(short.cid, NonZeroUsize::new(1));
    }

    #[test]
    fn the_fixed_bit_is_noted() {
        for (bit, unfixed) in [(0, true), (FIXED_BIT, false)] {
            let mut short = *b"\x00abcdefghijkl";
            short[0] |= bit;
            let found = parsed(&short);
            assert_eq!((found.reason, found.unfixed), (Reason::QuicShort, unfixed));
            let found = parsed(&long_header(0x80 | bit, VERSION_1, &[7; 8], 1200));
            assert_eq!(
                (found.reason, found.unfixed),
                (Reason::QuicInitial, unfixed)
            );
        }
    }

    #[test]
    fn lengths_are_followed_to_the_end_of_the_first_packet() {
        let whole = long_header(0xe0, VERSION_1, &[7; 12], 100);
        assert_eq!(parsed(&whole).reason, Reason::QuicHandshake);
        assert_eq!(parsed(&whole[..99]).reason, Reason::QuicMalformed);
        for (next, trailing) in [
            (&whole[..], false),
            (b"\x40abc", false),
            (b"\0\0\0", false),
            (b"\x01\0\0", true),
            (b"\xe0\0\0\0\x02", true),
            (b"\xe0\0\0", true),
        ] {
            let coalesced = [&whole, next].concat();
            let found = parsed(&coalesced);
            assert_eq!(
                (found.reason, found.trailing),
                (Reason::QuicHandshake, trailing)
            );
        }
    }

    #[test]
    fn integers_of_every_size_are_read() {
        let ids = [&[0xc0, 0, 0, 0, 1, 8][..], &[7; 8], &[0]].concat();
        let rest = 1200 - ids.len();
        for token in [
            &[0][..],
            &[0x40, 0],
            &[0x80, 0, 0, 2, 1, 2],
            &[0xc0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            for size in [2, 4, 8] {
                let length = (rest - token.len() - size) as u64;
                let field = match size {
                    2 => (length as u16 | 0x4000).to_be_bytes().to_vec(),
                    4 => (length as u32 | 0x8000_0000).to_be_bytes().to_vec(),
                    _ => (length | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
                };
                let mut packet = [&ids, token, &field].concat();
                packet.resize(1200, 0);
                let found = parsed(&packet);
                assert_eq!((found.reason, found.trailing), (Reason::QuicInitial, false));
            }
        }
        let mut packet = [&ids[..], &[0xff; 8]].concat();
        packet.resize(1200, 0);
        assert_eq!(
            parsed(&packet).reason,
            Reason::QuicMalformed,
            "a token that does not fit"
        );
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
