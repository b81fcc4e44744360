//! Blocking direct reads and writes, as they are needed before a shard runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use hugepages::blocks::{Block, Pool};
use hugepages::{Backing, PagePolicy};

/// Bytes that direct I/O can be done with.
pub struct Buffer(Block);

impl Buffer {
    /// `bytes`: a multiple of 4 KiB, zeroed.
    ///
    /// # Errors
    /// No memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let (region, _) = Backing::map(bytes, PagePolicy::Plain).map_err(io::Error::other)?;
        let pool = Pool::new(region, bytes).map_err(io::Error::other)?;
        let block = pool.take().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(block))
    }

    /// Reads from `offset` until `len` bytes are there or the device ends.
    pub fn read(&mut self, file: &File, offset: u64, len: usize) -> io::Result<&[u8]> {
        let mut done = 0;
        while done < len {
            match file.read_at(&mut self.0[done..len], offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Direct I/O cannot go on within a sector: that was the end.
                Err(_) if done > 0 && !done.is_multiple_of(512) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(&self.0[..done])
    }

    /// All of it, as it was last read or written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Writes `bytes`, and zeros up to the buffer's length, at `offset`.
    pub fn write(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[..bytes.len()].copy_from_slice(bytes);
        self.0[bytes.len()..].fill(0);
        file.write_all_at(&self.0, offset)
    }
}
