//! Counters of one shard's tier.

use crate::stats::Stat;

macro_rules! tier_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start, and gauges where it says so.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct TierStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl TierStats {
            /// Names and values, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Adds another shard's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }

        /// [`TierStats`] as anyone may read them while the shard runs.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct TierGauges {
            $($name: Stat,)*
        }

        impl TierGauges {
            pub fn publish(&self, stats: &TierStats) {
                $(self.$name.set(stats.$name);)*
            }

            /// Names, which begin with `tier_`, and values.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((concat!("tier_", stringify!($name)), self.$name.get()),)*]
            }
        }
    };
}

tier_stats! {
    /// Objects that can be found, and the bytes that they take (gauges).
    objects,
    object_bytes,
    /// Bytes of all segments (gauge).
    capacity_bytes,
    /// Bytes of memory that the index takes (gauge).
    index_bytes,
    /// Segments free, being written, full (gauges).
    segments_free,
    segments_open,
    segments_sealed,
    /// Segments that pinned objects hold, and those objects (gauges).
    pinned_segments,
    pinned_objects,

    /// 1: nothing is taken or written, because the node stops or two processes share the drives (gauge).
    resting,

    /// Objects offered and their bytes (key, head and body).
    offered,
    offered_bytes,
    /// Offered and on the tier already.
    known,
    /// Offered and taken.
    admitted,
    admitted_bytes,
    /// Declined because others are asked for more.
    declined_unpopular,
    declined_unpopular_bytes,
    /// Declined because enough was written for what was missed (`write_share`).
    declined_budget,
    declined_budget_bytes,
    /// Declined because they will be stale when they are likely to be asked for.
    declined_expires,
    /// Body bytes that left memory and had not come from the tier.
    missed_bytes,
    /// What an object's score must be above to be taken, in thousandths of a return to memory (gauge).
    price_milli,
    /// What the limits of bytes per second and of drive writes per day let through at once; 0 also where
    /// there is no limit (gauges).
    rate_left_bytes,
    daily_left_bytes,
    /// Declined because of the limits of bytes per second or drive writes per day.
    declined_rate,
    declined_rate_bytes,
    /// Declined because the buffers of writes to come are full (`max_write_blocks`).
    declined_no_buffer,
    declined_no_buffer_bytes,
    /// Declined because no segment could be freed.
    declined_no_segment,
    /// Declined because they can never be kept (larger than a segment or the write buffers, or with
    /// a head too long).
    declined_too_large,
    declined_too_large_bytes,
    /// Declined because the index has no room (`max_objects`).
    declined_index_full,
    /// Declined because their device failed not long ago.
    declined_device,
    /// Pins declined because pinned segments are at their share.
    declined_pins,
    /// Declined because they were purged, or the tier is stopping.
    declined_other,

    /// Fetches begun, and refused because `max_reads` were under way.
    fetches,
    fetches_refused,
    /// Fetches that were answered to the end, and the body bytes of all answers.
    served,
    served_bytes,
    /// Fetches that ended in `Missing`: the object was purged.
    missing_purged,
    /// It was another key's, or had been replaced.
    missing_other_key,
    /// Its bytes did not check.
    missing_damaged,
    /// The device said no.
    missing_io_error,
    /// It was evicted or forgotten before it could be read.
    missing_gone,
    /// Fetches that nobody waited for any more.
    cancelled,
    /// Fetches answered from a buffer that was not written yet.
    served_from_buffer,
    /// Fetches that had a chunk written early.
    chunks_hurried,
    /// Reads of devices, and their bytes.
    reads,
    read_bytes,
    /// Times that a read waited for a free block.
    read_waits,

    /// Writes of devices, and their bytes: records, padding, headers and footers.
    writes,
    written_bytes,
    /// Bytes of records among these.
    record_bytes,
    flushes,
    discards,
    /// Commands that failed.
    write_errors,
    flush_errors,
    discard_errors,
    /// Blocks that hold bytes to be written (gauge).
    write_blocks,

    /// Segments freed for room, and what lived in them.
    evicted_segments,
    evicted_objects,
    evicted_bytes,
    /// Objects forgotten by purge of their URL or because they were replaced.
    forgotten,

    /// At the start: segments read by their footer, by scanning, and those that held nothing.
    recovered_footers,
    recovered_scans,
    recovered_empty,
    /// Objects found, and left out because they were purged or the index was full.
    recovered_objects,
    recovered_purged,
    recovered_index_full,
    /// Footers that did not check, and segments that could not be read.
    recovered_bad_footers,
    recovered_read_errors,
}
