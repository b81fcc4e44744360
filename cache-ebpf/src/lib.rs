//! What the XDP program and the host know in common: how a packet is read, what a connection id
//! says, what is decided about a packet and how the maps between the two are laid out.
//!
//! Everything here is pure and compiles for both the BPF virtual machine and the host, so that the
//! code that the verifier loads into the kernel is the code that the unit tests, the differential
//! fuzz test and the benchmarks run.
//!
//! ```text
//!  packet -> parse (Ethernet, VLAN, IP, UDP) -> lists -> quic (header) -> cid (MAC) -> meter -> verdict
//!                                                                                           |
//!  maps: Rules, CidKeys, tables (read)                     Counters, buckets (written) <----'
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod cid;
pub mod event;
pub mod lists;
pub mod maps;
pub mod meter;
pub mod packet;
pub mod parse;
pub mod quic;
pub mod reason;
pub mod rule;
pub mod siphash;
pub mod tables;
pub mod vary;
pub mod verdict;
