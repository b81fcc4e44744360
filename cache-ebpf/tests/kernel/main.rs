//! The real object in the real kernel: `cargo xtask build-ebpf` first, then as root.

mod budget;
mod captures;
mod fuzz;
mod packets;
mod pcap;
mod support;
mod verdicts;
