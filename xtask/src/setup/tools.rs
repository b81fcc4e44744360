//! Cargo tools and components of the toolchain, at pinned versions.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use super::Purpose;
use crate::command::{cargo, output, run, succeeds};
use crate::workspace::Workspace;

struct Tool {
    name: &'static str,
    version: &'static str,
    why: &'static str,
    /// Empty: every build needs it.
    purposes: &'static [Purpose],
    install: &'static [&'static str],
    environment: Option<(&'static str, &'static str)>,
}

const TOOLS: [Tool; 2] = [
    Tool {
        name: "bpf-linker",
        version: "0.13.0",
        why: "links the XDP program",
        purposes: &[],
        install: &["--no-default-features", "--features", "llvm-22"],
        environment: Some(("LLVM_PREFIX", "/usr/lib/llvm-22")),
    },
    Tool {
        name: "cargo-deny",
        version: "0.20.2",
        why: "checks licences, bans and sources of the dependencies",
        purposes: &[Purpose::Test],
        // Unoptimized: it runs for a second, and compiles in a third of the time.
        install: &["--locked", "--debug"],
        environment: None,
    },
];

const COMPONENTS: [&str; 2] = ["rustfmt", "clippy"];

/// Installs the tools that are missing or have another version.
pub fn ensure(workspace: &Workspace, purposes: &[Purpose]) -> anyhow::Result<()> {
    for tool in &TOOLS {
        let wanted =
            tool.purposes.is_empty() || tool.purposes.iter().any(|one| purposes.contains(one));
        if wanted && installed_version(tool).as_deref() != Some(tool.version) {
            install(workspace, tool)?;
        }
    }
    if purposes.contains(&Purpose::Test) {
        components(workspace)?;
    }
    Ok(())
}

/// Where cargo installs binaries, which need not be in PATH.
pub fn cargo_bin() -> PathBuf {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default()
        .join("bin")
}

fn installed_version(tool: &Tool) -> Option<String> {
    let said = output(Command::new(cargo_bin().join(tool.name)).arg("--version")).ok()?;
    said.split_whitespace().last().map(str::to_owned)
}

fn install(workspace: &Workspace, tool: &Tool) -> anyhow::Result<()> {
    eprintln!("xtask: needs {} {}: {}", tool.name, tool.version, tool.why);
    let mut command = cargo(workspace.root());
    command
        .args(["install", tool.name, "--version", tool.version, "--force"])
        .args(tool.install)
        // The build's own settings must not reach a tool's build.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    if let Some((name, value)) = tool.environment {
        command.env(name, value);
    }
    run(&mut command)
}

fn components(workspace: &Workspace) -> anyhow::Result<()> {
    for (component, command) in COMPONENTS.iter().zip(["fmt", "clippy"]) {
        if !succeeds(cargo(workspace.root()).args([command, "--version"])) {
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing and rustup cannot add it"))?;
        }
    }
    Ok(())
}
