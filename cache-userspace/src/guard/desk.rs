//! Where orders are carried out: everything that the guard's thread owns.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache_ebpf::event::Event;
use cache_ebpf::lists::{List, MAX_EXACT, Prefix};
use cache_ebpf::rule::Rule;

use super::cid_keys::{self, Shards};
use super::events::Events;
use super::lists::{self, Listed};
use super::order::{
    Answer, Done, FeedLine, LimitRequest, ListRequest, MAX_NAMED, MAX_NOTE, ModeRequest, Order,
    RemoveRequest, Report, RuleLine,
};
use super::prefixes::{self, read_feed};
use super::settings::{mode_name, mode_named};
use super::state::{Entry, Line, ListName, State};
use super::{Counts, GuardConfig, GuardError, unix_now};
use crate::xdp::{GuardMaps, Xdp, random_key};

/// Events read at a time, so that a flood of them does not keep orders waiting.
const EVENT_BUDGET: usize = 4_096;

/// Seconds after which a new key of connection ids is tried again.
const CID_KEY_RETRY: u64 = 60;

/// A file of prefixes as it was read last.
struct Feed {
    line: FeedLine,
    prefixes: Vec<Prefix>,
}

impl Feed {
    fn new(list: ListName, path: &Path, prefixes: Vec<Prefix>, now: u64) -> Self {
        let line = FeedLine {
            path: path.display().to_string(),
            list,
            prefixes: prefixes.len(),
            read: now,
            error: None,
        };
        Self { line, prefixes }
    }
}

pub struct Desk {
    config: GuardConfig,
    xdp: Arc<Mutex<Xdp>>,
    shards: Shards,
    maps: GuardMaps,
    state: State,
    feeds: Vec<Feed>,
    listed: Listed,
    events: Events,
    /// Unix time of the last new bucket key.
    bucket_key_since: u64,
    /// Not before this a new key of connection ids is tried after a failure.
    cid_key_retry: u64,
    counts: Arc<Mutex<Counts>>,
    /// Another process writes the maps.
    rests: bool,
}

impl Desk {
    /// Brings everything into force.
    pub fn open(
        config: GuardConfig,
        xdp: Arc<Mutex<Xdp>>,
        shards: Shards,
        counts: Arc<Mutex<Counts>>,
    ) -> Result<Self, GuardError> {
        let now = unix_now();
        let maps = lock(&xdp).take_guard_maps();
        let maps = maps.unwrap_or_else(|| unreachable!("a node has one guard"));
        let mut desk = Self {
            state: load_state(&config, now),
            feeds: feeds_at_start(&config, now),
            listed: Listed::default(),
            events: Events::default(),
            bucket_key_since: now,
            cid_key_retry: 0,
            config,
            xdp,
            shards,
            maps,
            counts,
            rests: false,
        };
        desk.swap_lists()?;
        desk.write_rules()?;
        cid_keys::begin(&desk.xdp, now)?;
        if lock(&desk.xdp).rules().bucket_key == [0; 2] {
            desk.turn_bucket_key(now);
        }
        Ok(desk)
    }

    /// What has to be done without being asked.
    pub fn look_after(&mut self, now: u64) {
        if self.rests {
            return;
        }
        lock(&self.xdp).flush_log();
        self.read_events(now);
        if now.saturating_sub(self.bucket_key_since) >= self.config.bucket_key_lifetime.as_secs() {
            self.turn_bucket_key(now);
        }
        self.turn_cid_key(now);
        let ended = self.state.expire(now);
        if ended > 0 {
            self.count(|counts| counts.entries_expired += ended as u64);
            let applied = self.swap_lists().and_then(|()| self.save());
            match applied {
                Ok(()) => tracing::info!(ended, "guard: prefixes were taken back in their time"),
                Err(error) => tracing::error!(%error, "guard: prefixes whose time is up"),
            }
        }
    }

    pub fn carry_out(&mut self, order: Order, now: u64) -> Result<Answer, GuardError> {
        let done = match order {
            Order::Report => return self.report().map(|report| Answer::Report(Box::new(report))),
            Order::Events { after } => return Ok(Answer::Events(self.events.after(after))),
            Order::Top { most } => {
                let top = self.events.top(most, self.config.event_sample);
                return Ok(Answer::Top(top));
            }
            Order::Rest(rests) => self.rest(rests),
            _ if self.rests => Err(GuardError::Resting),
            Order::List(request) => self.list(&request, now),
            Order::Remove(request) => self.remove(&request),
            Order::Monitor(request) => self.set_modes(&request),
            Order::Limit(request) => self.set_limit(&request),
            Order::Reload => self.reload(now),
            Order::Configure(config) => self.configure(*config, now),
        };
        let done = done.inspect_err(|error| {
            tracing::warn!(%error, "guard: not changed");
            self.count(|counts| counts.changes_refused += 1);
        })?;
        tracing::info!(
            changed = done.changed,
            allowed = done.allowed,
            blocked = done.blocked,
            "guard: changed"
        );
        Ok(Answer::Done(done))
    }

    fn list(&mut self, request: &ListRequest, now: u64) -> Result<Done, GuardError> {
        let prefixes = named(&request.prefixes)?;
        if request.note.len() > MAX_NOTE {
            let why = format!("a note has at most {MAX_NOTE} bytes");
            return Err(GuardError::Prefix(why));
        }
        let until = request.seconds.map(|seconds| now.saturating_add(seconds));
        let mut state = self.state.clone();
        for prefix in &prefixes {
            let entry = Entry {
                list: request.list,
                until,
                note: request.note.clone(),
            };
            state.entries.insert(*prefix, entry);
        }
        let most = self.config.max_entries;
        if state.entries.len() > most {
            self.count(|counts| counts.entries_refused += prefixes.len() as u64);
            return Err(GuardError::TooMany { most });
        }
        self.replace(state, prefixes.len())
    }

    fn remove(&mut self, request: &RemoveRequest) -> Result<Done, GuardError> {
        let prefixes = named(&request.prefixes)?;
        let mut state = self.state.clone();
        for prefix in &prefixes {
            if state.entries.remove(prefix).is_none() {
                return Err(GuardError::NotListed(prefixes::show(prefix)));
            }
        }
        self.replace(state, prefixes.len())
    }

    /// Other entries.
    fn replace(&mut self, state: State, changed: usize) -> Result<Done, GuardError> {
        let former = std::mem::replace(&mut self.state, state);
        if let Err(error) = self.swap_lists() {
            self.state = former;
            return Err(error);
        }
        self.done(changed)
    }

    fn set_modes(&mut self, request: &ModeRequest) -> Result<Done, GuardError> {
        let rules = match &request.rules[..] {
            [all] if all == "all" => Rule::ALL.to_vec(),
            names => {
                let rules = names
                    .iter()
                    .map(|name| Rule::named(name).ok_or_else(|| GuardError::Rule(name.clone())));
                rules.collect::<Result<_, _>>()?
            }
        };
        let configured = request.mode == "configured";
        if !configured && mode_named(&request.mode).is_none() {
            return Err(GuardError::Mode(request.mode.clone()));
        }
        let former = self.state.clone();
        for rule in &rules {
            let modes = &mut self.state.overrides.modes;
            if configured {
                modes.remove(rule.name());
            } else {
                modes.insert(rule.name().to_owned(), request.mode.clone());
            }
        }
        self.rules_changed(former, rules.len())
    }

    fn set_limit(&mut self, request: &LimitRequest) -> Result<Done, GuardError> {
        let former = self.state.clone();
        let limits = &mut self.state.overrides.limits;
        match request.rate {
            Some(rate) if rate.burst > 0 && rate.rate == 0 => {
                let why = "a limit that never refills is a block: give a rate above 0".to_owned();
                return Err(GuardError::Rate(why));
            }
            Some(rate) => {
                limits.insert(request.limit, rate);
            }
            None => {
                limits.remove(&request.limit);
            }
        }
        self.rules_changed(former, 1)
    }

    fn rules_changed(&mut self, former: State, changed: usize) -> Result<Done, GuardError> {
        if let Err(error) = self.write_rules() {
            self.state = former;
            return Err(error);
        }
        self.done(changed)
    }

    fn reload(&mut self, now: u64) -> Result<Done, GuardError> {
        let feeds = read_feeds(&self.config, now)?;
        let former = std::mem::replace(&mut self.feeds, feeds);
        if let Err(error) = self.swap_lists() {
            self.feeds = former;
            return Err(error);
        }
        Ok(self.totals(self.feeds.len()))
    }

    /// What is in force is written again, should the other process have changed it.
    fn rest(&mut self, rests: bool) -> Result<Done, GuardError> {
        self.rests = rests;
        if !rests {
            self.write_rules()?;
            self.swap_lists()?;
        }
        Ok(self.totals(0))
    }

    fn configure(&mut self, config: GuardConfig, now: u64) -> Result<Done, GuardError> {
        let feeds = read_feeds(&config, now)?;
        let former_feeds = std::mem::replace(&mut self.feeds, feeds);
        let former = std::mem::replace(&mut self.config, config);
        let applied = self.write_rules().and_then(|()| self.swap_lists());
        if let Err(error) = applied {
            self.config = former;
            self.feeds = former_feeds;
            // What was written of it is taken back; where even that is refused, the answer says why.
            self.write_rules()?;
            return Err(error);
        }
        Ok(self.totals(1))
    }

    /// Keeps a change that is in force.
    fn done(&mut self, changed: usize) -> Result<Done, GuardError> {
        self.save()?;
        Ok(self.totals(changed))
    }

    fn totals(&self, changed: usize) -> Done {
        Done {
            allowed: self.listed.allowed,
            blocked: self.listed.blocked,
            changed,
        }
    }

    fn save(&self) -> Result<(), GuardError> {
        let path = &self.config.state_file;
        self.state.save(path).map_err(|source| {
            let path = path.clone();
            GuardError::NotKept { path, source }
        })
    }

    fn swap_lists(&mut self) -> Result<(), GuardError> {
        let Self {
            config,
            state,
            feeds,
            ..
        } = self;
        let allow = config.allow.iter().map(|prefix| (List::Allow, prefix));
        let block = config.block.iter().map(|prefix| (List::Block, prefix));
        let fed = feeds.iter().flat_map(|feed| {
            let list = List::from(feed.line.list);
            feed.prefixes.iter().map(move |prefix| (list, prefix))
        });
        let entries = state.entries.iter();
        let entries = entries.map(|(prefix, entry)| (List::from(entry.list), prefix));
        let all = allow.chain(block).chain(fed).chain(entries);
        self.listed = lists::swap(&mut self.maps.tables, &self.xdp, all)?;
        let (listed, entries) = (self.listed, self.state.entries.len());
        self.count(|counts| {
            counts.swaps += 1;
            counts.allowed_prefixes = listed.allowed as u64;
            counts.blocked_prefixes = listed.blocked as u64;
            counts.entries = entries as u64;
        });
        Ok(())
    }

    /// Modes, limits, ports and sampling.
    fn write_rules(&mut self) -> Result<(), GuardError> {
        let (modes, limits) = self.state.overrides.apply(&self.config);
        let reflectors = &self.config.reflector_ports;
        let sample_mask = self.config.event_sample - 1;
        lock(&self.xdp).change(|rules| {
            rules.modes = modes;
            rules.meters = limits.meters();
            rules.set_reflectors(reflectors);
            rules.sample_mask = sample_mask;
        })?;
        Ok(())
    }

    /// Sources meet in other buckets from now on, which are as good as empty.
    fn turn_bucket_key(&mut self, now: u64) {
        self.bucket_key_since = now;
        let turned =
            random_key().and_then(|key| lock(&self.xdp).change(|rules| rules.bucket_key = key));
        match turned {
            Ok(()) => self.count(|counts| counts.bucket_key_rotations += 1),
            Err(error) => tracing::error!(%error, "guard: the key of the buckets stays"),
        }
    }

    fn turn_cid_key(&mut self, now: u64) {
        let since = u64::from(lock(&self.xdp).cid_keys().since());
        let age = now.saturating_sub(since);
        if age < self.config.cid_key_lifetime.as_secs() || now < self.cid_key_retry {
            return;
        }
        match cid_keys::turn(&self.xdp, &self.shards, now) {
            Ok(key) => {
                tracing::info!(key, "guard: connection ids are made with a fresh key");
                self.count(|counts| counts.cid_key_rotations += 1);
            }
            Err(error) => {
                self.cid_key_retry = now + CID_KEY_RETRY;
                tracing::warn!(%error, "guard: connection ids are made with the old key");
            }
        }
    }

    fn read_events(&mut self, now: u64) {
        for _ in 0..EVENT_BUDGET {
            let Some(bytes) = self.maps.events.next() else {
                break;
            };
            if let Some(event) = Event::from_bytes(&bytes) {
                self.events.push(&event, now);
            }
        }
        let total = self.events.total;
        self.count(|counts| counts.events = total);
    }

    fn report(&self) -> Result<Report, GuardError> {
        let (modes, limits) = self.state.overrides.apply(&self.config);
        let counters = lock(&self.xdp).counters()?;
        let counter = |name| {
            let found = counters.iter().find(|(known, _)| *known == name);
            found.map_or(0, |(_, value)| *value)
        };
        let rules = Rule::ALL.iter().enumerate().map(|(i, rule)| {
            let (mode, configured) = (modes.get(*rule), self.config.modes.get(*rule));
            RuleLine {
                rule: rule.name().to_owned(),
                mode: mode_name(mode).to_owned(),
                configured: (mode != configured).then(|| mode_name(configured).to_owned()),
                dropped: counter(Rule::DROPPED[i]),
                monitored: counter(Rule::MONITORED[i]),
            }
        });
        let configured = |list, prefixes: &[Prefix]| -> Vec<Line> {
            let lines = prefixes.iter().map(|prefix| Line {
                prefix: prefixes::show(prefix),
                list,
                until: None,
                note: String::new(),
            });
            lines.collect()
        };
        Ok(Report {
            rules: rules.collect(),
            limits,
            limits_changed: self.state.overrides.limits.keys().copied().collect(),
            reflector_ports: self.config.reflector_ports.clone(),
            allowed: self.listed.allowed,
            blocked: self.listed.blocked,
            exact_used: self.listed.exact,
            exact_places: MAX_EXACT,
            configured: [
                configured(ListName::Allow, &self.config.allow),
                configured(ListName::Block, &self.config.block),
            ]
            .concat(),
            feeds: self.feeds.iter().map(|feed| feed.line.clone()).collect(),
            entries: self.state.lines(),
            event_sample: self.config.event_sample,
            state_file: self.config.state_file.display().to_string(),
            counters: lock(&self.counts).snapshot(),
        })
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
    }
}

/// What a former daemon was told. A file that makes no sense is set aside: the node has to start.
fn load_state(config: &GuardConfig, now: u64) -> State {
    let path = &config.state_file;
    let mut state = State::load(path).unwrap_or_else(|error| {
        let aside = path.with_extension("broken");
        tracing::error!(
            path = %path.display(),
            aside = %aside.display(),
            error,
            "guard: what was changed in earlier runs is lost"
        );
        if let Err(error) = std::fs::rename(path, &aside) {
            tracing::error!(%error, "guard: the broken file stays where it is");
        }
        State::default()
    });
    state.expire(now);
    state
}

fn feeds_of(config: &GuardConfig) -> impl Iterator<Item = (ListName, &PathBuf)> {
    let allow = config
        .allow_files
        .iter()
        .map(|path| (ListName::Allow, path));
    let block = config
        .block_files
        .iter()
        .map(|path| (ListName::Block, path));
    allow.chain(block)
}

/// Every feed, or none.
fn read_feeds(config: &GuardConfig, now: u64) -> Result<Vec<Feed>, GuardError> {
    let feeds = feeds_of(config);
    let read = feeds.map(|(list, path)| Ok(Feed::new(list, path, read_feed(path)?, now)));
    read.collect()
}

/// The node has to start: a broken feed is left out, and told.
fn feeds_at_start(config: &GuardConfig, now: u64) -> Vec<Feed> {
    let feeds = feeds_of(config);
    let read = feeds.map(|(list, path)| match read_feed(path) {
        Ok(prefixes) => Feed::new(list, path, prefixes, now),
        Err(error) => {
            tracing::error!(%error, "guard: a feed is left out");
            let mut feed = Feed::new(list, path, Vec::new(), now);
            feed.line.error = Some(error.to_string());
            feed
        }
    });
    read.collect()
}

fn named(prefixes: &[String]) -> Result<Vec<Prefix>, GuardError> {
    match prefixes.len() {
        0 => return Err(GuardError::Nothing),
        1..=MAX_NAMED => {}
        many => {
            let why = format!("{many} prefixes; one request takes {MAX_NAMED}: use a feed");
            return Err(GuardError::Prefix(why));
        }
    }
    let parsed = prefixes.iter().map(|text| prefixes::parse(text));
    parsed.collect::<Result<_, _>>().map_err(GuardError::Prefix)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
