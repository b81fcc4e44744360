//! `scale`: whether a hit costs more where there are more cores, or more connections.
//!
//! Cached objects of 4 KB from popcache alone. The client takes turns with the shards where it has no core
//! of its own, so what is compared is the processor time that the shards spent on each request: `rps` is
//! what the shards' cores would answer in a second if they did nothing else.
//!
//! | case | shards | connections x streams | beside |
//! |---|---|---|---|
//! | `cores-1`, `cores-2` | 1, 2 | 64 x 8 | `cores-1` |
//! | `connections-100` to `connections-50000` | 1 | one request on each | `connections-100` |

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::figures::{CPU_PER_REQUEST, Figures, Machine, Metric, POPCACHE, RATE, Row, Samples};
use crate::hit::Options;
use crate::load::Report;
use crate::nginx;
use crate::process::{catch_interrupts, check_interrupt};
use crate::site::{Kind, Plan, Site};

struct Case {
    name: &'static str,
    shards: usize,
    connections: usize,
    streams: usize,
    /// The case that its figures stand beside.
    beside: &'static str,
}

const ONE_CORE: &str = "cores-1";
const FEW: &str = "connections-100";
const MOST: &str = "connections-50000";

const CASES: [Case; 6] = [
    cores(ONE_CORE, 1),
    cores("cores-2", 2),
    connections(FEW, 100),
    connections("connections-1000", 1_000),
    connections("connections-10000", 10_000),
    connections(MOST, 50_000),
];

const fn cores(name: &'static str, shards: usize) -> Case {
    Case {
        name,
        shards,
        connections: 64,
        streams: 8,
        beside: ONE_CORE,
    }
}

const fn connections(name: &'static str, connections: usize) -> Case {
    Case {
        name,
        shards: 1,
        connections,
        streams: 1,
        beside: FEW,
    }
}

const METRICS: [Metric; 2] = [CPU_PER_REQUEST, RATE];

const KEYS: usize = 100;
/// UDP sockets of the client, so that a receive queue of the kernel does not hold all connections.
const SOCKETS: usize = 16;
/// Seconds for all connections to come about.
const TIMEOUT: usize = 170;

/// Runs the benchmark, prints the table, writes the JSON. A quick one has one run instead of three, and no
/// case of 50,000 connections.
///
/// Exits with 0 whatever the figures, with 1 where popcache did not start or an answer was wrong.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    catch_interrupts()?;
    let part = options.only.as_deref().unwrap_or_default();
    let wanted = |case: &Case| case.name.contains(part) && !(options.quick && case.name == MOST);
    let needed = |case: &Case| CASES.iter().any(|c| wanted(c) && c.beside == case.name);
    let chosen = CASES.map(|case| wanted(&case) || needed(&case));
    ensure!(chosen.contains(&true), "no case has that name");
    let mut samples = Samples::default();
    let mut errors = Vec::new();
    let default = if options.quick { 1 } else { 3 };
    for _ in 0..options.runs.unwrap_or(default).max(1) {
        for shards in [1, 2] {
            let on = |&at: &usize| chosen[at] && CASES[at].shards == shards;
            let cases: Vec<usize> = (0..CASES.len()).filter(on).collect();
            if !cases.is_empty() {
                measure(shards, &cases, &mut samples, &mut errors)?;
            }
        }
    }
    let broken = !errors.is_empty();
    let mut rows = samples.rows(&CASES.map(|case| case.name), &METRICS);
    rows.extend(errors);
    let figures = Figures {
        bench: "scale".into(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(match broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// `cases` are positions in [`CASES`], all of so many shards.
fn measure(
    shards: usize,
    cases: &[usize],
    samples: &mut Samples,
    errors: &mut Vec<Row>,
) -> Result<()> {
    let cores: Vec<usize> = (0..shards).collect();
    let site = Site::build(&Plan {
        kinds: &[Kind::Popcache],
        server_cores: &cores,
        client_core: (shards == 1).then_some(1),
        templates: &[],
        keys: 0,
        ram: "256 MiB",
        patience: nginx::PATIENCE,
    })?;
    let absent = |(_, why): &(Kind, String)| Row::failure("start", why.clone());
    errors.extend(site.absent.iter().map(absent));
    for kind in site.running() {
        load(&site, kind, &format!("--requests {} --verify", 3 * KEYS))?;
        for &at in cases {
            match one(&site, kind, &CASES[at]) {
                Ok(micros) => add(samples, at, micros),
                Err(error) => {
                    check_interrupt()?;
                    errors.push(Row::failure(CASES[at].name, format!("{error:#}")));
                }
            }
        }
    }
    Ok(())
}

/// Beside each case that names this one, its figures are those of a peer.
fn add(samples: &mut Samples, at: usize, micros: f64) {
    let values = |case: &Case| [micros, case.shards as f64 * 1e6 / micros];
    let own = values(&CASES[at]);
    for (metric, value) in own.into_iter().enumerate() {
        samples.add(at, metric, POPCACHE, value);
        for (other, case) in CASES.iter().enumerate() {
            if other != at && case.beside == CASES[at].name {
                samples.add(other, metric, CASES[at].name, value);
            }
        }
    }
}

/// Processor microseconds of the shards for one request.
fn one(site: &Site, kind: Kind, case: &Case) -> Result<f64> {
    let Case {
        connections,
        streams,
        ..
    } = case;
    let report = load(
        site,
        kind,
        &format!("--connections {connections} --streams {streams} --warmup 1 --seconds 3"),
    )?;
    ensure!(
        report.is_clean() && report.hits == report.requests,
        "{} of {} requests failed, {} answers were no hits: {:?}",
        report.failed,
        report.requests,
        report.requests - report.hits,
        report.errors
    );
    Ok(report.server_cpu_us_per_request.unwrap_or(f64::NAN))
}

fn load(site: &Site, kind: Kind, arguments: &str) -> Result<Report> {
    let all = format!(
        "{arguments} --path-template /size/4096?v={{}} --keys {KEYS} --sockets {SOCKETS} --timeout {TIMEOUT}"
    );
    let words: Vec<String> = all.split(' ').map(str::to_owned).collect();
    site.load(kind, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_those_of_fewer() {
        let mut samples = Samples::default();
        for (at, micros) in [(0, 5.0), (1, 5.0), (2, 4.0), (3, 8.0)] {
            add(&mut samples, at, micros);
        }
        let rows = samples.rows(&CASES.map(|case| case.name), &METRICS);
        let ratio = |case: &str, metric: &str| {
            let row = rows.iter().find(|r| r.case == case && r.metric == metric);
            row.and_then(|row| row.ratio.values().next().copied())
        };
        assert_eq!(ratio("cores-1", "rps"), None);
        assert_eq!(ratio("cores-2", "rps"), Some(2.0));
        assert_eq!(ratio("connections-1000", "cpu_us_per_request"), Some(0.5));
    }
}
