//! Responses before the final one (1xx): counted, bounded, and what of a 103 is for clients.
//!
//! A 100 answers nobody: requests go out without Expect. 102 and unknown ones say nothing that a client
//! of a cache could use.

use std::sync::atomic::{AtomicU32, Ordering};

use cache_core::http::interim::hints;
use cache_core::io::{FetchEvent, FetchId};
use http::{HeaderMap, StatusCode};
use tokio::sync::Notify;

use super::events::EventSender;

/// What one request has been told before its answer.
#[derive(Debug)]
pub(super) struct Interim {
    /// Who is told of hints, and by what name.
    told: Option<(FetchId, EventSender)>,
    pub(super) max: u32,
    seen: AtomicU32,
    flooded: Notify,
}

impl Interim {
    /// `told`: whose clients get hints.
    pub(super) fn new(max: u32, told: Option<(FetchId, EventSender)>) -> Self {
        Self {
            told,
            max,
            seen: AtomicU32::new(0),
            flooded: Notify::new(),
        }
    }

    /// One has come.
    pub(super) fn saw(&self, status: StatusCode, headers: &HeaderMap) {
        if self.seen.fetch_add(1, Ordering::Relaxed) >= self.max {
            // Kept as a permit where nobody waits just now.
            self.flooded.notify_one();
            return;
        }
        if status == StatusCode::EARLY_HINTS
            && let Some((id, events)) = &self.told
            && let Some(hints) = hints(headers)
        {
            events.send_if_room(*id, FetchEvent::Hints(hints));
        }
    }

    /// There were more than may be.
    pub(super) fn is_flooded(&self) -> bool {
        self.seen.load(Ordering::Relaxed) > self.max
    }

    /// Waits until there were more than may be.
    pub(super) async fn flood(&self) {
        self.flooded.notified().await;
    }
}
