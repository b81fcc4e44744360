//! The lists in force: built in the generation that the program does not use, then swapped in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cache_ebpf::lists::{List, ListFull, MAX_EXACT, Prefix, Used, Writer};

use super::GuardError;
use crate::xdp::{Tables, Xdp, random_key};

/// Keys that are tried before the tables are said to be full.
const ATTEMPTS: u32 = 4;

/// What is listed now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub allowed: usize,
    pub blocked: usize,
    /// Places of the table of single addresses in use.
    pub exact: u32,
}

/// Makes the program go by these prefixes and no others. On an error it goes on by the old ones.
///
/// Returns once no packet is judged by the old ones any more.
pub fn swap<'p>(
    tables: &mut Tables,
    xdp: &Mutex<Xdp>,
    prefixes: impl Iterator<Item = (List, &'p Prefix)> + Clone,
) -> Result<Listed, GuardError> {
    let lock = || xdp.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = lock().rules().lists.generation() ^ 1;
    let (seed, used, listed) = build(tables, generation, prefixes)?;
    // The key has to be there before the first packet goes by it.
    lock().change(|rules| rules.lists.prepare(seed))?;
    lock().change(|rules| rules.lists.flip(used))?;
    wait_for_packets();
    Ok(listed)
}

type Built = ([u64; 2], Used, Listed);

fn build<'p>(
    tables: &mut Tables,
    generation: u32,
    prefixes: impl Iterator<Item = (List, &'p Prefix)> + Clone,
) -> Result<Built, GuardError> {
    for _ in 0..ATTEMPTS {
        let seed = random_key()?;
        let mut listed = Listed::default();
        let mut writer = Writer::new(tables.slot(generation), seed);
        let full = prefixes.clone().try_for_each(|(list, prefix)| {
            match list {
                List::Allow => listed.allowed += 1,
                List::Block => listed.blocked += 1,
            }
            writer.insert(list, prefix)
        });
        match full {
            Ok(()) => {
                let (used, exact) = writer.finish();
                listed.exact = exact;
                return Ok((seed, used, listed));
            }
            Err(ListFull::Entries) => break,
            Err(ListFull::Places) => {}
        }
    }
    Err(GuardError::Full { most: MAX_EXACT })
}

/// membarrier(2): waits for a grace period of the whole system.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Where the kernel does not offer it (some CPU runs without a tick): some thousand times as long as
/// a packet takes.
const PATIENCE: Duration = Duration::from_millis(50);

/// Waits until every packet that is being looked at now is done with: the program runs within the
/// kernel's read-side sections, which is what the barrier waits for.
fn wait_for_packets() {
    // SAFETY: passes no pointer.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(PATIENCE);
    }
}
