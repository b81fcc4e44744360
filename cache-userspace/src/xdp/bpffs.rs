//! Where the pins of one interface live, on a bpffs that is mounted if need be.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use aya::pin::PinError;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::info;

use super::XdpError;

/// Where the kernel offers a mount point for a bpffs.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

const LINK: &str = "link";

/// Behind the name of a map's pin that is to take another one's place.
const NEXT: &str = "_next";

/// Only root reads the keys in the pinned maps.
const DIRECTORY_MODE: u32 = 0o700;

/// The paths of one interface's pins.
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Makes the directory, and mounts a bpffs under it where there is none.
    pub fn prepare(pin_dir: &Path, interface: &str) -> Result<Self, XdpError> {
        let pins = Self::existing(pin_dir, interface)?;
        ensure_bpffs(pin_dir)?;
        make_directory(&pins.directory)?;
        Ok(pins)
    }

    /// The paths alone, whether or not anything is there.
    pub fn existing(pin_dir: &Path, interface: &str) -> Result<Self, XdpError> {
        let is_name =
            !interface.is_empty() && !interface.contains('/') && !matches!(interface, "." | "..");
        if !is_name {
            let interface = interface.into();
            return Err(XdpError::NoInterface { interface });
        }
        Ok(Self {
            directory: pin_dir.join(interface),
        })
    }

    pub fn link(&self) -> PathBuf {
        self.directory.join(LINK)
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Removes the link first, so that a program never runs on maps that nobody can find.
    pub fn remove(&self) -> Result<(), XdpError> {
        self.remove_link()?;
        self.keep_only([].into_iter())?;
        missing_is_fine(&self.directory, |path| fs::remove_dir(path))
    }

    /// Has `pin` pin a map in the place of the one that is there.
    pub fn replace_map(
        &self,
        name: &str,
        pin: impl FnOnce(&Path) -> Result<(), PinError>,
    ) -> Result<(), XdpError> {
        // A dot is not to be had in names on a bpffs.
        let next = self.map(&format!("{name}{NEXT}"));
        missing_is_fine(&next, |path| fs::remove_file(path))?;
        pin(&next).map_err(|error| pin_error("pin", &next, io::Error::other(error)))?;
        let place = self.map(name);
        fs::rename(&next, &place).map_err(|error| pin_error("replace", &place, error))
    }

    /// Removes all pins but the link and the maps of these names: another version may have had others.
    pub fn keep_only(
        &self,
        names: impl Iterator<Item = &'static str> + Clone,
    ) -> Result<(), XdpError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| pin_error("list", &self.directory, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| pin_error("list", &self.directory, error))?;
            let is_kept = |name: &str| entry.file_name() == *name;
            if !names.clone().any(is_kept) && !is_kept(LINK) {
                missing_is_fine(&entry.path(), |path| fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    pub fn remove_link(&self) -> Result<(), XdpError> {
        missing_is_fine(&self.link(), |path| fs::remove_file(path))
    }
}

fn missing_is_fine(
    path: &Path,
    remove: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), XdpError> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(pin_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn ensure_bpffs(pin_dir: &Path) -> Result<(), XdpError> {
    if is_bpffs(nearest_existing(pin_dir)) {
        return make_directory(pin_dir);
    }
    let usual = Path::new(USUAL_MOUNT);
    if pin_dir.starts_with(usual) {
        mount_bpffs(usual)?;
        make_directory(pin_dir)
    } else {
        make_directory(pin_dir)?;
        mount_bpffs(pin_dir)
    }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(path)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs(path: &Path) -> Result<(), XdpError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let data = format!("mode={DIRECTORY_MODE:o}");
    mount(Some("bpf"), path, Some("bpf"), flags, Some(data.as_str()))
        .map_err(|errno| pin_error("mount a bpffs on", path, errno.into()))?;
    info!(path = %path.display(), "mounted a bpffs for the XDP program's pins");
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), XdpError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(|error| pin_error("create", path, error))
}

pub fn pin_error(action: &'static str, path: &Path, source: io::Error) -> XdpError {
    XdpError::Pin {
        action,
        path: path.into(),
        source,
    }
}
