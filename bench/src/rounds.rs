//! Rounds in which popcache and nginx take turns on both cores, each measured by one load that makes its own
//! object new: what `herd` and `range` have in common.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::figures::{Figures, Machine, Metric, Row, Samples};
use crate::process::{catch_interrupts, check_interrupt};
use crate::site::{Kind, Plan, Site};

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One run instead of three.
    pub quick: bool,
    pub json: Option<PathBuf>,
    pub runs: Option<usize>,
}

/// A benchmark of `C` cases, each with `M` metrics.
pub struct Rounds<const C: usize, const M: usize> {
    pub bench: &'static str,
    pub cases: [&'static str; C],
    pub metrics: [Metric; M],
    /// Memory of popcache.
    pub ram: &'static str,
    /// For each download of a peer.
    pub patience: Duration,
}

/// One measurement.
pub struct Round<'a> {
    pub site: &'a Site,
    pub kind: Kind,
    pub run: usize,
    /// The place in [`Rounds::cases`].
    pub case: usize,
}

/// Runs the benchmark, prints the table, writes the JSON. `measure` gives values in the order of the metrics.
///
/// Exits with 0 whatever the figures, with 1 where a server did not start or an answer was wrong.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run<const C: usize, const M: usize>(
    rounds: &Rounds<C, M>,
    options: &Options,
    measure: impl Fn(&Round<'_>) -> Result<[f64; M]>,
) -> Result<ExitCode> {
    catch_interrupts()?;
    let cores: Vec<usize> = (0..Machine::here().cores.min(2)).collect();
    let site = Site::build(&Plan {
        kinds: &[Kind::Popcache, Kind::Nginx],
        server_cores: &cores,
        client_core: None,
        templates: &[],
        keys: 0,
        ram: rounds.ram,
        patience: rounds.patience,
    })?;
    let absent =
        |(kind, why): &(Kind, String)| Row::failure("start", format!("{}: {why}", kind.name()));
    let mut errors: Vec<Row> = site.absent.iter().map(absent).collect();
    let mut samples = Samples::default();
    let mut broken = site.broken;
    let default = if options.quick { 1 } else { 3 };
    for run in 0..options.runs.unwrap_or(default).max(1) {
        for (case, name) in rounds.cases.iter().enumerate() {
            for kind in site.running() {
                let site = &site;
                match measure(&Round {
                    site,
                    kind,
                    run,
                    case,
                }) {
                    Ok(values) => {
                        for (metric, value) in values.into_iter().enumerate() {
                            samples.add(case, metric, kind.name(), value);
                        }
                    }
                    Err(error) => {
                        check_interrupt()?;
                        broken = true;
                        errors.push(Row::failure(name, format!("{}: {error:#}", kind.name())));
                    }
                }
            }
        }
    }
    drop(site);
    let mut rows = samples.rows(&rounds.cases, &rounds.metrics);
    rows.extend(errors);
    let figures = Figures {
        bench: rounds.bench.into(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(match broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
