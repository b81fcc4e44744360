//! `herd`: very many requests at once for one object that is in no cache.
//!
//! The origin takes half a second for the object of 1 KB, and five for 100,000 requests: the client, which has no
//! core to itself, needs the better part of a second to send so many and another to take their answers, and
//! all of them must wait before the first answer comes. The client, one thread, first makes all
//! connections, then sends all requests as fast as they go, and compares every body. popcache and nginx
//! (with its cache lock) have both cores; the baseline does not take part, since it holds its objects
//! from the start.
//!
//! | metric | |
//! |---|---|
//! | `origin_fetches` | requests for the object that reached the origin |
//! | `bytes_per_waiter` | growth of the server's resident memory from all connections made to the most while they waited, over the requests |
//! | `mean_wait_ratio` | mean time from a request's start to its last byte, over the origin's delay |

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::figures::{Better, Metric};
use crate::load::herd::HerdReport;
use crate::nginx;
pub use crate::rounds::Options;
use crate::rounds::{self, Round, Rounds};
use crate::site::Kind;

/// Requests on each connection.
const STREAMS: usize = 100;

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

/// Name, requests, and what the origin takes for the object, milliseconds.
const CASES: [(&str, usize, u32); 2] = [("10k", 10_000, 500), ("100k", 100_000, 5_000)];

/// Runs the benchmark; see [`rounds::run`] for the exit code.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    let rounds = Rounds {
        bench: "herd",
        cases: CASES.map(|(name, _, _)| name),
        metrics: METRICS,
        kinds: &[Kind::Popcache, Kind::Nginx],
        apart: false,
        templates: &[],
        ram: "256 MiB",
        patience: nginx::patience(options.quick),
    };
    rounds::run(&rounds, options, one)
}

/// One herd against one server; the values are in the order of [`METRICS`].
fn one(round: &Round<'_>) -> Result<[f64; 3]> {
    let &Round {
        site,
        kind,
        run,
        case,
    } = round;
    let (_, count, delay_ms) = CASES[case];
    // A name of its own for each herd, so that it is in no cache.
    let target = format!(
        "/size/1024?v={}-{run}-{count}&delay={delay_ms}",
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
        report.wait_us.mean / 1e3 / f64::from(delay_ms),
    ])
}
