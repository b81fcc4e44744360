//! The edge towards a shard: its events on a bounded channel, and the credit of one fetch.

use std::sync::atomic::{AtomicU64, Ordering};

use cache_core::io::{FetchEvent, FetchId};
use tokio::sync::{Notify, mpsc};

/// Carries the fetch events of one shard. Cheap to clone; a full channel makes fetches wait, which
/// in turn stops reading from their origins.
#[derive(Clone, Debug)]
pub struct EventSender {
    channel: mpsc::Sender<(FetchId, FetchEvent)>,
}

/// A channel for the events of one shard that holds at most `capacity` (at least 1).
pub fn event_channel(capacity: usize) -> (EventSender, mpsc::Receiver<(FetchId, FetchEvent)>) {
    let (channel, receiver) = mpsc::channel(capacity.max(1));
    (EventSender { channel }, receiver)
}

/// Nobody receives the events of this shard any more.
#[derive(Debug)]
pub(crate) struct ShardGone;

impl EventSender {
    /// Waits for room and sends.
    pub(crate) async fn send(&self, id: FetchId, event: FetchEvent) -> Result<(), ShardGone> {
        self.channel.send((id, event)).await.map_err(|_| ShardGone)
    }

    /// Sends now where there is room; what may be lost is lost where there is none.
    pub(super) fn send_if_room(&self, id: FetchId, event: FetchEvent) {
        let _full_or_gone = self.channel.try_send((id, event));
    }

    /// Sends now where there is room, else from a task of its own once there is.
    pub(super) fn send_soon(&self, id: FetchId, event: FetchEvent) {
        if let Err(mpsc::error::TrySendError::Full((id, event))) =
            self.channel.try_send((id, event))
        {
            let sender = self.clone();
            tokio::spawn(async move {
                // A shard that is gone wants no answer.
                let _ = sender.send(id, event).await;
            });
        }
    }
}

/// Body bytes that a fetch may still deliver. The shard grants, one fetch takes.
#[derive(Debug)]
pub(super) struct Credit {
    bytes: AtomicU64,
    granted: Notify,
}

impl Credit {
    pub(super) fn new(window: u32) -> Self {
        Self {
            bytes: AtomicU64::new(u64::from(window)),
            granted: Notify::new(),
        }
    }

    pub(super) fn grant(&self, bytes: u32) {
        self.bytes.fetch_add(u64::from(bytes), Ordering::AcqRel);
        // Kept as a permit when the fetch is not waiting just now.
        self.granted.notify_one();
    }

    /// Waits for credit and takes 1 to `most` bytes of it.
    pub(super) async fn take(&self, most: usize) -> usize {
        loop {
            let available = self.bytes.load(Ordering::Acquire);
            if available > 0 {
                let taken =
                    usize::try_from(available).map_or(most, |available| most.min(available));
                self.bytes.fetch_sub(taken as u64, Ordering::AcqRel);
                return taken;
            }
            self.granted.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use cache_core::io::{FetchError, FetchErrorKind};

    use super::*;

    #[tokio::test]
    async fn credit_is_taken_once_and_waited_for() {
        let credit = Credit::new(10);
        assert_eq!(credit.take(4).await, 4);
        assert_eq!(credit.take(100).await, 6);
        let mut waiting = pin!(credit.take(100));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        credit.grant(3);
        assert_eq!(waiting.await, 3);
    }

    #[tokio::test]
    async fn an_answer_at_once_survives_a_full_channel() {
        let (sender, mut receiver) = event_channel(1);
        let failed = || {
            FetchEvent::Failed(FetchError {
                kind: FetchErrorKind::LimitReached,
                detail: "full".to_owned(),
            })
        };
        for id in 0..3 {
            sender.send_soon(FetchId(id), failed());
        }
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(receiver.recv().await.expect("sender lives").0);
        }
        seen.sort();
        assert_eq!(seen, [FetchId(0), FetchId(1), FetchId(2)]);
    }
}
