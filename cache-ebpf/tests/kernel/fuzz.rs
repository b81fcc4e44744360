//! Does the kernel decide as the host does? Real packets, drawn packets and spoilt ones.
//!
//! `POPCACHE_FUZZ_CASES` sets how many (50,000 unless told), `POPCACHE_FUZZ_SEED` repeats a run.

use std::{
    collections::BTreeSet,
    env,
    hash::{BuildHasher, RandomState},
    str::FromStr,
};

use cache_ebpf::{
    cid::{CidKey, CidKeys},
    lists::Prefix,
    maps::{LAYOUT, MAX_PORTS, MAX_REFLECTORS, Rules, counter_names},
    meter::{HANDSHAKE, Meter, PACKET},
    parse::Source,
    rule::{Mode, Rule},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::{
    packets, pcap,
    support::{Host, Kernel},
};

const DEFAULT_CASES: u64 = 50_000;

/// Cases under the same rules.
const CASES_PER_RULES: u64 = 500;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    let parsed = value.parse().ok();
    assert!(parsed.is_some(), "{name}={value} is not a number");
    parsed
}

#[test]
fn kernel_and_host_agree() {
    let cases = setting("POPCACHE_FUZZ_CASES").unwrap_or(DEFAULT_CASES);
    let seed: u64 =
        setting("POPCACHE_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(cases));
    println!("{cases} cases of POPCACHE_FUZZ_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let captured: Vec<_> = ["aioquic", "curl", "chromium"]
        .into_iter()
        .flat_map(pcap::frames)
        .collect();
    let mut kernel = Kernel::load();
    let mut host = Host::new(Rules::new(0, [0; MAX_PORTS]), CidKeys::EMPTY);
    let mut seen = BTreeSet::new();
    for case in 0..cases {
        if case % CASES_PER_RULES == 0 {
            draw_rules(&mut rng, &mut host);
            let (allow, block, seed) = draw_lists(&mut rng);
            host.list(&allow, &block, seed);
            kernel.list(&host, &allow, &block, seed);
            if case == 0 {
                // Drawn too seldom to be left to chance alone.
                host.rules.layout = LAYOUT + 1;
            }
            kernel.follow(&host);
        }
        let frame = draw_frame(&mut rng, &captured, &host);
        let (outcome, expected) = (kernel.run(&frame), host.run(&frame));
        assert!(
            outcome == expected,
            "case {case} of POPCACHE_FUZZ_SEED={seed}: the kernel says {} {:?}, the host {} {:?}\n\
             {:?}\n{frame:02x?}",
            outcome.action,
            outcome.moved(),
            expected.action,
            expected.moved(),
            host.rules,
        );
        seen.extend(outcome.moved());
    }
    if cases >= DEFAULT_CASES {
        let missed: Vec<_> = counter_names()
            .filter(|name| !seen.contains(name))
            .collect();
        assert_eq!(
            missed,
            ["redirected", "event_lost"],
            "outcomes never drawn (no socket is registered here, and every event is read)"
        );
    }
}

fn draw_rules(rng: &mut SmallRng, host: &mut Host) {
    let mut ports = rng.random::<[u16; MAX_PORTS]>();
    ports[rng.random_range(0..MAX_PORTS)] = pcap::PORT;
    let lists = host.rules.lists;
    let mut rules = Rules::new(rng.random_range(1..=64), ports);
    rules.lists = lists;
    // Often the same, so that drawn SYNs are for a port that is served.
    rules.tcp_ports = if rng.random() { ports } else { rng.random() };
    rules.tcp_ports[rng.random_range(0..MAX_PORTS)] = pcap::PORT;
    rules.af_xdp = *[0, 1, !0].choose(rng).expect("choices");
    if rng.random_ratio(1, 20) {
        rules.layout = *[0, LAYOUT + 1].choose(rng).expect("choices");
    }
    draw_guard(rng, &mut rules);
    let mut keys = pcap::keys();
    keys.insert(rng.random(), CidKey::from_bytes(rng.random()));
    if keys.active().is_none() {
        keys = pcap::keys();
    }
    (host.rules, host.keys) = (rules, keys);
}

/// Modes that leave something to the rules further down, and buckets that never drain: the host does
/// not know the kernel's tick.
fn draw_guard(rng: &mut SmallRng, rules: &mut Rules) {
    for rule in Rule::ALL {
        let mode = [Mode::Off, Mode::Off, Mode::Monitor, Mode::Drop];
        rules.modes.set(*rule, *mode.choose(rng).expect("choices"));
    }
    // Every match: the kernel counts by CPU, and the test does not stay on one.
    rules.sample_mask = 0;
    rules.bucket_key = rng.random();
    let mut meter = |burst: u32| Meter {
        per_tick: 0,
        burst: if rng.random() {
            rng.random_range(0..burst)
        } else {
            0
        },
    };
    rules.meters.packets = meter(20 * PACKET);
    rules.meters.bytes = meter(5000);
    rules.meters.handshakes = meter(5 * HANDSHAKE);
    // A drawn source seldom comes back.
    rules.meters.syns = meter(2 * HANDSHAKE);
    let mut reflectors = rng.random::<[u16; MAX_REFLECTORS]>();
    reflectors[rng.random_range(0..MAX_REFLECTORS)] = packets::REFLECTOR;
    rules.set_reflectors(&reflectors);
}

/// Prefixes around the sources that [`packets`] draws.
fn draw_lists(rng: &mut SmallRng) -> (Vec<Prefix>, Vec<Prefix>, [u64; 2]) {
    let mut list = |most| -> Vec<Prefix> {
        let count = rng.random_range(0..most);
        (0..count).filter_map(|_| draw_prefix(rng)).collect()
    };
    (list(4), list(12), rng.random())
}

fn draw_prefix(rng: &mut SmallRng) -> Option<Prefix> {
    if rng.random() {
        let length = rng.random_range(16..=32_u8);
        let address = u32::from_be_bytes(packets::address_v4(rng));
        Prefix::new(Source::v4(address & u32::MAX << (32 - length)), length).ok()
    } else {
        let length = *[29, 32, 44, 48, 60, 64, 128].choose(rng).expect("choices");
        let address = u128::from_be_bytes(packets::address_v6(rng));
        let mask = u128::MAX << (128 - u32::from(length));
        Prefix::new(Source::v6(address & mask), length).ok()
    }
}

fn draw_frame(rng: &mut SmallRng, captured: &[Vec<u8>], host: &Host) -> Vec<u8> {
    let mut frame = if rng.random_ratio(1, 4) {
        captured.choose(rng).expect("captures").clone()
    } else {
        let port = *host.rules.ports.choose(rng).expect("ports");
        packets::draw(rng, port, &host.keys)
    };
    if rng.random() {
        packets::spoil(rng, &mut frame);
    }
    packets::fit(&mut frame);
    frame
}
