//! `cargo xtask test`, `sim` and `ci`.

use std::process::Command;

use anyhow::bail;

use crate::command::{self, cargo, succeeds};
use crate::pages::Hugepages;
use crate::summary::{Count, run_counted};
use crate::workspace::Workspace;
use crate::{build, checks, conformance, host, lock, setup};

/// Seeds of the simulation that a whole test run tries.
const SEEDS: u64 = 1_000;
/// Seeds that a quick one tries.
const QUICK_SEEDS: u64 = 100;

/// Every end-to-end test is inside this module of the `netns` test binary.
const END_TO_END: &str = "wire::";
/// What downloads a Debian is inside this one.
const DEBIAN: &str = "debian::";

/// 2 MB pages for the one appliance that runs at a time: 256 MiB of arenas, and packet buffers.
const END_TO_END_PAGES: u64 = 256;

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the end-to-end tests and most seeds of the simulation
    #[arg(long)]
    quick: bool,
    /// Also install the package on a fresh Debian, which is downloaded
    #[arg(long)]
    install: bool,
}

#[derive(clap::Args)]
pub struct SimArgs {
    /// Run this one seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// Print every event (with --seed)
    #[arg(long, requires = "seed")]
    trace: bool,
}

/// Runs every check and test; the last line says how many passed.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    host::require_linux()?;
    host::require_root("the tests load BPF programs and make network namespaces")?;
    setup::ensure(workspace, setup::Purpose::Test)?;
    checks::lint(workspace)?;
    build::release(workspace)?;

    let mut count = unit_tests(workspace)?;
    count += vendored(workspace)?;
    count += interleavings(workspace)?;
    count += simulation(workspace, if args.quick { QUICK_SEEDS } else { SEEDS })?;
    if !args.quick {
        host::require_kernel()?;
        count += end_to_end(workspace, args.install)?;
        count += conformance(workspace);
    }
    println!("{count}");
    if count.failed > 0 {
        bail!("{} of the tests failed", count.failed);
    }
    Ok(())
}

/// Runs the simulation alone; the last line is the trace's hash.
pub fn sim(workspace: &Workspace, args: &SimArgs) -> anyhow::Result<()> {
    // Features as in the whole workspace, so that nothing is compiled twice; but only this binary.
    command::run_quietly(cargo(workspace.root()).args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "sim",
        "--locked",
        "--quiet",
    ]))?;
    let mut sim = Command::new(workspace.release_bin("sim"));
    if let Some(seed) = args.seed {
        sim.args(["--seed", &seed.to_string()]);
    }
    if let Some(seeds) = args.seeds {
        sim.args(["--seeds", &seeds.to_string()]);
    }
    if args.trace {
        sim.arg("--trace");
    }
    command::run_quietly(&mut sim)
}

/// Runs what the continuous integration runs.
pub fn ci(workspace: &Workspace) -> anyhow::Result<()> {
    command::run(Command::new("bash").arg(workspace.root().join(".ci/run")))
}

fn unit_tests(workspace: &Workspace) -> anyhow::Result<Count> {
    if has_nextest() {
        let mut runner = cargo(workspace.root());
        runner.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ]);
        runner.args(["--", "--skip", END_TO_END, "--skip", DEBIAN]);
        let mut count = run_counted(&mut runner)?;
        // nextest leaves the examples in the documentation out.
        let mut examples = cargo(workspace.root());
        examples.args(["test", "--workspace", "--locked", "--quiet", "--doc"]);
        count += run_counted(&mut examples)?;
        return Ok(count);
    }
    let mut runner = cargo(workspace.root());
    runner.args([
        "test",
        "--workspace",
        "--locked",
        "--quiet",
        "--no-fail-fast",
    ]);
    run_counted(runner.args(["--", "--skip", END_TO_END, "--skip", DEBIAN]))
}

/// quinn-proto's own tests, which our changes to it must pass.
fn vendored(workspace: &Workspace) -> anyhow::Result<Count> {
    let mut runner = cargo(workspace.root());
    runner
        .args(["test", "--locked", "--quiet", "--no-default-features"])
        .args(["--features", "rustls-aws-lc-rs,bloom"])
        .args(["--manifest-path", "vendor/quinn-proto/Cargo.toml"])
        // A workspace of its own, with the versions that its authors test with.
        .arg("--target-dir")
        .arg(workspace.target().join("vendor"));
    run_counted(&mut runner)
}

/// The protocols of arena and index under every interleaving of their threads, by loom.
fn interleavings(workspace: &Workspace) -> anyhow::Result<Count> {
    let mut runner = cargo(workspace.root());
    runner
        .env("RUSTFLAGS", "--cfg loom")
        .args(["test", "--release", "-p", "hugepages", "--test", "loom"])
        .args(["--test", "loom_index"])
        .args(["--locked", "--quiet", "--target-dir"])
        // Of its own: other flags in the same folder would make every build start anew.
        .arg(workspace.target().join("loom"));
    run_counted(&mut runner)
}

/// The end-to-end tests, one after the other: each one owns the machine's two cores.
fn end_to_end(workspace: &Workspace, install: bool) -> anyhow::Result<Count> {
    let _alone = lock::Lock::take(lock::RUN_LOCK.as_ref())?;
    let _pages = Hugepages::reserve(END_TO_END_PAGES)?;
    let mut runner = cargo(workspace.root());
    runner
        .env("POPCACHE_BIN_DIR", workspace.target().join("release"))
        .args(["test", "--workspace", "--locked", "--test", "netns"])
        .args(["--", "--test-threads=1"]);
    if !install {
        runner.args(["--skip", DEBIAN]);
    }
    run_counted(&mut runner)
}

/// http-cache-tests, whose counts must not fall: one test.
fn conformance(workspace: &Workspace) -> Count {
    let failed = match conformance::check(workspace, &workspace.target().join("release")) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("xtask: http-cache-tests: {error:#}");
            1
        }
    };
    Count {
        passed: 1 - failed,
        failed,
    }
}

/// Half of the seeds each in two processes: a seed takes one core most of a second.
fn simulation(workspace: &Workspace, seeds: u64) -> anyhow::Result<Count> {
    let half = seeds / 2;
    let mut running = Vec::new();
    for (first, seeds) in [(0, half), (half, seeds - half)] {
        eprintln!("$ sim --first {first} --seeds {seeds}");
        let mut sim = Command::new(workspace.release_bin("sim"));
        let (first, seeds) = (first.to_string(), seeds.to_string());
        running.push(sim.args(["--first", &first, "--seeds", &seeds]).spawn()?);
    }
    let mut count = Count::default();
    for mut sim in running {
        let passed = u64::from(sim.wait()?.success());
        count += Count {
            passed,
            failed: 1 - passed,
        };
    }
    Ok(count)
}

fn has_nextest() -> bool {
    succeeds(Command::new("cargo").args(["nextest", "--version"]))
}
