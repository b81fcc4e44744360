//! Counters of one shard, written by it alone and read by anyone.
