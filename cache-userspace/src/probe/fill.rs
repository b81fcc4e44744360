//! Filling the scratch file once over, and a tenth more.

use std::time::{Duration, Instant};

use anyhow::bail;
use cache_core::tier::{Bypass, Offered, Refusal};
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::objects::Objects;
use crate::rt::clock;

/// What was written until the file was full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    pub objects: u64,
    /// Keys, heads and bodies.
    pub object_bytes: u64,
    /// What the drive was given for that.
    pub written_bytes: u64,
    pub seconds: f64,
}

impl Filled {
    /// Bytes written to the drive for each byte of an object.
    pub fn amplification(&self) -> f64 {
        self.written_bytes as f64 / self.object_bytes as f64
    }
}

/// Fills the tier beyond its capacity, so that segments are written over, and lets it settle.
pub fn fill(driver: &mut Driver) -> anyhow::Result<Filled> {
    let began = Instant::now();
    let objects = Objects::new();
    let wanted = driver.tier.stats().capacity_bytes / 10 * 11;
    let (mut number, mut bytes) = (0, 0);
    while bytes < wanted {
        bytes += offer(driver, &objects, number)?;
        number += 1;
    }
    settle(driver);
    Ok(Filled {
        objects: number,
        object_bytes: bytes,
        written_bytes: driver.tier.stats().written_bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Goes on writing, some MiB a second, for as long as it is let.
pub fn go_on(driver: &mut Driver) -> anyhow::Result<()> {
    let objects = Objects::new();
    let mut number = 1 << 40;
    loop {
        for _ in 0..16 {
            offer(driver, &objects, number)?;
            number += 1;
        }
        driver.turn();
        driver.wait();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Offers until there is room. Returns the object's bytes.
fn offer(driver: &mut Driver, objects: &Objects, number: u64) -> anyhow::Result<u64> {
    loop {
        let tier = &mut driver.tier;
        let (offered, bytes) = objects.leave(number, |object| {
            tier.offer(clock::now(), object, Bypass::Prewarmed)
        });
        match offered {
            Offered::Written | Offered::Known => return Ok(bytes),
            Offered::Declined(Refusal::NoBuffer | Refusal::NoSegment) => {
                driver.turn();
                driver.wait();
            }
            Offered::Declined(refusal) => bail!("the tier took an object not: {refusal:?}"),
        }
    }
}

/// Waits until no block waits to be written but those of the open segments.
fn settle(driver: &mut Driver) {
    let mut before = u64::MAX;
    loop {
        driver.turn();
        driver.wait();
        let written = driver.tier.stats().written_bytes;
        if written == before {
            return;
        }
        before = written;
    }
}
