//! What is decided about a packet, from its bytes, its queue and the rules alone.
//!
//! Nothing is dropped: malformed QUIC and connection ids that are not ours are counted and go the
//! way of every other datagram, so that an operator sees what a guard would drop.

use crate::{
    cid,
    maps::{CidKeys, Counters, Extra, LAYOUT, Rules},
    packet::Packet,
    parse, quic,
    reason::Reason,
};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the kernel's stack.
    Pass,
    /// To the AF_XDP socket of the queue that it came in on. A socket map never crosses queues: the
    /// kernel silently loses a packet that is sent to another queue's socket.
    Redirect { queue: u32 },
}

/// Whose connection a datagram belongs to, as far as its connection id tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CidOwner {
    /// The shard of this queue.
    Home,
    /// Another shard: userspace hands the datagram over.
    Away,
    /// The id is not one of ours: chosen by the client, forged, or of a shard that is no more.
    Unknown,
}

/// Everything that was found out about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    pub owner: CidOwner,
}

impl Decision {
    #[inline(always)]
    pub fn count(&self, counters: &mut Counters) {
        match self.owner {
            CidOwner::Home => counters.count_extra(Extra::CidHome),
            CidOwner::Away => counters.count_extra(Extra::CidAway),
            CidOwner::Unknown => {}
        }
        counters.count(self.reason);
    }
}

/// Decides about `packet`, which came in on `queue`.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, queue: u32, rules: &Rules, keys: &CidKeys) -> Decision {
    if rules.layout != LAYOUT {
        return pass(Reason::LayoutMismatch);
    }
    let udp = match parse::udp(packet) {
        Ok(udp) => udp,
        Err(reason) => return pass(reason),
    };
    if !rules.serves(udp.destination) {
        return pass(Reason::OtherPort);
    }
    let header = quic::header(packet, &udp);
    let shard = header
        .cid
        .and_then(|at| udp.read(packet, at))
        .and_then(|cid| cid::open_exact(keys, &cid))
        .filter(|shard| u32::from(*shard) < rules.shards);
    let owner = owner(shard, queue);
    Decision {
        verdict: steer(queue, rules),
        reason: refine(header.reason, owner),
        owner,
    }
}

#[inline(always)]
fn owner(shard: Option<u8>, queue: u32) -> CidOwner {
    match shard {
        Some(shard) if shard as u32 == queue => CidOwner::Home,
        Some(_) => CidOwner::Away,
        None => CidOwner::Unknown,
    }
}

#[inline(always)]
fn refine(reason: Reason, owner: CidOwner) -> Reason {
    if reason == Reason::QuicShort && owner == CidOwner::Unknown {
        return Reason::QuicShortUnknown;
    }
    reason
}

#[inline(always)]
fn steer(queue: u32, rules: &Rules) -> Verdict {
    if rules.steers(queue) {
        Verdict::Redirect { queue }
    } else {
        Verdict::Pass
    }
}

#[inline(always)]
fn pass(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Pass,
        reason,
        owner: CidOwner::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::{
        cid::{CidKey, seal},
        maps::MAX_PORTS,
    };

    const KEY: CidKey = CidKey::from_bytes(*b"0123456789abcdef");

    fn rules(port: u16) -> Rules {
        let mut ports = [0; MAX_PORTS];
        ports[3] = port;
        Rules::new(4, ports)
    }

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([0; 12]);
        frame.extend([0x08, 0x00, 0x45]);
        frame.extend([0; 8]);
        frame.extend([17]);
        frame.extend([0; 12]);
        frame.extend(port.to_be_bytes());
        frame.extend((payload.len() as u16 + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn short(shard: u8) -> Vec<u8> {
        let mut payload = Vec::from([0x41]);
        payload.extend(seal(&KEY, 1, shard, *b"random"));
        payload.extend([0; 20]);
        payload
    }

    fn decided(frame: &[u8], queue: u32, rules: &Rules) -> Decision {
        decide(&Packet::new(frame), queue, rules, &CidKeys::new(1, KEY))
    }

    #[test]
    fn our_short_headers_are_home_or_away() {
        let frame = datagram(443, &short(2));
        let home = decided(&frame, 2, &rules(443));
        assert_eq!(
            (home.reason, home.owner),
            (Reason::QuicShort, CidOwner::Home)
        );
        let away = decided(&frame, 1, &rules(443));
        assert_eq!(
            (away.reason, away.owner),
            (Reason::QuicShort, CidOwner::Away)
        );
    }

    #[test]
    fn a_forged_short_header_is_counted_and_still_steered() {
        let mut payload = short(2);
        payload[9] ^= 1;
        let mut rules = rules(443);
        rules.set_steering(2, true);
        let forged = decided(&datagram(443, &payload), 2, &rules);
        assert_eq!(forged.reason, Reason::QuicShortUnknown);
        assert_eq!(forged.verdict, Verdict::Redirect { queue: 2 });
    }

    #[test]
    fn an_id_of_a_shard_that_is_no_more_is_unknown() {
        let frame = datagram(443, &short(4));
        let stale = decided(&frame, 4, &rules(443));
        assert_eq!(stale.reason, Reason::QuicShortUnknown);
        assert_eq!(stale.owner, CidOwner::Unknown);
    }

    #[test]
    fn only_queues_with_af_xdp_are_steered() {
        let mut rules = rules(443);
        rules.set_steering(1, true);
        let frame = datagram(443, &short(0));
        assert_eq!(decided(&frame, 0, &rules).verdict, Verdict::Pass);
        let steered = decided(&frame, 1, &rules).verdict;
        assert_eq!(steered, Verdict::Redirect { queue: 1 });
        assert_eq!(decided(&frame, 64, &rules).verdict, Verdict::Pass);
    }

    #[test]
    fn other_ports_pass_whatever_is_on() {
        let mut rules = rules(443);
        rules.set_steering(0, true);
        let other = decided(&datagram(444, &short(0)), 0, &rules);
        assert_eq!(other, pass(Reason::OtherPort));
    }

    #[test]
    fn maps_of_another_layout_pass_everything() {
        let mut rules = rules(443);
        rules.set_steering(0, true);
        rules.layout = LAYOUT + 1;
        let decision = decided(&datagram(443, &short(0)), 0, &rules);
        assert_eq!(decision, pass(Reason::LayoutMismatch));
    }

    #[test]
    fn a_packet_counts_once_by_reason_and_once_by_owner() {
        let mut counters = Counters::ZERO;
        let home = decided(&datagram(443, &short(2)), 2, &rules(443));
        home.count(&mut counters);
        home.count(&mut counters);
        assert_eq!(counters.values.iter().sum::<u64>(), 4);
        assert_eq!(counters.values[Reason::QuicShort as usize], 2);
    }
}
