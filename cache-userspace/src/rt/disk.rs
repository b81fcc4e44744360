//! A shard's drives: carries [`DiskCommand`]s out by an io_uring of its own.
//!
//! ```text
//!  Shard --DiskCommand--> reads ---.                        .--> DiskDone --> Shard
//!                         others --+--> ring --> kernel --> reap
//! ```
//!
//! Not the ring that watches sockets ([`super::sleep`]): completions are deferred until somebody
//! reaps, and whoever reaps runs all that was deferred. A busy shard would then pay for the readiness
//! of its sockets at every packet only to hear of its drives. Both rings signal the same doorbell.
//!
//! Reads go to the kernel before everything else that waits. Blocks come out of one pool, registered
//! as one fixed buffer; the block of an operation is kept here until the kernel is done with it,
//! whatever happens.

pub mod raw;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_core::stats::Stat;
use cache_core::tier::{DiskCommand, DiskDone, IoId};
use hugepages::blocks::{Block, Pool};
use io_uring::{opcode, squeue, types};
use slab::Slab;

use super::ring::{Completion, Ring};

/// Operations that the kernel has at a time; more wait here.
pub const MAX_IN_FLIGHT: usize = 256;

/// What direct I/O goes by at the least. A transfer that ends elsewhere has met the device's end.
const SECTOR: u32 = 512;

/// How often an operation that the kernel would not take now is tried again.
const MAX_RETRIES: u8 = 8;

/// At the end, operations under way are waited for this long, then cancelled.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counters of a shard's drives.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DiskStats {
    pub reads: Stat,
    pub read_bytes: Stat,
    pub writes: Stat,
    pub write_bytes: Stat,
    pub flushes: Stat,
    pub discards: Stat,
    /// Operations that the kernel answered with an error.
    pub errors: Stat,
    /// Reads and writes that ended early and were continued.
    pub continued: Stat,
    /// Operations that waited because [`MAX_IN_FLIGHT`] were under way.
    pub queued: Stat,
    /// 1: memory could not be registered, each operation pins its own.
    pub unregistered: Stat,
}

impl DiskStats {
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("disk_reads", self.reads.get()),
            ("disk_read_bytes", self.read_bytes.get()),
            ("disk_writes", self.writes.get()),
            ("disk_write_bytes", self.write_bytes.get()),
            ("disk_flushes", self.flushes.get()),
            ("disk_discards", self.discards.get()),
            ("disk_errors", self.errors.get()),
            ("disk_continued", self.continued.get()),
            ("disk_queued", self.queued.get()),
            ("disk_unregistered", self.unregistered.get()),
        ]
    }
}

/// One drive, or a file in its place.
#[derive(Clone, Debug)]
pub struct Device {
    /// Open for direct I/O.
    pub file: Arc<File>,
    pub path: Arc<str>,
    /// Freed segments are given back to it.
    pub discard: bool,
}

/// What a shard's [`Disk`] is made of, on the shard's thread.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// In the order of their numbers.
    pub devices: Vec<Device>,
    /// Where every block comes from.
    pub pool: Pool,
    pub stats: Arc<DiskStats>,
}

/// Belongs to the thread that made it.
pub struct Disk {
    ring: Ring,
    under_way: Slab<Operation>,
    reads: VecDeque<Operation>,
    others: VecDeque<Operation>,
    /// To be handed over by the next [`Disk::reap`].
    answered: Vec<DiskDone>,
    completions: Vec<Completion>,
    /// The pool is registered.
    fixed: bool,
    devices: Vec<Device>,
    /// Where blocks lie; keeps the memory mapped while the ring lives.
    _pool: Pool,
    stats: Arc<DiskStats>,
}

/// A command and how far it is.
#[derive(Debug)]
struct Operation {
    id: IoId,
    device: u8,
    offset: u64,
    kind: Kind,
    retries: u8,
}

#[derive(Debug)]
enum Kind {
    Read(Transfer),
    Write(Transfer),
    Flush,
    Discard { len: u64 },
}

#[derive(Debug)]
struct Transfer {
    block: Block,
    len: u32,
    done: u32,
}

impl Disk {
    /// Must be called on the shard's thread.
    ///
    /// # Errors
    /// What [`Ring::new`] and the registration of descriptors can fail with. Memory that cannot be
    /// registered is not an error: it is said in the log and in `disk_unregistered`.
    pub fn new(plan: DiskPlan) -> io::Result<Self> {
        let ring = Ring::new(MAX_IN_FLIGHT as u32)?;
        let files: Vec<RawFd> = plan.devices.iter().map(|d| d.file.as_raw_fd()).collect();
        ring.register_files(&files)?;
        let bytes = plan.pool.len();
        let memory = libc::iovec {
            iov_base: plan.pool.as_ptr().cast(),
            iov_len: bytes,
        };
        // SAFETY: the pool keeps its memory mapped, and `_pool` is dropped after the ring.
        let registered = unsafe { ring.register_memory(memory) };
        if let Err(error) = &registered {
            tracing::warn!(
                %error,
                mib = bytes >> 20,
                "tier.buffers cannot be registered with io_uring, each read and write pins its own \
                 pages; raise LimitMEMLOCK= (ulimit -l) or grant CAP_IPC_LOCK"
            );
        }
        plan.stats.unregistered.set(u64::from(registered.is_err()));
        Ok(Self {
            ring,
            under_way: Slab::with_capacity(MAX_IN_FLIGHT),
            reads: VecDeque::new(),
            others: VecDeque::new(),
            answered: Vec::new(),
            completions: Vec::new(),
            fixed: registered.is_ok(),
            devices: plan.devices,
            _pool: plan.pool,
            stats: plan.stats,
        })
    }

    /// Signals `eventfd` whenever there is something to [`Disk::reap`].
    pub fn signal(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.signal(eventfd)
    }

    /// Takes all `commands` and shows the kernel as many as it may have. Their number is bounded by
    /// the pool's blocks, and by what the tier has to flush and discard.
    pub fn submit(&mut self, commands: &mut Vec<DiskCommand>) {
        self.queue(commands);
        self.show();
    }

    /// Like [`Disk::submit`], for one who calls [`Disk::wait`] next: one system call does for both.
    pub fn queue(&mut self, commands: &mut Vec<DiskCommand>) {
        let before = self.waiting();
        for command in commands.drain(..) {
            let operation = Operation::from(command);
            match operation.kind {
                Kind::Read(_) => self.reads.push_back(operation),
                _ => self.others.push_back(operation),
            }
        }
        self.pump();
        let more = self.waiting().saturating_sub(before);
        self.stats.queued.add(more as u64);
    }

    /// Hands over what is done. Does not wait, and costs no system call when nothing is.
    pub fn reap(&mut self, mut each: impl FnMut(DiskDone)) -> usize {
        if self.under_way.is_empty() && self.answered.is_empty() {
            return 0;
        }
        let mut completions = std::mem::take(&mut self.completions);
        if let Err(error) = self.ring.reap(|completion| completions.push(completion)) {
            tracing::error!(%error, "cannot reap the drives' io_uring");
        }
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.pump();
        self.show();
        let done = self.answered.len();
        self.answered.drain(..).for_each(&mut each);
        done
    }

    /// Operations that are not answered yet.
    pub fn pending(&self) -> usize {
        self.under_way.len() + self.waiting() + self.answered.len()
    }

    /// Shows the kernel what is queued, and waits for one completion at least, or until `limit` has
    /// passed.
    pub fn wait(&mut self, limit: Duration) {
        if !self.under_way.is_empty() && self.answered.is_empty() {
            // What it did not bring, the next `reap` or `wait` may.
            let _ = self.ring.wait(limit);
        }
    }

    /// The same, however long it takes.
    pub fn wait_for_one(&mut self) {
        if !self.under_way.is_empty() && self.answered.is_empty() {
            // As above.
            let _ = self.ring.submit(1);
        }
    }

    /// Operations that the kernel has no room for.
    fn waiting(&self) -> usize {
        self.reads.len() + self.others.len()
    }

    fn pump(&mut self) {
        while self.under_way.len() < MAX_IN_FLIGHT {
            let Some(operation) = self.reads.pop_front().or_else(|| self.others.pop_front()) else {
                break;
            };
            self.begin(operation);
        }
    }

    /// What the kernel does not take now stays in the ring's queue for the next turn.
    fn show(&mut self) {
        if self.ring.unsubmitted() == 0 {
            return;
        }
        match self.ring.submit(0) {
            Ok(()) => {}
            Err(error) if is_transient(error.raw_os_error()) => {}
            Err(error) => tracing::error!(%error, "cannot submit to the drives' io_uring"),
        }
    }

    fn begin(&mut self, operation: Operation) {
        if operation.is_needless(&self.devices) {
            return self.answer(operation, Err(libc::EOPNOTSUPP));
        }
        let slot = self.under_way.vacant_entry();
        let key = slot.key() as u64;
        let operation = slot.insert(operation);
        let entry = operation.entry(self.fixed).user_data(key);
        // SAFETY: the block, if there is one, is owned by `operation`, which stays in `under_way`
        // until the completion was reaped (or for ever, see `drop`).
        let pushed = unsafe { self.ring.push(&entry) };
        assert!(pushed, "the ring has an entry for every operation");
    }

    fn complete(&mut self, completion: Completion) {
        let Some(mut operation) = self.under_way.try_remove(completion.token as usize) else {
            return;
        };
        match operation.advance(completion.result) {
            Step::Done(result) => self.answer(operation, result),
            Step::Again => {
                self.stats.continued.inc();
                match operation.kind {
                    Kind::Read(_) => self.reads.push_front(operation),
                    _ => self.others.push_front(operation),
                }
            }
            Step::Unsupported => {
                let device = &mut self.devices[usize::from(operation.device)];
                device.discard = false;
                tracing::info!(device = %device.path, "it takes no discards, none are sent any more");
                self.answer(operation, Err(libc::EOPNOTSUPP));
            }
        }
    }

    fn answer(&mut self, operation: Operation, result: Result<u32, i32>) {
        self.count(&operation.kind, &result);
        let block = match operation.kind {
            Kind::Read(transfer) | Kind::Write(transfer) => Some(transfer.block),
            Kind::Flush | Kind::Discard { .. } => None,
        };
        self.answered.push(DiskDone {
            id: operation.id,
            result,
            block,
        });
    }

    fn count(&self, kind: &Kind, result: &Result<u32, i32>) {
        let bytes = u64::from(result.unwrap_or(0));
        match kind {
            Kind::Read(_) => {
                self.stats.reads.inc();
                self.stats.read_bytes.add(bytes);
            }
            Kind::Write(_) => {
                self.stats.writes.inc();
                self.stats.write_bytes.add(bytes);
            }
            Kind::Flush => self.stats.flushes.inc(),
            Kind::Discard { .. } => self.stats.discards.inc(),
        }
        if result.is_err() {
            self.stats.errors.inc();
        }
    }

    /// Waits until the kernel is done with every block, and cancels what takes longer than
    /// `patience`. False: even that did not help.
    fn quiet(&mut self, patience: Duration) -> bool {
        self.reads.clear();
        self.others.clear();
        let end = Instant::now() + patience;
        while !self.under_way.is_empty() && Instant::now() < end {
            self.wait(end.saturating_duration_since(Instant::now()));
            self.forget_completed();
        }
        if !self.under_way.is_empty() {
            let _ = self.ring.cancel_all(Duration::from_secs(1));
            self.forget_completed();
        }
        self.under_way.is_empty()
    }

    fn forget_completed(&mut self) {
        let under_way = &mut self.under_way;
        let _ = self.ring.reap(|completion| {
            under_way.try_remove(completion.token as usize);
        });
    }
}

impl Drop for Disk {
    /// The kernel may still write into blocks that it was never seen to finish: those are lost to
    /// their pool rather than given to somebody else.
    fn drop(&mut self) {
        if !self.quiet(PATIENCE) {
            let lost = self.under_way.len();
            tracing::error!(lost, "the kernel does not end reads and writes of a drive");
            std::mem::forget(std::mem::take(&mut self.under_way));
        }
    }
}

/// What follows from a completion.
enum Step {
    Done(Result<u32, i32>),
    Again,
    Unsupported,
}

impl Operation {
    fn is_needless(&self, devices: &[Device]) -> bool {
        matches!(self.kind, Kind::Discard { .. }) && !devices[usize::from(self.device)].discard
    }

    fn entry(&mut self, fixed: bool) -> squeue::Entry {
        let file = types::Fixed(u32::from(self.device));
        match &mut self.kind {
            Kind::Read(transfer) => {
                let offset = self.offset + u64::from(transfer.done);
                let (start, len) = transfer.rest();
                match fixed {
                    true => opcode::ReadFixed::new(file, start, len, 0)
                        .offset(offset)
                        .build(),
                    false => opcode::Read::new(file, start, len).offset(offset).build(),
                }
            }
            Kind::Write(transfer) => {
                let offset = self.offset + u64::from(transfer.done);
                let (start, len) = transfer.rest();
                match fixed {
                    true => opcode::WriteFixed::new(file, start, len, 0)
                        .offset(offset)
                        .build(),
                    false => opcode::Write::new(file, start, len).offset(offset).build(),
                }
            }
            Kind::Flush => opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Kind::Discard { len } => opcode::Fallocate::new(file, *len)
                .offset(self.offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        }
    }

    fn advance(&mut self, result: i32) -> Step {
        if let Ok(bytes) = u32::try_from(result) {
            return match &mut self.kind {
                Kind::Read(transfer) | Kind::Write(transfer) => transfer.advance(bytes),
                Kind::Flush | Kind::Discard { .. } => Step::Done(Ok(0)),
            };
        }
        let errno = -result;
        if is_transient(Some(errno)) && self.retries < MAX_RETRIES {
            self.retries += 1;
            return Step::Again;
        }
        match (&self.kind, errno) {
            (Kind::Discard { .. }, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => {
                Step::Unsupported
            }
            _ => Step::Done(Err(errno)),
        }
    }
}

impl Transfer {
    fn new(block: Block, len: u32) -> Self {
        assert!(len as usize <= block.len(), "a transfer fits its block");
        Self {
            block,
            len,
            done: 0,
        }
    }

    fn rest(&mut self) -> (*mut u8, u32) {
        let start = self.block[self.done as usize..].as_mut_ptr();
        (start, self.len - self.done)
    }

    /// A transfer that stops within a sector, or moves nothing, has met the end of the device: the
    /// answer says how much there was.
    fn advance(&mut self, bytes: u32) -> Step {
        self.done = self.done.saturating_add(bytes).min(self.len);
        match bytes == 0 || self.done == self.len || !self.done.is_multiple_of(SECTOR) {
            true => Step::Done(Ok(self.done)),
            false => Step::Again,
        }
    }
}

impl From<DiskCommand> for Operation {
    fn from(command: DiskCommand) -> Self {
        let (id, device, offset, kind) = match command {
            DiskCommand::Read {
                id,
                device,
                offset,
                len,
                block,
            } => (id, device, offset, Kind::Read(Transfer::new(block, len))),
            DiskCommand::Write {
                id,
                device,
                offset,
                len,
                block,
            } => (id, device, offset, Kind::Write(Transfer::new(block, len))),
            DiskCommand::Flush { id, device } => (id, device, 0, Kind::Flush),
            DiskCommand::Discard {
                id,
                device,
                offset,
                len,
            } => (id, device, offset, Kind::Discard { len }),
        };
        Self {
            id,
            device,
            offset,
            kind,
            retries: 0,
        }
    }
}

fn is_transient(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EAGAIN | libc::EINTR | libc::EBUSY))
}

#[cfg(test)]
mod tests;
