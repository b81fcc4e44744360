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

/// Builds the XDP program and every binary in the release profile.
///
/// Always the whole workspace: a subset would resolve features differently, and the next command
/// would compile half of the dependencies again.
pub fn release(workspace: &Workspace) -> anyhow::Result<()> {
    ebpf(workspace)?;
    run(cargo(workspace.root()).args(["build", "--release", "--workspace", "--bins", "--locked"]))
}
