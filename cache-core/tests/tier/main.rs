//! The tier against a world from a seed: drives that tear, reorder, lose and flip, processes that
//! die at any step, purges at any time.
//!
//! Whatever happens, what is served is byte for byte what was offered under that key, no older than
//! what took its place, and not purged; pins that were acknowledged are there after a crash; no block
//! leaks; bounds hold.
//!
//! A thousand seeds that crash, 1,500 whose drives fail in every way of [`Faults`], a crash after each of
//! the 200 steps of four; about 15 s of one core. `POPCACHE_TIER_SEEDS=a..b` chooses other seeds, or more.

mod disk;
mod model;
mod world;

use std::time::Duration;

use cache_core::http::slices::SLICE;
use cache_core::tier::{Bypass, Offered, Refusal, TierStats};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::{Faults, Plan, World};

fn plan(seed: u64, faults: Faults) -> Plan {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x7469_6572);
    let shards = rng.random_range(1..4);
    let devices = [1, 1, 2, 3][rng.random_range(0..4)];
    Plan {
        seed,
        devices,
        shards,
        shard: rng.random_range(0..shards),
        device_mib: u64::from(shards) * [4, 4, 5, 8][rng.random_range(0..4)],
        max_reads: rng.random_range(1..6),
        max_write_blocks: rng.random_range(3..9),
        max_objects: [20, 1_000][rng.random_range(0..2)],
        longest_body: [60_000, 300_000, 700_000][rng.random_range(0..3)],
        faults: Faults {
            slow: rng.random_bool(0.25),
            ..faults
        },
        rate: [None, None, Some(2_000_000)][rng.random_range(0..3)],
        drive_writes_per_day: None,
        write_share: [None, Some(0.1), Some(0.5)][rng.random_range(0..3)],
    }
}

fn faults(seed: u64) -> Faults {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x6661_756c);
    let mut some = |most: f64| match rng.random_bool(0.5) {
        true => rng.random_range(0.0..most),
        false => 0.0,
    };
    Faults {
        read_error: some(0.2),
        write_error: some(0.1),
        flush_error: some(0.3),
        lost_write: some(0.1),
        bit_flip: some(0.2),
        no_discard: seed.is_multiple_of(2),
        full: seed.is_multiple_of(5),
        slow: false,
    }
}

fn seeds(from: u64, count: u64) -> std::ops::Range<u64> {
    let named = std::env::var("POPCACHE_TIER_SEEDS").ok();
    let range = named.as_deref().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    range.unwrap_or(from..from + count)
}

/// Many lives of one node.
fn live(plan: Plan, steps: u32) -> (TierStats, u64) {
    let mut world = World::new(plan);
    for _ in 0..steps {
        world.step();
        match world.rng.random_range(0..200) {
            0..3 => {
                world.crash();
                if plan.faults.none() {
                    world.check_pins();
                }
            }
            3 => {
                world.restart();
                if plan.faults.none() {
                    world.check_pins();
                }
            }
            _ => {}
        }
    }
    let trace = world.trace;
    (world.check_no_leaks(), trace)
}

fn run(seed: u64, faults: Faults, steps: u32) -> TierStats {
    let plan = plan(seed, faults);
    let result = std::panic::catch_unwind(|| live(plan, steps));
    match result {
        Ok((stats, _)) => stats,
        Err(panic) => {
            eprintln!("seed {seed}: {plan:?}");
            std::panic::resume_unwind(panic)
        }
    }
}

#[test]
fn crashes_alone_damage_nothing_that_is_served() {
    let mut totals = TierStats::default();
    for seed in seeds(0, 1_000) {
        totals.add(&run(seed, Faults::default(), 150));
    }
    // The world is hard enough for the checks to mean something, and not so hard that nothing works.
    assert!(totals.served > 5_000, "{totals:?}");
    assert!(
        totals.recovered_footers > 100 && totals.recovered_scans > 100,
        "{totals:?}"
    );
    assert!(
        totals.evicted_segments > 100 && totals.missing_purged > 100,
        "{totals:?}"
    );
    assert!(totals.missing_other_key > 0, "{totals:?}");
    assert_eq!(totals.missing_io_error, 0);
    let bounds = [
        totals.fetches_refused,
        totals.declined_no_buffer,
        totals.declined_rate,
        totals.declined_too_large,
        totals.declined_index_full,
        totals.declined_pins,
    ];
    assert!(bounds.iter().all(|reached| *reached > 10), "{totals:?}");
}

#[test]
fn faulty_drives_are_noticed() {
    let mut totals = TierStats::default();
    for seed in seeds(100_000, 1_500) {
        totals.add(&run(seed, faults(seed), 120));
    }
    assert!(totals.served > 3_000, "{totals:?}");
    assert!(
        totals.missing_damaged > 50 && totals.missing_io_error > 50,
        "{totals:?}"
    );
    assert!(
        totals.write_errors > 50 && totals.recovered_bad_footers > 5,
        "{totals:?}"
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in seeds(200_000, 40) {
        let plan = plan(seed, faults(seed));
        assert_eq!(live(plan, 150), live(plan, 150), "seed {seed}");
    }
}

/// The same stories, each ended by a crash after each of its steps in turn.
#[test]
fn a_crash_after_any_step_loses_no_acknowledged_pin() {
    let plan = |seed| Plan {
        device_mib: 8,
        devices: 1,
        shards: 1,
        shard: 0,
        rate: None,
        max_objects: 1_000,
        longest_body: 200_000,
        ..plan(seed, Faults::default())
    };
    let mut pinned = 0;
    let cases = seeds(400_000, 4).flat_map(|seed| (0..200).map(move |steps| (seed, steps)));
    for (seed, steps) in cases {
        let mut world = World::new(plan(seed));
        for _ in 0..steps {
            world.step();
        }
        pinned += world.durable_pins.len();
        world.crash();
        world.check_pins();
        world.check_no_leaks();
    }
    assert!(pinned > 100, "{pinned}");
}

/// Without faults, what was taken is there: at once, after it was written, and after a restart.
#[test]
fn what_was_taken_is_served() {
    for seed in seeds(300_000, 100) {
        let plan = Plan {
            device_mib: 24,
            devices: 2,
            shards: 1,
            shard: 0,
            rate: None,
            max_reads: 4,
            max_write_blocks: 12,
            max_objects: 1_000,
            longest_body: 700_000,
            ..plan(seed, Faults::default())
        };
        let mut world = World::new(plan);
        let mut taken = Vec::new();
        for number in 0..model::APART {
            let version = world.new_version(number);
            if world.offer(number, version, 2, Bypass::No) == Offered::Written {
                taken.push(number);
            }
            world.turn();
            if number % 3 == 0 {
                world.complete_something();
            }
        }
        assert!(taken.len() > 20, "{}", taken.len());
        for round in 0..3 {
            for number in &taken {
                assert!(world.fetch(*number).is_some(), "{number} in round {round}");
                world.settle();
            }
            assert_eq!(
                world.tier.stats().served,
                taken.len() as u64 * (1 + u64::from(round == 1))
            );
            if round == 1 {
                world.restart();
            }
        }
    }
}

/// Offers for days what nobody has seen before, and gives what was written a day.
fn written_a_day(drive_writes_per_day: Option<f64>, shards: u8) -> (f64, TierStats) {
    const DAYS: u64 = 4;
    let plan = Plan {
        device_mib: 8 * u64::from(shards),
        devices: 1,
        shards,
        shard: 0,
        rate: None,
        drive_writes_per_day,
        write_share: None,
        max_write_blocks: 8,
        max_objects: 10_000,
        longest_body: 100_000,
        ..plan(7, Faults::default())
    };
    let mut world = World::new(plan);
    let minutes = DAYS * 24 * 60;
    for _ in 0..minutes {
        world.pass(Duration::from_secs(60));
        let number = world.any_key();
        let version = world.new_version(number);
        world.offer(number, version, 2, Bypass::Prewarmed);
        world.settle();
    }
    let stats = world.tier.stats();
    let times = stats.record_bytes as f64 / stats.capacity_bytes as f64;
    (times / DAYS as f64, stats)
}

/// In times of the shard's own part, however many shards there are; what bypasses admission too.
#[test]
fn drives_are_written_no_more_often_a_day_than_allowed() {
    let (unlimited, stats) = written_a_day(None, 1);
    assert!(unlimited > 4.0, "{unlimited}");
    assert_eq!(stats.declined_rate, 0);
    for shards in [1, 3] {
        let (limited, stats) = written_a_day(Some(1.5), shards);
        // A burst of an hour's worth on top, and one object.
        assert!((1.4..1.53).contains(&limited), "{shards}: {limited}");
        assert!(stats.declined_rate > 100 && stats.declined_rate_bytes > 1 << 20);
        assert!(stats.served == 0 && stats.admitted > 10);
    }
}

/// A slice's own lifetime says nothing: the object that it is of may be confirmed again and again. Others that
/// have expired are not worth writing.
#[test]
fn slices_are_admitted_and_served_after_their_lifetime() {
    let plan = Plan {
        device_mib: 24,
        devices: 1,
        shards: 1,
        shard: 0,
        rate: None,
        drive_writes_per_day: None,
        write_share: None,
        max_write_blocks: 12,
        max_objects: 1_000,
        longest_body: 300_000,
        ..plan(11, Faults::default())
    };
    let mut world = World::new(plan);
    let offers: Vec<_> = (0..40)
        .map(|number| {
            let version = world.new_version(number);
            let object = world.model.versions.get_mut(&(number, version));
            let object = object.expect("made a moment ago");
            object.meta.lifetime_s = 1;
            object.meta.flags = if number % 2 == 0 { SLICE } else { 0 };
            (number, version)
        })
        .collect();
    world.pass(Duration::from_secs(600));
    for (number, version) in &offers {
        let offered = world.offer(*number, *version, 2, Bypass::No);
        let wanted = match number % 2 {
            0 => Offered::Written,
            _ => Offered::Declined(Refusal::Expires),
        };
        assert_eq!(offered, wanted, "{number}");
        world.settle();
    }
    for restarted in [false, true] {
        for (number, _) in offers.iter().filter(|(number, _)| number % 2 == 0) {
            assert!(world.fetch(*number).is_some(), "{number} {restarted}");
            world.settle();
        }
        assert_eq!(world.tier.stats().served, 20);
        world.restart();
    }
}
