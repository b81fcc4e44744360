//! One line on stderr that says how far a long run is, a second apart.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);

pub struct ProgressLine {
    next: Option<Instant>,
    terminal: bool,
    shown: bool,
}

impl ProgressLine {
    /// `wanted`: shows nothing at all otherwise.
    pub fn new(now: Instant, wanted: bool) -> Self {
        Self {
            next: wanted.then(|| now + EVERY),
            terminal: std::io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// Shows `line` where a second has passed.
    pub fn show(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + EVERY);
        self.shown = true;
        let line = line();
        // Nobody needs to hear that nobody reads it.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r{line}\x1b[K")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown && self.terminal {
            eprintln!();
        }
    }
}
