//! The runtime of the shards.
pub mod doorbell;
pub mod lane;
pub mod packet;
pub mod ring;
pub mod sleep;
