//! UDP or AF_XDP: the decision, and the sockets that follow from it.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::config::{Backend, Config};
use crate::rt::packet::af_xdp::{self, Busy, Mode, Xsk, own_addresses};
use crate::rt::packet::{Kind, Port, UdpSocket};
use crate::status::BackendStatus;
use crate::xdp::Xdp;

/// How long a queue may be another's.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How each shard's packets travel, and why so.
pub struct Ports {
    /// In the order of the shards.
    pub ports: Vec<Port>,
    pub backend: BackendStatus,
}

impl Ports {
    /// Decides, and opens what AF_XDP needs. `sockets` are the UDP sockets, by shard.
    ///
    /// # Errors
    /// AF_XDP was asked for and cannot be had.
    pub fn open(
        config: &Config,
        listen: &[SocketAddr],
        sockets: Vec<Vec<UdpSocket>>,
        xdp: Option<&mut Xdp>,
        steering: Steer,
    ) -> anyhow::Result<Self> {
        match choose(config, sockets.len(), xdp)? {
            Choice::AfXdp(xsks, xdp) => {
                Self::af_xdp(config, listen, sockets, xsks, (xdp, steering))
            }
            Choice::Udp(reason) => Ok(Self {
                ports: sockets.into_iter().map(Port::Udp).collect(),
                backend: BackendStatus {
                    kind: Kind::Udp.name().to_owned(),
                    reason,
                },
            }),
        }
    }

    fn af_xdp(
        config: &Config,
        listen: &[SocketAddr],
        sockets: Vec<Vec<UdpSocket>>,
        xsks: Vec<Xsk>,
        (xdp, steering): (&mut Xdp, Steer),
    ) -> anyhow::Result<Self> {
        let own = own_addresses(listen, xdp.interface()).context("packet.interface")?;
        let reason = describe(config, &xsks);
        let mut ports = Vec::new();
        for ((queue, xsk), sockets) in (0..).zip(xsks).zip(sockets) {
            xdp.register_xsk(queue, xsk.fd.as_fd())?;
            xdp.set_af_xdp(queue, steering == Steer::Now)?;
            ports.push(Port::AfXdp {
                xsk: Box::new(xsk),
                own: own.clone(),
                sockets,
            });
        }
        let backend = BackendStatus {
            kind: Kind::AfXdp.name().to_owned(),
            reason,
        };
        Ok(Self { ports, backend })
    }
}

/// When packets go to the AF_XDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    Now,
    /// Once the node before this one has ended, whose packets come by the kernel.
    Later,
}

enum Choice<'a> {
    /// One socket a shard.
    AfXdp(Vec<Xsk>, &'a mut Xdp),
    /// And why.
    Udp(String),
}

fn choose<'a>(
    config: &Config,
    shards: usize,
    xdp: Option<&'a mut Xdp>,
) -> anyhow::Result<Choice<'a>> {
    match (config.packet.backend, xdp) {
        (Backend::Udp, _) => Ok(Choice::Udp("configured".to_owned())),
        (Backend::Auto, None) => Ok(Choice::Udp("there is no packet.interface".to_owned())),
        (Backend::AfXdp, None) => bail!("packet.backend = \"af_xdp\" needs packet.interface"),
        (Backend::Auto, Some(xdp)) => Ok(match open_all(config, shards, &[Mode::ZeroCopy]) {
            Ok(xsks) => Choice::AfXdp(xsks, xdp),
            Err(error) => Choice::Udp(format!("{error:#}")),
        }),
        (Backend::AfXdp, Some(xdp)) => {
            let xsks = open_all(config, shards, &[Mode::ZeroCopy, Mode::Copy]);
            Ok(Choice::AfXdp(xsks.context("packet.backend")?, xdp))
        }
    }
}

/// One AF_XDP socket a shard, in the first of `modes` that the driver has.
fn open_all(config: &Config, shards: usize, modes: &[Mode]) -> anyhow::Result<Vec<Xsk>> {
    let interface = config.packet.interface.as_deref().unwrap_or_default();
    let depth = config.packet.queue_depth;
    let open_one = |queue: usize| {
        let mut last = Err(anyhow!("no AF_XDP mode to try"));
        for mode in modes {
            last = once_free(|| {
                af_xdp::open(interface, queue as u32, depth, *mode, config.memory.pages)
            });
            if last.is_ok() {
                break;
            }
        }
        last
    };
    (0..shards).map(open_one).collect()
}

/// The kernel lets go of a queue some time after its last socket was closed.
fn once_free(open: impl Fn() -> anyhow::Result<Xsk>) -> anyhow::Result<Xsk> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match open() {
            Err(error) if error.is::<Busy>() && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn describe(config: &Config, xsks: &[Xsk]) -> String {
    let why = match config.packet.backend {
        Backend::AfXdp => "configured",
        Backend::Auto | Backend::Udp => "the driver has zero-copy",
    };
    let how = match xsks.iter().all(|xsk| xsk.mode == Mode::ZeroCopy) {
        true => "zero-copy",
        false => "copy mode",
    };
    let pages = xsks
        .first()
        .map(|xsk| format!(", frames in {}", xsk.memory.kind));
    format!("{why}; {how}{}", pages.unwrap_or_default())
}
