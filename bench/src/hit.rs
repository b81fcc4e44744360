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
//! case `1x1` shows latency instead. All servers grant the same number of streams.
//!
//! **Processor time.** The scheduler's time of all threads of the server's processes between the two
//! ends of the measured time, over the answers in it. On veth a sender's time includes the receive
//! path of its peer, since the kernel runs that in the sender's context; interrupts that hit an idle
//! processor are not in it. Both hold for all servers alike. A server that spins while it waits for
//! work pays for that here.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figures::{Better, Figures, Machine, Metric, Row, Samples};
use crate::load::Report;
use crate::nginx;
use crate::process::catch_interrupts;
use crate::site::{Kind, Plan, SERVERS, Site};

/// Objects of each size.
const KEYS: usize = 100;
/// A quick benchmark begins no run that would end later than this.
const QUICK_BUDGET: Duration = Duration::from_secs(46);

/// What a quick benchmark gives each download of a peer.
const QUICK_PATIENCE: Duration = Duration::from_secs(6);

const METRICS: [Metric; 4] = [
    Metric {
        name: "cpu_us_per_request",
        unit: "us",
        better: Better::Lower,
    },
    Metric {
        name: "rps",
        unit: "1/s",
        better: Better::Higher,
    },
    Metric {
        name: "p50_us",
        unit: "us",
        better: Better::Lower,
    },
    Metric {
        name: "p99_us",
        unit: "us",
        better: Better::Lower,
    },
];

/// A benchmark of hits: over what, against whom.
struct Suite {
    bench: &'static str,
    cases: &'static [Case],
    servers: &'static [Kind],
}

const HTTP3: Suite = Suite {
    bench: "hit",
    cases: &CASES,
    servers: &SERVERS,
};

/// Each request of HTTP/1.1 has a connection of its own, as many as there are streams of HTTP/2.
const TCP: Suite = Suite {
    bench: "h2",
    cases: &TCP_CASES,
    servers: &[Kind::Popcache, Kind::Nginx],
};

struct Case {
    name: &'static str,
    template: &'static str,
    connections: usize,
    streams: usize,
    /// What the client is told beside this.
    more: &'static str,
}

const ONE_K: &str = "/size/1024?v={}";
const FOUR_K: &str = "/size/4096?v={}";
const SIXTY_FOUR_K: &str = "/size/65536?v={}";

const CASES: [Case; 5] = [
    Case {
        name: "1k-50x4",
        template: ONE_K,
        connections: 50,
        streams: 4,
        more: "",
    },
    Case {
        name: "4k-16x32",
        template: FOUR_K,
        connections: 16,
        streams: 32,
        more: "",
    },
    Case {
        name: "4k-50x1",
        template: FOUR_K,
        connections: 50,
        streams: 1,
        more: "",
    },
    Case {
        name: "64k-16x4",
        template: SIXTY_FOUR_K,
        connections: 16,
        streams: 4,
        more: "",
    },
    Case {
        name: "4k-1x1",
        template: FOUR_K,
        connections: 1,
        streams: 1,
        more: "",
    },
];

const TCP_CASES: [Case; 4] = [
    tcp("h2-4k", FOUR_K, 16, 32),
    tcp("h2-1k", ONE_K, 16, 32),
    tcp("h1-4k", FOUR_K, 64, 1),
    tcp("h1-1k", ONE_K, 64, 1),
];

const fn tcp(
    name: &'static str,
    template: &'static str,
    connections: usize,
    streams: usize,
) -> Case {
    Case {
        name,
        template,
        connections,
        streams,
        more: if streams == 1 {
            " --http 1"
        } else {
            " --http 2"
        },
    }
}

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

fn run_suite(suite: &Suite, options: &Options) -> Result<ExitCode> {
    let began = Instant::now();
    let cases = chosen(suite, options)?;
    catch_interrupts()?;
    let site = Site::build(&Plan {
        kinds: suite.servers,
        server_cores: &[0],
        client_core: Some(1),
        templates: &[ONE_K, FOUR_K, SIXTY_FOUR_K],
        keys: KEYS,
        ram: "256 MiB",
        patience: if options.quick {
            QUICK_PATIENCE
        } else {
            nginx::PATIENCE
        },
    })?;
    let mut bench = Bench::new(&site, options, cases);
    bench.warm()?;
    bench.measure(began)?;
    let figures = bench.figures(suite.bench);
    let broken = site.broken || bench.failed;
    drop(site);
    figures.publish(options.json.as_deref())?;
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn chosen(suite: &Suite, options: &Options) -> Result<Vec<&'static Case>> {
    let wanted = |case: &&Case| {
        options
            .only
            .as_ref()
            .is_none_or(|part| case.name.contains(part.as_str()))
    };
    let cases: Vec<_> = suite.cases.iter().filter(wanted).collect();
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
    pace: Pace,
    cases: Vec<&'static Case>,
    samples: Samples,
    /// Servers that still take part.
    servers: Vec<Kind>,
    errors: Vec<Row>,
    failed: bool,
}

impl<'a> Bench<'a> {
    fn new(site: &'a Site, options: &Options, cases: Vec<&'static Case>) -> Self {
        let absent = site.absent.iter();
        Self {
            site,
            pace: Pace::new(options),
            cases,
            samples: Samples::default(),
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
            for template in [ONE_K, FOUR_K, SIXTY_FOUR_K] {
                let arguments = words(&format!(
                    "--connections 2 --streams 2 --requests {} --verify",
                    3 * KEYS
                ));
                if self.load(kind, "warm-up", template, arguments)?.is_none() {
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
            }
            longest = longest.max(started.elapsed());
        }
        Ok(())
    }

    fn measure_one(&mut self, index: usize, case: &Case, kind: Kind) -> Result<()> {
        let Pace {
            warmup, seconds, ..
        } = self.pace;
        let Case {
            connections,
            streams,
            more,
            ..
        } = case;
        let arguments = format!(
            "--connections {connections} --streams {streams} --warmup {warmup} --seconds {seconds}{more}"
        );
        let Some(report) = self.load(kind, case.name, case.template, words(&arguments))? else {
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
        let values = [
            report.server_cpu_us_per_request.unwrap_or(f64::NAN),
            report.rps,
            report.latency_us.p50,
            report.latency_us.p99,
        ];
        for (metric, value) in values.into_iter().enumerate() {
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

    fn figures(&self, bench: &str) -> Figures {
        let names: Vec<&str> = self.cases.iter().map(|case| case.name).collect();
        let mut rows = self.samples.rows(&names, &METRICS);
        rows.extend(self.errors.iter().cloned());
        Figures {
            bench: bench.into(),
            machine: Machine::here(),
            rows,
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
