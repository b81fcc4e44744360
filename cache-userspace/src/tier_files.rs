//! The tier's devices at start: opened for direct I/O, each by one popcache at a time.

pub mod device;

use crate::config::TierConfig;
use device::{Mode, OpenDevice};

/// What speaks against the tier's devices, found without changing anything. A file that is not
/// there will be made.
pub fn inspect(config: &TierConfig) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for path in config.devices.iter().filter(|path| path.exists()) {
        match OpenDevice::open(path, config.size, Mode::Look) {
            Err(error) => problems.push(format!("{}: {error}", path.display())),
            Ok(device) if seen.contains(&device.identity) => {
                problems.push(format!("{}: it is another one's link", path.display()));
            }
            Ok(device) => seen.push(device.identity),
        }
    }
    problems
}

#[cfg(test)]
pub(crate) mod scratch {
    /// A directory on the file system of the build, which is a real one.
    pub fn directory() -> tempfile::TempDir {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
        std::fs::create_dir_all(target).expect("target directory");
        tempfile::tempdir_in(target).expect("scratch directory")
    }
}
