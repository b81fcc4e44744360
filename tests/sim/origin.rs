//! The origin and the upstream in front of it, as the shards see them: fetch commands in, fetch
//! events out, a window that is honoured, and faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use cache_core::io::{
    FetchCommand, FetchError, FetchErrorKind, FetchEvent, FetchId, FetchRequest, ShardId,
};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rand::Rng;
use rand::rngs::StdRng;

use crate::plan::{Kind, OriginFaults, Purged, Resource};

/// Names the version of a resource in a response.
pub const VERSION: HeaderName = HeaderName::from_static("x-version");

/// Largest body event, as the contract says.
const CHUNK: usize = 64 << 10;

/// A response that the origin gave, or began to give.
#[derive(Clone, Debug)]
pub struct Version {
    pub resource: usize,
    pub fetch_started: Duration,
    /// When the head reached the shard.
    pub head_at: Option<Duration>,
    /// When the last event reached the shard.
    pub ended_at: Option<Duration>,
    /// The body came as it should.
    pub whole: bool,
    /// Made with a client's credentials.
    pub authorized: bool,
}

struct Running {
    version: usize,
    rest: Bytes,
    /// The bytes that are declared, and where they are in the whole.
    range: Range<usize>,
    /// Nothing but that the client's version is right.
    confirms: bool,
    window: usize,
    pace: Duration,
    fault: Fault,
    /// The step event is scheduled.
    scheduled: bool,
    /// 103s before the head.
    hints: u8,
    head_sent: bool,
    shared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Refuse,
    /// Fails after this many body bytes.
    Truncate(usize),
    /// Ends without error after this many body bytes, whatever was declared.
    Short(usize),
    /// Goes on past the declared length.
    Long,
}

pub struct Origin {
    resources: Vec<Resource>,
    faults: OriginFaults,
    max_object: u64,
    pub versions: Vec<Version>,
    /// By resource and how often it has changed.
    editions: BTreeMap<(usize, u128), usize>,
    running: BTreeMap<(ShardId, FetchId), Running>,
    /// Resources of which a fetch was given up by a shard, or is passed on without being kept: their keys may be
    /// marked uncacheable.
    given_up: Vec<bool>,
    pub fetches: u64,
}

/// When a running fetch's next step is due, if it is not waiting for credit.
pub type Due = Option<Duration>;

impl Origin {
    pub fn new(resources: Vec<Resource>, faults: OriginFaults, max_object: u64) -> Self {
        Self {
            given_up: vec![false; resources.len()],
            resources,
            faults,
            max_object,
            versions: Vec::new(),
            editions: BTreeMap::new(),
            running: BTreeMap::new(),
            fetches: 0,
        }
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Takes a command of a shard. `Err` is a broken invariant.
    pub fn command(
        &mut self,
        now: Duration,
        shard: ShardId,
        command: FetchCommand,
        rng: &mut StdRng,
    ) -> Result<(FetchId, Due), String> {
        match command {
            FetchCommand::Start { id, request } => {
                let due = self.start(now, shard, id, &request, rng)?;
                Ok((id, Some(due)))
            }
            FetchCommand::Credit { id, bytes } => {
                let Some(running) = self.running.get_mut(&(shard, id)) else {
                    return Ok((id, None));
                };
                running.window += bytes as usize;
                let due = (!running.scheduled).then_some(now + running.pace);
                running.scheduled |= due.is_some();
                Ok((id, due))
            }
            // Nothing that is asked has a body.
            FetchCommand::Body { id, .. } | FetchCommand::BodyEnd { id } => Ok((id, None)),
            FetchCommand::Cancel { id } => {
                if let Some(running) = self.running.remove(&(shard, id)) {
                    let version = &mut self.versions[running.version];
                    version.ended_at = Some(now);
                    self.given_up[version.resource] = true;
                }
                Ok((id, None))
            }
        }
    }

    fn start(
        &mut self,
        now: Duration,
        shard: ShardId,
        id: FetchId,
        request: &FetchRequest,
        rng: &mut StdRng,
    ) -> Result<Duration, String> {
        self.fetches += 1;
        let index = resource_of(&request.target).ok_or("a fetch of an unknown target")?;
        let resource = *self
            .resources
            .get(index)
            .ok_or("a fetch of an unknown resource")?;
        let authorized = request.headers.contains_key(http::header::AUTHORIZATION);
        let shared = self.is_shareable(index) && !authorized;
        let twin = self
            .running
            .iter()
            .find(|(_, other)| other.shared && self.versions[other.version].resource == index);
        if let (true, Some((&(other, _), _))) = (shared, twin) {
            return Err(format!(
                "shard {shard} fetches resource {index} while shard {other} fetches it"
            ));
        }
        let fault = self.draw_fault(&resource, rng);
        let version = self.version(now, index, authorized);
        let given = give(&resource, version, request);
        let mut rest = body(index, version, resource.size).slice(given.range.clone());
        if fault == Fault::Long {
            let mut longer = rest.to_vec();
            longer.extend_from_slice(b"and more than was declared");
            rest = longer.into();
        }
        let slow = rng.random_range(0..100) < self.faults.slow;
        let (think, pace) = if slow { (2_000, 40) } else { (60, 2) };
        self.running.insert(
            (shard, id),
            Running {
                version,
                rest: if request.method == http::Method::HEAD || given.confirms {
                    Bytes::new()
                } else {
                    rest
                },
                range: given.range,
                confirms: given.confirms,
                window: request.window as usize,
                pace: Duration::from_millis(rng.random_range(1..=pace)),
                fault,
                scheduled: true,
                hints: rng.random_range(0..8_u8).saturating_sub(5),
                head_sent: false,
                shared,
            },
        );
        Ok(now + Duration::from_millis(rng.random_range(1..=think)))
    }

    /// The version that a fetch gets: its own, or the one of the day.
    fn version(&mut self, now: Duration, index: usize, authorized: bool) -> usize {
        let edition = self.resources[index].edition;
        let day = edition.map(|edition| now.as_micros() / edition.as_micros());
        if let Some(day) = day
            && let Some(&version) = self.editions.get(&(index, day))
        {
            return version;
        }
        let version = self.versions.len();
        self.versions.push(Version {
            resource: index,
            fetch_started: now,
            head_at: None,
            ended_at: None,
            whole: false,
            authorized: authorized && edition.is_none(),
        });
        if let Some(day) = day {
            self.editions.insert((index, day), version);
        }
        version
    }

    fn draw_fault(&self, resource: &Resource, rng: &mut StdRng) -> Fault {
        let roll = rng.random_range(0..100);
        let at = rng.random_range(0..resource.size.max(1));
        let OriginFaults {
            refuse,
            truncate,
            lie,
            ..
        } = self.faults;
        if roll < refuse {
            Fault::Refuse
        } else if roll < refuse + truncate {
            Fault::Truncate(at)
        } else if roll < refuse + truncate + lie && resource.declared && resource.size > 0 {
            if roll % 2 == 0 {
                Fault::Short(at)
            } else {
                Fault::Long
            }
        } else {
            Fault::None
        }
    }

    /// One fetch at a time must do for all requests of such a resource.
    fn is_shareable(&self, index: usize) -> bool {
        let resource = &self.resources[index];
        resource.edition.is_none()
            && !matches!(resource.kind, Kind::NoStore | Kind::Private)
            && resource.size as u64 <= self.max_object
            && !self.given_up[index]
    }

    /// Who comes while the body of this fetch is passed on asks for itself.
    pub fn passed_in_step(&mut self, shard: ShardId, id: FetchId) {
        if let Some(running) = self.running.get(&(shard, id)) {
            self.given_up[self.versions[running.version].resource] = true;
        }
    }

    /// The next event of a fetch, and when the one after it is due.
    pub fn step(
        &mut self,
        now: Duration,
        shard: ShardId,
        id: FetchId,
    ) -> Option<(FetchEvent, Due)> {
        let running = self.running.get_mut(&(shard, id))?;
        running.scheduled = false;
        let version = &mut self.versions[running.version];
        let resource = &self.resources[version.resource];
        let sent = running.range.len().saturating_sub(running.rest.len());
        let event = if running.fault == Fault::Refuse {
            failed(FetchErrorKind::ConnectionRefused)
        } else if running.hints > 0 {
            running.hints -= 1;
            let link = HeaderValue::from_static("</style.css>; rel=preload");
            FetchEvent::Hints(HeaderMap::from_iter([(http::header::LINK, link)]))
        } else if !running.head_sent {
            running.head_sent = true;
            version.head_at = Some(now);
            head(resource, running)
        } else {
            let limit = match running.fault {
                Fault::Truncate(at) | Fault::Short(at) => at.saturating_sub(sent),
                Fault::None | Fault::Refuse | Fault::Long => usize::MAX,
            };
            let take = running.rest.len().min(limit);
            if take == 0 {
                match running.fault {
                    Fault::Truncate(_) => failed(FetchErrorKind::ResponseIncomplete),
                    _ => FetchEvent::End,
                }
            } else {
                let take = take.min(running.window).min(CHUNK);
                if take == 0 {
                    return None;
                }
                running.window -= take;
                FetchEvent::Body(running.rest.split_to(take))
            }
        };
        let over = matches!(event, FetchEvent::End | FetchEvent::Failed(_));
        if over {
            version.whole = running.fault == Fault::None;
            version.ended_at = Some(now);
            self.running.remove(&(shard, id));
            return Some((event, None));
        }
        running.scheduled = true;
        let due = now + running.pace;
        Some((event, Some(due)))
    }

    /// A purge lets the next request begin a fetch beside the running one. What was not answered yet
    /// may turn out to have any surrogate key.
    pub fn purged(&mut self, what: Purged) {
        for running in self.running.values_mut() {
            let index = self.versions[running.version].resource;
            let may_cover =
                matches!(what, Purged::Tag(_)) || what.covers(index, &self.resources[index]);
            running.shared &= !may_cover;
        }
    }
}

fn failed(kind: FetchErrorKind) -> FetchEvent {
    FetchEvent::Failed(FetchError {
        kind,
        detail: "simulated".to_owned(),
    })
}

/// What of a version a fetch gets.
struct Given {
    range: Range<usize>,
    confirms: bool,
}

fn give(resource: &Resource, version: usize, request: &FetchRequest) -> Given {
    let whole = 0..resource.size;
    let field = |name| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let etag = format!("\"{version}\"");
    if resource.edition.is_none() {
        let confirms = false;
        return Given {
            range: whole,
            confirms,
        };
    }
    let confirms = field(IF_NONE_MATCH) == Some(&etag);
    let in_force = field(IF_RANGE).is_none_or(|value| value == etag);
    let range = field(RANGE).filter(|_| in_force);
    Given {
        range: range
            .and_then(|range| part(range, resource.size))
            .unwrap_or(whole),
        confirms,
    }
}

/// `bytes=0-9` and `bytes=-9`, of what there is; several are answered with the whole.
fn part(field: &str, size: usize) -> Option<Range<usize>> {
    if field.contains(',') {
        return None;
    }
    let (first, last) = field.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let count: usize = last.parse().ok()?;
        return Some(size.saturating_sub(count)..size);
    }
    let first: usize = first.parse().ok()?;
    let last: usize = last.parse().unwrap_or(usize::MAX - 1);
    (first < size).then(|| first..size.min(last + 1))
}

fn head(resource: &Resource, running: &Running) -> FetchEvent {
    let version = running.version;
    let mut headers = HeaderMap::new();
    let (status, cache_control) = match resource.kind {
        Kind::Cacheable { max_age } => (StatusCode::OK, format!("public, max-age={max_age}")),
        Kind::StaleWhileRevalidate { max_age, window } => (
            StatusCode::OK,
            format!("max-age={max_age}, stale-while-revalidate={window}"),
        ),
        Kind::StaleIfError { max_age, window } => (
            StatusCode::OK,
            format!("max-age={max_age}, stale-if-error={window}"),
        ),
        Kind::NoStore => (StatusCode::OK, "no-store".to_owned()),
        Kind::Private => (StatusCode::OK, "private, max-age=60".to_owned()),
        Kind::Silent => (StatusCode::OK, String::new()),
        Kind::NotFound { max_age } => (StatusCode::NOT_FOUND, format!("max-age={max_age}")),
        Kind::Broken => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    };
    if let Ok(value) = HeaderValue::from_str(&cache_control)
        && !cache_control.is_empty()
    {
        headers.insert(CACHE_CONTROL, value);
    }
    headers.insert(VERSION, HeaderValue::from(version));
    let mut tags: Vec<String> = resource.tags().map(tag).collect();
    if resource.many_tags {
        tags.extend((0..40).map(|number| format!("filler-{number}")));
    }
    if let Ok(value) = HeaderValue::from_str(&tags.join(" ")) {
        headers.insert("surrogate-key", value);
    }
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        headers.insert(ETAG, etag);
    }
    let mut status = status;
    let Range { start, end } = running.range;
    if resource.edition.is_some() {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if running.confirms {
            status = StatusCode::NOT_MODIFIED;
        } else if end - start < resource.size {
            status = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{}", end - 1, resource.size);
            if let Ok(value) = HeaderValue::from_str(&range) {
                headers.insert(CONTENT_RANGE, value);
            }
        }
    }
    FetchEvent::Head {
        status,
        headers,
        length: resource.declared.then_some((end - start) as u64),
    }
}

/// The bytes of a version: they name it, and differ from every other's.
pub fn body(resource: usize, version: usize, size: usize) -> Bytes {
    let mut bytes = format!("resource {resource} version {version} ").into_bytes();
    let mut state = (resource as u64) << 32 | version as u64 | 1;
    while bytes.len() < size {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// How a surrogate key is written.
pub fn tag(tag: u8) -> String {
    format!("tag-{tag}")
}

pub fn target(resource: usize) -> String {
    format!("/r/{resource}")
}

fn resource_of(target: &[u8]) -> Option<usize> {
    std::str::from_utf8(target.strip_prefix(b"/r/")?)
        .ok()?
        .parse()
        .ok()
}
