//! `popcache-bench tier`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use popcache_bench::tier::{self, Options};

#[derive(clap::Args)]
pub struct Arguments {
    /// End within 50 seconds, with less certainty
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where scratch files are made, up to 5 GiB: a directory, or a file for popcache's own
    #[arg(long, value_name = "DIR|FILE")]
    device: Option<PathBuf>,
    /// Directory of traces to replay: *.zst of little-endian u64 key and u32 size; without it
    /// POPCACHE_TRACES, else ../shared/traces if it is there
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Only cases whose name holds this
    #[arg(long, value_name = "PART")]
    case: Option<String>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    tier::run(&Options {
        quick: arguments.quick,
        json: arguments.json,
        device: arguments.device,
        traces: arguments.traces,
        only: arguments.case,
    })
}
