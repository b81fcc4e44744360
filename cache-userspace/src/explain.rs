//! `popcache explain`: what a node would do with a request, and why.
//!
//! What the configuration alone decides (route, class, key, fields sent) is worked out here; what is
//! in memory and on the tier the owner of the key says. Without a node the first half is all there is.

use std::fmt::Write as _;

use bytes::Bytes;
use cache_core::config::{Caching, OriginRoute};
use cache_core::conn::h3::FieldSection;
use cache_core::http::explain::{self, Place, Plan, Seen, SeenObject, Verdict};
use cache_core::http::forward::{self, Shown};
use cache_core::http::freshness::{self, RequestFacts, State, Storage};
use cache_core::http::routes::Rules;
use cache_core::http::{key, vary, wants};
use cache_core::io::ClientRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};

/// What is to be explained, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub url: String,
    #[serde(default = "get")]
    pub method: String,
    /// `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
}

fn get() -> String {
    Method::GET.as_str().to_owned()
}

/// What decides about requests.
#[derive(Clone, Debug)]
pub struct Rulebook {
    pub caching: Caching,
    pub origins: Vec<OriginRoute>,
    pub max_target: usize,
    pub max_field_section: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What is done: hit, validate, fetch, join, read tier, pass, refuse; `look up` without a node.
    pub verdict: String,
    pub why: String,
    pub origin: Option<String>,
    pub route: Option<String>,
    pub class: String,
    /// Of the resource.
    pub key: String,
    /// Fields that tell its variants apart, with what this request has of them; empty: it has none.
    pub variant: Vec<(String, String)>,
    /// Fields that the origin sees in a fetch that others may share.
    pub sent: Vec<(String, String)>,
    /// Settings of the class, as the route has changed them.
    pub rules: Vec<(String, String)>,
    /// `ram`, `nvme`, `absent`; unset without a node.
    pub tier: Option<String>,
    pub pinned: Option<bool>,
    pub object: Option<ObjectReport>,
    /// The node's clock, seconds since the Unix epoch.
    pub now_s: Option<u64>,
}

/// An object in memory and its freshness arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectReport {
    pub status: u16,
    pub bytes: u64,
    pub surrogate_keys: usize,
    pub state: String,
    /// Age when it was stored, and time since.
    pub age_s: u64,
    pub initial_age_s: u32,
    pub lifetime_s: u32,
    /// What the lifetime comes from, in a word of Cache-Status `detail`.
    pub lifetime_source: String,
    /// Lifetime less age; negative: stale.
    pub ttl_s: i64,
    pub stale_while_revalidate_s: u32,
    pub stale_if_error_s: u32,
    pub purged_softly: bool,
    /// How far the origin's Date was ahead of the node's clock when it was stored.
    pub origin_clock_ahead_s: Option<i64>,
    /// Fields that the lifetime comes from.
    pub fields: Vec<(String, String)>,
}

/// Why there is no explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("{0:?}: {1}")]
    Url(String, String),
    #[error("{0:?} is no method")]
    Method(String),
    #[error("{0:?} is no field: write \"Name: value\"")]
    Field(String),
    #[error("the request is refused with {0}: {1}")]
    Refused(u16, String),
}

/// A question whose every part was understood.
#[derive(Clone, Debug)]
pub struct Explained {
    pub request: ClientRequest,
    pub plan: Plan,
    /// Of the resource.
    pub key: Vec<u8>,
    section_fields: HeaderMap,
    directives: cache_core::http::cache_control::RequestDirectives,
}

impl Question {
    /// The request that is asked about.
    ///
    /// # Errors
    /// The URL, the method or a field is none.
    pub fn request(&self) -> Result<ClientRequest, ExplainError> {
        let bad_url = |why: &str| ExplainError::Url(self.url.clone(), why.to_owned());
        let uri: http::Uri = self
            .url
            .parse()
            .map_err(|_| bad_url("not a URL of the form https://host[:port]/path[?query]"))?;
        let (Some("https" | "http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(bad_url(
                "not a URL of the form https://host[:port]/path[?query]",
            ));
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('?') {
            format!("/{target}")
        } else {
            target.to_owned()
        };
        let mut headers = HeaderMap::new();
        for line in &self.headers {
            let bad = || ExplainError::Field(line.clone());
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
            headers.append(
                name,
                HeaderValue::from_str(value.trim()).map_err(|_| bad())?,
            );
        }
        headers.remove(http::header::HOST);
        Ok(ClientRequest {
            method: Method::from_bytes(self.method.as_bytes())
                .map_err(|_| ExplainError::Method(self.method.clone()))?,
            secure: uri.scheme_str() == Some("https"),
            authority: Bytes::copy_from_slice(authority.as_str().as_bytes()),
            target: Bytes::from(target),
            headers,
            body: cache_core::io::RequestBody::default(),
        })
    }
}

impl Rulebook {
    /// What the configuration says of a request.
    ///
    /// # Errors
    /// The request is refused.
    pub fn plan(&self, request: ClientRequest) -> Result<Explained, ExplainError> {
        let mut section = FieldSection::new(self.max_field_section);
        section.read_plain(&request).map_err(|error| match error {
            Some(error) => ExplainError::Refused(400, error.reason.to_owned()),
            None => ExplainError::Refused(431, "its fields are too large".to_owned()),
        })?;
        let (mut key, mut spare) = (Vec::new(), Vec::new());
        let routes = &self.caching.routes;
        let plan = explain::plan(&section, routes, self.max_target, &mut key, &mut spare);
        let plan = plan.map_err(|error| {
            let status = match error {
                key::BadRequest::TooLong { .. } => 414,
                _ => 400,
            };
            ExplainError::Refused(status, error.to_string())
        })?;
        let origin = self.origin(&key);
        let section_fields = origin.map_or_else(HeaderMap::new, |origin| {
            let shown = Shown {
                origin: &origin.client_fields,
                key: &routes.rules(plan.route).key,
            };
            forward::shared(&section, shown)
        });
        let directives = wants::read(&section, self.caching.client_cache_control);
        Ok(Explained {
            request,
            plan,
            key,
            section_fields,
            directives,
        })
    }

    fn origin(&self, key: &[u8]) -> Option<&OriginRoute> {
        let host = key::host(key);
        let serves = |origin: &&OriginRoute, name: &[u8]| {
            origin.hosts.iter().any(|host| host.as_bytes() == name)
        };
        let mut origins = self.origins.iter();
        let by_name = origins.find(|origin| serves(origin, host));
        by_name.or_else(|| self.origins.iter().find(|origin| serves(origin, b"*")))
    }

    /// The whole answer. `seen` is what the key's owner said, at `now_s`.
    pub fn report(&self, explained: &Explained, seen: Option<&Seen>, now_s: Option<u64>) -> Report {
        let routes = &self.caching.routes;
        let rules = routes.rules(explained.plan.route);
        let origin = self.origin(&explained.key);
        let verdict = match origin {
            Some(_) => explain::verdict(&explained.plan, &explained.directives, seen),
            None => Verdict {
                does: "refuse",
                why: "421: no [[origin]] serves this host".to_owned(),
            },
        };
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let fields = seen.map_or(&[][..], |seen| &seen.fields);
        Report {
            verdict: verdict.does.to_owned(),
            why: verdict.why,
            origin: origin.map(|origin| origin.name.clone()),
            route: routes
                .route(explained.plan.route)
                .map(|route| route.name.clone()),
            class: rules.class_name.clone(),
            key: text(vary::base(&explained.key)),
            variant: fields
                .iter()
                .map(|name| selected(name, &explained.section_fields))
                .collect(),
            sent: pairs(&explained.section_fields),
            rules: shown_rules(rules, &self.caching),
            tier: seen.map(|seen| {
                match seen.place {
                    Place::Memory => "ram",
                    Place::Tier => "nvme",
                    Place::Nowhere => "absent",
                }
                .to_owned()
            }),
            pinned: seen.map(|seen| seen.pinned),
            object: seen
                .and_then(|seen| seen.object.as_ref())
                .map(|object| self.object(object, rules)),
            now_s,
        }
    }

    fn object(&self, object: &SeenObject, rules: &Rules) -> ObjectReport {
        let SeenObject {
            times,
            stands,
            headers,
            ..
        } = object;
        let status = StatusCode::from_u16(object.status).unwrap_or_default();
        let facts = RequestFacts::default();
        let again = freshness::policy(
            facts,
            status,
            headers,
            object.stored_unix_ms,
            &self.caching,
            rules,
        );
        let same = matches!(again.storage, Storage::Store(t) if t.lifetime_s == times.lifetime_s);
        let source = if same {
            again.reason
        } else {
            "a field that is not kept, or rules of then"
        };
        let state = match (stands.state, object.purged_softly) {
            (_, true) => "purged softly",
            (State::Fresh, _) => "fresh",
            (State::StaleWhileRevalidate, _) => "stale, within stale-while-revalidate",
            (State::StaleIfError, _) => "stale, within stale-if-error",
            (State::Expired, _) => "stale",
        };
        let date = headers.get("date").and_then(|date| date.to_str().ok());
        let date_s = date
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| {
                let since = date.duration_since(std::time::SystemTime::UNIX_EPOCH);
                since.ok().map(|since| since.as_secs() as i64)
            });
        ObjectReport {
            status: object.status,
            bytes: object.body_len,
            surrogate_keys: object.tags,
            state: state.to_owned(),
            age_s: stands.age_s,
            initial_age_s: times.initial_age_s,
            lifetime_s: times.lifetime_s,
            lifetime_source: source.to_owned(),
            ttl_s: stands.ttl_s,
            stale_while_revalidate_s: times.swr_s,
            stale_if_error_s: times.sie_s,
            purged_softly: object.purged_softly,
            origin_clock_ahead_s: date_s.map(|date| date - (object.stored_unix_ms / 1000) as i64),
            fields: pairs(headers)
                .into_iter()
                .filter(|(name, _)| DECIDE.contains(&name.as_str()))
                .collect(),
        }
    }
}

/// Fields of a response that lifetimes come from.
const DECIDE: [&str; 7] = [
    "age",
    "cache-control",
    "cdn-cache-control",
    "date",
    "expires",
    "last-modified",
    "vary",
];

fn selected(name: &HeaderName, sent: &HeaderMap) -> (String, String) {
    let value = sent
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    (
        name.to_string(),
        value.unwrap_or("(absent)".into()).into_owned(),
    )
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let fields = headers.iter();
    fields
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect()
}

fn shown_rules(rules: &Rules, caching: &Caching) -> Vec<(String, String)> {
    let ttl =
        |name: &str, value: std::time::Duration| (name.to_owned(), format!("{}s", value.as_secs()));
    let mut shown = vec![
        ttl(
            "default_ttl",
            rules.default_ttl.unwrap_or(caching.default_ttl),
        ),
        ttl("error_ttl", rules.error_ttl),
        ttl("stale_while_revalidate", rules.stale_while_revalidate),
        ttl(
            "stale_if_error",
            rules.stale_if_error.unwrap_or(caching.stale_if_error),
        ),
    ];
    shown.extend(rules.negative_ttl.map(|value| ttl("negative_ttl", value)));
    shown.extend(rules.force_ttl.map(|value| ttl("force_ttl", value)));
    if rules.compress {
        shown.push(("compress".to_owned(), "true".to_owned()));
    }
    if rules.store_authorized {
        shown.push(("store_authorized".to_owned(), "true".to_owned()));
    }
    if rules.store_posted {
        shown.push(("store_posted".to_owned(), "true".to_owned()));
    }
    if !rules.respect_origin {
        shown.push(("respect_origin".to_owned(), "false".to_owned()));
    }
    shown
}

impl Report {
    /// A page for people.
    pub fn page(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "{name:<9}{value}");
        };
        let joined = |pairs: &[(String, String)], between: &str| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| format!("{name}{between}{value}"));
            pairs.collect::<Vec<_>>().join(", ")
        };
        line("verdict", &format!("{}: {}", self.verdict, self.why));
        line(
            "origin",
            self.origin.as_deref().unwrap_or("none serves this host"),
        );
        line("route", self.route.as_deref().unwrap_or("none"));
        line("class", &self.class);
        line("key", &self.key);
        if !self.variant.is_empty() {
            line("variant", &joined(&self.variant, ": "));
        }
        line("sent", &joined(&self.sent, ": "));
        line("rules", &joined(&self.rules, " "));
        line(
            "tier",
            self.tier
                .as_deref()
                .unwrap_or("not asked: there is no node"),
        );
        if let Some(pinned) = self.pinned {
            line("pinned", if pinned { "yes" } else { "no" });
        }
        if let Some(object) = &self.object {
            let tags = object.surrogate_keys;
            line(
                "object",
                &format!(
                    "{}, {} bytes, {tags} surrogate keys",
                    object.status, object.bytes
                ),
            );
            line("state", &object.state);
            let ObjectReport {
                age_s,
                initial_age_s,
                lifetime_s,
                ttl_s,
                ..
            } = object;
            line(
                "age",
                &format!(
                    "{age_s} s: {initial_age_s} s when it was stored, {} s since",
                    age_s - u64::from(*initial_age_s)
                ),
            );
            line(
                "lifetime",
                &format!(
                    "{lifetime_s} s by {}: {ttl_s} s left",
                    object.lifetime_source
                ),
            );
            let (swr, sie) = (object.stale_while_revalidate_s, object.stale_if_error_s);
            line(
                "windows",
                &format!("{swr} s while it is revalidated, {sie} s while the origin fails"),
            );
            line("by", &joined(&object.fields, ": "));
            if let Some(ahead) = object.origin_clock_ahead_s {
                line(
                    "clocks",
                    &format!("the origin's was {ahead} s ahead when it was stored"),
                );
            }
        }
        out
    }
}
