//! The maps between the daemon and the program.

use std::{os::fd::BorrowedFd, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError, MapInfo, PerCpuArray, XskMap},
};
use cache_ebpf::{
    cid::CidKeys,
    lists::ExactBucket,
    maps::{
        BUCKETS, CID_KEYS, COUNTERS, COVER4, COVER6, Counters, EVENTS, EXACT, LAYOUT, MARKS4,
        MAX_QUEUES, MapValue, RULES, Rules, XSKMAP, counter_names,
    },
    meter::Bucket,
};

use super::{XdpError, bpffs::Pins, random_cid_keys};

/// The maps that outlive the daemon, and the bytes of a value of theirs.
const PINNED_SIZES: [(&str, usize); 10] = [
    (RULES, size_of::<Rules>()),
    (CID_KEYS, size_of::<CidKeys>()),
    (COUNTERS, size_of::<Counters>()),
    (XSKMAP, size_of::<u32>()),
    (MARKS4, size_of::<u64>()),
    (COVER4, size_of::<u64>()),
    (COVER6, size_of::<u64>()),
    (EXACT, size_of::<ExactBucket>()),
    (BUCKETS, size_of::<Bucket>()),
    (EVENTS, 0),
];

/// The maps that outlive the daemon.
pub fn pinned() -> impl Iterator<Item = &'static str> + Clone {
    PINNED_SIZES.into_iter().map(|(name, _)| name)
}

/// A map value of ours as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: a MapValue is plain data by its own contract, and the wrapper is transparent.
unsafe impl<T: MapValue> Pod for Plain<T> {}

pub struct Maps {
    rules: Array<MapData, Plain<Rules>>,
    cid_keys: Array<MapData, Plain<CidKeys>>,
    counters: PerCpuArray<MapData, Plain<Counters>>,
    sockets: XskMap<MapData>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        Ok(Self {
            rules: typed(ebpf, RULES)?,
            cid_keys: typed(ebpf, CID_KEYS)?,
            counters: typed(ebpf, COUNTERS)?,
            sockets: typed(ebpf, XSKMAP)?,
        })
    }

    pub fn write_rules(&mut self, rules: &Rules) -> Result<(), XdpError> {
        self.rules
            .set(0, Plain(*rules), 0)
            .map_err(|error| map_error(RULES, error))
    }

    /// The keys in force; made here and now when this is the first start.
    pub fn cid_keys_or_new(&mut self) -> Result<CidKeys, XdpError> {
        let error = |error| map_error(CID_KEYS, error);
        let Plain(keys) = self.cid_keys.get(&0, 0).map_err(error)?;
        if keys.active().is_some() {
            return Ok(keys);
        }
        let keys = random_cid_keys(0)?;
        self.cid_keys.set(0, Plain(keys), 0).map_err(error)?;
        Ok(keys)
    }

    pub fn set_cid_keys(&mut self, keys: CidKeys) -> Result<(), XdpError> {
        self.cid_keys
            .set(0, Plain(keys), 0)
            .map_err(|error| map_error(CID_KEYS, error))
    }

    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        if queue >= MAX_QUEUES {
            return Err(XdpError::Queue { queue });
        }
        self.sockets
            .set(queue, socket, 0)
            .map_err(|error| map_error(XSKMAP, error))
    }

    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, XdpError> {
        let cpus = self.counters.get(&0, 0);
        let cpus = cpus.map_err(|error| map_error(COUNTERS, error))?;
        let sum = |index: usize| cpus.iter().map(|cpu| cpu.0.values[index]).sum();
        Ok(counter_names()
            .enumerate()
            .map(|(index, name)| (name, sum(index)))
            .collect())
    }
}

/// What an earlier daemon left in the pins.
pub enum Former {
    Nothing,
    /// The rules that it wrote.
    Rules(Box<Rules>),
    /// Maps of another version, and what tells them from ours.
    OtherLayout(String),
}

impl Former {
    pub fn rules(&self) -> Option<&Rules> {
        match self {
            Self::Rules(rules) => Some(rules),
            Self::Nothing | Self::OtherLayout(_) => None,
        }
    }
}

/// Looks at the pinned maps.
pub fn former(pins: &Pins) -> Result<Former, XdpError> {
    for (name, size) in PINNED_SIZES {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|error| map_error(name, error))?;
        if info.value_size() as usize != size {
            let found = info.value_size();
            return Ok(Former::OtherLayout(format!(
                "{name} of {found} bytes rather than {size}"
            )));
        }
    }
    let path = pins.map(RULES);
    if !path.exists() {
        return Ok(Former::Nothing);
    }
    let rules: Rules = read_pinned(&path).map_err(|error| map_error(RULES, error))?;
    Ok(match rules.layout {
        LAYOUT => Former::Rules(Box::new(rules)),
        // A start that was cut short before it wrote anything.
        0 => Former::Nothing,
        layout => Former::OtherLayout(format!("layout {layout} rather than {LAYOUT}")),
    })
}

fn read_pinned<T: MapValue>(path: &Path) -> Result<T, MapError> {
    let map = Map::Array(MapData::from_pin(path)?);
    let array: Array<MapData, Plain<T>> = map.try_into()?;
    array.get(&0, 0).map(|Plain(value)| value)
}

/// Puts the maps of `ebpf` in the place of pinned ones of another layout, and takes over of those what every
/// layout has: the keys of connection ids. Counters begin at 0, and so do the meters of sources.
///
/// The program that is attached goes on with the old maps, until it is replaced. Each pin is renamed over the
/// old one, `RULES` last: a start that is cut short is begun again by the next.
pub fn replace(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), XdpError> {
    if let Ok(keys) = read_pinned::<CidKeys>(&pins.map(CID_KEYS)) {
        let error = |error| map_error(CID_KEYS, error);
        let map = ebpf.map_mut(CID_KEYS);
        let map = map.unwrap_or_else(|| unreachable!("the embedded object has no map {CID_KEYS}"));
        let mut array: Array<_, Plain<CidKeys>> = map.try_into().map_err(error)?;
        array.set(0, Plain(keys), 0).map_err(error)?;
    }
    for name in pinned().filter(|name| *name != RULES).chain([RULES]) {
        let map = ebpf.map(name);
        let map = map.unwrap_or_else(|| unreachable!("the embedded object has no map {name}"));
        pins.replace_map(name, |path| map.pin(path))?;
    }
    pins.keep_only(pinned())
}

pub fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, XdpError> {
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| unreachable!("the embedded object has no map {name}"));
    map.try_into().map_err(|error| map_error(name, error))
}

pub fn map_error(map: &'static str, source: MapError) -> XdpError {
    XdpError::Map {
        map,
        source: Box::new(source),
    }
}
