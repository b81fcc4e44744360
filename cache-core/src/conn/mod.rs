//! Datagrams on one side, requests and responses on the other.

pub mod h3;
