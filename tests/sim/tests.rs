//! The simulation in `cargo test`: a few seeds, and that a seed is a run. `cargo xtask test` runs a
//! thousand more with the release build.

#[path = "tests/lines.rs"]
mod lines;

#[test]
fn fifty_seeds_hold_their_invariants() {
    for seed in 0..50 {
        if let Err(why) = popcache_sim::run(seed, false) {
            panic!("seed {seed}: {why}\nrepeat with: cargo xtask sim --seed {seed}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 17, 40] {
        let first = popcache_sim::run(seed, false).map(|report| report.hash);
        let second = popcache_sim::run(seed, false).map(|report| report.hash);
        assert_eq!(first, second, "seed {seed}");
    }
    let other = popcache_sim::run(4, false).map(|report| report.hash);
    assert_ne!(popcache_sim::run(3, false).map(|report| report.hash), other);
}
