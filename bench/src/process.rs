//! Servers as child processes: started on chosen cores, awaited until ready, paused, stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of a log that an error quotes.
const QUOTED_LINES: usize = 4;

/// A running child; stopped when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Wraps a program so that it starts on `cores` and dies with us.
pub fn on_cores(program: &Path, cores: &[usize]) -> Command {
    let list: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "taskset", "-c", &list.join(",")])
        .arg(program);
    command
}

impl Process {
    /// Starts `command` with its standard error in a file of `dir` and waits until that file has a
    /// line that holds `ready`.
    ///
    /// # Errors
    /// With the end of its log where it ends or is not ready in time.
    pub fn start(name: &str, mut command: Command, dir: &Path, ready: &str) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut process = Self {
            name: name.to_owned(),
            child,
            log,
        };
        process.await_ready(ready)?;
        Ok(process)
    }

    fn await_ready(&mut self, ready: &str) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while self.ready_line(ready).is_none() {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                bail!(
                    "{} ended at its start ({status}): {}",
                    self.name,
                    self.last_words()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready after {START_TIMEOUT:?}: {}",
                    self.name,
                    self.last_words()
                );
            }
            check_interrupt()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The first whole line of the log that holds `part`.
    pub fn ready_line(&self, part: &str) -> Option<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .find(|line| line.contains(part))
            .map(str::to_owned)
    }

    /// The end of its log, in one line.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let from = lines.len().saturating_sub(QUOTED_LINES);
        if lines.is_empty() {
            "it said nothing".to_owned()
        } else {
            lines[from..].join(" | ")
        }
    }

    /// Its process and all that descend from it.
    pub fn family(&self) -> Vec<i32> {
        let mut all = vec![self.child.id() as i32];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            next += 1;
            let children =
                fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<i32>().ok()),
            );
        }
        all
    }

    /// The family without nginx's cache loader, which ends by itself after a minute and serves
    /// nothing.
    pub fn servers(&self) -> Vec<i32> {
        let mut family = self.family();
        family.retain(|pid| {
            let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !title.starts_with(b"nginx: cache loader")
        });
        family
    }

    /// Keeps the whole family off the processor until [`Process::resume`].
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in self.family() {
            // One that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.resume();
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!(
            "popcache-bench: {} did not end after SIGTERM, it is killed",
            self.name
        );
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT, SIGTERM and SIGHUP do not end the program: [`check_interrupt`] then fails, so
/// that everything made is put back on the way out. Children start with the default again.
///
/// # Errors
/// Where the system refuses.
pub fn catch_interrupts() -> Result<()> {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic, which is allowed in a signal handler.
        unsafe { sigaction(signal, &action) }.context("cannot take a signal")?;
    }
    Ok(())
}

/// # Errors
/// After a signal that asks us to end.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_server_is_awaited_and_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::start(
            "one",
            shell("echo noise >&2; echo ready now >&2; sleep 60"),
            dir.path(),
            "ready",
        );
        let server = server.expect("it gets ready");
        assert_eq!(server.ready_line("ready").as_deref(), Some("ready now"));
        let pid = server.child.id();
        assert!(!server.family().is_empty());
        server.pause();
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_server_that_ends_is_quoted() {
        let dir = tempfile::tempdir().expect("a directory");
        let failed = Process::start(
            "two",
            shell("echo no such key >&2; exit 3"),
            dir.path(),
            "ready",
        );
        let error = failed.err().expect("it ends").to_string();
        assert!(
            error.contains("no such key") && error.contains('3'),
            "{error}"
        );
    }
}
