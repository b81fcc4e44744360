//! `range`: a thousand clients that ask for different parts of one large object that is in no cache.
//!
//! The object of 1 GiB is cut into a thousand parts that are no slices; each is asked for once, all at the same
//! time, and compared byte for byte. popcache and nginx (`slice 1m`, with its cache lock) have both cores.
//!
//! | metric | |
//! |---|---|
//! | `origin_bytes_per_byte` | body bytes that the origin sent, over those that clients received |
//! | `cpu_s_per_gb` | processor time of the server, over 10^9 bytes received |

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::figures::{Better, Figures, Machine, Metric, Row, Samples};
use crate::load::herd::HerdReport;
use crate::nginx;
use crate::origin::FILM_BYTES;
use crate::process::{catch_interrupts, check_interrupt};
use crate::site::{Kind, Plan, Site};

const CASE: &str = "1000-clients-1g";
const CLIENTS: usize = 1_000;
const BYTES: u64 = 1 << 30;

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

#[derive(Clone, Debug)]
pub struct Options {
    /// One run instead of three.
    pub quick: bool,
    pub json: Option<PathBuf>,
    pub runs: Option<usize>,
}

/// Runs the benchmark, prints the table, writes the JSON.
///
/// Exits with 0 whatever the figures, with 1 where a server did not start or an answer was wrong.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    catch_interrupts()?;
    let cores: Vec<usize> = (0..Machine::here().cores.min(2)).collect();
    let site = Site::build(&Plan {
        kinds: &[Kind::Popcache, Kind::Nginx],
        server_cores: &cores,
        client_core: None,
        templates: &[],
        keys: 0,
        // All of the object, in the half that is for large bodies.
        ram: "5 GiB",
        patience: nginx::PATIENCE,
    })?;
    let mut errors: Vec<Row> = Vec::new();
    for (kind, why) in &site.absent {
        errors.push(Row::failure("start", format!("{}: {why}", kind.name())));
    }
    let mut samples = Samples::default();
    let mut broken = site.broken;
    let default = if options.quick { 1 } else { 3 };
    for run in 0..options.runs.unwrap_or(default).max(1) {
        for kind in site.running() {
            match one(&site, kind, run) {
                Ok(values) => {
                    for (metric, value) in values.into_iter().enumerate() {
                        samples.add(0, metric, kind.name(), value);
                    }
                }
                Err(error) => {
                    check_interrupt()?;
                    broken = true;
                    errors.push(Row::failure(CASE, format!("{}: {error:#}", kind.name())));
                }
            }
        }
    }
    drop(site);
    let mut rows = samples.rows(&[CASE], &METRICS);
    rows.extend(errors);
    let figures = Figures {
        bench: "range".into(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(match broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// All parts of one object from one server; the values are in the order of [`METRICS`].
fn one(site: &Site, kind: Kind, run: usize) -> Result<[f64; 2]> {
    // A name of its own for each run, so that it is in no cache.
    let target = format!("/film/{BYTES}/{}-{run}", kind.name());
    let arguments = format!(
        "--herd {CLIENTS} --parts --connections {CLIENTS} --timeout 120 --sockets 4 --url {target}"
    );
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let before = sent(site)?;
    let report: HerdReport = site.load(kind, &arguments)?;
    ensure!(
        report.failed == 0,
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
    let cpu_s = report.server_cpu_us / 1e6;
    Ok([sent as f64 / BYTES as f64, cpu_s / (BYTES as f64 / 1e9)])
}

fn sent(site: &Site) -> Result<u64> {
    let counts = site.origin_counts()?;
    Ok(counts.get(FILM_BYTES).copied().unwrap_or(0))
}
