//! Checks that need no network: formatting, lints, licences.

use crate::command::{cargo, run};
use crate::workspace::Workspace;

/// Formats every crate.
pub fn format(workspace: &Workspace) -> anyhow::Result<()> {
    run(cargo(workspace.root()).args(["fmt", "--all"]))
}

/// Formatting, clippy with denied warnings, and cargo-deny.
pub fn lint(workspace: &Workspace) -> anyhow::Result<()> {
    let root = workspace.root();
    run(cargo(root).args(["fmt", "--all", "--check"]))?;
    run(cargo(root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    // Advisories are left out: their database is fetched from the network at every run. Where it can
    // be reached, `cargo deny check` checks them too.
    run(cargo(root).args([
        "deny",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}
