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
    maps::{LAYOUT, MAX_PORTS, Rules, counter_names},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::{
    packets, pcap,
    support::{Kernel, on_host},
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
    let (mut rules, mut keys) = (Rules::new(0, [0; MAX_PORTS]), CidKeys::EMPTY);
    let mut seen = BTreeSet::new();
    for case in 0..cases {
        if case % CASES_PER_RULES == 0 {
            (rules, keys) = draw_rules(&mut rng);
            if case == 0 {
                // Drawn too seldom to be left to chance alone.
                rules.layout = LAYOUT + 1;
            }
            kernel.set(rules, keys);
        }
        let frame = draw_frame(&mut rng, &captured, &rules, &keys);
        let (outcome, expected) = (kernel.run(&frame), on_host(&frame, &rules, &keys));
        assert!(
            outcome == expected,
            "case {case} of POPCACHE_FUZZ_SEED={seed}: the kernel says {} {:?}, the host {} {:?}\n\
             {rules:?}\n{frame:02x?}",
            outcome.action,
            outcome.moved(),
            expected.action,
            expected.moved(),
        );
        seen.extend(outcome.moved());
    }
    if cases >= DEFAULT_CASES {
        let missed: Vec<_> = counter_names()
            .filter(|name| !seen.contains(name))
            .collect();
        assert_eq!(
            missed,
            ["redirected"],
            "outcomes never drawn (no socket is registered here)"
        );
    }
}

fn draw_rules(rng: &mut SmallRng) -> (Rules, CidKeys) {
    let mut ports = rng.random::<[u16; MAX_PORTS]>();
    ports[rng.random_range(0..MAX_PORTS)] = pcap::PORT;
    let mut rules = Rules::new(rng.random_range(1..=64), ports);
    rules.af_xdp = *[0, 1, !0].choose(rng).expect("choices");
    if rng.random_ratio(1, 20) {
        rules.layout = *[0, LAYOUT + 1].choose(rng).expect("choices");
    }
    let mut keys = pcap::keys();
    keys.insert(rng.random(), CidKey::from_bytes(rng.random()));
    if keys.active().is_none() {
        keys = pcap::keys();
    }
    (rules, keys)
}

fn draw_frame(rng: &mut SmallRng, captured: &[Vec<u8>], rules: &Rules, keys: &CidKeys) -> Vec<u8> {
    let mut frame = if rng.random_ratio(1, 4) {
        captured.choose(rng).expect("captures").clone()
    } else {
        let port = *rules.ports.choose(rng).expect("ports");
        packets::draw(rng, port, keys)
    };
    if rng.random() {
        packets::spoil(rng, &mut frame);
    }
    packets::fit(&mut frame);
    frame
}
