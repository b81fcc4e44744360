//! What a benchmark found: rows of popcache against its peers, as a table and as JSON.
//!
//! ```json
//! {"bench": "hit", "machine": {"cpu": "...", "cores": 2, "kernel": "..."},
//!  "rows": [{"case": "4k-16x32", "metric": "rps", "unit": "1/s", "popcache": 1.0,
//!            "peers": {"nginx": 1.0}, "ratio": {"nginx": 1.0}, "runs": 3, "spread": 0.02}]}
//! ```
//!
//! Figures are medians of the runs; `spread` is (max - min) / median of popcache's runs, or where it
//! has none, the widest of the peers. A ratio above 1 means that popcache is better. A row with an
//! `error` says why figures are missing.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// popcache's name among the servers.
pub const POPCACHE: &str = "popcache";

/// One benchmark's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    pub bench: String,
    pub machine: Machine,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    pub metric: String,
    pub unit: String,
    pub popcache: Option<f64>,
    pub peers: BTreeMap<String, f64>,
    pub ratio: BTreeMap<String, f64>,
    pub runs: usize,
    pub spread: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// What a server's cores took for one request.
pub const CPU_PER_REQUEST: Metric = Metric {
    name: "cpu_us_per_request",
    unit: "us",
    better: Better::Lower,
};

/// Requests a second.
pub const RATE: Metric = Metric {
    name: "rps",
    unit: "1/s",
    better: Better::Higher,
};

/// The values of all runs, by case, metric and server.
#[derive(Default)]
pub struct Samples(BTreeMap<(usize, usize), BTreeMap<String, Vec<f64>>>);

impl Samples {
    /// `case` and `metric` are positions in the lists given to [`Samples::rows`].
    pub fn add(&mut self, case: usize, metric: usize, server: &str, value: f64) {
        let servers = self.0.entry((case, metric)).or_default();
        servers.entry(server.to_owned()).or_default().push(value);
    }

    /// Shows what a server took for one case as if another had taken it for a second one.
    pub fn compare(
        &mut self,
        metric: usize,
        (case, server): (usize, &str),
        (with, name): (usize, &str),
    ) {
        let taken = self.0.get(&(case, metric)).and_then(|all| all.get(server));
        for value in taken.cloned().unwrap_or_default() {
            self.add(with, metric, name, value);
        }
    }

    /// One row for each case and metric that has a value.
    pub fn rows(&self, cases: &[&str], metrics: &[Metric]) -> Vec<Row> {
        let row = |(&(case, metric), servers)| row(cases[case], metrics[metric], servers);
        self.0.iter().map(row).collect()
    }
}

fn row(case: &str, metric: Metric, servers: &BTreeMap<String, Vec<f64>>) -> Row {
    let medians: BTreeMap<String, f64> = servers
        .iter()
        .map(|(name, v)| (name.clone(), median(v)))
        .collect();
    let popcache = medians.get(POPCACHE).copied();
    let peers: BTreeMap<String, f64> = medians
        .into_iter()
        .filter(|(name, _)| name != POPCACHE)
        .collect();
    let ratio = |own: f64, peer: f64| match metric.better {
        Better::Lower => peer / own,
        Better::Higher => own / peer,
    };
    let ratios = peers.iter().filter_map(|(name, peer)| {
        let ratio = ratio(popcache?, *peer);
        ratio.is_finite().then(|| (name.clone(), ratio))
    });
    let spread = match servers.get(POPCACHE) {
        Some(values) => spread(values),
        None => servers.values().map(|v| spread(v)).fold(0.0, f64::max),
    };
    Row {
        case: case.to_owned(),
        metric: metric.name.to_owned(),
        unit: metric.unit.to_owned(),
        popcache,
        ratio: ratios.collect(),
        peers,
        runs: servers.values().map(Vec::len).max().unwrap_or_default(),
        spread,
        error: None,
    }
}

impl Row {
    /// A row that only says what went wrong.
    pub fn failure(case: &str, reason: String) -> Self {
        Self {
            case: case.to_owned(),
            metric: "error".to_owned(),
            unit: String::new(),
            popcache: None,
            peers: BTreeMap::new(),
            ratio: BTreeMap::new(),
            runs: 0,
            spread: 0.0,
            error: Some(reason),
        }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

fn spread(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let spread = (most - least) / median(values);
    if spread.is_finite() { spread } else { 0.0 }
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name"));
        let cpu = model
            .and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl Figures {
    /// Prints the table, and writes the JSON where a file is named.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn publish(&self, json: Option<&Path>) -> Result<()> {
        print!("{self}");
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self).context("figures are JSON")?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn peer_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .rows
            .iter()
            .flat_map(|row| row.peers.keys())
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel } = &self.machine;
        writeln!(f, "{}: {cpu}, {cores} cores, Linux {kernel}", self.bench)?;
        let peers = self.peer_names();
        let wide = self.rows.iter().map(|row| row.case.len()).max();
        let wide = wide.unwrap_or(0).max(10);
        let mut head = format!("{:<wide$} {:<20} {:>12}", "case", "metric", POPCACHE);
        for peer in &peers {
            write!(head, " {peer:>15} {:>7}", "ratio")?;
        }
        writeln!(f, "{head} {:>5} {:>7}", "runs", "spread")?;
        for row in self.rows.iter().filter(|row| row.error.is_none()) {
            write!(
                f,
                "{:<wide$} {:<20} {:>12}",
                row.case,
                row.metric,
                number(row.popcache)
            )?;
            for peer in &peers {
                let ratio = row
                    .ratio
                    .get(*peer)
                    .map_or_else(|| "-".to_owned(), |r| format!("{r:.2} x"));
                write!(
                    f,
                    " {:>15} {ratio:>7}",
                    number(row.peers.get(*peer).copied())
                )?;
            }
            writeln!(f, " {:>5} {:>6.1} %", row.runs, row.spread * 100.0)?;
        }
        for row in &self.rows {
            if let Some(error) = &row.error {
                writeln!(f, "{}: {error}", row.case)?;
            }
        }
        Ok(())
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v.abs() >= 1000.0 => format!("{v:.0}"),
        Some(v) => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: [Metric; 2] = [CPU_PER_REQUEST, RATE];

    fn sample() -> Figures {
        let mut samples = Samples::default();
        for (own, peer) in [(10.0, 30.0), (12.0, 33.0), (11.0, 36.0)] {
            samples.add(0, 0, POPCACHE, own);
            samples.add(0, 0, "nginx", peer);
            samples.add(0, 1, POPCACHE, own * 1000.0);
            samples.add(0, 1, "nginx", peer * 100.0);
        }
        samples.add(1, 0, "nginx", 5.0);
        Figures {
            bench: "hit".into(),
            machine: Machine::here(),
            rows: samples.rows(&["4k-16x32", "1k-50x4"], &METRICS),
        }
    }

    #[test]
    fn ratios_above_one_mean_that_popcache_is_better() {
        let rows = sample().rows;
        assert_eq!(
            (
                rows[0].popcache,
                rows[0].peers["nginx"],
                rows[0].ratio["nginx"]
            ),
            (Some(11.0), 33.0, 3.0)
        );
        assert!((rows[1].ratio["nginx"] - 11_000.0 / 3_300.0).abs() < 1e-9);
        assert!((rows[0].spread - 2.0 / 11.0).abs() < 1e-9 && rows[0].runs == 3);
        assert!(
            rows[2].popcache.is_none() && rows[2].ratio.is_empty() && rows[2].peers["nginx"] == 5.0
        );
    }

    #[test]
    fn one_case_is_compared_with_another() {
        let mut samples = Samples::default();
        samples.add(0, 0, POPCACHE, 300.0);
        samples.add(1, 0, POPCACHE, 100.0);
        samples.compare(0, (0, POPCACHE), (1, "full"));
        samples.compare(0, (0, "absent"), (1, "nobody"));
        let rows = samples.rows(&["full-1req", "resumed-0rtt"], &METRICS);
        assert!(rows[0].peers.is_empty());
        assert_eq!(rows[1].peers.len(), 1);
        assert_eq!((rows[1].peers["full"], rows[1].ratio["full"]), (300.0, 3.0));
    }

    #[test]
    fn the_json_has_the_agreed_shape() {
        let mut figures = sample();
        figures
            .rows
            .push(Row::failure("start", "popcache: no binary".into()));
        let json = serde_json::to_value(&figures).expect("JSON");
        let keys = |value: &serde_json::Value| {
            value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&json), ["bench", "machine", "rows"]);
        assert_eq!(keys(&json["machine"]), ["cores", "cpu", "kernel"]);
        let expected = [
            "case", "metric", "peers", "popcache", "ratio", "runs", "spread", "unit",
        ];
        assert_eq!(keys(&json["rows"][0]), expected);
        assert_eq!(json["rows"][3]["error"], "popcache: no binary");
        assert!(json["rows"][0]["peers"]["nginx"].is_f64() && json["rows"][0]["runs"].is_u64());
        let back: Figures = serde_json::from_value(json).expect("the same shape");
        assert_eq!(back.rows.len(), 4);
    }

    #[test]
    fn the_table_names_every_server_and_error() {
        let mut figures = sample();
        figures
            .rows
            .push(Row::failure("start", "popcache: no binary".into()));
        let table = figures.to_string();
        for part in ["4k-16x32", "nginx", "3.00 x", "start: popcache: no binary"] {
            assert!(table.contains(part), "{table}");
        }
    }
}
