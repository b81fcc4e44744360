//! The configuration file: read once, typed once, never looked at again.
//!
//! ```text
//!  text --raw::parse--> tree with positions --read-------> Config + every Setting
//!                             |                                |
//!                             '--- Problems (all of them) -----+-- checks (across settings, files)
//!                                                              '-- explain (what `popcache check` prints)
//! ```
//!
//! [`load`] is what `serve` uses: it also looks at the files that the configuration names;
//! [`load_and_inspect`], for `check`, at the tier's devices too. [`parse`] looks at the text alone.

mod checks;
pub mod explain;
mod guard;
mod kinds;
mod origins;
pub mod raw;
mod read;
mod route_kinds;
mod routes;
mod tcp;
pub mod tier;
pub mod typed;
pub mod units;

use std::path::{Path, PathBuf};

use crate::tls_files;
pub use kinds::DEFAULT_SOCKET;
pub use raw::Problem;
pub use tier::{Discard, TierConfig};
pub use typed::{
    AdminConfig, Backend, Config, LogConfig, MemoryConfig, OriginConfig, PacketConfig,
    ServerConfig, TlsConfig, TlsFiles, XdpMode,
};

/// Where the configuration is when no `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/popcache/popcache.toml";

/// Longest configuration file read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What the configuration is checked against: the facts of the machine that it will run on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// Physical memory in bytes; zero when unknown.
    pub memory: u64,
}

impl Machine {
    /// The machine this runs on.
    pub fn this() -> Self {
        Self {
            cpus: allowed_cpus(),
            memory: physical_memory(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{}", show_problems(path, problems))]
    Invalid {
        path: PathBuf,
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The problems, one for a file that cannot be read.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Invalid { problems, .. } => problems.clone(),
            Self::Unreadable { reason, .. } => vec![Problem {
                line: None,
                column: None,
                message: reason.clone(),
                hint: None,
            }],
        }
    }
}

/// Reads, types and checks the file at `path`, and the files that it names.
pub fn load(path: &Path, machine: &Machine) -> Result<Config, ConfigError> {
    let text = read_text(path).map_err(|reason| ConfigError::Unreadable {
        path: path.to_owned(),
        reason,
    })?;
    let mut config = parse(&text, path, machine)?;
    let mut problems = checks::files(&mut config);
    if let Err(error) = tls_files::load(&config.tls) {
        problems.push(Problem {
            line: config.line_of("tls", "certificate"),
            column: None,
            message: format!("{error:#}"),
            hint: None,
        });
    }
    if problems.is_empty() {
        return Ok(config);
    }
    Err(ConfigError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

/// Like [`load`], and looks at the devices of the tier as well, which `serve` does when it opens them.
pub fn load_and_inspect(path: &Path, machine: &Machine) -> Result<Config, ConfigError> {
    let config = load(path, machine)?;
    let problems = tier::files(&config);
    if problems.is_empty() {
        return Ok(config);
    }
    Err(ConfigError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

/// Types and checks `text`, which came from `path` (relative paths in it are relative to that
/// file's directory). Touches no other file.
pub fn parse(text: &str, path: &Path, machine: &Machine) -> Result<Config, ConfigError> {
    let invalid = |problems| ConfigError::Invalid {
        path: path.to_owned(),
        problems,
    };
    let root = raw::parse(text).map_err(invalid)?;
    let reader = raw::Reader::new(text, root.get_ref());
    read::read(reader, path, machine).map_err(invalid)
}

fn read_text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("it has {size} bytes, more than {MAX_FILE}"));
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        format!("line {} is not UTF-8", line + 1)
    })
}

fn show_problems(path: &Path, problems: &[Problem]) -> String {
    let mut out = match problems {
        [_] => format!("{} has a problem:", path.display()),
        _ => format!("{} has {} problems:", path.display(), problems.len()),
    };
    for problem in problems {
        out.push_str(&format!("\n  {problem}"));
    }
    out
}

fn allowed_cpus() -> Vec<usize> {
    use nix::sched::{CpuSet, sched_getaffinity};
    match sched_getaffinity(nix::unistd::Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .collect(),
        Err(_) => vec![0],
    }
}

fn physical_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

#[cfg(test)]
mod tests;
