//! `[tier]`: what keeps objects on drives once they leave memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cache_core::tier::format::{
    DEFAULT_SEGMENT_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, MIN_SEGMENTS,
};
use cache_core::tier::{self, DEFAULT_BLOCK_BYTES};

use super::kinds::{COUNT_U64, DISCARD, RATE, SHARE, SIZE_U32, TIMES};
use super::raw::{Problem, Reader, Section};
use super::typed::Config;
use super::units::{COUNT, DURATION, PATHS, SIZE, show_size};

/// Devices are numbered by one byte.
const MAX_DEVICES: usize = 255;

/// The least that a file can hold: a few segments for each of a few shards.
const MIN_SIZE: u64 = 64 << 20;

/// Which devices are told of the segments that nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// Block devices. Files keep the room that was taken for them.
    Auto,
    /// Files too: their room goes back to the file system, which may not have it again.
    On,
    Off,
}

/// The tier as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct TierConfig {
    /// Files or block devices, striped by segment. Empty: there is no tier.
    pub devices: Vec<PathBuf>,
    /// Bytes of each file; a block device is used whole.
    pub size: u64,
    /// Bytes written in one piece and reclaimed together.
    pub segment: u64,
    /// Bytes a second that the node writes, all devices together; 0: no limit.
    pub write_limit: u64,
    /// How often the whole tier may be written over in a day; 0: no limit.
    pub drive_writes_per_day: f64,
    pub discard: Discard,
    /// Objects that a shard reads at a time.
    pub max_reads: usize,
    /// Body bytes of a read that may wait for its client.
    pub read_window: u32,
    /// Bytes of a shard that wait to be written.
    pub write_buffer: u64,
    /// Objects of a shard that can be found; `None`: by the tier's size.
    pub max_objects: Option<u64>,
    /// Bytes written at most for each byte missed; 0: whatever was asked for twice is written.
    pub write_share: f64,
    /// Objects of a shard that are remembered as having left memory.
    pub max_ghosts: usize,
    /// Part of the tier that may hold pinned objects.
    pub pinned_share: f32,
    /// How long what memory holds may be written at a clean stop; zero: it is not.
    pub save_at_stop: Duration,
}

/// The I/O memory of a shard is made of blocks of this size.
pub const BLOCK_BYTES: usize = DEFAULT_BLOCK_BYTES;

/// Without `max_objects`, an object for so many bytes.
const BYTES_PER_OBJECT: u64 = 8 << 10;

impl TierConfig {
    /// What a shard's part of the tier is told. `shard_bytes`: of its segments.
    pub fn of_shard(&self, shard_bytes: u64, life: u64) -> tier::TierConfig {
        let limit = |value: u64| (value > 0).then_some(value);
        tier::TierConfig {
            max_reads: self.max_reads,
            max_write_blocks: (self.write_buffer / BLOCK_BYTES as u64) as usize,
            max_objects: self.objects_of(shard_bytes),
            max_ghosts: self.max_ghosts,
            write_share: (self.write_share > 0.0).then_some(self.write_share),
            pinned_percent: (self.pinned_share * 100.0) as u8,
            read_window: self.read_window,
            write_bytes_per_second: limit(self.write_limit),
            drive_writes_per_day: (self.drive_writes_per_day > 0.0)
                .then_some(self.drive_writes_per_day),
            discard: self.discard != Discard::Off,
            save_limit: self.save_at_stop,
            life,
        }
    }

    /// Bytes of a shard's memory: blocks, index, ghosts. An estimate where block devices are used, of
    /// which the size is not known here.
    pub fn memory_of_shard(&self, shards: u64) -> u64 {
        let devices = self.devices.len() as u64;
        let blocks = self.max_reads as u64 * BLOCK_BYTES as u64 + self.write_buffer;
        let objects = self.objects_of(self.size.saturating_mul(devices) / shards.max(1));
        blocks + objects * 144 / 10 + self.max_ghosts as u64 * tier::BYTES_PER_GHOST
    }

    fn objects_of(&self, shard_bytes: u64) -> u64 {
        self.max_objects
            .unwrap_or(shard_bytes / BYTES_PER_OBJECT)
            .max(1024)
    }

    /// Every default.
    pub fn without_devices() -> Self {
        Self {
            devices: Vec::new(),
            size: 64 << 30,
            segment: u64::from(DEFAULT_SEGMENT_BYTES),
            write_limit: 128 << 20,
            drive_writes_per_day: 0.0,
            write_share: tier::DEFAULT_WRITE_SHARE,
            discard: Discard::Auto,
            max_reads: 64,
            read_window: 256 << 10,
            write_buffer: 16 << 20,
            max_objects: None,
            max_ghosts: 1 << 20,
            pinned_share: 0.25,
            save_at_stop: Duration::from_secs(5),
        }
    }
}

pub(super) fn read(s: &mut Section<'_, '_, '_>, base: &Path) -> TierConfig {
    let devices = s.optional(
        "devices",
        &PATHS,
        "files or block devices that keep what leaves memory; unset: nothing is kept on drives",
    );
    let devices: Vec<PathBuf> = devices.unwrap_or_default();
    if devices.len() > MAX_DEVICES {
        s.refuse(
            "devices",
            format!("devices: {} are more than {MAX_DEVICES}", devices.len()),
        );
    }
    let d = TierConfig::without_devices();
    let config = TierConfig {
        devices: devices.iter().map(|path| base.join(path)).collect(),
        size: s.bounded(
            "size",
            &SIZE,
            d.size,
            MIN_SIZE..=1 << 48,
            "bytes of each file, taken at start; a block device is used whole",
        ),
        segment: s.bounded(
            "segment",
            &SIZE,
            d.segment,
            u64::from(MIN_SEGMENT_BYTES)..=u64::from(MAX_SEGMENT_BYTES),
            "bytes written in a row and reclaimed together, a power of two; large keeps a drive from rewriting",
        ),
        write_limit: s.setting(
            "write_limit",
            &RATE,
            d.write_limit,
            "bytes written a second by the node, past it objects are not admitted; 0 B/s: no limit",
        ),
        drive_writes_per_day: s.bounded(
            "drive_writes_per_day",
            &TIMES,
            d.drive_writes_per_day,
            0.0..=1000.0,
            "how often the tier may be written over in a day, as drives are rated; 0.0: no limit",
        ),
        write_share: s.bounded(
            "write_share",
            &TIMES,
            d.write_share,
            0.0..=10.0,
            "bytes written at most for each byte missed, the most asked for first; 0.0: whatever was asked for twice",
        ),
        discard: s.setting(
            "discard",
            &DISCARD,
            d.discard,
            "tell drives which segments are free; auto: block devices, since a file would lose its room",
        ),
        max_reads: s.bounded(
            "max_reads",
            &COUNT,
            d.max_reads,
            1..=4096,
            "objects a shard reads at a time; past it a miss asks its origin",
        ),
        read_window: s.bounded(
            "read_window",
            &SIZE_U32,
            d.read_window,
            128 << 10..=16 << 20,
            "body bytes of an object that are read ahead of its client",
        ),
        write_buffer: s.bounded(
            "write_buffer",
            &SIZE,
            d.write_buffer,
            1 << 20..=512 << 20,
            "bytes of a shard that wait to be written, and the largest object taken; past it objects are not admitted",
        ),
        max_objects: s.optional(
            "max_objects",
            &COUNT_U64,
            "objects of a shard that can be found, 14.4 bytes of memory each; unset: one for 8 KiB of drive",
        ),
        max_ghosts: s.bounded(
            "max_ghosts",
            &COUNT,
            d.max_ghosts,
            1024..=1 << 28,
            "objects of a shard of which is remembered how often memory lost them, 12 bytes each",
        ),
        pinned_share: s.bounded(
            "pinned_share",
            &SHARE,
            d.pinned_share,
            0.0..=0.9,
            "part of the tier that may hold pinned objects, which are not evicted",
        ),
        save_at_stop: s.bounded(
            "save_at_stop",
            &DURATION,
            d.save_at_stop,
            Duration::ZERO..=Duration::from_secs(600),
            "how long a stop may take to write what memory holds, what is worth most first; 0s: it does not",
        ),
    };
    if !config.segment.is_power_of_two() {
        s.refuse(
            "segment",
            "segment must be a power of two, such as \"16 MiB\"",
        );
    }
    config
}

/// The same device named twice, and files that hold too little.
pub(super) fn across(reader: &mut Reader<'_, '_>, config: &Config) {
    let tier = &config.tier;
    for (index, device) in tier.devices.iter().enumerate() {
        if tier.devices[..index].contains(device) {
            let at = reader.span("tier", "devices");
            let message = format!("devices: {} is listed twice", device.display());
            reader.problem(at, message, None);
        }
    }
    let shards = config.server.cpus.len().max(1) as u64;
    let total = tier.size.saturating_mul(tier.devices.len() as u64);
    let least = u64::from(MIN_SEGMENTS) * shards * tier.segment;
    if !tier.devices.is_empty() && total < least {
        let message = format!(
            "size: {} is less than {MIN_SEGMENTS} segments of {} for each of {shards} shards",
            show_size(total),
            show_size(tier.segment),
        );
        let hint = format!("set size to {} or more", show_size(least));
        reader.problem(reader.span("tier", "size"), message, Some(hint));
    }
}

/// Looks at the devices without changing anything.
pub(super) fn files(config: &Config) -> Vec<Problem> {
    let problem = |message: String| Problem {
        line: config.line_of("tier", "devices"),
        column: None,
        message: format!("devices: {message}"),
        hint: None,
    };
    crate::tier_files::inspect(&config.tier, config.server.cpus.len() as u8)
        .into_iter()
        .map(problem)
        .collect()
}
