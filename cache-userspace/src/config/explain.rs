//! What `popcache check` prints: the effective configuration, where each value came from, why it
//! is there, and the memory that follows.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::typed::Config;
use super::units::show_size;
use crate::rt::cork::MAX_KEPT;
use crate::sessions::SESSION_BYTES;

/// One setting with its value and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub section: &'static str,
    /// The number of the section, for those that repeat, from 0.
    pub index: Option<usize>,
    pub key: &'static str,
    /// In TOML; `None` when it is unset and has no default.
    pub value: Option<String>,
    pub source: Source,
    /// What it bounds, and why the default is what it is.
    pub why: &'static str,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file does not say; this is the built-in value.
    Default,
    /// The file does not say, and there is no built-in value.
    Unset,
    /// This line of the file, from 1.
    Line(usize),
}

/// Bytes of memory that the configuration allows, at every bound at once.
///
/// The shard's own structures are estimated: 24 KiB for a connection (QUIC and TLS state, HTTP/3
/// streams), 64 KiB for one over TCP (TLS and HTTP/2 state with their buffers), 512 B for a waiter, 4 KiB for
/// a flight. Response bytes that wait for a client's acknowledgement are views of the arenas and cost
/// nothing of their own; over TCP they are encrypted by then, and so are up to 64 KiB of a slow client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// `memory.ram`.
    pub arenas: u64,
    /// Blocks, index and ghosts of the tier a core, where there is one.
    pub tier: u64,
    /// AF_XDP frames: fill and transmit rings of `queue_depth` frames of 2 KiB a core.
    pub packet_buffers: u64,
    /// `limits.max_connections` a core.
    pub connections: u64,
    /// `tcp.max_connections` a core, where TCP is listened for.
    pub tcp_connections: u64,
    /// `limits.max_waiters` a core.
    pub waiters: u64,
    /// `upstream.max_fetches` with a full `limits.fetch_window` each, and their flights.
    pub fetches: u64,
    /// `limits.max_heap_fill` a core.
    pub heap_fills: u64,
    /// `limits.max_copied_out` a core.
    pub copied_out: u64,
    /// `limits.max_request_bodies` of `limits.upload_window` a core.
    pub request_bodies: u64,
    /// `tls.max_sessions`, and `limits.max_early_waiting` of `limits.max_field_section` a core.
    pub sessions: u64,
}

const CONNECTION_BYTES: u64 = 24 << 10;
/// Of a client that takes nothing: what it is held by, and what is kept for it.
const TCP_CONNECTION_BYTES: u64 = (64 << 10) + MAX_KEPT as u64;
const WAITER_BYTES: u64 = 512;
const FLIGHT_BYTES: u64 = 4 << 10;
const FRAME_BYTES: u64 = 2 << 10;

impl MemoryUse {
    pub fn of(config: &Config) -> Self {
        let shards = config.server.cpus.len() as u64;
        let limits = &config.limits;
        let frames = match config.packet.interface {
            Some(_) => shards * 2 * u64::from(config.packet.queue_depth),
            None => 0,
        };
        Self {
            arenas: config.memory.ram,
            tier: match config.tier.devices.is_empty() {
                true => 0,
                false => shards * config.tier.memory_of_shard(shards),
            },
            packet_buffers: frames * FRAME_BYTES,
            connections: shards * limits.max_connections as u64 * CONNECTION_BYTES,
            tcp_connections: match config.server.listens_on_tcp() {
                true => shards * config.tcp.max_connections as u64 * TCP_CONNECTION_BYTES,
                false => 0,
            },
            waiters: shards * limits.max_waiters as u64 * WAITER_BYTES,
            fetches: config.upstream.max_fetches as u64
                * (u64::from(limits.fetch_window) + FLIGHT_BYTES),
            heap_fills: shards * limits.max_heap_fill,
            copied_out: shards * limits.max_copied_out,
            request_bodies: shards
                * limits.max_request_bodies as u64
                * u64::from(limits.upload_window),
            sessions: match config.tls.early_data {
                true => {
                    config.tls.max_sessions as u64 * SESSION_BYTES
                        + shards * limits.max_early_waiting as u64 * limits.max_field_section as u64
                }
                false => 0,
            },
        }
    }

    pub fn total(&self) -> u64 {
        [
            self.arenas,
            self.tier,
            self.packet_buffers,
            self.connections,
            self.tcp_connections,
            self.waiters,
            self.fetches,
            self.heap_fills,
            self.copied_out,
            self.request_bodies,
            self.sessions,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// The effective configuration as a TOML file with comments, for people.
pub fn text(config: &Config) -> String {
    let mut out = format!("# effective configuration of {}\n", config.path.display());
    let mut section = None;
    for setting in &config.settings {
        if section != Some((setting.section, setting.index)) {
            section = Some((setting.section, setting.index));
            out.push_str(&heading(setting));
        }
        out.push_str(&line(setting, config));
    }
    out.push_str(&memory_text(config));
    for warning in &config.warnings {
        let _ = writeln!(out, "# warning: {warning}");
    }
    out
}

/// The effective configuration as JSON, for programs.
pub fn json(config: &Config) -> Value {
    let memory = MemoryUse::of(config);
    json!({
        "file": config.path.display().to_string(),
        "cpus": config.server.cpus,
        "settings": config.settings.iter().map(setting_json).collect::<Vec<_>>(),
        "memory": {
            "arenas": memory.arenas,
            "tier": memory.tier,
            "packet_buffers": memory.packet_buffers,
            "connections": memory.connections,
            "waiters": memory.waiters,
            "fetches": memory.fetches,
            "heap_fills": memory.heap_fills,
            "total": memory.total(),
        },
        "warnings": config.warnings,
        "problems": [],
    })
}

fn heading(setting: &Setting) -> String {
    match setting.index {
        None => format!("\n[{}]\n", setting.section),
        Some(_) => format!("\n[[{}]]\n", setting.section),
    }
}

fn line(setting: &Setting, config: &Config) -> String {
    let source = match setting.source {
        Source::Default => "default".to_owned(),
        Source::Unset => "unset".to_owned(),
        Source::Line(line) => format!("line {line}"),
    };
    let assignment = match &setting.value {
        Some(value) => format!("{} = {value}", setting.key),
        None => format!("# {}", setting.key),
    };
    let mut note = format!("# {source}: {}", setting.why);
    if (setting.section, setting.key) == ("server", "cores") {
        let cpus: Vec<String> = config.server.cpus.iter().map(usize::to_string).collect();
        let _ = write!(note, "; here CPU {}", cpus.join(", "));
    }
    format!("{assignment:<44} {note}\n")
}

fn memory_text(config: &Config) -> String {
    let memory = MemoryUse::of(config);
    let shards = config.server.cpus.len();
    let limits = &config.limits;
    let mut out = "\n# memory, with every bound reached at once\n".to_owned();
    let rows = [
        (
            memory.arenas,
            "arenas: memory.ram, taken at start".to_owned(),
        ),
        (
            memory.tier,
            format!(
                "tier: {shards} cores x (tier.max_reads x 128 KiB + tier.write_buffer + 14.4 B an object + 4 B a ghost)"
            ),
        ),
        (
            memory.packet_buffers,
            format!(
                "packet buffers: {shards} cores x 2 x packet.queue_depth x 2 KiB, with an interface"
            ),
        ),
        (
            memory.connections,
            format!(
                "connections: {shards} cores x {} x 24 KiB (estimate)",
                limits.max_connections
            ),
        ),
        (
            memory.tcp_connections,
            format!(
                "TCP connections: {shards} cores x {} x 128 KiB (estimate), where TCP is listened for",
                config.tcp.max_connections
            ),
        ),
        (
            memory.waiters,
            format!(
                "waiters: {shards} cores x {} x 512 B (estimate)",
                limits.max_waiters
            ),
        ),
        (
            memory.fetches,
            format!(
                "fetches: {} x (limits.fetch_window + 4 KiB)",
                config.upstream.max_fetches
            ),
        ),
        (
            memory.heap_fills,
            format!("heap fills: {shards} cores x limits.max_heap_fill"),
        ),
        (
            memory.copied_out,
            format!("slow clients: {shards} cores x limits.max_copied_out"),
        ),
        (
            memory.request_bodies,
            format!(
                "request bodies: {shards} cores x {} x limits.upload_window",
                limits.max_request_bodies
            ),
        ),
        (
            memory.sessions,
            format!(
                "early data: tls.max_sessions x {SESSION_BYTES} B + {shards} cores x {} x limits.max_field_section",
                limits.max_early_waiting
            ),
        ),
        (memory.total(), "together".to_owned()),
    ];
    for (bytes, what) in rows {
        let _ = writeln!(out, "# {:>10}  {what}", rounded(bytes));
    }
    out
}

/// Bytes to three digits or so, for reading.
pub fn rounded(bytes: u64) -> String {
    for (factor, name) in [
        (1_u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ] {
        if bytes >= factor {
            let whole = bytes as f64 / factor as f64;
            return match bytes % factor {
                0 => format!("{whole} {name}"),
                _ => format!("{whole:.1} {name}"),
            };
        }
    }
    show_size(bytes)
}

fn setting_json(setting: &Setting) -> Value {
    let (source, line) = match setting.source {
        Source::Default => ("default", None),
        Source::Unset => ("unset", None),
        Source::Line(line) => ("file", Some(line)),
    };
    json!({
        "section": setting.section,
        "index": setting.index,
        "key": setting.key,
        "value": setting.value.as_deref().map(value_json),
        "source": source,
        "line": line,
        "why": setting.why,
    })
}

/// A value in TOML as the same value in JSON.
fn value_json(toml: &str) -> Value {
    let table: toml::Table = match format!("v = {toml}").parse() {
        Ok(table) => table,
        Err(_) => return Value::String(toml.to_owned()),
    };
    serde_json::to_value(&table["v"]).unwrap_or(Value::Null)
}
