//! Arguments of the subcommands, turned into the library's options.

pub mod baseline;
pub mod bench;
pub mod bridge;
pub mod engine;
pub mod r#gen;
pub mod load;
pub mod origin;
pub mod path;
pub mod tier;

use popcache_bench::load::expand;

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

/// What is asked for, or held.
#[derive(clap::Args)]
struct PathArguments {
    /// A path, or an https URL where one is connected to; may be given several times
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Paths made by replacing {} by 0 to KEYS-1; may be given several times
    #[arg(long, value_name = "TEMPLATE")]
    path_template: Vec<String>,
    /// How many paths each template makes
    #[arg(long, default_value_t = 100)]
    keys: usize,
}

impl PathArguments {
    fn all(&self) -> Vec<String> {
        let made = self.path_template.iter().flat_map(|t| expand(t, self.keys));
        self.urls.iter().cloned().chain(made).collect()
    }
}
