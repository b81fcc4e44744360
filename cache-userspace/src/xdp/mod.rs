//! The XDP program on its interface: loaded, pinned, and taken over by the next daemon.
//!
//! ```text
//! PIN_DIR/INTERFACE/link       keeps the program attached when no daemon runs
//!                  /RULES      ports, shards, which queues go to AF_XDP
//!                  /CID_KEYS   connection ids stay valid across a restart
//!                  /COUNTERS
//!                  /XSKMAP     queue -> AF_XDP socket, emptied by the kernel as sockets close
//!                  /MARKS4, COVER4, COVER6, EXACT   allow and block lists, two generations
//!                  /BUCKETS    what each source has spent
//!                  /EVENTS     sampled matches of the guard's rules
//! ```
//!
//! The pins own the program. A daemon that ends, however it ends, leaves the program attached: its
//! AF_XDP sockets are gone, so every packet goes to the kernel's UDP sockets. The next daemon finds
//! the pins, loads its own program on the same maps and replaces the old one atomically, or keeps the
//! old one when it is the same. Maps of another version's layout give way to new ones, which the new program
//! brings with it in one step; the keys of connection ids go over. [`detach`] removes it all.
//!
//! The pins last as long as the bpffs that they are on. `ip netns exec` runs its command with mounts of
//! its own: a bpffs that is mounted in there, and with it the program, ends with the command.

mod bpffs;
mod link;
mod maps;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    error::Error,
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, programs::Xdp as Program};
use aya_log::EbpfLogger;
use cache_ebpf::{
    cid::{CidKey, CidKeys},
    maps::{MAX_PORTS, MAX_QUEUES, Rules},
};
use tracing::{info, warn};

use crate::config::XdpMode;
use bpffs::Pins;
use maps::{Former, Maps};
pub use tables::{GuardMaps, Tables};

/// The object of `cargo xtask build-ebpf`; empty when there was none at build time.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/popcache-xdp.o"));

const PROGRAM: &str = "popcache_xdp";

/// Where and how to attach.
#[derive(Clone, Debug)]
pub struct XdpOptions {
    pub interface: String,
    pub mode: XdpMode,
    /// A directory on a bpffs, or one where a bpffs may be mounted.
    pub pin_dir: PathBuf,
    /// UDP ports served, at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
    /// TCP ports served, as many at most.
    pub tcp_ports: Vec<u16>,
    /// Shards, at most [`MAX_QUEUES`].
    pub shards: u32,
}

/// How the program came to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was attached before.
    Attached,
    /// An earlier daemon's program is the same and was kept.
    Kept,
    /// An earlier daemon's program was replaced without a gap.
    Replaced,
}

/// The kernel's names for what is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub link_id: u32,
    pub program_id: u32,
    pub mode: XdpMode,
    pub origin: Origin,
}

/// The attached program and its maps. Dropping it detaches nothing.
pub struct Xdp {
    interface: String,
    attachment: Attachment,
    rules: Rules,
    cid_keys: CidKeys,
    maps: Maps,
    guard: Option<GuardMaps>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Xdp {
    /// Attaches the program, or takes over what an earlier daemon left attached.
    ///
    /// Blocks for some milliseconds. Steering to AF_XDP is off on every queue afterwards.
    ///
    /// # Errors
    /// See [`XdpError`]; an error leaves the interface as it was.
    pub fn attach(options: &XdpOptions) -> Result<Self, XdpError> {
        if OBJECT.is_empty() {
            return Err(XdpError::NotBuilt);
        }
        let mut rules = rules(options)?;
        link::require_interface(&options.interface)?;
        let pins = Pins::prepare(&options.pin_dir, &options.interface)?;
        let attached = Self::attach_pinned(options, &pins, &mut rules);
        if attached.is_err() && !pins.link().exists() {
            pins.remove()?;
        }
        attached
    }

    fn attach_pinned(
        options: &XdpOptions,
        pins: &Pins,
        rules: &mut Rules,
    ) -> Result<Self, XdpError> {
        let former = maps::former(pins)?;
        let mut ebpf = match &former {
            Former::OtherLayout(found) => {
                warn!(
                    found,
                    "the XDP maps are of another version: new ones take their place, with the same keys of connection ids"
                );
                load_anew(pins)?
            }
            _ => load(pins)?,
        };
        let mut maps = Maps::take(&mut ebpf)?;
        let guard = GuardMaps::take(&mut ebpf)?;
        let cid_keys = maps.cid_keys_or_new()?;
        if let Some(former) = former.rules() {
            keep_guard(rules, former);
        }
        rules.attach_mode = link::mode_number(options.mode);
        maps.write_rules(rules)?;

        let same_mode = match &former {
            Former::Nothing => false,
            Former::Rules(former) => former.attach_mode == rules.attach_mode,
            // It cannot be read there. The link keeps its mode.
            Former::OtherLayout(_) => true,
        };
        let program = program_of(&mut ebpf)?;
        let attachment = link::attach(program, options, pins, same_mode)?;
        info!(
            interface = options.interface,
            link = attachment.link_id,
            program = attachment.program_id,
            origin = ?attachment.origin,
            "XDP program attached"
        );
        Ok(Self {
            interface: options.interface.clone(),
            attachment,
            rules: *rules,
            cid_keys,
            maps,
            guard: Some(guard),
            log: open_log(attachment.program_id),
        })
    }

    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The keys of connection ids: those of the first daemon since the program was attached.
    pub fn cid_keys(&self) -> CidKeys {
        self.cid_keys
    }

    /// Makes `socket` the AF_XDP socket of `queue`. It gets packets once [`Self::set_af_xdp`] turns
    /// the queue on.
    ///
    /// # Errors
    /// The queue is out of bounds, or the socket is not an AF_XDP socket bound to it.
    pub fn register_xsk(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        self.maps.set_socket(queue, socket)
    }

    /// Sends datagrams for our ports that come in on `queue` to its AF_XDP socket, or no longer.
    ///
    /// # Errors
    /// The queue is out of bounds, or the kernel refused the update.
    pub fn set_af_xdp(&mut self, queue: u32, on: bool) -> Result<(), XdpError> {
        if queue >= MAX_QUEUES {
            return Err(XdpError::Queue { queue });
        }
        self.change(|rules| {
            rules.set_steering(queue, on);
        })
    }

    /// What the program goes by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Changes what the program goes by. On an error all is as before.
    ///
    /// # Errors
    /// The kernel refused the update.
    pub fn change(&mut self, change: impl FnOnce(&mut Rules)) -> Result<(), XdpError> {
        let mut rules = self.rules;
        change(&mut rules);
        self.maps.write_rules(&rules)?;
        self.rules = rules;
        Ok(())
    }

    /// The maps of the guard, once.
    pub fn take_guard_maps(&mut self) -> Option<GuardMaps> {
        self.guard.take()
    }

    /// Makes `keys` those that the program and the next daemon know.
    ///
    /// # Errors
    /// The kernel refused the update.
    pub fn set_cid_keys(&mut self, keys: CidKeys) -> Result<(), XdpError> {
        self.maps.set_cid_keys(keys)?;
        self.cid_keys = keys;
        Ok(())
    }

    /// Packets since the program was first attached, by name, over all CPUs.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, XdpError> {
        self.maps.counters()
    }

    /// Passes on what the program itself had to say (rarely anything). Call it now and then.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

/// Detaches the program from `interface` and forgets its maps. False when there was none of ours.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach(interface: &str, pin_dir: &Path) -> Result<bool, XdpError> {
    let pins = Pins::existing(pin_dir, interface)?;
    let existed = pins.link().exists();
    pins.remove()?;
    Ok(existed)
}

/// One fresh random key, active under this key id. For a node without an XDP program; with one, use
/// [`Xdp::cid_keys`].
///
/// # Errors
/// The operating system has no randomness to give.
pub fn random_cid_keys(number: u8) -> Result<CidKeys, XdpError> {
    Ok(CidKeys::new(number, CidKey(random_key()?)))
}

/// A SipHash key that nobody knows.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn random_key() -> Result<[u64; 2], XdpError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| XdpError::Randomness)?;
    Ok(CidKey::from_bytes(bytes).0)
}

/// What aya says went wrong.
type Cause = Box<dyn Error + Send + Sync>;

/// Why the program is not attached, or could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    #[error(
        "this binary was built without the XDP program; run `cargo xtask build-ebpf`, then build again"
    )]
    NotBuilt,
    #[error("interface {interface:?} does not exist; `ip -brief link` lists those that do")]
    NoInterface { interface: String },
    #[error(
        "{count} {protocol} ports are configured, the XDP program serves at most {MAX_PORTS} different ones"
    )]
    TooManyPorts {
        count: usize,
        protocol: &'static str,
    },
    #[error("{shards} shards are configured, the XDP program knows at most {MAX_QUEUES}")]
    TooManyShards { shards: u32 },
    #[error("queue {queue} is out of bounds: there are at most {MAX_QUEUES}")]
    Queue { queue: u32 },
    #[error(
        "not allowed to load an XDP program: run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted(#[source] io::Error),
    #[error(
        "interface {interface} already has an XDP program of someone else; see `ip -details link show dev \
         {interface}`, and take it off first (`ip link set dev {interface} xdp off`)"
    )]
    Foreign { interface: String },
    #[error(
        "interface {interface} cannot run an XDP program in native mode ({source}); set packet.xdp_mode = \
         \"skb\", or an MTU that its driver accepts for XDP"
    )]
    Unsupported {
        interface: String,
        source: io::Error,
    },
    #[error("cannot {action} {}: {source}", path.display())]
    Pin {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {action}: {source}")]
    Kernel { action: &'static str, source: Cause },
    #[error("cannot map the memory of the XDP map {map}: {source}")]
    Memory {
        map: &'static str,
        source: io::Error,
    },
    #[error("cannot access the XDP map {map}: {source}")]
    Map {
        map: &'static str,
        source: Box<aya::maps::MapError>,
    },
    #[error("the operating system gave no random bytes for keys")]
    Randomness,
}

/// The rules for these options, with steering off.
fn rules(options: &XdpOptions) -> Result<Rules, XdpError> {
    if options.shards > MAX_QUEUES {
        let shards = options.shards;
        return Err(XdpError::TooManyShards { shards });
    }
    let mut rules = Rules::new(options.shards, places(&options.ports, "UDP")?);
    rules.tcp_ports = places(&options.tcp_ports, "TCP")?;
    Ok(rules)
}

/// Each port once.
fn places(ports: &[u16], protocol: &'static str) -> Result<[u16; MAX_PORTS], XdpError> {
    let mut wanted = ports.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut places = [0; MAX_PORTS];
    let Some(first) = places.get_mut(..wanted.len()) else {
        let count = wanted.len();
        return Err(XdpError::TooManyPorts { count, protocol });
    };
    first.copy_from_slice(&wanted);
    Ok(places)
}

/// What an earlier daemon made the guard do stays in force until this one says otherwise.
fn keep_guard(rules: &mut Rules, former: &Rules) {
    let own = *rules;
    *rules = *former;
    rules.attach_mode = own.attach_mode;
    rules.shards = own.shards;
    rules.ports = own.ports;
    rules.tcp_ports = own.tcp_ports;
    rules.af_xdp = own.af_xdp;
}

/// Loads the object on the pinned maps, making and pinning those that are not there yet.
fn load(pins: &Pins) -> Result<Ebpf, XdpError> {
    let mut loader = EbpfLoader::new();
    for name in maps::pinned() {
        loader.map_pin_path(name, pins.map(name));
    }
    let error = |error| kernel_error("load the XDP maps", error);
    let mut ebpf = loader.load(OBJECT).map_err(error)?;
    program_of(&mut ebpf)?
        .load()
        .map_err(|error| kernel_error("load the XDP program", error))?;
    Ok(ebpf)
}

/// Loads the object on new maps, and puts those in the place of the pinned ones.
fn load_anew(pins: &Pins) -> Result<Ebpf, XdpError> {
    let mut ebpf = Ebpf::load(OBJECT).map_err(|error| kernel_error("load the XDP maps", error))?;
    program_of(&mut ebpf)?
        .load()
        .map_err(|error| kernel_error("load the XDP program", error))?;
    maps::replace(&mut ebpf, pins)?;
    Ok(ebpf)
}

fn program_of(ebpf: &mut Ebpf) -> Result<&mut Program, XdpError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .unwrap_or_else(|| unreachable!("the embedded object has no program {PROGRAM}"));
    program
        .try_into()
        .map_err(|error| kernel_error("use the XDP program", error))
}

/// The program's own messages are worth a warning, not a failed start.
fn open_log(program_id: u32) -> Option<EbpfLogger<&'static dyn log::Log>> {
    EbpfLogger::init_from_id(program_id)
        .inspect_err(|error| warn!("the XDP program's own messages cannot be read: {error}"))
        .ok()
}

fn kernel_error(action: &'static str, source: impl Into<Cause>) -> XdpError {
    let source = source.into();
    match errno(&*source) {
        Some(errno @ (libc::EPERM | libc::EACCES)) => {
            XdpError::NotPermitted(io::Error::from_raw_os_error(errno))
        }
        _ => XdpError::Kernel { action, source },
    }
}

/// The operating system's error at the bottom of a chain of errors.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}
