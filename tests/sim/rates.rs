//! How fast an answer comes over lines that lose and reorder packets, by control of congestion, in virtual time.

use std::fmt::Write as _;
use std::time::Duration;

use cache_core::config::Limits;

use crate::lab::{Congestion, Lab, Line};

/// What is asked for at once, bytes.
const SEGMENTS: [usize; 4] = [512 << 10; 4];
/// The line's bytes a second, and how many may wait for it.
const RATE: u64 = 2_500_000;
const QUEUE: u64 = 256 << 10;
/// Runs that are averaged, each with losses of its own.
const RUNS: u64 = 10;

const MILLI: Duration = Duration::from_millis(1);

/// Loss in hundredths of a percent, packets in percent that come 20 ms later.
const SORTS: [(&str, u32, u32); 5] = [
    ("no loss", 0, 0),
    ("0.1 % lost", 10, 0),
    ("1 % lost", 100, 0),
    ("5 % lost", 500, 0),
    ("10 % late", 0, 10),
];

/// A table of megabits a second.
///
/// # Errors
/// Where an answer does not come.
pub fn table() -> Result<String, String> {
    let mut out = format!(
        "megabits a second of {}, {} segments of {} KiB\n",
        RATE * 8 / 1_000_000,
        SEGMENTS.len(),
        SEGMENTS[0] >> 10
    );
    let _ = writeln!(
        out,
        "{:>12} {:>10} {:>8} {:>8}",
        "round trip", "line", "CUBIC", "BBR"
    );
    for round_trip in [50, 200] {
        for (name, loss, late) in SORTS {
            let line = Line {
                rate: RATE,
                queue: QUEUE,
                loss,
                late: (late, 20 * MILLI),
                ..Line::new(round_trip * MILLI)
            };
            let cubic = mean(&line, Congestion::Cubic)?;
            let bbr = mean(&line, Congestion::Bbr)?;
            let _ = writeln!(out, "{round_trip:>9} ms {name:>10} {cubic:>8.2} {bbr:>8.2}");
        }
    }
    Ok(out)
}

fn mean(line: &Line, congestion: Congestion) -> Result<f64, String> {
    let mut sum = 0.0;
    for seed in 1..=RUNS {
        let line = Line {
            seed,
            ..line.clone()
        };
        sum += megabits(line, congestion)?;
    }
    Ok(sum / RUNS as f64)
}

fn megabits(line: Line, congestion: Congestion) -> Result<f64, String> {
    let mut lab = Lab::new(&SEGMENTS, Limits::default(), congestion)?;
    let client = lab.connect(line, &[0, 1, 2, 3])?;
    lab.wait(3_000 * MILLI)?;
    lab.ask(client);
    let times = lab.answers(client)?;
    let last = times.into_iter().max().ok_or("no answer")?;
    let bits = 8 * SEGMENTS.iter().sum::<usize>();
    Ok(bits as f64 / last.as_secs_f64() / 1e6)
}
