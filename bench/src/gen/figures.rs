//! The benchmark of the generator: packets that arrive, by each way to send them.
//!
//! ```text
//!   pcbPIDx0: XDP program that counts and drops ---- veth ---- eth.0: popcache-bench gen, in netns pcbPID
//! ```
//!
//! All ways send the same: Initials of 1,200 bytes, each with an id of its own. Sender and receiver
//! take turns on one core, as softirq does on a veth, so that a figure is the cost of both. The sender
//! has real-time priority: what else runs on the machine does not count.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Report, Way};
use crate::bpf::{Sink, Sunk};
use crate::figures::{Better, Figures, Machine, Metric, POPCACHE, Samples};
use crate::net::Network;

/// The cases, popcache's ways.
const CASES: [(&str, Way); 2] = [("live-frames", Way::LiveFrames), ("af-xdp", Way::AfXdp)];

const METRICS: [Metric; 1] = [Metric {
    name: "packets_per_s",
    unit: "1/s",
    better: Better::Higher,
}];

pub struct Options {
    pub quick: bool,
    pub json: Option<PathBuf>,
    pub runs: Option<usize>,
}

/// Runs the benchmark.
///
/// # Errors
/// Not root, or no BPF.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (runs, seconds) = if options.quick { (3, 1.0) } else { (5, 3.0) };
    let runs = options.runs.unwrap_or(runs);
    let network = Network::make(1)?;
    let sink = Sink::attach(&network.interface(0))?;
    let mut samples = Samples::default();
    for run in 1..=runs {
        // In turn, so that what else the machine does falls on all.
        for way in Way::ALL {
            let rate = measure(&network, &sink, way, seconds)?;
            eprintln!(
                "gen: run {run} of {runs}: {} {rate:.0} packets a second",
                way.name()
            );
            for (case, (_, own)) in CASES.iter().enumerate() {
                if *own == way {
                    samples.add(case, 0, POPCACHE, rate);
                } else if way.is_udp() {
                    samples.add(case, 0, way.name(), rate);
                }
            }
        }
    }
    let names = CASES.map(|(name, _)| name);
    let figures = Figures {
        bench: "gen".to_owned(),
        machine: Machine::here(),
        rows: samples.rows(&names, &METRICS),
    };
    figures.publish(options.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Packets a second that arrive.
fn measure(network: &Network, sink: &Sink, way: Way, seconds: f64) -> Result<f64> {
    let before = sink.sunk()?;
    let own = std::env::current_exe().context("our own program")?;
    let to = format!("{}:443", network.server_ip(0));
    let seconds = seconds.to_string();
    let output = network
        .client(Path::new("chrt"))
        .args(["--fifo", "10"])
        .arg(&own)
        .args([
            "gen",
            "--way",
            way.name(),
            "--to",
            &to,
            "--mix",
            "forged-initial",
        ])
        .args([
            "--ports",
            "40000-40007",
            "--seconds",
            &seconds,
            "--core",
            "0",
        ])
        .args(["--quiet", "--json"])
        .output()
        .context("cannot start the generator with `chrt`: install util-linux")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        way.name(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let report: Report =
        serde_json::from_slice(&output.stdout).context("the generator's report")?;
    let arrived = arrived(sink, before, report.packets)?;
    Ok(arrived as f64 / report.seconds)
}

/// What has arrived of `sent` packets, once no more do.
fn arrived(sink: &Sink, before: Sunk, sent: u64) -> Result<u64> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let arrived = sink.sunk()?.packets - before.packets;
        if arrived >= sent || Instant::now() > end {
            return Ok(arrived);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
