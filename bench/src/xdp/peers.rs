//! The benchmark's own programs: nothing at all, the usual tables, and what draws sources for them.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, ProgramArray};
use aya::programs::Xdp;
use cache_ebpf::vary::{VARIATION, Variation};

use crate::bpf::{Plain, array, map, tools, verified};

const PROGRAMS: [&str; 4] = ["bare_drop", "varied", "lpm_trie", "lru_hash"];
/// Where the source stands in a frame of IPv4 without VLAN.
const SOURCE_AT: u16 = 26;

/// Sources to draw from: the first one and how many there are.
pub type Drawn = (u32, u32);

/// All of IPv4.
pub const EVERYWHERE: Drawn = (0, u32::MAX);
/// 2^20 sources.
pub const FLOOD: Drawn = (0x0a00_0000, 1 << 20);

pub struct Peers {
    ebpf: Ebpf,
}

impl Peers {
    /// # Errors
    /// Not root, or no BPF.
    pub fn load() -> Result<Self> {
        let mut ebpf = tools(true)?;
        for name in PROGRAMS {
            verified(&mut ebpf, name)?;
        }
        Ok(Self { ebpf })
    }

    pub fn program(&self, name: &str) -> Result<&Xdp> {
        let program = self.ebpf.program(name).context("it is loaded")?;
        Ok(program.try_into()?)
    }

    /// Fills the trie.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(&mut self, prefixes: impl Iterator<Item = (u32, u8)>) -> Result<()> {
        let mut trie: LpmTrie<_, [u8; 4], u32> = map(&mut self.ebpf, "PREFIXES")?.try_into()?;
        for (address, length) in prefixes {
            let key = Key::new(u32::from(length), address.to_be_bytes());
            trie.insert(&key, 1, 0).context("the trie is full")?;
        }
        Ok(())
    }

    /// What `varied` draws its sources from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn draw(&mut self, (first_source, sources): Drawn) -> Result<()> {
        let variation = Variation {
            seed: 7,
            first_source,
            sources,
            source_at: SOURCE_AT,
            ..Variation::default()
        };
        Ok(array(&mut self.ebpf, VARIATION)?.set(0, Plain(variation), 0)?)
    }

    /// What `varied` runs then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next_is(&mut self, program: &Xdp) -> Result<()> {
        let fd = program.fd()?;
        let mut next: ProgramArray<_> = map(&mut self.ebpf, "NEXT")?.try_into()?;
        next.set(0, fd, 0)
            .context("the kernel does not call the program from another")
    }

    /// The same for one of these programs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next_is_own(&mut self, name: &str) -> Result<()> {
        let fd = self.program(name)?.fd()?.try_clone()?;
        let mut next: ProgramArray<_> = map(&mut self.ebpf, "NEXT")?.try_into()?;
        Ok(next.set(0, &fd, 0)?)
    }
}
