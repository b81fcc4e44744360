//! `cargo xtask sanitize`: the unsafe leaves and the store on threads, under the address sanitizer of
//! the nightly compiler.
//!
//! The thread sanitizer is left to loom's models: with a standard library that is not built for it, it
//! takes every drop of an `Arc` and every message of a channel for a race.

use std::process::Command;

use anyhow::bail;

use crate::command::succeeds;
use crate::summary::{Count, run_counted};
use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub struct Args {
    /// Leave the store out, whose dependencies take minutes to build
    #[arg(long)]
    quick: bool,
}

/// What is run: the crate with `unsafe`, then those tests of the store that use it hardest.
const LEAVES: &[&str] = &["-p", "hugepages"];
const STORE: &[&str] = &[
    "-p",
    "cache-core",
    "--test",
    "store_threads",
    "--test",
    "store_model",
];

/// Runs the tests; the last line says how many passed.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    if !succeeds(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        bail!("the sanitizer needs a nightly compiler: `rustup toolchain install nightly`");
    }
    let mut count = Count::default();
    count += run_counted(tests(workspace).arg("--tests").args(LEAVES))?;
    if !args.quick {
        count += run_counted(tests(workspace).args(STORE))?;
    }
    println!("{count}");
    if count.failed > 0 {
        bail!("{} of the tests failed", count.failed);
    }
    Ok(())
}

/// One test leaks on purpose: a forgotten view must stop reuse and nothing else.
fn tests(workspace: &Workspace) -> Command {
    let mut tests = Command::new("rustup");
    tests
        .current_dir(workspace.root())
        // What the `cargo` that started us has set is another toolchain's.
        .env_remove("RUSTC")
        .env_remove("CARGO")
        .env(
            "RUSTFLAGS",
            "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer",
        )
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .args(["run", "nightly", "cargo", "test", "--locked", "--quiet"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(workspace.target().join("address"));
    tests
}
