//! Counting tests from what the test runners print, for one closing line.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::Context;

/// How many tests ran, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs a test runner with its output on the terminal, and counts what it says it ran. A runner that
/// fails without having reported a failed test (it did not compile, say) counts as one failure.
pub fn run_counted(command: &mut Command) -> anyhow::Result<Count> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let errors = thread::spawn(move || relay(stderr, std::io::stderr()));
    let mut count = relay(stdout, std::io::stdout());
    count += errors.join().unwrap_or_default();
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

fn relay(from: impl std::io::Read, mut to: impl Write) -> Count {
    let mut count = Count::default();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if let Some(one) = parse(&line) {
            count += one;
        }
        // A closed terminal must not end the tests.
        if writeln!(to, "{line}").is_err() {
            continue;
        }
    }
    count
}

/// Reads the closing line of `cargo test` or of nextest.
fn parse(line: &str) -> Option<Count> {
    let line = without_colour(line);
    let line = line.trim();
    let counts = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". "))
        .map(|(_, counts)| counts)
        .or_else(|| {
            line.strip_prefix("Summary ")?
                .split_once("run: ")
                .map(|(_, counts)| counts)
        })?;
    Some(Count {
        passed: number_before(counts, "passed"),
        failed: number_before(counts, "failed") + number_before(counts, "timed out"),
    })
}

fn number_before(counts: &str, word: &str) -> u64 {
    counts
        .split([',', ';', '('])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, text)| text);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cargo_tests_line() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(
            parse(line),
            Some(Count {
                passed: 12,
                failed: 3
            })
        );
    }

    #[test]
    fn reads_nextests_line_with_colour() {
        let line = "\x1b[32;1m     Summary\x1b[0m [   0.5s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped";
        assert_eq!(
            parse(line),
            Some(Count {
                passed: 7,
                failed: 2
            })
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(parse("test conn::opens ... ok"), None);
        assert_eq!(parse("running 5 tests"), None);
    }

    #[test]
    fn a_runner_that_dies_counts_as_a_failure() {
        let count = run_counted(Command::new("sh").args(["-c", "exit 101"])).unwrap();
        assert_eq!(
            count,
            Count {
                passed: 0,
                failed: 1
            }
        );
    }
}
