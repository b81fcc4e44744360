//! Hugepages for a run: raised by what it needs, put back afterwards.

use std::fs;

use anyhow::Context;

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// 2 MB pages added to the machine's pool until this is dropped.
pub struct Hugepages {
    before: u64,
}

impl Hugepages {
    /// Raises the pool by `pages`. A machine that cannot give them all is not an error: popcache then
    /// falls back to other pages and says so in `popcache status`.
    pub fn reserve(pages: u64) -> anyhow::Result<Self> {
        let before = read()?;
        let wanted = before + pages;
        fs::write(NR_HUGEPAGES, wanted.to_string())
            .with_context(|| format!("cannot write {NR_HUGEPAGES}"))?;
        let guard = Self { before };
        let got = read()?;
        if got < wanted {
            eprintln!(
                "xtask: only {} of {pages} hugepages could be reserved (memory is fragmented or full)",
                got.saturating_sub(before)
            );
        }
        Ok(guard)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(NR_HUGEPAGES, self.before.to_string()) {
            eprintln!(
                "xtask: could not put {NR_HUGEPAGES} back to {}: {error}",
                self.before
            );
        }
    }
}

fn read() -> anyhow::Result<u64> {
    let text = fs::read_to_string(NR_HUGEPAGES).with_context(|| {
        format!("cannot read {NR_HUGEPAGES} (kernel without CONFIG_HUGETLBFS?)")
    })?;
    text.trim()
        .parse()
        .with_context(|| format!("{NR_HUGEPAGES} holds `{}`, not a number", text.trim()))
}
