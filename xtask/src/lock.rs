//! One run at a time: namespaces, interface names and hugepages belong to the whole machine.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Held while this process may touch the machine's network. Freed by the kernel when we end, however
/// we end.
pub struct Lock {
    _file: Flock<File>,
}

/// Where the lock of `cargo xtask run` is.
pub const RUN_LOCK: &str = "/run/popcache-xtask.lock";

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process holds it: the error names it by its process id.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        let Ok(mut file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "`cargo xtask run` (or test) is running already, as process {}: stop that one first",
                holder.trim()
            );
        };
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_it() {
        let path = std::env::temp_dir().join(format!("popcache-lock-{}", std::process::id()));
        let held = Lock::take(&path).unwrap();
        let error = Lock::take(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        drop(Lock::take(&path).unwrap());
        fs::remove_file(&path).unwrap();
    }
}
