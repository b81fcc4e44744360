//! The configuration as the program uses it: every value typed, every default applied.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cache_core::config::{Caching, ClientFields, Limits, OriginRoute, Role};
use hugepages::PagePolicy;

use super::explain::{Setting, Source};
use super::tier::TierConfig;
use crate::explain::Rulebook;
use crate::guard::GuardConfig;
use crate::privileges::Seccomp;
use crate::tcp::TcpBounds;
use crate::upstream::UpstreamConfig;

/// The whole effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    pub server: ServerConfig,
    pub packet: PacketConfig,
    pub guard: GuardConfig,
    pub tcp: TcpBounds,
    pub tls: TlsConfig,
    pub memory: MemoryConfig,
    pub cache: Caching,
    pub compress: CompressConfig,
    pub tier: TierConfig,
    /// Bytes of memory for each class of `cache.classes`; 0: no limit.
    pub class_bytes: Vec<u64>,
    /// The names of the same classes.
    pub class_names: Vec<String>,
    pub origins: Vec<OriginConfig>,
    /// Ready for the upstream: `origins` in the same order as above.
    pub upstream: UpstreamConfig,
    pub admin: AdminConfig,
    pub limits: Limits,
    pub log: LogConfig,
    /// Every setting with its value, where the value came from, and why it is there.
    pub settings: Vec<Setting>,
    /// Legal, and probably not meant.
    pub warnings: Vec<String>,
}

/// Compressing what origins send as it is.
#[derive(Clone, Copy, Debug)]
pub struct CompressConfig {
    /// Bodies at a time; 0: nothing is compressed.
    pub threads: usize,
    /// Bytes of the largest body.
    pub max: u64,
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub listen: Vec<SocketAddr>,
    /// TCP addresses of TLS; unset: those of `listen`.
    pub listen_tcp: Option<Vec<SocketAddr>>,
    /// TCP addresses of HTTP/1.1 without TLS.
    pub listen_clear: Vec<SocketAddr>,
    /// One shard each, in this order: shard i runs on `cpus[i]`.
    pub cpus: Vec<usize>,
    /// In Via and Cache-Status.
    pub name: String,
    pub role: Role,
    /// What the node becomes once everything is open; unset: it stays who it is.
    pub user: Option<String>,
    pub seccomp: Seccomp,
    /// How long connections may take to end at a stop.
    pub drain_limit: Duration,
}

impl ServerConfig {
    /// Whether there is any address for clients without UDP.
    pub fn listens_on_tcp(&self) -> bool {
        let secure = self.listen_tcp.as_ref().unwrap_or(&self.listen);
        !(secure.is_empty() && self.listen_clear.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// AF_XDP where the driver does zero-copy, else UDP.
    Auto,
    Udp,
    AfXdp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    Native,
    Skb,
}

#[derive(Clone, Debug)]
pub struct PacketConfig {
    pub backend: Backend,
    /// Absent: no XDP program.
    pub interface: Option<String>,
    pub xdp_mode: XdpMode,
    pub pin_dir: PathBuf,
    /// Ring entries (frames) per AF_XDP queue; a power of two.
    pub queue_depth: u32,
    pub spin: Duration,
}

#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// PEM files of the chain and its key. Absent: self-signed for `names`.
    pub files: Option<TlsFiles>,
    /// Of other names: `[[certificate]]`.
    pub others: Vec<TlsFiles>,
    pub names: Vec<String>,
    /// Requests in a client's first flight (0-RTT).
    pub early_data: bool,
    /// Sessions of QUIC kept for their clients, with early data.
    pub max_sessions: usize,
}

#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Bytes of all arenas together.
    pub ram: u64,
    pub pages: PagePolicy,
    /// Part of a shard's memory that bodies above 64 KiB may take.
    pub large_share: f32,
    /// Bytes that a smaller object takes on average.
    pub mean_object: u64,
    /// Bytes of the node that pinned objects may take.
    pub pinned: u64,
    /// Keys that may be pinned in a shard.
    pub max_pins: u32,
    /// Slots of the table of purges by surrogate key.
    pub purge_slots: u32,
    /// Prefixes whose purges are remembered.
    pub purge_prefixes: usize,
}

#[derive(Clone, Debug)]
pub struct OriginConfig {
    pub name: String,
    /// Lower-case, without port; `*` is every host.
    pub hosts: Vec<String>,
    /// Scheme and authority of each of its addresses.
    pub urls: Vec<http::Uri>,
    /// PEM file of the authorities that may sign the origin's certificate; absent: the public ones.
    pub ca: Option<PathBuf>,
    /// The name verified by TLS, where it is not the host of `url`.
    pub server_name: Option<String>,
    /// Which fields of clients' requests it gets to see.
    pub client_fields: ClientFields,
    /// What a health check asks for; `None`: there are none.
    pub health_path: Option<String>,
}

#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub socket: PathBuf,
    pub tcp: Option<SocketAddr>,
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A filter of tracing-subscriber, such as `info` or `info,cache_core=debug`.
    pub level: String,
}

impl Config {
    /// The origins as a shard routes to them, in the order of the file.
    pub fn routes(&self) -> Vec<OriginRoute> {
        self.origins
            .iter()
            .map(|origin| OriginRoute {
                name: origin.name.clone(),
                hosts: origin.hosts.clone(),
                client_fields: origin.client_fields.clone(),
            })
            .collect()
    }

    /// What decides about requests.
    pub fn rulebook(&self) -> Rulebook {
        Rulebook {
            caching: self.cache.clone(),
            origins: self.routes(),
            max_target: self.limits.max_target,
            max_field_section: self.limits.max_field_section,
        }
    }

    /// The line that sets `key`, if the file does.
    pub fn line_of(&self, section: &str, key: &str) -> Option<usize> {
        self.line_in(section, 0, key)
    }

    /// The same in the section number `index` (from 0) of those that repeat.
    pub fn line_in(&self, section: &str, index: usize, key: &str) -> Option<usize> {
        let setting = self
            .settings
            .iter()
            .find(|s| s.section == section && s.index.unwrap_or(0) == index && s.key == key)?;
        match setting.source {
            Source::Line(line) => Some(line),
            Source::Default | Source::Unset => None,
        }
    }
}
