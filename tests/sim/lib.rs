//! Whole shards under virtual time, from one seed.
//!
//! A world is a node of one to three real [`cache_core::shard::Shard`]s, their lanes, a lossy
//! network, real QUIC clients (quinn-proto), others whose requests come over TCP by way of a shell that is
//! not simulated, and an origin that may be slow, fail, truncate or lie.
//! Everything random is drawn from the seed, time is an event queue, and nothing else is an input:
//! the same seed gives the same run, told by the hash of its trace.
//!
//! ```text
//!  clients --datagrams--> network (loss, delay, duplication, misrouting) --> shards
//!     ^                                                                      |  ^
//!     '------------------------ datagrams <----------------------------------'  | lanes
//!                              origin <--fetch commands / events----------------'
//! ```
//!
//! What must hold ([`checks`]): a body is one that the origin sent for that key, and was still
//! fresh; an answer for one is never given to another; nothing purged is served afterwards; never
//! two concurrent shared fetches of a key; every request is answered or reset; and in the end
//! nothing is held.
#![forbid(unsafe_code)]

pub mod checks;
pub mod client;
mod disk;
pub mod lab;
pub mod origin;
pub mod plan;
mod ranges;
pub mod rates;
mod tcp;
pub mod tls;
pub mod trace;
pub mod world;

pub use world::{Report, run};
