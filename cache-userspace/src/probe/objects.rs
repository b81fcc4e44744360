//! The objects that a probe writes: numbered, of 1 to 8 KiB, of bytes that do not repeat.

use bytes::Bytes;
use cache_core::store::{Evicted, KeyHash, ObjectMeta};

const HEAD: &[u8] = &[0x5a; 200];
pub const MIN_BODY: u64 = 1 << 10;
const MAX_BODY: u64 = 8 << 10;

/// Makes the object of every number, always the same.
pub struct Objects {
    noise: Vec<u8>,
}

impl Objects {
    pub fn new() -> Self {
        let words = (0..(MAX_BODY + 4096) / 8).map(mixed);
        Self {
            noise: words.flat_map(u64::to_le_bytes).collect(),
        }
    }

    pub fn key(number: u64) -> Bytes {
        format!("https://probe.test/objects/{number:016x}").into()
    }

    pub fn hash(number: u64) -> KeyHash {
        KeyHash(mixed(number))
    }

    pub fn body(&self, number: u64) -> &[u8] {
        let random = mixed(number ^ 0x5bd1_e995);
        let length = MIN_BODY + random % (MAX_BODY - MIN_BODY);
        let start = (random >> 40) % 4096;
        &self.noise[start as usize..(start + length) as usize]
    }

    /// Hands the object over as one that leaves memory. Returns its bytes: key, head and body.
    pub fn leave<R>(&self, number: u64, take: impl FnOnce(&Evicted<'_>) -> R) -> (R, u64) {
        let (key, body) = (Self::key(number), self.body(number));
        let evicted = Evicted {
            hash: Self::hash(number),
            key: &key,
            meta: ObjectMeta {
                status: 200,
                lifetime_s: 86_400,
                body_len: body.len() as u64,
                ..ObjectMeta::default()
            },
            tags: &[],
            any_tag: false,
            head: HEAD,
            body: &[body],
            requests: 2,
        };
        let bytes = key.len() + HEAD.len() + body.len();
        (take(&evicted), bytes as u64)
    }
}

/// SplitMix64's output function.
pub fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
