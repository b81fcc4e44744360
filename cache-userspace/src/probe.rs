//! `popcache probe-tier`: what a drive can do with popcache's own way of using it.
//!
//! ```text
//!  child: fills a scratch file through Tier and Disk, says so, goes on writing   <-- killed
//!  parent: reopens it (recovery) --> rounds: get from the tier | raw reads of the same blocks
//!                                --> hits: answers from memory, while it writes and while not
//! ```
//! Both sides of a round use the same ring settings, the same registered memory and the same
//! places on the drive, in another order; who goes first alternates.

mod driver;
mod fill;
mod hits;
mod objects;
mod rounds;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cache_core::purge::{DEFAULT_SLOTS, Purges};
use serde::{Deserialize, Serialize};

use crate::config::TierConfig;
use crate::tier_files::{Judges, OpenTier, ShardTier, Wanted};
use driver::Driver;
use rounds::Prober;

pub use hits::Hits;
pub use rounds::Round;

/// What is probed, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory for the scratch file, or the scratch file itself, which must not exist.
    pub place: PathBuf,
    /// Bytes of the scratch file.
    pub size: u64,
    pub rounds: usize,
    /// Of each of a round's four parts.
    pub part: Duration,
    /// Wait for a line on stdin before each round.
    pub paced: bool,
    /// Print a line of JSON for each [`Event`].
    pub json: bool,
}

/// What the probe finds, in the order in which it finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Filled(fill::Filled),
    Recovered(Recovered),
    Round(Round),
    Hits(Hits),
}

/// A start after a kill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    pub objects: u64,
    /// Bytes of the objects found.
    pub bytes: u64,
    pub seconds: f64,
    /// No other recovery follows.
    pub last: bool,
}

/// A reader that wants no more events.
const STOP: &str = "end";

/// Probes, printing as it goes.
///
/// # Errors
/// The scratch file cannot be made, filled, reopened or read; nothing was found again.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::at(&options.place)?;
    let config = config(&scratch.path, options.size);
    let filled = fill_and_kill(&config, options)?;
    show(options, &Event::Filled(filled))?;
    let mut opened = None;
    for left in (0..RECOVERIES).rev() {
        drop(opened.take());
        let (shard, recovered) = recover(&config, left == 0)?;
        show(options, &Event::Recovered(recovered))?;
        opened = Some(shard);
    }
    let shard = opened.context("no recovery was asked for")?;
    let mut prober = Prober::new(shard, &config)?;
    let mut lines = std::io::stdin().lines();
    for number in 0..options.rounds {
        if options.paced {
            match lines.next() {
                Some(Ok(line)) if line != STOP => {}
                _ => break,
            }
        }
        let round = prober.round(number, options.part)?;
        show(options, &Event::Round(round))?;
    }
    // Last, since what it writes takes the place of what the rounds read.
    let mut driver = prober.into_driver();
    let mut hitter = hits::Hitter::new()?;
    for left in (0..HITS).rev() {
        let mut found = hitter.measure(&mut driver, options.part)?;
        found.last = left == 0;
        show(options, &Event::Hits(found))?;
    }
    Ok(())
}

/// Measurements of hits while the tier writes.
const HITS: usize = 3;

/// Each reads all of the drive's segments again, since nothing was written in between.
const RECOVERIES: usize = 3;

/// Fills the scratch file and goes on writing until it is killed: the other half of [`run`].
///
/// # Errors
/// The file cannot be made or written.
pub fn fill(path: &Path, size: u64) -> anyhow::Result<()> {
    let config = config(path, size);
    let mut driver = Driver::new(open(&config)?.0)?;
    let filled = fill::fill(&mut driver)?;
    println!("{}", serde_json::to_string(&Event::Filled(filled))?);
    fill::go_on(&mut driver)
}

fn fill_and_kill(config: &TierConfig, options: &Options) -> anyhow::Result<fill::Filled> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut child = Command::new(program)
        .args(["probe-tier", "--fill", "--device"])
        .arg(&config.devices[0])
        .args(["--size", &options.size.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the child that fills the scratch file")?;
    let filled = first_event(&mut child);
    // It is killed while it writes, or has ended by itself.
    let _ = child.kill();
    let ended = child.wait().context("cannot wait for the child")?;
    match filled? {
        Some(Event::Filled(filled)) => Ok(filled),
        _ => bail!("the child that fills the scratch file ended: {ended}"),
    }
}

fn first_event(child: &mut Child) -> anyhow::Result<Option<Event>> {
    let Some(stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match line.is_empty() {
        true => Ok(None),
        false => Ok(Some(serde_json::from_str(&line)?)),
    }
}

fn recover(config: &TierConfig, last: bool) -> anyhow::Result<(ShardTier, Recovered)> {
    let (shard, took) = open(config)?;
    let stats = shard.tier.stats();
    if stats.recovered_objects == 0 {
        bail!("nothing was found again after the kill");
    }
    let recovered = Recovered {
        objects: stats.recovered_objects,
        bytes: stats.object_bytes,
        seconds: took.as_secs_f64(),
        last,
    };
    Ok((shard, recovered))
}

/// The shard's part, and how long it took to find out what it holds.
fn open(config: &TierConfig) -> anyhow::Result<(ShardTier, Duration)> {
    let wanted = Wanted {
        shards: 1,
        tag_slots: DEFAULT_SLOTS,
        format: false,
    };
    let open = OpenTier::open(config, &wanted)?;
    let purges = Arc::new(Purges::new(open.hash_seed, open.tag_slots));
    let began = Instant::now();
    let mut shards = open.recover(config, &purges, |_| Judges::default())?;
    let shard = shards.pop();
    Ok((shard.context("a tier without shards")?, began.elapsed()))
}

/// As a node has it by default, without the limits of writing.
fn config(path: &Path, size: u64) -> TierConfig {
    TierConfig {
        devices: vec![path.to_owned()],
        size,
        write_limit: 0,
        max_objects: Some(size / objects::MIN_BODY),
        ..TierConfig::without_devices()
    }
}

fn show(options: &Options, event: &Event) -> anyhow::Result<()> {
    let text = match options.json {
        true => serde_json::to_string(event)?,
        false => event.to_string(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())?;
    Ok(())
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filled(filled) => write!(
                f,
                "filled: {} objects, {} MiB at {:.0} MiB/s, {:.3} bytes written a byte",
                filled.objects,
                filled.object_bytes >> 20,
                filled.written_bytes as f64 / 1048576.0 / filled.seconds,
                filled.amplification(),
            ),
            Self::Recovered(recovered) => write!(
                f,
                "killed and reopened: {} objects in {:.3} s, {:.3} s a GB",
                recovered.objects,
                recovered.seconds,
                recovered.seconds * 1e9 / recovered.bytes as f64,
            ),
            Self::Round(round) => write!(
                f,
                "one at a time: {:.1} us, raw {:.1} us; 32 at a time: {:.0}/s, raw {:.0}/s",
                round.qd1_us, round.raw_qd1_us, round.qd32_iops, round.raw_qd32_iops,
            ),
            Self::Hits(hits) => write!(
                f,
                "hits from memory, p99: {:.1} us while {:.0} MiB/s are written, {:.1} us while none",
                hits.writing_p99_us,
                hits.written_per_s / 1048576.0,
                hits.quiet_p99_us,
            ),
        }
    }
}

/// A file that is gone when the probe is.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn at(place: &Path) -> anyhow::Result<Self> {
        let path = match place.is_dir() {
            true => place.join(format!("popcache-probe-{}.tier", std::process::id())),
            false => place.to_owned(),
        };
        if path.exists() {
            bail!("{}: it is there already, and is left alone", path.display());
        }
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier_files::scratch::directory;

    /// What was written is found again without having been closed, and is read whole.
    #[test]
    fn a_tier_that_was_left_open_is_read_again() {
        let dir = directory();
        let mut config = config(&dir.path().join("tier"), 80 << 20);
        config.segment = 1 << 20;
        let (shard, _) = open(&config).expect("made");
        let mut driver = Driver::new(shard).expect("driver");
        let filled = fill::fill(&mut driver).expect("filled");
        assert!(filled.amplification() < 1.2, "{filled:?}");
        drop(driver);
        let (shard, recovered) = recover(&config, true).expect("recovered");
        assert!(recovered.bytes > (60 << 20), "{recovered:?}");
        assert!(recovered.objects < filled.objects);
        let mut prober = Prober::new(shard, &config).expect("objects");
        let round = prober
            .round(0, Duration::from_millis(1))
            .expect("every byte is as it was written");
        assert!(round.objects_read > 0);
    }

    #[test]
    fn a_file_that_is_there_is_not_probed() {
        let dir = directory();
        let path = dir.path().join("precious");
        std::fs::write(&path, "mine").expect("write");
        assert!(Scratch::at(&path).is_err());
        let made = Scratch::at(dir.path()).expect("a name of its own");
        drop(made);
        assert_eq!(std::fs::read(&path).expect("read"), b"mine");
    }
}
