//! `popcache-bench origin`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use popcache_bench::origin::{Fault, Options, Origin, parse_fault};

use super::stop_signal;

#[derive(clap::Args)]
pub struct Arguments {
    /// Address and port; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How many pictures are under /emotes/
    #[arg(long, default_value_t = 10_000)]
    emotes: u32,
    /// Where the pictures are kept between starts
    #[arg(long, value_name = "CACHE_DIR")]
    dir: Option<PathBuf>,
    /// Wait this long before every answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
    /// Spoil a share of the answers: error, close, truncate or stall
    #[arg(long, value_name = "KIND:PERCENT", value_parser = parse_fault)]
    fault: Option<(Fault, u8)>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let defaults = Options::default();
    let options = Options {
        emotes: arguments.emotes,
        dir: arguments.dir.unwrap_or(defaults.dir),
        delay: Duration::from_millis(arguments.delay),
        fault: arguments.fault,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let origin = Origin::bind(arguments.listen, options).await?;
        eprintln!("popcache-bench: origin ready on {}", origin.address()?);
        tokio::select! {
            done = origin.serve() => done,
            () = stop_signal() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
