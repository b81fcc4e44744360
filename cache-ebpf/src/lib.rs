//! What the XDP program and the host know in common: how a packet is read, what a connection id
//! says, what is decided about a packet and how the maps between the two are laid out.
//!
//! Everything here is pure and compiles for both the BPF virtual machine and the host, so that the
//! code that the verifier loads into the kernel is the code that the unit tests, the differential
//! fuzz test and the benchmarks run.
//!
//! ```text
//!  packet -> parse (Ethernet, VLAN, IP, UDP) -> quic (header) -> cid (MAC) -> verdict
//!                                                                               |
//!  maps: Rules, CidKeys (read)                         Counters (written) <-----'
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod cid;
pub mod maps;
pub mod packet;
pub mod parse;
pub mod quic;
pub mod reason;
pub mod siphash;
pub mod verdict;
