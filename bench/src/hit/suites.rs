//! What is measured: the cases of each benchmark of hits, against whom, and by which figures.

use crate::figures::{self, Better, CPU_PER_REQUEST, Metric};
use crate::load::Report;
use crate::site::{Kind, SERVERS};

/// A benchmark of hits.
pub(super) struct Suite {
    pub bench: &'static str,
    pub cases: &'static [Case],
    pub servers: &'static [Kind],
    pub figures: &'static [Figure],
    /// Beside the servers, what the cipher alone costs.
    pub floor: bool,
}

pub(super) struct Case {
    pub name: &'static str,
    /// Of a body.
    pub bytes: usize,
    pub connections: usize,
    pub streams: usize,
    pub pressure: Pressure,
    /// What the client is told beside this.
    pub more: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    /// A closed loop.
    Full,
    /// An open loop at half of the rate that the same server had in this case of the same run.
    HalfOf(&'static str),
}

/// A metric and where it is in the client's report.
pub(super) struct Figure {
    pub metric: Metric,
    pub of: fn(&Report) -> f64,
}

impl Suite {
    pub fn metrics(&self) -> Vec<Metric> {
        self.figures.iter().map(|figure| figure.metric).collect()
    }
}

impl Case {
    pub fn template(&self) -> String {
        template(self.bytes)
    }
}

/// Paths of bodies of `bytes`, for [`expand`](crate::load::expand).
pub(super) fn template(bytes: usize) -> String {
    format!("/size/{bytes}?v={{}}")
}

/// All sizes that there are cases of.
pub(super) const SIZES: [usize; 3] = [1 << 10, 4 << 10, 64 << 10];

pub(super) const HTTP3: Suite = Suite {
    bench: "hit",
    cases: &[
        case("1k-50x4", 1 << 10, 50, 4, ""),
        case("4k-16x32", 4 << 10, 16, 32, ""),
        case("4k-50x1", 4 << 10, 50, 1, ""),
        case("64k-16x4", 64 << 10, 16, 4, ""),
        case("4k-1x1", 4 << 10, 1, 1, ""),
    ],
    servers: &SERVERS,
    figures: &[CPU, RATE, P50, P99],
    floor: true,
};

/// Each request of HTTP/1.1 has a connection of its own, as many as there are streams of HTTP/2.
pub(super) const TCP: Suite = Suite {
    bench: "h2",
    cases: &[
        case("h2-4k", 4 << 10, 16, 32, " --http 2"),
        case("h2-1k", 1 << 10, 16, 32, " --http 2"),
        case("h1-4k", 4 << 10, 64, 1, " --http 1"),
        case("h1-1k", 1 << 10, 64, 1, " --http 1"),
    ],
    servers: &[Kind::Popcache, Kind::Nginx],
    figures: &[CPU, RATE, P50, P99],
    floor: false,
};

/// `half-load` comes after `saturation`, whose rate it halves.
pub(super) const LATENCY: Suite = Suite {
    bench: "latency",
    cases: &[
        case("lone", 4 << 10, 1, 1, ""),
        case(SATURATION, 4 << 10, 16, 8, ""),
        Case {
            pressure: Pressure::HalfOf(SATURATION),
            ..case("half-load", 4 << 10, 16, 8, "")
        },
    ],
    servers: &SERVERS,
    figures: &[P50, P99, CPU, RATE],
    floor: false,
};

const SATURATION: &str = "saturation";

const fn case(
    name: &'static str,
    bytes: usize,
    connections: usize,
    streams: usize,
    more: &'static str,
) -> Case {
    Case {
        name,
        bytes,
        connections,
        streams,
        pressure: Pressure::Full,
        more,
    }
}

const CPU: Figure = Figure {
    metric: CPU_PER_REQUEST,
    of: |report| report.server_cpu_us_per_request.unwrap_or(f64::NAN),
};

const RATE: Figure = Figure {
    metric: figures::RATE,
    of: |report| report.rps,
};

const P50: Figure = Figure {
    metric: Metric {
        name: "p50_us",
        unit: "us",
        better: Better::Lower,
    },
    of: |report| report.latency_us.p50,
};

const P99: Figure = Figure {
    metric: Metric {
        name: "p99_us",
        unit: "us",
        better: Better::Lower,
    },
    of: |report| report.latency_us.p99,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_halved_is_measured_before() {
        for suite in [HTTP3, TCP, LATENCY] {
            for (at, case) in suite.cases.iter().enumerate() {
                assert!(SIZES.contains(&case.bytes), "{}", case.name);
                if let Pressure::HalfOf(other) = case.pressure {
                    let before = &suite.cases[..at];
                    assert!(before.iter().any(|c| c.name == other), "{other}");
                }
            }
        }
    }
}
