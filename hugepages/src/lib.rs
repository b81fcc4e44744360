//! Hugepage-backed memory, arenas of segments, and the views that keep their bytes alive.
//!
//! This is the one crate of the project where `unsafe` is expected. What it offers is safe in any
//! order of calls:
//!
//! ```text
//!  Backing::map(bytes, policy)            1 GiB | 2 MiB | transparent | plain pages, and why
//!      |  Region (unique, splits)
//!      |---- Table    64-byte lines of eight AtomicU64 (an index)
//!      |---- Pool     equal blocks for device I/O, one holder each
//!      '---- Arena::split(region, ..), or ::overlay(region, ..) for two over one memory
//!              |---- Writer   the owner shard: open, append, seal, retire, reclaim
//!              '---- Reader   one a shard: borrowed reads, `Bytes` views, quiescence
//! ```
//!
//! [`arena`] explains the protocol between writer and readers.
//!
//! # Checking it
//! Models of the arena's protocol and of the cache's index under loom (which also sees unordered
//! accesses), and the tests under the address sanitizer:
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p hugepages --release --test loom --test loom_index \
//!     --target-dir target/loom
//! cargo xtask sanitize
//! ```

pub mod arena;
mod backing;
pub mod blocks;
mod free;
mod memory;
mod prefetch;
mod reader;
mod sync;
mod table;
mod writer;

pub use arena::{Arena, Overlay};
pub use backing::{
    Backing, BackingReport, Error, PageKind, PagePolicy, Region, Reservation, reserve_2m,
};
pub use prefetch::prefetch;
pub use reader::Reader;
pub use table::{Line, Table, Word};
pub use writer::Writer;
