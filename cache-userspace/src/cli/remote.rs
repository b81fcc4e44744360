//! Questions to a running node, `popcache status` among them.

use std::path::{Path, PathBuf};

use super::{Exit, Node, fail, print};
use crate::admin::client::{self, ClientError};
use crate::config::{self, Machine};

pub(super) fn status(node: &Node, as_json: bool) -> Exit {
    let document = match ask(node, async |socket| client::status(socket).await) {
        Ok(document) => document,
        Err(exit) => return exit,
    };
    if !as_json {
        return print(&document.page());
    }
    match serde_json::to_string_pretty(&document) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => fail(Exit::Failed, error),
    }
}

/// `popcache reload-tls`.
pub(super) fn reload_tls(node: &Node) -> Exit {
    match ask(node, async |socket| client::reload_tls(socket).await) {
        Ok(report) => print(&format!("{} certificates are shown\n", report.certificates)),
        Err(exit) => exit,
    }
}

/// `popcache reload`.
pub(super) fn reload(node: &Node, as_json: bool) -> Exit {
    let report = match ask(node, async |socket| client::reload(socket).await) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    if as_json {
        return match serde_json::to_string(&report) {
            Ok(text) => print(&(text + "\n")),
            Err(error) => fail(Exit::Failed, error),
        };
    }
    let list = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("{what}: {}\n", names.join(", ")),
    };
    let warnings = report.warnings.iter();
    let warnings = warnings.map(|warning| format!("warning: {warning}\n"));
    let changed = match &report.changed[..] {
        [] => "no setting changed\n".to_owned(),
        names => list("changed", names),
    };
    print(&format!(
        "{changed}{}{} certificates are shown\n{}",
        list("waiting for a restart", &report.waiting),
        report.certificates,
        warnings.collect::<String>(),
    ))
}

/// Puts one question to the node, and says so where it fails.
pub(super) fn ask<T>(
    node: &Node,
    question: impl AsyncFn(&Path) -> Result<T, ClientError>,
) -> Result<T, Exit> {
    let socket = socket(node)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fail(Exit::Failed, error))?;
    runtime.block_on(question(&socket)).map_err(|error| {
        let exit = if error.is_unreachable() {
            Exit::Unreachable
        } else {
            Exit::Failed
        };
        fail(exit, error)
    })
}

pub(super) fn socket(node: &Node) -> Result<PathBuf, Exit> {
    match (&node.socket, &node.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, None) => Ok(PathBuf::from(config::DEFAULT_SOCKET)),
        (None, Some(path)) => match config::load(path, &Machine::this()) {
            Ok(config) => Ok(config.admin.socket),
            Err(error) => Err(fail(Exit::Usage, error)),
        },
    }
}
