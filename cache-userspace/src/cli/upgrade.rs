//! `popcache upgrade`: starts this program in the place of the one that serves.

mod spawn;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::remote::ask;
use super::{Args, Exit, Node, fail, print};
use crate::admin::client;
use crate::status::StatusDocument;
use crate::upgrade::TAKEOVER_LIMIT;

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    node: Node,
}

/// How often the node is asked who it is.
const POLL: Duration = Duration::from_millis(50);

pub(super) fn upgrade(options: &Upgrade) -> Exit {
    let node = &options.node;
    let (before, file) = match (status(node), file_of(node)) {
        (Ok(before), Ok(file)) => (before, file),
        (Err(exit), _) | (_, Err(exit)) => return exit,
    };
    if let Some(pid) = before.predecessor {
        let why = format!("an upgrade goes on: process {pid} drains its connections");
        return fail(Exit::Failed, why);
    }
    match start(before.pid, &file) {
        Ok(child) => wait(node, child),
        Err(error) => fail(Exit::Failed, format_args!("{error:#}")),
    }
}

fn start(former: u32, file: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    spawn::beside(
        former,
        &program,
        &["serve", "--take-over", "--config"],
        file,
    )
}

fn status(node: &Node) -> Result<StatusDocument, Exit> {
    ask(node, async |socket| client::status(socket).await)
}

/// The configuration file of the node that runs, or the one that was named.
fn file_of(node: &Node) -> Result<PathBuf, Exit> {
    if let Some(file) = &node.config {
        return std::path::absolute(file).map_err(|error| fail(Exit::Usage, error));
    }
    let config = ask(node, async |socket| client::config(socket).await)?;
    let file = config["file"].as_str().unwrap_or_default().to_owned();
    match file.starts_with('/') {
        true => Ok(PathBuf::from(file)),
        false => {
            let why = "the node does not say where its configuration is: give --config";
            Err(fail(Exit::Usage, why))
        }
    }
}

/// Until the new node answers, or has ended.
fn wait(node: &Node, mut child: Child) -> Exit {
    let words = listen(&mut child);
    let deadline = Instant::now() + TAKEOVER_LIMIT;
    while Instant::now() < deadline {
        if let Ok(Some(ended)) = child.try_wait() {
            let words = words.and_then(|words| words.join().ok());
            let words = words.unwrap_or_default();
            let why = format!("the new node ended ({ended}), the former one goes on:\n{words}");
            return fail(Exit::Failed, why.trim_end());
        }
        if let Some(now) = who_answers(node)
            && now.pid == child.id()
        {
            return print(&format!(
                "process {} serves, version {}, upgrade {}; the former one drains\n",
                now.pid, now.version, now.generation
            ));
        }
        thread::sleep(POLL);
    }
    let limit = TAKEOVER_LIMIT.as_secs();
    fail(
        Exit::Failed,
        format_args!("process {} does not answer within {limit} s", child.id()),
    )
}

/// Between two nodes nobody may answer for a moment.
fn who_answers(node: &Node) -> Option<StatusDocument> {
    let socket = super::remote::socket(node).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(client::status(&socket)).ok()
}

/// What it says before it speaks where the former one spoke.
fn listen(child: &mut Child) -> Option<JoinHandle<String>> {
    let mut stderr = child.stderr.take()?;
    Some(thread::spawn(move || {
        let mut words = String::new();
        let _what_was_read_counts = stderr.read_to_string(&mut words);
        words
    }))
}
