//! The status document: what a node says of itself, as JSON for programs and as a page for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::config::explain::rounded;
use crate::privileges::PrivilegeStatus;

mod rates;

pub use rates::Rates;

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    pub name: String,
    pub version: String,
    pub pid: u32,
    /// Seconds since the Unix epoch.
    pub started_unix: u64,
    pub uptime_seconds: u64,
    pub listen: Vec<String>,
    pub backend: BackendStatus,
    pub xdp: XdpStatus,
    /// What the guard holds and has done; empty without an XDP program.
    #[serde(default)]
    pub guard: BTreeMap<String, u64>,
    pub memory: MemoryStatus,
    /// What was compressed here.
    #[serde(default)]
    pub compression: BTreeMap<String, u64>,
    /// Sessions that clients may resume over QUIC, and what became of them; empty without early data.
    #[serde(default)]
    pub tls: BTreeMap<String, u64>,
    pub shards: Vec<ShardStatus>,
    /// Counters of each class of the routes, added up over the shards; `other` is of what no route fits.
    #[serde(default)]
    pub classes: BTreeMap<String, BTreeMap<String, u64>>,
    pub origins: Vec<OriginStatus>,
    /// Shields, and addresses of origins.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// Purges since the start by what was named, those that reached a bound, and the table's slots.
    #[serde(default)]
    pub purges: BTreeMap<String, u64>,
    pub warnings: Vec<String>,
    /// Settings of the configuration file that wait for a restart.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// How many processes handed over to the next before this one.
    #[serde(default)]
    pub generation: u64,
    /// The process that hands over to this one and still drains.
    #[serde(default)]
    pub predecessor: Option<u32>,
    /// What the process is still allowed.
    #[serde(default)]
    pub privileges: PrivilegeStatus,
}

/// What moves packets, and why this and not another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// `udp` or `af_xdp`.
    pub kind: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct XdpStatus {
    pub attached: bool,
    pub interface: Option<String>,
    /// How it is attached, or why it is not.
    pub detail: String,
    pub counters: BTreeMap<String, u64>,
}

/// The arenas' memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryStatus {
    pub bytes: u64,
    /// The pages behind it, such as `2 MiB hugepages`.
    pub pages: String,
    /// Why nothing better; empty when the first choice was had.
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    pub shard: usize,
    pub cpu: usize,
    /// Every counter of [`cache_core::stats::ShardStats`] by name.
    pub counters: BTreeMap<String, u64>,
}

/// Fetches for one origin, and one node that they go to.
pub use crate::upstream::{NodeSnapshot as NodeStatus, OriginSnapshot as OriginStatus};

impl ShardStatus {
    pub fn new(shard: usize, cpu: usize, counters: &[(&'static str, u64)]) -> Self {
        Self {
            shard,
            cpu,
            counters: counters
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect(),
        }
    }

    /// A counter; zero when a node of another version does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    fn served_from_cache(&self) -> u64 {
        self.get("hits") + self.get("hits_stale")
    }
}

/// A heading and what stands under it.
type Column = (&'static str, fn(&ShardStatus) -> String);

impl StatusDocument {
    /// The page that `popcache status` prints.
    pub fn page(&self) -> String {
        let mut out = String::new();
        self.write_facts(&mut out);
        self.write_shards(&mut out);
        self.write_classes(&mut out);
        self.write_bounds(&mut out);
        self.write_origins(&mut out);
        self.write_nodes(&mut out);
        for warning in &self.warnings {
            let _ = writeln!(out, "warning: {warning}");
        }
        if !self.waiting.is_empty() {
            let _ = writeln!(out, "waiting for a restart: {}", self.waiting.join(", "));
        }
        out
    }

    fn write_facts(&self, out: &mut String) {
        let mut fact = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<9} {value}");
        };
        fact(
            &self.name,
            format!(
                "{}, pid {}, up {}",
                self.version,
                self.pid,
                span(self.uptime_seconds)
            ),
        );
        if self.generation > 0 {
            let draining = match self.predecessor {
                Some(pid) => format!("; pid {pid} drains its connections"),
                None => String::new(),
            };
            fact("upgrades", format!("{}{draining}", self.generation));
        }
        fact("listen", self.listen.join(", "));
        fact(
            "backend",
            with_reason(&self.backend.kind, &self.backend.reason),
        );
        let xdp = match (&self.xdp.interface, self.xdp.attached) {
            (Some(interface), true) => format!("attached to {interface}"),
            _ => "not attached".to_owned(),
        };
        fact("xdp", with_reason(&xdp, &self.xdp.detail));
        let moved: Vec<String> = nonzero(&self.xdp.counters).collect();
        if !moved.is_empty() {
            fact("", moved.join(", "));
        }
        let guard: Vec<String> = nonzero(&self.guard).collect();
        if !guard.is_empty() {
            fact("guard", guard.join(", "));
        }
        let memory = format!("{} in {}", rounded(self.memory.bytes), self.memory.pages);
        fact("memory", with_reason(&memory, &self.memory.note));
        fact("rights", self.privileges.line());
        let coded: Vec<String> = nonzero(&self.compression).collect();
        if !coded.is_empty() {
            fact("coded", coded.join(", "));
        }
        let resumed: Vec<String> = nonzero(&self.tls).collect();
        if !resumed.is_empty() {
            fact("tls", resumed.join(", "));
        }
        let all = self.sum();
        if all.get("pins") > 0 {
            let (pins, kept) = (all.get("pins"), all.get("pins_kept"));
            let bytes = rounded(all.get("pinned_bytes"));
            let budget = rounded(all.get("pinned_budget"));
            fact(
                "pins",
                format!("{pins}, {kept} kept in {bytes} of {budget}"),
            );
        }
        let purged = |name: &&str| self.purges.get(*name).is_some_and(|count| *count > 0);
        let kinds = [
            "urls",
            "tags",
            "prefixes",
            "all",
            "prefixes_folded",
            "refused",
        ];
        if kinds.iter().any(purged) {
            let moved: Vec<String> = nonzero(&self.purges).collect();
            fact("purges", moved.join(", "));
        }
    }

    fn write_shards(&self, out: &mut String) {
        let columns: [Column; 12] = [
            // Open connections.
            ("h3", |s| s.get("connections").to_string()),
            ("h2", |s| s.get("h2_connections").to_string()),
            ("h1", |s| s.get("h1_connections").to_string()),
            ("requests", |s| s.get("requests").to_string()),
            ("hits", |s| s.served_from_cache().to_string()),
            ("misses", |s| s.get("misses").to_string()),
            ("hit", |s| ratio(s.served_from_cache(), s.get("misses"))),
            ("collapsed", |s| s.get("collapsed").to_string()),
            ("waiters", |s| s.get("waiters").to_string()),
            ("flights", |s| s.get("flights").to_string()),
            ("objects", |s| s.get("objects").to_string()),
            ("stored", |s| rounded(s.get("object_bytes"))),
        ];
        let mut rows = vec![vec!["shard".to_owned(), "cpu".to_owned()]];
        rows[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
        for shard in &self.shards {
            let mut row = vec![shard.shard.to_string(), shard.cpu.to_string()];
            row.extend(columns.iter().map(|(_, value)| value(shard)));
            rows.push(row);
        }
        if let [_, _, ..] = self.shards[..] {
            let sum = self.sum();
            let mut row = vec!["all".to_owned(), String::new()];
            row.extend(columns.iter().map(|(_, value)| value(&sum)));
            rows.push(row);
        }
        out.push('\n');
        write_table(out, &rows);
    }

    /// Classes that were asked for, where there are several.
    fn write_classes(&self, out: &mut String) {
        if self.classes.len() < 2 {
            return;
        }
        let head = [
            "class",
            "hits",
            "tier_hits",
            "misses",
            "fills",
            "tier_fills",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (class, counters) in &self.classes {
            if counters.values().all(|&n| n == 0) {
                continue;
            }
            let value = |name: &str| counters.get(name).copied().unwrap_or(0).to_string();
            let mut row = vec![class.clone()];
            row.extend(head[1..].iter().map(|name| value(name)));
            rows.push(row);
        }
        if rows.len() > 1 {
            out.push('\n');
            write_table(out, &rows);
        }
    }

    /// Bounds that were reached, and other trouble, where there was any.
    fn write_bounds(&self, out: &mut String) {
        for shard in &self.shards {
            let troubles = shard.counters.iter().filter(|(name, _)| is_trouble(name));
            let troubles: BTreeMap<String, u64> = troubles.map(|(n, v)| (n.clone(), *v)).collect();
            let shown: Vec<String> = nonzero(&troubles).collect();
            if !shown.is_empty() {
                let _ = writeln!(out, "shard {}: {}", shard.shard, shown.join(", "));
            }
        }
    }

    fn write_origins(&self, out: &mut String) {
        let head = [
            "origin",
            "fetches",
            "ok",
            "failed",
            "cancelled",
            "bytes",
            "open",
            "reused",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for origin in &self.origins {
            rows.push(vec![
                origin.name.clone(),
                origin.started.to_string(),
                origin.ok.to_string(),
                origin.failed.values().sum::<u64>().to_string(),
                origin.cancelled.to_string(),
                rounded(origin.bytes),
                origin.connections_open.to_string(),
                origin.reused.to_string(),
            ]);
        }
        out.push('\n');
        write_table(out, &rows);
        for origin in &self.origins {
            let failed: Vec<String> = nonzero(&origin.failed).collect();
            if !failed.is_empty() {
                let _ = writeln!(out, "origin {} failed: {}", origin.name, failed.join(", "));
            }
            let more = [
                ("shield_answers", origin.shield_answers),
                ("shield_hits", origin.shield_hits),
                ("failed_over", origin.failed_over),
                ("surplus", origin.surplus),
                ("retries_refused", origin.retries_refused),
                ("hedged", origin.hedged),
                ("hedges_won", origin.hedges_won),
                ("hedges_refused", origin.hedges_refused),
            ];
            let more = BTreeMap::from(more.map(|(name, n)| (name.to_owned(), n)));
            let more: Vec<String> = nonzero(&more).collect();
            if !more.is_empty() {
                let _ = writeln!(out, "origin {}: {}", origin.name, more.join(", "));
            }
        }
    }

    fn write_nodes(&self, out: &mut String) {
        if self.nodes.is_empty() {
            return;
        }
        let head = [
            "node", "tier", "url", "state", "flying", "requests", "hits", "failures", "probes",
            "ejected", "opened", "bytes", "p50", "p95",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for node in &self.nodes {
            rows.push(vec![
                node.name.clone(),
                node.tier.clone(),
                node.url.clone(),
                node.state.clone(),
                node.in_flight.to_string(),
                node.requests.to_string(),
                node.hits.to_string(),
                node.failures.to_string(),
                node.probes_failed.to_string(),
                node.ejections.to_string(),
                node.breaker_opened.to_string(),
                rounded(node.bytes),
                milliseconds(node.p50_us),
                milliseconds(node.p95_us),
            ]);
        }
        out.push('\n');
        write_table(out, &rows);
    }

    /// All shards as one.
    fn sum(&self) -> ShardStatus {
        let mut counters = BTreeMap::new();
        for (name, value) in self.shards.iter().flat_map(|shard| &shard.counters) {
            *counters.entry(name.clone()).or_default() += value;
        }
        ShardStatus {
            shard: 0,
            cpu: 0,
            counters,
        }
    }
}

fn is_trouble(counter: &str) -> bool {
    const SUFFIXES: [&str; 7] = [
        "_refused",
        "_dropped",
        "_failed",
        "_aborted",
        "_errors",
        "_forged",
        "_without_room",
    ];
    SUFFIXES.iter().any(|suffix| counter.ends_with(suffix))
}

fn nonzero(counters: &BTreeMap<String, u64>) -> impl Iterator<Item = String> {
    counters
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{name} {n}"))
}

fn with_reason(what: &str, reason: &str) -> String {
    match reason {
        "" => what.to_owned(),
        reason => format!("{what} ({reason})"),
    }
}

fn ratio(hits: u64, misses: u64) -> String {
    match hits + misses {
        0 => "-".to_owned(),
        all => format!("{:.1}%", hits as f64 * 100.0 / all as f64),
    }
}

fn milliseconds(micros: Option<u64>) -> String {
    micros.map_or("-".to_owned(), |micros| {
        format!("{:.1}ms", micros as f64 / 1_000.0)
    })
}

/// Right-aligned columns, the first one left-aligned.
pub fn write_table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Seconds as `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn document() -> StatusDocument {
        let counters = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect::<BTreeMap<_, _>>()
        };
        StatusDocument {
            compression: BTreeMap::from([("compressed".to_owned(), 3)]),
            tls: BTreeMap::from([("sessions".to_owned(), 2)]),
            name: "popcache".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 42,
            started_unix: 1_700_000_000,
            uptime_seconds: 3_725,
            listen: vec!["10.77.0.1:443".to_owned()],
            backend: BackendStatus {
                kind: "udp".to_owned(),
                reason: "veth has no zero-copy".to_owned(),
            },
            xdp: XdpStatus {
                attached: true,
                interface: Some("pc0".to_owned()),
                detail: "native, link pinned".to_owned(),
                counters: counters(&[("passed", 12), ("dropped", 0)]),
            },
            guard: BTreeMap::new(),
            memory: MemoryStatus {
                bytes: 256 << 20,
                pages: "2 MiB hugepages".to_owned(),
                note: String::new(),
            },
            shards: vec![
                ShardStatus {
                    shard: 0,
                    cpu: 2,
                    counters: counters(&[
                        ("connections", 3),
                        ("h2_connections", 2),
                        ("h1_connections", 1),
                        ("requests", 1000),
                        ("hits", 990),
                        ("misses", 10),
                        ("objects", 5),
                        ("object_bytes", 1536),
                        ("waiters_refused", 0),
                    ]),
                },
                ShardStatus {
                    shard: 1,
                    cpu: 3,
                    counters: counters(&[("waiters_refused", 7)]),
                },
            ],
            origins: vec![OriginStatus {
                name: "demo".to_owned(),
                started: 11,
                ok: 9,
                failed: counters(&[("connection_refused", 2)]),
                bytes: 2 << 20,
                ..OriginStatus::default()
            }],
            classes: BTreeMap::new(),
            nodes: Vec::new(),
            purges: counters(&[("tag_slots", 65_536), ("tags", 0)]),
            warnings: vec!["the certificate is self-signed".to_owned()],
            waiting: Vec::new(),
            generation: 0,
            predecessor: None,
            privileges: PrivilegeStatus {
                uid: 995,
                user: "popcache".to_owned(),
                capabilities: Vec::new(),
                no_new_privileges: true,
                seccomp: true,
            },
        }
    }

    #[test]
    fn the_page_is_compact_and_aligned() {
        let expected = "\
popcache  0.1.0, pid 42, up 1h 2m
listen    10.77.0.1:443
backend   udp (veth has no zero-copy)
xdp       attached to pc0 (native, link pinned)
          passed 12
memory    256 MiB in 2 MiB hugepages
rights    user popcache, no capabilities, system calls filtered
coded     compressed 3
tls       sessions 2

shard  cpu  h3  h2  h1  requests  hits  misses    hit  collapsed  waiters  flights  objects   stored
0        2   3   2   1      1000   990      10  99.0%          0        0        0        5  1.5 KiB
1        3   0   0   0         0     0       0      -          0        0        0        0      0 B
all          3   2   1      1000   990      10  99.0%          0        0        0        5  1.5 KiB
shard 1: waiters_refused 7

origin  fetches  ok  failed  cancelled  bytes  open  reused
demo         11   9       2          0  2 MiB     0       0
origin demo failed: connection_refused 2
warning: the certificate is self-signed
";
        assert_eq!(document().page(), expected);
        let mut purged = document();
        purged.purges.insert("tags".to_owned(), 3);
        let page = purged.page();
        assert!(
            page.contains("purges    tag_slots 65536, tags 3\n"),
            "{page}"
        );
    }

    #[test]
    fn classes_are_shown_where_there_are_several() {
        let mut document = document();
        let emote = [("hits", 7), ("misses", 2), ("fills", 1), ("tier_fills", 3)];
        let emote = emote.map(|(name, n)| (name.to_owned(), n));
        document.classes.insert("emote".to_owned(), emote.into());
        assert!(!document.page().contains("class"));
        let idle = BTreeMap::from([("hits".to_owned(), 0)]);
        document.classes.insert("segment".to_owned(), idle);
        let expected = "\
class  hits  tier_hits  misses  fills  tier_fills
emote     7          0       2      1           3
";
        let page = document.page();
        assert!(page.contains(expected), "{page}");
        assert!(!page.contains("segment"), "{page}");
    }

    #[test]
    fn pins_are_shown_where_there_are_any() {
        let mut document = document();
        let pins = [
            ("pins", 2),
            ("pins_kept", 1),
            ("pinned_bytes", 1536),
            ("pinned_budget", 2048),
        ];
        for shard in &mut document.shards {
            let counters = pins.map(|(name, n)| (name.to_owned(), n));
            shard.counters.extend(counters);
        }
        let page = document.page();
        assert!(
            page.contains("\npins      4, 2 kept in 3 KiB of 4 KiB\n"),
            "{page}"
        );
    }

    #[test]
    fn nodes_are_shown_with_their_state() {
        let mut document = document();
        document.origins[0].shield_hits = 4;
        document.nodes = vec![NodeStatus {
            name: "ams".to_owned(),
            tier: "shield".to_owned(),
            url: "https://ams.test".to_owned(),
            state: "ejected".to_owned(),
            requests: 9,
            ejections: 1,
            p95_us: Some(1_250),
            ..NodeStatus::default()
        }];
        let page = document.page();
        let expected = "\
origin demo: shield_hits 4

node    tier               url    state  flying  requests  hits  failures  probes  ejected  opened  bytes  p50    p95
ams   shield  https://ams.test  ejected       0         9     0         0       0        1       0    0 B    -  1.2ms
warning: the certificate is self-signed
";
        assert!(page.ends_with(expected), "{page}");
    }

    #[test]
    fn the_document_survives_json() {
        let text = serde_json::to_string(&document()).expect("serializes");
        let back: StatusDocument = serde_json::from_str(&text).expect("parses");
        assert_eq!(back, document());
    }

    #[test]
    fn spans_of_time() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (7_260, "2h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
