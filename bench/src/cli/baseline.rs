//! `popcache-bench baseline`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use popcache_bench::baseline::{Baseline, EarlyData, Options};
use popcache_bench::cpu;

use super::{PathArguments, stop_signal};

#[derive(clap::Args)]
pub struct Arguments {
    /// UDP address and port; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:4433")]
    listen: SocketAddr,
    /// The certificate's name
    #[arg(long, default_value = "edge.test")]
    name: String,
    #[command(flatten)]
    paths: PathArguments,
    /// Run on these cores, one worker thread each; without it, on all
    #[arg(long, value_name = "CORE,...", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Request streams that a client may have open
    #[arg(long, default_value_t = 256)]
    max_streams: u32,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if !arguments.cores.is_empty() {
        cpu::pin_to(&arguments.cores)?;
        runtime.worker_threads(arguments.cores.len());
    }
    let runtime = runtime
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let options = Options {
        listen: arguments.listen,
        name: arguments.name.clone(),
        paths: arguments.paths.all(),
        max_streams: arguments.max_streams,
        early_data: EarlyData::Taken,
    };
    runtime.block_on(async {
        let server = Baseline::bind(&options)?;
        eprintln!(
            "popcache-bench: baseline ready on {} with {} objects",
            server.address()?,
            options.paths.len()
        );
        // In a task, so that it runs on a worker and not on the thread that only waits.
        let serving = tokio::spawn(server.serve());
        tokio::select! {
            done = serving => done.context("the baseline server has ended"),
            () = stop_signal() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
