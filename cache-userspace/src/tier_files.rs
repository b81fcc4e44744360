//! The tier's devices at start.
//!
//! ```text
//!  tier.devices --open (O_DIRECT, locked)--> superblocks --all of one set--> OpenTier
//!                                               |
//!                  made just now, or --format --+--> a new set is written
//!                  anything else ---------------'--> refused: what, where, what to do
//! ```
//!
//! Nothing that was not made by popcache is ever written over without `--format`.

mod buffer;
pub mod device;
mod recover;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use cache_core::tier::format::{
    FormatError, Geometry, JOURNAL_BYTES, JOURNAL_OFFSETS, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS,
    SetId, SetPlan, Superblock,
};

pub use buffer::Buffer;
pub use recover::{Judges, ShardTier, disk_plan};

use crate::config::{Discard, TierConfig};
use crate::rt::disk::Device;
use device::{DeviceError, Mode, OpenDevice};

/// What the node asks of its tier.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub shards: u8,
    /// Of the purge table, for a new set; an old one keeps its own.
    pub tag_slots: u32,
    /// Write a new set over whatever is there.
    pub format: bool,
}

/// The devices of a tier, open, locked and recognised.
#[derive(Debug)]
pub struct OpenTier {
    /// In the order of their numbers.
    pub devices: Vec<Device>,
    pub geometry: Geometry,
    /// Seed of the key hash: the store must hash by it, or nothing is found again.
    pub hash_seed: u64,
    pub tag_slots: u32,
    /// The set is new: there is nothing to recover.
    pub is_new: bool,
}

/// Where the journal of purges and pins lies.
#[derive(Clone, Debug)]
pub struct JournalFile {
    /// Open for direct I/O: offsets, lengths and memory are multiples of 4 KiB.
    pub file: Arc<File>,
    pub offsets: [u64; 2],
    /// Of each area.
    pub bytes: u64,
}

impl OpenTier {
    /// Opens the devices of `config`, and formats them where they are new or `wanted.format` says
    /// so.
    ///
    /// # Errors
    /// One line that says which device, what is wrong with it, and what to do.
    pub fn open(config: &TierConfig, wanted: &Wanted) -> anyhow::Result<Self> {
        let mode = match wanted.format {
            true => Mode::Format,
            false => Mode::Use,
        };
        let found = open_devices(config, mode)?;
        let all_new = found.iter().all(|found| found.device.untouched);
        if wanted.format || all_new {
            return format(config, wanted, found);
        }
        let found = recognise(found, wanted.shards)?;
        found.iter().for_each(Recognised::repair);
        Self::of(config, found, false)
    }

    /// The devices of `config` as a node that runs has opened them. Nothing is written to them, not even to mend it:
    /// that node still reads.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn adopt(config: &TierConfig, files: Vec<File>, shards: u8) -> anyhow::Result<Self> {
        let adopt = |file: File| {
            let identity = device::identity_of_open(&file);
            let mut names = config.devices.iter();
            let path = names.find(|path| device::identity(path) == identity);
            let path = path.cloned().unwrap_or_else(|| PathBuf::from("a drive"));
            let device = OpenDevice::adopt(file).with_context(|| path.display().to_string())?;
            Ok(Found { path, device })
        };
        let found: anyhow::Result<Vec<_>> = files.into_iter().map(adopt).collect();
        let found = recognise(found.context("tier.devices")?, shards)?;
        Self::of(config, found, false)
    }

    pub fn journal(&self) -> JournalFile {
        JournalFile {
            file: self.devices[0].file.clone(),
            offsets: JOURNAL_OFFSETS,
            bytes: JOURNAL_BYTES,
        }
    }

    /// `found` carries superblocks that belong together.
    fn of(config: &TierConfig, found: Vec<Recognised>, is_new: bool) -> anyhow::Result<Self> {
        let superblocks: Vec<_> = found.iter().map(|one| one.superblock.clone()).collect();
        let geometry = Geometry::assemble(&superblocks)
            .map_err(|error| anyhow!("tier.devices: {error}; {}", advice(&error)))?;
        if u64::from(geometry.segment_bytes()) != config.segment {
            tracing::warn!(
                mib = geometry.segment_bytes() >> 20,
                "tier.segment has no effect: the devices were formatted with another; \
                 `popcache serve --format` changes it and loses what they hold"
            );
        }
        let first = &superblocks[0];
        Ok(Self {
            geometry,
            hash_seed: first.hash_seed,
            tag_slots: first.tag_slots,
            is_new,
            devices: found
                .into_iter()
                .map(|one| Device {
                    discard: match config.discard {
                        Discard::Auto => one.found.device.is_block,
                        Discard::On => true,
                        Discard::Off => false,
                    },
                    path: one.found.path.display().to_string().into(),
                    file: Arc::new(one.found.device.file),
                })
                .collect(),
        })
    }
}

/// What speaks against the tier's devices, found without changing anything. A file that is not
/// there will be made.
pub fn inspect(config: &TierConfig, shards: u8) -> Vec<String> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for path in config.devices.iter().filter(|path| path.exists()) {
        let opened =
            refuse_twice(&found, path).and_then(|()| Found::open(path, config.size, Mode::Look));
        match opened {
            Ok(one) => found.push(one),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    let all_there = found.len() == config.devices.len();
    let all_new = found.iter().all(|one| one.device.untouched);
    if !problems.is_empty() || found.is_empty() || (all_there && all_new) {
        return problems;
    }
    let checked = match all_there {
        true => recognise(found, shards).map(drop),
        false => Err(anyhow!(
            "some devices exist and some do not: a set is made at once; name those of the set, or \
             lose what they hold by `popcache serve --format`"
        )),
    };
    problems.extend(checked.err().map(|error| format!("{error:#}")));
    problems
}

/// A device and its name.
struct Found {
    path: PathBuf,
    device: OpenDevice,
}

/// A device that belongs to a set.
struct Recognised {
    found: Found,
    superblock: Superblock,
    /// Which copy of it is to be written anew.
    damaged: Option<usize>,
}

impl Recognised {
    /// Writes a damaged copy of the superblock anew. Where that fails the good one is still there.
    fn repair(&self) {
        let Some(copy) = self.damaged else { return };
        let device = self.found.path.display();
        match write_superblock(self, copy) {
            Ok(()) => tracing::warn!(
                %device,
                copy,
                "one of its two superblocks was damaged and is written anew from the other"
            ),
            Err(error) => tracing::error!(
                %device,
                copy,
                %error,
                "one of its two superblocks is damaged and cannot be written anew"
            ),
        }
    }
}

/// The kernel lets go of a killed process's devices only when their last read or write is done.
const PATIENCE: Duration = Duration::from_secs(5);

impl Found {
    fn open(path: &Path, size: u64, mode: Mode) -> anyhow::Result<Self> {
        let device =
            OpenDevice::open(path, size, mode).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            device,
        })
    }

    /// Waits a little for a device that is in use.
    fn open_patiently(path: &Path, size: u64, mode: Mode) -> anyhow::Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            let opened = Self::open(path, size, mode);
            let Err(error) = &opened else { return opened };
            let in_use = matches!(error.downcast_ref(), Some(DeviceError::InUse));
            if !in_use || Instant::now() >= end {
                return opened;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn recognise(self, shards: u8) -> anyhow::Result<Recognised> {
        let name = self.path.display().to_string();
        let copies = self
            .read_superblocks()
            .with_context(|| format!("{name}: cannot read its superblocks"))?;
        let opened = Superblock::open([&copies[0], &copies[1]])
            .and_then(|opened| {
                let checked = opened.superblock.check(self.device.bytes, shards);
                checked.map(|()| opened)
            })
            .map_err(|error| anyhow!("{name}: it {error}; {}", advice(&error)))?;
        Ok(Recognised {
            found: self,
            superblock: opened.superblock,
            damaged: opened.repair,
        })
    }

    fn read_superblocks(&self) -> std::io::Result<[Vec<u8>; 2]> {
        let mut buffer = Buffer::new(SUPERBLOCK_BYTES)?;
        let mut read = |offset| {
            let bytes = buffer.read(&self.device.file, offset, SUPERBLOCK_BYTES)?;
            Ok::<_, std::io::Error>(bytes.to_vec())
        };
        Ok([read(SUPERBLOCK_OFFSETS[0])?, read(SUPERBLOCK_OFFSETS[1])?])
    }
}

fn open_devices(config: &TierConfig, mode: Mode) -> anyhow::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for path in &config.devices {
        refuse_twice(&found, path)?;
        let opened = Found::open_patiently(path, config.size, mode);
        found.push(opened.context("tier.devices")?);
    }
    Ok(found)
}

/// One device by two names.
fn refuse_twice(found: &[Found], path: &Path) -> anyhow::Result<()> {
    let Some(identity) = device::identity(path) else {
        return Ok(());
    };
    match found.iter().find(|one| one.device.identity == identity) {
        None => Ok(()),
        Some(other) => Err(anyhow!(
            "tier.devices: {} and {} are the same",
            other.path.display(),
            path.display()
        )),
    }
}

/// All of one set, in the order of their numbers, whatever order they were named in.
fn recognise(found: Vec<Found>, shards: u8) -> anyhow::Result<Vec<Recognised>> {
    let recognised: anyhow::Result<Vec<_>> =
        found.into_iter().map(|one| one.recognise(shards)).collect();
    let mut recognised = recognised.context("tier.devices")?;
    recognised.sort_by_key(|one| one.superblock.device);
    let superblocks: Vec<_> = recognised
        .iter()
        .map(|one| one.superblock.clone())
        .collect();
    match Geometry::assemble(&superblocks) {
        Ok(_) => Ok(recognised),
        Err(error) => Err(anyhow!("tier.devices: {error}; {}", advice(&error))),
    }
}

/// What an operator can do.
fn advice(error: &FormatError) -> String {
    let lose = "`popcache serve --format` takes it anew and loses what it holds";
    match error {
        FormatError::UnknownVersion { .. } => {
            format!("run the version that wrote it, or {lose}")
        }
        FormatError::Shrunk { .. } => format!("give it its size back, or {lose}"),
        FormatError::OtherShards { found, .. } => {
            format!("name {found} CPUs in server.cores, or {lose}")
        }
        FormatError::OtherSet { .. }
        | FormatError::DeviceCount { .. }
        | FormatError::DeviceNumber { .. }
        | FormatError::Disagree(_) => {
            format!("name the devices of one set in tier.devices, or {lose}")
        }
        FormatError::TooSmall { .. } => "raise tier.size".to_owned(),
        FormatError::SegmentBytes(_) => "change tier.segment".to_owned(),
        FormatError::Count => "change tier.devices".to_owned(),
        FormatError::NotFormatted(_)
        | FormatError::Foreign(_)
        | FormatError::Damaged
        | FormatError::HalfFormatted => lose.to_owned(),
    }
}

/// Writes a new set: first what it must not find of an older one, then the second copies, then the
/// first ones. Cut short, it is refused at the next start.
fn format(config: &TierConfig, wanted: &Wanted, found: Vec<Found>) -> anyhow::Result<OpenTier> {
    let sizes: Vec<u64> = found.iter().map(|one| one.device.bytes).collect();
    let plan = SetPlan {
        id: SetId(random()?),
        shards: wanted.shards,
        segment_bytes: u32::try_from(config.segment).context("tier.segment")?,
        hash_seed: u64::from_ne_bytes(random()?),
        tag_slots: wanted.tag_slots,
    };
    let superblocks = Superblock::plan(&sizes, &plan)
        .map_err(|error| anyhow!("tier.devices: {error}; {}", advice(&error)))?;
    let set: Vec<Recognised> = found
        .into_iter()
        .zip(superblocks)
        .map(|(found, superblock)| Recognised {
            found,
            superblock,
            damaged: None,
        })
        .collect();
    for one in &set {
        let name = one.found.path.display();
        tracing::info!(device = %name, mib = one.found.device.bytes >> 20, "formatting the tier");
        clear(&one.found.device.file).with_context(|| format!("cannot format {name}"))?;
    }
    for copy in [1, 0] {
        for one in &set {
            let name = one.found.path.display();
            write_superblock(one, copy).with_context(|| format!("cannot format {name}"))?;
        }
    }
    OpenTier::of(config, set, true)
}

/// Zeros over both superblocks and the journal.
fn clear(file: &File) -> std::io::Result<()> {
    let mut zeros = Buffer::new(1 << 20)?;
    for offset in SUPERBLOCK_OFFSETS {
        zeros.write(file, offset, &[])?;
    }
    for start in JOURNAL_OFFSETS {
        for offset in (0..JOURNAL_BYTES).step_by(1 << 20) {
            zeros.write(file, start + offset, &[])?;
        }
    }
    file.sync_data()
}

fn write_superblock(one: &Recognised, copy: usize) -> std::io::Result<()> {
    let file = &one.found.device.file;
    let mut buffer = Buffer::new(SUPERBLOCK_BYTES)?;
    buffer.write(file, SUPERBLOCK_OFFSETS[copy], &one.superblock.encode())?;
    file.sync_data()
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    // From the kernel: a generator of the process would first spend a tenth of a second on its seed.
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the operating system has no randomness to give: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod scratch {
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// A directory on the file system of the build, which is a real one.
    pub fn directory() -> tempfile::TempDir {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
        std::fs::create_dir_all(target).expect("target directory");
        tempfile::tempdir_in(target).expect("scratch directory")
    }

    /// A file as a block device, detached when dropped.
    pub struct LoopDevice {
        pub node: PathBuf,
        image: File,
    }

    impl LoopDevice {
        /// None where the machine gives no loop devices.
        pub fn over(image: &Path, bytes: u64) -> Option<Self> {
            let file = File::create(image).expect("image");
            file.set_len(bytes).expect("length");
            let made = Command::new("losetup")
                .args(["--find", "--show"])
                .arg(image)
                .output()
                .ok()?;
            let node = String::from_utf8(made.stdout).ok()?;
            if !made.status.success() {
                eprintln!("no loop device can be had here");
                return None;
            }
            Some(Self {
                node: node.trim().into(),
                image: file,
            })
        }

        pub fn resize(&self, bytes: u64) {
            self.image.set_len(bytes).expect("length");
            let told = Command::new("losetup").arg("-c").arg(&self.node).status();
            assert!(told.expect("losetup").success());
        }
    }

    impl Drop for LoopDevice {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("-d").arg(&self.node).status();
        }
    }
}

#[cfg(test)]
mod tests;
