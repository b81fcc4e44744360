//! What the service manager is told (sd_notify(3)): that the node is ready, reloads, stops, and lives.
//!
//! A node lives while every shard's loop turns. A shard that sleeps is woken four times a second
//! ([`crate::rt::sleep`]), so between two ticks of the control thread each of them has turned; one that has not is
//! stuck, the watchdog is not fed, and the manager ends the node and starts it again.

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::rt::core_loop::LoopStats;

/// The service manager, if there is one: without NOTIFY_SOCKET nothing is sent.
pub struct Service {
    /// Without WATCHDOG_USEC nobody waits for a sign of life.
    is_watched: bool,
    loops: Vec<Loop>,
}

struct Loop {
    stats: Arc<LoopStats>,
    /// Rounds when the watchdog was last fed.
    seen: u64,
    /// Ticks in a row without a round.
    missed: u32,
}

/// Ticks without a round after which a shard is said to be stuck; the first one comes before any shard had time for one.
const STUCK: u32 = 3;

impl Service {
    pub fn new(loops: &[Arc<LoopStats>]) -> Self {
        let watched = |stats: &Arc<LoopStats>| Loop {
            stats: Arc::clone(stats),
            seen: 0,
            missed: 0,
        };
        Self {
            is_watched: sd_notify::watchdog_enabled().is_some(),
            loops: loops.iter().map(watched).collect(),
        }
    }

    /// Everything answers. `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Connections are drained from now on.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Process `pid` serves from now on; this one drains.
    pub fn succeeded_by(&self, pid: u32) {
        tell(&[NotifyState::MainPid(pid), NotifyState::Status("drains")]);
    }

    /// Does `reload` between the two messages that frame it.
    pub async fn reloading<T>(reload: impl Future<Output = T>) -> T {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "no monotonic clock"),
        }
        let done = reload.await;
        tell(&[NotifyState::Ready]);
        done
    }

    /// Feeds the watchdog if every shard's loop has turned since it was last fed. Call it at least twice in
    /// WATCHDOG_USEC, and not more often than shards are woken.
    pub fn tick(&mut self) {
        if self.is_watched && self.all_turned() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Says which shard is stuck, once.
    fn all_turned(&mut self) -> bool {
        let mut all = true;
        for (number, one) in self.loops.iter_mut().enumerate() {
            let has_turned = one.stats.rounds.get() != one.seen;
            one.missed = if has_turned { 0 } else { one.missed + 1 };
            if one.missed == STUCK {
                tracing::error!(
                    shard = number,
                    "its loop does not turn; the watchdog is not fed"
                );
            }
            all &= has_turned;
        }
        if all {
            for one in &mut self.loops {
                one.seen = one.stats.rounds.get();
            }
        }
        all
    }
}

/// A manager that does not listen is no reason to stop serving.
fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_if_every_loop_turns() {
        let loops: [Arc<LoopStats>; 2] = Default::default();
        let mut service = Service::new(&loops);
        let turn = |shard: usize| loops[shard].rounds.inc();
        assert!(!service.all_turned());
        turn(0);
        assert!(!service.all_turned());
        // Late, but it does turn.
        turn(1);
        assert!(service.all_turned());
        turn(1);
        assert!(!service.all_turned());
        turn(0);
        assert!(service.all_turned());
    }
}
