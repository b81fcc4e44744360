//! The command line: what can be asked, and how the answer ends the process.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed while running |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | no node answers |

mod check;
mod documents;
mod explain;
mod guard;
mod logging;
mod pin;
mod probe;
mod purge;
mod remote;
mod serve;
mod top;
mod tune;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::start::How;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// popcache, an L1 edge cache appliance: HTTP/3 from hugepage arenas, steered by XDP
#[derive(Debug, Parser)]
#[command(name = "popcache", version, after_long_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed while running
  2  the command line or the configuration is wrong
  3  no node answers

Examples:
  popcache check --config popcache.toml
  popcache serve --config popcache.toml
  popcache status
  popcache top
  popcache purge https://edge.example/emotes/42.png";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node until SIGINT or SIGTERM
    #[command(after_long_help = SERVE_HELP)]
    Serve {
        #[command(flatten)]
        file: ConfigFile,
        /// Write the tier's devices anew, whatever they hold
        #[arg(long)]
        format: bool,
        /// Take over from the node that runs; `popcache upgrade` does this
        #[arg(long, hide = true, conflicts_with = "format")]
        take_over: bool,
    },
    /// Have this program take over from the running node, without losing a request
    #[command(after_long_help = UPGRADE_HELP)]
    Upgrade(upgrade::Upgrade),
    /// Explain the whole effective configuration, or every problem in it
    #[command(after_long_help = CHECK_HELP)]
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Show how the running node is
    #[command(after_long_help = STATUS_HELP)]
    Status {
        #[command(flatten)]
        node: Node,
        /// Print JSON instead of a page
        #[arg(long)]
        json: bool,
    },
    /// Watch what the running node does, every second
    #[command(after_long_help = top::HELP)]
    Top(top::Top),
    /// Make the running node forget objects, by URL, surrogate key or prefix, or all of them
    #[command(after_long_help = PURGE_HELP)]
    Purge(purge::Purge),
    /// Keep the object of a URL in the running node's memory, and fetch it if it is not there
    #[command(after_long_help = PIN_HELP)]
    Pin(pin::One),
    /// Let the object of a URL be evicted like any other
    #[command(after_long_help = UNPIN_HELP)]
    Unpin(pin::One),
    /// List what is pinned
    #[command(after_long_help = PINS_HELP)]
    Pins(pin::All),
    /// Make the running node go by its configuration file as it is now
    #[command(after_long_help = RELOAD_HELP)]
    Reload {
        #[command(flatten)]
        node: Node,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make the running node read its certificates again
    #[command(after_long_help = RELOAD_TLS_HELP)]
    ReloadTls {
        #[command(flatten)]
        node: Node,
    },
    /// See and change what the XDP program drops
    #[command(subcommand, after_long_help = guard::HELP)]
    Guard(guard::Guard),
    /// Say what the running node would do with a request, and why
    #[command(after_long_help = EXPLAIN_HELP)]
    Explain(explain::Explain),
    /// Measure what a drive can do as a tier
    #[command(after_long_help = PROBE_HELP)]
    ProbeTier(probe::Arguments),
    /// Plan, apply, verify or roll back the settings of NIC and machine
    #[command(after_long_help = TUNE_HELP)]
    Tune(tune::Arguments),
    /// Print a completion script for a shell
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page (roff)
    #[command(after_long_help = MAN_HELP)]
    Man {
        /// Write one page per command into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Which node to talk to.
#[derive(Debug, Args)]
struct Node {
    /// The node's admin socket [default: /run/popcache/admin.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Take the admin socket from this configuration file
    #[arg(long, short, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
}

const SERVE_HELP: &str = "\
It says `popcache: ready on ADDRESS backend BACKEND` on stderr once it answers. POPCACHE_LOG
overrides log.level, for example POPCACHE_LOG=debug or POPCACHE_LOG=info,cache_core=trace.

A device of the tier that is not popcache's, or not this node's, is refused. --format takes it all
the same: what the devices hold is lost.

Examples:
  popcache serve
  POPCACHE_LOG=debug popcache serve --config ./popcache.toml";

const CHECK_HELP: &str = "\
Prints every setting with its value, the line that it comes from (or `default`) and the reason for
it, the memory that follows, and warnings. Exit code 2 when something is wrong; all problems are
listed, each with its line.

Examples:
  popcache check
  popcache check --config ./popcache.toml --json | jq .memory";

const STATUS_HELP: &str = "\
Examples:
  popcache status
  popcache status --socket /run/popcache/admin.sock --json | jq '.shards[].counters.hits'";

const PURGE_HELP: &str = "\
It returns once no core answers with what was purged; requests that had come before may still get it.
With a tier, purges hold after a crash. How many objects a URL covered is known at once (0: it was
not in memory, and is purged all the same); a surrogate key or prefix costs one store whatever it
covers, so its number is unknown. Surrogate keys are what origins send in Surrogate-Key (separated
by spaces) or Cache-Tag (by commas).

Examples:
  popcache purge https://edge.example/emotes/42.png
  popcache purge --tag emote-42 --tag set-7
  popcache purge --soft --prefix https://edge.example/emotes/
  popcache purge --file urls.txt --json | jq .objects
  popcache purge --all";

const PIN_HELP: &str = "\
It says `kept` if the object is in memory, or `awaited`: then it is being fetched, and is kept once it
is stored. A pin past the budget (memory.pinned, an equal part a shard) is refused with the figures.
With a tier, pins hold after a restart. A pinned object becomes stale and is purged like any other;
the pin stays for the one that comes next.

Examples:
  popcache pin https://edge.example/emotes/42.png
  popcache pin https://edge.example/app.js --json | jq .state";

const UNPIN_HELP: &str = "\
Examples:
  popcache unpin https://edge.example/emotes/42.png";

const PINS_HELP: &str = "\
Examples:
  popcache pins
  popcache pins --json | jq -r '.pins[] | select(.state == \"awaited\") | .url'";

const EXPLAIN_HELP: &str = "\
Shows route, class, key and variant, the fields that the origin would see, where the object is, its age and
lifetime, and what would be done with the request now. Nothing is fetched. With --offline it goes by a
configuration file alone, so that rules can be tried before a node has them.

Examples:
  popcache explain https://edge.example/live/token=9/a.m3u8
  popcache explain https://edge.example/e/1 -H 'Accept: image/avif' --json | jq .key
  popcache explain https://edge.example/e/1 --offline ./popcache.toml";

const PROBE_HELP: &str = "\
Fills a scratch file as popcache writes its tier, kills the process that did it, opens the file again,
and reads objects from it beside bare io_uring reads of the same blocks. Needs no running node.

Examples:
  popcache probe-tier --device /var/lib/popcache
  popcache probe-tier --device /mnt/nvme --size '8 GiB' --json";

const TUNE_HELP: &str = "\
Queues, rings, coalescing, offloads, hashing, interrupts, queue placement, polling, hugepages and CPU frequency, each with its reason.
Without a word it plans and changes nothing. What the driver refuses is listed. How everything was is noted before the first
change; rollback puts it back.

Examples:
  popcache tune
  popcache tune apply --interface eth0 --cores 0,1,2,3
  popcache tune verify --json | jq .wrong
  popcache tune rollback";

const COMPLETIONS_HELP: &str = "\
Examples:
  popcache completions bash > /usr/share/bash-completion/completions/popcache
  popcache completions zsh > /usr/share/zsh/vendor-completions/_popcache";

const MAN_HELP: &str = "\
Examples:
  popcache man | man -l -
  popcache man --dir /usr/local/share/man/man1";

const UPGRADE_HELP: &str = "\
Starts this program beside the running node, with the configuration file as it is now. The new process takes the
sockets; the former one serves its connections to their end, for at most server.drain_limit, and ends. Needs root,
memory for two nodes for a moment, the same cores and addresses, and no [tier] (a restart begins warm there). The
new node begins with an empty memory. If it does not start, the former one goes on.

Examples:
  popcache upgrade
  popcache upgrade --config /etc/popcache/popcache.toml";

const RELOAD_HELP: &str = "\
SIGHUP does the same. The file is read and checked whole: if anything is wrong with it, with a file that it
names or with a feed of the guard, nothing changes and the message says what. Connections and requests go on.
What cannot change while the node runs (memory, cores, addresses, the tier ...) is listed, stays as it is,
and is shown by `popcache status` until a restart.

Examples:
  popcache reload
  popcache reload --config /etc/popcache/popcache.toml --json | jq .waiting";

const RELOAD_TLS_HELP: &str = "\
If a file is broken, nothing changes and the message names it. `popcache reload` reads everything.

Examples:
  popcache reload-tls";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    run(Arguments::parse()).into()
}

fn run(arguments: Arguments) -> Exit {
    match arguments.command {
        Command::Serve {
            file,
            format,
            take_over,
        } => {
            let how = match take_over {
                true => How::TakeOver,
                false => How::Alone { format },
            };
            serve::serve(&file.config, how)
        }
        Command::Upgrade(upgrade) => upgrade::upgrade(&upgrade),
        Command::Check { file, json } => check::check(&file.config, json),
        Command::Status { node, json } => remote::status(&node, json),
        Command::Top(arguments) => top::top(&arguments),
        Command::ProbeTier(arguments) => probe::probe(&arguments),
        Command::Tune(arguments) => tune::tune(&arguments),
        Command::Purge(arguments) => purge::purge(&arguments),
        Command::Pin(arguments) => pin::pin(&arguments),
        Command::Unpin(arguments) => pin::unpin(&arguments),
        Command::Pins(arguments) => pin::pins(&arguments),
        Command::Reload { node, json } => remote::reload(&node, json),
        Command::ReloadTls { node } => remote::reload_tls(&node),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Guard(command) => guard::guard(&command),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { dir } => documents::man(dir.as_deref()),
    }
}

/// Writes to stdout. A reader that has gone away (`| head`) is not a failure.
fn print(text: &str) -> Exit {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => fail(Exit::Failed, format_args!("cannot write: {error}")),
    }
}

/// Says what went wrong on stderr.
fn fail(exit: Exit, what: impl std::fmt::Display) -> Exit {
    eprintln!("popcache: {what}");
    exit
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_purge_names_what_it_covers() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("popcache purge https://edge.test/").is_ok());
        assert!(parse("popcache purge --all").is_ok());
        assert!(parse("popcache purge https://edge.test/ https://edge.test/b --soft").is_ok());
        assert!(parse("popcache purge --tag a --tag b --prefix https://edge.test/").is_ok());
        assert!(parse("popcache purge --file - --json").is_ok());
        assert!(parse("popcache purge --soft").is_err());
        assert!(parse("popcache purge --all --tag a").is_err());
        assert!(parse("popcache purge").is_err());
        assert!(parse("popcache purge --all https://edge.test/").is_err());
        assert!(parse("popcache status --socket a --config b").is_err());
    }

    #[test]
    fn a_pin_names_one_url() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("popcache pin https://edge.test/ --json").is_ok());
        assert!(parse("popcache unpin https://edge.test/ --socket a").is_ok());
        assert!(parse("popcache pins --json").is_ok());
        assert!(parse("popcache pin").is_err());
        assert!(parse("popcache unpin https://edge.test/ https://edge.test/b").is_err());
        assert!(parse("popcache pins https://edge.test/").is_err());
    }
}
