//! `herd`: very many requests at once for one object that is in no cache.
//!
//! The origin takes half a second for the object of 1 KB. The client, one thread, first makes all
//! connections, then sends all requests as fast as they go, and compares every body. popcache and nginx
//! (with its cache lock) have both cores; the baseline does not take part, since it holds its objects
//! from the start.
//!
//! | metric | |
//! |---|---|
//! | `origin_fetches` | requests for the object that reached the origin |
//! | `bytes_per_waiter` | growth of the server's resident memory from all connections made to the most while they waited, over the requests |
//! | `mean_wait_ratio` | mean time from a request's start to its last byte, over the origin's delay |

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::figures::{Better, Figures, Machine, Metric, Row, Samples};
use crate::load::herd::HerdReport;
use crate::nginx;
use crate::process::{catch_interrupts, check_interrupt};
use crate::site::{Kind, Plan, Site};

/// Requests on each connection.
const STREAMS: usize = 100;
/// What the origin takes for the object, milliseconds.
const DELAY_MS: u32 = 500;

/// What a quick benchmark gives each download of a peer.
const QUICK_PATIENCE: Duration = Duration::from_secs(6);

const METRICS: [Metric; 3] = [
    Metric {
        name: "origin_fetches",
        unit: "1",
        better: Better::Lower,
    },
    Metric {
        name: "bytes_per_waiter",
        unit: "B",
        better: Better::Lower,
    },
    Metric {
        name: "mean_wait_ratio",
        unit: "1",
        better: Better::Lower,
    },
];

const CASES: [(&str, usize); 2] = [("10k", 10_000), ("100k", 100_000)];

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
        ram: "256 MiB",
        patience: if options.quick {
            QUICK_PATIENCE
        } else {
            nginx::PATIENCE
        },
    })?;
    let mut errors: Vec<Row> = Vec::new();
    for (kind, why) in &site.absent {
        errors.push(Row::failure("start", format!("{}: {why}", kind.name())));
    }
    let mut samples = Samples::default();
    let mut broken = site.broken;
    let runs = options
        .runs
        .unwrap_or(if options.quick { 1 } else { 3 })
        .max(1);
    for run in 0..runs {
        for (index, (case, count)) in CASES.iter().enumerate() {
            for kind in site.running() {
                match one(&site, kind, run, *count) {
                    Ok(values) => {
                        for (metric, value) in values.into_iter().enumerate() {
                            samples.add(index, metric, kind.name(), value);
                        }
                    }
                    Err(error) => {
                        check_interrupt()?;
                        broken = true;
                        errors.push(Row::failure(case, format!("{}: {error:#}", kind.name())));
                    }
                }
            }
        }
    }
    drop(site);
    let mut rows = samples.rows(&CASES.map(|(name, _)| name), &METRICS);
    rows.extend(errors);
    let figures = Figures {
        bench: "herd".into(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// One herd against one server; the values are in the order of [`METRICS`].
fn one(site: &Site, kind: Kind, run: usize, count: usize) -> Result<[f64; 3]> {
    // A name of its own for each herd, so that it is in no cache.
    let target = format!(
        "/size/1024?v={}-{run}-{count}&delay={DELAY_MS}",
        kind.name()
    );
    let arguments = format!(
        "--herd {count} --connections {} --timeout 60 --sockets 4 --url {target}",
        count.div_ceil(STREAMS)
    );
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let report: HerdReport = site.load(kind, &arguments)?;
    anyhow::ensure!(
        report.failed == 0,
        "{} of {count} requests failed: {:?}",
        report.failed,
        report.errors
    );
    let fetches = *site
        .origin_counts()?
        .get(&target)
        .context("the origin was never asked for the object")?;
    eprintln!(
        "popcache-bench: {} {count}: issued in {:.0} ms, first answer at {:.0} ms, {} before it, wait p99 {:.0} ms",
        kind.name(),
        report.issue_us / 1e3,
        report.first_answer_us / 1e3,
        report.before_first_answer,
        report.wait_us.p99 / 1e3
    );
    let growth = report
        .resident_waiting
        .saturating_sub(report.resident_before);
    Ok([
        fetches as f64,
        growth as f64 / count as f64,
        report.wait_us.mean / 1e3 / f64::from(DELAY_MS),
    ])
}
