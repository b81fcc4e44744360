//! `popcache probe-tier` as a child that waits for a line before each round.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::Scale;

/// What it says, a line each.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Filled {
        object_bytes: u64,
        written_bytes: u64,
    },
    Recovered {
        bytes: u64,
        seconds: f64,
        /// Rounds come next.
        last: bool,
    },
    Round {
        qd1_us: f64,
        raw_qd1_us: f64,
        qd32_iops: f64,
        raw_qd32_iops: f64,
    },
    Hits {
        writing_p99_us: f64,
        quiet_p99_us: f64,
        last: bool,
    },
}

pub struct Probe {
    child: Child,
    /// Taken at the end.
    ask: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
    ready: bool,
}

impl Probe {
    pub fn start(place: &Path, scale: &Scale) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's file")?;
        let program = own.with_file_name("popcache");
        let mut command = Command::new(&program);
        command
            .args(["probe-tier", "--json", "--paced", "--device"])
            .arg(place)
            .args(["--size", &scale.bytes.to_string()])
            .args(["--rounds", &scale.rounds.to_string()]);
        if scale.part.as_millis() < 500 {
            command.arg("--quick");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(ask), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a child without pipes");
        };
        Ok(Self {
            child,
            ask: Some(ask),
            said: BufReader::new(said).lines(),
            ready: false,
        })
    }

    /// Waits for the next finding; a round is asked for once everything before was said.
    pub fn next(&mut self) -> Result<Event> {
        if self.ready
            && let Some(ask) = &mut self.ask
        {
            writeln!(ask, "next").context("popcache probe-tier has ended")?;
        }
        let Some(line) = self.said.next() else {
            let ended = self.child.wait()?;
            bail!("popcache probe-tier ended: {ended}");
        };
        let event = serde_json::from_str(&line?).context("popcache probe-tier speaks otherwise")?;
        // It recovers three times, then waits.
        self.ready = match &event {
            Event::Filled { .. } | Event::Hits { .. } => false,
            Event::Recovered { last, .. } => *last,
            Event::Round { .. } => true,
        };
        Ok(event)
    }
}

impl Drop for Probe {
    /// It ends, and deletes its file, when its stdin does.
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.child.wait();
    }
}
