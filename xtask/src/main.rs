//! `cargo xtask`: everything a checkout needs, from one command each.
//!
//! ```text
//! setup -> build-ebpf -> build -> run | test | bench
//! ```
//!
//! Each command does the ones before it that it depends on. A command that cannot go on says in one
//! line what is missing and what to do about it.

mod bench;
mod build;
mod build_ebpf;
mod checks;
mod command;
mod conformance;
mod host;
mod install;
mod lock;
mod net;
mod pages;
mod run;
mod sanitize;
mod setup;
mod summary;
mod test;
mod tune;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs and tests popcache")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine, and say why
    Setup(setup::Args),
    /// Build the XDP program and the release binaries
    Build,
    /// Build the XDP programs alone (target/bpf/popcache-xdp.o and those of the benchmarks)
    BuildEbpf,
    /// Start popcache with a demo origin behind a virtual NIC, until Ctrl-C
    Run(run::Args),
    /// Run every check and every test
    Test(test::Args),
    /// Run the simulation from one seed, or from many
    Sim(test::SimArgs),
    /// Run the tests of memory and index under the address sanitizer (nightly)
    Sanitize(sanitize::Args),
    /// Run http-cache-tests against popcache
    Conformance(conformance::Args),
    /// Format the code
    Fmt,
    /// Check formatting, lints, licences and dependencies
    Lint,
    /// Run a benchmark by name and print its table
    Bench(bench::Args),
    /// Install popcache on this machine, or into a directory
    Install(install::Args),
    /// Undo an installation
    Uninstall(install::UninstallArgs),
    /// Build the Debian package
    Deb(install::DebArgs),
    /// Plan, apply, verify or roll back the settings of NIC and machine
    Tune(tune::Args),
    /// Do what the continuous integration does
    Ci,
    /// Remove what a crashed run left: namespaces, interfaces, mounts, hugepages
    CleanNet,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    match dispatch(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup(args) => setup::run(&workspace, &args),
        Task::Build => build::release(&workspace),
        Task::BuildEbpf => build::ebpf(&workspace),
        Task::Run(args) => run::run(&workspace, &args),
        Task::Test(args) => test::run(&workspace, &args),
        Task::Sim(args) => test::sim(&workspace, &args),
        Task::Sanitize(args) => sanitize::run(&workspace, &args),
        Task::Conformance(args) => conformance::run(&workspace, &args),
        Task::Fmt => checks::format(&workspace),
        Task::Lint => checks::lint(&workspace),
        Task::Bench(args) => bench::run(&workspace, &args),
        Task::Install(args) => install::install(&workspace, &args),
        Task::Uninstall(args) => install::uninstall(&args),
        Task::Deb(args) => install::deb(&workspace, &args),
        Task::Tune(args) => tune::run(&workspace, &args),
        Task::Ci => test::ci(&workspace),
        Task::CleanNet => run::clean(&workspace),
    }
}
