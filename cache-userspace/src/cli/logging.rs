//! The log: to stderr, filtered by `log.level` or by the environment.

use tracing_subscriber::EnvFilter;

/// The environment variable that overrides `log.level`.
pub const VARIABLE: &str = "POPCACHE_LOG";

/// Starts the log of this process.
///
/// # Errors
/// The environment's filter cannot be read.
pub fn start(level: &str) -> Result<(), String> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => text
            .parse::<EnvFilter>()
            .map_err(|error| format!("{VARIABLE}={text:?} is not a log filter: {error}"))?,
        _ => EnvFilter::new(level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|error| error.to_string())
}
