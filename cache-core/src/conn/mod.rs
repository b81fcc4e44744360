//! Datagrams on one side, requests and responses on the other.

pub mod client;
pub mod h3;
pub mod quic;
pub mod stream;
pub mod tcp;
