//! Consistent hashing with bounded load.
//!
//! Every key has an order of preference over the nodes (highest random weight first), which depends
//! on their names alone: each edge of a fleet comes to the same, a node that joins or leaves moves
//! only the keys that it gains or loses, and no ring is kept. A node that already has more than its
//! share of the requests in flight is passed over, so that one popular key, or a node that has grown
//! slow, does not pile up on one node.

/// A hash that is the same on every machine and in every version: it decides which shield has what.
pub fn stable_hash(parts: &[&[u8]]) -> u64 {
    // FNV-1a, mixed once more since its high bits are weak. A length after each part keeps
    // ("a", "bc") from ("ab", "c").
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut eat);
        (part.len() as u64)
            .to_le_bytes()
            .into_iter()
            .for_each(&mut eat);
    }
    mix(hash)
}

/// How much the key wants to go to a node.
pub fn weight(node: u64, key: u64) -> u64 {
    mix(node.rotate_left(32) ^ key)
}

/// Requests that one of `nodes` nodes may have in flight when `total` are, and one more comes.
pub fn capacity(total: u32, nodes: u32, percent: u32, floor: u32) -> u32 {
    let fair = (u64::from(total) + 1) * u64::from(percent);
    let share = fair.div_ceil(u64::from(nodes.max(1)) * 100);
    u32::try_from(share).unwrap_or(u32::MAX).max(floor)
}

/// The finalizer of SplitMix64.
pub(super) fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(nodes: &[&str], key: u64) -> usize {
        let weights = nodes
            .iter()
            .map(|name| weight(stable_hash(&[name.as_bytes()]), key));
        let best = weights.enumerate().max_by_key(|(_, weight)| *weight);
        best.expect("a node").0
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..10_000_u32).map(|n| stable_hash(&[b"edge.test", &n.to_le_bytes()]))
    }

    #[test]
    fn keys_spread_evenly_and_stay_when_a_node_leaves() {
        let all = ["ams", "fra", "lhr", "cdg"];
        let mut counts = [0; 4];
        for key in keys() {
            counts[first(&all, key)] += 1;
        }
        assert!(
            counts.iter().all(|n| (2_300..2_700).contains(n)),
            "{counts:?}"
        );
        for key in keys() {
            let (before, after) = (first(&all, key), first(&all[..3], key));
            assert!(before == 3 || before == after, "moved without need");
        }
    }

    /// Edges of several versions must agree: these numbers may never change.
    #[test]
    fn the_hash_is_fixed() {
        assert_eq!(stable_hash(&[]), 17_665_956_581_633_026_203);
        assert_ne!(stable_hash(&[b"a", b"bc"]), stable_hash(&[b"ab", b"c"]));
    }

    #[test]
    fn a_node_gets_its_share_and_a_quarter() {
        assert_eq!(capacity(0, 3, 125, 0), 1);
        assert_eq!(capacity(99, 4, 125, 0), 32);
        assert_eq!(capacity(3, 3, 125, 16), 16);
    }
}
