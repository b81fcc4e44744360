//! Case `metadata`: bytes of memory for each object beside its key, head and body, in a store filled
//! until it evicts.
//!
//! popcache's are summed from what it lays out: index, headers, policy, and all else that grows with
//! memory. The crates' are what the allocator has in use with objects without bodies, less keys and
//! the handles of bodies.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use cache_core::purge::Purges;
use cache_core::store::{self, StoreConfig};
use hugepages::PagePolicy;

use super::gets::{self, HEAD, KEY_BYTES, Objects};
use crate::figures::{Better, Metric, POPCACHE, Row, Samples};

pub const CASE: &str = "metadata";
const METRICS: [Metric; 1] = [Metric {
    name: "bytes_per_object",
    unit: "B",
    better: Better::Lower,
}];
/// What a store of so many bytes holds is counted.
const RAM: u64 = 1 << 30;
const SLOT_BYTES: u64 = 8;

/// The row of the case.
///
/// # Errors
/// Memory that cannot be had.
pub fn rows(quick: bool) -> Result<Vec<Row>> {
    let ram = if quick { RAM / 4 } else { RAM };
    let mut samples = Samples::default();
    samples.add(0, 0, POPCACHE, popcache(ram)?);
    let count = if quick { 100_000 } else { 1_000_000 };
    for (name, bytes) in gets::crates_in_use(Objects { count }) {
        let beside = (KEY_BYTES + size_of::<Bytes>()) as f64;
        samples.add(0, 0, name, bytes as f64 / f64::from(count) - beside);
    }
    Ok(samples.rows(&[CASE], &METRICS))
}

fn popcache(ram_bytes: u64) -> Result<f64> {
    let objects = Objects { count: 100_000 };
    let rest = (KEY_BYTES + HEAD.len() + 16) as u64;
    let config = StoreConfig {
        ram_bytes,
        pages: PagePolicy::Plain,
        large_share: 0.1,
        mean_object: objects.bytes() / u64::from(objects.count) + rest,
        ..StoreConfig::default()
    };
    let (mut stores, report) = store::build(&config, Arc::new(Purges::new(1, 1 << 16)))?;
    let body = vec![0; 8_001];
    let mut object = 0;
    let mut payload = 0;
    while stores[0].stats().evictions == 0 {
        let size = objects.size(object);
        gets::put(&mut stores, object, &body[..size])?;
        payload += (KEY_BYTES + HEAD.len() + size) as u64;
        object += 1;
    }
    let stats = stores[0].stats();
    // What went is taken as of mean size.
    let kept = stats.objects as f64 / f64::from(object);
    let headers = stats.bytes as f64 - payload as f64 * kept;
    ensure!(headers > 0.0, "the store's books are wrong");
    let laid_out = (report.slots * SLOT_BYTES + report.side_bytes) as f64;
    Ok((laid_out + headers) / stats.objects as f64)
}
