//! Third-party HTTP/3 clients, private to the checkout: curl and aioquic in a Python environment,
//! playwright-core for Chromium.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::Purpose;
use crate::command::{run, succeeds};
use crate::workspace::Workspace;

const PLAYWRIGHT: &str = "1.65.1";

/// Installs the clients that are missing.
pub fn ensure(workspace: &Workspace, purposes: &[Purpose]) -> anyhow::Result<()> {
    if purposes
        .iter()
        .any(|one| matches!(one, Purpose::Run | Purpose::Test))
    {
        python(workspace)?;
    }
    if purposes.contains(&Purpose::Test) {
        playwright(workspace)?;
    }
    Ok(())
}

fn python(workspace: &Workspace) -> anyhow::Result<()> {
    let requirements = workspace.clients_dir().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let venv = workspace.target().join("venv");
    // Written last, so that an installation that was cut short is done again.
    let stamp = venv.join("installed-requirements.txt");
    let python = workspace.venv_python();
    let current = fs::read_to_string(&stamp).is_ok_and(|had| had == wanted);
    if current && succeeds(Command::new(&python).arg("--version")) {
        return Ok(());
    }
    eprintln!("xtask: needs curl_cffi and aioquic: HTTP/3 clients of others, to test against");
    run(Command::new(system_python())
        .args(["-m", "venv", "--clear"])
        .arg(&venv))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .arg("--requirement")
        .arg(&requirements))?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Debian's Python, which python3-venv belongs to, before any other in PATH.
fn system_python() -> &'static str {
    let debian = "/usr/bin/python3";
    if Path::new(debian).exists() {
        debian
    } else {
        "python3"
    }
}

fn playwright(workspace: &Workspace) -> anyhow::Result<()> {
    let folder = workspace.node_dir();
    let manifest = folder.join("node_modules/playwright-core/package.json");
    if version_in(&manifest).as_deref() == Some(PLAYWRIGHT) {
        return Ok(());
    }
    eprintln!("xtask: needs playwright-core {PLAYWRIGHT}: drives Chromium in the tests");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    run(Command::new("npm")
        .args([
            "install",
            "--no-save",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ])
        .arg("--prefix")
        .arg(&folder)
        .arg(format!("playwright-core@{PLAYWRIGHT}")))
}

fn version_in(manifest: &Path) -> Option<String> {
    let text = fs::read_to_string(manifest).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    json["version"].as_str().map(str::to_owned)
}
