//! `popcache pin`, `unpin` and `pins`.

use std::fmt::Write as _;

use cache_core::http::key;
use clap::Args;
use serde::Serialize;

use super::{Exit, Node, fail, print, remote};
use crate::admin::client;
use crate::config::explain::rounded;
use crate::node::{PinReport, PinsReport, UnpinReport};

#[derive(Debug, Args)]
pub(super) struct One {
    /// The URL as clients ask for it
    #[arg(value_name = "URL")]
    url: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

#[derive(Debug, Args)]
pub(super) struct All {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

pub(super) fn pin(arguments: &One) -> Exit {
    let One { url, json, node } = arguments;
    if let Err(error) = key::key_of_url(url) {
        return fail(Exit::Usage, format_args!("{url:?}: {error}"));
    }
    match remote::ask(node, async |socket| client::pin(socket, url).await) {
        Ok(report) => show(&report, *json, pinned),
        Err(exit) => exit,
    }
}

pub(super) fn unpin(arguments: &One) -> Exit {
    let One { url, json, node } = arguments;
    if let Err(error) = key::key_of_url(url) {
        return fail(Exit::Usage, format_args!("{url:?}: {error}"));
    }
    match remote::ask(node, async |socket| client::unpin(socket, url).await) {
        Ok(report) => show(&report, *json, unpinned),
        Err(exit) => exit,
    }
}

pub(super) fn pins(arguments: &All) -> Exit {
    match remote::ask(&arguments.node, async |socket| client::pins(socket).await) {
        Ok(report) => show(&report, arguments.json, listed),
        Err(exit) => exit,
    }
}

pub(super) fn show<T: Serialize>(report: &T, json: bool, text: fn(&T) -> String) -> Exit {
    if !json {
        return print(&text(report));
    }
    match serde_json::to_string(report) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => fail(Exit::Failed, error),
    }
}

fn pinned(report: &PinReport) -> String {
    let where_else = match report.on_drives {
        Some(true) => ", on the drives too",
        _ => "",
    };
    match report.bytes {
        Some(bytes) => format!("kept: {} in {bytes} bytes{where_else}\n", report.url),
        None => format!("awaited: {} is kept once it is stored\n", report.url),
    }
}

fn unpinned(report: &UnpinReport) -> String {
    match report.was_pinned {
        true => format!("unpinned: {}\n", report.url),
        false => format!("{} was not pinned\n", report.url),
    }
}

/// A line for each pin, the bytes first, and one for all.
fn listed(report: &PinsReport) -> String {
    let mut out = String::new();
    for pin in &report.pins {
        let bytes = pin.bytes.map(|bytes| bytes.to_string());
        let bytes = bytes.as_deref().unwrap_or("awaited");
        let _ = writeln!(out, "{bytes:>12}  {}", pin.url);
    }
    let _ = writeln!(
        out,
        "{} pinned, {} kept in {} of {}",
        report.pins.len(),
        report.kept,
        rounded(report.bytes),
        rounded(report.budget),
    );
    if report.refused > 0 {
        let _ = writeln!(out, "{} times memory.pinned was too small", report.refused);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::PinState;

    #[test]
    fn pins_are_listed_one_a_line() {
        let pin = |url: &str, bytes: Option<u64>| PinReport {
            url: url.to_owned(),
            state: match bytes {
                Some(_) => PinState::Kept,
                None => PinState::Awaited,
            },
            bytes,
            on_drives: None,
        };
        let mut report = PinsReport {
            pins: vec![
                pin("https://edge.test/a", Some(1536)),
                pin("https://edge.test/b", None),
            ],
            kept: 1,
            bytes: 1536,
            budget: 32 << 20,
            refused: 0,
        };
        let expected = [
            "        1536  https://edge.test/a\n",
            "     awaited  https://edge.test/b\n",
            "2 pinned, 1 kept in 1.5 KiB of 32 MiB\n",
        ]
        .concat();
        assert_eq!(listed(&report), expected);
        report.refused = 2;
        assert!(listed(&report).ends_with("2 times memory.pinned was too small\n"));
        assert_eq!(
            pinned(&report.pins[0]),
            "kept: https://edge.test/a in 1536 bytes\n"
        );
        report.pins[0].on_drives = Some(true);
        assert!(pinned(&report.pins[0]).ends_with(" in 1536 bytes, on the drives too\n"));
        assert!(pinned(&report.pins[1]).starts_with("awaited: "));
    }
}
