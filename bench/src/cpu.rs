//! CPU time of other processes, and the core that a thread runs on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Time on a CPU of all living threads of `pids`, by the scheduler's own accounting (nanoseconds,
/// the first field of `/proc/PID/task/TID/schedstat`).
///
/// Work that the kernel does in interrupts while such a thread runs is in it, work in interrupts
/// that hit the idle task or another process is not. A thread that ends takes its time with it.
///
/// # Errors
/// A process that is gone.
pub fn time_of(pids: &[i32]) -> Result<Duration> {
    let mut total = 0;
    for pid in pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} is gone: its CPU time cannot be read"))?;
        total += tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(Duration::from_nanos(total))
}

/// Time on a CPU of the calling thread.
///
/// # Errors
/// A kernel without such a clock.
pub fn of_this_thread() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Ok(time.context("the kernel counts no thread's time")?.into())
}

/// Resident memory of a process in bytes, without hugetlb pages.
///
/// # Errors
/// A process that is gone.
pub fn resident(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))
        .with_context(|| format!("process {pid} is gone: its memory cannot be read"))?;
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("/proc/{pid}/statm has an unknown form"))?;
    Ok(pages * 4096)
}

/// Keeps the calling thread, and threads that it starts later, on one core.
///
/// # Errors
/// A core that is not there.
pub fn pin(core: usize) -> Result<()> {
    pin_to(&[core])
}

/// The same for several cores.
///
/// # Errors
/// A core that is not there.
pub fn pin_to(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)
            .with_context(|| format!("there can be no core {core}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot run on cores {cores:?}: is one missing?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_grows_with_work() {
        let own = [std::process::id() as i32];
        let before = time_of(&own).expect("we run");
        let mut sum = 0u64;
        while time_of(&own).expect("we run") < before + Duration::from_millis(5) {
            sum = sum.wrapping_add((0..10_000u64).sum());
        }
        assert!(sum > 0 && resident(own[0]).expect("we run") > 1 << 20);
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = time_of(&[i32::MAX]).expect_err("no such process");
        assert!(error.to_string().contains(&i32::MAX.to_string()));
    }
}
