//! The only place where shards' time comes from.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cache_core::io::Now;

/// The time as of this call: monotonic, and the wall clock in milliseconds. A wall clock that steps
/// makes objects older or younger, never timers earlier or later.
pub fn now() -> Now {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        mono: Instant::now(),
        unix_ms: since_epoch.as_millis() as u64,
    }
}
