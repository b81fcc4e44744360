//! Ctrl-C and its kin as something to ask for, so that the ordinary way out puts everything back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const TICK: Duration = Duration::from_millis(50);

/// Remembers that SIGINT, SIGTERM or SIGHUP came. Programs that we start receive them as usual.
pub struct Signals(Arc<AtomicBool>);

impl Signals {
    pub fn watch() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&came))
                .with_context(|| format!("cannot watch for signal {signal}"))?;
        }
        Ok(Self(came))
    }

    /// Waits at most this long; true when one of the signals came, now or before.
    pub fn wait(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        while !self.0.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(TICK));
        }
        true
    }
}
