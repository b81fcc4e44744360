//! `hit`: what a cached object costs.
//!
//! **Setup.** popcache, the quinn + h3 + tokio baseline and nginx run side by side, each pinned to
//! core 0 with one shard or worker and behind its own veth pair; the load client is pinned to core 1
//! in another network namespace. While one is measured the others are stopped. popcache has its XDP
//! program attached, as deployed, and sends by the UDP backend.
//!
//! **Order.** Run by run, case by case, server by server, beginning with another server in each run,
//! so that a drift of the machine touches all alike. Figures are medians of the runs. Before the first
//! run every object is fetched through every cache; a measured answer that is not a hit is an error.
//!
//! **Load.** A closed loop of `connections` x `streams` keeps the server saturated where it can; a
//! case `1x1` shows latency instead. `latency` also has an open loop at half of the rate that the same
//! server reached at saturation just before, whose latencies count from when a request was due. All servers grant the same number of streams.
//!
//! **Processor time.** The scheduler's time of all threads of the server's processes between the two
//! ends of the measured time, over the answers in it. On veth a sender's time includes the receive
//! path of its peer, since the kernel runs that in the sender's context; interrupts that hit an idle
//! processor are not in it. Both hold for all servers alike. A server that spins while it waits for
//! work pays for that here.
//!
//! **Floor.** `crypto-floor` is the processor time of the cipher alone; see [`floor`].

mod suites;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figures::{Figures, Machine, Row, Samples};
use crate::load::Report;
use crate::process::catch_interrupts;
use crate::site::{Kind, Plan, Site};
use crate::{floor, nginx};
use suites::{Case, HTTP3, LATENCY, Pressure, SIZES, Suite, TCP, template};

/// Objects of each size.
const KEYS: usize = 100;
/// A quick benchmark begins no run that would end later than this.
const QUICK_BUDGET: Duration = Duration::from_secs(46);

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most 50 seconds in all.
    pub quick: bool,
    pub json: Option<PathBuf>,
    /// Runs of each case; `None`: 3 if quick, else 5.
    pub runs: Option<usize>,
    /// Only cases whose name holds this.
    pub only: Option<String>,
}

/// How long one measurement takes.
#[derive(Clone, Copy)]
struct Pace {
    warmup: f64,
    seconds: f64,
    runs: usize,
    /// No further run starts after this.
    budget: Option<Duration>,
}

impl Pace {
    fn new(options: &Options) -> Self {
        let (warmup, seconds, runs) = if options.quick {
            (0.15, 0.5, 3)
        } else {
            (0.5, 2.0, 5)
        };
        Self {
            warmup,
            seconds,
            runs: options.runs.unwrap_or(runs).max(1),
            budget: options.quick.then_some(QUICK_BUDGET),
        }
    }
}

/// Runs the benchmark, prints the table, writes the JSON.
///
/// Exits with 0 whatever the figures, with 1 where a server did not start or did not answer right.
///
/// # Errors
/// Where nothing could be measured at all.
pub fn run(options: &Options) -> Result<ExitCode> {
    run_suite(&HTTP3, options)
}

/// The same over HTTP/2 and HTTP/1.1.
///
/// # Errors
/// As [`run`].
pub fn run_tcp(options: &Options) -> Result<ExitCode> {
    run_suite(&TCP, options)
}

/// What a viewer waits: a request alone, at half load and at saturation.
///
/// # Errors
/// As [`run`].
pub fn run_latency(options: &Options) -> Result<ExitCode> {
    run_suite(&LATENCY, options)
}

fn run_suite(suite: &Suite, options: &Options) -> Result<ExitCode> {
    let began = Instant::now();
    let cases = chosen(suite, options)?;
    let templates = SIZES.map(template);
    catch_interrupts()?;
    let site = Site::build(&Plan {
        kinds: suite.servers,
        server_cores: &[0],
        client_core: Some(1),
        templates: &templates.each_ref().map(String::as_str),
        keys: KEYS,
        ram: "256 MiB",
        patience: nginx::patience(options.quick),
    })?;
    let mut bench = Bench::new(&site, suite, options, cases);
    bench.warm()?;
    bench.measure(began)?;
    let figures = bench.figures();
    let broken = site.broken || bench.failed;
    drop(site);
    figures.publish(options.json.as_deref())?;
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Those asked for, and those that they depend on.
fn chosen(suite: &Suite, options: &Options) -> Result<Vec<&'static Case>> {
    let part = options.only.as_deref().unwrap_or_default();
    let named = |case: &&Case| case.name.contains(part);
    let needed = |case: &&Case| {
        let halved = |other: &Case| other.pressure == Pressure::HalfOf(case.name);
        named(case)
            || suite
                .cases
                .iter()
                .any(|other| halved(other) && named(&other))
    };
    let cases: Vec<_> = suite.cases.iter().filter(needed).collect();
    ensure!(
        !cases.is_empty(),
        "no case has that name: there are {}",
        suite
            .cases
            .iter()
            .map(|case| case.name)
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(cases)
}

struct Bench<'a> {
    site: &'a Site,
    suite: &'a Suite,
    pace: Pace,
    cases: Vec<&'static Case>,
    samples: Samples,
    /// Answers a second of each server when it last had each case.
    rates: HashMap<(&'static str, &'static str), f64>,
    /// Servers that still take part.
    servers: Vec<Kind>,
    errors: Vec<Row>,
    failed: bool,
}

impl<'a> Bench<'a> {
    fn new(site: &'a Site, suite: &'a Suite, options: &Options, cases: Vec<&'static Case>) -> Self {
        let absent = site.absent.iter();
        Self {
            site,
            suite,
            pace: Pace::new(options),
            cases,
            samples: Samples::default(),
            rates: HashMap::new(),
            servers: site.running(),
            errors: absent
                .map(|(kind, why)| Row::failure("start", format!("{}: {why}", kind.name())))
                .collect(),
            failed: false,
        }
    }

    /// Brings every object into every cache.
    fn warm(&mut self) -> Result<()> {
        for kind in self.servers.clone() {
            for template in SIZES.map(template) {
                let arguments = words(&format!(
                    "--connections 2 --streams 2 --requests {} --verify",
                    3 * KEYS
                ));
                if self.load(kind, "warm-up", &template, arguments)?.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn measure(&mut self, began: Instant) -> Result<()> {
        let mut longest = Duration::ZERO;
        for run in 0..self.pace.runs {
            let started = Instant::now();
            if run > 0
                && self
                    .pace
                    .budget
                    .is_some_and(|budget| began.elapsed() + longest > budget)
            {
                eprintln!("popcache-bench: {run} runs are all that fit in the time of --quick");
                return Ok(());
            }
            for (index, case) in self.cases.clone().into_iter().enumerate() {
                for turn in 0..self.servers.len() {
                    // One that failed leaves, and the turns that are left may be fewer.
                    let Some(kind) = self
                        .servers
                        .get((turn + run) % self.servers.len().max(1))
                        .copied()
                    else {
                        break;
                    };
                    self.measure_one(index, case, kind)?;
                }
                if self.suite.floor {
                    let floor = floor::seconds(case.bytes)? * 1e6;
                    self.samples.add(index, 0, floor::NAME, floor);
                }
            }
            longest = longest.max(started.elapsed());
        }
        Ok(())
    }

    fn measure_one(&mut self, index: usize, case: &'static Case, kind: Kind) -> Result<()> {
        let Pace {
            warmup, seconds, ..
        } = self.pace;
        let Case {
            connections,
            streams,
            more,
            ..
        } = case;
        let mut arguments = format!(
            "--connections {connections} --streams {streams} --warmup {warmup} --seconds {seconds}{more}"
        );
        if let Pressure::HalfOf(other) = case.pressure {
            let Some(rate) = self.rates.get(&(kind.name(), other)) else {
                return Ok(());
            };
            arguments.push_str(&format!(" --rate {:.0}", rate / 2.0));
        }
        let arguments = words(&arguments);
        let Some(report) = self.load(kind, case.name, &case.template(), arguments)? else {
            return Ok(());
        };
        if report.hits < report.requests {
            let misses = report.requests - report.hits;
            self.fail(
                kind,
                case.name,
                format!("{misses} of {} answers were no hits", report.requests),
            );
            return Ok(());
        }
        self.rates.insert((kind.name(), case.name), report.rps);
        for (metric, figure) in self.suite.figures.iter().enumerate() {
            let value = (figure.of)(&report);
            self.samples.add(index, metric, kind.name(), value);
        }
        Ok(())
    }

    /// One run of the client; `None`, and the server is out, where it went wrong.
    fn load(
        &mut self,
        kind: Kind,
        case: &str,
        template: &str,
        mut arguments: Vec<String>,
    ) -> Result<Option<Report>> {
        arguments.extend(words(&format!(
            "--path-template {template} --keys {KEYS} --timeout 5"
        )));
        match self.site.load::<Report>(kind, &arguments) {
            Ok(report) if report.is_clean() => return Ok(Some(report)),
            Ok(report) => self.fail(
                kind,
                case,
                format!("{} requests failed: {:?}", report.failed, report.errors),
            ),
            Err(error) => {
                crate::process::check_interrupt()?;
                self.fail(kind, case, format!("{error:#}"));
            }
        }
        Ok(None)
    }

    fn fail(&mut self, kind: Kind, case: &str, reason: String) {
        self.failed = true;
        self.servers.retain(|k| *k != kind);
        self.errors
            .push(Row::failure(case, format!("{}: {reason}", kind.name())));
    }

    fn figures(&self) -> Figures {
        let names: Vec<&str> = self.cases.iter().map(|case| case.name).collect();
        let mut rows = self.samples.rows(&names, &self.suite.metrics());
        rows.extend(self.errors.iter().cloned());
        Figures {
            bench: self.suite.bench.into(),
            machine: Machine::here(),
            rows,
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
