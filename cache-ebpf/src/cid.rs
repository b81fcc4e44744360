//! Connection ids that name their shard and prove that we issued them (RFC 9000 section 5.1,
//! in the spirit of QUIC-LB).
//!
//! ```text
//!   0        1        2                  8            12
//!  +--------+--------+------------------+-------------+
//!  | key id | shard  | nonce            | MAC         |
//!  +--------+--------+------------------+-------------+
//!  `-------- 8 bytes under the MAC -----'
//! ```
//!
//! The MAC is the low half of SipHash-1-3 of the first eight bytes under the key that the key id
//! names, little endian. Four bytes do not stop a determined forger, and need not: they let the XDP
//! program tell a flood of random short headers from clients without a table of connections.

use crate::siphash::siphash13;

/// Bytes of every connection id that we issue.
pub const CID_LEN: usize = 12;

/// Bytes under the MAC.
const SIGNED_LEN: usize = 8;

/// Keys that may be valid at the same time. A key id lives in the slot `key_id % CID_KEY_SLOTS`.
pub const CID_KEY_SLOTS: usize = 4;

/// A connection id as it stands in a packet.
pub type Cid = [u8; CID_LEN];

/// A 128-bit SipHash key as two little-endian halves.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CidKey(pub [u64; 2]);

impl CidKey {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self([both as u64, (both >> 64) as u64])
    }
}

impl core::fmt::Debug for CidKey {
    /// Never prints the key: logs are not secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CidKey(..)")
    }
}

/// The keys in force: the value of the `CID_KEYS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidKeys {
    /// The key id that new connection ids are sealed with.
    active: u32,
    /// Unix time in seconds from which on it is; 0: not known.
    since: u32,
    slots: [Slot; CID_KEY_SLOTS],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    key: CidKey,
    key_id: u32,
    /// 1 when `key` is set, so that an all-zero map accepts nothing.
    used: u32,
}

impl CidKeys {
    /// No key at all: opens nothing.
    pub const EMPTY: Self = Self {
        active: 0,
        since: 0,
        slots: [Slot {
            key: CidKey([0; 2]),
            key_id: 0,
            used: 0,
        }; CID_KEY_SLOTS],
    };

    /// One key, which is also the active one.
    pub const fn new(key_id: u8, key: CidKey) -> Self {
        let mut keys = Self::EMPTY;
        keys.insert(key_id, key);
        keys.active = key_id as u32;
        keys
    }

    /// Accepts ids under `key_id` from now on. Forgets the key that held the same slot before.
    pub const fn insert(&mut self, key_id: u8, key: CidKey) {
        self.slots[key_id as usize % CID_KEY_SLOTS] = Slot {
            key,
            key_id: key_id as u32,
            used: 1,
        };
    }

    /// Seals with `key_id` from now on. False, and nothing changes, when it was never inserted.
    pub fn activate(&mut self, key_id: u8) -> bool {
        let known = self.key(key_id).is_some();
        if known {
            self.active = u32::from(key_id);
        }
        known
    }

    /// The same keys and a fresh one that is not active yet. It takes the place of the oldest.
    pub fn with_next(mut self, key: CidKey) -> (Self, u8) {
        let next = self.active.wrapping_add(1) as u8;
        self.insert(next, key);
        (self, next)
    }

    /// When the active key became so, in seconds of Unix time; 0: not known.
    pub const fn since(&self) -> u32 {
        self.since
    }

    pub const fn set_since(&mut self, unix: u32) {
        self.since = unix;
    }

    /// The key id and key to seal with; `None` when there is no key at all.
    pub fn active(&self) -> Option<(u8, CidKey)> {
        let key_id = self.active as u8;
        self.key(key_id).map(|key| (key_id, *key))
    }

    /// The key that `key_id` names.
    #[inline(always)]
    pub fn key(&self, key_id: u8) -> Option<&CidKey> {
        let slot = &self.slots[key_id as usize % CID_KEY_SLOTS];
        (slot.used == 1 && slot.key_id == key_id as u32).then_some(&slot.key)
    }
}

/// Makes the connection id of `shard` with a nonce that the caller draws at random.
pub fn seal(key: &CidKey, key_id: u8, shard: u8, nonce: [u8; 6]) -> Cid {
    let mut cid = [0; CID_LEN];
    cid[0] = key_id;
    cid[1] = shard;
    cid[2..SIGNED_LEN].copy_from_slice(&nonce);
    let signed = first_eight(&cid);
    cid[SIGNED_LEN..].copy_from_slice(&mac(key, signed).to_le_bytes());
    cid
}

/// The shard that a connection id names, if it is one of ours: of our length, under a key that we
/// hold, with the right MAC.
pub fn open(keys: &CidKeys, cid: &[u8]) -> Option<u8> {
    open_exact(keys, cid.try_into().ok()?)
}

/// [`open`] for an id whose length is known.
#[inline(always)]
pub fn open_exact(keys: &CidKeys, cid: &Cid) -> Option<u8> {
    let [key_id, shard, .., m0, m1, m2, m3] = *cid;
    let key = keys.key(key_id)?;
    (mac(key, first_eight(cid)) == u32::from_le_bytes([m0, m1, m2, m3])).then_some(shard)
}

#[inline(always)]
const fn mac(key: &CidKey, signed: u64) -> u32 {
    siphash13(key.0, signed) as u32
}

#[inline(always)]
fn first_eight(cid: &Cid) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *cid;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: CidKey = CidKey::from_bytes(*b"0123456789abcdef");

    #[test]
    fn the_layout_is_key_id_shard_nonce_mac() {
        let cid = seal(&KEY, 7, 3, *b"nonce!");
        assert_eq!(cid[..8], *b"\x07\x03nonce!");
        let full = siphash13(KEY.0, u64::from_le_bytes(*b"\x07\x03nonce!"));
        assert_eq!(cid[8..], full.to_le_bytes()[..4]);
    }

    #[test]
    fn an_empty_key_set_opens_nothing_and_seals_nothing() {
        let zero_key = CidKey::from_bytes([0; 16]);
        let cid = seal(&zero_key, 0, 0, [0; 6]);
        assert_eq!(open(&CidKeys::EMPTY, &cid), None);
        assert_eq!(CidKeys::EMPTY.active(), None);
    }

    #[test]
    fn an_id_of_another_length_is_not_ours() {
        let keys = CidKeys::new(1, KEY);
        let cid = seal(&KEY, 1, 0, [9; 6]);
        assert_eq!(open(&keys, &cid), Some(0));
        assert_eq!(open(&keys, &cid[..11]), None);
        assert_eq!(open(&keys, &[&cid[..], &[0]].concat()), None);
        assert_eq!(open(&keys, &[]), None);
    }

    #[test]
    fn rotation_keeps_old_ids_until_their_slot_is_taken() {
        let next = CidKey::from_bytes(*b"fedcba9876543210");
        let mut keys = CidKeys::new(0, KEY);
        let old = seal(&KEY, 0, 5, [1; 6]);
        assert!(!keys.activate(1), "key 1 is not there yet");
        keys.insert(1, next);
        assert!(keys.activate(1));
        assert_eq!(keys.active(), Some((1, next)));
        assert_eq!(open(&keys, &old), Some(5));
        keys.insert(CID_KEY_SLOTS as u8, next);
        assert_eq!(open(&keys, &old), None);
    }

    #[test]
    fn ids_of_the_three_keys_before_stay_valid() {
        let mut keys = CidKeys::new(254, KEY);
        let first = seal(&KEY, 254, 3, [1; 6]);
        for turn in 0..CID_KEY_SLOTS as u64 {
            assert_eq!(open(&keys, &first), Some(3), "turn {turn}");
            let key = CidKey([turn, 7]);
            let (with_next, next) = keys.with_next(key);
            assert_eq!(with_next.active(), keys.active(), "not yet");
            let early = seal(&key, next, 1, [2; 6]);
            assert_eq!(open(&with_next, &early), Some(1));
            keys = with_next;
            assert!(keys.activate(next));
        }
        assert_eq!(open(&keys, &first), None);
        assert_eq!(keys.active().map(|(id, _)| id), Some(2), "ids wrap");
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(key: [u8; 16], key_id: u8, shard: u8, nonce: [u8; 6]) {
            let key = CidKey::from_bytes(key);
            let keys = CidKeys::new(key_id, key);
            prop_assert_eq!(open(&keys, &seal(&key, key_id, shard, nonce)), Some(shard));
        }

        #[test]
        fn a_changed_bit_does_not_open(nonce: [u8; 6], bit in 0..CID_LEN * 8) {
            let keys = CidKeys::new(2, KEY);
            let mut cid = seal(&KEY, 2, 1, nonce);
            cid[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&keys, &cid), None);
        }
    }
}
