//! Debian's xdp-filter (package xdp-tools): its object with all features, loaded as it is.
//!
//! Its own tool would put it behind libxdp's dispatcher; here it is spared that.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{PerCpuHashMap, PerCpuValues};
use aya::programs::Xdp;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::guard::SOURCE;

const LIBRARIES: &str = "/usr/lib";
const OBJECT: &str = "bpf/xdpfilt_alw_all.o";
const PROGRAM: &str = "xdpfilt_alw_all";
/// An entry that denies a source.
const DENY_SOURCE: u64 = 1;

pub struct Filter {
    ebpf: Ebpf,
}

impl Filter {
    /// # Errors
    /// The package is not installed, or the kernel does not take its program.
    pub fn load() -> Result<Self> {
        let path = find().context("xdp-filter is not there: apt-get install xdp-tools")?;
        let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Its maps want to be pinned: that lasts as long as they are loaded here.
        let pins = Pins::mount()?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.directory.path())
            .load(&object)
            .with_context(|| format!("cannot load {}", path.display()))?;
        crate::bpf::verified(&mut ebpf, PROGRAM)?;
        Ok(Self { ebpf })
    }

    pub fn program(&self) -> Result<&Xdp> {
        let program = self.ebpf.program(PROGRAM).context("it is loaded")?;
        Ok(program.try_into()?)
    }

    /// Denies the source of the benchmark's packets, or does not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn deny(&mut self, denied: bool) -> Result<()> {
        let map = crate::bpf::map(&mut self.ebpf, "filter_ipv4")?;
        let mut addresses: PerCpuHashMap<_, u32, u64> = map.try_into()?;
        let address = SOURCE.to_be();
        if denied {
            let cpus = nr_cpus().map_err(|(_, error)| error)?;
            let values = PerCpuValues::try_from(vec![DENY_SOURCE; cpus])?;
            addresses.insert(address, values, 0)?;
        } else if addresses.get(&address, 0).is_ok() {
            addresses.remove(&address)?;
        }
        Ok(())
    }
}

fn find() -> Option<PathBuf> {
    let directories = fs::read_dir(LIBRARIES).ok()?;
    let mut paths = directories
        .flatten()
        .map(|directory| directory.path().join(OBJECT));
    paths.find(|path| path.exists())
}

/// A bpffs of our own.
struct Pins {
    directory: TempDir,
}

impl Pins {
    fn mount() -> Result<Self> {
        let directory = TempDir::new().context("no directory for a bpffs")?;
        let nothing = None::<&str>;
        mount(
            nothing,
            directory.path(),
            Some("bpf"),
            MsFlags::empty(),
            nothing,
        )
        .context("cannot mount a bpffs")?;
        Ok(Self { directory })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.directory.path(), MntFlags::MNT_DETACH) {
            eprintln!(
                "popcache-bench: cannot unmount {}: {error}",
                self.directory.path().display()
            );
        }
    }
}
