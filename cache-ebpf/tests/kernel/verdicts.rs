//! Every rule of the guard in the kernel: what it drops, its monitor twin, and that it is off when
//! it is off.

use std::net::IpAddr;

use cache_ebpf::{
    cid::seal,
    lists::Prefix,
    maps::{MAX_PORTS, MAX_REFLECTORS, Rules},
    meter::{HANDSHAKE, Meter, PACKET},
    rule::{Mode, Rule},
};

use crate::{
    pcap,
    support::{Host, Kernel, XDP_DROP, XDP_PASS},
};

const PORT: u16 = 4433;
const REFLECTOR: u16 = 123;

// Flags of a TCP header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The source of every frame here that is not drawn otherwise.
const SOURCE: &str = "192.0.2.7";
const SOURCE_V6: &str = "2001:db8:1:2::7";

/// A frame that one rule speaks of, and how many of it pass before it does.
struct Case {
    rule: Rule,
    frame: Vec<u8>,
    free: u32,
}

fn case(rule: Rule, payload: &[u8]) -> Case {
    Case {
        rule,
        frame: frame(SOURCE, 50_000, payload),
        free: 0,
    }
}

fn cases() -> Vec<Case> {
    let mut fragment = frame(SOURCE, 50_000, &short());
    fragment[20] = 0x20;
    let mut unfixed = short();
    unfixed[0] = 0;
    let mut forged = short();
    forged[10] ^= 0x10;
    vec![
        Case {
            frame: fragment,
            ..case(Rule::Fragment, &[])
        },
        Case {
            frame: frame(SOURCE, REFLECTOR, &short()),
            ..case(Rule::Amplification, &[])
        },
        Case {
            frame: frame("198.51.100.9", 50_000, &short()),
            ..case(Rule::BlockList, &[])
        },
        Case {
            frame: frame("2001:db8:bad::9", 50_000, &short()),
            ..case(Rule::BlockList, &[])
        },
        case(Rule::Malformed, b"\x41tooshort"),
        case(Rule::Malformed, &long(0xe0, 1, 100)[..99]),
        case(Rule::Undersized, &long(0xc0, 1, 1199)),
        case(Rule::Undersized, &long(0xc0, 0x1a2a_3a4a, 1199)),
        case(Rule::FromServer, &long(0xc0, 0, 1200)),
        case(Rule::FromServer, &long(0xf0, 1, 1200)),
        case(Rule::Version, &long(0xc0, 0x1a2a_3a4a, 1200)),
        case(Rule::FixedBit, &unfixed),
        case(Rule::FixedBit, &long(0x80, 1, 1200)),
        case(Rule::Trailing, &[long(0xc0, 1, 1200), vec![1; 8]].concat()),
        case(Rule::CidMac, &forged),
        Case {
            free: 2,
            ..case(Rule::RatePackets, &short())
        },
        Case {
            frame: frame(SOURCE_V6, 50_000, &short()),
            free: 2,
            ..case(Rule::RatePackets, &[])
        },
        Case {
            free: 3,
            ..case(Rule::RateBytes, &short())
        },
        Case {
            free: 1,
            ..case(Rule::RateHandshakes, &long(0xc0, 1, 1200))
        },
        Case {
            frame: tcp(SOURCE, SYN),
            free: 3,
            ..case(Rule::RateSyns, &[])
        },
        Case {
            frame: tcp(SOURCE_V6, SYN),
            free: 3,
            ..case(Rule::RateSyns, &[])
        },
        Case {
            frame: tcp(SOURCE, ACK),
            free: 2,
            ..case(Rule::RatePackets, &[])
        },
        Case {
            frame: tcp(SOURCE, ACK),
            free: 5,
            ..case(Rule::RateBytes, &[])
        },
        Case {
            frame: tcp("198.51.100.9", SYN),
            ..case(Rule::BlockList, &[])
        },
    ]
}

/// Everything that the rules need to match, with all of them off.
fn host() -> Host {
    let mut ports = [0; MAX_PORTS];
    ports[1] = PORT;
    let mut rules = Rules::new(2, ports);
    let mut reflectors = [7; MAX_REFLECTORS];
    reflectors[MAX_REFLECTORS - 1] = REFLECTOR;
    rules.tcp_ports[3] = PORT;
    rules.set_reflectors(&reflectors);
    rules.sample_mask = 0;
    let mut host = Host::new(rules, pcap::keys());
    host.list(&[], &blocked(), [3, 4]);
    host
}

fn blocked() -> [Prefix; 2] {
    [("198.51.100.8", 30), ("2001:db8:bad::", 48)].map(|(address, length)| {
        let address: IpAddr = address.parse().expect("an address");
        Prefix::new(address.into(), length).expect("listable")
    })
}

/// Runs `case` with its rule in `mode` and every other one off.
fn outcome(kernel: &mut Kernel, host: &mut Host, case: &Case, mode: Mode) {
    host.rules.modes = cache_ebpf::rule::Modes::OFF;
    host.rules.modes.set(case.rule, mode);
    host.rules.meters.packets = Meter::new(0, 2, PACKET, 1);
    host.rules.meters.bytes = Meter::new(0, 100, 1, 1);
    host.rules.meters.handshakes = Meter::new(0, 1, HANDSHAKE, 1);
    host.rules.meters.syns = Meter::new(0, 3, HANDSHAKE, 1);
    // Other buckets than the case before.
    host.rules.bucket_key[0] += 1;
    kernel.follow(host);
    let name = format!("{:?} {mode:?}", case.rule);
    for _ in 0..case.free {
        let before = kernel.run(&case.frame);
        assert_eq!(before, host.run(&case.frame), "{name}");
        assert_eq!((before.action, before.event), (XDP_PASS, None), "{name}");
    }
    let found = kernel.run(&case.frame);
    assert_eq!(found, host.run(&case.frame), "{name}");
    let moved = found.moved();
    let (dropped, monitored) = (
        Rule::DROPPED[case.rule as usize],
        Rule::MONITORED[case.rule as usize],
    );
    match mode {
        Mode::Drop => {
            assert_eq!(
                (found.action, &moved[..]),
                (XDP_DROP, &[dropped][..]),
                "{name}"
            );
        }
        Mode::Monitor => {
            assert_eq!(found.action, XDP_PASS, "{name}");
            assert!(moved.contains(&monitored), "{name}: {moved:?}");
        }
        Mode::Off => {
            assert_eq!(found.action, XDP_PASS, "{name}");
            assert!(!moved.contains(&monitored), "{name}: {moved:?}");
        }
    }
    let told = found.event.map(|event| (event.rule(), event.dropped == 1));
    let expected = (mode != Mode::Off).then_some((Some(case.rule), mode == Mode::Drop));
    assert_eq!(told, expected, "{name}");
}

#[test]
fn every_rule_drops_counts_or_is_off() {
    let (mut kernel, mut host) = (Kernel::load(), host());
    kernel.list(&host, &[], &blocked(), [3, 4]);
    let cases = cases();
    for rule in Rule::ALL {
        assert!(cases.iter().any(|case| case.rule == *rule), "{rule:?}");
    }
    for case in cases {
        for mode in [Mode::Drop, Mode::Monitor, Mode::Off] {
            outcome(&mut kernel, &mut host, &case, mode);
        }
    }
}

#[test]
fn who_is_allowed_is_neither_blocked_nor_metered() {
    let (mut kernel, mut host) = (Kernel::load(), host());
    let allowed = [("198.51.100.9", 32), ("2001:db8:bad:9::", 64)].map(|(address, length)| {
        let address: IpAddr = address.parse().expect("an address");
        Prefix::new(address.into(), length).expect("listable")
    });
    host.list(&allowed, &blocked(), [5, 6]);
    kernel.list(&host, &allowed, &blocked(), [5, 6]);
    for rule in Rule::ALL {
        host.rules.modes.set(*rule, Mode::Drop);
    }
    host.rules.meters.packets = Meter::new(0, 1, PACKET, 1);
    kernel.follow(&host);
    for (source, action) in [
        ("198.51.100.9", XDP_PASS),
        ("198.51.100.10", XDP_DROP),
        ("2001:db8:bad:9::1", XDP_PASS),
        ("2001:db8:bad:8::1", XDP_DROP),
    ] {
        let frame = frame(source, 50_000, &short());
        for _ in 0..3 {
            let found = kernel.run(&frame);
            assert_eq!(found, host.run(&frame), "{source}");
            assert_eq!(found.action, action, "{source}");
        }
    }
}

#[test]
fn lists_are_swapped_by_generation() {
    let (mut kernel, mut host) = (Kernel::load(), host());
    kernel.list(&host, &[], &blocked(), [3, 4]);
    host.rules.modes.set(Rule::BlockList, Mode::Drop);
    kernel.follow(&host);
    let one = frame("198.51.100.9", 50_000, &short());
    let other = frame("203.0.113.1", 50_000, &short());
    let actions = |kernel: &mut Kernel| [&one, &other].map(|frame| kernel.run(frame).action);
    assert_eq!(actions(&mut kernel), [XDP_DROP, XDP_PASS]);

    let address: IpAddr = "203.0.113.0".parse().expect("an address");
    let next = [Prefix::new(address.into(), 24).expect("listable")];
    host.list(&[], &next, [7, 8]);
    kernel.list(&host, &[], &next, [7, 8]);
    assert_eq!(
        actions(&mut kernel),
        [XDP_DROP, XDP_PASS],
        "written, not yet used"
    );
    kernel.follow(&host);
    assert_eq!(actions(&mut kernel), [XDP_PASS, XDP_DROP]);
}

#[test]
fn a_bucket_drains_by_the_kernels_tick() {
    let (mut kernel, mut host) = (Kernel::load(), host());
    host.rules.modes.set(Rule::RatePackets, Mode::Drop);
    host.rules.meters.packets = Meter {
        per_tick: PACKET,
        burst: 4 * PACKET,
    };
    kernel.follow(&host);
    let frame = frame(SOURCE, 50_000, &short());
    while kernel.run(&frame).action == XDP_PASS {}
    while kernel.run(&frame).action == XDP_DROP {}
}

fn short() -> Vec<u8> {
    let keys = pcap::keys();
    let (key_id, key) = keys.active().expect("a key");
    let mut payload = vec![0x41];
    payload.extend(seal(&key, key_id, 0, *b"nonce!"));
    payload.resize(32, 7);
    payload
}

/// A long header that fills a datagram of `size` bytes.
fn long(first: u8, version: u32, size: usize) -> Vec<u8> {
    let mut payload = vec![first];
    payload.extend(version.to_be_bytes());
    payload.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    if first & 0x30 == 0 {
        payload.push(0);
    }
    let rest = (size - payload.len() - 2) as u16;
    payload.extend((0x4000 | rest).to_be_bytes());
    payload.resize(size, 0);
    payload
}

fn frame(source: &str, source_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16 + 8;
    let mut datagram = Vec::new();
    for word in [source_port, PORT, length, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(payload);
    ip(source, 17, &datagram)
}

/// A segment without payload.
fn tcp(source: &str, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&50_000_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&PORT.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    ip(source, 6, &segment)
}

fn ip(source: &str, protocol: u8, behind: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let length = behind.len() as u16;
    match source.parse().expect("an address") {
        IpAddr::V4(source) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend([0x20; 16]);
        }
    }
    frame.extend(behind);
    frame
}
