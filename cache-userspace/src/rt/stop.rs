//! The end of a core: its shard may have something to write to the tier, and the log says how far
//! that is.

use std::time::{Duration, Instant};

use cache_core::shard::{Saved, Shard};

/// How long what the tier has taken may take to be written, beside `tier.save_at_stop`.
const SETTLE_LIMIT: Duration = Duration::from_secs(4);
/// Between two lines about it.
const LINES: Duration = Duration::from_secs(1);

/// A core that was told to stop.
pub struct Stop {
    /// When it does at the latest.
    until: Instant,
    next_line: Instant,
    /// The last line was written.
    is_told: bool,
}

impl Stop {
    /// `now`: when it was told.
    pub fn new(now: Instant, shard: &Shard) -> Self {
        Self {
            until: now + shard.save_limit() + SETTLE_LIMIT,
            next_line: now + LINES,
            is_told: false,
        }
    }

    /// Whether the core may leave its loop. To be asked once a turn.
    pub fn is_over(&mut self, now: Instant, shard: &Shard) -> bool {
        self.tell(now, shard);
        let is_late = now >= self.until;
        if is_late && !shard.is_settled() {
            tracing::warn!(
                shard = shard.id(),
                "the tier's drives do not take in time what was written to them last"
            );
        }
        is_late || shard.is_settled()
    }

    fn tell(&mut self, now: Instant, shard: &Shard) {
        let Some(saved) = shard.saved().filter(|_| !self.is_told) else {
            return;
        };
        self.is_told = saved.is_over;
        let Saved {
            objects,
            bytes,
            known,
            left,
            ..
        } = saved;
        let (shard, mib) = (shard.id(), bytes >> 20);
        if saved.is_over && objects + known + left > 0 {
            tracing::info!(
                shard,
                objects,
                mib,
                known,
                left,
                "what memory held is on the tier for the next start"
            );
        } else if now >= self.next_line {
            self.next_line = now + LINES;
            tracing::info!(
                shard,
                objects,
                mib,
                left,
                "writing what memory holds to the tier"
            );
        }
    }
}
