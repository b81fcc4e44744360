//! What is decided about a packet, from its bytes, its queue, the rules and the tables alone.
//!
//! ```text
//!  parse -> fragment -> amplification -> allow list -> block list
//!        -> QUIC header: malformed, undersized, from_server, version, fixed_bit, trailing
//!        -> MAC of a short header's id: cid_mac -> buckets: rate_* -> steer
//!  TCP of a served port goes from the lists to its buckets, and then to the kernel
//! ```
//!
//! A rule that is off or in monitor mode lets the packet go on to the next one. The lists speak of
//! every protocol, everything behind them of what goes to served ports only: other services on the
//! machine are left alone. A source in the allow list skips the block list and the buckets. Buckets come
//! last, so that packets which are refused anyway are not charged to the address that they claim
//! to come from: nobody can spend a client's tokens with forged short headers or junk.
//!
//! For the verifier, each step leaves what it found in [`Seen`], which lies in a map, and the next one reads
//! it from there ([`left`]): the verifier does not follow values in maps, so it walks every step once and
//! not once more for every way through the steps before it. For the packet all of it is one function:
//! where returns are guarded against speculation, a call costs as much as a step.

use crate::{
    cid,
    lists::{self, Listed},
    maps::{CidKeys, Counters, Extra, LAYOUT, Rules},
    meter::{self, Cost, Over},
    packet::{Packet, left},
    parse::{self, Segment, Source, Transport},
    quic,
    reason::Reason,
    rule::Rule,
    tables::Tables,
};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    /// On to the kernel's stack.
    Pass,
    /// To the AF_XDP socket of the queue that it came in on. A socket map never crosses queues: the
    /// kernel silently loses a packet that is sent to another queue's socket.
    Redirect {
        queue: u32,
    },
}

/// What a decision reads, beside the packet.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub queue: u32,
    pub rules: &'a Rules,
    pub keys: &'a CidKeys,
}

/// What is known about the packet so far.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub source: Source,
    /// Of what goes to a served port. For other packets its length is 0 and the rest is of no use.
    pub segment: Segment,
    header: quic::Header,
    reason: Reason,
    listed: Listed,
    owner: CidOwner,
    over: Over,
    /// The first match that is sampled.
    pub told: Option<Told>,
}

impl Seen {
    /// Nothing is known.
    pub const NOTHING: Self = Self {
        source: Source::v4(0),
        segment: Segment::NONE,
        header: quic::Header::NONE,
        reason: Reason::LayoutMismatch,
        listed: Listed::No,
        owner: CidOwner::Unknown,
        over: Over::NONE,
        told: None,
    };
}

/// A rule that matched, to be told to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub rule: Rule,
    pub dropped: bool,
}

/// Decides about a packet and counts it. `seen` is overwritten.
///
/// Every step takes the packet anew: what a step has checked of it would stay with the old pointer,
/// and the verifier would walk the later steps once more for every such difference.
#[inline(always)]
pub fn decide<'p, T: Tables>(
    packet: impl Fn() -> Packet<'p>,
    given: Given<'_>,
    tables: &mut T,
    counters: &mut Counters,
    seen: &mut Seen,
) -> Verdict {
    seen.told = None;
    seen.segment.length = 0;
    let mut guard = Guard {
        given,
        counters,
        seen,
    };
    if guard.judge(packet, tables).is_err() {
        return Verdict::Drop;
    }
    left(seen);
    count(counters, seen);
    if seen.reason.is_ours() {
        steer(given.queue, given.rules)
    } else {
        Verdict::Pass
    }
}

/// Counts a packet that is not dropped.
#[inline(always)]
fn count(counters: &mut Counters, seen: &Seen) {
    counters.count(seen.reason);
    if seen.reason.is_ours() {
        match seen.owner {
            CidOwner::Home => counters.count_extra(Extra::CidHome),
            CidOwner::Away => counters.count_extra(Extra::CidAway),
            CidOwner::Unknown => {}
        }
    }
}

/// Whose connection a datagram belongs to, as far as its connection id tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CidOwner {
    /// The shard of this queue.
    Home,
    /// Another shard: userspace hands the datagram over.
    Away,
    /// The id is not one of ours: chosen by the client, forged, or of a shard that is no more.
    Unknown,
}

/// A rule dropped the packet.
struct Dropped;

/// The rules at work on one packet.
struct Guard<'a> {
    given: Given<'a>,
    counters: &'a mut Counters,
    seen: &'a mut Seen,
}

impl Guard<'_> {
    /// Leaves the reason of a packet that is not dropped in `seen`.
    #[inline(always)]
    fn judge<'p, T: Tables>(
        &mut self,
        packet: impl Fn() -> Packet<'p>,
        tables: &mut T,
    ) -> Result<(), Dropped> {
        let rules = self.given.rules;
        if rules.layout != LAYOUT {
            self.seen.reason = Reason::LayoutMismatch;
            return Ok(());
        }
        read(packet(), rules, self.seen);
        left(self.seen);
        if self.seen.reason == Reason::NotIp {
            return Ok(());
        }
        self.check_network()?;
        left(self.seen);
        look_up(tables, rules, self.seen);
        left(self.seen);
        self.check_lists()?;
        left(self.seen);
        if self.seen.reason.is_ours() {
            read_quic(packet(), self.seen);
            left(self.seen);
            self.check_header()?;
            left(self.seen);
            find_owner(packet(), self.given, self.seen);
            left(self.seen);
            self.check_id()?;
        } else if !self.seen.reason.is_tcp() {
            return Ok(());
        }
        left(self.seen);
        self.check_rates(tables)
    }

    /// Fragments, and what reflectors send.
    #[inline(always)]
    fn check_network(&mut self) -> Result<(), Dropped> {
        let reason = self.seen.reason;
        if reason == Reason::Fragment {
            return self.apply(Rule::Fragment);
        }
        if reason.is_ours() && self.given.rules.reflects(self.seen.segment.source) {
            return self.apply(Rule::Amplification);
        }
        Ok(())
    }

    #[inline(always)]
    fn check_lists(&mut self) -> Result<(), Dropped> {
        match self.seen.listed {
            Listed::No => {}
            Listed::Allowed => self.counters.count_extra(Extra::Allowed),
            Listed::Blocked => self.apply(Rule::BlockList)?,
        }
        Ok(())
    }

    /// The rules about the header of the first QUIC packet.
    #[inline(always)]
    fn check_header(&mut self) -> Result<(), Dropped> {
        self.seen.reason = self.seen.header.reason;
        match self.seen.reason {
            Reason::QuicMalformed => self.apply(Rule::Malformed)?,
            Reason::QuicInitialUndersized | Reason::QuicOtherVersionUndersized => {
                self.apply(Rule::Undersized)?;
            }
            Reason::QuicFromServer => self.apply(Rule::FromServer)?,
            Reason::QuicOtherVersion => self.apply(Rule::Version)?,
            _ => {}
        }
        if self.seen.header.unfixed {
            self.apply(Rule::FixedBit)?;
        }
        if self.seen.header.trailing {
            self.apply(Rule::Trailing)?;
        }
        Ok(())
    }

    /// A short header needs an id of ours.
    #[inline(always)]
    fn check_id(&mut self) -> Result<(), Dropped> {
        if self.seen.owner == CidOwner::Unknown && self.seen.reason == Reason::QuicShort {
            self.seen.reason = Reason::QuicShortUnknown;
            return self.apply(Rule::CidMac);
        }
        Ok(())
    }

    #[inline(always)]
    fn check_rates<T: Tables>(&mut self, tables: &mut T) -> Result<(), Dropped> {
        const RATES: [Rule; 4] = [
            Rule::RatePackets,
            Rule::RateBytes,
            Rule::RateHandshakes,
            Rule::RateSyns,
        ];
        if !self.given.rules.modes.any(RATES) || self.seen.listed == Listed::Allowed {
            return Ok(());
        }
        charge(tables, self.given.rules, self.seen);
        left(self.seen);
        let over = self.seen.over;
        if over.packets() {
            self.apply(Rule::RatePackets)?;
        }
        if over.bytes() {
            self.apply(Rule::RateBytes)?;
        }
        if over.opens() {
            if self.seen.reason.is_tcp() {
                self.apply(Rule::RateSyns)?;
            } else {
                self.apply(Rule::RateHandshakes)?;
            }
        }
        Ok(())
    }

    /// `rule` matches: drops, counts, or does nothing, as its mode says.
    #[inline(always)]
    fn apply(&mut self, rule: Rule) -> Result<(), Dropped> {
        if note(rule, self.given.rules, self.counters, self.seen) {
            Err(Dropped)
        } else {
            Ok(())
        }
    }
}

/// Counts a match by the mode of its rule. True when the packet is dropped.
#[inline(always)]
fn note(rule: Rule, rules: &Rules, counters: &mut Counters, seen: &mut Seen) -> bool {
    let dropped = rules.modes.drops(rule);
    let before = if dropped {
        counters.count_dropped(rule)
    } else if rules.modes.monitors(rule) {
        counters.count_monitored(rule)
    } else {
        return false;
    };
    if seen.told.is_none() && before & u64::from(rules.sample_mask) == 0 {
        seen.told = Some(Told { rule, dropped });
    }
    dropped
}

/// Reads up to the UDP header. [`Reason::QuicShort`] stands for any datagram to a served port; a source
/// that is not known is 0.0.0.0.
#[inline(always)]
fn read(packet: Packet<'_>, rules: &Rules, seen: &mut Seen) {
    let network = match parse::network(&packet) {
        Ok(network) => network,
        Err(reason) => {
            seen.source = Source::v4(0);
            seen.reason = reason;
            return;
        }
    };
    seen.source = network.source;
    seen.reason = match network.transport {
        Ok(Transport::Udp(at)) => match parse::udp(&packet, at) {
            Ok(datagram) if rules.serves(datagram.destination) => {
                seen.segment = datagram;
                Reason::QuicShort
            }
            Ok(_) => Reason::OtherPort,
            Err(reason) => reason,
        },
        Ok(Transport::Tcp(at)) => match parse::tcp(&packet, at) {
            Ok((segment, opens)) if rules.serves_tcp(segment.destination) => {
                seen.segment = segment;
                if opens { Reason::TcpSyn } else { Reason::Tcp }
            }
            Ok(_) => Reason::NotUdp,
            Err(reason) => reason,
        },
        Err(reason) => reason,
    };
}

#[inline(always)]
fn read_quic(packet: Packet<'_>, seen: &mut Seen) {
    seen.header = quic::header(&packet, &seen.segment);
}

#[inline(always)]
fn look_up<T: Tables>(tables: &T, rules: &Rules, seen: &mut Seen) {
    seen.listed = lists::look_up(tables, &rules.lists, &seen.source);
}

#[inline(always)]
fn find_owner(packet: Packet<'_>, given: Given<'_>, seen: &mut Seen) {
    let cid = seen.header.cid;
    let id = cid.and_then(|at| seen.segment.read(&packet, at.get()));
    let shard = id.and_then(|id| cid::open_exact(given.keys, &id));
    seen.owner = match shard.map(u32::from) {
        Some(shard) if shard >= given.rules.shards => CidOwner::Unknown,
        Some(shard) if shard == given.queue => CidOwner::Home,
        Some(_) => CidOwner::Away,
        None => CidOwner::Unknown,
    };
}

/// Charges the bucket of the packet's source: one address of IPv4, one /64 of IPv6.
#[inline(always)]
fn charge<T: Tables>(tables: &mut T, rules: &Rules, seen: &mut Seen) {
    let source = if seen.source.v6 {
        seen.source.high
    } else {
        seen.source.low
    };
    let is_initial = seen.reason == Reason::QuicInitial;
    let cost = Cost {
        bytes: seen.segment.length as u32,
        opens: seen.reason == Reason::TcpSyn || is_initial && seen.owner == CidOwner::Unknown,
        tcp: seen.reason.is_tcp(),
    };
    let tick = tables.tick();
    seen.over = match tables.bucket(meter::place(rules.bucket_key, source, cost.tcp)) {
        Some(bucket) => meter::charge(bucket, &rules.meters, tick, cost),
        None => Over::NONE,
    };
}

#[inline(always)]
fn steer(queue: u32, rules: &Rules) -> Verdict {
    if rules.steers(queue) {
        Verdict::Redirect { queue }
    } else {
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;
    use crate::{
        cid::{CidKey, seal},
        lists::{List, Prefix, Writer},
        maps::{MAX_PORTS, counter_names},
        meter::{HANDSHAKE, Meter, PACKET},
        rule::Mode,
        tables::HostTables,
    };

    const KEY: CidKey = CidKey::from_bytes(*b"0123456789abcdef");
    const SOURCE: u32 = 0xc000_0207;

    fn rules(port: u16) -> Rules {
        let mut ports = [0; MAX_PORTS];
        ports[3] = port;
        Rules::new(4, ports)
    }

    fn frame(source_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([0; 12]);
        frame.extend([0x08, 0x00, 0x45]);
        frame.extend([0; 8]);
        frame.extend([17, 0, 0]);
        frame.extend(SOURCE.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(source_port.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend((payload.len() as u16 + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        frame(50_000, port, payload)
    }

    fn short(shard: u8) -> Vec<u8> {
        let mut payload = Vec::from([0x41]);
        payload.extend(seal(&KEY, 1, shard, *b"random"));
        payload.extend([0; 20]);
        payload
    }

    fn forged(shard: u8) -> Vec<u8> {
        let mut payload = short(shard);
        payload[9] ^= 1;
        payload
    }

    fn initial() -> Vec<u8> {
        let mut payload = vec![0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0];
        payload.extend((0x4000_u16 | 1182).to_be_bytes());
        payload.resize(1200, 0);
        payload
    }

    /// Decides about frames one after another.
    struct Bench {
        rules: Rules,
        tables: HostTables,
        counters: Counters,
        seen: Seen,
    }

    impl Bench {
        fn new(rules: Rules) -> Self {
            Self {
                rules,
                tables: HostTables::default(),
                counters: Counters::ZERO,
                seen: Seen::NOTHING,
            }
        }

        fn decide(&mut self, frame: &[u8], queue: u32) -> Verdict {
            let keys = CidKeys::new(1, KEY);
            let given = Given {
                queue,
                rules: &self.rules,
                keys: &keys,
            };
            decide(
                || Packet::new(frame),
                given,
                &mut self.tables,
                &mut self.counters,
                &mut self.seen,
            )
        }

        /// The counters that are not zero.
        fn counted(&self) -> Vec<(&'static str, u64)> {
            counter_names()
                .zip(self.counters.values)
                .filter(|(_, value)| *value > 0)
                .collect()
        }
    }

    fn decided(frame: &[u8], queue: u32, rules: &Rules) -> (Verdict, Vec<(&'static str, u64)>) {
        let mut bench = Bench::new(*rules);
        let verdict = bench.decide(frame, queue);
        (verdict, bench.counted())
    }

    #[test]
    fn our_short_headers_are_home_or_away() {
        let frame = datagram(443, &short(2));
        let (_, home) = decided(&frame, 2, &rules(443));
        assert_eq!(home, [("quic_short", 1), ("cid_home", 1)]);
        let (_, away) = decided(&frame, 1, &rules(443));
        assert_eq!(away, [("quic_short", 1), ("cid_away", 1)]);
    }

    #[test]
    fn without_rules_a_forged_short_header_is_counted_and_still_steered() {
        let mut rules = rules(443);
        rules.set_steering(2, true);
        let (verdict, counted) = decided(&datagram(443, &forged(2)), 2, &rules);
        assert_eq!(counted, [("quic_short_unknown", 1)]);
        assert_eq!(verdict, Verdict::Redirect { queue: 2 });
    }

    #[test]
    fn an_id_of_a_shard_that_is_no_more_is_unknown() {
        let (_, stale) = decided(&datagram(443, &short(4)), 4, &rules(443));
        assert_eq!(stale, [("quic_short_unknown", 1)]);
    }

    #[test]
    fn only_queues_with_af_xdp_are_steered() {
        let mut rules = rules(443);
        rules.set_steering(1, true);
        let frame = datagram(443, &short(0));
        assert_eq!(decided(&frame, 0, &rules).0, Verdict::Pass);
        assert_eq!(decided(&frame, 1, &rules).0, Verdict::Redirect { queue: 1 });
        assert_eq!(decided(&frame, 64, &rules).0, Verdict::Pass);
    }

    #[test]
    fn other_ports_pass_whatever_is_on() {
        let mut rules = rules(443);
        rules.set_steering(0, true);
        for rule in Rule::ALL {
            rules.modes.set(*rule, Mode::Drop);
        }
        let (verdict, counted) = decided(&datagram(444, &forged(0)), 0, &rules);
        assert_eq!((verdict, counted), (Verdict::Pass, vec![("other_port", 1)]));
    }

    #[test]
    fn maps_of_another_layout_pass_everything() {
        let mut rules = rules(443);
        rules.set_steering(0, true);
        rules.modes.set(Rule::CidMac, Mode::Drop);
        rules.layout = LAYOUT + 1;
        let (verdict, counted) = decided(&datagram(443, &forged(0)), 0, &rules);
        assert_eq!(
            (verdict, counted),
            (Verdict::Pass, vec![("layout_mismatch", 1)])
        );
    }

    #[test]
    fn a_rule_drops_or_counts_or_is_off() {
        let frame = datagram(443, &forged(0));
        let with = |mode| {
            let mut rules = rules(443);
            rules.modes.set(Rule::CidMac, mode);
            decided(&frame, 0, &rules)
        };
        assert_eq!(
            with(Mode::Drop),
            (Verdict::Drop, vec![("dropped_cid_mac", 1)])
        );
        let both = vec![("quic_short_unknown", 1), ("monitored_cid_mac", 1)];
        assert_eq!(with(Mode::Monitor), (Verdict::Pass, both));
        assert_eq!(with(Mode::Off).1, [("quic_short_unknown", 1)]);
    }

    #[test]
    fn reflectors_ports_count_only_as_a_source_to_our_ports() {
        let mut rules = rules(443);
        rules.set_reflectors(&[19, 53]);
        rules.modes.set(Rule::Amplification, Mode::Drop);
        let verdict = |source, port| decided(&frame(source, port, &short(0)), 0, &rules).0;
        assert_eq!(verdict(53, 443), Verdict::Drop);
        assert_eq!(verdict(54, 443), Verdict::Pass);
        assert_eq!(
            verdict(53, 4444),
            Verdict::Pass,
            "an answer to our own resolver"
        );
    }

    fn listed(list: List) -> Bench {
        let mut bench = Bench::new(rules(443));
        for rule in [Rule::BlockList, Rule::RatePackets] {
            bench.rules.modes.set(rule, Mode::Drop);
        }
        bench.rules.lists.prepare([1, 2]);
        let mut writer = Writer::new(bench.tables.slot(1), [1, 2]);
        let prefix = Prefix::new(Source::v4(SOURCE), 32).expect("a host");
        writer.insert(list, &prefix).expect("room");
        bench.rules.lists.flip(writer.finish().0);
        bench
    }

    #[test]
    fn the_block_list_speaks_of_every_protocol() {
        let mut bench = listed(List::Block);
        let mut tcp = datagram(443, &short(0));
        tcp[23] = 6;
        assert_eq!(bench.decide(&tcp, 0), Verdict::Drop);
        assert_eq!(bench.decide(&datagram(22, &[]), 0), Verdict::Drop);
        assert_eq!(bench.counted(), [("dropped_block_list", 2)]);
    }

    #[test]
    fn who_is_allowed_is_not_metered() {
        let mut bench = listed(List::Allow);
        bench.rules.meters.packets = Meter::new(0, 1, PACKET, 1);
        for _ in 0..3 {
            assert_eq!(bench.decide(&datagram(443, &short(0)), 0), Verdict::Pass);
        }
        let expected = [("quic_short", 3), ("cid_home", 3), ("allowed", 3)];
        assert_eq!(bench.counted(), expected);
        bench.rules.lists = crate::lists::Lists::NONE;
        assert_eq!(bench.decide(&datagram(443, &short(0)), 0), Verdict::Pass);
        assert_eq!(bench.decide(&datagram(443, &short(0)), 0), Verdict::Drop);
    }

    #[test]
    fn only_initials_with_an_id_of_the_clients_choice_are_new_handshakes() {
        let mut bench = Bench::new(rules(443));
        bench.rules.modes.set(Rule::RateHandshakes, Mode::Drop);
        bench.rules.meters.handshakes = Meter::new(0, 2, HANDSHAKE, 1);
        let verdicts = |bench: &mut Bench, payload: &[u8]| {
            [0; 4].map(|_| bench.decide(&datagram(443, payload), 0))
        };
        assert_eq!(verdicts(&mut bench, &short(0)), [Verdict::Pass; 4]);
        let [.., third, fourth] = verdicts(&mut bench, &initial());
        assert_eq!((third, fourth), (Verdict::Drop, Verdict::Drop));
        assert_eq!(verdicts(&mut bench, &short(0)), [Verdict::Pass; 4]);
    }

    fn segment(port: u16, flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[13] = flags;
        header[2..4].copy_from_slice(&port.to_be_bytes());
        let mut frame = datagram(0, &[]);
        frame[23] = 6;
        frame.truncate(34);
        frame.extend(header);
        frame
    }

    #[test]
    fn tcp_of_a_served_port_has_buckets_of_its_own() {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        let mut bench = Bench::new(rules(443));
        bench.rules.tcp_ports[2] = 8443;
        bench.rules.set_steering(0, true);
        for rule in Rule::ALL {
            bench.rules.modes.set(*rule, Mode::Drop);
        }
        bench.rules.meters.handshakes = Meter::new(0, 1, HANDSHAKE, 1);
        bench.rules.meters.syns = Meter::new(0, 3, HANDSHAKE, 1);
        let mut passed = |frame: &[u8], times| {
            let verdicts = (0..times).map(|_| bench.decide(frame, 0));
            verdicts.filter(|verdict| *verdict == Verdict::Pass).count()
        };
        assert_eq!(passed(&segment(8443, SYN), 9), 3);
        assert_eq!(passed(&segment(8443, ACK), 9), 9);
        assert_eq!(passed(&segment(8443, SYN | ACK), 9), 9, "opens nothing");
        assert_eq!(passed(&segment(443, SYN), 9), 9, "a port of UDP alone");
        let expected = [
            ("not_udp", 9),
            ("tcp_syn", 3),
            ("tcp", 18),
            ("dropped_rate_syns", 6),
        ];
        assert_eq!(bench.counted(), expected);
        let initial = datagram(443, &initial());
        let steered = Verdict::Redirect { queue: 0 };
        assert_eq!(bench.decide(&initial, 0), steered, "not spent by SYNs");
        assert_eq!(bench.decide(&initial, 0), Verdict::Drop);
    }

    #[test]
    fn segments_count_as_packets_and_bytes() {
        let mut bench = Bench::new(rules(443));
        bench.rules.tcp_ports[0] = 443;
        bench.rules.modes.set(Rule::RatePackets, Mode::Drop);
        bench.rules.modes.set(Rule::RateBytes, Mode::Monitor);
        bench.rules.meters.packets = Meter::new(0, 2, PACKET, 1);
        bench.rules.meters.bytes = Meter::new(0, 30, 1, 1);
        let verdicts = [0; 3].map(|_| bench.decide(&segment(443, 16), 0));
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, Verdict::Drop]);
        let expected = [
            ("tcp", 2),
            ("dropped_rate_packets", 1),
            ("monitored_rate_bytes", 1),
        ];
        assert_eq!(bench.counted(), expected);
    }

    #[test]
    fn junk_is_not_charged_to_the_address_that_it_claims() {
        let mut bench = Bench::new(rules(443));
        for rule in [Rule::CidMac, Rule::Malformed, Rule::RatePackets] {
            bench.rules.modes.set(rule, Mode::Drop);
        }
        bench.rules.meters.packets = Meter::new(0, 1, PACKET, 1);
        for payload in [&forged(0)[..], b"junk"] {
            for _ in 0..10 {
                assert_eq!(bench.decide(&datagram(443, payload), 0), Verdict::Drop);
            }
        }
        assert_eq!(bench.decide(&datagram(443, &short(0)), 0), Verdict::Pass);
    }

    #[test]
    fn one_in_so_many_matches_is_told() {
        let told = |bench: &mut Bench, payload: &[u8]| {
            bench.decide(&datagram(443, payload), 0);
            bench.seen.told
        };
        let mut bench = Bench::new(rules(443));
        bench.rules.modes.set(Rule::CidMac, Mode::Drop);
        bench.rules.modes.set(Rule::FixedBit, Mode::Monitor);
        bench.rules.sample_mask = 3;
        let all = [0; 9].map(|_| told(&mut bench, &forged(0)));
        let at: Vec<usize> = (0..9).filter(|i| all[*i].is_some()).collect();
        assert_eq!(at, [0, 4, 8]);
        let first = all[0].expect("told");
        assert_eq!((first.rule, first.dropped), (Rule::CidMac, true));
        assert_eq!(bench.seen.source, Source::v4(SOURCE));
        assert_eq!(bench.seen.segment.source, 50_000);

        let mut unfixed = short(0);
        unfixed[0] = 0;
        let first = told(&mut bench, &unfixed).expect("told");
        assert_eq!((first.rule, first.dropped), (Rule::FixedBit, false));
    }

    #[test]
    fn a_packet_counts_once_by_reason_or_rule() {
        let mut bench = Bench::new(rules(443));
        bench.rules.modes.set(Rule::CidMac, Mode::Drop);
        for payload in [short(2), forged(2), initial()] {
            bench.decide(&datagram(443, &payload), 2);
        }
        let expected = [
            ("quic_initial", 1),
            ("quic_short", 1),
            ("cid_home", 1),
            ("dropped_cid_mac", 1),
        ];
        assert_eq!(bench.counted(), expected);
    }
}
