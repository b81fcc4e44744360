//! The `popcache-bench` program: one subcommand per tool.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use popcache_bench::origin;

#[derive(Parser)]
#[command(
    name = "popcache-bench",
    version,
    about = "Origin, load generator, baselines and benchmarks of popcache"
)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Serve the demo content over HTTP/1.1
    Origin(OriginArguments),
}

#[derive(clap::Args)]
struct OriginArguments {
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
    #[arg(long, value_name = "KIND:PERCENT", value_parser = origin::parse_fault)]
    fault: Option<(origin::Fault, u8)>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().tool {
        Tool::Origin(arguments) => run_origin(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("popcache-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_origin(arguments: OriginArguments) -> Result<ExitCode> {
    let defaults = origin::Options::default();
    let options = origin::Options {
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
        let origin = origin::Origin::bind(arguments.listen, options).await?;
        eprintln!("popcache-bench: origin ready on {}", origin.address()?);
        tokio::select! {
            done = origin.serve() => done,
            () = stop_signal() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Ends at SIGINT or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
