//! The classic BPF program that gives a datagram to the socket of the shard its connection id names.
//!
//! A connection id of ours is 12 bytes, `[key id][shard][nonce: 6][mac: 4]`; the mac cannot be
//! checked here, so the shard checks it. Datagrams that carry no such id (a client's first ones)
//! fall back to the kernel's hash of the addresses, which keeps a client on one shard as well.

use std::os::fd::AsFd;

use cache_ebpf::cid::CID_LEN;
use libc::{
    BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, sock_filter, sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

/// Set in a long header, RFC 8999 section 5.1.
const LONG_HEADER: u32 = 0x80;
/// Where a long header has its destination connection id's length; the id follows.
const LONG_CID_LEN_AT: u32 = 5;
const SHARD_IN_CID: u32 = 1;
/// No socket has this number: the kernel then uses its hash.
const BY_HASH: u32 = u32::MAX;

const LOAD: u32 = BPF_LD | BPF_B | BPF_ABS;
/// `BPF_RET | BPF_A`: the accumulator is the socket's number in its group.
const RETURN_A: u32 = BPF_RET | 0x10;

/// Loads that reach behind the datagram end the program with 0, the first shard.
const PROGRAM: [sock_filter; 9] = [
    step(LOAD, 0),
    jump(BPF_JMP | BPF_JSET | BPF_K, LONG_HEADER, 2, 0),
    // Short header: the id is at 1.
    step(LOAD, 1 + SHARD_IN_CID),
    step(RETURN_A, 0),
    // Long header: only an id of our length can be ours.
    step(LOAD, LONG_CID_LEN_AT),
    jump(BPF_JMP | BPF_JEQ | BPF_K, CID_LEN as u32, 0, 2),
    step(LOAD, LONG_CID_LEN_AT + 1 + SHARD_IN_CID),
    step(RETURN_A, 0),
    step(BPF_RET | BPF_K, BY_HASH),
];

const fn step(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

const fn jump(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

/// Steers the reuseport group that `socket` belongs to. The sockets of the group must have been
/// bound in the order of their shards.
pub fn attach(socket: &impl AsFd) -> nix::Result<()> {
    let mut program = PROGRAM;
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    setsockopt(socket, AttachReusePortCbpf, &program)
}
