//! `cargo xtask tune`: builds, then hands over to `popcache tune`.

use std::process::Command;

use crate::workspace::Workspace;
use crate::{build, command, host, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Passed on to `popcache tune` as they are, such as `apply --interface eth0`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    host::require_linux()?;
    setup::ensure(workspace, setup::Purpose::Run)?;
    build::release(workspace)?;
    let mut tune = Command::new(workspace.release_bin("popcache"));
    command::run(tune.arg("tune").args(&args.rest))
}
