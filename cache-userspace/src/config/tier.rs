//! `[tier]`: what keeps objects on drives once they leave memory.

use std::path::{Path, PathBuf};

use super::kinds::{DISCARD, RATE, TIMES};
use super::raw::{Problem, Reader, Section};
use super::typed::Config;
use super::units::{COUNT, PATHS, SIZE, show_size};

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
    /// Bytes of a shard's buffers for reads and writes under way.
    pub buffers: u64,
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
    let config = TierConfig {
        devices: devices.iter().map(|path| base.join(path)).collect(),
        size: s.bounded(
            "size",
            &SIZE,
            64 << 30,
            MIN_SIZE..=1 << 48,
            "bytes of each file, taken at start; a block device is used whole",
        ),
        segment: s.bounded(
            "segment",
            &SIZE,
            16 << 20,
            1 << 20..=256 << 20,
            "bytes written in a row and reclaimed together; large keeps a drive from rewriting",
        ),
        write_limit: s.setting(
            "write_limit",
            &RATE,
            128 << 20,
            "bytes written a second by the node, past it objects are not admitted; 0 B/s: no limit",
        ),
        drive_writes_per_day: s.bounded(
            "drive_writes_per_day",
            &TIMES,
            0.0,
            0.0..=1000.0,
            "how often the tier may be written over in a day, as drives are rated; 0.0: no limit",
        ),
        discard: s.setting(
            "discard",
            &DISCARD,
            Discard::Auto,
            "tell drives which segments are free; auto: block devices, since a file would lose its room",
        ),
        max_reads: s.bounded(
            "max_reads",
            &COUNT,
            256,
            1..=4096,
            "objects a shard reads at a time; past it a miss asks its origin",
        ),
        buffers: s.bounded(
            "buffers",
            &SIZE,
            32 << 20,
            4 << 20..=1 << 30,
            "memory of a shard for reads and writes under way; past it they wait",
        ),
    };
    if !config.segment.is_multiple_of(1 << 20) {
        s.refuse("segment", "segment must be whole MiB");
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
    let least = MIN_SEGMENTS * shards * tier.segment;
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

/// A shard's log needs one segment that it writes, one that it frees, and some that it keeps.
const MIN_SEGMENTS: u64 = 4;

/// Looks at the devices without changing anything.
pub(super) fn files(config: &Config) -> Vec<Problem> {
    let problem = |message: String| Problem {
        line: config.line_of("tier", "devices"),
        column: None,
        message: format!("devices: {message}"),
        hint: None,
    };
    crate::tier_files::inspect(&config.tier)
        .into_iter()
        .map(problem)
        .collect()
}
