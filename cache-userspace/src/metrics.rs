//! `GET /metrics`: the node's counters as OpenMetrics text, for Prometheus.
//!
//! What `status` shows by name is here under the same name: `popcache_shard_NAME` with the label
//! `shard`, `popcache_xdp_packets_total` with the label `counter`, `popcache_origin_*` and `popcache_node_*`
//! with the label `name`, `popcache_class_*` with the label `class`, `popcache_guard_*`, `popcache_purges_*`, `popcache_compression_*`, `popcache_tls_*`. Hits and fills
//! by tier have names of their own, so that a dashboard need not know which counters they are.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::status::StatusDocument;

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a node.
///
/// # Errors
/// Never: a string takes whatever is written.
pub fn page(status: StatusDocument) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("popcache");
    registry.register_collector(Box::new(Page(status)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Of what `status` names, what goes down as well as up.
const GAUGES: [&str; 47] = [
    // Shards.
    "tcp_connections",
    "connections",
    "h2_connections",
    "h1_connections",
    "handshakes",
    "arrivals_waiting",
    "early_waiting",
    "waiters",
    "flights",
    "passes",
    "varying",
    "uncacheable",
    "unsliceable",
    "slices_waiting",
    "longest_us",
    "objects",
    "object_bytes",
    "pins",
    "pins_kept",
    "pinned_bytes",
    "pinned_budget",
    "tier_objects",
    "tier_object_bytes",
    "tier_capacity_bytes",
    "tier_index_bytes",
    "tier_segments_free",
    "tier_segments_open",
    "tier_segments_sealed",
    "tier_pinned_segments",
    "tier_pinned_objects",
    "tier_price_milli",
    "tier_resting",
    "tier_write_blocks",
    "tier_rate_left_bytes",
    "tier_daily_left_bytes",
    // Origins and nodes.
    "connections_open",
    "in_flight",
    "up",
    "p50_us",
    "p95_us",
    // The guard.
    "allowed_prefixes",
    "blocked_prefixes",
    "entries",
    // Purges.
    "tag_slots",
    // TLS.
    "sessions",
    // The node.
    "memory_bytes",
    "uptime_seconds",
];

/// The label's name and value, if there is one.
type Labels = Vec<(&'static str, String)>;

/// Metrics by name; each with its values by labels.
#[derive(Default)]
struct Families(BTreeMap<String, Vec<(Labels, u64)>>);

impl Families {
    fn add(&mut self, group: &str, name: &str, labels: Labels, value: u64) {
        let name = match group {
            "" => name.to_owned(),
            group => format!("{group}_{name}"),
        };
        self.0.entry(name).or_default().push((labels, value));
    }

    fn add_all(&mut self, group: &str, labels: &Labels, counters: &BTreeMap<String, u64>) {
        for (name, value) in counters {
            self.add(group, name, labels.clone(), *value);
        }
    }

    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, values) in &self.0 {
            let gauge = is_gauge(name);
            let kind = match gauge {
                true => MetricType::Gauge,
                false => MetricType::Counter,
            };
            let help = name.replace('_', " ");
            let mut metric = encoder.encode_descriptor(name, &help, None, kind)?;
            for (labels, value) in values {
                if labels.is_empty() {
                    write(&mut metric, gauge, *value)?;
                } else {
                    write(&mut metric.encode_family(labels)?, gauge, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(metric: &mut MetricEncoder<'_>, gauge: bool, value: u64) -> fmt::Result {
    match gauge {
        true => metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
        false => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
    }
}

/// Groups end before the name that `status` shows.
fn is_gauge(metric: &str) -> bool {
    const GROUPS: [&str; 7] = [
        "shard_",
        "origin_",
        "node_",
        "guard_",
        "purges_",
        "compression_",
        "tls_",
    ];
    let group = GROUPS.iter().find_map(|group| metric.strip_prefix(group));
    GAUGES.contains(&group.unwrap_or(metric))
}

#[derive(Debug)]
struct Page(StatusDocument);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        let mut all = Families::default();
        all.add("", "memory_bytes", Labels::new(), status.memory.bytes);
        all.add("", "uptime_seconds", Labels::new(), status.uptime_seconds);
        for (name, value) in &status.xdp.counters {
            all.add("xdp", "packets", vec![("counter", name.clone())], *value);
        }
        for (group, counters) in [
            ("guard", &status.guard),
            ("purges", &status.purges),
            ("compression", &status.compression),
            ("tls", &status.tls),
        ] {
            all.add_all(group, &Labels::new(), counters);
        }
        for (class, counters) in &status.classes {
            all.add_all("class", &vec![("class", class.clone())], counters);
        }
        add_shards(&mut all, status);
        add_upstream(&mut all, status);
        all.encode(encoder)
    }
}

fn add_shards(all: &mut Families, status: &StatusDocument) {
    for shard in &status.shards {
        let number = ("shard", shard.shard.to_string());
        all.add_all("shard", &vec![number.clone()], &shard.counters);
        let ram_hits = shard.get("hits") + shard.get("hits_stale");
        for (name, tier, value) in [
            ("hits", "ram", ram_hits),
            ("hits", "nvme", shard.get("tier_hits")),
            ("hits", "upstream", shard.get("fetches_started")),
            ("fills", "ram", shard.get("fills_stored")),
            ("fills", "nvme", shard.get("tier_admitted")),
            ("fill_bytes", "nvme", shard.get("tier_admitted_bytes")),
        ] {
            let labels = vec![number.clone(), ("tier", tier.to_owned())];
            all.add("tier", name, labels, value);
        }
    }
}

fn add_upstream(all: &mut Families, status: &StatusDocument) {
    for origin in &status.origins {
        let label = || vec![("name", origin.name.clone())];
        for (name, value) in [
            ("started", origin.started),
            ("ok", origin.ok),
            ("cancelled", origin.cancelled),
            ("bytes", origin.bytes),
            ("shield_answers", origin.shield_answers),
            ("shield_hits", origin.shield_hits),
            ("shield_bytes", origin.shield_bytes),
            ("reused", origin.reused),
            ("retried", origin.retried),
            ("failed_over", origin.failed_over),
            ("retries_refused", origin.retries_refused),
            ("hedged", origin.hedged),
            ("hedges_won", origin.hedges_won),
            ("hedges_refused", origin.hedges_refused),
            ("connections_made", origin.connections_made),
            ("connections_open", origin.connections_open),
        ] {
            all.add("origin", name, label(), value);
        }
        for (kind, value) in &origin.failed {
            let labels = [label(), vec![("kind", kind.clone())]].concat();
            all.add("origin", "failed", labels, *value);
        }
    }
    for node in &status.nodes {
        let label = || vec![("name", node.name.clone()), ("tier", node.tier.clone())];
        let known = [("p50_us", node.p50_us), ("p95_us", node.p95_us)];
        for (name, value) in known {
            if let Some(value) = value {
                all.add("node", name, label(), value);
            }
        }
        for (name, value) in [
            ("up", u64::from(node.state == "up")),
            ("in_flight", node.in_flight),
            ("requests", node.requests),
            ("failures", node.failures),
            ("probes_failed", node.probes_failed),
            ("ejections", node.ejections),
            ("breaker_opened", node.breaker_opened),
            ("hits", node.hits),
            ("bytes", node.bytes),
            ("reused", node.reused),
            ("connections_made", node.connections_made),
            ("connections_open", node.connections_open),
            ("dns_stale", node.dns_stale),
        ] {
            all.add("node", name, label(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::node;

    #[test]
    fn every_counter_of_the_status_is_a_metric() {
        let status = node().0.status();
        let page = page(status.clone()).expect("text");
        assert!(page.ends_with("# EOF\n"), "{page}");
        for line in [
            "popcache_shard_hits_total{shard=\"0\"} 9",
            "popcache_shard_turns_total{shard=\"0\"} 5",
            "popcache_shard_waiters_refused_total{shard=\"1\"} 7",
            "# TYPE popcache_shard_connections gauge",
            "popcache_shard_connections{shard=\"1\"} 0",
            "popcache_tier_hits_total{shard=\"0\",tier=\"ram\"} 9",
            "popcache_compression_compressed_total 3",
            "popcache_origin_started_total{name=\"demo\"} 0",
            "popcache_memory_bytes 268435456",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        for name in status.shards[0].counters.keys() {
            assert!(page.contains(&format!("popcache_shard_{name}")), "{name}");
        }
    }

    /// A gauge that the list does not know would be shown as a counter that falls.
    #[test]
    fn every_gauge_is_known_as_one() {
        for (prefix, declared) in [
            ("", include_str!("../../cache-core/src/stats.rs")),
            ("tier_", include_str!("../../cache-core/src/tier/stats.rs")),
            ("", include_str!("tcp/stats.rs")),
        ] {
            let said = said_to_be_gauges(declared);
            assert!(said.len() > 2, "{said:?}");
            for name in said {
                let name = format!("{prefix}{name}");
                assert!(GAUGES.contains(&&name[..]), "{name}");
            }
        }
    }

    /// The counter that stands behind a line of documentation with the word, or all of them behind its plural.
    fn said_to_be_gauges(declared: &str) -> Vec<&str> {
        let (mut one, mut all) = (false, false);
        let mut names = Vec::new();
        for line in declared.lines().map(str::trim) {
            if line.starts_with("///") {
                (one, all) = (line.contains("gauge)"), line.contains("gauges)"));
            } else if let Some(name) = line.strip_suffix(',').filter(|_| one || all) {
                let shown = name
                    .split_once("=> ")
                    .map(|(_, shown)| shown.trim_matches('"'));
                names.push(shown.unwrap_or(name));
                one = false;
            } else {
                (one, all) = (false, false);
            }
        }
        names
    }
}
