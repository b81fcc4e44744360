//! The tables of the lists as memory that is shared with the kernel.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use cache_ebpf::{
    lists::Slot,
    maps::{COVER4, COVER6, EVENTS, EXACT, MARKS4},
};
use memmap2::{MmapMut, MmapOptions};

use super::{XdpError, maps::map_error};

/// What the guard alone reads and writes.
pub struct GuardMaps {
    pub tables: Tables,
    /// Sampled matches, as [`cache_ebpf::event::Event`].
    pub events: RingBuf<MapData>,
}

impl GuardMaps {
    /// Takes them out of the loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        Ok(Self {
            tables: Tables {
                marks4: mapped(ebpf, MARKS4)?,
                cover4: mapped(ebpf, COVER4)?,
                cover6: mapped(ebpf, COVER6)?,
                exact: mapped(ebpf, EXACT)?,
            },
            events: super::maps::typed(ebpf, EVENTS)?,
        })
    }
}

/// Both generations of the lists.
pub struct Tables {
    marks4: MmapMut,
    cover4: MmapMut,
    cover6: MmapMut,
    exact: MmapMut,
}

impl Tables {
    /// One generation, to be written while the program uses the other.
    pub fn slot(&mut self, generation: u32) -> Slot<'_> {
        let Self {
            marks4,
            cover4,
            cover6,
            exact,
        } = self;
        Slot::of_generation(generation, marks4, cover4, cover6, exact)
            .unwrap_or_else(|| unreachable!("the layout was checked at attachment"))
    }
}

fn mapped(ebpf: &mut Ebpf, name: &'static str) -> Result<MmapMut, XdpError> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        unreachable!("the embedded object has no array {name}");
    };
    let info = map.info().map_err(|error| map_error(name, error))?;
    let length = info.max_entries() as usize * info.value_size() as usize;
    let descriptor = map.fd().as_fd().as_raw_fd();
    // SAFETY: the program only reads these maps, and of them the generation that is in use; the slice
    // that is written is the other one, and this process is the only one that writes.
    let mapped = unsafe { MmapOptions::new().len(length).map_mut(descriptor) };
    mapped.map_err(|source| XdpError::Memory { map: name, source })
}
