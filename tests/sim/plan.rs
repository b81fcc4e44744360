//! What a seed stands for: the node, the network, the objects and what the clients do.

use std::time::Duration;

use cache_core::config::Limits;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Everything a run draws before it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: u8,
    pub ram_bytes: u64,
    /// `None`: no second tier.
    pub disk: Option<DiskPlan>,
    /// Share of memory for large bodies.
    pub large_share: f32,
    pub limits: Limits,
    /// Bytes of a slice of a large object.
    pub slice_size: u32,
    pub network: Network,
    pub faults: OriginFaults,
    pub resources: Vec<Resource>,
    pub clients: Vec<ClientPlan>,
    /// The same over HTTP/1.1 and HTTP/2.
    pub tcp_clients: Vec<ClientPlan>,
    pub purges: Vec<PurgePlan>,
}

/// A purge, and when it is made.
#[derive(Clone, Copy, Debug)]
pub struct PurgePlan {
    pub at: Duration,
    pub what: Purged,
    pub soft: bool,
}

/// What a purge names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    Resource(usize),
    /// A surrogate key.
    Tag(u8),
    /// All resources whose number, written out, begins with this one.
    Prefix(usize),
    Everything,
}

impl Purged {
    pub fn covers(self, index: usize, resource: &Resource) -> bool {
        match self {
            Self::Resource(other) => other == index,
            Self::Tag(tag) => resource.tags().any(|own| own == tag),
            Self::Prefix(start) => index.to_string().starts_with(&start.to_string()),
            Self::Everything => true,
        }
    }
}

/// Surrogate keys that there are, besides those that fill objects up past the bound.
const TAGS: u8 = 5;

/// How the second tier's disk fares.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    /// Of a command at most; a slow one takes a hundred times as long.
    pub latency: Duration,
    /// Slow commands, in percent.
    pub slow: u32,
    /// Commands that fail, and reads with a flipped bit, in thousandths.
    pub failing: u32,
    pub rotten: u32,
}

impl DiskPlan {
    pub fn is_sound(&self) -> bool {
        self.failing + self.rotten == 0
    }
}

/// How datagrams fare, in each direction. Chances are in percent.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub delay: Duration,
    pub jitter: Duration,
    pub loss: u32,
    pub duplication: u32,
    /// A datagram arrives at a shard other than its flow's.
    pub misrouting: u32,
    /// A lane message takes this long at most.
    pub lane_delay: Duration,
}

/// How fetches fare, in percent.
#[derive(Clone, Copy, Debug)]
pub struct OriginFaults {
    pub refuse: u32,
    pub truncate: u32,
    pub lie: u32,
    pub slow: u32,
}

impl OriginFaults {
    pub fn any(&self) -> bool {
        self.refuse + self.truncate + self.lie > 0
    }
}

/// What the origin says about a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// max-age, seconds.
    Cacheable {
        max_age: u32,
    },
    /// max-age and stale-while-revalidate, seconds.
    StaleWhileRevalidate {
        max_age: u32,
        window: u32,
    },
    /// max-age and stale-if-error, seconds.
    StaleIfError {
        max_age: u32,
        window: u32,
    },
    NoStore,
    Private,
    /// 200 without any lifetime.
    Silent,
    NotFound {
        max_age: u32,
    },
    /// 500 without a lifetime.
    Broken,
}

#[derive(Clone, Copy, Debug)]
pub struct Resource {
    pub kind: Kind,
    pub size: usize,
    /// The length is declared.
    pub declared: bool,
    /// Which of the surrogate keys it has, a bit each.
    pub tags: u8,
    /// It has more of them than are kept.
    pub many_tags: bool,
    /// Its origin answers ranges and conditions, and has a new version after each such time.
    pub edition: Option<Duration>,
}

impl Resource {
    pub fn tags(&self) -> impl Iterator<Item = u8> {
        (0..TAGS).filter(|tag| self.tags & 1 << tag != 0)
    }

    /// May be served after its lifetime.
    pub fn has_stale_window(&self) -> bool {
        matches!(
            self.kind,
            Kind::StaleWhileRevalidate { .. } | Kind::StaleIfError { .. }
        )
    }
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub start: Duration,
    pub requests: Vec<RequestPlan>,
    /// Changes its port then.
    pub rebind: Option<Duration>,
    /// Falls silent then, for ever.
    pub vanish: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestPlan {
    pub at: Duration,
    pub resource: usize,
    pub head: bool,
    /// Asks for parts.
    pub range: Option<RangePlan>,
    /// Carries credentials.
    pub authorization: bool,
    /// Gives up this long after the request.
    pub cancel: Option<Duration>,
}

/// What a Range field says.
#[derive(Clone, Copy, Debug)]
pub enum RangePlan {
    From(u64),
    Span(u64, u64),
    Suffix(u64),
    Two([(u64, u64); 2]),
}

impl RangePlan {
    pub fn field(self) -> String {
        match self {
            Self::From(first) => format!("bytes={first}-"),
            Self::Span(first, last) => format!("bytes={first}-{last}"),
            Self::Suffix(count) => format!("bytes=-{count}"),
            Self::Two([(a, b), (c, d)]) => format!("bytes={a}-{b}, {c}-{d}"),
        }
    }

    fn draw(rng: &mut StdRng, size: u64) -> Self {
        // Now and then past the end.
        let mut span = || {
            let first = rng.random_range(0..=size + size / 16);
            (first, first + rng.random_range(0..=size / 3))
        };
        let (one, two) = (span(), span());
        match rng.random_range(0..4) {
            0 => Self::From(one.0),
            1 => Self::Suffix(one.0),
            2 => Self::Two([one, two]),
            _ => Self::Span(one.0, one.1),
        }
    }
}

/// Virtual time in which requests are made.
pub const SPAN: Duration = Duration::from_secs(20);

impl Plan {
    pub fn new(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let clean = rng.random_ratio(1, 5);
        let limits = Limits {
            max_object: 1 << 20,
            max_heap_fill: 2 << 20,
            fetch_window: rng.random_range(1..=8) * (16 << 10),
            max_waiters: if rng.random_ratio(1, 10) { 4 } else { 10_000 },
            max_flights: if rng.random_ratio(1, 10) { 2 } else { 4_096 },
            max_passes: if rng.random_ratio(1, 10) { 2 } else { 1_024 },
            idle_timeout: Duration::from_secs(10),
            ..Limits::default()
        };
        let disk = rng.random_ratio(1, 3).then(|| disk(rng, clean));
        // With a disk, more than memory holds.
        let (count, most) = match disk {
            Some(_) => (rng.random_range(10..40), 30),
            None => (rng.random_range(3..16), 12),
        };
        let mut resources: Vec<_> = (0..count).map(|_| resource(rng)).collect();
        if disk.is_some() {
            enlarge(&mut resources, rng);
        }
        let films = rng.random_range(0..3);
        // In front, where most requests go.
        resources.splice(0..0, (0..films).map(|_| film(rng)).collect::<Vec<_>>());
        let clients = (0..rng.random_range(1..8))
            .map(|_| client(rng, &resources, most, clean))
            .collect();
        let purges = (0..rng.random_range(0..8))
            .map(|_| purge(rng, resources.len()))
            .collect();
        let shards = rng.random_range(1..=3);
        let slice_size = rng.random_range(1..=8) * (16 << 10);
        let (network, faults) = (network(rng, clean), faults(rng, clean));
        let tcp_clients = (0..rng.random_range(0..4))
            .map(|_| client(rng, &resources, most, clean))
            .collect();
        Self {
            seed,
            shards,
            ram_bytes: match disk {
                Some(_) => u64::from(shards) * (10 << 20),
                None => 64 << 20,
            },
            large_share: if disk.is_some() { 0.1 } else { 0.5 },
            disk,
            limits: if clean { generous(limits) } else { limits },
            slice_size,
            network,
            faults,
            resources,
            clients,
            tcp_clients,
            purges,
        }
    }

    /// No fault and no bound in the way: every request must succeed.
    pub fn is_clean(&self) -> bool {
        !self.faults.any()
            && self.disk.is_none_or(|disk| disk.is_sound())
            && self.network.loss == 0
            && self.limits.max_waiters > 100
            && self.limits.max_flights > 100
            && self.limits.max_passes > 100
    }
}

fn purge(rng: &mut StdRng, resources: usize) -> PurgePlan {
    let what = match rng.random_range(0..8) {
        0..=2 => Purged::Resource(rng.random_range(0..resources)),
        3..=5 => Purged::Tag(rng.random_range(0..TAGS)),
        6 => Purged::Prefix(rng.random_range(0..3)),
        _ => Purged::Everything,
    };
    PurgePlan {
        at: instant(rng, SPAN),
        what,
        soft: rng.random_ratio(1, 3),
    }
}

fn disk(rng: &mut StdRng, clean: bool) -> DiskPlan {
    let faulty = !clean && rng.random_ratio(1, 2);
    DiskPlan {
        latency: Duration::from_micros(rng.random_range(20..2_000)),
        slow: rng.random_range(0..5),
        failing: if faulty { rng.random_range(0..100) } else { 0 },
        rotten: if faulty { rng.random_range(0..100) } else { 0 },
    }
}

fn generous(limits: Limits) -> Limits {
    let default = Limits::default();
    Limits {
        max_waiters: default.max_waiters,
        max_flights: default.max_flights,
        max_passes: default.max_passes,
        max_heap_fill: default.max_heap_fill,
        ..limits
    }
}

fn network(rng: &mut StdRng, clean: bool) -> Network {
    Network {
        delay: Duration::from_micros(rng.random_range(20..40_000)),
        jitter: Duration::from_micros(rng.random_range(1..5_000)),
        loss: if clean { 0 } else { rng.random_range(0..12) },
        duplication: rng.random_range(0..5),
        misrouting: rng.random_range(0..20),
        lane_delay: Duration::from_micros(rng.random_range(1..300)),
    }
}

fn faults(rng: &mut StdRng, clean: bool) -> OriginFaults {
    if clean || rng.random_ratio(1, 4) {
        return OriginFaults {
            refuse: 0,
            truncate: 0,
            lie: 0,
            slow: rng.random_range(0..40),
        };
    }
    OriginFaults {
        refuse: rng.random_range(0..25),
        truncate: rng.random_range(0..25),
        lie: rng.random_range(0..15),
        slow: rng.random_range(0..40),
    }
}

fn resource(rng: &mut StdRng) -> Resource {
    let kind = match rng.random_range(0..16) {
        0..=6 => Kind::Cacheable {
            max_age: rng.random_range(1..30),
        },
        7 => Kind::StaleWhileRevalidate {
            max_age: rng.random_range(1..4),
            window: rng.random_range(1..20),
        },
        8 => Kind::StaleIfError {
            max_age: rng.random_range(1..4),
            window: rng.random_range(1..20),
        },
        9 => Kind::NoStore,
        10 => Kind::Private,
        11 | 12 => Kind::Silent,
        13 => Kind::NotFound {
            max_age: rng.random_range(1..10),
        },
        _ => Kind::Broken,
    };
    let size = match rng.random_range(0..10) {
        0 => 0,
        1 => rng.random_range(1..64),
        2..=6 => rng.random_range(1_000..8_192),
        7 => rng.random_range(60_000..70_000),
        8 => rng.random_range(100_000..700_000),
        // Larger than what is kept.
        _ => rng.random_range((1 << 20) - 2..(1 << 20) + 40_000),
    };
    Resource {
        kind,
        size,
        declared: rng.random_ratio(3, 4),
        tags: rng.random_range(0..1 << TAGS) & rng.random_range(0..1 << TAGS),
        many_tags: rng.random_ratio(1, 10),
        edition: None,
    }
}

/// A large resource that is answered in parts.
fn film(rng: &mut StdRng) -> Resource {
    let seconds = rng.random_range(1..40);
    Resource {
        kind: match rng.random_range(0..3) {
            0 => Kind::StaleWhileRevalidate {
                max_age: rng.random_range(1..4),
                window: rng.random_range(1..20),
            },
            _ => Kind::Cacheable {
                max_age: rng.random_range(1..10),
            },
        },
        size: rng.random_range(20_000..900_000),
        declared: true,
        edition: Some(Duration::from_secs(seconds)),
        ..resource(rng)
    }
}

/// Makes half of the resources too large for the log, so that few of them fill what memory has for
/// such bodies.
fn enlarge(resources: &mut [Resource], rng: &mut StdRng) {
    for resource in resources.iter_mut().step_by(2) {
        resource.size = rng.random_range(66_000..200_000);
        resource.kind = Kind::Cacheable {
            max_age: rng.random_range(5..60),
        };
    }
}

fn client(rng: &mut StdRng, resources: &[Resource], most: usize, clean: bool) -> ClientPlan {
    let start = instant(rng, Duration::from_secs(5));
    let mut requests = Vec::new();
    for _ in 0..rng.random_range(1..most) {
        // Bursts for one resource are what collapsing is about.
        let burst = if rng.random_ratio(1, 4) {
            rng.random_range(2..10)
        } else {
            1
        };
        let at = start + instant(rng, SPAN - start);
        let resource = rng
            .random_range(0..resources.len())
            .min(rng.random_range(0..resources.len()));
        let size = resources[resource].size as u64;
        for _ in 0..burst {
            requests.push(RequestPlan {
                at,
                resource,
                head: rng.random_ratio(1, 10),
                range: rng.random_ratio(1, 4).then(|| RangePlan::draw(rng, size)),
                authorization: rng.random_ratio(1, 20),
                cancel: rng
                    .random_ratio(1, 15)
                    .then(|| instant(rng, Duration::from_millis(500))),
            });
        }
    }
    requests.sort_by_key(|request| request.at);
    ClientPlan {
        start,
        requests,
        rebind: rng
            .random_ratio(1, 3)
            .then(|| start + instant(rng, SPAN - start)),
        vanish: (!clean && rng.random_ratio(1, 8)).then(|| start + instant(rng, SPAN - start)),
    }
}

fn instant(rng: &mut StdRng, span: Duration) -> Duration {
    Duration::from_micros(rng.random_range(0..=span.as_micros() as u64))
}
