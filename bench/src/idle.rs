//! `idle`: what a connection holds that has nothing to do.
//!
//! The client makes all connections, asks for one object of 1 KB on each, and stays for two seconds without another
//! word. The figure is the growth of the server's resident memory since it was started and had served a few hundred
//! requests, over the connections. What a closed connection leaves behind in the allocator is used by the next,
//! so the first reading of each server is the start of all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::figures::{Better, Metric};
use crate::load::herd::HerdReport;
use crate::nginx;
pub use crate::rounds::Options;
use crate::rounds::{self, Round, Rounds};
use crate::site::SERVERS;

const TARGET: &str = "/size/1024?v=0";

/// Connections before the first reading.
const WARM: usize = 20;

const METRICS: [Metric; 1] = [Metric {
    name: "bytes_per_connection",
    unit: "B",
    better: Better::Lower,
}];

const CASES: [(&str, usize); 2] = [("1k", 1_000), ("10k", 10_000)];

/// Runs the benchmark; see [`rounds::run`] for the exit code.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    let rounds = Rounds {
        bench: "idle",
        cases: CASES.map(|(name, _)| name),
        metrics: METRICS,
        kinds: &SERVERS,
        apart: true,
        templates: &["/size/1024?v={}"],
        ram: "64 MiB",
        patience: nginx::patience(options.quick),
    };
    let starts = RefCell::default();
    rounds::run(&rounds, options, |round| one(round, &starts))
}

fn one(round: &Round<'_>, starts: &RefCell<BTreeMap<&'static str, u64>>) -> Result<[f64; 1]> {
    let &Round { kind, case, .. } = round;
    if !starts.borrow().contains_key(kind.name()) {
        // The first ones touch what every server touches once.
        herd(round, WARM)?;
        let start = herd(round, WARM)?.resident_start;
        starts.borrow_mut().insert(kind.name(), start);
    }
    let (_, count) = CASES[case];
    let report = herd(round, count)?;
    let start = starts.borrow()[kind.name()];
    let growth = report.resident_idle.saturating_sub(start);
    Ok([growth as f64 / count as f64])
}

fn herd(round: &Round<'_>, count: usize) -> Result<HerdReport> {
    let words = format!(
        "--herd {count} --connections {count} --timeout 60 --warmup 2 --sockets 4 --url {TARGET}"
    );
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let report: HerdReport = round.site.load(round.kind, &words)?;
    ensure!(
        report.failed == 0,
        "{} of {count} requests failed: {:?}",
        report.failed,
        report.errors
    );
    Ok(report)
}
