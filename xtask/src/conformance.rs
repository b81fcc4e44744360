//! `cargo xtask conformance`: http-cache-tests against the real binary.
//!
//! ```text
//! run.mjs -- HTTP/1.1 --> popcache-bench bridge -- HTTP/3 --> popcache -- HTTP/1.1 --> the suite's origin
//!    '-------- HTTP/1.1 ---------------------------------------^
//! ```
//!
//! Everything is on loopback, over UDP and without XDP: what is tested is what is cached. The counts
//! must not fall below those in `tests/conformance/counts.json` (HTTP/3) and `counts-http1.json`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::command;
use crate::run::child::Background;
use crate::run::signals::Signals;
use crate::workspace::Workspace;
use crate::{build, host};

/// The suite and the HTTP client that it was written for.
const SUITE: &str = "http-cache-tests@0.4.5";
const FETCH: &str = "node-fetch@2.7.0";

const START: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Run this test alone and print its requests and responses
    #[arg(long)]
    id: Option<String>,
    /// Use the binaries in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// How many tests of one kind passed.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Passed {
    passed: u32,
    of: u32,
}

type Counts = BTreeMap<String, Passed>;

/// Runs the suite; fails when fewer tests pass than are known to.
///
/// # Errors
/// Also when a program does not start or the suite cannot be installed.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    host::require_linux()?;
    let binaries = match &args.bin_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => {
            build::release(workspace)?;
            workspace.target().join("release")
        }
    };
    suite(workspace, &binaries, args.id.as_deref())
}

/// Runs the whole suite with the binaries of this folder.
///
/// # Errors
/// As [`run`].
pub fn check(workspace: &Workspace, binaries: &Path) -> anyhow::Result<()> {
    suite(workspace, binaries, None)
}

fn suite(workspace: &Workspace, binaries: &Path, id: Option<&str>) -> anyhow::Result<()> {
    let folder = workspace.target().join("conformance");
    install(&folder)?;
    let signals = Signals::watch()?;
    let setup = Setup::start(workspace, &folder, binaries, &signals)?;
    for way in &setup.ways {
        println!("over {}:", way.name);
        let output = command::output(&mut setup.runner(workspace, way, id))?;
        print!("{output}");
        let counts: Counts = output
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .context("the suite printed no counts")?;
        if id.is_none() {
            println!("what did not pass: {}", setup.report(way).display());
            let pinned = pinned(workspace, way)?;
            compare(&counts, &pinned).with_context(|| format!("over {}", way.name))?;
        }
    }
    Ok(())
}

fn pinned(workspace: &Workspace, way: &Way) -> anyhow::Result<Counts> {
    let file = workspace.root().join("tests/conformance").join(way.counts);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))
}

fn compare(counts: &Counts, pinned: &Counts) -> anyhow::Result<()> {
    for (kind, &Passed { passed, of }) in pinned {
        let got = counts.get(kind).copied();
        let Some(got) = got else {
            bail!("no `{kind}` tests ran");
        };
        ensure!(
            got.of == of,
            "{} `{kind}` tests ran instead of {of}",
            got.of
        );
        ensure!(
            got.passed >= passed,
            "{} of the `{kind}` tests passed; {passed} did before",
            got.passed
        );
    }
    Ok(())
}

/// Fetches the suite's package and its HTTP client, where they are missing. The package's other
/// dependencies are for its web pages.
fn install(folder: &Path) -> anyhow::Result<()> {
    if folder.join("package/tests/index.mjs").is_file()
        && folder.join("node_modules/node-fetch").is_dir()
    {
        return Ok(());
    }
    eprintln!("xtask: needs {SUITE}: tests of HTTP caches, and {FETCH} to run them");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    command::run(
        Command::new("npm")
            .args(["install", "--no-save", "--ignore-scripts", "--no-audit"])
            .args(["--no-fund", "--prefix"])
            .arg(folder)
            .arg(FETCH),
    )?;
    let packed = command::output(
        Command::new("npm")
            .args(["pack", "--silent", SUITE])
            .current_dir(folder),
    )?;
    let archive = packed.lines().last().context("npm packed nothing")?;
    command::run(
        Command::new("tar")
            .args(["-xzf", archive.trim()])
            .current_dir(folder),
    )
}

/// The programs, ended in this order.
struct Setup {
    _bridge: Background,
    _popcache: Background,
    _origin: Background,
    folder: PathBuf,
    ways: [Way; 2],
}

/// How the suite reaches popcache.
struct Way {
    name: &'static str,
    base: String,
    /// The file of the counts that were reached.
    counts: &'static str,
}

impl Setup {
    fn start(
        workspace: &Workspace,
        folder: &Path,
        binaries: &Path,
        signals: &Signals,
    ) -> anyhow::Result<Self> {
        let port = free_port()?;
        let origin = start_origin(folder, port, signals)?;
        let listen = format!("127.0.0.1:{}", free_udp_port()?);
        let clear = format!("127.0.0.1:{}", free_port()?);
        let template = workspace.root().join("tests/conformance/popcache.toml");
        let text = fs::read_to_string(&template)
            .with_context(|| format!("cannot read {}", template.display()))?
            .replace("ORIGIN", &format!("http://localhost:{port}"))
            .replace("LISTEN", &listen)
            .replace("CLEAR", &clear)
            .replace("FOLDER", &folder.display().to_string());
        let config = folder.join("popcache.toml");
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut popcache = Background::start(
            "popcache",
            &binaries.join("popcache"),
            &[
                "serve".into(),
                "--config".into(),
                config.display().to_string(),
            ],
            folder.join("popcache.log"),
        )?;
        popcache.wait_for_line("popcache: ready on ", START, signals)?;
        const BRIDGE_READY: &str = "popcache-bench: bridge ready on ";
        let mut bridge = Background::start(
            "the bridge",
            &binaries.join("popcache-bench"),
            &["bridge", "--listen", "127.0.0.1:0", "--server", &listen].map(str::to_owned),
            folder.join("bridge.log"),
        )?;
        let ready = bridge.wait_for_line(BRIDGE_READY, START, signals)?;
        let address = ready.trim_start_matches(BRIDGE_READY).trim();
        Ok(Self {
            _bridge: bridge,
            _popcache: popcache,
            _origin: origin,
            folder: folder.to_owned(),
            ways: [
                Way {
                    name: "HTTP/3",
                    base: format!("http://{address}"),
                    counts: "counts.json",
                },
                Way {
                    name: "HTTP/1.1",
                    base: format!("http://{clear}"),
                    counts: "counts-http1.json",
                },
            ],
        })
    }

    fn report(&self, way: &Way) -> PathBuf {
        let failed = way.counts.replace("counts", "failed");
        self.folder.join(failed).with_extension("tsv")
    }

    fn runner(&self, workspace: &Workspace, way: &Way, id: Option<&str>) -> Command {
        let mut command = Command::new("node");
        command
            .arg("--no-warnings")
            .arg(workspace.root().join("tests/conformance/run.mjs"))
            .arg("--suite")
            .arg(self.folder.join("package"))
            .arg("--modules")
            .arg(&self.folder)
            .args(["--base", &way.base, "--report"])
            .arg(self.report(way));
        if let Some(id) = id {
            command.args(["--id", id]);
        }
        command
    }
}

fn start_origin(folder: &Path, port: u16, signals: &Signals) -> anyhow::Result<Background> {
    let args = [
        "npm_config_protocol=http".to_owned(),
        format!("npm_config_port={port}"),
        format!("npm_config_pidfile={}", folder.join("origin.pid").display()),
        "node".to_owned(),
        "--no-warnings".to_owned(),
        folder
            .join("package/server/server.mjs")
            .display()
            .to_string(),
    ];
    let log = folder.join("origin.log");
    let mut origin = Background::start("the suite's origin", Path::new("env"), &args, log)?;
    origin.wait_for_line("Listening on", START, signals)?;
    Ok(origin)
}

/// A port that was free a moment ago: neither popcache nor the suite's origin picks one itself.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free TCP port")?;
    Ok(listener.local_addr()?.port())
}

fn free_udp_port() -> anyhow::Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no free UDP port")?;
    Ok(socket.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u32, of: u32) -> Counts {
        Counts::from([("required".to_owned(), Passed { passed, of })])
    }

    #[test]
    fn counts_may_rise_and_not_fall() {
        assert!(compare(&counts(7, 9), &counts(6, 9)).is_ok());
        assert!(compare(&counts(6, 9), &counts(6, 9)).is_ok());
        assert!(compare(&counts(5, 9), &counts(6, 9)).is_err());
        assert!(compare(&counts(6, 8), &counts(6, 9)).is_err());
        assert!(compare(&Counts::new(), &counts(6, 9)).is_err());
    }
}
