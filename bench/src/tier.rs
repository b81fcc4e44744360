//! `popcache-bench tier`: the tier on drives, beside bare reads and foyer's hybrid cache.
//!
//! ```text
//! probe       `popcache probe-tier` as a child: cases get-qd1, get-qd32, write-amplification, recovery,
//!             and ram-hit-under-writes (a core's loop without packets, in the probe's process)
//! foyer       the peer, on the same file system; a round of it after each round of the probe
//! admission   cases admission/TRACE: traces through a Store and a Tier
//! drive       memory in place of a drive, where only bytes are counted
//! ```

mod admission;
mod drive;
mod foyer;
mod probe;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::figures::{Better, Figures, Machine, Metric, POPCACHE, Row, Samples};
use probe::{Event, Probe};

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// End within 50 seconds, with less certainty.
    pub quick: bool,
    pub json: Option<PathBuf>,
    /// Where scratch files are made: a directory, or a file in it for popcache's own.
    pub device: Option<PathBuf>,
    /// Directory of trace files.
    pub traces: Option<PathBuf>,
    /// Only cases whose name holds this.
    pub only: Option<String>,
}

impl Options {
    fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|part| case.contains(part))
    }

    fn directory(&self) -> Result<PathBuf> {
        let place = match &self.device {
            Some(place) => place.clone(),
            None => crate::place::target_dir(),
        };
        match place.is_dir() {
            true => Ok(place),
            false => Ok(place.parent().map(PathBuf::from).unwrap_or_default()),
        }
    }
}

const QD1: usize = 0;
const QD32: usize = 1;
const AMPLIFICATION: usize = 2;
const RECOVERY: usize = 3;
const HITS: usize = 4;
const CASES: [&str; 5] = [
    "get-qd1",
    "get-qd32",
    "write-amplification",
    "recovery",
    "ram-hit-under-writes",
];

/// In the order of [`CASES`].
const METRICS: [Metric; 5] = [
    Metric {
        name: "p50_us",
        unit: "us",
        better: Better::Lower,
    },
    Metric {
        name: "iops",
        unit: "1/s",
        better: Better::Higher,
    },
    Metric {
        name: "ratio",
        unit: "bytes/byte",
        better: Better::Lower,
    },
    Metric {
        name: "s_per_gb",
        unit: "s/GB",
        better: Better::Lower,
    },
    Metric {
        name: "p99_us",
        unit: "us",
        better: Better::Lower,
    },
];

const RAW: &str = "raw-io-uring";
const FOYER: &str = "foyer";
/// Hits while nothing is written.
const QUIET: &str = "no-writes";

/// How large and how long.
struct Scale {
    bytes: u64,
    rounds: usize,
    part: Duration,
}

impl Scale {
    fn of(options: &Options) -> Self {
        match options.quick {
            true => Self {
                bytes: 512 << 20,
                rounds: 4,
                part: Duration::from_millis(125),
            },
            false => Self {
                bytes: 2 << 30,
                rounds: 9,
                part: Duration::from_millis(500),
            },
        }
    }
}

/// Runs the benchmark, prints the table, writes the JSON.
///
/// # Errors
/// A file that cannot be written, traces that cannot be read, no case of that name. What only spoils
/// some cases becomes their row.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut rows = Vec::new();
    if CASES.iter().any(|case| options.wants(case)) {
        match drives(options) {
            Ok(found) => rows.extend(found.into_iter().filter(|row| options.wants(&row.case))),
            Err(error) => rows.push(Row::failure("drives", format!("{error:#}"))),
        }
    }
    rows.extend(admission::rows(options)?);
    if rows.is_empty() {
        let part = options.only.as_deref().unwrap_or("");
        bail!("no case has {part:?} in its name");
    }
    let failed = rows.iter().any(|row| row.error.is_some());
    let figures = Figures {
        bench: "tier".to_owned(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The probe and foyer, a round each in turn.
fn drives(options: &Options) -> Result<Vec<Row>> {
    let scale = Scale::of(options);
    let place = match &options.device {
        Some(place) => place.clone(),
        None => options.directory()?,
    };
    let mut samples = Samples::default();
    eprintln!("popcache-bench: filling popcache's tier");
    let mut probe = Probe::start(&place, &scale)?;
    eprintln!("popcache-bench: filling foyer");
    let peer = foyer::Peer::fill(&options.directory()?, scale.bytes)?;
    samples.add(RECOVERY, RECOVERY, FOYER, peer.reopened_s_per_gb);
    samples.add(AMPLIFICATION, AMPLIFICATION, FOYER, peer.amplification);
    let mut rounds = 0;
    loop {
        match probe.next()? {
            Event::Filled {
                object_bytes,
                written_bytes,
            } => {
                let ratio = written_bytes as f64 / object_bytes as f64;
                samples.add(AMPLIFICATION, AMPLIFICATION, POPCACHE, ratio);
            }
            Event::Recovered { bytes, seconds, .. } => {
                let rate = seconds * 1e9 / bytes as f64;
                samples.add(RECOVERY, RECOVERY, POPCACHE, rate);
            }
            Event::Round {
                qd1_us,
                raw_qd1_us,
                qd32_iops,
                raw_qd32_iops,
            } => {
                samples.add(QD1, QD1, POPCACHE, qd1_us);
                samples.add(QD1, QD1, RAW, raw_qd1_us);
                samples.add(QD32, QD32, POPCACHE, qd32_iops);
                samples.add(QD32, QD32, RAW, raw_qd32_iops);
                let (p50, iops) = peer.round(scale.part)?;
                samples.add(QD1, QD1, FOYER, p50);
                samples.add(QD32, QD32, FOYER, iops);
                rounds += 1;
                eprintln!("popcache-bench: round {rounds} of {}", scale.rounds);
            }
            Event::Hits {
                writing_p99_us,
                quiet_p99_us,
                last,
            } => {
                samples.add(HITS, HITS, POPCACHE, writing_p99_us);
                samples.add(HITS, HITS, QUIET, quiet_p99_us);
                if last {
                    break;
                }
            }
        }
    }
    Ok(samples.rows(&CASES, &METRICS))
}
