//! `popcache-bench hit`, `h2`, `handshake`, `latency`, `scale`, `herd`, `idle`, `range` and `xdp`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use popcache_bench::{handshake, herd, hit, idle, range, scale, xdp};

#[derive(clap::Args)]
pub struct Arguments {
    /// End within 50 seconds, with less certainty
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each case
    #[arg(long)]
    runs: Option<usize>,
}

#[derive(clap::Args)]
pub struct HitArguments {
    #[command(flatten)]
    common: Arguments,
    /// Only cases whose name holds this
    #[arg(long, value_name = "PART")]
    case: Option<String>,
}

pub fn run_hit(arguments: HitArguments) -> Result<ExitCode> {
    hit::run(&arguments.options())
}

impl HitArguments {
    fn options(self) -> hit::Options {
        let Arguments { quick, json, runs } = self.common;
        hit::Options {
            quick,
            json,
            runs,
            only: self.case,
        }
    }
}

pub fn run_h2(arguments: HitArguments) -> Result<ExitCode> {
    hit::run_tcp(&arguments.options())
}

pub fn run_latency(arguments: HitArguments) -> Result<ExitCode> {
    hit::run_latency(&arguments.options())
}

pub fn run_scale(arguments: HitArguments) -> Result<ExitCode> {
    scale::run(&arguments.options())
}

pub fn run_xdp(arguments: HitArguments) -> Result<ExitCode> {
    let Arguments { quick, json, runs } = arguments.common;
    xdp::run(&xdp::Options {
        quick,
        json,
        runs,
        only: arguments.case,
    })
}

pub fn run_handshake(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { quick, json, runs } = arguments;
    handshake::run(&handshake::Options { quick, json, runs })
}

pub fn run_idle(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { quick, json, runs } = arguments;
    idle::run(&idle::Options { quick, json, runs })
}

pub fn run_herd(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { quick, json, runs } = arguments;
    herd::run(&herd::Options { quick, json, runs })
}

pub fn run_range(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { quick, json, runs } = arguments;
    range::run(&range::Options { quick, json, runs })
}

/// Fetches the peers beforehand, so that the first benchmark does not have to.
pub fn run_peers() -> Result<ExitCode> {
    let root = popcache_bench::nginx::unpack(popcache_bench::nginx::PATIENCE)?;
    eprintln!("popcache-bench: nginx is in {}", root.display());
    Ok(ExitCode::SUCCESS)
}
