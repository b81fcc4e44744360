//! One cache, one trace, how much was missed.

use std::ops::AddAssign;

use super::trace::{Request, Trace};
use crate::figures::{Better, Metric};

/// Of all requests, those that missed.
pub const OBJECT_MISSES: Metric = ratio("object_misses");
/// Of all bytes asked for, those of misses.
pub const BYTE_MISSES: Metric = ratio("byte_misses");

const fn ratio(name: &'static str) -> Metric {
    Metric {
        name,
        unit: "ratio",
        better: Better::Lower,
    }
}

/// A cache as a replay sees it: asks, and fetches what is missing.
pub trait Cache {
    /// Whether the object was there. Where not, it has been given to the cache, which may refuse.
    fn request(&mut self, request: Request) -> bool;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    pub objects: u64,
    pub bytes: u64,
}

impl Misses {
    pub fn add(&mut self, size: u32) {
        *self += Self {
            objects: 1,
            bytes: u64::from(size),
        };
    }
}

impl AddAssign for Misses {
    fn add_assign(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

/// Replays all of a trace from an empty cache.
pub fn replay(trace: &Trace, cache: &mut dyn Cache) -> Misses {
    let mut misses = Misses::default();
    for request in &trace.requests {
        if !cache.request(*request) {
            misses.add(request.size);
        }
    }
    misses
}
