//! The benchmark of the XDP guard: nanoseconds a packet by outcome, beside what is usual.
//!
//! Every program is run by the kernel on one packet a great many times (BPF_PROG_TEST_RUN), and paid
//! for by the processor time of the thread that asks, which leaves out what else the machine does.
//! For the cases with a million prefixes or sources a small program draws another source address
//! and calls the program under test; it is in the figures of all peers alike, and of the guard's rules
//! only the one that the peer has too is on.
//!
//! | peer              | what it is |
//! |-------------------|------------|
//! | `bare-drop`       | a program that does nothing but drop |
//! | `xdp-filter-pass` | Debian's xdp-filter with all its features and empty lists |
//! | `xdp-filter-deny` | the same with the source's address denied |
//! | `lpm-trie`        | the same prefixes in a BPF_MAP_TYPE_LPM_TRIE |
//! | `lru-hash`        | a packet meter for each source in a BPF_MAP_TYPE_LRU_HASH with as many entries as the guard has buckets |

mod filter;
mod guard;
mod peers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use aya::{TestRun, TestRunOptions};
use nix::time::{ClockId, clock_gettime};

use crate::figures::{Better, Figures, Machine, Metric, POPCACHE, Row, Samples};
use filter::Filter;
use guard::Guard;
use peers::Peers;

const METRICS: [Metric; 1] = [Metric {
    name: "ns_per_packet",
    unit: "ns",
    better: Better::Lower,
}];

/// A packet, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    InitialSteered,
    ShortSteered,
    ListDrop,
    ForgedShortDrop,
    Prefixes1M,
    Flood1MSources,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::InitialSteered,
        Self::ShortSteered,
        Self::ListDrop,
        Self::ForgedShortDrop,
        Self::Prefixes1M,
        Self::Flood1MSources,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::InitialSteered => "initial-steered",
            Self::ShortSteered => "short-steered",
            Self::ListDrop => "list-drop",
            Self::ForgedShortDrop => "forged-short-drop",
            Self::Prefixes1M => "prefixes-1m",
            Self::Flood1MSources => "flood-1m-sources",
        }
    }
}

/// An action of an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Drop = 1,
    Pass = 2,
    Redirect = 4,
}

pub struct Options {
    pub quick: bool,
    pub json: Option<PathBuf>,
    pub runs: Option<usize>,
    /// Only cases whose name holds this.
    pub only: Option<String>,
}

/// Runs the benchmark.
///
/// # Errors
/// Not root, no BPF, or a program that does not do what it is measured for.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (runs, repeat) = if options.quick {
        (5, 300_000)
    } else {
        (9, 1_000_000)
    };
    let runs = options.runs.unwrap_or(runs);
    let mut bench = Bench {
        guard: Guard::load()?,
        filter: Filter::load(),
        peers: Peers::load()?,
        samples: Samples::default(),
        repeat,
    };
    for (index, case) in Case::ALL.into_iter().enumerate() {
        if options
            .only
            .as_ref()
            .is_none_or(|part| case.name().contains(part.as_str()))
        {
            bench.case(index, case, runs)?;
        }
    }
    let names = Case::ALL.map(Case::name);
    let mut rows = bench.samples.rows(&names, &METRICS);
    if let Err(error) = &bench.filter {
        rows.push(Row::failure("xdp-filter", format!("{error:#}")));
    }
    let figures = Figures {
        bench: "xdp".to_owned(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    guard: Guard,
    /// Not there on every machine.
    filter: Result<Filter>,
    peers: Peers,
    samples: Samples,
    repeat: u32,
}

impl Bench {
    fn case(&mut self, index: usize, case: Case, runs: usize) -> Result<()> {
        self.guard.prepare(case)?;
        if case == Case::Prefixes1M {
            self.peers.list(guard::million())?;
        }
        if let Ok(filter) = &mut self.filter {
            filter.deny(case == Case::ListDrop)?;
        }
        // The first round warms caches and branch predictors, and counts for nothing.
        for run in 0..=runs {
            for (name, nanos) in self.round(case)? {
                if run > 0 {
                    self.samples.add(index, 0, name, nanos);
                }
            }
        }
        eprintln!("xdp: {} done", case.name());
        Ok(())
    }

    /// Each program once.
    fn round(&mut self, case: Case) -> Result<Vec<(&'static str, f64)>> {
        let repeat = self.repeat;
        match case {
            Case::Prefixes1M => self.varied_round("lpm-trie", peers::EVERYWHERE),
            Case::Flood1MSources => self.varied_round("lru-hash", peers::FLOOD),
            _ => {
                let (frame, action) = self.guard.packet(case);
                let own = measure(self.guard.program()?, frame, repeat, Some(action))?;
                let bare = self.peers.program("bare_drop")?;
                let bare = measure(bare, frame, repeat, Some(Action::Drop))?;
                let mut all = vec![(POPCACHE, own), ("bare-drop", bare)];
                if let Ok(filter) = &self.filter {
                    let (name, action) = match case {
                        Case::InitialSteered | Case::ShortSteered => {
                            ("xdp-filter-pass", Action::Pass)
                        }
                        Case::ListDrop => ("xdp-filter-deny", Action::Drop),
                        _ => return Ok(all),
                    };
                    let nanos = measure(filter.program()?, frame, repeat, Some(action))?;
                    all.push((name, nanos));
                }
                Ok(all)
            }
        }
    }

    /// The guard, the usual table of `peer` and nothing at all, each behind a drawn source.
    fn varied_round(
        &mut self,
        peer: &'static str,
        sources: peers::Drawn,
    ) -> Result<Vec<(&'static str, f64)>> {
        let (frame, _) = self.guard.packet(Case::InitialSteered);
        let frame = frame.to_vec();
        self.peers.draw(sources)?;
        let mut all = Vec::new();
        for name in [POPCACHE, peer, "bare-drop"] {
            match name {
                POPCACHE => self.peers.next_is(self.guard.program()?)?,
                own => self.peers.next_is_own(&own.replace('-', "_"))?,
            }
            let nanos = measure(self.peers.program("varied")?, &frame, self.repeat, None)?;
            all.push((name, nanos));
        }
        Ok(all)
    }
}

/// Processor time that `program` takes for `frame`, in nanoseconds; its last run ended in `action`.
fn measure(program: &Xdp, frame: &[u8], repeat: u32, action: Option<Action>) -> Result<f64> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::default()
    };
    let before = own_time()?;
    let result = program
        .test_run(options)
        .context("the kernel cannot run the program")?;
    let taken = own_time()? - before;
    if let Some(action) = action {
        ensure!(
            result.return_value == action as u32,
            "the program returned {}, not {action:?}",
            result.return_value
        );
    }
    Ok(taken.as_secs_f64() * 1e9 / f64::from(repeat))
}

fn own_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("no processor time")?;
    Ok(Duration::from(time))
}
