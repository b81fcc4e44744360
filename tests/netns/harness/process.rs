//! A program in a namespace, with its output in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(10);
/// How much of a log a failing test shows.
const SHOWN_LINES: usize = 60;

/// Stopped when dropped; its log is printed when the test is failing.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where this process's part of the log starts: a restarted program goes on in the same file.
    log_start: u64,
    stopped: bool,
}

impl Process {
    /// Starts the program; it is killed should the test die without stopping it.
    pub fn start(namespace: &str, program: &Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open a log");
        let log_start = file.metadata().expect("size of a log").len();
        let child = inside(namespace, program, &["setpriv", "--pdeathsig", "KILL"])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("share a log"))
            .stderr(file)
            .spawn()
            .expect("start a program in a namespace");
        Self {
            child,
            log: log.to_owned(),
            log_start,
            stopped: false,
        }
    }

    /// Waits for a line that starts with `prefix`, and takes it.
    pub fn wait_for_line(&mut self, prefix: &str, at_most: Duration) -> String {
        let deadline = Instant::now() + at_most;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.starts_with(prefix)) {
                return line.to_owned();
            }
            self.assert_running();
            assert!(
                Instant::now() < deadline,
                "no `{prefix}` within {at_most:?}"
            );
            thread::sleep(TICK);
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("ask for a child");
        if let Some(status) = ended {
            self.stopped = true;
            panic!("it ended by itself ({status}):\n{}", tail(&self.log()));
        }
    }

    /// The most memory that it has had resident, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("read a program's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("VmHWM in kB")
            << 10
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.end()
    }

    /// Ends it without a word (SIGKILL).
    pub fn kill(mut self) {
        self.stopped = true;
        self.child.kill().expect("kill a child");
        self.child.wait().expect("wait for a child");
    }

    /// What this process has printed.
    pub fn log(&self) -> String {
        let whole = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.log_start).expect("a small log");
        String::from_utf8_lossy(whole.get(start..).unwrap_or_default()).into_owned()
    }

    fn end(&mut self) -> ExitStatus {
        self.stopped = true;
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        if let Some(status) = self.child.try_wait().expect("ask for a child") {
            return status;
        }
        kill(pid, Signal::SIGTERM).expect("signal a child");
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("ask for a child") {
                return status;
            }
            thread::sleep(TICK);
        }
        self.child.kill().expect("kill a child");
        self.child.wait().expect("wait for a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.stopped {
            self.end();
        }
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.log()));
        }
    }
}

/// A program that another program started: nobody's child here. It is killed when this is dropped.
pub struct Orphan(Pid);

impl Orphan {
    pub fn new(pid: i32) -> Self {
        Self(Pid::from_raw(pid))
    }

    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(self) {
        kill(self.0, Signal::SIGTERM).expect("signal a program");
        wait_for_end(self.pid(), GRACE);
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if is_running(self.pid()) {
            let _it_may_have_ended = kill(self.0, Signal::SIGKILL);
            wait_for_end(self.pid(), GRACE);
        }
    }
}

/// Waits until a process has ended, by itself.
pub fn wait_for_end(pid: i32, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    while is_running(pid) {
        assert!(Instant::now() < deadline, "{pid} runs on after {at_most:?}");
        thread::sleep(TICK);
    }
}

/// One that has ended may still be waited for by its parent.
fn is_running(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(')').next().unwrap_or_default();
    !matches!(state.trim_start().chars().next(), None | Some('Z' | 'X'))
}

/// `program` as a command that runs in a namespace, started by `wrapper`.
pub fn inside(namespace: &str, program: &Command, wrapper: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .args(wrapper)
        .arg(program.get_program())
        .args(program.get_args())
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
