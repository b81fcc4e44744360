//! `cargo xtask setup`: finds what is missing on a Debian 12 machine and installs it, saying why.
//!
//! Three kinds of things: Debian packages (these alone need root), cargo tools at pinned versions,
//! and HTTP/3 clients for the tests, which live in `target/` and never touch the system.

mod clients;
mod debian;
mod tools;

use anyhow::Context;

use crate::host;
use crate::workspace::Workspace;

/// What the machine is being prepared for. Each includes what every build needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// `cargo xtask run`
    Run,
    /// `cargo xtask test`
    Test,
    /// `cargo xtask bench`
    Bench,
}

const ALL: [Purpose; 3] = [Purpose::Run, Purpose::Test, Purpose::Bench];

#[derive(clap::Args)]
pub struct Args {
    /// Install only what this needs (default: everything)
    #[arg(long = "for", value_name = "PURPOSE")]
    purpose: Option<Purpose>,
}

/// Installs what is missing and says so when nothing was.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let purposes = args.purpose.map_or(ALL.to_vec(), |one| vec![one]);
    install(workspace, &purposes)?;
    eprintln!("xtask: everything needed is installed");
    Ok(())
}

/// Installs what is missing for one purpose; silent and quick when nothing is.
pub fn ensure(workspace: &Workspace, purpose: Purpose) -> anyhow::Result<()> {
    install(workspace, &[purpose])
}

fn install(workspace: &Workspace, purposes: &[Purpose]) -> anyhow::Result<()> {
    host::require_linux()?;
    debian::ensure(purposes)?;
    tools::ensure(workspace, purposes).context("installing a cargo tool")?;
    clients::ensure(workspace, purposes).context("installing the HTTP/3 test clients")
}
