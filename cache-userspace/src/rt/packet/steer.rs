//! The classic BPF program that gives a datagram to the socket of the shard its connection id names.
//!
//! A connection id of ours is 12 bytes, `[key id][shard][nonce: 6][mac: 4]`; the mac cannot be
//! checked here, so the shard checks it. Datagrams that carry no such id (a client's first ones) go by a
//! byte of the id that the client made up, which keeps a handshake on one shard as well.
//!
//! While a node takes over from another ([`crate::upgrade`]), the group has two sockets a shard: those of
//! the new node first, then those by which the former one serves its own connections to their end. The
//! key of a connection id then says which of the two made it.

use std::os::fd::AsFd;

use cache_ebpf::cid::{CID_KEY_SLOTS, CID_LEN};
use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
    BPF_MOD, BPF_RET, sock_filter, sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

/// Set in a long header, RFC 8999 section 5.1.
const LONG_HEADER: u32 = 0x80;
/// Where a short header has its destination connection id.
const SHORT_CID_AT: u32 = 1;
/// Where a long header has the length of its destination connection id; the id follows.
const LONG_CID_LEN_AT: u32 = 5;
const LONG_CID_AT: u32 = 6;
const SHARD_IN_CID: u32 = 1;

const LOAD: u32 = BPF_LD | BPF_B | BPF_ABS;
/// `BPF_RET | BPF_A`: the accumulator is the socket's number in its group.
const RETURN_A: u32 = BPF_RET | 0x10;

/// Steers the reuseport group that `socket` belongs to. Its first `shards` sockets must have been bound in the
/// order of their shards. `former`: so many more follow, for the ids of that key and of the three before it.
pub fn attach(socket: &impl AsFd, shards: u8, former: Option<u8>) -> nix::Result<()> {
    let mut program = program(u32::from(shards.max(1)), former);
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    setsockopt(socket, AttachReusePortCbpf, &program)
}

/// Loads that reach behind the datagram end the program with 0, the first shard.
fn program(shards: u32, former: Option<u8>) -> Vec<sock_filter> {
    let short = by_key(SHORT_CID_AT, shards, former);
    let mut long = Vec::new();
    if former.is_some() {
        let ours = by_key(LONG_CID_AT, shards, former);
        long.push(step(LOAD, LONG_CID_LEN_AT));
        // Only an id of our length can be ours.
        let is_other = ours.len() as u8;
        long.push(jump(BPF_JEQ, CID_LEN as u32, 0, is_other));
        long.extend(ours);
    }
    long.extend(by_key(LONG_CID_AT, shards, None));
    let mut program = vec![
        step(LOAD, 0),
        jump(BPF_JSET, LONG_HEADER, short.len() as u8, 0),
    ];
    program.extend(short);
    program.extend(long);
    program
}

/// From a connection id at `at` to the number of a socket.
fn by_key(at: u32, shards: u32, former: Option<u8>) -> Vec<sock_filter> {
    let by_shard = [
        step(LOAD, at + SHARD_IN_CID),
        step(BPF_ALU | BPF_MOD | BPF_K, shards),
    ];
    let mut steps = Vec::new();
    if let Some(last) = former {
        let keys = CID_KEY_SLOTS as u32;
        let first = u32::from(last.wrapping_sub(keys as u8 - 1));
        steps.push(step(LOAD, at));
        steps.push(step(BPF_ALU | BPF_ADD | BPF_K, 256 - first));
        steps.push(step(BPF_ALU | BPF_AND | BPF_K, 255));
        steps.push(jump(BPF_JGT, keys - 1, by_shard.len() as u8 + 2, 0));
        steps.extend(by_shard);
        steps.push(step(BPF_ALU | BPF_ADD | BPF_K, shards));
        steps.push(step(RETURN_A, 0));
    }
    steps.extend(by_shard);
    steps.push(step(RETURN_A, 0));
    steps
}

const fn step(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(how: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | how | BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    }
}
