//! How memory is cut: per shard an index, and blocks for log and extents.

use std::ops::RangeInclusive;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hugepages::{Arena, Backing, Reader, Region, Table, Writer};

use super::owner::{Bounds, Owner, expected_objects};
use super::space::reserve_of;
use super::{KeyHasher, Partition, Store, StoreConfig, StoreError, StoreReport};
use crate::evict::Metas;
use crate::index::{Index, LOAD_PERCENT, MAX_LOG_BYTES};
use crate::io::ShardId;
use crate::policy::Policy;
use crate::purge::Purges;
use crate::record::{EXTENT_BYTES, MAX_OBJECT};

/// Blocks that are never cut in extents.
const MIN_LOG_SEGMENTS: u64 = 8;
/// Segments are as large as leaves about this many.
const WANTED_LOG_SEGMENTS: u64 = 256;
const MIN_SEGMENT_BYTES: u64 = 256 << 10;
const MAX_SEGMENT_BYTES: u64 = 2 << 20;
/// Bytes that can be extents, at least.
const MIN_LARGE: u64 = 1 << 20;
/// An object may take this part of the extents: one in.
const LARGEST_OBJECT_SHARE: u64 = 2;
/// Pinned objects may take this part of the log, or of the extents: one in.
const PINNED_SHARE: u64 = 4;
const PAGE: u64 = 4 << 10;
const HUGE_PAGE: u64 = 2 << 20;
const SLOT_BYTES: u64 = 8;
const SHARES: RangeInclusive<f32> = 0.01..=0.99;
/// Bytes of a mean object that make sense.
const MEANS: RangeInclusive<u64> = 256..=1 << 20;

/// Maps the memory and lays out one partition a shard. Lookups give nothing that `purges` covers.
pub fn build(
    config: &StoreConfig,
    purges: Arc<Purges>,
) -> Result<(Vec<Store>, StoreReport), StoreError> {
    let layout = Layout::new(config)?;
    let bytes = usable(config.ram_bytes) as usize;
    let (mut memory, backing) = Backing::map(bytes, config.pages).map_err(config_error)?;
    let bounds = layout.bounds(config);
    let mut shards: Vec<Vec<Partition>> = (0..config.shards).map(|_| Vec::new()).collect();
    let mut owners = Vec::new();
    let hasher = KeyHasher {
        state: FixedState::with_seed(config.hash_seed),
        shards: config.shards,
    };
    for shard in 0..config.shards {
        let cut = layout.cut(&mut memory, config.shards)?;
        for (partitions, (log, extents)) in shards.iter_mut().zip(cut.readers) {
            partitions.push(Partition {
                index: Arc::clone(&cut.index),
                log,
                extents,
                log_shift: layout.segment_bytes.trailing_zeros(),
            });
        }
        let hasher = hasher.clone();
        owners.push(Owner::new(
            shard,
            hasher,
            cut.index,
            Arc::clone(&purges),
            cut.writers,
            &bounds,
        ));
    }
    let stores = shards.into_iter().zip(owners).enumerate();
    let stores = stores.map(|(shard, (partitions, owner))| {
        let purges = Arc::clone(&purges);
        Store::new(shard as ShardId, hasher.clone(), purges, partitions, owner)
    });
    let report = StoreReport {
        backing,
        log_segments: layout.segments as u32,
        log_segment_bytes: layout.segment_bytes as u32,
        extents: layout.extents as u32,
        slots: layout.slots(),
        max_object: bounds.max_object,
        pinned_bytes: bounds.pinned_bytes,
        side_bytes: layout.side_bytes(config.shards),
    };
    Ok((stores.collect(), report))
}

/// One partition's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    segment_bytes: u64,
    segments: u64,
    /// At most.
    extents: u64,
    mean_object: u64,
}

/// What the owner of a partition writes.
pub(super) struct Writers {
    pub log: Writer,
    pub extents: Writer,
}

struct Cut {
    index: Arc<Index>,
    writers: Writers,
    /// One pair a shard, of log and extents.
    readers: Vec<(Reader, Reader)>,
}

impl Layout {
    fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        if config.shards == 0 {
            return Err(StoreError::Config("a store needs one shard or more".into()));
        }
        if !SHARES.contains(&config.large_share) {
            return Err(StoreError::Config(format!(
                "the share of large objects is {}: give {} to {}",
                config.large_share,
                SHARES.start(),
                SHARES.end()
            )));
        }
        let shards = u64::from(config.shards);
        let per_shard = usable(config.ram_bytes) / shards;
        if !MEANS.contains(&config.mean_object) {
            return Err(StoreError::Config(format!(
                "a mean object of {} bytes: give {} to {}",
                config.mean_object,
                MEANS.start(),
                MEANS.end()
            )));
        }
        Self::fit(per_shard, config).ok_or_else(|| StoreError::TooSmall {
            ram: config.ram_bytes,
            shards: config.shards,
            minimum: (minimum(config) * shards).next_multiple_of(HUGE_PAGE),
        })
    }

    /// The layout that fits in `bytes`; `None` when they are too few.
    fn fit(bytes: u64, config: &StoreConfig) -> Option<Self> {
        let all = bytes.min(MAX_LOG_BYTES);
        let segment_bytes = previous_power_of_two(all / WANTED_LOG_SEGMENTS)
            .clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let mut layout = Self {
            segment_bytes,
            segments: all / segment_bytes,
            extents: 0,
            mean_object: config.mean_object,
        };
        while layout.bytes() > bytes {
            layout.segments = layout.segments.checked_sub(1)?;
        }
        let can_be_cut = layout.segments.checked_sub(MIN_LOG_SEGMENTS)?;
        let large = (layout.segments as f64 * f64::from(config.large_share)).ceil() as u64;
        let large = large.max(MIN_LARGE / segment_bytes).min(can_be_cut);
        layout.extents = large * (segment_bytes / u64::from(EXTENT_BYTES));
        (large * segment_bytes >= MIN_LARGE).then_some(layout)
    }

    fn log_bytes(self) -> u64 {
        self.segments * self.segment_bytes
    }

    fn slots(self) -> u64 {
        self.index_bytes() / SLOT_BYTES
    }

    /// As many slots as the log's objects take at the load that the index bears.
    fn index_bytes(self) -> u64 {
        // What is kept free of the log holds no objects.
        let free = u64::from(reserve_of(self.segments as u32));
        let filled = self.segments.saturating_sub(free) * self.segment_bytes;
        let slots = filled * 100 / (self.mean_object * LOAD_PERCENT);
        (slots * SLOT_BYTES).next_multiple_of(PAGE)
    }

    fn extent_bytes(self) -> u64 {
        self.extents * u64::from(EXTENT_BYTES)
    }

    fn bytes(self) -> u64 {
        self.log_bytes() + self.index_bytes()
    }

    fn bounds(self, config: &StoreConfig) -> Bounds {
        let shards = u64::from(config.shards);
        let fits = self.extent_bytes() / LARGEST_OBJECT_SHARE;
        let may_be_pinned = self.log_bytes().min(self.extent_bytes()) / PINNED_SHARE;
        Bounds {
            max_object: config.max_object.min(fits).min(MAX_OBJECT),
            pinned_bytes: (config.pinned_bytes / shards).min(may_be_pinned),
            max_pins: config.max_pins,
            class_bytes: config
                .class_bytes
                .iter()
                .map(|all| all.div_ceil(shards))
                .collect(),
        }
    }

    fn side_bytes(self, shards: u8) -> u64 {
        let shards = u64::from(shards);
        let log = Arena::side_bytes(self.segments, self.segment_bytes, shards);
        let extents = Arena::side_bytes(self.extents, EXTENT_BYTES.into(), shards);
        let users = self.extents * size_of::<u32>() as u64;
        let policy = Policy::bytes_for(expected_objects(self.slots()) as usize) as u64;
        let slots = Metas::bytes(self.slots()) + Index::side_bytes(self.slots());
        shards * (log + extents + users + slots + policy)
    }

    fn cut(self, memory: &mut Region, shards: u8) -> Result<Cut, StoreError> {
        let mut take = |bytes: u64| {
            let region = memory.take(bytes as usize);
            region.ok_or_else(|| StoreError::Config("the mapping is too short".into()))
        };
        let blocks = take(self.log_bytes())?;
        let index = Table::new(take(self.index_bytes())?).map_err(config_error)?;
        let segments = (self.segment_bytes as u32, EXTENT_BYTES);
        let may_be_large = self.extent_bytes() as usize;
        let arenas = Arena::overlay(blocks, segments, may_be_large, u16::from(shards));
        let arenas = arenas.map_err(config_error)?;
        Ok(Cut {
            index: Arc::new(Index::new(index)),
            writers: Writers {
                log: arenas.coarse,
                extents: arenas.fine,
            },
            readers: arenas.readers,
        })
    }
}

/// Bytes that one shard needs at least.
fn minimum(config: &StoreConfig) -> u64 {
    let sizes = (1..).map(|n| n * MIN_SEGMENT_BYTES);
    let mut enough = sizes.filter(|bytes| Layout::fit(*bytes, config).is_some());
    enough.next().unwrap_or(u64::MAX)
}

/// Whole hugepages, so that the mapping is never larger than asked for.
fn usable(ram: u64) -> u64 {
    ram / HUGE_PAGE * HUGE_PAGE
}

fn previous_power_of_two(n: u64) -> u64 {
    n.checked_ilog2().map_or(0, |log| 1 << log)
}

fn config_error(error: hugepages::Error) -> StoreError {
    StoreError::Config(error.to_string())
}

#[cfg(test)]
mod tests {
    use hugepages::PagePolicy;

    use super::*;

    fn purges() -> Arc<Purges> {
        Arc::new(Purges::new(0, 16))
    }

    fn config(shards: u8, ram_bytes: u64) -> StoreConfig {
        StoreConfig {
            shards,
            ram_bytes,
            pages: PagePolicy::Plain,
            ..StoreConfig::default()
        }
    }

    #[test]
    fn every_layout_stays_within_its_bytes_and_uses_nearly_all() {
        for mib in [4u64, 5, 8, 13, 64, 100, 1000, 4096, 100_000] {
            for share in [0.01, 0.1, 0.5, 0.9] {
                let bytes = mib << 20;
                let config = StoreConfig {
                    large_share: share,
                    ..StoreConfig::default()
                };
                let Some(layout) = Layout::fit(bytes, &config) else {
                    assert!(bytes < minimum(&config), "{mib} MiB, {share}");
                    continue;
                };
                assert!(layout.bytes() <= bytes, "{mib} MiB, {share}: {layout:?}");
                let rest = bytes - layout.bytes();
                assert!(rest < layout.segment_bytes, "{mib} MiB: {layout:?}");
            }
        }
    }

    #[test]
    fn the_minimum_that_an_error_names_is_enough() {
        for shards in [1, 2, 7, 64] {
            let error = build(&config(shards, 1 << 20), purges()).unwrap_err();
            let StoreError::TooSmall { minimum, .. } = error else {
                panic!("{error}");
            };
            let (stores, report) = build(&config(shards, minimum), purges()).unwrap();
            assert_eq!(stores.len(), usize::from(shards));
            assert!(report.backing.bytes <= minimum);
            let less = minimum - (2 << 20) - u64::from(shards) * MIN_SEGMENT_BYTES;
            assert!(build(&config(shards, less), purges()).is_err());
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        assert!(matches!(
            build(&config(0, 1 << 30), purges()),
            Err(StoreError::Config(_))
        ));
        for large_share in [0.0, 1.0, f32::NAN] {
            let config = StoreConfig {
                large_share,
                ..config(1, 1 << 30)
            };
            let error = build(&config, purges()).unwrap_err();
            assert!(
                error.to_string().contains("share of large objects"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_index_is_as_large_as_the_mean_object_makes_it() {
        for mean_object in [1 << 10, 3 << 10, 64 << 10] {
            let config = StoreConfig {
                mean_object,
                ..StoreConfig::default()
            };
            let layout = Layout::fit(1 << 30, &config).unwrap();
            let used = layout.log_bytes() as f64 / mean_object as f64 / layout.slots() as f64;
            assert!((0.93..0.99).contains(&used), "{mean_object}: {used}");
        }
        for mean_object in [0, 255, 2 << 20] {
            let config = StoreConfig {
                mean_object,
                ..config(1, 1 << 30)
            };
            let error = build(&config, purges()).unwrap_err();
            assert!(error.to_string().contains("mean object"), "{error}");
        }
    }

    #[test]
    fn the_report_says_what_a_small_memory_can_keep() {
        let (_, report) = build(&config(2, 16 << 20), purges()).unwrap();
        assert_eq!(report.log_segment_bytes, 256 << 10);
        assert!(report.max_object <= 4 << 20 && report.max_object >= 1 << 20);
        assert!(report.side_bytes < 1 << 20);
    }
}
