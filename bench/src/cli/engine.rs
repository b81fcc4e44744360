//! `popcache-bench engine`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use popcache_bench::engine::{self, Options};

#[derive(clap::Args)]
pub struct Arguments {
    /// Fewer and shorter runs
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of traces to replay: *.zst of little-endian u64 key and u32 size; without it
    /// POPCACHE_TRACES, else ../shared/traces if it is there
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Only cases whose name holds this
    #[arg(long, value_name = "PART")]
    case: Option<String>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    engine::run(&Options {
        quick: arguments.quick,
        json: arguments.json,
        traces: arguments.traces,
        only: arguments.case,
    })
}
