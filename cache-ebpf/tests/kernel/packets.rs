//! Frames for the fuzz test: well-formed ones drawn at random, and ways to spoil them.

use cache_ebpf::cid::{CidKeys, seal};
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

/// Bytes that a test run may hand to the program: a page less its head and tail room.
const MAX_FRAME: usize = 3000;

/// The kernel's shortest frame: an Ethernet header.
const MIN_FRAME: usize = 14;

/// A source port that the rules may list.
pub const REFLECTOR: u16 = 53;

/// A frame to `port` or to another, of any kind that the parser knows.
pub fn draw(rng: &mut SmallRng, port: u16, keys: &CidKeys) -> Vec<u8> {
    let payload = quic(rng, keys);
    let destination = if rng.random_ratio(9, 10) {
        port
    } else {
        rng.random()
    };
    let (protocol, segment) = if rng.random_ratio(1, 8) {
        (6, tcp(rng, destination))
    } else {
        (17, udp(rng, destination, &payload))
    };
    let mut frame: Vec<u8> = (0..12).map(|_| rng.random()).collect();
    for _ in 0..*[0, 0, 0, 1, 2, 3].choose(rng).expect("choices") {
        let tag: u16 = *[0x8100, 0x88a8].choose(rng).expect("choices");
        frame.extend(tag.to_be_bytes());
        frame.extend(rng.random::<[u8; 2]>());
    }
    if rng.random() {
        frame.extend([0x08, 0x00]);
        ipv4(rng, protocol, &mut frame);
    } else {
        frame.extend([0x86, 0xdd]);
        ipv6(rng, protocol, &mut frame);
    }
    frame.extend(segment);
    frame
}

/// Changes a frame in one to eight places, or cuts or extends it.
pub fn spoil(rng: &mut SmallRng, frame: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..8) {
        // Most decisions hang on the headers: mostly change those.
        let reach = if rng.random_ratio(3, 4) {
            100
        } else {
            frame.len()
        };
        let at = rng.random_range(0..reach.min(frame.len()));
        frame[at] = match rng.random_range(0..3) {
            0 => frame[at] ^ 1 << rng.random_range(0..8),
            1 => *[0, 1, 17, 43, 44, 60, 0x45, 0x60, 0x80, 0xff]
                .choose(rng)
                .expect("choices"),
            _ => rng.random(),
        };
    }
    match rng.random_range(0..6) {
        0 => frame.truncate(rng.random_range(0..=frame.len())),
        1 => frame.extend((0..rng.random_range(0..64)).map(|_| 0u8)),
        _ => {}
    }
}

/// Brings a frame to a length that the kernel takes.
pub fn fit(frame: &mut Vec<u8>) {
    let length = frame.len().clamp(MIN_FRAME, MAX_FRAME);
    frame.resize(length, 0);
}

/// One of few, so that sources meet lists and buckets again.
pub fn address_v4(rng: &mut SmallRng) -> [u8; 4] {
    [192, 0, rng.random_range(0..4), rng.random_range(0..8)]
}

pub fn address_v6(rng: &mut SmallRng) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8 | rng.random_range(0..2)]);
    for place in [5, 7, 15] {
        address[place] = rng.random_range(0..3);
    }
    address
}

fn ipv4(rng: &mut SmallRng, protocol: u8, frame: &mut Vec<u8>) {
    let words: u8 = if rng.random_ratio(3, 4) {
        5
    } else {
        rng.random_range(5..=15)
    };
    let fragment: u16 = *[0, 0, 0, 0x4000, 0x2000, 0x0007]
        .choose(rng)
        .expect("choices");
    let mut header: Vec<u8> = (0..words as usize * 4).map(|_| rng.random()).collect();
    header[0] = 0x40 | words;
    header[12..16].copy_from_slice(&address_v4(rng));
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = if rng.random_ratio(9, 10) {
        protocol
    } else {
        rng.random()
    };
    frame.extend(header);
}

fn ipv6(rng: &mut SmallRng, protocol: u8, frame: &mut Vec<u8>) {
    let extensions: Vec<u8> = (0..*[0, 0, 1, 2, 4, 5].choose(rng).expect("choices"))
        .map(|_| *[0, 43, 60, 60, 44, 51].choose(rng).expect("choices"))
        .collect();
    let mut header: Vec<u8> = (0..40).map(|_| rng.random()).collect();
    header[0] = 0x60;
    header[8..24].copy_from_slice(&address_v6(rng));
    header[6] = *extensions.first().unwrap_or(&protocol);
    frame.extend(header);
    for i in 0..extensions.len() {
        let units = *[0, 0, 1, 7, 30].choose(rng).expect("choices");
        let mut extension = vec![0; (units as usize + 1) * 8];
        extension[0] = *extensions.get(i + 1).unwrap_or(&protocol);
        extension[1] = units;
        frame.extend(extension);
    }
}

fn udp(rng: &mut SmallRng, destination: u16, payload: &[u8]) -> Vec<u8> {
    let lie = *[0, 0, 0, 0, 0, 1, -1].choose(rng).expect("choices");
    let length = (payload.len() as i32 + 8 + lie) as u16;
    let source: u16 = *[REFLECTOR, rng.random(), rng.random()]
        .choose(rng)
        .expect("choices");
    let mut datagram = source.to_be_bytes().to_vec();
    datagram.extend(destination.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A header with any flags, mostly a SYN or an ACK; at times cut off.
fn tcp(rng: &mut SmallRng, destination: u16) -> Vec<u8> {
    let mut header: Vec<u8> = (0..20).map(|_| rng.random()).collect();
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[13] = *[0x02, 0x02, 0x10, 0x12, rng.random()]
        .choose(rng)
        .expect("choices");
    let rest = rng.random_range(0..100);
    header.resize(if rest == 0 { 19 } else { 20 + rest }, 0);
    header
}

fn quic(rng: &mut SmallRng, keys: &CidKeys) -> Vec<u8> {
    if rng.random_ratio(1, 10) {
        return (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
    }
    let id = connection_id(rng, keys);
    let mut packet = vec![rng.random::<u8>()];
    if packet[0] & 0x80 != 0 {
        let versions = [1, 1, 0x6b33_43cf, 0, 0xff00_001d];
        let version: u32 = *versions.choose(rng).expect("choices");
        packet.extend(version.to_be_bytes());
        packet.push(id.len() as u8);
        packet.extend(&id);
        let source_len = *[0, 8, 20, 21].choose(rng).expect("choices");
        packet.push(source_len);
        packet.extend(vec![1; source_len as usize]);
        let size: usize = *[0, 1199, 1200, 1252].choose(rng).expect("choices");
        if rng.random_ratio(3, 4) {
            lengths(rng, &mut packet, size);
        }
        packet.resize(packet.len().max(size), rng.random());
    } else {
        packet.extend(&id);
        packet.resize(packet.len() + rng.random_range(0..30), 0);
    }
    packet
}

/// A token of an Initial and the Length of what follows up to `size`, or nearly.
fn lengths(rng: &mut SmallRng, packet: &mut Vec<u8>, size: usize) {
    if rng.random() {
        let token = *[0, 0, 5, 63].choose(rng).expect("choices");
        packet.push(token);
        packet.resize(packet.len() + token as usize, 0);
    }
    let rest = size.saturating_sub(packet.len() + 2);
    let lie = *[0, 0, 0, 1, 4, 30].choose(rng).expect("choices");
    let length = (rest as u64).saturating_sub(lie) + u64::from(rng.random_ratio(1, 10));
    match rng.random_range(0..3) {
        0 => packet.extend((length as u16 | 0x4000).to_be_bytes()),
        1 => packet.extend((length as u32 | 0x8000_0000).to_be_bytes()),
        _ => packet.extend((length | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Mostly one of ours for shard 0 or another, with at times a wrong bit; else one of any length.
fn connection_id(rng: &mut SmallRng, keys: &CidKeys) -> Vec<u8> {
    let (key_id, key) = keys.active().expect("a key");
    if rng.random_ratio(1, 4) {
        return vec![
            7;
            *[0, 7, 8, 11, 12, 13, 20, 21, 255]
                .choose(rng)
                .expect("choices")
        ];
    }
    let mut id = seal(&key, key_id, rng.random_range(0..3), rng.random());
    if rng.random_ratio(1, 4) {
        id[rng.random_range(0..12)] ^= 1 << rng.random_range(0..8);
    }
    id.to_vec()
}
