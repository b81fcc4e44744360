//! `popcache-bench engine`: the cache engine alone, beside published crates.
//!
//! ```text
//! trace synthetic    what is asked for
//! replay             one cache, one trace
//! own                popcache's store
//! classic peers      who else answers: plain LRU and LFU, crates
//! offline            what one would miss who knows the future
//! miss verdict       cases miss/TRACE/SIZE
//! gets               cases zipf-1t, zipf-2t, hot-key-2t
//! metadata           case metadata
//! ```

mod classic;
mod gets;
mod metadata;
mod miss;
mod offline;
mod own;
mod peers;
pub(crate) mod replay;
pub(crate) mod synthetic;
pub(crate) mod trace;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::figures::{Figures, Machine};

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter runs.
    pub quick: bool,
    pub json: Option<PathBuf>,
    /// Directory of trace files.
    pub traces: Option<PathBuf>,
    /// Only cases whose name holds this.
    pub only: Option<String>,
}

impl Options {
    fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|part| case.contains(part))
    }
}

/// Runs the benchmark, prints the table, writes the JSON.
///
/// # Errors
/// Traces that cannot be read, a file that cannot be written, no case of that name.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut rows = miss::rows(options)?;
    rows.extend(gets::rows(options)?);
    if options.wants(metadata::CASE) {
        rows.extend(metadata::rows(options.quick)?);
    }
    if rows.is_empty() {
        bail!(
            "no case has {:?} in its name",
            options.only.as_deref().unwrap_or("")
        );
    }
    let figures = Figures {
        bench: "engine".to_owned(),
        machine: Machine::here(),
        rows,
    };
    figures.publish(options.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}
