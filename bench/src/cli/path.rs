//! `popcache-bench path`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use popcache_bench::path;

#[derive(clap::Args)]
pub struct Arguments {
    /// Only cases whose name holds this
    #[arg(long, value_name = "PART")]
    case: Option<String>,
    /// Runs of each case
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Measured rounds of each run, each with as many requests as the case has under way
    #[arg(long)]
    rounds: Option<usize>,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments {
        case,
        runs,
        rounds,
        json,
    } = arguments;
    path::run(&path::Options {
        json,
        runs,
        only: case,
        rounds,
    })
}
