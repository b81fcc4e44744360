//! `popcache guard`: what the XDP program drops, who is listed, and what was dropped.

mod pages;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{Exit, Node, fail, pin::show, print, remote};
use crate::admin::client;
use crate::config::units::{parse_duration, parse_size};
use crate::guard::order::{Done, LimitRequest, ListRequest, ModeRequest, RemoveRequest, Report};
use crate::guard::settings::{Limit, Rate};
use crate::guard::{EventLine, ListName, TopLine, prefixes};

/// How often `events --follow` asks.
const FOLLOW: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
Changes are in force when the command returns, on every core, and outlive a restart (guard.state_file);
they go before the configuration file until `configured` or `remove` takes them back.

Examples:
  popcache guard list
  popcache guard block 192.0.2.0/24 --for 1h --note 'ticket 4711'
  popcache guard allow 2001:db8::/32
  popcache guard remove 192.0.2.0/24
  popcache guard monitor cid_mac
  popcache guard monitor cid_mac --mode configured
  popcache guard limit handshakes 200 --burst 1000
  popcache guard events --follow
  popcache guard top --json";

#[derive(Debug, Subcommand)]
pub(super) enum Guard {
    /// Show rules, limits, lists and feeds
    List(Plain),
    /// Take nothing from these prefixes
    Block(Change),
    /// Neither block nor meter these prefixes, whatever else lists them
    Allow(Change),
    /// Take back what `block` or `allow` listed
    Remove(Remove),
    /// Make rules only count what they would drop, or drop it, or do nothing
    Monitor(Monitor),
    /// Say how much one source may send
    Limit(SourceLimit),
    /// Read the feeds again
    Reload(Plain),
    /// Show the sources that rules matched most, of the sampled packets
    Top(Top),
    /// Show sampled packets that rules matched
    Events(Events),
}

#[derive(Debug, Args)]
pub(super) struct Plain {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// 192.0.2.0/24, 2001:db8::/32 or a single address
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// For how long, such as 30m or 12h; without it until it is removed
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Option<Duration>,
    /// Why, for who reads the list later
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// Rules as `guard list` names them, or `all`
    #[arg(required = true, value_name = "RULE")]
    rules: Vec<String>,
    /// What they do from now on
    #[arg(long, default_value = "monitor", value_parser = ["monitor", "drop", "off", "configured"])]
    mode: String,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Packets,
    Bytes,
    Handshakes,
    Syns,
}

#[derive(Debug, Args)]
pub(super) struct SourceLimit {
    what: What,
    /// How many a second, bytes also as 64MiB; or `configured`
    rate: String,
    /// How many at once [default: twice the rate]; 0: they are not counted
    #[arg(long)]
    burst: Option<String>,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
pub(super) struct Top {
    /// Lines at most
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on showing what comes
    #[arg(long, short = 'f')]
    follow: bool,
    #[command(flatten)]
    plain: Plain,
}

pub(super) fn guard(command: &Guard) -> Exit {
    match command {
        Guard::List(plain) => read::<Report>(plain, "", pages::report),
        Guard::Block(change) => list(ListName::Block, change),
        Guard::Allow(change) => list(ListName::Allow, change),
        Guard::Remove(remove) => {
            let prefixes = remove.prefixes.clone();
            checked(&prefixes, || {
                change(
                    &remove.plain,
                    "remove",
                    &RemoveRequest {
                        prefixes: prefixes.clone(),
                    },
                )
            })
        }
        Guard::Monitor(Monitor { rules, mode, plain }) => {
            let (rules, mode) = (rules.clone(), mode.clone());
            change(plain, "monitor", &ModeRequest { rules, mode })
        }
        Guard::Limit(limit) => match limit_request(limit) {
            Ok(request) => change(&limit.plain, "limit", &request),
            Err(why) => fail(Exit::Usage, why),
        },
        Guard::Reload(plain) => change(plain, "reload", &serde_json::json!({})),
        Guard::Top(Top { lines, plain }) => {
            read::<Vec<TopLine>>(plain, &format!("top?most={lines}"), |top| pages::top(top))
        }
        Guard::Events(Events {
            follow: true,
            plain,
        }) => follow(plain),
        Guard::Events(Events { plain, .. }) => {
            read::<Vec<EventLine>>(plain, "events", |events| pages::events(events))
        }
    }
}

fn read<T: Serialize + serde::de::DeserializeOwned>(
    plain: &Plain,
    document: &str,
    page: fn(&T) -> String,
) -> Exit {
    let asked = remote::ask(&plain.node, async |socket| {
        client::guard::<T>(socket, document).await
    });
    match asked {
        Ok(document) => show(&document, plain.json, page),
        Err(exit) => exit,
    }
}

fn change(plain: &Plain, what: &str, request: &impl Serialize) -> Exit {
    let asked = remote::ask(&plain.node, async |socket| {
        client::change_guard(socket, what, request).await
    });
    match asked {
        Ok(done) => show(&done, plain.json, changed),
        Err(exit) => exit,
    }
}

fn changed(done: &Done) -> String {
    let Done {
        allowed,
        blocked,
        changed,
    } = done;
    format!("{changed} changed; {allowed} prefixes allowed, {blocked} blocked\n")
}

fn list(list: ListName, arguments: &Change) -> Exit {
    let request = ListRequest {
        list,
        prefixes: arguments.prefixes.clone(),
        seconds: arguments.lifetime.map(|lifetime| lifetime.as_secs()),
        note: arguments.note.clone(),
    };
    checked(&arguments.prefixes, || {
        change(&arguments.plain, "list", &request)
    })
}

/// Goes on only when every prefix is one.
fn checked(prefixes: &[String], go_on: impl FnOnce() -> Exit) -> Exit {
    let broken = prefixes.iter().find_map(|text| prefixes::parse(text).err());
    match broken {
        Some(why) => fail(Exit::Usage, why),
        None => go_on(),
    }
}

fn limit_request(arguments: &SourceLimit) -> Result<LimitRequest, String> {
    let limit = match arguments.what {
        What::Packets => Limit::Packets,
        What::Bytes => Limit::Bytes,
        What::Handshakes => Limit::Handshakes,
        What::Syns => Limit::Syns,
    };
    if arguments.rate == "configured" {
        return Ok(LimitRequest { limit, rate: None });
    }
    let rate = number(limit, &arguments.rate)?;
    let burst = match &arguments.burst {
        Some(burst) => number(limit, burst)?,
        None => rate.saturating_mul(2),
    };
    Ok(LimitRequest {
        limit,
        rate: Some(Rate { rate, burst }),
    })
}

fn number(limit: Limit, text: &str) -> Result<u64, String> {
    match limit {
        Limit::Bytes => parse_size(text),
        Limit::Packets | Limit::Handshakes | Limit::Syns => text
            .parse()
            .map_err(|_| format!("{text:?} is no whole number")),
    }
}

/// Shows what is new until the node or the reader has gone.
fn follow(plain: &Plain) -> Exit {
    let mut last = 0;
    loop {
        let document = format!("events?after={last}");
        let asked = remote::ask(&plain.node, async |socket| {
            client::guard::<Vec<EventLine>>(socket, &document).await
        });
        let events = match asked {
            Ok(events) => events,
            Err(exit) => return exit,
        };
        if let Some(newest) = events.last() {
            last = newest.number;
            let text = match plain.json {
                true => pages::json_lines(&events),
                false => pages::events(&events),
            };
            match print(&text) {
                Exit::Done => {}
                exit => return exit,
            }
        }
        std::thread::sleep(FOLLOW);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn the_words_are_understood() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        for line in [
            "popcache guard list --json",
            "popcache guard block 192.0.2.0/24 2001:db8::1 --for 1h --note why",
            "popcache guard allow 192.0.2.0/24",
            "popcache guard remove 192.0.2.0/24 --socket s",
            "popcache guard monitor cid_mac trailing --mode drop",
            "popcache guard limit bytes 64MiB --burst 1GiB",
            "popcache guard limit packets configured",
            "popcache guard top -n 5",
            "popcache guard events --follow --json",
            "popcache guard reload",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "popcache guard",
            "popcache guard block",
            "popcache guard block 192.0.2.1 --for soon",
            "popcache guard monitor cid_mac --mode sometimes",
            "popcache guard limit flows 5",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_limit_is_a_rate_and_what_comes_at_once() {
        assert_eq!(number(Limit::Bytes, "64 MiB"), Ok(64 << 20));
        assert_eq!(number(Limit::Packets, "500"), Ok(500));
        assert!(number(Limit::Handshakes, "64 MiB").is_err());
    }
}
