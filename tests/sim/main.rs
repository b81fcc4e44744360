//! `sim`: runs seeds of the simulation. A failing seed is printed as the command that repeats it.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Run whole shards under virtual time from a seed")]
struct Arguments {
    /// Run this one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds, from `--first` on.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print every event (with --seed).
    #[arg(long)]
    trace: bool,
    /// Instead: how fast answers come over lines that lose packets, with CUBIC and with BBR.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "first"])]
    rates: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.rates {
        return match popcache_sim::rates::table() {
            Ok(table) => {
                print!("{table}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.first..arguments.first + arguments.seeds,
    };
    let mut hash = 0u64;
    let mut totals = (0, 0, 0, 0, 0, 0, 0, 0);
    for seed in seeds.clone() {
        match popcache_sim::run(seed, arguments.trace) {
            Ok(report) => {
                hash = hash.rotate_left(5) ^ report.hash;
                totals.0 += report.requests;
                totals.1 += report.answered;
                totals.2 += report.fetches;
                totals.3 += report.hits;
                totals.4 += report.collapsed;
                totals.5 += report.handed_over;
                totals.6 += report.tier_hits;
                totals.7 += report.sliced;
            }
            Err(why) => {
                eprintln!("seed {seed}: {why}");
                eprintln!("repeat with: cargo xtask sim --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    let (requests, answered, fetches, hits, collapsed, handed_over, tier_hits, sliced) = totals;
    println!(
        "{} seeds: {requests} requests, {answered} answered, {hits} hits, {tier_hits} from the tier, \
         {collapsed} collapsed, {fetches} fetches, {handed_over} datagrams handed over, {sliced} cut into slices",
        seeds.end - seeds.start
    );
    println!("trace {hash:016x}");
    ExitCode::SUCCESS
}
