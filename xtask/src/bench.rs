//! `cargo xtask bench NAME`: builds, then hands over to `popcache-bench`.

use std::path::PathBuf;
use std::process::Command;

use crate::workspace::Workspace;
use crate::{build, command, host, setup};

#[derive(clap::Args)]
pub struct Args {
    /// hit, herd, or another benchmark that `popcache-bench --help` lists
    name: String,
    /// Fewer and shorter runs: ends within a minute
    #[arg(long)]
    quick: bool,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Passed on to popcache-bench as they are
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Installs what the benchmarks need, builds and runs one.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    host::require_linux()?;
    host::require_root("benchmarks make a network namespace and attach XDP")?;
    setup::ensure(workspace, setup::Purpose::Bench)?;
    build::release(workspace)?;
    let mut bench = Command::new(workspace.release_bin("popcache-bench"));
    bench.current_dir(workspace.root()).arg(&args.name);
    if args.quick {
        bench.arg("--quick");
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(std::path::absolute(file)?);
    }
    command::run(bench.args(&args.rest))
}
