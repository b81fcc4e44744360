//! Published crates as they come, with weighers, in one shard and driven by one thread so that
//! sharding costs none of them a hit.

use foyer::{CacheBuilder, EvictionConfig, LfuConfig, S3FifoConfig};
use quick_cache::OptionsBuilder;
use tinyufo::TinyUfo;

use super::classic::{Lfu, Lru};
use super::replay::Cache;
use super::trace::{Request, Trace};

/// TinyUFO's weights have 16 bits: sizes are rounded up to units that make the largest fit.
const MOST_WEIGHT: u64 = u16::MAX as u64;

pub const LRU: &str = "lru";
pub const LFU: &str = "lfu";
/// In the order of the table.
pub const NAMES: [&str; 7] = [
    LRU,
    LFU,
    "moka",
    "foyer-s3fifo",
    "foyer-lfu",
    "quick_cache",
    "tinyufo",
];

/// A peer for a replay of `trace`, with room for `capacity` bytes.
pub fn build(name: &str, trace: &Trace, capacity: u64) -> Option<Box<dyn Cache>> {
    let items = items(trace, capacity);
    Some(match name {
        LRU => Box::new(Lru::new(capacity)),
        LFU => Box::new(Lfu::new(capacity)),
        "moka" => Box::new(moka(capacity)),
        "foyer-s3fifo" => Box::new(foyer(capacity, S3FifoConfig::default())),
        "foyer-lfu" => Box::new(foyer(capacity, LfuConfig::default())),
        "quick_cache" => Box::new(quick_cache(items, capacity)),
        "tinyufo" => Box::new(Ufo::new(trace, items, capacity)),
        _ => return None,
    })
}

/// Objects of average size that fit: crates size their histories by it.
fn items(trace: &Trace, capacity: u64) -> usize {
    let average = trace.footprint as f64 / f64::from(trace.objects);
    (capacity as f64 / average).ceil() as usize
}

type Moka = moka::sync::Cache<u32, u32>;

fn moka(capacity: u64) -> Moka {
    let builder = moka::sync::Cache::builder().max_capacity(capacity);
    builder.weigher(|_, size| *size).build()
}

impl Cache for Moka {
    fn request(&mut self, request: Request) -> bool {
        let hit = self.get(&request.object).is_some();
        if !hit {
            self.insert(request.object, request.size);
        }
        // Else its books would lag behind: it does them in batches.
        self.run_pending_tasks();
        hit
    }
}

type Foyer = foyer::Cache<u32, u32>;

fn foyer(capacity: u64, eviction: impl Into<EvictionConfig>) -> Foyer {
    CacheBuilder::new(capacity as usize)
        .with_shards(1)
        .with_eviction_config(eviction)
        .with_weighter(|_: &u32, size: &u32| *size as usize)
        .build()
}

impl Cache for Foyer {
    fn request(&mut self, request: Request) -> bool {
        let hit = self.get(&request.object).is_some();
        if !hit {
            self.insert(request.object, request.size);
        }
        hit
    }
}

#[derive(Clone)]
pub struct Bytes;

impl quick_cache::Weighter<u32, u32> for Bytes {
    fn weight(&self, _: &u32, size: &u32) -> u64 {
        u64::from(*size)
    }
}

type Quick = quick_cache::sync::Cache<u32, u32, Bytes>;

fn quick_cache(items: usize, capacity: u64) -> Quick {
    let mut options = OptionsBuilder::new();
    options.shards(1).estimated_items_capacity(items);
    let options = options.weight_capacity(capacity).build();
    let options = options.expect("all that has no default is given");
    Quick::with_options(options, Bytes, Default::default(), Default::default())
}

impl Cache for Quick {
    fn request(&mut self, request: Request) -> bool {
        let hit = self.get(&request.object).is_some();
        if !hit {
            self.insert(request.object, request.size);
        }
        hit
    }
}

struct Ufo {
    cache: TinyUfo<u32, u32>,
    unit: u32,
}

impl Ufo {
    fn new(trace: &Trace, items: usize, capacity: u64) -> Self {
        let largest = trace.requests.iter().map(|request| request.size).max();
        let unit = u64::from(largest.unwrap_or(1)).div_ceil(MOST_WEIGHT);
        Self {
            cache: TinyUfo::new((capacity / unit).max(1) as usize, items),
            unit: unit as u32,
        }
    }
}

impl Cache for Ufo {
    fn request(&mut self, request: Request) -> bool {
        let hit = self.cache.get(&request.object).is_some();
        if !hit {
            let weight = request.size.div_ceil(self.unit) as u16;
            self.cache.put(request.object, request.size, weight);
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::super::replay::replay;
    use super::*;

    #[test]
    fn every_peer_keeps_what_fits_and_drops_what_does_not() {
        let twice = |n: u64| (0..2 * n).map(move |i| (i % n, 100 + (i % n) as u32));
        let trace = Trace::new("twice", twice(200));
        for name in NAMES {
            let mut roomy = build(name, &trace, 10 * trace.footprint).unwrap();
            assert_eq!(replay(&trace, roomy.as_mut()).objects, 200, "{name}");
            let mut small = build(name, &trace, trace.footprint / 20).unwrap();
            let misses = replay(&trace, small.as_mut()).objects;
            assert!((380..=400).contains(&misses), "{name}: {misses}");
        }
        assert!(build("nothing", &trace, 1).is_none());
    }
}
