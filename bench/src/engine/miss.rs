//! Miss ratios: every trace at three sizes, against every peer.
//!
//! A size is a share of the trace's footprint: of the bytes of all its objects, or of their number
//! where sizes are not known. popcache is replayed with its whole store ([`super::own`] says how), the
//! others with books alone: for them an object takes its size and nothing else.

use anyhow::Result;

use super::own::Own;
use super::replay::{Misses, replay};
use super::trace::{self, Trace};
use super::{Options, offline, peers, synthetic};
use crate::figures::{Better, Metric, POPCACHE, Row, Samples};

pub const OFFLINE: &str = "offline";

const SIZES: [(&str, f64); 3] = [("0.1%", 0.001), ("1%", 0.01), ("10%", 0.1)];

const METRICS: [Metric; 2] = [
    Metric {
        name: "object_misses",
        unit: "ratio",
        better: Better::Lower,
    },
    Metric {
        name: "byte_misses",
        unit: "ratio",
        better: Better::Lower,
    },
];

/// Replays all traces and gives a row for each case and metric. Object misses alone where sizes
/// are not known: byte misses are the same.
///
/// # Errors
/// Traces that cannot be read.
pub fn rows(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for path in trace::files(options.traces.as_deref())? {
        let trace = Trace::read(&path)?;
        measure(&trace, options, &mut rows)?;
    }
    for trace in synthetic::all() {
        measure(&trace, options, &mut rows)?;
    }
    Ok(rows)
}

fn measure(trace: &Trace, options: &Options, rows: &mut Vec<Row>) -> Result<()> {
    for (size, share) in SIZES {
        let case = format!("miss/{}/{size}", trace.name);
        if options.wants(&case) {
            eprintln!("popcache-bench: {case}");
            let capacity = ((trace.footprint as f64 * share) as u64).max(1);
            rows.extend(compare(trace, &case, capacity)?);
        }
    }
    Ok(())
}

fn compare(trace: &Trace, case: &str, capacity: u64) -> Result<Vec<Row>> {
    let mut samples = Samples::default();
    let total = total(trace);
    let mut add = |name: &str, misses: Misses| {
        let objects = misses.objects as f64 / total.objects as f64;
        samples.add(0, 0, name, objects);
        if trace.sized {
            let bytes = misses.bytes as f64 / total.bytes as f64;
            samples.add(0, 1, name, bytes);
        }
    };
    for name in peers::NAMES {
        if let Some(mut peer) = peers::build(name, trace, capacity) {
            add(name, replay(trace, peer.as_mut()));
        }
    }
    add(POPCACHE, Own::new(trace, capacity)?.replay(trace));
    add(OFFLINE, offline::misses(trace, capacity));
    Ok(samples.rows(&[case], &METRICS))
}

fn total(trace: &Trace) -> Misses {
    let mut total = Misses::default();
    trace.requests.iter().for_each(|r| total.add(r.size));
    total
}
