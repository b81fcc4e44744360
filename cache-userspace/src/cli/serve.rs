//! `popcache serve`.

use std::path::Path;

use super::{Exit, fail, logging};
use crate::config::{self, Machine};
use crate::start::{self, How};

pub(super) fn serve(path: &Path, how: How) -> Exit {
    let machine = Machine::this();
    let config = match config::load(path, &machine) {
        Ok(config) => config,
        Err(error) => return fail(Exit::Usage, error),
    };
    if let Err(error) = logging::start(&config.log.level) {
        return fail(Exit::Usage, error);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match start::serve(config, machine, how) {
        Ok(()) => Exit::Done,
        Err(error) => fail(Exit::Failed, format_args!("{error:#}")),
    }
}
