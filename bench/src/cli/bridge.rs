//! `popcache-bench bridge`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use popcache_bench::bridge::{Bridge, Options};

use super::stop_signal;

#[derive(clap::Args)]
pub struct Arguments {
    /// TCP address and port for HTTP/1.1; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// UDP address and port of the HTTP/3 server
    #[arg(long, default_value = "127.0.0.1:4433")]
    server: SocketAddr,
    /// The server's name in TLS; any certificate is taken
    #[arg(long, default_value = "edge.test")]
    name: String,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let options = Options {
        listen: arguments.listen,
        server: arguments.server,
        name: arguments.name,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let bridge = Bridge::bind(options).await?;
        eprintln!("popcache-bench: bridge ready on {}", bridge.address()?);
        let done = tokio::select! {
            done = bridge.serve() => done,
            () = stop_signal() => Ok(()),
        };
        bridge.close().await;
        done
    })?;
    Ok(ExitCode::SUCCESS)
}
