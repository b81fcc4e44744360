//! `popcache top`: looks at the node again and again.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{Exit, Node, fail, print, remote};
use crate::admin::client;
use crate::config::units::parse_duration;
use crate::status::{Rates, StatusDocument};

const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// To the upper left corner, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) const HELP: &str = "\
Everything but connections, waiting, objects and stored is a rate a second. Ctrl-C ends it. A node that does
not answer for a while, as during a restart, is asked again.

Examples:
  popcache top
  popcache top --interval 10s --count 6
  popcache top --count 1 --json | jq .all.requests";

#[derive(Debug, Args)]
pub(super) struct Top {
    /// Time between two looks, 100ms at least
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// End after so many pages [default: none]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print a line of JSON instead of a page
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

pub(super) fn top(arguments: &Top) -> Exit {
    if arguments.interval < LEAST_INTERVAL {
        return fail(Exit::Usage, "--interval must be 100ms at least");
    }
    let watched = remote::ask(&arguments.node, async |socket| {
        let first = client::status(socket).await?;
        Ok(watch(arguments, socket, first).await)
    });
    watched.unwrap_or_else(|exit| exit)
}

async fn watch(arguments: &Top, socket: &Path, first: StatusDocument) -> Exit {
    let (mut before, mut since) = (first, Instant::now());
    let mut next = since;
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        next = (next + arguments.interval).max(Instant::now());
        tokio::time::sleep_until(next).await;
        let shown = match client::status(socket).await {
            Ok(after) => {
                let now = Instant::now();
                let rates = Rates::between(&before, &after, (now - since).as_secs_f64());
                (before, since) = (after, now);
                left -= 1;
                show(&rates, arguments.json)
            }
            // It may be on its way back.
            Err(error) if arguments.count.is_none() => {
                fail(Exit::Unreachable, error);
                Exit::Done
            }
            Err(error) if error.is_unreachable() => return fail(Exit::Unreachable, error),
            Err(error) => return fail(Exit::Failed, error),
        };
        if shown != Exit::Done {
            return shown;
        }
    }
    Exit::Done
}

fn show(rates: &Rates, as_json: bool) -> Exit {
    if as_json {
        return match serde_json::to_string(rates) {
            Ok(text) => print(&(text + "\n")),
            Err(error) => fail(Exit::Failed, error),
        };
    }
    let page = rates.page();
    match std::io::stdout().is_terminal() {
        true => print(&format!("{CLEAR}{page}")),
        false => print(&(page + "\n")),
    }
}
