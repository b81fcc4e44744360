//! `range`: a thousand clients that ask for different parts of one large object that is in no cache.
//!
//! The object of 1 GiB is cut into a thousand parts that are no slices; each is asked for once, all at the same
//! time, and compared byte for byte. popcache and nginx (`slice 1m`, with its cache lock) have both cores.
//!
//! | metric | |
//! |---|---|
//! | `origin_bytes_per_byte` | body bytes that the origin sent, over those that clients received |
//! | `cpu_s_per_gb` | processor time of the server, over 10^9 bytes received |

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::figures::{Better, Metric};
use crate::load::herd::HerdReport;
use crate::nginx;
use crate::origin::FILM_BYTES;
pub use crate::rounds::Options;
use crate::rounds::{self, Round, Rounds};
use crate::site::{Kind, Site};

const CASE: &str = "1000-clients-1g";
const CLIENTS: usize = 1_000;
const BYTES: u64 = 1 << 30;
/// Requests that a peer may fail, so that there is a figure to compare with: nginx loses a connection now and then.
const BEARABLE: u64 = 10;

const METRICS: [Metric; 2] = [
    Metric {
        name: "origin_bytes_per_byte",
        unit: "1",
        better: Better::Lower,
    },
    Metric {
        name: "cpu_s_per_gb",
        unit: "s",
        better: Better::Lower,
    },
];

/// Runs the benchmark; see [`rounds::run`] for the exit code.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    let rounds = Rounds {
        bench: "range",
        cases: [CASE],
        metrics: METRICS,
        // All of the object, in the half that is for large bodies.
        kinds: &[Kind::Popcache, Kind::Nginx],
        apart: false,
        templates: &[],
        ram: "5 GiB",
        patience: nginx::PATIENCE,
    };
    rounds::run(&rounds, options, one)
}

/// All parts of one object from one server; the values are in the order of [`METRICS`].
fn one(
    &Round {
        site, kind, run, ..
    }: &Round<'_>,
) -> Result<[f64; 2]> {
    // A name of its own for each run, so that it is in no cache.
    let target = format!("/film/{BYTES}/{}-{run}", kind.name());
    let arguments = format!(
        "--herd {CLIENTS} --parts --connections {CLIENTS} --timeout 120 --sockets 4 --url {target}"
    );
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let before = sent(site)?;
    let report: HerdReport = site.load(kind, &arguments)?;
    let bearable = match kind {
        Kind::Popcache => 0,
        _ => BEARABLE,
    };
    ensure!(
        report.failed <= bearable,
        "{} of {CLIENTS} requests failed: {:?}",
        report.failed,
        report.errors
    );
    let sent = sent(site)? - before;
    eprintln!(
        "popcache-bench: {} run {run}: the origin sent {sent} bytes, wait p99 {:.0} ms",
        kind.name(),
        report.wait_us.p99 / 1e3
    );
    // All parts are of one size.
    let served = BYTES as f64 * report.identical as f64 / CLIENTS as f64;
    let cpu_s = report.server_cpu_us / 1e6;
    Ok([sent as f64 / served, cpu_s / (served / 1e9)])
}

fn sent(site: &Site) -> Result<u64> {
    let counts = site.origin_counts()?;
    Ok(counts.get(FILM_BYTES).copied().unwrap_or(0))
}
