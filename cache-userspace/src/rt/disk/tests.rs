//! On real files with O_DIRECT, a loop device where one can be had, and devices that fail.

use std::fs::OpenOptions;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use hugepages::{Backing, PagePolicy};
use nix::sys::eventfd::EventFd;

use super::*;
use crate::tier_files::scratch::{LoopDevice, directory};

const BLOCK: usize = 64 << 10;

fn pool(blocks: usize, bytes: usize) -> Pool {
    let (region, _) = Backing::map(blocks * bytes, PagePolicy::Plain).expect("memory");
    Pool::new(region, bytes).expect("pool")
}

fn device(path: &Path, flags: i32) -> Device {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(!path.starts_with("/dev"))
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Device {
        file: Arc::new(file),
        path: path.display().to_string().into(),
        discard: true,
    }
}

fn disk(device: Device, pool: &Pool) -> Disk {
    Disk::new(DiskPlan {
        devices: vec![device],
        pool: pool.clone(),
        stats: Arc::default(),
    })
    .expect("io_uring")
}

fn scratch(dir: &tempfile::TempDir, bytes: u64) -> Device {
    let device = device(&dir.path().join("tier"), libc::O_DIRECT);
    device.file.set_len(bytes).expect("length");
    device
}

fn read(id: u64, offset: u64, block: Block) -> DiskCommand {
    DiskCommand::Read {
        id: IoId(id),
        device: 0,
        offset,
        len: block.len() as u32,
        block,
    }
}

fn write(id: u64, offset: u64, mut block: Block, byte: u8) -> DiskCommand {
    block.fill(byte);
    DiskCommand::Write {
        id: IoId(id),
        device: 0,
        offset,
        len: block.len() as u32,
        block,
    }
}

/// Submits all and waits until each is answered, in the order of their ids.
fn carry_out(disk: &mut Disk, mut commands: Vec<DiskCommand>) -> Vec<DiskDone> {
    disk.submit(&mut commands);
    let mut done = Vec::new();
    while disk.pending() > 0 {
        disk.wait(Duration::from_secs(10));
        disk.reap(|answer| done.push(answer));
    }
    done.sort_by_key(|answer| answer.id.0);
    done
}

fn writes_come_back(disk: &mut Disk, pool: &Pool) {
    let block = || pool.take().expect("a block");
    let offset = |n: u64| n * BLOCK as u64;
    let commands = (0..4).map(|n| write(n, offset(n), block(), n as u8 + 1));
    let done = carry_out(disk, commands.collect());
    assert!(
        done.iter().all(|d| d.result == Ok(BLOCK as u32)),
        "{done:?}"
    );
    drop(done);
    let flushed = carry_out(
        disk,
        vec![DiskCommand::Flush {
            id: IoId(9),
            device: 0,
        }],
    );
    assert_eq!((flushed.len(), &flushed[0].result), (1, &Ok(0)));
    let done = carry_out(disk, (0..4).map(|n| read(n, offset(n), block())).collect());
    for (n, answer) in done.iter().enumerate() {
        assert_eq!(answer.result, Ok(BLOCK as u32));
        let bytes = answer.block.as_ref().expect("the block comes back");
        assert!(bytes.iter().all(|b| usize::from(*b) == n + 1));
    }
}

#[test]
fn what_is_written_is_read_by_registered_memory_and_without() {
    let (dir, pool) = (directory(), pool(4, BLOCK));
    let mut disk = disk(scratch(&dir, 1 << 20), &pool);
    writes_come_back(&mut disk, &pool);
    disk.fixed = false;
    writes_come_back(&mut disk, &pool);
    assert_eq!(disk.stats.writes.get(), 8);
    assert_eq!(disk.stats.read_bytes.get(), 8 * BLOCK as u64);
    assert_eq!((disk.stats.flushes.get(), disk.stats.errors.get()), (2, 0));
}

#[test]
fn a_block_device_does_the_same() {
    let (dir, pool) = (directory(), pool(4, BLOCK));
    let Some(block_device) = LoopDevice::over(&dir.path().join("image"), 1 << 20) else {
        return;
    };
    let mut disk = disk(device(&block_device.node, libc::O_DIRECT), &pool);
    writes_come_back(&mut disk, &pool);
    let done = carry_out(
        &mut disk,
        vec![DiskCommand::Discard {
            id: IoId(1),
            device: 0,
            offset: 0,
            len: BLOCK as u64,
        }],
    );
    assert!(matches!(done[0].result, Ok(0) | Err(libc::EOPNOTSUPP)));
    let done = carry_out(&mut disk, vec![read(2, 0, pool.take().expect("a block"))]);
    let bytes = done[0].block.as_ref().expect("the block comes back");
    assert!(!disk.devices[0].discard || bytes.iter().all(|b| *b == 0));
}

#[test]
fn a_read_beyond_the_end_says_how_much_there_was() {
    let (dir, pool) = (directory(), pool(1, BLOCK));
    let device = scratch(&dir, 4 * BLOCK as u64);
    let file = device.file.clone();
    let mut disk = disk(device, &pool);
    for (left, expected) in [
        (BLOCK as u64 + 8192, 8192),
        (BLOCK as u64 + 100, 100),
        (5, 0),
    ] {
        file.set_len(left).expect("truncate");
        let commands = vec![read(0, BLOCK as u64, pool.take().expect("a block"))];
        let done = carry_out(&mut disk, commands);
        assert_eq!(done[0].result, Ok(expected));
    }
}

#[test]
fn errors_come_with_their_number_and_give_the_block_back() {
    let pool = pool(1, BLOCK);
    let mut full = disk(device(Path::new("/dev/full"), 0), &pool);
    let commands = vec![write(0, 0, pool.take().expect("a block"), 1)];
    let done = carry_out(&mut full, commands);
    assert_eq!(done[0].result, Err(libc::ENOSPC));
    assert!(done[0].block.is_some() && full.stats.errors.get() == 1);
    drop(done);

    let dir = directory();
    let path = dir.path().join("tier");
    std::fs::write(&path, vec![1; BLOCK]).expect("file");
    let mut writes_only = device(&path, libc::O_DIRECT);
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    writes_only.file = Arc::new(file);
    let mut disk = disk(writes_only, &pool);
    let done = carry_out(&mut disk, vec![read(0, 0, pool.take().expect("a block"))]);
    assert_eq!(done[0].result, Err(libc::EBADF));
}

#[test]
fn a_discard_frees_what_the_file_system_had_given() {
    let (dir, pool) = (directory(), pool(4, BLOCK));
    let device = scratch(&dir, 1 << 20);
    let file = device.file.clone();
    let mut disk = disk(device, &pool);
    writes_come_back(&mut disk, &pool);
    let before = file.metadata().expect("metadata").blocks();
    let discard = |id, len| DiskCommand::Discard {
        id: IoId(id),
        device: 0,
        offset: 0,
        len,
    };
    let done = carry_out(&mut disk, vec![discard(0, 2 * BLOCK as u64)]);
    assert_eq!(done[0].result, Ok(0));
    let after = file.metadata().expect("metadata");
    assert_eq!(after.blocks() + 2 * BLOCK as u64 / 512, before);
    assert_eq!(after.len(), 1 << 20, "its length stays");
}

#[test]
fn a_device_that_takes_no_discards_is_not_asked_again() {
    let pool = pool(1, BLOCK);
    let mut disk = disk(device(Path::new("/dev/null"), 0), &pool);
    for id in 0..2 {
        let discard = DiskCommand::Discard {
            id: IoId(id),
            device: 0,
            offset: 0,
            len: 4096,
        };
        let done = carry_out(&mut disk, vec![discard]);
        assert_eq!(done[0].result, Err(libc::EOPNOTSUPP));
        assert!(!disk.devices[0].discard);
    }
}

#[test]
fn past_the_bound_operations_wait_and_reads_go_first() {
    const SMALL: usize = 4096;
    let (dir, pool) = (directory(), pool(MAX_IN_FLIGHT + 20, SMALL));
    let mut disk = disk(scratch(&dir, 2 << 20), &pool);
    let block = || pool.take().expect("a block");
    let mut commands: Vec<DiskCommand> = (0..MAX_IN_FLIGHT as u64 + 10)
        .map(|n| write(n, n * SMALL as u64, block(), 1))
        .collect();
    commands.extend((0..10).map(|n| read(1000 + n, n * SMALL as u64, block())));
    disk.submit(&mut commands);
    assert!(commands.is_empty() && disk.reads.is_empty());
    assert_eq!(
        (disk.under_way.len(), disk.others.len()),
        (MAX_IN_FLIGHT, 20)
    );
    assert_eq!(disk.stats.queued.get(), 20);
    let mut done = 0;
    while disk.pending() > 0 {
        disk.wait(Duration::from_secs(10));
        done += disk.reap(|answer| assert_eq!(answer.result, Ok(SMALL as u32)));
    }
    assert_eq!(done, MAX_IN_FLIGHT + 20);
}

#[test]
fn blocks_under_way_at_the_end_come_back_once_the_kernel_is_done() {
    let (dir, pool) = (directory(), pool(8, BLOCK));
    let mut disk = disk(scratch(&dir, 1 << 20), &pool);
    let mut commands: Vec<DiskCommand> = (0..8)
        .map(|n| write(n, n * BLOCK as u64, pool.take().expect("a block"), 5))
        .collect();
    disk.submit(&mut commands);
    assert!(pool.take().is_none());
    drop(disk);
    let blocks: Vec<Block> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(blocks.len(), 8);
}

#[test]
fn a_completion_signals_the_eventfd() {
    let (dir, pool) = (directory(), pool(1, BLOCK));
    let mut disk = disk(scratch(&dir, 1 << 20), &pool);
    let event = EventFd::new().expect("eventfd");
    disk.signal(event.as_fd()).expect("registered");
    disk.submit(&mut vec![read(3, 0, pool.take().expect("a block"))]);
    assert!(event.read().expect("signalled") > 0);
    let mut ids = Vec::new();
    while disk.pending() > 0 {
        disk.reap(|answer| ids.push(answer.id.0));
    }
    assert_eq!(ids, [3]);
}
