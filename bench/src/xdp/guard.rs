//! The daemon's program with every rule at work, or one.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Map, XskMap};
use aya::programs::Xdp;
use cache_ebpf::cid::{CidKey, CidKeys, seal};
use cache_ebpf::lists::{List, Prefix, Slot, Writer};
use cache_ebpf::maps::{CID_KEYS, COVER4, COVER6, EXACT, MARKS4, MAX_PORTS, RULES, Rules, XSKMAP};
use cache_ebpf::meter::{Meter, Meters};
use cache_ebpf::parse::Source;
use cache_ebpf::rule::{Mode, Modes, Rule};
use memmap2::{MmapMut, MmapOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Action, Case};
use crate::bpf::{Plain, array, guard, map, verified};
use crate::r#gen::frame::{Path, Ports, Sources, Template};
use crate::r#gen::payload::{Kind, payloads};

const PROGRAM: &str = "popcache_xdp";
const PORT: u16 = 443;
/// Where the packets of all cases but the drawn ones come from.
pub const SOURCE: u32 = 0xc612_4007;
/// Prefixes that are blocked when none of them matters.
const FEW: u32 = 1000;
const MILLION: u32 = 1_000_000;

pub struct Guard {
    ebpf: Ebpf,
    rules: Rules,
    tables: [MmapMut; 4],
    frames: Frames,
    /// Stands in the socket map, so that packets are redirected. Nothing is sent to it.
    _socket: OwnedFd,
}

struct Frames {
    initial: Vec<u8>,
    short: Vec<u8>,
    forged: Vec<u8>,
}

impl Guard {
    /// Loads the program and turns every rule on.
    ///
    /// # Errors
    /// Not root, or no BPF.
    pub fn load() -> Result<Self> {
        let mut ebpf = guard()?;
        verified(&mut ebpf, PROGRAM)?;
        let keys = CidKeys::new(0, CidKey::from_bytes(*b"0123456789abcdef"));
        array(&mut ebpf, CID_KEYS)?.set(0, Plain(keys), 0)?;
        let socket = socket()?;
        let mut sockets: XskMap<_> = map(&mut ebpf, XSKMAP)?.try_into()?;
        sockets
            .set(0, socket.as_fd(), 0)
            .context("cannot put a socket into the map")?;
        Ok(Self {
            tables: [
                mapped(&mut ebpf, MARKS4)?,
                mapped(&mut ebpf, COVER4)?,
                mapped(&mut ebpf, COVER6)?,
                mapped(&mut ebpf, EXACT)?,
            ],
            ebpf,
            rules: rules(),
            frames: frames(&keys)?,
            _socket: socket,
        })
    }

    pub fn program(&self) -> Result<&Xdp> {
        let program = self.ebpf.program(PROGRAM).context("it is loaded")?;
        Ok(program.try_into()?)
    }

    /// Fills the lists as `case` needs them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(&mut self, case: Case) -> Result<()> {
        match case {
            Case::ListDrop => self.list(prefixes(FEW).chain([host(SOURCE)]))?,
            Case::Prefixes1M => self.list(million())?,
            Case::Flood1MSources => self.list(prefixes(0))?,
            _ => self.list(prefixes(FEW))?,
        }
        self.rules.modes = modes(case);
        self.rules.ports[0] = match case {
            // Lists are asked for every protocol and port, and by the peer too.
            Case::Prefixes1M => 0,
            _ => PORT,
        };
        array(&mut self.ebpf, RULES)?.set(0, Plain(self.rules), 0)?;
        Ok(())
    }

    /// The packet of a case and what becomes of it.
    pub fn packet(&self, case: Case) -> (&[u8], Action) {
        let Frames {
            initial,
            short,
            forged,
        } = &self.frames;
        match case {
            Case::ShortSteered => (short, Action::Redirect),
            Case::ListDrop => (initial, Action::Drop),
            Case::ForgedShortDrop => (forged, Action::Drop),
            _ => (initial, Action::Redirect),
        }
    }

    fn list(&mut self, block: impl Iterator<Item = (u32, u8)>) -> Result<()> {
        let seed = [3, 4];
        self.rules.lists.prepare(seed);
        let [marks4, cover4, cover6, exact] = &mut self.tables;
        let next = self.rules.lists.generation() ^ 1;
        let slot = Slot::of_generation(next, marks4, cover4, cover6, exact);
        let mut writer = Writer::new(slot.context("tables of another size")?, seed);
        for (address, length) in block {
            let Ok(prefix) = Prefix::new(Source::v4(address), length) else {
                bail!("{address:x}/{length} cannot be listed");
            };
            if writer.insert(List::Block, &prefix).is_err() {
                bail!("the lists have no room");
            }
        }
        self.rules.lists.flip(writer.finish().0);
        Ok(())
    }
}

/// A million prefixes, half of them networks and half of them hosts.
pub fn million() -> impl Iterator<Item = (u32, u8)> {
    prefixes(MILLION)
}

fn prefixes(count: u32) -> impl Iterator<Item = (u32, u8)> {
    let mut random = SmallRng::seed_from_u64(1);
    (0..count)
        .map(move |n| {
            let address: u32 = random.random();
            if n % 2 == 0 {
                (address & !0xff, 24)
            } else {
                (address, 32)
            }
        })
        // The source that all but one case is not to be blocked.
        .filter(|(address, _)| address >> 8 != SOURCE >> 8)
}

const fn host(address: u32) -> (u32, u8) {
    (address, 32)
}

/// All rules, but where a table is compared with another: its rule alone.
fn modes(case: Case) -> Modes {
    let mut modes = Modes::OFF;
    for rule in Rule::ALL {
        let wanted = match case {
            Case::Prefixes1M => *rule == Rule::BlockList,
            Case::Flood1MSources => *rule == Rule::RatePackets,
            _ => true,
        };
        if wanted {
            modes.set(*rule, Mode::Drop);
        }
    }
    modes
}

fn rules() -> Rules {
    let mut ports = [0; MAX_PORTS];
    ports[0] = PORT;
    let mut rules = Rules::new(2, ports);
    rules.set_reflectors(&[53, 123, 389, 1900, 11211]);
    rules.bucket_key = [5, 6];
    let most = Meter {
        per_tick: u32::MAX,
        burst: u32::MAX,
    };
    // A new connection every packet from one source, as here, is more than the handshake meter can
    // count up to; it takes the same time whatever its burst.
    rules.meters = Meters {
        packets: most,
        bytes: most,
        ..Meters::NONE
    };
    rules.set_steering(0, true);
    rules
}

fn frames(keys: &CidKeys) -> Result<Frames> {
    let mut random = SmallRng::seed_from_u64(2);
    let path = Path {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sources: Sources {
            first: SOURCE.to_be_bytes().into(),
            count: 1,
        },
        ports: Ports {
            first: 50_000,
            count: 1,
        },
        to: ([198, 18, 0, 1], PORT).into(),
    };
    let mut frame = |kind| -> Result<Vec<u8>> {
        let payloads = payloads(kind, 64, &mut random)?;
        let payload = payloads.first().context("every kind has a payload")?;
        Ok(Template::datagram(&path, None, &payload.bytes, None)?.frame)
    };
    let (initial, forged) = (frame(Kind::ForgedInitial)?, frame(Kind::Short)?);
    let (key_id, key) = keys.active().context("there is a key")?;
    let id_at = forged.len() - 64 + 1;
    let mut short = forged.clone();
    short[id_at..][..12].copy_from_slice(&seal(&key, key_id, 0, *b"nonce!"));
    Ok(Frames {
        initial,
        short,
        forged,
    })
}

/// An AF_XDP socket that is bound to nothing.
fn socket() -> Result<OwnedFd> {
    // SAFETY: takes numbers and gives a descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(
        fd >= 0,
        "cannot open an AF_XDP socket: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A table of the lists, as memory that is shared with the kernel.
fn mapped(ebpf: &mut Ebpf, name: &str) -> Result<MmapMut> {
    let Map::Array(map) = map(ebpf, name)? else {
        bail!("{name} is not an array");
    };
    let info = map.info()?;
    let length = info.max_entries() as usize * info.value_size() as usize;
    let descriptor = map.fd().as_fd().as_raw_fd();
    // SAFETY: the program only reads the tables, and only while it is run, when nobody writes.
    let mapped = unsafe { MmapOptions::new().len(length).map_mut(descriptor) };
    mapped.with_context(|| format!("cannot map {name}"))
}
