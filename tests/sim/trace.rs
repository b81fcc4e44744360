//! The run as a number: every event is folded into one hash.

use std::fmt::Arguments;

/// FNV-1a over the events, and optionally their text.
pub struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            print,
        }
    }

    /// Folds an event at a virtual time, in nanoseconds.
    pub fn event(&mut self, at_ns: u64, what: &str, numbers: &[u64]) {
        self.events += 1;
        self.fold(&at_ns.to_le_bytes());
        self.fold(what.as_bytes());
        for number in numbers {
            self.fold(&number.to_le_bytes());
        }
        if self.print {
            println!("{:>12.6} {what} {numbers:?}", at_ns as f64 / 1e9);
        }
    }

    /// Prints without folding.
    pub fn say(&self, at_ns: u64, text: Arguments<'_>) {
        if self.print {
            println!("{:>12.6} {text}", at_ns as f64 / 1e9);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    fn fold(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
