//! The thundering herd: very many requests for one object, all under way before the first answer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::engine::{Completion, Engine};
use super::report::{Distribution, Tally, distribution};
use super::run::connect_all;
use super::targets::Targets;
use super::{Options, within};
use crate::cpu;

/// Requests of one herd.
pub const MAX_HERD: usize = 1_000_000;
/// How often the watched processes' memory is read while the herd waits.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// What became of a herd. Times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HerdReport {
    pub requests: u64,
    pub failed: u64,
    pub errors: std::collections::BTreeMap<String, u64>,
    /// Answers whose bytes were exactly the object's.
    pub identical: u64,
    /// From the first request to the last, as handed to the network.
    pub issue_us: f64,
    /// From the first request to the first byte of any answer.
    pub first_answer_us: f64,
    /// Requests that started before any answer came.
    pub before_first_answer: u64,
    /// From a request's start to its last byte.
    pub wait_us: Distribution,
    /// From a request's start to its first byte.
    pub first_byte_us: Distribution,
    /// Resident bytes of the watched processes: without a connection, with all of them made and no request, the
    /// most while the herd waited, and with all connections idle for a while after it.
    pub resident_start: u64,
    pub resident_before: u64,
    pub resident_waiting: u64,
    pub resident_idle: u64,
    /// Processor time of the watched processes from the first request to the last answer.
    pub server_cpu_us: f64,
}

/// Sends `count` requests for the one path of `options` over its connections, as fast as they go.
///
/// Bodies are always compared with the origin's. Before the memory of idle connections is read, they are so for as
/// long as `options.warmup`. `parts`: the path is a film's, and each request is for
/// another part of it.
///
/// # Errors
/// Bad options, a path without a known body, a server that does not answer, sockets that fail.
pub fn herd(options: &Options, count: usize, parts: bool) -> Result<HerdReport> {
    options.check()?;
    within("herd", count, 1, MAX_HERD)?;
    ensure!(
        options.paths.len() == 1,
        "a herd asks for one path, not for {}",
        options.paths.len()
    );
    if let Some(core) = options.core {
        cpu::pin(core)?;
    }
    let targets = match parts {
        true => Targets::parts(&options.name, &options.paths[0], count)?,
        false => Targets::new(&options.name, options.paths.clone(), true)?,
    };
    let mut engine = Engine::new(options.remote, &options.name, options.sockets, targets)?;
    let mut tally = Tally::new();
    let resident_start = resident(&options.watch)?;
    let connections = connect_all(&mut engine, options.connections, options, &mut tally)?;
    let resident_before = resident(&options.watch)?;
    let cpu_before = cpu::time_of(&options.watch)?;
    let mut herd = Herd {
        options,
        parts,
        engine,
        tally,
        started: Vec::with_capacity(count),
        first_answer: None,
        ended: 0,
        resident_waiting: resident_before,
        next_sample: Instant::now(),
    };
    herd.issue(count, &connections)?;
    herd.wait(count)?;
    let cpu = cpu::time_of(&options.watch)?.saturating_sub(cpu_before);
    let idle_from = Instant::now();
    while idle_from.elapsed() < options.warmup {
        herd.step(Instant::now() + SAMPLE_EVERY)?;
    }
    let resident_idle = resident(&options.watch)?;
    herd.engine.close_all(Instant::now())?;
    let mut report = herd.report(count, resident_before);
    report.resident_start = resident_start;
    report.resident_idle = resident_idle;
    report.server_cpu_us = cpu.as_secs_f64() * 1e6;
    Ok(report)
}

struct Herd<'a> {
    options: &'a Options,
    /// Each request has a target of its own.
    parts: bool,
    engine: Engine,
    tally: Tally,
    /// When each request started, ascending.
    started: Vec<Instant>,
    first_answer: Option<Instant>,
    ended: usize,
    resident_waiting: u64,
    next_sample: Instant,
}

impl Herd<'_> {
    /// Connection by connection, so that one packet carries many requests.
    fn issue(&mut self, count: usize, connections: &[usize]) -> Result<()> {
        let share = count.div_ceil(connections.len());
        for connection in connections {
            let now = Instant::now();
            for _ in 0..share.min(count - self.started.len()) {
                let target = if self.parts { self.started.len() } else { 0 };
                self.engine.request(*connection, target, now);
                self.started.push(now);
            }
            self.step(now)?;
        }
        Ok(())
    }

    fn wait(&mut self, count: usize) -> Result<()> {
        let mut progress = (Instant::now(), self.ended);
        while self.ended < count {
            let until = Instant::now() + SAMPLE_EVERY;
            self.step(until)?;
            if self.ended != progress.1 {
                progress = (Instant::now(), self.ended);
            }
            if progress.0.elapsed() > self.options.timeout {
                self.tally
                    .failed(super::engine::Failure::Timeout, (count - self.ended) as u64);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends, receives until `until` at the latest, counts, samples.
    fn step(&mut self, until: Instant) -> Result<()> {
        self.engine.flush(Instant::now())?;
        let now = self.engine.receive(until, Duration::ZERO)?;
        let mut completed = Vec::new();
        self.engine.take_completed(&mut completed);
        for done in &completed {
            self.count(done, now);
        }
        self.engine.changes.clear();
        if now >= self.next_sample && self.first_answer.is_none() {
            self.resident_waiting = self.resident_waiting.max(resident(&self.options.watch)?);
            self.next_sample = now + SAMPLE_EVERY;
        }
        Ok(())
    }

    fn count(&mut self, done: &Completion, now: Instant) {
        self.ended += 1;
        let earlier = self.first_answer.into_iter().chain(done.first_byte).min();
        self.first_answer = earlier;
        match done.outcome {
            Ok(head) => self.tally.succeeded(done, head.cache, now),
            Err(failure) => self.tally.failed(failure, 1),
        }
    }

    fn report(&self, count: usize, resident_before: u64) -> HerdReport {
        let (first, last) = (self.started[0], self.started[count - 1]);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let answer = self.first_answer;
        HerdReport {
            requests: count as u64,
            failed: self.tally.failures(),
            errors: self.tally.errors(),
            identical: self.tally.requests,
            issue_us: micros(last - first),
            first_answer_us: answer.map_or(0.0, |at| micros(at - first)),
            before_first_answer: answer.map_or(0, |at| self.started.partition_point(|s| *s < at))
                as u64,
            wait_us: distribution(&self.tally.latency),
            first_byte_us: distribution(&self.tally.first_byte),
            resident_start: 0,
            resident_before,
            resident_waiting: self.resident_waiting,
            resident_idle: 0,
            server_cpu_us: 0.0,
        }
    }
}

fn resident(pids: &[i32]) -> Result<u64> {
    pids.iter().map(|pid| cpu::resident(*pid)).sum()
}

impl std::fmt::Display for HerdReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milli = |us: f64| us / 1000.0;
        writeln!(
            f,
            "herd       {} requests issued in {:.1} ms, {} before the first answer at {:.1} ms, {} failed",
            self.requests,
            milli(self.issue_us),
            self.before_first_answer,
            milli(self.first_answer_us),
            self.failed
        )?;
        writeln!(
            f,
            "wait       mean {:.1} ms, p99 {:.1} ms, max {:.1} ms; {} bodies identical",
            milli(self.wait_us.mean),
            milli(self.wait_us.p99),
            milli(self.wait_us.max),
            self.identical
        )?;
        for (kind, count) in &self.errors {
            writeln!(f, "error      {kind}: {count}")?;
        }
        Ok(())
    }
}
