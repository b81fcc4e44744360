//! `popcache probe-tier`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Exit, fail};
use crate::config::units::parse_size;
use crate::probe::{self, Options};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A directory on the drive, or a file to be made there; it is deleted afterwards
    #[arg(long, value_name = "DIR|FILE", default_value = ".")]
    device: PathBuf,
    /// Bytes of the scratch file
    #[arg(long, value_parser = parse_size, default_value = "1 GiB")]
    size: u64,
    /// Rounds of about two seconds each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Less certain, and done in a quarter of the time
    #[arg(long)]
    quick: bool,
    /// Print a line of JSON for each finding instead of text
    #[arg(long)]
    json: bool,
    /// Wait for a line on stdin before each round
    #[arg(long, hide = true)]
    paced: bool,
    /// Fill the file and go on writing until killed
    #[arg(long, hide = true)]
    fill: bool,
}

pub(super) fn probe(arguments: &Arguments) -> Exit {
    let quick = if arguments.quick { 4 } else { 1 };
    let options = Options {
        place: arguments.device.clone(),
        size: arguments.size,
        rounds: arguments.rounds,
        part: Duration::from_millis(500 / quick),
        paced: arguments.paced,
        json: arguments.json,
    };
    let done = match arguments.fill {
        true => probe::fill(&arguments.device, arguments.size),
        false => probe::run(&options),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => fail(Exit::Failed, format_args!("{error:#}")),
    }
}
