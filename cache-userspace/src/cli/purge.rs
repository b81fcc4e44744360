//! `popcache purge`: URLs (some or a whole file of them), surrogate keys, prefixes, or everything.

use std::io::{BufRead, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use cache_core::http::{key, surrogate_key};
use clap::Args;
use serde::Serialize;

use super::{Exit, Node, fail, print, remote};
use crate::admin::client::{self, ClientError};
use crate::admin::request::MAX_NAMED;
use crate::node::PurgeOrder;

/// Bytes of URLs in one request; the API takes a mebibyte.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Bytes of the longest line of a file of URLs.
const MAX_LINE: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Purge {
    /// URLs as clients ask for them
    #[arg(value_name = "URL", required_unless_present_any = ["file", "tag", "prefix", "all"])]
    urls: Vec<String>,
    /// Read more URLs from this file, one a line (`-`: standard input)
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Everything whose response named this surrogate key
    #[arg(long, value_name = "KEY")]
    tag: Vec<String>,
    /// Everything whose URL begins so
    #[arg(long, value_name = "URL")]
    prefix: Vec<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["urls", "file", "tag", "prefix"])]
    all: bool,
    /// Make it stale instead: it may be served while it is fetched again, or if that fails, as far
    /// as its stale-while-revalidate and stale-if-error allow
    #[arg(long)]
    soft: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

/// What was done, added up over the requests that it took.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Done {
    /// How many URLs, tags and prefixes; 1 for everything.
    purges: usize,
    /// Objects in memory that were covered; `null` where that is not known at once.
    objects: Option<u64>,
    soft: bool,
    shards: usize,
}

pub(super) fn purge(arguments: &Purge) -> Exit {
    let orders = match orders(arguments) {
        Ok(orders) => orders,
        Err(why) => return fail(Exit::Usage, why),
    };
    let asked = remote::ask(&arguments.node, async |socket| {
        carry_out(socket, &orders, arguments.soft).await
    });
    let done = match asked {
        Ok(done) => done,
        Err(exit) => return exit,
    };
    if !arguments.json {
        return print(&done.text(&orders));
    }
    match serde_json::to_string(&done) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => fail(Exit::Failed, error),
    }
}

/// Everything that is to be asked for, checked before the first of it is.
fn orders(arguments: &Purge) -> Result<Vec<PurgeOrder>, String> {
    if arguments.all {
        return Ok(vec![PurgeOrder::Everything]);
    }
    let mut urls = arguments.urls.clone();
    for url in urls.iter().chain(&arguments.prefix) {
        check_url(url)?;
    }
    for tag in &arguments.tag {
        surrogate_key::check(tag.as_bytes()).map_err(|error| format!("{tag:?}: {error}"))?;
    }
    if let Some(path) = &arguments.file {
        read_file(path, &mut urls)?;
    }
    let mut orders: Vec<_> = batches(urls).map(PurgeOrder::Urls).collect();
    orders.extend(batches(arguments.tag.clone()).map(PurgeOrder::Tags));
    orders.extend(batches(arguments.prefix.clone()).map(PurgeOrder::Prefixes));
    if orders.is_empty() {
        return Err("there is no URL in the file".to_owned());
    }
    Ok(orders)
}

fn check_url(url: &str) -> Result<(), String> {
    let checked = key::key_of_url(url);
    checked
        .map(drop)
        .map_err(|error| format!("{url:?}: {error}"))
}

fn read_file(path: &Path, urls: &mut Vec<String>) -> Result<(), String> {
    let name = path.display();
    if path.as_os_str() == "-" {
        return read_lines(std::io::stdin().lock(), "standard input", urls);
    }
    let file = std::fs::File::open(path).map_err(|error| format!("{name}: {error}"))?;
    read_lines(BufReader::new(file), &name.to_string(), urls)
}

/// One URL a line; empty lines and those that begin with `#` are skipped.
fn read_lines(mut from: impl BufRead, name: &str, urls: &mut Vec<String>) -> Result<(), String> {
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = from.by_ref().take(MAX_LINE).read_line(&mut line);
        let read = read.map_err(|error| format!("{name}, line {number}: {error}"))?;
        if read == 0 {
            break;
        }
        if read as u64 == MAX_LINE {
            return Err(format!(
                "{name}, line {number}: longer than {MAX_LINE} bytes"
            ));
        }
        let url = line.trim();
        if url.is_empty() || url.starts_with('#') {
            continue;
        }
        check_url(url).map_err(|why| format!("{name}, line {number}: {why}"))?;
        urls.push(url.to_owned());
    }
    Ok(())
}

/// As many in one request as it takes.
fn batches(list: Vec<String>) -> impl Iterator<Item = Vec<String>> {
    let mut rest = list.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![rest.next()?];
        let mut bytes = batch[0].len();
        while let Some(next) = rest.peek()
            && batch.len() < MAX_NAMED
            && bytes + next.len() <= MAX_BATCH_BYTES
        {
            bytes += next.len();
            batch.extend(rest.next());
        }
        Some(batch)
    })
}

fn count(order: &PurgeOrder) -> usize {
    match order {
        PurgeOrder::Urls(list) | PurgeOrder::Tags(list) | PurgeOrder::Prefixes(list) => list.len(),
        PurgeOrder::Everything => 1,
    }
}

/// Asks for one after the other, and says how far it came where that takes long or fails.
async fn carry_out(socket: &Path, orders: &[PurgeOrder], soft: bool) -> Result<Done, ClientError> {
    let total: usize = orders.iter().map(count).sum();
    let shows_progress = orders.len() > 1 && std::io::stderr().is_terminal();
    let mut done = Done {
        purges: 0,
        objects: Some(0),
        soft,
        shards: 0,
    };
    for order in orders {
        let report = client::purge(socket, order.clone(), soft).await;
        let report = report.inspect_err(|_| {
            if done.purges > 0 {
                eprintln!("popcache: {} of {total} were purged, then:", done.purges);
            }
        })?;
        done.purges += report.purges;
        done.objects = done.objects.zip(report.objects).map(|(sum, new)| sum + new);
        done.shards = report.shards;
        if shows_progress {
            eprint!("\r{} of {total} purged", done.purges);
        }
    }
    if shows_progress {
        eprintln!();
    }
    Ok(done)
}

impl Done {
    fn text(&self, orders: &[PurgeOrder]) -> String {
        let verb = if self.soft { "made stale" } else { "purged" };
        let named = |what: &str, many: &str| match self.purges {
            1 => format!("1 {what}"),
            number => format!("{number} {many}"),
        };
        let kinds = orders.iter().map(|order| match order {
            PurgeOrder::Urls(_) => ("URL", "URLs"),
            PurgeOrder::Tags(_) => ("surrogate key", "surrogate keys"),
            PurgeOrder::Prefixes(_) => ("prefix", "prefixes"),
            PurgeOrder::Everything => ("node", "nodes"),
        });
        let mut kinds: Vec<_> = kinds.collect();
        kinds.dedup();
        let named = match kinds[..] {
            [(one, many)] => named(one, many),
            _ => named("name", "names"),
        };
        match (self.objects, orders) {
            (Some(1), _) => format!("1 object {verb}\n"),
            (Some(objects), _) => format!("{objects} objects {verb}\n"),
            (None, [PurgeOrder::Everything]) => {
                format!("everything {verb}; the number of objects is unknown\n")
            }
            (None, _) => format!("{verb} by {named}; the number of objects is unknown\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<String>, String> {
        let mut urls = Vec::new();
        read_lines(text.as_bytes(), "list", &mut urls).map(|()| urls)
    }

    #[test]
    fn a_file_names_one_url_a_line() {
        let urls = lines("# old emotes\nhttps://edge.test/1\n\n  https://edge.test/2\r\n");
        assert_eq!(
            urls,
            Ok(vec![
                "https://edge.test/1".to_owned(),
                "https://edge.test/2".to_owned()
            ])
        );
        let why = lines("https://edge.test/1\nedge.test/2\n").expect_err("no scheme");
        assert!(
            why.starts_with("list, line 2: \"edge.test/2\": not a URL"),
            "{why}"
        );
        let long = format!("https://edge.test/{}", "a".repeat(MAX_LINE as usize));
        assert!(lines(&long).is_err_and(|why| why.contains("line 1: longer")));
    }

    #[test]
    fn lists_are_cut_to_what_a_request_takes() {
        let sizes = |list: Vec<String>| batches(list).map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(
            sizes(vec![String::new(); 2 * MAX_NAMED + 1]),
            [MAX_NAMED, MAX_NAMED, 1]
        );
        assert_eq!(sizes(vec!["u".repeat(100 << 10); 5]), [2, 2, 1]);
        assert_eq!(sizes(vec!["u".repeat(MAX_BATCH_BYTES + 1); 2]), [1, 1]);
        assert!(sizes(Vec::new()).is_empty());
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let done = |objects, soft| Done {
            purges: 2,
            objects,
            soft,
            shards: 1,
        };
        let tags = [PurgeOrder::Tags(vec![String::new(); 2])];
        let urls = [PurgeOrder::Urls(vec![String::new(); 2])];
        let mixed = [tags[0].clone(), urls[0].clone()];
        for (done, orders, says) in [
            (done(Some(1), false), &urls[..], "1 object purged\n"),
            (done(Some(0), true), &urls, "0 objects made stale\n"),
            (
                done(None, false),
                &tags,
                "purged by 2 surrogate keys; the number of objects is unknown\n",
            ),
            (
                done(None, true),
                &mixed,
                "made stale by 2 names; the number of objects is unknown\n",
            ),
            (
                done(None, true),
                &[PurgeOrder::Everything],
                "everything made stale; the number of objects is unknown\n",
            ),
        ] {
            assert_eq!(done.text(orders), says);
        }
    }
}
