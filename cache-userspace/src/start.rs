//! The boot order; stopping is its reverse.
//!
//! ```text
//!  admin socket (is another popcache running?) | the sockets and drives of one that runs -> machine -> TLS -> UDP and TCP sockets
//!    -> tier (devices, journal) -> store -> tier (what is found again) -> XDP -> packet backend -> privileges given up
//!    -> shards -> guard -> control thread -> "ready"
//! ```
//!
//! Whatever can fail for a reason outside the program fails here, before the first packet is taken,
//! with one line that says what to do.

mod ports;
mod tcp;
mod tier;

use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use cache_core::config::{Policy, ShardConfig};
use cache_core::conn::quic::QuicSetup;
use cache_core::shard::Shard;
use cache_core::stats::ShardStats;
use cache_core::store::{self, Store, StoreConfig, StoreReport};
use cache_core::tier::TierGauges;
use cache_ebpf::cid::{CidKey, CidKeys};
use tokio::sync::mpsc;

use crate::admin::Former;
use crate::certificates::Certificates;
use crate::compress::Compressor;
use crate::config::{Config, Machine};
use crate::guard::{Guard, Shards};
use crate::node::{
    COMMAND_QUEUE, NodeFacts, NodeHandle, Reading, Reloading, ShardCommand, Sources, XdpFacts,
};
use crate::purging::Purging;
use crate::rt::control::Control;
use crate::rt::core_loop::LoopStats;
use crate::rt::disk::DiskStats;
use crate::rt::mesh::mesh;
use crate::rt::packet::{Kind, PacketStats, UdpSocket, open_sockets};
use crate::rt::spawn::{CorePlan, RunningCore, spawn};
use crate::service::Service;
use crate::sessions::Sessions;
use crate::status::BackendStatus;
use crate::tcp::stats::TcpStats;
use crate::upgrade::{Generation, Handover, Offered, Sockets, Takeover, socket_beside};
use crate::upstream::Upstream;
use crate::xdp::{Xdp, XdpOptions, random_cid_keys, random_key};
use crate::{admin, config, privileges, reload, tls_files};
use ports::{Ports, Steer};
use tier::Memory;

/// Runs a node until SIGINT or SIGTERM.
///
/// # Errors
/// It could not start, or a part of it failed while running.
pub fn serve(mut config: Config, machine: Machine, how: How) -> anyhow::Result<()> {
    privileges::require_user(&config)?;
    let mut takeover = match how {
        How::TakeOver => Some(Takeover::ask(&config)?),
        How::Alone { .. } => None,
    };
    let listeners = match how {
        How::TakeOver => None,
        How::Alone { .. } => Some(admin::bind(&config.admin)?),
    };
    require_kernel()?;
    let certificates = Arc::new(Certificates::load(&config.tls).context("tls")?);
    let early = config.tls.early_data;
    let sessions = early.then(|| Arc::new(Sessions::new(config.tls.max_sessions)));
    let tls = Arc::new(tls_files::quic_config(
        certificates.clone(),
        sessions.clone(),
    )?);
    let tcp_tls = Arc::new(tls_files::tcp_config(certificates.clone())?);
    let shards = u8::try_from(config.server.cpus.len()).context("too many cores")?;
    let sockets = match &takeover {
        Some(takeover) => takeover.sockets.try_clone()?,
        None => open_all_sockets(&config, shards)?,
    };
    let offered = sockets.try_clone().context("no descriptors are left")?;
    let listen: Vec<SocketAddr> = sockets.udp[0].iter().map(UdpSocket::address).collect();
    let mut doors = tcp::Doors::on(&config, &listen, tcp_tls, (sockets.tls, sockets.clear))?;
    let mut memory = match &mut takeover {
        Some(takeover) => Memory::take_over(&config, shards, mem::take(&mut takeover.drives))?,
        None => Memory::open(&config, shards, matches!(how, How::Alone { format: true }))?,
    };
    let (mut stores, report) = build_store(&config, shards, &memory)?;
    let mut tiers = memory.recover(&config, shards)?;
    if takeover.is_some() {
        let tiers = tiers.iter_mut().flatten();
        tiers.for_each(|shard| shard.tier.rest());
    }
    let former_key = takeover.as_ref().map(|takeover| takeover.offer.cid_key);
    let steering = Steering::new(&config, (&listen, doors.ports()), shards, former_key)?;
    let quic = QuicSetup::new(tls, steering.cid_keys, &config.limits)?
        .with_cid_lifetime(config.guard.cid_key_lifetime);
    let node_id = node_id()?;
    config.upstream.node_id.clone_from(&node_id);
    let upstream = Upstream::new(config.upstream.clone())?;
    let upstream = Arc::new(ArcSwap::from_pointee(upstream));

    let ports = {
        let mut xdp = steering.lock();
        let steer = match takeover {
            Some(_) => Steer::Later,
            None => Steer::Now,
        };
        Ports::open(&config, &listen, sockets.udp, xdp.as_deref_mut(), steer)?
    };
    let is_af_xdp = ports.backend.kind == Kind::AfXdp.name();
    let generation = takeover
        .as_ref()
        .map(|takeover| Generation::new(takeover.offer.generation + 1, Some(takeover.offer.pid)));
    let generation = Arc::new(generation.unwrap_or_default());
    let switched = takeover.map(|takeover| takeover.switch(|| steering.enter_key()));
    let predecessor = switched.transpose()?;
    if predecessor.is_some() {
        memory.catch_up(&mut tiers)?;
    }
    memory.pin_again(&mut stores);
    let mut tiers = tiers.into_iter();
    let former = match predecessor {
        Some(_) => Former::Replaced,
        None => Former::Refused,
    };
    let listeners = match listeners {
        Some(listeners) => listeners,
        None => admin::bind_in_place_of(&config.admin, former)?,
    };
    let beside = socket_beside(&config.admin.socket);
    let (successors, _successors_file) =
        admin::bind_unix(&beside, UPGRADE_MODE, former).context("admin.socket")?;
    privileges::surrender(&config)?;
    let (lanes, control_lanes) =
        mesh(shards, config.limits.max_lane_backlog).context("cannot make lanes")?;
    let mut counters = Counters::new(shards);
    let mut cores = Cores::default();
    for (((number, lanes), store), port) in (0..).zip(lanes).zip(stores).zip(ports.ports) {
        let mut shard = shard(
            &config,
            (number, &node_id),
            store,
            &quic,
            counters.shards[usize::from(number)].clone(),
        )?;
        let mut disk = None;
        if let Some(tier) = tiers.next().flatten() {
            shard = shard.with_tier(tier.tier);
            counters
                .tiers
                .push((shard.tier_gauges(), tier.disk.stats.clone()));
            disk = Some(tier.disk);
        }
        cores.running.push(spawn(CorePlan {
            number,
            cpu: config.server.cpus[usize::from(number)],
            shard,
            port,
            disk,
            lanes,
            tcp: doors.next(counters.tcp[usize::from(number)].clone()),
            spin: config.packet.spin,
            packet_stats: counters.packets[usize::from(number)].clone(),
            loop_stats: counters.loops[usize::from(number)].clone(),
        })?);
    }
    leave_cores_alone(&config.server.cpus);
    let (asking, commands) = mpsc::channel(COMMAND_QUEUE);
    let guard = steering.guard(&config, shards, &asking)?;

    let ready = format!(
        "popcache: ready on {} backend {}",
        show(&listen),
        ports.backend.kind
    );
    let facts = facts(
        &config,
        listen,
        ports.backend,
        report,
        (&steering, Arc::clone(&generation)),
    );
    let purger = memory.purges.writer().context("another writer of purges")?;
    let drives = memory.drives();
    let purging = Purging::new(purger, memory.journal);
    let offered = Offered {
        sockets: offered,
        shards,
        xdp: steering.xdp.clone(),
        cid_key: steering.cid_key(),
        is_af_xdp,
        guard: guard.clone(),
        drives,
        generation,
    };
    let seed = memory.seed;
    let compressor = Arc::new(compressor(&config));
    let (drain_limit, save_limit) = (config.server.drain_limit, config.tier.save_at_stop);
    let asked = Asked {
        commands: asking,
        reloading: Reloading {
            config,
            machine,
            certificates,
            upstream: Arc::clone(&upstream),
        },
        sessions,
    };
    let sources = sources(
        &counters,
        Arc::clone(&compressor),
        (steering, guard),
        asked,
        purging,
        seed,
    );
    let node = NodeHandle::new(facts, sources);
    let (handing, handover) = mpsc::channel(1);
    Handover::start(offered, handing, successors, predecessor)?;
    let control = Control {
        lanes: control_lanes,
        upstream,
        compressor,
        commands,
        handover,
        admin: listeners,
        node,
        stats: counters.shards,
        tcp: counters.tcp,
        service: Service::new(&counters.loops),
        drain_limit,
        save_limit,
    };
    let ended = control.run(move |service| {
        eprintln!("{ready}");
        service.ready(ready.trim_start_matches("popcache: "));
    });
    cores.join().and(ended)
}

/// How a node comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It must be the only one. `format`: its tier's devices are written anew, whatever they hold.
    Alone { format: bool },
    /// The node that runs hands its sockets over ([`crate::upgrade`]).
    TakeOver,
}

/// Only the node's own user and root may take over.
const UPGRADE_MODE: u32 = 0o600;

/// UDP and TCP, as the configuration says.
fn open_all_sockets(config: &Config, shards: u8) -> anyhow::Result<Sockets> {
    let udp = open_sockets(&config.server.listen, shards).context("server.listen")?;
    let listen: Vec<SocketAddr> = udp[0].iter().map(UdpSocket::address).collect();
    let (tls, clear) = tcp::listeners(&config.server, &listen, shards)?;
    Ok(Sockets { udp, tls, clear })
}

/// Locked memory that glommio insists on, in bytes.
const LOCKED_MEMORY: u64 = 512 << 10;

/// What every later step takes for granted, each with its own line when it is missing.
fn require_kernel() -> anyhow::Result<()> {
    require_locked_memory()?;
    ensure!(
        Path::new("/sys/devices/system/cpu").is_dir(),
        "no sysfs on /sys, which says where CPUs are; mount it (`mount -t sysfs sysfs /sys`)"
    );
    if let Ok(disabled) = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        && disabled.trim() == "2"
    {
        bail!("io_uring is disabled; allow it with `sysctl kernel.io_uring_disabled=0`");
    }
    match crate::rt::ring::Ring::new(8) {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => {
                bail!("this kernel's io_uring is too old or missing; Linux 6.1 or newer is needed")
            }
            Some(libc::EPERM | libc::EACCES) => {
                bail!(
                    "not allowed to use io_uring; see `sysctl kernel.io_uring_disabled` and the container's seccomp profile"
                )
            }
            Some(libc::ENOMEM) => {
                bail!("no locked memory left for io_uring; raise `ulimit -l` to 8192 KiB or more")
            }
            _ => Err(error).context("cannot make an io_uring"),
        },
    }
}

/// Raises the limit as far as it may be raised, and complains if that is not enough.
fn require_locked_memory() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource::RLIMIT_MEMLOCK, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(RLIMIT_MEMLOCK).context("cannot read RLIMIT_MEMLOCK")?;
    if hard >= LOCKED_MEMORY && (soft == hard || setrlimit(RLIMIT_MEMLOCK, hard, hard).is_ok()) {
        return Ok(());
    }
    bail!(
        "{} KiB of memory may be locked, io_uring needs {}: raise it by `ulimit -l` or LimitMEMLOCK=",
        hard >> 10,
        LOCKED_MEMORY >> 10
    )
}

fn build_store(
    config: &Config,
    shards: u8,
    memory: &Memory,
) -> anyhow::Result<(Vec<Store>, StoreReport)> {
    let store = StoreConfig {
        shards,
        ram_bytes: config.memory.ram,
        pages: config.memory.pages,
        max_object: config.limits.max_object,
        hash_seed: memory.seed,
        large_share: config.memory.large_share,
        mean_object: config.memory.mean_object,
        // Class 0 is what belongs to none.
        class_bytes: [&[0], &config.class_bytes[..]].concat(),
        pinned_bytes: config.memory.pinned,
        max_pins: config.memory.max_pins,
    };
    let (stores, report) =
        store::build(&store, Arc::clone(&memory.purges)).context("memory.ram")?;
    tracing::info!(
        mib = report.backing.bytes >> 20,
        pages = %report.backing.kind,
        note = report.backing.note,
        "memory mapped"
    );
    Ok((stores, report))
}

fn shard(
    config: &Config,
    (number, node_id): (u8, &str),
    store: Store,
    quic: &QuicSetup,
    stats: Arc<ShardStats>,
) -> anyhow::Result<Shard> {
    let Policy {
        origins,
        caching,
        limits,
    } = reload::policy(config);
    let shard_config = ShardConfig {
        shard: number,
        shards: config.server.cpus.len() as u8,
        node_name: config.server.name.clone(),
        node_id: node_id.to_owned(),
        role: config.server.role,
        origins,
        caching,
        limits,
    };
    Ok(Shard::new(
        shard_config,
        store,
        quic,
        stats,
        random()?,
        false,
    ))
}

/// What tells this process from others of its name, in hexadecimal.
fn node_id() -> anyhow::Result<String> {
    Ok(format!("{:08x}", u32::from_ne_bytes(random()?)))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow!("the operating system has no randomness to give"))?;
    Ok(bytes)
}

/// The XDP program, if there is one, and the keys of connection ids, which it shares.
struct Steering {
    xdp: Option<Arc<Mutex<Xdp>>>,
    cid_keys: CidKeys,
    /// What the program is to know in the place of the former node's keys.
    to_enter: Option<CidKeys>,
}

impl Steering {
    /// `tcp_ports`: those that are listened on. `former`: the key of connection ids of the node before this one, which goes on making
    /// ids with it.
    fn new(
        config: &Config,
        (listen, tcp_ports): (&[SocketAddr], Vec<u16>),
        shards: u8,
        former: Option<u8>,
    ) -> anyhow::Result<Self> {
        let Some(interface) = &config.packet.interface else {
            let next = former.map_or(0, |key| key.wrapping_add(1));
            return Ok(Self {
                xdp: None,
                cid_keys: random_cid_keys(next)?,
                to_enter: None,
            });
        };
        let xdp = Xdp::attach(&XdpOptions {
            interface: interface.clone(),
            mode: config.packet.xdp_mode,
            pin_dir: config.packet.pin_dir.clone(),
            ports: listen.iter().map(SocketAddr::port).collect(),
            tcp_ports,
            shards: u32::from(shards),
        })
        .context("packet.interface")?;
        let (cid_keys, to_enter) = match former {
            Some(former) => {
                let (own, all) = next_key(&xdp, former)?;
                (own, Some(all))
            }
            None => (xdp.cid_keys(), None),
        };
        Ok(Self {
            xdp: Some(Arc::new(Mutex::new(xdp))),
            cid_keys,
            to_enter,
        })
    }

    /// Has the program know our key: until here the former node could go on as if we had never been.
    fn enter_key(&self) -> anyhow::Result<()> {
        if let (Some(mut xdp), Some(keys)) = (self.lock(), self.to_enter) {
            xdp.set_cid_keys(keys)?;
        }
        Ok(())
    }

    /// The number of the key that ids are made with at first.
    fn cid_key(&self) -> u8 {
        self.cid_keys.active().map_or(0, |(number, _)| number)
    }

    /// The guard over the program, if there is one.
    fn guard(
        &self,
        config: &Config,
        shards: u8,
        asking: &mpsc::Sender<ShardCommand>,
    ) -> anyhow::Result<Option<Guard>> {
        let start = |xdp| {
            let shards = Shards {
                commands: asking.clone(),
                count: shards,
            };
            Guard::start(config.guard.clone(), Arc::clone(xdp), shards)
        };
        self.xdp.as_ref().map(start).transpose()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Xdp>> {
        let xdp = self.xdp.as_ref()?;
        Some(xdp.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn facts(&self) -> XdpFacts {
        match self.lock() {
            Some(xdp) => XdpFacts {
                attached: true,
                detail: format!("{:?} on {}", xdp.attachment().mode, xdp.interface())
                    .to_lowercase(),
            },
            None => XdpFacts {
                attached: false,
                detail: "no packet.interface".to_owned(),
            },
        }
    }
}

/// A key of our own, to stand beside those of the former node; we know it alone, so that its connections are none of
/// ours. Second, all of them as the program is to know them.
fn next_key(xdp: &Xdp, former: u8) -> anyhow::Result<(CidKeys, CidKeys)> {
    let known = xdp.cid_keys();
    let active = known.active().map(|(number, _)| number);
    ensure!(
        active == Some(former),
        "the XDP program's keys are not those of the node that runs: restart instead"
    );
    let key = CidKey(random_key()?);
    let (mut keys, next) = known.with_next(key);
    keys.activate(next);
    keys.set_since(0);
    Ok((CidKeys::new(next, key), keys))
}

/// Every shard's counters.
struct Counters {
    shards: Vec<Arc<ShardStats>>,
    packets: Vec<Arc<PacketStats>>,
    loops: Vec<Arc<LoopStats>>,
    tcp: Vec<Arc<TcpStats>>,
    /// With a tier: of each shard's part, and of its drives.
    tiers: Vec<(Arc<TierGauges>, Arc<DiskStats>)>,
}

impl Counters {
    fn new(shards: u8) -> Self {
        fn each<T: Default>(shards: u8) -> Vec<Arc<T>> {
            (0..shards).map(|_| Arc::default()).collect()
        }
        Self {
            shards: each(shards),
            packets: each(shards),
            loops: each(shards),
            tcp: each(shards),
            tiers: Vec::new(),
        }
    }

    /// What `status` shows of each shard beside the shard's own counters.
    fn runtime(&self) -> Vec<Reading<Vec<(&'static str, u64)>>> {
        (0..self.shards.len())
            .map(|shard| -> Reading<_> {
                let (packets, turns) = (self.packets[shard].clone(), self.loops[shard].clone());
                let tcp = self.tcp[shard].clone();
                let tier = self.tiers.get(shard).cloned();
                Box::new(move || {
                    let mut all = [packets.snapshot(), turns.snapshot(), tcp.snapshot()].concat();
                    if let Some((tier, disk)) = &tier {
                        all.extend(tier.snapshot());
                        all.extend(disk.snapshot());
                    }
                    all
                })
            })
            .collect()
    }
}

fn facts(
    config: &Config,
    listen: Vec<SocketAddr>,
    backend: BackendStatus,
    report: StoreReport,
    (steering, generation): (&Steering, Arc<Generation>),
) -> NodeFacts {
    NodeFacts {
        name: config.server.name.clone(),
        backend,
        listen,
        interface: config.packet.interface.clone(),
        xdp: steering.facts(),
        memory: report.backing,
        cpus: config.server.cpus.clone(),
        warnings: config.warnings.clone(),
        generation,
        config: config::explain::json(config),
    }
}

/// What carries out an operator's wishes.
struct Asked {
    commands: mpsc::Sender<ShardCommand>,
    reloading: Reloading,
    sessions: Option<Arc<Sessions>>,
}

fn sources(
    counters: &Counters,
    compressor: Arc<Compressor>,
    guarded: (Steering, Option<Guard>),
    asked: Asked,
    purging: Purging,
    hash_seed: u64,
) -> Sources {
    let upstream = Arc::clone(&asked.reloading.upstream);
    let certificates = Arc::clone(&asked.reloading.certificates);
    let (steering, guard) = guarded;
    Sources {
        shards: counters.shards.clone(),
        runtime: counters.runtime(),
        nodes: {
            let upstream = upstream.clone();
            Box::new(move || upstream.load().stats().nodes())
        },
        upstream: Box::new(move || upstream.load().stats().snapshot()),
        xdp: Box::new(move || {
            let Some(xdp) = steering.lock() else {
                return Vec::new();
            };
            let counters = xdp.counters().unwrap_or_default().into_iter();
            counters
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        }),
        guard,
        compression: Box::new(move || compressor.counters()),
        tls: {
            let sessions = asked.sessions;
            Box::new(move || sessions.iter().flat_map(|all| all.counters()).collect())
        },
        commands: asked.commands,
        reload_tls: Box::new(move || {
            let reloaded = certificates.reload();
            reloaded.map_err(|error| format!("{error:#}"))
        }),
        purges: Arc::clone(purging.purges()),
        purging: tokio::sync::Mutex::new(purging),
        rulebook: ArcSwap::from_pointee(asked.reloading.config.rulebook()),
        reloading: Some(tokio::sync::Mutex::new(asked.reloading)),
        hash_seed,
    }
}

/// What a fetch may deliver unasked bounds what is gathered.
fn compressor(config: &Config) -> Compressor {
    let window = u64::from(config.limits.fetch_window);
    Compressor::new(config.compress.threads, config.compress.max.min(window))
}

/// The cores that run. Dropped before their time (a later one did not start), they end with their
/// lanes.
#[derive(Default)]
struct Cores {
    running: Vec<RunningCore>,
}

impl Cores {
    fn join(self) -> anyhow::Result<()> {
        let mut first = Ok(());
        for core in self.running {
            first = first.and(core.join());
        }
        first
    }
}

/// Keeps this thread, and those it will start, off the shards' CPUs if there are others.
fn leave_cores_alone(shards: &[usize]) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let this = Pid::from_raw(0);
    let Ok(mut allowed) = sched_getaffinity(this) else {
        return;
    };
    for cpu in shards {
        let _ = allowed.unset(*cpu);
    }
    let left = (0..CpuSet::count()).any(|cpu| allowed.is_set(cpu).unwrap_or(false));
    if left && let Err(error) = sched_setaffinity(this, &allowed) {
        tracing::debug!(%error, "the control thread shares the shards' CPUs");
    }
}

fn show(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    all.join(",")
}
