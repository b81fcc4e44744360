//! One device of the tier: opened for direct I/O by one popcache at a time.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

use crate::config::explain::rounded;

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Why a device cannot be used. The path is for the caller to name.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("cannot {action}: {source}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
    #[error("it is neither a file nor a block device")]
    Kind,
    #[error("it lies in memory (tmpfs), which is no tier: name a file on a drive")]
    InMemory,
    #[error("its file system has no direct I/O (O_DIRECT): use ext4, XFS or a block device")]
    NoDirectIo,
    #[error("it is in use by another popcache, or is mounted")]
    InUse,
    #[error("there is no room for {}: {source}", rounded(*bytes))]
    NoRoom { bytes: u64, source: io::Error },
    #[error(
        "it has {}, tier.size says {}: set size to what it has, or write it anew by `--format`",
        rounded(*found),
        rounded(*wanted)
    )]
    Size { found: u64, wanted: u64 },
}

/// A device that is open.
#[derive(Debug)]
pub struct OpenDevice {
    pub file: File,
    pub bytes: u64,
    pub is_block: bool,
    /// Nothing was ever written to it: a file that was just made, or that was made and not
    /// formatted.
    pub untouched: bool,
    /// Device and inode, the same for two names of one thing.
    pub identity: (u64, u64),
}

/// What is done about a file that is not there, or has another size than `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is made or changed, and nobody is kept out.
    Look,
    /// It is made. One of another size is refused.
    Use,
    /// It is made, or brought to the size.
    Format,
}

impl OpenDevice {
    /// Opens the device at `path`; a file has, or gets, `size` bytes.
    ///
    /// # Errors
    /// Any [`DeviceError`]; a file that was made is removed again.
    pub fn open(path: &Path, size: u64, mode: Mode) -> Result<Self, DeviceError> {
        let is_block = match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => true,
            Ok(found) if found.is_file() => false,
            Ok(_) => return Err(DeviceError::Kind),
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode != Mode::Look => {
                return Self::make(path, size);
            }
            Err(source) => {
                let action = "look at it";
                return Err(DeviceError::Io { action, source });
            }
        };
        let file = open_direct(path, is_block, mode, false)?;
        let mut device = Self::of(file, is_block)?;
        if !is_block {
            device.fit(size, mode)?;
        }
        Ok(device)
    }

    /// One that another process has opened, and keeps locked until both have closed it.
    ///
    /// # Errors
    /// [`DeviceError::Io`].
    pub fn adopt(file: File) -> Result<Self, DeviceError> {
        let found = file.metadata().map_err(io_error("look at it"))?;
        Self::of(file, found.file_type().is_block_device())
    }

    fn make(path: &Path, size: u64) -> Result<Self, DeviceError> {
        let file = open_direct(path, false, Mode::Use, true)?;
        let made = allocate(&file, size).and_then(|()| Self::of(file, false));
        if made.is_err() {
            // Nobody has used it yet.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn of(mut file: File, is_block: bool) -> Result<Self, DeviceError> {
        let found = file.metadata().map_err(io_error("look at it"))?;
        let bytes = match is_block {
            true => io::Seek::seek(&mut file, io::SeekFrom::End(0))
                .map_err(io_error("find its size"))?,
            false => found.len(),
        };
        Ok(Self {
            untouched: !is_block && has_no_data(&file),
            file,
            bytes,
            is_block,
            identity: identity_of(&found),
        })
    }

    /// An empty file, or one that nothing was written to, is brought to `size` like a new one.
    fn fit(&mut self, size: u64, mode: Mode) -> Result<(), DeviceError> {
        if self.bytes == size || (mode == Mode::Look && self.bytes == 0) {
            return Ok(());
        }
        if mode == Mode::Format || (mode == Mode::Use && self.bytes == 0) {
            self.file.set_len(size).map_err(io_error("resize it"))?;
            allocate(&self.file, size)?;
            self.bytes = size;
            return Ok(());
        }
        Err(DeviceError::Size {
            found: self.bytes,
            wanted: size,
        })
    }
}

/// The same of a device that is open.
pub fn identity_of_open(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().as_ref().map(identity_of)
}

/// What is at `path`, if anything is.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().as_ref().map(identity_of)
}

fn identity_of(found: &Metadata) -> (u64, u64) {
    match found.file_type().is_block_device() {
        true => (0, found.rdev()),
        false => (found.dev(), found.ino()),
    }
}

fn open_direct(path: &Path, is_block: bool, mode: Mode, new: bool) -> Result<File, DeviceError> {
    let writable = mode != Mode::Look;
    // On a block device O_EXCL keeps out mounts and other users.
    let exclusive = match is_block && writable {
        true => libc::O_EXCL,
        false => 0,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .create_new(new)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT | exclusive)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => DeviceError::NoDirectIo,
            Some(libc::EBUSY) => DeviceError::InUse,
            _ => io_error("open it")(source),
        })?;
    if fstatfs(&file).is_ok_and(|fs| !is_block && is_memory(fs.filesystem_type())) {
        if new {
            let _ = std::fs::remove_file(path);
        }
        return Err(DeviceError::InMemory);
    }
    match (writable, file.try_lock()) {
        (false, _) | (true, Ok(())) => Ok(file),
        (true, Err(TryLockError::WouldBlock)) => Err(DeviceError::InUse),
        (true, Err(TryLockError::Error(source))) => Err(io_error("lock it")(source)),
    }
}

fn is_memory(kind: FsType) -> bool {
    kind == TMPFS_MAGIC || kind == RAMFS_MAGIC
}

fn allocate(file: &File, size: u64) -> Result<(), DeviceError> {
    let no_room = |error: nix::errno::Errno| DeviceError::NoRoom {
        bytes: size,
        source: error.into(),
    };
    let len = i64::try_from(size).map_err(|_| no_room(nix::errno::Errno::EFBIG))?;
    fallocate(file, FallocateFlags::empty(), 0, len).map_err(no_room)
}

/// The file system knows of no byte that was written.
fn has_no_data(file: &File) -> bool {
    let found = lseek(file, 0, Whence::SeekData);
    found == Err(nix::errno::Errno::ENXIO)
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> DeviceError {
    move |source| DeviceError::Io { action, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::tier_files::scratch::directory;

    const SIZE: u64 = 1 << 20;

    fn refusal(path: &Path, size: u64, mode: Mode) -> String {
        match OpenDevice::open(path, size, mode) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_made_whole_and_belongs_to_one() {
        let dir = directory();
        let path = dir.path().join("tier");
        let device = OpenDevice::open(&path, SIZE, Mode::Use).expect("made");
        assert!(device.untouched && !device.is_block && device.bytes == SIZE);
        let taken = device.file.metadata().expect("metadata").blocks() * 512;
        assert!(taken >= SIZE, "{taken} bytes are taken");
        assert!(refusal(&path, SIZE, Mode::Use).contains("another popcache"));
        OpenDevice::open(&path, SIZE, Mode::Look).expect("looking is free");
        drop(device);
        let again = OpenDevice::open(&path, SIZE, Mode::Use).expect("let go");
        assert!(again.untouched);
    }

    #[test]
    fn a_file_with_data_is_touched_and_keeps_its_size() {
        let dir = directory();
        let path = dir.path().join("tier");
        std::fs::write(&path, vec![7; 8192]).expect("write");
        let why = refusal(&path, SIZE, Mode::Use);
        assert!(why.contains("8 KiB") && why.contains("1 MiB"), "{why}");
        let same = OpenDevice::open(&path, 8192, Mode::Use).expect("same size");
        assert!(!same.untouched);
        drop(same);
        let formatted = OpenDevice::open(&path, SIZE, Mode::Format).expect("resized");
        assert_eq!((formatted.bytes, formatted.untouched), (SIZE, false));
        let mut first = Sector([0; 512]);
        formatted.file.read_exact_at(&mut first.0, 0).expect("read");
        assert_eq!(
            first.0[0], 7,
            "only the superblock is for the format to write"
        );
    }

    #[repr(align(4096))]
    struct Sector([u8; 512]);

    #[test]
    fn looking_makes_nothing() {
        let dir = directory();
        let path = dir.path().join("tier");
        assert!(refusal(&path, SIZE, Mode::Look).contains("look at it"));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_drive_is_refused() {
        assert_eq!(
            refusal(Path::new("/dev/null"), SIZE, Mode::Use),
            "it is neither a file nor a block device"
        );
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            let path = memory.join(format!("popcache-test-{}", std::process::id()));
            let why = refusal(&path, SIZE, Mode::Use);
            assert!(why.contains("tmpfs") || why.contains("O_DIRECT"), "{why}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_for_which_there_is_no_room_is_not_left_behind() {
        let dir = directory();
        let path = dir.path().join("tier");
        let why = refusal(&path, 1 << 47, Mode::Use);
        assert!(why.contains("no room for 128 TiB"), "{why}");
        assert!(!path.exists());
    }
}
