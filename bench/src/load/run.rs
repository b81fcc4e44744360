//! Closed and open loop over an [`Engine`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::engine::{Change, Completion, Engine, Failure};
use super::report::{Report, Tally, distribution, record};
use super::targets::{Choice, Targets};
use super::{Amount, Options};
use crate::cpu;
use crate::progress::ProgressLine;

/// Handshakes under way at the same time while the connections are made.
const MAX_HANDSHAKES: usize = 64;
/// Requests of the open loop that wait for a connection with room.
const MAX_BACKLOG: usize = 1_000_000;
/// Connections replaced in one run before it is given up, beyond one for each connection.
const MAX_REPLACED: usize = 100;

/// How long a connection that may be given a session stays after its answer.
const LINGER: Duration = Duration::from_millis(50);

/// Runs the load and reports.
///
/// # Errors
/// Bad options, a server that does not answer, sockets that fail. Failed requests are no error
/// here: they are in the report.
pub fn run(options: &Options) -> Result<Report> {
    options.check()?;
    if let Some(core) = options.core {
        cpu::pin(core)?;
    }
    let targets = Targets::new(&options.name, options.paths.clone(), options.verify)?;
    let mut run = Run::new(options, targets)?;
    if options.new_connections < 1.0 {
        let made = connect_all(
            &mut run.engine,
            options.connections,
            options,
            &mut run.tally,
        )?;
        for (home, connection) in made.into_iter().enumerate() {
            run.set_home(home, connection);
        }
    }
    run.warm_and_measure()
}

/// Makes connections, a bounded number at a time, and waits for all of them.
pub(super) fn connect_all(
    engine: &mut Engine,
    count: usize,
    options: &Options,
    tally: &mut Tally,
) -> Result<Vec<usize>> {
    let deadline = Instant::now() + options.timeout;
    let mut made = Vec::with_capacity(count);
    let mut ready = 0;
    while ready < count {
        let mut now = Instant::now();
        while made.len() < count && made.len() - ready < MAX_HANDSHAKES {
            made.push(engine.connect(now)?);
        }
        engine.flush(now)?;
        now = engine.receive(deadline, Duration::ZERO)?;
        for change in engine.changes.drain(..) {
            match change {
                Change::Ready { handshake, .. } => {
                    ready += 1;
                    record(&mut tally.handshake, handshake);
                }
                Change::Lost { reason, .. } => bail!(
                    "the server at {} refuses a connection: {reason}",
                    options.remote
                ),
            }
        }
        ensure!(
            now < deadline,
            "{ready} of {count} connections to {} after {:?}: does a server listen there?",
            options.remote,
            options.timeout
        );
    }
    engine.flush(Instant::now())?;
    Ok(made)
}

struct Run<'a> {
    options: &'a Options,
    engine: Engine,
    choice: Choice,
    random: SmallRng,
    tally: Tally,
    /// The connection of each of the `connections`; none where every request has its own.
    homes: Vec<Option<usize>>,
    /// Whose each connection of the engine is, by its number.
    owners: Vec<Option<Owner>>,
    /// Requests under way for each of the `connections`.
    load: Vec<usize>,
    /// The open loop's requests that wait for room, by intended time.
    backlog: VecDeque<Instant>,
    /// How many requests the open loop has been due since `started`.
    due: u64,
    next_home: usize,
    replaced: usize,
    issuing: bool,
    window: Window,
    /// Connections to close, and when.
    lingering: VecDeque<(Instant, usize)>,
    line: ProgressLine,
}

/// Which of the `connections` a connection of the engine serves.
#[derive(Clone, Copy)]
struct Owner {
    home: usize,
    /// It was made for one request.
    fresh: bool,
    /// It may be given a session.
    early: bool,
}

/// The measured time.
#[derive(Clone, Copy)]
struct Window {
    from: Option<Instant>,
    to: Option<Instant>,
}

impl Window {
    fn is_open(&self) -> bool {
        self.from.is_some() && self.to.is_none()
    }

    fn contains(&self, at: Instant) -> bool {
        self.from.is_some_and(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, targets: Targets) -> Result<Self> {
        let choice = match options.order.is_empty() {
            true => Choice::new(targets.count(), options.zipf),
            false => Choice::Ordered {
                order: options.order.clone(),
                next: 0,
            },
        };
        Ok(Self {
            engine: Engine::new(options.remote, &options.name, options.sockets, targets)?,
            options,
            choice,
            random: SmallRng::seed_from_u64(options.seed),
            tally: Tally::new(),
            homes: vec![None; options.connections],
            owners: Vec::new(),
            load: vec![0; options.connections],
            backlog: VecDeque::new(),
            due: 0,
            next_home: 0,
            replaced: 0,
            issuing: true,
            window: Window {
                from: None,
                to: None,
            },
            lingering: VecDeque::new(),
            line: ProgressLine::new(Instant::now(), options.progress),
        })
    }

    fn warm_and_measure(mut self) -> Result<Report> {
        let started = Instant::now();
        let measure_at = started + self.options.warmup;
        let own = [std::process::id() as i32];
        let mut progress = Progress::new(started);
        self.fill(started);
        self.turn_until(measure_at, started, &mut progress, |_| false)?;

        let server_before = cpu::time_of(&self.options.watch)?;
        let client_before = cpu::time_of(&own)?;
        let from = Instant::now();
        self.window.from = Some(from);
        match self.options.amount {
            Amount::Time(time) => {
                self.turn_until(from + time, started, &mut progress, |_| false)?
            }
            Amount::Requests(count) => {
                let far = from + Duration::from_secs(24 * 3600);
                self.turn_until(far, started, &mut progress, |run| {
                    run.tally.requests + run.tally.failures() >= count
                })?;
            }
        }
        let server = cpu::time_of(&self.options.watch)?.saturating_sub(server_before);
        let client = cpu::time_of(&own)?.saturating_sub(client_before);
        let to = Instant::now();
        self.window.to = Some(to);
        let in_window = self.tally.requests;

        self.issuing = false;
        let drained_by = to + self.options.timeout;
        self.turn_until(drained_by, started, &mut progress, |run| {
            run.under_way() == 0
        })?;
        let unfinished = self.under_way() as u64;
        self.tally.failed(Failure::Timeout, unfinished);
        self.engine.close_all(Instant::now())?;
        Ok(self.report(to - from, in_window, server, client))
    }

    fn report(
        &self,
        window: Duration,
        in_window: u64,
        server: Duration,
        client: Duration,
    ) -> Report {
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / in_window.max(1) as f64;
        let seconds = window.as_secs_f64();
        let watched = !self.options.watch.is_empty() && in_window > 0;
        Report {
            requests: self.tally.requests,
            failed: self.tally.failures(),
            errors: self.tally.errors(),
            seconds,
            rps: in_window as f64 / seconds,
            bytes: self.tally.bytes,
            latency_us: distribution(&self.tally.latency),
            first_byte_us: distribution(&self.tally.first_byte),
            handshake_us: distribution(&self.tally.handshake),
            curves: self.tally.curves(),
            early_accepted: self.tally.early_accepted,
            early_rejected: self.tally.early_rejected,
            hits: self.tally.hits,
            forwarded: self.tally.forwarded,
            server_cpu_us_per_request: watched.then(|| per_request(server)),
            client_cpu_us_per_request: per_request(client),
            client_busy: client.as_secs_f64() / seconds,
        }
    }

    fn under_way(&self) -> usize {
        self.load.iter().sum::<usize>() + self.backlog.len()
    }

    /// Goes on until `end`, until `done`, or until nothing has moved for the timeout.
    fn turn_until(
        &mut self,
        end: Instant,
        started: Instant,
        progress: &mut Progress,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let mut completed = Vec::new();
        loop {
            let now = Instant::now();
            if now >= end || done(self) || progress.stalled(now, self.options.timeout) {
                return Ok(());
            }
            let tally = &self.tally;
            self.line.show(now, || progress_line(now - started, tally));
            self.close_lingering(now);
            self.issue_due(now, started);
            self.engine.flush(now)?;
            let now = self
                .engine
                .receive(self.wake(end, started), self.options.spin)?;
            self.engine.take_completed(&mut completed);
            for done in &completed {
                progress.at = now;
                self.ended(done, now);
            }
            self.apply_changes(now)?;
        }
    }

    /// When the loop has to look again even if nothing arrives.
    fn wake(&self, end: Instant, started: Instant) -> Instant {
        let look = Instant::now() + Duration::from_millis(100);
        let due = match self.options.rate {
            Some(rate) if self.issuing => started + Duration::from_secs_f64(self.due as f64 / rate),
            _ => look,
        };
        end.min(look).min(due)
    }

    /// The closed loop's first requests.
    fn fill(&mut self, now: Instant) {
        if self.options.rate.is_none() {
            for home in 0..self.options.connections {
                self.top_up(home, now);
            }
        }
    }

    fn top_up(&mut self, home: usize, now: Instant) {
        while self.issuing && self.load[home] < self.options.streams {
            if !self.issue(home, now) {
                return;
            }
        }
    }

    /// The open loop's requests whose time has come, as far as there is room.
    fn issue_due(&mut self, now: Instant, started: Instant) {
        let Some(rate) = self.options.rate else {
            return;
        };
        while self.issuing {
            let intended = started + Duration::from_secs_f64(self.due as f64 / rate);
            if intended > now {
                break;
            }
            self.due += 1;
            if self.backlog.len() == MAX_BACKLOG {
                self.tally.failed(Failure::Overload, 1);
            } else {
                self.backlog.push_back(intended);
            }
        }
        let mut full = 0;
        while let Some(&intended) = self.backlog.front()
            && full < self.load.len()
        {
            let home = self.next_home;
            self.next_home = (home + 1) % self.load.len();
            if self.load[home] < self.options.streams && self.issue(home, intended) {
                self.backlog.pop_front();
                full = 0;
            } else {
                full += 1;
            }
        }
    }

    /// Starts one request; false where its connection cannot be had.
    fn issue(&mut self, home: usize, intended: Instant) -> bool {
        let key = self.choice.next(&mut self.random);
        let fresh = self.options.new_connections > 0.0
            && self.random.random::<f64>() < self.options.new_connections;
        let connection = if fresh {
            let now = Instant::now();
            let early =
                self.options.zero_rtt > 0.0 && self.random.random::<f64>() < self.options.zero_rtt;
            let made = match early {
                true => self.engine.connect_early(now),
                false => self.engine.connect(now),
            };
            let Ok(connection) = made else {
                return false;
            };
            let fresh = true;
            self.own(connection, Owner { home, fresh, early });
            connection
        } else if let Some(connection) = self.homes[home] {
            connection
        } else {
            return false;
        };
        self.load[home] += 1;
        self.engine.request(connection, key, intended);
        true
    }

    fn ended(&mut self, done: &Completion, now: Instant) {
        let Some(Owner { home, fresh, early }) = self.owner(done.connection) else {
            return;
        };
        if fresh {
            self.owners[done.connection] = None;
        }
        if early {
            self.lingering.push_back((now + LINGER, done.connection));
        } else if fresh {
            self.engine.close(done.connection, now);
        }
        self.load[home] -= 1;
        self.count(done, now);
        // A lost connection is refilled once it is replaced.
        let refill = fresh || done.outcome != Err(Failure::Connection);
        if self.options.rate.is_none() && refill {
            self.top_up(home, now);
        }
    }

    /// A closed loop's success counts if it ends in the measured time, an open loop's if it was due
    /// then.
    fn count(&mut self, done: &Completion, now: Instant) {
        match done.outcome {
            Ok(head) => {
                let counts = match self.options.rate {
                    Some(_) => self.window.contains(done.intended),
                    None => self.window.is_open(),
                };
                if counts {
                    self.tally.succeeded(done, head.cache, now);
                }
            }
            Err(failure) => self.tally.failed(failure, 1),
        }
    }

    fn apply_changes(&mut self, now: Instant) -> Result<()> {
        for change in std::mem::take(&mut self.engine.changes) {
            match change {
                Change::Ready {
                    connection,
                    handshake,
                    early,
                } => {
                    if self.window.is_open() {
                        self.tally.early_accepted += u64::from(early == Some(true));
                        self.tally.early_rejected += u64::from(early == Some(false));
                    }
                    if self.window.is_open() || self.options.new_connections == 0.0 {
                        record(&mut self.tally.handshake, handshake);
                    }
                    if let Some(Owner {
                        home, fresh: false, ..
                    }) = self.owner(connection)
                        && self.options.rate.is_none()
                    {
                        self.top_up(home, now);
                    }
                }
                Change::Lost { connection, reason } => self.replace(connection, &reason, now)?,
            }
        }
        Ok(())
    }

    /// A lost connection is made anew, within reason.
    fn replace(&mut self, connection: usize, reason: &str, now: Instant) -> Result<()> {
        self.lingering.retain(|(_, lingers)| *lingers != connection);
        let Some(Owner {
            home, fresh: false, ..
        }) = self.owner(connection)
        else {
            return Ok(());
        };
        self.owners[connection] = None;
        self.homes[home] = None;
        if !self.issuing {
            return Ok(());
        }
        self.replaced += 1;
        ensure!(
            self.replaced <= self.options.connections + MAX_REPLACED,
            "{} connections were lost, the last because: {reason}",
            self.replaced
        );
        let connection = self.engine.connect(now)?;
        self.set_home(home, connection);
        Ok(())
    }

    fn close_lingering(&mut self, now: Instant) {
        while let Some((due, connection)) = self.lingering.front().copied()
            && due <= now
        {
            self.lingering.pop_front();
            self.engine.close(connection, now);
        }
    }

    fn set_home(&mut self, home: usize, connection: usize) {
        self.homes[home] = Some(connection);
        let (fresh, early) = (false, false);
        self.own(connection, Owner { home, fresh, early });
    }

    fn own(&mut self, connection: usize, owner: Owner) {
        if self.owners.len() <= connection {
            self.owners.resize(connection + 1, None);
        }
        self.owners[connection] = Some(owner);
    }

    fn owner(&self, connection: usize) -> Option<Owner> {
        self.owners.get(connection).copied().flatten()
    }
}

fn progress_line(elapsed: Duration, tally: &Tally) -> String {
    let seconds = elapsed.as_secs_f64();
    format!(
        "load: {seconds:.0} s, {} requests measured, p50 {:.0} us, p99 {:.0} us, {} failed",
        tally.requests,
        tally.latency.value_at_quantile(0.5) as f64 / 1000.0,
        tally.latency.value_at_quantile(0.99) as f64 / 1000.0,
        tally.failures()
    )
}

/// When something last moved.
struct Progress {
    at: Instant,
}

impl Progress {
    fn new(at: Instant) -> Self {
        Self { at }
    }

    fn stalled(&self, now: Instant, timeout: Duration) -> bool {
        now.duration_since(self.at) > timeout
    }
}
