//! The runtime of the node: what runs where, and how threads meet.
//!
//! ```text
//!  core i (pinned)                                     control thread (tokio)
//!   glommio executor                                    upstream, admin API, signals
//!    core_loop: packets, lanes, Shard::handle            control: lanes, commands, drain
//!    tcp: listeners and streams; door: the tasks' way to the shard
//!    disk: own io_uring ring, the tier's drives
//!    sleep: own io_uring ring, doorbell                  doorbell
//!        ^                                                   ^
//!        '---- mesh: a lane each way between any two --------'
//! ```
//!
//! This is the only place that knows glommio, io_uring, AF_XDP and raw sockets. `unsafe` lies in the
//! leaves: [`ring`], [`disk`], [`doorbell`], [`sleep`], [`tcp`] and below [`packet`].

mod bound;
pub mod clock;
pub mod control;
pub mod core_loop;
pub mod cork;
pub mod disk;
pub mod door;
pub mod doorbell;
pub mod lane;
pub mod mesh;
pub mod packet;
pub mod ring;
pub mod sleep;
pub mod spawn;
mod stop;
pub mod tcp;
