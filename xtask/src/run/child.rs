//! A program of the demo that runs in the background until dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::signals::Signals;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How much of a log is shown when its program ends by itself.
const SHOWN_LINES: usize = 15;
const TICK: Duration = Duration::from_millis(50);

pub struct Background {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `program` with everything it prints in `log`.
    ///
    /// It leads its own process group, so that Ctrl-C reaches it through us and in our order, and it
    /// is told to end should we die without saying so.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: &[String],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt;
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Waits until a line of the log starts with `prefix`, and returns that line.
    ///
    /// # Errors
    /// The program ended, or was silent for longer than `at_most`, or the user pressed Ctrl-C.
    pub fn wait_for_line(
        &mut self,
        prefix: &str,
        at_most: Duration,
        signals: &Signals,
    ) -> anyhow::Result<String> {
        let deadline = Instant::now() + at_most;
        loop {
            let text = self.logged();
            if let Some(line) = text.lines().find(|line| line.starts_with(prefix)) {
                return Ok(line.to_owned());
            }
            self.require_running()?;
            if signals.wait(TICK) {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not say `{prefix}` within {at_most:?}; its last words ({}):\n{}",
                    self.name,
                    self.log.display(),
                    tail(&text)
                );
            }
        }
    }

    /// # Errors
    /// The program has ended by itself; the error carries its last words.
    pub fn require_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended ({status}); its last words ({}):\n{}",
                self.name,
                self.log.display(),
                tail(&self.logged())
            );
        }
        Ok(())
    }

    /// Everything that the program has printed.
    pub fn logged(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn stop(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.child.id()).map_err(std::io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(TICK);
        }
        eprintln!(
            "xtask: {} did not end within {GRACE:?}: killing it",
            self.name
        );
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: could not stop {}: {error}", self.name);
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
