//! The frames of a classic pcap file in `tests/captures`.

use std::{fs, path::Path};

use cache_ebpf::cid::{CidKey, CidKeys};

/// Bytes of the file's header and of each record's.
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// The server's port in every capture.
pub const PORT: u16 = 4433;

/// The key that the capturing server sealed its connection ids with.
pub fn keys() -> CidKeys {
    let key = core::array::from_fn(|i| i as u8);
    CidKeys::new(1, CidKey::from_bytes(key))
}

/// The frames of `tests/captures/NAME.pcap`.
pub fn frames(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let file = fs::read(directory.join(name).with_extension("pcap")).expect("a capture");
    assert_eq!(&file[..4], &[0xd4, 0xc3, 0xb2, 0xa1], "little-endian pcap");
    let mut rest = &file[FILE_HEADER..];
    let mut frames = Vec::new();
    while let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let (frame, after) = body.split_at(length as usize);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}
