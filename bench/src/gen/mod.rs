//! The packet generator: makes datagrams of a mix, or takes the frames of a capture, and sends them
//! as fast as the machine can, or at a rate.
//!
//! ```text
//!  payload (QUIC, broken, reflected) | pcap -> frame (Ethernet, IP, UDP; what varies) -> mix, pace
//!     -> live    the kernel makes and redirects the frames        millions a second and core
//!        af_xdp  memory shared with the kernel
//!        udp     sendmmsg, or segmentation offload                 the kernel's own sources
//! ```
//!
//! [`permit`] refuses what may reach others.

mod af_xdp;
pub mod figures;
pub(crate) mod frame;
mod live;
mod mix;
mod pace;
pub(crate) mod payload;
mod pcap;
mod permit;
mod udp;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cache_ebpf::packet::Packet;
use cache_ebpf::parse;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

pub use frame::{Mac, Ports, Sources};
pub use mix::Mix;
pub use payload::Kind;

use crate::cpu;
use crate::progress::ProgressLine;
use frame::{Path, Template};
use mix::Traffic;
use pace::{Due, Pace};
use permit::{Link, LinkKind};
use udp::Offload;

/// Payload bytes of a short header's datagram.
pub const SIZES: std::ops::RangeInclusive<usize> = 20..=1400;
/// Packets a second that can be asked for.
pub const MAX_RATE: f64 = 1e9;

/// How packets are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    LiveFrames,
    AfXdp,
    UdpGso,
    Sendmmsg,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::LiveFrames, Self::AfXdp, Self::UdpGso, Self::Sendmmsg];

    pub const fn name(self) -> &'static str {
        match self {
            Self::LiveFrames => "live-frames",
            Self::AfXdp => "af-xdp",
            Self::UdpGso => "udp-gso",
            Self::Sendmmsg => "sendmmsg",
        }
    }

    const fn is_udp(self) -> bool {
        matches!(self, Self::UdpGso | Self::Sendmmsg)
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum What {
    Mix {
        mix: Mix,
        size: usize,
    },
    /// The frames of a file, as they are.
    Capture(PathBuf),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    pub way: Way,
    /// Without it, the one that the kernel would take.
    pub interface: Option<String>,
    /// A capture sent as frames needs none.
    pub to: Option<SocketAddr>,
    /// Without it, the kernel's neighbour of that address.
    pub destination_mac: Option<Mac>,
    /// Without it, the machine's own address.
    pub sources: Option<Sources>,
    pub ports: Ports,
    pub what: What,
    /// Packets a second.
    pub rate: Option<f64>,
    pub count: Option<u64>,
    pub time: Duration,
    /// The operator says that all of the network is theirs.
    pub owned: bool,
    /// Queue of an AF_XDP socket.
    pub queue: u32,
    pub core: Option<usize>,
    pub seed: u64,
    /// A line a second on stderr.
    pub progress: bool,
}

/// What one call of a sender handed over.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    /// Of whole frames.
    bytes: u64,
}

/// What a run has sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub way: String,
    pub interface: String,
    pub seconds: f64,
    /// Packets that the kernel took.
    pub packets: u64,
    pub bytes: u64,
    pub packets_per_s: f64,
    pub gbit_per_s: f64,
    /// Packets by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Packets that the interface itself counts as sent meanwhile, its other traffic included.
    pub interface_packets: u64,
    /// Packets that were due at the rate but not sent.
    pub missed: u64,
}

/// Sends.
///
/// # Errors
/// What cannot be sent, or may not be.
pub fn run(options: &Options) -> Result<Report> {
    options.check()?;
    if let Some(core) = options.core {
        cpu::pin(core)?;
    }
    let link = options.link()?;
    let mut traffic = options.traffic(&link)?;
    if !options.owned {
        permit::check(&link, &addresses(options, &link, &traffic)?)?;
    }
    let mut sender = Sender::new(options, &link)?;
    send(options, &link, &mut sender, &mut traffic)
}

impl Options {
    fn check(&self) -> Result<()> {
        if let Some(rate) = self.rate {
            ensure!(
                (0.1..=MAX_RATE).contains(&rate),
                "rate is {rate}: it must be 0.1 to {MAX_RATE} packets a second"
            );
        }
        if let What::Mix { mix, size } = &self.what {
            ensure!(
                SIZES.contains(size),
                "size is {size}: it must be {} to {}",
                SIZES.start(),
                SIZES.end()
            );
            ensure!(
                self.to.is_some(),
                "nowhere to send to: give --to ADDRESS:PORT"
            );
            let of = |kind| mix.0.iter().any(|(of, _)| *of == kind);
            ensure!(
                !(self.way.is_udp() && of(Kind::Amplification)),
                "amplification comes from reflectors' ports: send it by live-frames or af-xdp"
            );
            ensure!(
                !(self.way.is_udp() && of(Kind::Syn)),
                "SYNs are TCP: send them by live-frames or af-xdp"
            );
        }
        ensure!(
            !(self.way.is_udp() && self.sources.is_some_and(|sources| sources.count > 1)),
            "{} sends from the machine's own address: use live-frames or af-xdp for other sources",
            self.way.name()
        );
        Ok(())
    }

    fn link(&self) -> Result<Link> {
        match (&self.interface, self.to) {
            // Sockets go where the routes say.
            (Some(name), Some(to)) if self.way.is_udp() => {
                let link = Link::towards(to)?;
                ensure!(
                    *name == link.name,
                    "the route to {to} goes through {}, not {name}",
                    link.name
                );
                Ok(link)
            }
            (Some(name), _) => Link::named(name),
            (None, Some(to)) => Link::towards(to),
            (None, None) => bail!("no interface to send through: give --interface NAME"),
        }
    }

    fn traffic(&self, link: &Link) -> Result<Traffic> {
        match &self.what {
            What::Mix { mix, size } => {
                let path = self.path(link)?;
                let mut random = SmallRng::seed_from_u64(self.seed);
                let group = |(kind, weight): &(Kind, u32)| -> Result<_> {
                    let templates = match kind {
                        Kind::Syn => vec![Template::syn(&path)?],
                        _ => payload::payloads(*kind, *size, &mut random)?
                            .iter()
                            .map(|p| Template::datagram(&path, p.port, &p.bytes, p.id))
                            .collect::<Result<Vec<_>>>()?,
                    };
                    Ok((kind.name(), *weight, templates))
                };
                let groups = mix.0.iter().map(group).collect::<Result<Vec<_>>>()?;
                Ok(Traffic::new(groups))
            }
            What::Capture(file) => {
                let frames = pcap::read(file)?;
                let templates = frames.into_iter().enumerate();
                let templates = templates.map(|(n, frame)| self.captured(n + 1, frame));
                let templates = templates.collect::<Result<Vec<_>>>()?;
                Ok(Traffic::new([("capture", 1, templates)]))
            }
        }
    }

    fn captured(&self, n: usize, mut frame: Vec<u8>) -> Result<Template> {
        if let (Some(mac), Some(place)) = (self.destination_mac, frame.first_chunk_mut()) {
            *place = mac;
        }
        let packet = Packet::new(&frame);
        let network = parse::network(&packet).ok();
        let transport = network.and_then(|network| network.udp().ok());
        let udp = transport.and_then(|at| parse::udp(&packet, at).ok());
        ensure!(
            udp.is_some() || !self.way.is_udp(),
            "frame {n} of the capture is not UDP: send it by live-frames or af-xdp"
        );
        let payload_at = udp.map_or(0, |udp| udp.payload);
        Ok(Template::fixed(frame, payload_at))
    }

    fn path(&self, link: &Link) -> Result<Path> {
        let to = self.to.context("checked: there is a destination")?;
        let sources = match self.sources {
            Some(sources) => sources,
            None => Sources {
                first: own_address(link, to)?,
                count: 1,
            },
        };
        let destination_mac = match self.destination_mac {
            Some(mac) => mac,
            // The kernel writes its own headers.
            None if self.way.is_udp() || link.kind == LinkKind::Loopback => [0; 6],
            None => neighbour(link, to)?,
        };
        Ok(Path {
            source_mac: link.mac,
            destination_mac,
            sources,
            ports: self.ports,
            to,
        })
    }
}

/// The address that packets through `link` come from unless told otherwise.
fn own_address(link: &Link, to: SocketAddr) -> Result<IpAddr> {
    let same = |address: &&IpAddr| address.is_ipv4() == to.is_ipv4();
    let own = link.addresses.iter().find(same).copied();
    own.with_context(|| {
        format!(
            "{} has no address to send to {to} from: give --from PREFIX",
            link.name
        )
    })
}

/// The Ethernet address of `to`, once the kernel has had a reason to ask for it.
fn neighbour(link: &Link, to: SocketAddr) -> Result<Mac> {
    const ATTEMPTS: u32 = 20;
    const PATIENCE: Duration = Duration::from_millis(50);
    if to.is_ipv4() {
        let poke = UdpSocket::bind("0.0.0.0:0").context("cannot open a UDP socket")?;
        for _ in 0..ATTEMPTS {
            let table =
                std::fs::read_to_string("/proc/net/arp").context("no table of neighbours")?;
            if let Some(mac) = find_neighbour(&table, &link.name, to.ip()) {
                return Ok(mac);
            }
            // Whether or not anybody listens there: what counts is that the kernel asks who it is.
            if let Err(error) = poke.send_to(&[], (to.ip(), 9)) {
                return Err(error).with_context(|| format!("cannot reach {to}"));
            }
            std::thread::sleep(PATIENCE);
        }
    }
    bail!(
        "the Ethernet address of {} on {} is not known: give --destination-mac",
        to.ip(),
        link.name
    )
}

/// Looks `address` up in `/proc/net/arp`.
fn find_neighbour(table: &str, interface: &str, address: IpAddr) -> Option<Mac> {
    let address = address.to_string();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ip, _, flags, mac, _, device] = fields[..] else {
            return None;
        };
        let complete = flags != "0x0" && device == interface && ip == address;
        complete.then(|| parse_mac(mac)).flatten()
    })
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Every range of addresses that packets come from and go to.
fn addresses(options: &Options, link: &Link, traffic: &Traffic) -> Result<Vec<Sources>> {
    let one = |first| Sources { first, count: 1 };
    let mut all = Vec::new();
    if let Some(to) = options.to {
        all.push(one(to.ip()));
    }
    match &options.what {
        What::Mix { .. } => all.extend(options.sources),
        // Sockets take the payloads alone.
        What::Capture(_) if options.way.is_udp() => {}
        What::Capture(_) => {
            for (n, template) in traffic.templates().enumerate() {
                let (from, to) = ends(&template.frame).with_context(|| {
                    format!(
                        "frame {} of the capture is not IP: {} may only carry it with \
                         --i-own-this-network",
                        n + 1,
                        link.name
                    )
                })?;
                all.extend([one(from), one(to)]);
            }
        }
    }
    Ok(all)
}

/// The addresses of a frame.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let network = parse::network(&Packet::new(frame)).ok()?;
    let ip = frame.get(network.ip..)?;
    let to = if network.source.v6 {
        IpAddr::from(*ip.get(24..)?.first_chunk::<16>()?)
    } else {
        IpAddr::from(*ip.get(16..)?.first_chunk::<4>()?)
    };
    Some((network.source.into(), to))
}

/// One of the ways, ready to go.
enum Sender {
    Live(live::Live),
    AfXdp(af_xdp::AfXdp),
    Udp(udp::Udp),
}

impl Sender {
    fn new(options: &Options, link: &Link) -> Result<Self> {
        let to = || options.to.context("sockets need a destination: give --to");
        let from = options.sources.map(|sources| sources.first);
        let (ports, seed) = (options.ports, options.seed);
        Ok(match options.way {
            Way::LiveFrames => Self::Live(live::Live::new(link, seed)?),
            Way::AfXdp => Self::AfXdp(af_xdp::AfXdp::new(link, options.queue, seed)?),
            Way::UdpGso => Self::Udp(udp::Udp::new(
                from,
                ports,
                to()?,
                Offload::Segmentation,
                seed,
            )?),
            Way::Sendmmsg => Self::Udp(udp::Udp::new(from, ports, to()?, Offload::None, seed)?),
        })
    }

    fn send(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        match self {
            Self::Live(live) => live.send(traffic, most),
            Self::AfXdp(socket) => socket.send(traffic, most),
            Self::Udp(udp) => udp.send(traffic, most),
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::AfXdp(socket) => socket.finish(),
            Self::Live(_) | Self::Udp(_) => Ok(()),
        }
    }
}

fn send(
    options: &Options,
    link: &Link,
    sender: &mut Sender,
    traffic: &mut Traffic,
) -> Result<Report> {
    let before = interface_packets(link)?;
    let started = Instant::now();
    let mut line = ProgressLine::new(started, options.progress);
    let mut pace = Pace::new(options.rate);
    let mut total = Sent::default();
    let most = options.count.unwrap_or(u64::MAX);
    loop {
        let now = Instant::now();
        let elapsed = now - started;
        if elapsed >= options.time || total.packets >= most {
            break;
        }
        line.show(now, || progress(elapsed, total));
        match pace.due(elapsed, total.packets) {
            Due::Wait(wait) => std::thread::sleep(wait.min(options.time - elapsed)),
            Due::Packets(due) => {
                let sent = sender.send(traffic, due.min(most - total.packets))?;
                total.packets += sent.packets;
                total.bytes += sent.bytes;
            }
        }
    }
    sender.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    let interface_packets = settled(link, before, total.packets)?;
    ensure!(
        total.packets == 0 || interface_packets > 0 || link.kind == LinkKind::Loopback,
        "{} sent nothing of {} packets: is it up? The other end of a veth takes XDP frames only with \
         an XDP program or with GRO on (ethtool -K PEER gro on)",
        link.name,
        total.packets
    );
    Ok(Report {
        way: options.way.name().to_owned(),
        interface: link.name.clone(),
        seconds,
        packets: total.packets,
        bytes: total.bytes,
        packets_per_s: total.packets as f64 / seconds,
        gbit_per_s: total.bytes as f64 * 8.0 / seconds / 1e9,
        kinds: traffic
            .counts()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        interface_packets,
        missed: pace.missed,
    })
}

fn progress(elapsed: Duration, total: Sent) -> String {
    let seconds = elapsed.as_secs_f64();
    format!(
        "gen: {seconds:.0} s, {} packets, {:.3} M/s, {:.2} Gbit/s",
        total.packets,
        total.packets as f64 / seconds / 1e6,
        total.bytes as f64 * 8.0 / seconds / 1e9
    )
}

/// What the interface has sent since `before`, once it has sent `all` or shows no more.
fn settled(link: &Link, before: u64, all: u64) -> Result<u64> {
    const PATIENCE: Duration = Duration::from_millis(20);
    let mut sent = interface_packets(link)?.saturating_sub(before);
    while sent < all {
        std::thread::sleep(PATIENCE);
        let later = interface_packets(link)?.saturating_sub(before);
        if later == sent {
            break;
        }
        sent = later;
    }
    Ok(sent)
}

/// Packets that the interface has sent (`/proc/net/dev`, of the namespace that we are in).
fn interface_packets(link: &Link) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/dev").context("no table of interfaces")?;
    let line = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == link.name).then_some(counters)
    });
    let sent = line.and_then(|line| line.split_whitespace().nth(9)?.parse().ok());
    sent.with_context(|| format!("{} is gone", link.name))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} through {}: {} packets in {:.2} s, {:.0} a second, {:.2} Gbit/s",
            self.way,
            self.interface,
            self.packets,
            self.seconds,
            self.packets_per_s,
            self.gbit_per_s
        )?;
        for (kind, count) in &self.kinds {
            writeln!(f, "  {kind:<15} {count:>12}")?;
        }
        writeln!(
            f,
            "  {} has sent {}",
            self.interface, self.interface_packets
        )?;
        if self.missed > 0 {
            writeln!(f, "  too late to keep the rate: {}", self.missed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
