//! Sending by XDP live frames: a program makes each frame in the kernel and redirects it to the
//! interface, without a socket buffer (BPF_PROG_TEST_RUN, Linux 5.18).

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::DevMap;
use aya::programs::Xdp;
use aya::{Ebpf, TestRun, TestRunAttrs, TestRunOptions};
use cache_ebpf::vary::{OUT, VARIATION, Variation};

use super::mix::Traffic;
use super::{Sent, permit::Link};
use crate::bpf::{Plain, array, map, tools, verified};

/// Frames of the first system call, and of any.
const FIRST_BURST: u64 = 1 << 13;
const MOST_BURST: u64 = 1 << 24;
/// How much longer than the last one a call may be: the first ones are paid for by what they begin with.
const MOST_GROWTH: u64 = 16;
/// How long a call shall last: the kernel waits for a grace period of RCU, some ten milliseconds,
/// before and after each. Less where templates are to alternate.
const CALL: Duration = Duration::from_millis(500);
const CALL_OF_MANY: Duration = Duration::from_millis(50);
/// Frames that the kernel handles at once: its own limit.
const BATCH: u32 = 256;

pub struct Live {
    ebpf: Ebpf,
    seed: u64,
    told: Option<Variation>,
    /// Most frames of the next call.
    burst: u64,
}

impl Live {
    /// # Errors
    /// Not root, or a kernel without live frames.
    pub fn new(link: &Link, seed: u64) -> Result<Self> {
        let mut ebpf = tools(false)?;
        verified(&mut ebpf, "generate")?;
        let mut out: DevMap<_> = map(&mut ebpf, OUT)?.try_into()?;
        out.set(0, link.index, None, 0)
            .with_context(|| format!("cannot send frames through {}", link.name))?;
        Ok(Self {
            ebpf,
            seed,
            told: None,
            burst: FIRST_BURST,
        })
    }

    /// Sends at most `most` packets.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        let chosen = traffic.choose();
        let template = traffic.template(chosen);
        self.tell(template.variation)?;
        let packets = most.min(self.burst);
        let options = TestRunOptions {
            data_in: Some(&template.frame),
            repeat: packets as u32,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(packets as u32)),
            ..TestRunOptions::default()
        };
        let bytes = packets * template.frame.len() as u64;
        let program = self.ebpf.program("generate");
        let program: &Xdp = program.context("the program is loaded")?.try_into()?;
        let began = Instant::now();
        program
            .test_run(options)
            .context("the kernel refuses live frames: Linux 5.18 or newer is needed")?;
        let shall_last = match traffic.templates().nth(1) {
            None => CALL,
            Some(_) => CALL_OF_MANY,
        };
        if packets == self.burst {
            self.burst = next_burst(packets, began.elapsed(), shall_last);
        }
        traffic.sent(chosen, packets);
        Ok(Sent { packets, bytes })
    }

    /// Tells the program what varies, where that is something else.
    fn tell(&mut self, variation: Variation) -> Result<()> {
        if self.told == Some(variation) {
            return Ok(());
        }
        let seeded = Variation {
            seed: self.seed,
            ..variation
        };
        array(&mut self.ebpf, VARIATION)?.set(0, Plain(seeded), 0)?;
        self.told = Some(variation);
        Ok(())
    }
}

/// As many frames as take `shall_last` at the speed of a call of `packets` that took `took`.
fn next_burst(packets: u64, took: Duration, shall_last: Duration) -> u64 {
    let ratio = shall_last.as_secs_f64() / took.as_secs_f64().max(1e-6);
    let wanted = (packets as f64 * ratio) as u64;
    let most = MOST_BURST.min(MOST_GROWTH * packets);
    wanted.min(most).max(FIRST_BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_become_as_long_as_they_shall_be() {
        let next = |packets, millis| next_burst(packets, Duration::from_millis(millis), CALL);
        assert_eq!(next(1 << 20, 250), 2 << 20);
        assert_eq!(next(1 << 20, 1000), 1 << 19);
        assert_eq!(next(FIRST_BURST, 2), MOST_GROWTH * FIRST_BURST);
        assert_eq!(next(FIRST_BURST, 100_000), FIRST_BURST);
        assert_eq!(next(1 << 23, 10), MOST_BURST);
        assert_eq!(next_burst(1, Duration::ZERO, CALL), FIRST_BURST);
    }
}
