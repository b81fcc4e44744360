//! `popcache check`.

use std::path::Path;

use serde_json::json;

use super::{Exit, fail, print};
use crate::config::{self, Machine, explain};

pub(super) fn check(path: &Path, as_json: bool) -> Exit {
    match config::load_and_inspect(path, &Machine::this()) {
        Ok(config) if as_json => print(&format!("{:#}\n", explain::json(&config))),
        Ok(config) => print(&explain::text(&config)),
        Err(error) if as_json => {
            let document = json!({
                "file": path.display().to_string(),
                "problems": error.problems(),
            });
            print(&format!("{document:#}\n"));
            Exit::Usage
        }
        Err(error) => fail(Exit::Usage, error),
    }
}
