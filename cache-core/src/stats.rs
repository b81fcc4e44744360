//! Counters of one shard, written by it alone and read by anyone.
//!
//! A shard adds with a plain load and store (it is the only writer), so that counting costs no
//! locked instruction; readers may see a value one step old.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Stat(AtomicU64);

impl Stat {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Classes with counters of their own.
pub const MAX_COUNTED: usize = 64;

/// Counters of one class.
#[derive(Debug, Default)]
pub struct ClassStats {
    /// Answered from memory, fresh or stale.
    pub hits: Stat,
    /// Read back from the second tier.
    pub tier_hits: Stat,
    /// Requests that memory had no answer for.
    pub misses: Stat,
    /// Objects fetched and stored.
    pub fills: Stat,
    /// Objects written to the second tier.
    pub tier_fills: Stat,
}

impl ClassStats {
    /// Names and values.
    pub fn snapshot(&self) -> [(&'static str, u64); 5] {
        [
            ("hits", self.hits.get()),
            ("tier_hits", self.tier_hits.get()),
            ("misses", self.misses.get()),
            ("fills", self.fills.get()),
            ("tier_fills", self.tier_fills.get()),
        ]
    }
}

/// Counters by [`crate::http::routes::Routes::counted`].
#[derive(Debug)]
pub struct ByClass(Box<[ClassStats]>);

impl Default for ByClass {
    fn default() -> Self {
        Self((0..MAX_COUNTED).map(|_| ClassStats::default()).collect())
    }
}

impl ByClass {
    pub fn of(&self, number: u8) -> &ClassStats {
        &self.0[usize::from(number).min(MAX_COUNTED - 1)]
    }
}

macro_rules! shard_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Every counter of a shard. `*_refused` and `*_dropped` count bounds that were reached.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardStats {
            $($(#[$doc])* pub $name: Stat,)*
            /// Some of them by class of the route.
            pub by_class: ByClass,
        }

        impl ShardStats {
            /// Names and values, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

shard_stats! {
    /// Datagrams handed to this shard.
    datagrams_received,
    /// Datagrams given to another shard because their connection id names it.
    datagrams_handed_over,
    /// Short-header datagrams whose connection id no key of ours has made.
    datagrams_forged,
    /// Transmits written (each one datagram or a train of them).
    transmits,
    /// Bytes in those transmits.
    transmit_bytes,
    /// Open connections (gauge).
    connections,
    connections_accepted,
    /// Connections whose handshake goes on (gauge).
    handshakes,
    /// Initials answered with Retry because `limits.retry_above` handshakes went on.
    retries_sent,
    /// New clients that wait for their handshake to begin (gauge).
    arrivals_waiting,
    /// `limits.max_connections`, `limits.max_arrivals`, too long a wait or a drain refused a new client.
    connections_refused,
    connections_lost,
    /// Connections that were told to end (GOAWAY).
    goaways_sent,
    /// Times that another configuration came into force.
    reconfigured,
    /// Connections closed because the peer broke HTTP/3.
    h3_errors,
    requests,
    /// Of them, those that came in early data (0-RTT), before their client's handshake was complete.
    early_requests,
    /// Of these, those that had to wait for it.
    early_delayed,
    /// Those that wait now (gauge).
    early_waiting,
    /// `limits.max_early_waiting` refused one with 425.
    early_refused,
    /// Requests that came over HTTP/1.1 or HTTP/2.
    tcp_requests,
    /// Requests that broke a rule and were reset or answered 4xx by us.
    requests_refused,
    /// PRIORITY_UPDATEs of streams not open yet that were forgotten for later ones.
    priorities_forgotten,
    /// Requests that had been here before (508).
    loops_refused,
    /// Answered from the cache while fresh.
    hits,
    /// Answered from the cache while stale, a fetch going on behind it.
    hits_stale,
    /// Requests that were not in the cache.
    misses,
    /// Misses that joined a fetch already going on.
    collapsed,
    /// 103s of origins that were passed on to those who waited.
    early_hints,
    /// Objects read back from the second tier for requests that missed memory.
    tier_hits,
    /// Requests that must not be answered from the cache.
    bypassed,
    /// Answered 304 from the cache.
    not_modified,
    /// Answered 206, whether from the cache or from a fetch.
    ranges,
    /// Answered 416.
    ranges_unsatisfiable,
    /// Requests for more ranges than `limits.max_ranges`, answered whole.
    ranges_ignored,
    /// Requests waiting for a fetch or following one (gauge).
    waiters,
    /// `limits.max_waiters` refused a request with 503.
    waiters_refused,
    /// Fetches of shareable objects going on, owned here (gauge).
    flights,
    /// `limits.max_flights` refused a request with 503.
    flights_refused,
    /// Fetches for one request only, going on (gauge).
    passes,
    /// `limits.max_passes` refused a request with 503.
    passes_refused,
    /// Answers to requests with Authorization, and to POST, that were kept for others.
    passes_kept,
    /// The same that were not, for `limits.max_kept_pass` or `limits.max_heap_fill`.
    passes_not_kept,
    /// Body bytes of requests passed on as they came.
    request_body_bytes,
    /// Requests refused with 413 (their body is longer than `max_request_body`).
    request_bodies_too_large,
    /// Requests refused with 503 because `max_request_bodies` were under way.
    request_bodies_refused,
    /// Objects forgotten because an unsafe request to their URL succeeded (RFC 9111 section 4.4).
    invalidations,
    /// Stale objects that the origin confirmed (304).
    confirmed,
    fetches_started,
    fetches_failed,
    /// Objects stored.
    fills_stored,
    /// Fills that found no room and were streamed without being kept.
    fills_without_room,
    /// Bodies that outgrew `limits.max_heap_fill` or `max_object` on their way, and were passed on in step
    /// with those who followed.
    windows,
    /// Requests cut off because they took nothing of such a body for `limits.window_patience`.
    waiters_left_behind,
    /// Resources known to have variants (gauge).
    varying,
    /// Keys marked uncacheable (gauge).
    uncacheable,
    /// Keys whose origin does not answer ranges as it should (gauge).
    unsliceable,
    /// Large objects noted, to be kept in slices.
    objects_sliced,
    /// Slices fetched ahead of the one that a client has come to.
    slices_ahead,
    /// Slices that were of another version than the object noted, which was forgotten.
    slices_changed,
    /// Slices that were wanted while `limits.max_slice_fetches` were being fetched.
    slices_queued,
    /// Those of them that wait now (gauge).
    slices_waiting,
    /// Slices that waited for longer than `limits.slice_wait`: 503, or the answer is cut off.
    slices_refused,
    /// Responses cut off because the origin failed in the middle.
    responses_aborted,
    /// Bytes copied out of the arena because a slow client held up its reuse.
    copied_out,
    /// `limits.max_copied_out` cut a slow client's answer off.
    copied_out_refused,
    /// Body bytes written to clients.
    body_bytes,
    /// Objects in this shard's partition (gauge).
    objects,
    /// Bytes of them (gauge).
    object_bytes,
    /// Objects evicted to make room.
    evictions,
    /// Of them, those that the tier was not offered: too many made way for others in the index within
    /// one turn.
    evictions_unshown,
    /// Extents of large objects copied so that their block of memory could go to smaller ones.
    extents_moved,
    /// Keys pinned in this shard's partition (gauge).
    pins,
    /// Those of them whose object is there (gauge).
    pins_kept,
    /// Bytes of kept objects, and what they may take (gauges).
    pinned_bytes,
    pinned_budget,
    /// `memory.pinned` refused a pin, or left an awaited object unpinned.
    pins_refused,
    /// Commands to purge that this shard has carried out.
    purges,
    /// Objects with too many surrogate keys, or too long ones: every tag purge covers them.
    surrogate_keys_exceeded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_every_counter_once() {
        let stats = ShardStats::default();
        stats.hits.add(3);
        let snapshot = stats.snapshot();
        assert!(snapshot.contains(&("hits", 3)));
        let mut names: Vec<_> = snapshot.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), snapshot.len());
    }
}
