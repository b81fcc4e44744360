//! The sections about what is fetched from where: `[[origin]]`, `[[shield]]`, `[upstream]`.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache_core::config::ClientFields;
use cache_core::upstream::Tier;
use cache_core::upstream::{
    BreakerSettings, BudgetSettings, HealthSettings, HedgeSettings, OutlierSettings, Settings,
};

use super::kinds::{HEALTH_PATH, ORIGIN_URL, ORIGIN_URLS};
use super::raw::Section;
use super::typed::OriginConfig;
use super::units::{
    BOOL, COUNT, COUNT_U32, DURATION, FIELDS, HOST, HOSTS, PATH, PATH_PREFIXES, TOKEN, TOKENS,
};
use crate::upstream::{self, ClientIdentity, Endpoint, Http2Mode, ShieldConfig, UpstreamConfig};

/// An origin as far as it could be read, for the checks across origins.
pub(super) struct FoundOrigin {
    pub origin: Option<OriginConfig>,
    pub at: Option<Range<usize>>,
    pub hosts_at: Option<Range<usize>>,
}

/// A shield likewise.
pub(super) struct FoundShield {
    pub endpoint: Option<Endpoint>,
    pub origins: Vec<String>,
    pub at: Option<Range<usize>>,
    pub origins_at: Option<Range<usize>>,
}

impl FoundShield {
    pub(super) fn shield(self, http2: Http2Mode) -> Option<ShieldConfig> {
        let endpoint = Endpoint {
            http2,
            ..self.endpoint?
        };
        Some(ShieldConfig {
            endpoint,
            origins: self.origins,
        })
    }
}

pub(super) fn read_origin(s: &mut Section<'_, '_, '_>, base: &Path) -> FoundOrigin {
    let name = s.required("name", &TOKEN, "how status and the log call it");
    let hosts = s.required(
        "hosts",
        &HOSTS,
        "host names of requests that go there; \"*\" is any",
    );
    let urls = s.required(
        "url",
        &ORIGIN_URLS,
        "http:// or https:// with host and port; a list where it has several addresses",
    );
    let trust = read_trust(s, base, urls.iter().flatten());
    let client_fields = s.setting(
        "client_fields",
        &FIELDS,
        ClientFields::default(),
        "fields of clients' requests that it sees; each makes variants and lets clients shape what others get",
    );
    let health_path = read_health_path(s);
    let origin = match (name, hosts, urls) {
        (Some(name), Some(hosts), Some(urls)) => Some(OriginConfig {
            name,
            hosts,
            urls,
            ca: trust.ca,
            server_name: trust.server_name,
            client_fields,
            health_path,
        }),
        _ => None,
    };
    FoundOrigin {
        origin,
        at: s.at(),
        hosts_at: s.span("hosts"),
    }
}

pub(super) fn read_shield(s: &mut Section<'_, '_, '_>, base: &Path) -> FoundShield {
    let name = s.required(
        "name",
        &TOKEN,
        "how status and the log call it; decides which keys it gets, so call it the same on every edge",
    );
    let url = s.required("url", &ORIGIN_URL, "http:// or https:// with host and port");
    let origins = s.optional(
        "origins",
        &TOKENS,
        "names of the origins whose misses go there; unset: all",
    );
    let trust = read_trust(s, base, url.iter());
    let identity = read_identity(s, base);
    let health_path = read_health_path(s);
    let endpoint = match (name, url) {
        (Some(name), Some(url)) => Some(Endpoint {
            name,
            tier: Tier::Shield,
            url,
            ca: trust.ca,
            server_name: trust.server_name,
            identity,
            http2: Http2Mode::Off,
            health_path,
        }),
        _ => None,
    };
    FoundShield {
        endpoint,
        origins: origins.unwrap_or_default(),
        at: s.at(),
        origins_at: s.span("origins"),
    }
}

struct Trust {
    ca: Option<PathBuf>,
    server_name: Option<String>,
}

fn read_trust<'u>(
    s: &mut Section<'_, '_, '_>,
    base: &Path,
    mut urls: impl Iterator<Item = &'u http::Uri>,
) -> Trust {
    let ca = s.optional(
        "ca",
        &PATH,
        "PEM file of authorities trusted for its certificate; unset: the public ones",
    );
    let server_name = s.optional(
        "server_name",
        &HOST,
        "the name verified by TLS; unset: the host of url",
    );
    if ca.is_some() && urls.any(|url| url.scheme_str() != Some("https")) {
        s.refuse("ca", "ca: the url is http, so no certificate is verified");
    }
    Trust {
        ca: ca.map(|ca| base.join(ca)),
        server_name,
    }
}

fn read_identity(s: &mut Section<'_, '_, '_>, base: &Path) -> Option<ClientIdentity> {
    let certificate = s.optional(
        "certificate",
        &PATH,
        "PEM file of the client certificate that it is shown, leaf first; unset: none",
    );
    let key = s.optional("key", &PATH, "PEM file with the private key of that");
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ClientIdentity {
            certificate: base.join(certificate),
            key: base.join(key),
        }),
        (Some(_), None) => {
            s.refuse(
                "certificate",
                "certificate without `key`: set both, or neither",
            );
            None
        }
        (None, Some(_)) => {
            s.refuse("key", "key without `certificate`: set both, or neither");
            None
        }
        (None, None) => None,
    }
}

fn read_health_path(s: &mut Section<'_, '_, '_>) -> Option<String> {
    s.optional(
        "health_path",
        &HEALTH_PATH,
        "asked for every health_interval; an answer below 500 is a healthy one; unset: not asked",
    )
}

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const PERCENT: RangeInclusive<u32> = 0..=100;
const COUNTS: RangeInclusive<u32> = 1..=1_000_000;

pub(super) fn read_upstream(s: &mut Section<'_, '_, '_>) -> (UpstreamConfig, Http2Mode) {
    let d = UpstreamConfig::default();
    let mut timeout = |key, default, why| s.bounded(key, &DURATION, default, TIMEOUT, why);
    let bounds = UpstreamConfig {
        connect_timeout: timeout(
            "connect_timeout",
            d.connect_timeout,
            "DNS, TCP and TLS together, and the wait for a free connection",
        ),
        first_byte_timeout: timeout(
            "first_byte_timeout",
            d.first_byte_timeout,
            "from the request to the response head",
        ),
        idle_timeout: timeout(
            "idle_timeout",
            d.idle_timeout,
            "longest pause within a body",
        ),
        total_timeout: timeout(
            "total_timeout",
            d.total_timeout,
            "a whole fetch, so that a trickling origin cannot hold a flight for ever",
        ),
        dns_ttl: timeout(
            "dns_ttl",
            d.dns_ttl,
            "how long looked-up addresses are used; past it they are looked up again, and kept if that fails",
        ),
        probe_timeout: timeout(
            "health_timeout",
            d.probe_timeout,
            "a health check that takes longer has failed",
        ),
        max_connections: s.bounded(
            "max_connections",
            &COUNT,
            d.max_connections,
            1..=65_536,
            "connections to one shield or address of an origin; past it fetches wait up to connect_timeout",
        ),
        max_fetches: s.bounded(
            "max_fetches",
            &COUNT,
            d.max_fetches,
            1..=1 << 20,
            "fetches of the whole node at a time; past it a fetch fails at once",
        ),
        max_interim: s.bounded(
            "max_interim",
            &COUNT_U32,
            d.max_interim,
            0..=1_000,
            "interim responses (1xx) to one request before its final one; with one more its fetch fails",
        ),
        early_hints: s.setting(
            "early_hints",
            &BOOL,
            d.early_hints,
            "pass Link and Content-Security-Policy of a 103 (Early Hints) on to those who wait over HTTP/3 and HTTP/2",
        ),
        hedge_paths: s.setting(
            "hedge_paths",
            &PATH_PREFIXES,
            d.hedge_paths,
            "beginnings of the paths whose slow fetches are asked for twice; never parts of large objects",
        ),
        policy: read_policy(s),
        ..d
    };
    let http2 = s.setting(
        "http2",
        &BOOL,
        false,
        "offer HTTP/2 to https origins and shields; off, since HTTP/1.1 fetches do not block each other",
    );
    match http2 {
        true => (bounds, Http2Mode::Negotiate),
        false => (bounds, Http2Mode::Off),
    }
}

fn read_policy(s: &mut Section<'_, '_, '_>) -> Settings {
    let d = Settings::default();
    Settings {
        max_attempts: s.bounded(
            "max_attempts",
            &COUNT_U32,
            d.max_attempts,
            1..=16,
            "nodes that one fetch is sent to, one after the other; only idempotent requests whose answer has not begun",
        ),
        load_percent: s.bounded(
            "load_percent",
            &COUNT_U32,
            d.load_percent,
            100..=1_000,
            "fetches a shield takes of the mean of all; past it the key's next shield is asked",
        ),
        load_floor: s.bounded(
            "load_floor",
            &COUNT_U32,
            d.load_floor,
            1..=65_536,
            "fetches a shield takes whatever the mean is, so that little load stays where its keys are",
        ),
        health: read_health(s, d.health),
        outlier: read_outlier(s, d.outlier),
        breaker: read_breaker(s, d.breaker),
        retries: BudgetSettings {
            percent: s.bounded(
                "retry_percent",
                &COUNT_U32,
                d.retries.percent,
                PERCENT,
                "second tries of an origin's fetches in ten seconds, so that failures do not double its load",
            ),
            per_second: s.bounded(
                "retry_per_second",
                &COUNT_U32,
                d.retries.per_second,
                0..=10_000,
                "second tries a second on top, for little traffic",
            ),
        },
        hedges: HedgeSettings {
            budget: BudgetSettings {
                percent: s.bounded(
                    "hedge_percent",
                    &COUNT_U32,
                    d.hedges.budget.percent,
                    PERCENT,
                    "fetches sent to a second node when the first is slower than 95 % of its recent answers; 0: none",
                ),
                per_second: d.hedges.budget.per_second,
            },
            min_delay: s.bounded(
                "hedge_min",
                &DURATION,
                d.hedges.min_delay,
                TIMEOUT,
                "no second node is asked earlier than this",
            ),
        },
    }
}

fn read_health(s: &mut Section<'_, '_, '_>, d: HealthSettings) -> HealthSettings {
    HealthSettings {
        interval: s.bounded(
            "health_interval",
            &DURATION,
            d.interval,
            Duration::from_millis(100)..=Duration::from_secs(3_600),
            "between health checks of a node that has a health_path",
        ),
        jitter_percent: s.bounded(
            "health_jitter",
            &COUNT_U32,
            d.jitter_percent,
            PERCENT,
            "percent by which each such wait varies, so that a fleet does not ask in step",
        ),
        unhealthy_after: s.bounded(
            "unhealthy_after",
            &COUNT_U32,
            d.unhealthy_after,
            COUNTS,
            "failed checks in a row that leave a node out",
        ),
        healthy_after: s.bounded(
            "healthy_after",
            &COUNT_U32,
            d.healthy_after,
            COUNTS,
            "good checks in a row that bring it back",
        ),
    }
}

fn read_outlier(s: &mut Section<'_, '_, '_>, d: OutlierSettings) -> OutlierSettings {
    OutlierSettings {
        consecutive: s.bounded(
            "eject_after",
            &COUNT_U32,
            d.consecutive,
            COUNTS,
            "failures in a row that eject a node from its tier",
        ),
        success_gap: s.bounded(
            "eject_gap",
            &COUNT_U32,
            d.success_gap,
            1..=100,
            "percentage points that its success rate may lie below that of its tier's others",
        ),
        min_requests: s.bounded(
            "eject_requests",
            &COUNT_U32,
            d.min_requests,
            COUNTS,
            "requests in ten seconds before a success rate is looked at",
        ),
        ejection: s.bounded(
            "ejection",
            &DURATION,
            d.ejection,
            TIMEOUT,
            "the first ejection; each further one is twice as long",
        ),
        max_ejection: s.bounded(
            "max_ejection",
            &DURATION,
            d.max_ejection,
            TIMEOUT,
            "no ejection is longer",
        ),
        max_ejected_percent: s.bounded(
            "max_ejected",
            &COUNT_U32,
            d.max_ejected_percent,
            PERCENT,
            "percent of a tier that may be ejected at a time; 0: none ever is",
        ),
    }
}

fn read_breaker(s: &mut Section<'_, '_, '_>, d: BreakerSettings) -> BreakerSettings {
    BreakerSettings {
        consecutive: s.bounded(
            "breaker_after",
            &COUNT_U32,
            d.consecutive,
            COUNTS,
            "fetches that got no answer, in a row, after which a node is not asked for a while",
        ),
        failure_percent: s.bounded(
            "breaker_percent",
            &COUNT_U32,
            d.failure_percent,
            1..=100,
            "or this part of the last ten seconds' fetches",
        ),
        min_requests: s.bounded(
            "breaker_requests",
            &COUNT_U32,
            d.min_requests,
            COUNTS,
            "if there were so many",
        ),
        open: s.bounded(
            "breaker_open",
            &DURATION,
            d.open,
            TIMEOUT,
            "how long it is not asked; twice as long each time a trial fails",
        ),
        max_open: s.bounded(
            "breaker_max_open",
            &DURATION,
            d.max_open,
            TIMEOUT,
            "no such time is longer",
        ),
        trials: s.bounded(
            "breaker_trials",
            &COUNT_U32,
            d.trials,
            1..=1_000,
            "fetches let through then; they must all be answered",
        ),
    }
}

pub(super) fn upstream_origin(origin: &OriginConfig, http2: Http2Mode) -> upstream::OriginConfig {
    upstream::OriginConfig {
        name: origin.name.clone(),
        urls: origin.urls.clone(),
        ca: origin.ca.clone(),
        server_name: origin.server_name.clone(),
        http2,
        health_path: origin.health_path.clone(),
    }
}
