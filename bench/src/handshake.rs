//! `handshake`: what a new client costs.
//!
//! Every request has a connection of its own, which is closed once it is answered: a handshake, one hit of 1 KB,
//! and the end. Servers are pinned to core 0 and the client to core 1, as for `hit`; every server shows an ECDSA
//! certificate that it signed itself, and the client checks its signature. Figures are processor time of the
//! server over the answers.
//!
//! | case | |
//! |---|---|
//! | `full-1req` | nothing is known of the client: key exchange, certificate, signature |
//! | `resumed-0rtt` | the client resumes a session, each once, with its request in the first flight; its peer `full` is popcache's own first case. Of the peers only the baseline takes early data: Debian's nginx has a TLS library that does not |
//!
//! An answer that is no hit, a request that fails and a session that is refused are errors. The few connections
//! that have no session to resume, at the beginning, are made before the measured time.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::figures::{Better, Metric, POPCACHE, RATE};
use crate::load::Report;
use crate::nginx;
pub use crate::rounds::Options;
use crate::rounds::{self, KEYS, Round, Rounds};
use crate::site::{Kind, SERVERS};

const TEMPLATE: &str = "/size/1024?v={}";

/// Clients at a time: enough that the server never waits for one of them.
const CONNECTIONS: usize = 16;

/// Part of the early data sent that has to be taken.
const TAKEN: f64 = 0.95;

const METRICS: [Metric; 2] = [
    Metric {
        name: "cpu_us",
        unit: "us",
        better: Better::Lower,
    },
    RATE,
];

const CASES: [&str; 2] = ["full-1req", "resumed-0rtt"];
const FULL: usize = 0;
const RESUMED: usize = 1;

/// Runs the benchmark; see [`rounds::run`] for the exit code.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    let rounds = Rounds {
        bench: "handshake",
        cases: CASES,
        metrics: METRICS,
        kinds: &SERVERS,
        apart: true,
        templates: &[TEMPLATE],
        ram: "64 MiB",
        patience: nginx::patience(options.quick),
    };
    let seconds = if options.quick { 1.0 } else { 3.0 };
    let mut found = rounds::find(&rounds, options, |round| one(round, seconds))?;
    found
        .samples
        .compare(0, (FULL, POPCACHE), (RESUMED, "full"));
    found.publish(&rounds, options)
}

/// One load against one server; the values are in the order of [`METRICS`].
fn one(round: &Round<'_>, seconds: f64) -> Result<Option<[f64; 2]>> {
    let &Round {
        site,
        kind,
        run,
        case,
    } = round;
    if (kind, case) == (Kind::Nginx, RESUMED) {
        return Ok(None);
    }
    let load = |more: &str| -> Result<Report> {
        let words = format!("--path-template {TEMPLATE} --keys {KEYS} --timeout 5 {more}");
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let report: Report = site.load(kind, &words)?;
        ensure!(
            report.is_clean(),
            "{} requests failed: {:?}",
            report.failed,
            report.errors
        );
        Ok(report)
    };
    if run == 0 && case == FULL {
        load(&format!("--connections 2 --requests {}", 3 * KEYS))?;
    }
    let early = if case == RESUMED { " --zero-rtt 1" } else { "" };
    let report = load(&format!(
        "--connections {CONNECTIONS} --new-connections 1{early} --warmup 0.5 --seconds {seconds}"
    ))?;
    let misses = report.requests - report.hits;
    ensure!(
        misses == 0,
        "{misses} of {} answers were no hits",
        report.requests
    );
    let taken = report.early_accepted as f64;
    ensure!(
        case == FULL || taken >= TAKEN * report.requests as f64,
        "early data of {taken} of {} connections was taken, that of {} was not",
        report.requests,
        report.early_rejected
    );
    let cpu = report.server_cpu_us_per_request.unwrap_or(f64::NAN);
    Ok(Some([cpu, report.rps]))
}
