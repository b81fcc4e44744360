//! `popcache tune`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Exit, fail, print};
use crate::config::explain::MemoryUse;
use crate::config::{self, Machine as Cpus};
use crate::tune::{self, Machine, Nic as _, Report, Wishes};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[arg(value_enum, default_value_t = What::Plan)]
    what: What,
    /// The NIC [default: packet.interface of the configuration]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The CPUs of the shards, such as 0,1,2 [default: server.cores of the configuration]
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    cores: Option<Vec<usize>>,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Where it is noted how everything was
    #[arg(long, value_name = "DIR", default_value = "/var/lib/popcache")]
    state: PathBuf,
    /// Print JSON instead of a page
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Say what would be changed, and why
    Plan,
    /// Change it
    Apply,
    /// Compare what was asked for with what is
    Verify,
    /// Put everything back
    Rollback,
}

pub(super) fn tune(arguments: &Arguments) -> Exit {
    match carry_out(arguments) {
        Ok(exit) => exit,
        Err(error) => fail(Exit::Failed, format_args!("{error:#}")),
    }
}

fn carry_out(arguments: &Arguments) -> anyhow::Result<Exit> {
    let (interface, wishes) = wishes(arguments)?;
    let file = arguments.state.join(format!("tune-{interface}.json"));
    let mut nic = Machine::open(&interface)?;
    let json = arguments.json;
    match arguments.what {
        What::Plan => {
            let plan = tune::plan(&nic.facts()?, &wishes);
            show(json, &plan, || plan.page(&wishes))
        }
        What::Apply => {
            let plan = tune::plan(&nic.facts()?, &wishes);
            let report = tune::apply(&mut nic, &wishes, &file)?;
            for hint in plan.hints.iter().filter(|_| !json) {
                eprintln!("popcache: {hint}");
            }
            // What a driver refuses is no failure of this: it is listed.
            show(json, &report, || report.page())
        }
        What::Verify => {
            let report = tune::verify(&mut nic, &file)?;
            judge(json, &report)
        }
        What::Rollback => {
            let report = tune::rollback(&mut nic, &file)?;
            judge(json, &report)
        }
    }
}

fn judge(json: bool, report: &Report) -> anyhow::Result<Exit> {
    let printed = show(json, report, || report.page())?;
    Ok(match report.wrong.is_empty() {
        true => printed,
        false => Exit::Failed,
    })
}

fn show(json: bool, what: &impl Serialize, page: impl FnOnce() -> String) -> anyhow::Result<Exit> {
    Ok(match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(what)?)),
        false => print(&page()),
    })
}

/// From the arguments, and for what they leave out from the configuration.
fn wishes(arguments: &Arguments) -> anyhow::Result<(String, Wishes)> {
    if let (Some(interface), Some(cpus)) = (&arguments.interface, &arguments.cores)
        && !arguments.config.exists()
    {
        let (cpus, hugepages) = (cpus.clone(), 0);
        return Ok((interface.clone(), Wishes { cpus, hugepages }));
    }
    let config = read(&arguments.config)?;
    let interface = arguments
        .interface
        .clone()
        .or_else(|| config.packet.interface.clone());
    let interface = interface.context(
        "which NIC? Name it by --interface, or by packet.interface in the configuration",
    )?;
    let memory = MemoryUse::of(&config);
    let cpus = arguments.cores.clone().unwrap_or(config.server.cpus);
    Ok((
        interface,
        Wishes {
            cpus,
            hugepages: (memory.arenas + memory.packet_buffers).div_ceil(HUGEPAGE),
        },
    ))
}

const HUGEPAGE: u64 = 2 << 20;

/// The text alone: certificates need not be there yet.
fn read(path: &Path) -> anyhow::Result<config::Config> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(config::parse(&text, path, &Cpus::this())?)
}
