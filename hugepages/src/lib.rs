//! Hugepage-backed memory, arenas of segments, and the views that keep their bytes alive.
//!
//! This is the one crate of the project where `unsafe` is expected. What it offers is safe in any
//! order of calls:
//!
//! ```text
//!  Backing::map(bytes, policy)            1 GiB | 2 MiB | transparent | plain pages, and why
//!      |  Region (unique, splits)
//!      |---- Table    64-byte lines of eight AtomicU64 (an index)
//!      '---- arena::new(region, config)
//!              |---- Writer   the owner shard: open, append, seal, retire, reclaim
//!              '---- Reader   one a shard: borrowed reads, `Bytes` views, quiescence
//! ```
//!
//! [`arena`] explains the protocol between writer and readers.

mod backing;

pub use backing::{
    Backing, BackingReport, Error, PageKind, PagePolicy, Region, Reservation, reserve_2m,
};
