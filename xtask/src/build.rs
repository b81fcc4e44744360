//! Builds: the XDP program first, because the binary carries it inside.

use anyhow::Context;

use crate::build_ebpf;
use crate::command::{cargo, run};
use crate::workspace::Workspace;

/// Builds the XDP program.
pub fn ebpf(workspace: &Workspace) -> anyhow::Result<()> {
    let object = build_ebpf::build(workspace.root()).context("building the XDP program")?;
    eprintln!("xtask: {}", object.display());
    Ok(())
}

/// Builds the XDP program and the binaries of the appliance, its tests and benchmarks, in the
/// release profile.
///
/// Features are those of the whole workspace: a subset would resolve them differently, and the next
/// command would compile half of the dependencies again.
pub fn release(workspace: &Workspace) -> anyhow::Result<()> {
    ebpf(workspace)?;
    let mut build = cargo(workspace.root());
    build.args(["build", "--release", "--workspace", "--locked"]);
    for binary in ["popcache", "popcache-bench", "sim"] {
        build.args(["--bin", binary]);
    }
    run(&mut build)
}
