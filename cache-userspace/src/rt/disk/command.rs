//! What a shard asks of its drives, and what they answer.

use hugepages::blocks::Block;

/// Names an operation of one shard while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoId(pub u64);

/// Blocks go out with the command and come back with the answer.
#[derive(Debug)]
pub enum DiskCommand {
    Read {
        id: IoId,
        device: u8,
        offset: u64,
        len: u32,
        block: Block,
    },
    Write {
        id: IoId,
        device: u8,
        offset: u64,
        len: u32,
        block: Block,
    },
    Flush {
        id: IoId,
        device: u8,
    },
    Discard {
        id: IoId,
        device: u8,
        offset: u64,
        len: u64,
    },
}

/// The end of one operation.
#[derive(Debug)]
pub struct DiskDone {
    pub id: IoId,
    /// Bytes moved, or an errno.
    pub result: Result<u32, i32>,
    pub block: Option<Block>,
}
