//! Miss ratios: every trace at three sizes, against every peer.
//!
//! A size is a share of the trace's footprint: of the bytes of all its objects, or of their number
//! where sizes are not known. popcache is replayed with its whole store ([`super::own`] says how), the
//! others with books alone: for them an object takes its size and nothing else. All traces at hand take
//! about eight minutes of one core; a file takes at most as long as [`trace::MOST_REQUESTS`] requests do,
//! about four minutes.

use anyhow::Result;

use super::own::Own;
use super::replay::{BYTE_MISSES, Misses, OBJECT_MISSES, replay};
use super::trace::{self, Trace};
use super::{Options, offline, peers, synthetic, verdict};
use crate::figures::{Metric, POPCACHE, Row, Samples};

pub const OFFLINE: &str = "offline";

const SIZES: [(&str, f64); 3] = [("0.1%", 0.001), ("1%", 0.01), ("10%", 0.1)];

const METRICS: [Metric; 2] = [OBJECT_MISSES, BYTE_MISSES];

/// Replays all traces and gives a row for each case and metric. Object misses alone where sizes
/// are not known: byte misses are the same.
///
/// # Errors
/// Traces that cannot be read.
pub fn rows(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let made = synthetic::all().into_iter().chain(synthetic::hard());
    trace::each(options.traces.as_deref(), made, |trace| {
        measure(trace, options, &mut rows);
    })?;
    print!("{}", verdict::of(&rows));
    Ok(rows)
}

fn measure(trace: &Trace, options: &Options, rows: &mut Vec<Row>) {
    for (size, share) in SIZES {
        let case = format!("miss/{}/{size}", trace.name);
        if options.wants(&case) {
            eprintln!("popcache-bench: {case}");
            let capacity = ((trace.footprint as f64 * share) as u64).max(1);
            rows.extend(compare(trace, &case, capacity));
        }
    }
}

fn compare(trace: &Trace, case: &str, capacity: u64) -> Vec<Row> {
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
    add(OFFLINE, offline::misses(trace, capacity));
    let own = Own::new(trace, capacity).map(|mut own| {
        if own.copies() > 1 {
            let copies = own.copies();
            eprintln!("popcache-bench: {case}: popcache plays {copies} copies at once");
        }
        own.replay(trace)
    });
    match own {
        Ok(misses) => add(POPCACHE, misses),
        Err(error) => return vec![Row::failure(case, format!("{error:#}"))],
    }
    samples.rows(&[case], &METRICS)
}

fn total(trace: &Trace) -> Misses {
    let mut total = Misses::default();
    trace.requests.iter().for_each(|r| total.add(r.size));
    total
}
