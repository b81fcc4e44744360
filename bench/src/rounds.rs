//! Rounds in which popcache and nginx take turns on both cores, each measured by one load that makes its own
//! object new: what `herd` and `range` have in common, and, with the servers apart from the client, `handshake`.

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
    pub kinds: &'static [Kind],
    /// Servers have core 0 and the client core 1; else servers have both, and the client takes what is left.
    pub apart: bool,
    /// What the baseline holds; each has [`KEYS`] keys.
    pub templates: &'static [&'static str],
    /// Memory of popcache.
    pub ram: &'static str,
    /// For each download of a peer.
    pub patience: Duration,
}

/// Objects of each template.
pub const KEYS: usize = 100;

/// One measurement.
pub struct Round<'a> {
    pub site: &'a Site,
    pub kind: Kind,
    pub run: usize,
    /// The place in [`Rounds::cases`].
    pub case: usize,
}

/// What the runs have found.
pub struct Found {
    pub samples: Samples,
    errors: Vec<Row>,
    broken: bool,
}

/// Runs the benchmark, prints the table, writes the JSON. `measure` gives values in the order of the metrics,
/// or none where a server does not take part in a case.
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
    let measure = |round: &Round<'_>| measure(round).map(Some);
    find(rounds, options, measure)?.publish(rounds, options)
}

/// Takes the measurements of [`run`].
///
/// # Errors
/// As [`run`].
pub fn find<const C: usize, const M: usize>(
    rounds: &Rounds<C, M>,
    options: &Options,
    measure: impl Fn(&Round<'_>) -> Result<Option<[f64; M]>>,
) -> Result<Found> {
    catch_interrupts()?;
    let cores: Vec<usize> = (0..Machine::here().cores.min(2)).collect();
    let site = Site::build(&Plan {
        kinds: rounds.kinds,
        server_cores: if rounds.apart { &[0] } else { &cores },
        client_core: rounds.apart.then_some(1),
        templates: rounds.templates,
        keys: KEYS,
        ram: rounds.ram,
        patience: rounds.patience,
    })?;
    let absent =
        |(kind, why): &(Kind, String)| Row::failure("start", format!("{}: {why}", kind.name()));
    let mut found = Found {
        samples: Samples::default(),
        errors: site.absent.iter().map(absent).collect(),
        broken: site.broken,
    };
    let default = if options.quick { 1 } else { 3 };
    for run in 0..options.runs.unwrap_or(default).max(1) {
        for (case, name) in rounds.cases.iter().enumerate() {
            for kind in site.running() {
                let site = &site;
                let measured = measure(&Round {
                    site,
                    kind,
                    run,
                    case,
                });
                found.add((case, name), kind, measured)?;
            }
        }
    }
    Ok(found)
}

impl Found {
    fn add<const M: usize>(
        &mut self,
        (case, name): (usize, &str),
        kind: Kind,
        measured: Result<Option<[f64; M]>>,
    ) -> Result<()> {
        match measured {
            Ok(values) => {
                for (metric, value) in values.into_iter().flatten().enumerate() {
                    self.samples.add(case, metric, kind.name(), value);
                }
            }
            Err(error) => {
                check_interrupt()?;
                self.broken = true;
                let reason = format!("{}: {error:#}", kind.name());
                self.errors.push(Row::failure(name, reason));
            }
        }
        Ok(())
    }

    /// Prints the table and writes the JSON, as [`run`] does.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn publish<const C: usize, const M: usize>(
        self,
        rounds: &Rounds<C, M>,
        options: &Options,
    ) -> Result<ExitCode> {
        let mut rows = self.samples.rows(&rounds.cases, &rounds.metrics);
        rows.extend(self.errors);
        let figures = Figures {
            bench: rounds.bench.into(),
            machine: Machine::here(),
            rows,
        };
        figures.publish(options.json.as_deref())?;
        Ok(match self.broken {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}
