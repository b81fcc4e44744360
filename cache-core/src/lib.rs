//! The cache shard without I/O.
//!
//! A shard is one core's whole cache: QUIC, HTTP/3, the index, freshness, flights and fills. It
//! owns no socket, thread or clock: a shell feeds [`io::Input`] and the time in, and carries out
//! the effects that come back in an [`io::Outbox`]. That is what lets a whole machine of shards run
//! in a simulator from one seed.
#![forbid(unsafe_code)]

pub mod config;
pub mod conn;
mod evict;
pub mod flight;
pub mod http;
mod index;
pub mod io;
pub mod policy;
pub mod purge;
mod record;
pub mod shard;
pub mod stats;
pub mod store;
pub mod tier;
pub mod upstream;
