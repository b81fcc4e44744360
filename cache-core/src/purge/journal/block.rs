//! One block of the journal.
//!
//! ```text
//!   0  magic and version            8
//!   8  CRC-32C of all that follows  4
//!  12  kind                         1   1 snapshot, 2 entries
//!  13  -                            1
//!  14  bytes of payload used        2
//!  16  identity of the node's tier  8
//!  24  generation                   8
//!  32  number                       8   entries: counts on through generations; snapshot: 0, 1, ...
//!  40  group                        8   entries: number of the append's first block; snapshot: blocks
//!  48  covers                       8   snapshot: number of the last entries block that is in it
//!  56  -                            8
//!  64  items (crate::purge::journal::item), zeroes
//! ```
//! All numbers are little-endian.

/// Bytes of a block: what every device writes as a unit, or in parts that the checksum tells.
pub const BLOCK: usize = 4096;

const HEADER: usize = 64;

/// Bytes of items in a block.
pub(super) const PAYLOAD: usize = BLOCK - HEADER;

const MAGIC: [u8; 8] = *b"popjrnl\x01";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Snapshot = 1,
    Entries = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    pub kind: Kind,
    pub generation: u64,
    pub number: u64,
    pub group: u64,
    pub covers: u64,
    /// At most [`PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl<'a> Block<'a> {
    pub fn encode(&self, identity: u64) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        out[..8].copy_from_slice(&MAGIC);
        out[12] = self.kind as u8;
        out[14..16].copy_from_slice(&(self.payload.len() as u16).to_le_bytes());
        let words = [
            identity,
            self.generation,
            self.number,
            self.group,
            self.covers,
        ];
        for (word, at) in words.iter().zip((16..).step_by(8)) {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out[HEADER..HEADER + self.payload.len()].copy_from_slice(self.payload);
        let checksum = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `None`: damaged, of another format, or of a tier with another identity.
    pub fn decode(identity: u64, bytes: &'a [u8; BLOCK]) -> Option<Self> {
        let word = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map(|word| u64::from_le_bytes(*word))
        };
        let checksum = bytes[8..]
            .first_chunk()
            .map(|sum| u32::from_le_bytes(*sum))?;
        if bytes[..8] != MAGIC || checksum != crc32c::crc32c(&bytes[12..]) || word(16)? != identity
        {
            return None;
        }
        let used = u16::from_le_bytes([bytes[14], bytes[15]]);
        Some(Self {
            kind: match bytes[12] {
                1 => Kind::Snapshot,
                2 => Kind::Entries,
                _ => return None,
            },
            generation: word(24)?,
            number: word(32)?,
            group: word(40)?,
            covers: word(48)?,
            payload: bytes.get(HEADER..HEADER + usize::from(used))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_any_flipped_bit_is_noticed() {
        let block = Block {
            kind: Kind::Entries,
            generation: 3,
            number: 77,
            group: 76,
            covers: 5,
            payload: b"payload",
        };
        let bytes = block.encode(9);
        assert_eq!(Block::decode(9, &bytes), Some(block));
        assert_eq!(Block::decode(8, &bytes), None, "another node's");
        for bit in 0..BLOCK * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Block::decode(9, &damaged), None, "bit {bit}");
        }
        assert_eq!(Block::decode(0, &[0; BLOCK]), None);
    }
}
