//! The `popcache-bench` program: one subcommand per tool.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "popcache-bench",
    version,
    about = "Origin, load generator, baselines and benchmarks of popcache"
)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Serve the demo content over HTTP/1.1
    Origin(cli::origin::Arguments),
    /// Load an HTTP/3 server and measure
    Load(cli::load::Arguments),
    /// Serve from memory over HTTP/3 with quinn, h3 and tokio
    Baseline(cli::baseline::Arguments),
    /// Take HTTP/1.1 in and ask an HTTP/3 server, for test suites that know no HTTP/3
    Bridge(cli::bridge::Arguments),
    /// Benchmark cached objects: popcache beside its peers
    Hit(cli::bench::HitArguments),
    /// Benchmark a shard with its clients in one thread: hits without kernel and network
    Path(cli::path::Arguments),
    /// Benchmark cached objects over HTTP/2 and HTTP/1.1: popcache beside nginx
    H2(cli::bench::HitArguments),
    /// Benchmark what a viewer waits for cached objects: alone, at half load, at saturation
    Latency(cli::bench::HitArguments),
    /// Benchmark cached objects on one core and two, and over 100 to 50,000 connections
    Scale(cli::bench::HitArguments),
    /// Benchmark many clients that ask for parts of one large object that is not cached
    Range(cli::bench::Arguments),
    /// Benchmark new clients: a handshake and one hit, full and resumed with early data
    Handshake(cli::bench::Arguments),
    /// Benchmark what an idle connection holds
    Idle(cli::bench::Arguments),
    /// Benchmark a thundering herd for one object that is not cached
    Herd(cli::bench::Arguments),
    /// Benchmark the cache engine alone: miss ratios, time per get, memory
    Engine(cli::engine::Arguments),
    /// Benchmark the tier on drives: reads, writes, recovery, admission
    Tier(cli::tier::Arguments),
    /// Send packets of a mix or a capture by XDP live frames, AF_XDP or UDP, or benchmark that
    Gen(cli::r#gen::Arguments),
    /// Benchmark the XDP guard: nanoseconds a packet by outcome
    Xdp(cli::bench::HitArguments),
    /// Unpack the peers now rather than at the first benchmark
    Peers,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().tool {
        Tool::Origin(arguments) => cli::origin::run(arguments),
        Tool::Load(arguments) => cli::load::run(&arguments),
        Tool::Baseline(arguments) => cli::baseline::run(&arguments),
        Tool::Bridge(arguments) => cli::bridge::run(arguments),
        Tool::Hit(arguments) => cli::bench::run_hit(arguments),
        Tool::Path(arguments) => cli::path::run(arguments),
        Tool::H2(arguments) => cli::bench::run_h2(arguments),
        Tool::Latency(arguments) => cli::bench::run_latency(arguments),
        Tool::Scale(arguments) => cli::bench::run_scale(arguments),
        Tool::Range(arguments) => cli::bench::run_range(arguments),
        Tool::Handshake(arguments) => cli::bench::run_handshake(arguments),
        Tool::Idle(arguments) => cli::bench::run_idle(arguments),
        Tool::Herd(arguments) => cli::bench::run_herd(arguments),
        Tool::Engine(arguments) => cli::engine::run(arguments),
        Tool::Tier(arguments) => cli::tier::run(arguments),
        Tool::Gen(arguments) => cli::r#gen::run(arguments),
        Tool::Xdp(arguments) => cli::bench::run_xdp(arguments),
        Tool::Peers => cli::bench::run_peers(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("popcache-bench: {error:#}");
        ExitCode::FAILURE
    })
}
