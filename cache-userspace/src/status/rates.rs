//! What a node did between two looks at it: `popcache top`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{ShardStatus, StatusDocument, is_trouble, ratio, span, write_table};
use crate::config::explain::rounded;

/// What happened a second, and what is there now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub name: String,
    pub uptime_seconds: u64,
    /// Between the two looks.
    pub seconds: f64,
    /// Another process answers than the last time: what it did since its start counts.
    pub restarted: bool,
    pub all: Traffic,
    pub shards: Vec<Traffic>,
    /// Classes that were asked for.
    pub classes: BTreeMap<String, Class>,
    pub origins: BTreeMap<String, Fetches>,
    /// Counters of the XDP program that moved, a second.
    pub xdp: BTreeMap<String, f64>,
    /// Bounds that were reached and other trouble, a second.
    pub trouble: BTreeMap<String, f64>,
}

/// One shard, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    pub requests: f64,
    pub hits: f64,
    pub misses: f64,
    pub body_bytes: f64,
    pub fetches: f64,
    pub handshakes: f64,
    pub evictions: f64,
    pub h3_connections: u64,
    pub h2_connections: u64,
    pub h1_connections: u64,
    pub waiters: u64,
    pub objects: u64,
    pub object_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    pub hits: f64,
    pub misses: f64,
    pub fills: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fetches {
    pub started: f64,
    pub failed: f64,
    pub bytes: f64,
    pub connections_open: u64,
}

impl Rates {
    /// `seconds` lie between the two, more than none.
    pub fn between(before: &StatusDocument, after: &StatusDocument, seconds: f64) -> Self {
        let restarted = (before.pid, before.started_unix) != (after.pid, after.started_unix);
        let since = Since { restarted, seconds };
        let (sum, sum_before) = (after.sum(), before.sum());
        let former = |at: usize| before.shards.get(at).unwrap_or(&sum_before);
        let shards = after.shards.iter().enumerate();
        let classes = after.classes.iter().map(|(name, counters)| {
            let former = before.classes.get(name);
            let rate = |counter: &str| since.counter(former, counters, counter);
            let class = Class {
                hits: rate("hits") + rate("tier_hits"),
                misses: rate("misses"),
                fills: rate("fills"),
            };
            (name.clone(), class)
        });
        let origins = after.origins.iter().map(|origin| {
            let former = before.origins.iter().find(|one| one.name == origin.name);
            let failed = |failed: &BTreeMap<String, u64>| failed.values().sum::<u64>();
            let fetches = Fetches {
                started: since.rate(former.map_or(0, |one| one.started), origin.started),
                failed: since.rate(
                    former.map_or(0, |one| failed(&one.failed)),
                    failed(&origin.failed),
                ),
                bytes: since.rate(former.map_or(0, |one| one.bytes), origin.bytes),
                connections_open: origin.connections_open,
            };
            (origin.name.clone(), fetches)
        });
        let mut trouble = since.moved(&sum_before.counters, &sum.counters);
        trouble.retain(|name, _| is_trouble(name));
        Self {
            name: after.name.clone(),
            uptime_seconds: after.uptime_seconds,
            seconds,
            restarted,
            all: since.traffic(&sum_before, &sum),
            shards: shards
                .map(|(at, shard)| since.traffic(former(at), shard))
                .collect(),
            classes: classes
                .filter(|(_, class)| class.hits + class.misses + class.fills > 0.0)
                .collect(),
            origins: origins.collect(),
            xdp: since.moved(&before.xdp.counters, &after.xdp.counters),
            trouble,
        }
    }

    /// The page that `popcache top` prints.
    pub fn page(&self) -> String {
        let mut out = String::new();
        let restarted = match self.restarted {
            true => ", RESTARTED",
            false => "",
        };
        let _ = writeln!(
            out,
            "{}, up {}{restarted}; each second of the last {:.1}\n",
            self.name,
            span(self.uptime_seconds),
            self.seconds,
        );
        self.write_shards(&mut out);
        self.write_classes(&mut out);
        self.write_origins(&mut out);
        for (what, counters) in [("xdp", &self.xdp), ("trouble", &self.trouble)] {
            if !counters.is_empty() {
                let moved = counters.iter();
                let moved: Vec<_> = moved
                    .map(|(n, rate)| format!("{n} {}", short(*rate)))
                    .collect();
                let _ = writeln!(out, "{what}: {}", moved.join(", "));
            }
        }
        out
    }

    fn write_shards(&self, out: &mut String) {
        let head = [
            "shard", "requests", "hits", "misses", "hit", "sent", "fetches", "new", "evicted",
            "h3", "h2", "h1", "waiting", "objects", "stored",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let shards = self.shards.iter().enumerate();
        let shards = shards.map(|(at, traffic)| (at.to_string(), traffic));
        let sum = (self.shards.len() > 1).then(|| ("all".to_owned(), &self.all));
        for (name, traffic) in shards.chain(sum) {
            rows.push(vec![
                name,
                short(traffic.requests),
                short(traffic.hits),
                short(traffic.misses),
                share(traffic.hits, traffic.misses),
                rounded(traffic.body_bytes as u64),
                short(traffic.fetches),
                short(traffic.handshakes),
                short(traffic.evictions),
                traffic.h3_connections.to_string(),
                traffic.h2_connections.to_string(),
                traffic.h1_connections.to_string(),
                traffic.waiters.to_string(),
                traffic.objects.to_string(),
                rounded(traffic.object_bytes),
            ]);
        }
        write_table(out, &rows);
    }

    fn write_classes(&self, out: &mut String) {
        if self.classes.is_empty() {
            return;
        }
        let head = ["class", "hits", "misses", "hit", "fills"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (name, class) in &self.classes {
            rows.push(vec![
                name.clone(),
                short(class.hits),
                short(class.misses),
                share(class.hits, class.misses),
                short(class.fills),
            ]);
        }
        out.push('\n');
        write_table(out, &rows);
    }

    fn write_origins(&self, out: &mut String) {
        let head = ["origin", "fetches", "failed", "bytes", "open"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (name, fetches) in &self.origins {
            rows.push(vec![
                name.clone(),
                short(fetches.started),
                short(fetches.failed),
                rounded(fetches.bytes as u64),
                fetches.connections_open.to_string(),
            ]);
        }
        out.push('\n');
        write_table(out, &rows);
    }
}

/// How counters become rates.
#[derive(Clone, Copy)]
struct Since {
    restarted: bool,
    seconds: f64,
}

impl Since {
    fn rate(self, before: u64, after: u64) -> f64 {
        let before = if self.restarted { 0 } else { before };
        after.saturating_sub(before) as f64 / self.seconds
    }

    fn counter(
        self,
        before: Option<&BTreeMap<String, u64>>,
        after: &BTreeMap<String, u64>,
        name: &str,
    ) -> f64 {
        let value = |counters: &BTreeMap<String, u64>| counters.get(name).copied().unwrap_or(0);
        self.rate(before.map_or(0, value), value(after))
    }

    fn moved(
        self,
        before: &BTreeMap<String, u64>,
        after: &BTreeMap<String, u64>,
    ) -> BTreeMap<String, f64> {
        let names = after.keys().cloned();
        let rates = names.map(|name| {
            let rate = self.counter(Some(before), after, &name);
            (name, rate)
        });
        rates.filter(|(_, rate)| *rate > 0.0).collect()
    }

    fn traffic(self, before: &ShardStatus, after: &ShardStatus) -> Traffic {
        let rate = |name: &str| self.rate(before.get(name), after.get(name));
        Traffic {
            requests: rate("requests"),
            hits: self.rate(before.served_from_cache(), after.served_from_cache()),
            misses: rate("misses"),
            body_bytes: rate("body_bytes"),
            fetches: rate("fetches_started"),
            handshakes: rate("handshakes") + rate("tcp_connections_accepted"),
            evictions: rate("evictions"),
            h3_connections: after.get("connections"),
            h2_connections: after.get("h2_connections"),
            h1_connections: after.get("h1_connections"),
            waiters: after.get("waiters"),
            objects: after.get("objects"),
            object_bytes: after.get("object_bytes"),
        }
    }
}

fn share(hits: f64, misses: f64) -> String {
    // In thousandths, so that slow rates have a share as well.
    ratio((hits * 1e3) as u64, (misses * 1e3) as u64)
}

/// A rate in four characters or so: `0`, `0.3`, `42`, `1234`, `98.7k`.
fn short(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..9.95 => format!("{rate:.1}"),
        ..9_999.5 => format!("{rate:.0}"),
        ..999_950.0 => format!("{:.1}k", rate / 1e3),
        _ => format!("{:.1}M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    fn later(change: impl FnOnce(&mut StatusDocument)) -> StatusDocument {
        let mut after = document();
        after.uptime_seconds += 2;
        change(&mut after);
        after
    }

    fn add(counters: &mut BTreeMap<String, u64>, name: &str, n: u64) {
        *counters.entry(name.to_owned()).or_default() += n;
    }

    #[test]
    fn counters_become_rates_and_gauges_stay() {
        let after = later(|after| {
            let counters = &mut after.shards[0].counters;
            add(counters, "requests", 300);
            add(counters, "hits", 200);
            add(counters, "hits_stale", 70);
            add(counters, "misses", 30);
            add(counters, "requests_refused", 1);
            counters.insert("waiters".to_owned(), 7);
            after.origins[0].started += 30;
            after.origins[0].bytes += 2_048;
        });
        let rates = Rates::between(&document(), &after, 2.0);
        let shard = &rates.shards[0];
        assert_eq!(
            (shard.requests, shard.hits, shard.misses),
            (150.0, 135.0, 15.0)
        );
        assert_eq!(
            (shard.waiters, rates.all.waiters),
            (7, after.sum().get("waiters"))
        );
        assert_eq!(rates.all.requests, 150.0);
        let fetches = rates.origins.values().next().expect("an origin");
        assert_eq!((fetches.started, fetches.bytes), (15.0, 1_024.0));
        assert_eq!(
            rates.trouble,
            BTreeMap::from([("requests_refused".to_owned(), 0.5)])
        );
        assert!(!rates.restarted);
        let page = rates.page();
        assert!(
            page.contains("90.0%") && page.contains("trouble: requests_refused 0.5"),
            "{page}"
        );
    }

    #[test]
    fn what_stands_still_has_no_rate() {
        let rates = Rates::between(&document(), &later(|_| {}), 2.0);
        assert_eq!((rates.all.requests, rates.all.misses), (0.0, 0.0));
        assert!(rates.classes.is_empty() && rates.xdp.is_empty() && rates.trouble.is_empty());
    }

    #[test]
    fn another_process_begins_at_nothing() {
        let after = later(|after| {
            after.pid += 1;
            after.shards.truncate(1);
            after.shards[0].counters = BTreeMap::from([("requests".to_owned(), 10)]);
        });
        let rates = Rates::between(&document(), &after, 2.0);
        assert!(rates.restarted && rates.page().contains("RESTARTED"));
        assert_eq!(rates.all.requests, 5.0);
    }

    #[test]
    fn rates_are_short() {
        let shown = [0.0, 0.25, 9.94, 42.4, 9_999.0, 98_700.0, 1_234_000.0].map(short);
        assert_eq!(shown, ["0", "0.2", "9.9", "42", "9999", "98.7k", "1.2M"]);
    }
}
