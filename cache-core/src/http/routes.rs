//! Which rules hold for a request: routes match host, path, extension and method; each has a class's
//! rules, with its own changes to them.
//!
//! The first route whose every condition holds counts. Conditions are compared with the canonical
//! key, so that no spelling of a URL is a way round a rule. Matching compares bytes: there are no
//! regular expressions.

use std::time::Duration;

use http::Method;

use super::candidates::Candidates;
use super::key::{self, KeyError};
use super::key_rules::{KeyRules, split_query};
use super::pattern::Pattern;
use super::vary;
use crate::conn::h3::priority::DEFAULT_URGENCY;
use crate::stats::MAX_COUNTED;

/// What holds for the objects of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Number of the class, for its budget; 0: none.
    pub class: u8,
    pub class_name: String,
    /// False: every request goes to the origin for itself.
    pub cache: bool,
    /// False: what the origin says of lifetimes and windows does not count. no-store, private and
    /// Set-Cookie always do.
    pub respect_origin: bool,
    /// Lifetime of a response that names none; `None`: that of [`crate::config::Caching`].
    pub default_ttl: Option<Duration>,
    /// The same of 404, 405, 410, 414 and 501; `None`: as of any other.
    pub negative_ttl: Option<Duration>,
    /// The same of 500, 502, 503 and 504.
    pub error_ttl: Duration,
    /// No error is kept longer, whatever lifetime it names.
    pub negative_max: Duration,
    /// Windows of a response that names none; `None`: those of [`crate::config::Caching`].
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Option<Duration>,
    /// Bounds of every lifetime of a response that may be kept.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// Counts in the place of every lifetime.
    pub force_ttl: Option<Duration>,
    /// Variants of one resource, if fewer than [`crate::config::Limits::max_variants`].
    pub max_variants: u32,
    pub key: KeyRules,
    /// Requests with Authorization are looked up, and their answers kept where RFC 9111 section 3.5
    /// lets others have them. False: each goes to the origin as it is.
    pub store_authorized: bool,
    /// Answers to POST are kept for GET where they may be (RFC 9110 section 9.3.3).
    pub store_posted: bool,
    /// Text that the origin sends as it is is compressed, in the coding that the fetch asks for.
    pub compress: bool,
    /// Of answers to requests that say nothing about it (RFC 9218): 0 goes first, 7 last.
    pub urgency: u8,
}

/// No lifetime is longer, and no shorter bound is set.
pub const NO_BOUND: Duration = Duration::from_secs(super::cache_control::MAX_SECONDS as u64);

impl Default for Rules {
    fn default() -> Self {
        Self {
            class: 0,
            class_name: "other".to_owned(),
            cache: true,
            respect_origin: true,
            default_ttl: None,
            negative_ttl: None,
            error_ttl: Duration::ZERO,
            negative_max: NO_BOUND,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: None,
            min_ttl: Duration::ZERO,
            max_ttl: NO_BOUND,
            force_ttl: None,
            max_variants: u32::MAX,
            key: KeyRules::default(),
            store_authorized: false,
            store_posted: false,
            compress: false,
            urgency: DEFAULT_URGENCY,
        }
    }
}

/// Conditions, all of which must hold, and what holds then. An empty list is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: String,
    /// Lower-case host names, or `*.` and the end of some.
    pub hosts: Vec<String>,
    /// Beginnings of paths, or whole ones where they have a `*`.
    pub paths: Vec<Pattern>,
    /// Without their dot.
    pub extensions: Vec<String>,
    pub methods: Vec<Method>,
    pub rules: Rules,
}

/// Names a route; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteId {
    /// From 1.
    number: u16,
    generation: u16,
}

/// All routes, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    routes: Vec<Route>,
    candidates: Candidates,
    plain: Rules,
    /// Names of the classes that are counted, and the number of each route's among them.
    classes: Vec<String>,
    counted: Vec<u8>,
    /// Which configuration since the start this is, so that ids of another are known.
    generation: u16,
}

impl Default for Routes {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Routes {
    /// Most routes that there can be.
    pub const MAX: usize = 1024;

    /// What is past [`Self::MAX`] is never looked at; the configuration refuses it.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.truncate(Self::MAX);
        let plain = Rules::default();
        let mut classes = vec![plain.class_name.clone()];
        let counted = routes
            .iter()
            .map(|route| number_of(&route.rules, &mut classes));
        let counted = counted.collect();
        Self {
            candidates: Candidates::new(&routes),
            routes,
            plain,
            classes,
            counted,
            generation: 0,
        }
    }

    /// Comes into force after `former`: classes keep the numbers of their counters, and ids of its routes are
    /// told from ours.
    pub fn after(mut self, former: &Self) -> Self {
        let mut classes = former.classes.clone();
        let routes = self.routes.iter();
        let counted = routes.map(|route| number_of(&route.rules, &mut classes));
        self.counted = counted.collect();
        self.classes = classes;
        self.generation = former.generation.wrapping_add(1);
        self
    }

    /// Gives every route the budget that `number` has for its class.
    pub fn with_budgets(mut self, number: impl Fn(&str) -> u8) -> Self {
        for route in &mut self.routes {
            route.rules.class = number(&route.rules.class_name);
        }
        self
    }

    /// Names of the classes in the order of their counters; the first one is of what no route fits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The number of the counters of a route's class.
    pub fn counted(&self, id: RouteId) -> u8 {
        self.index(id)
            .and_then(|route| self.counted.get(route))
            .copied()
            .unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The route of a key and a method.
    pub fn find(&self, key: &[u8], method: &[u8]) -> RouteId {
        if self.routes.is_empty() {
            return RouteId::default();
        }
        let (host, path) = (key::host(key), split_query(key::split(key).1).0);
        let holds = |number: usize| self.routes[number].holds(host, path, method);
        let found = self.candidates.first(host, path, holds);
        found.map_or_else(RouteId::default, |index| RouteId {
            number: index as u16 + 1,
            generation: self.generation,
        })
    }

    /// Rules of a route, or those where none is.
    pub fn rules(&self, id: RouteId) -> &Rules {
        self.route(id).map_or(&self.plain, |route| &route.rules)
    }

    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(self.index(id)?)
    }

    /// Rules of what is asked for under `key`, a variant's or not. `id` is its route, perhaps by a former
    /// configuration: then it is looked for again.
    pub fn rules_of(&self, id: RouteId, key: &[u8]) -> &Rules {
        let is_ours = id.generation == self.generation;
        match is_ours {
            true => self.rules(id),
            false => self.rules(self.find(vary::base(key), b"GET")),
        }
    }

    fn index(&self, id: RouteId) -> Option<usize> {
        let is_ours = id.generation == self.generation;
        usize::from(id.number).checked_sub(1).filter(|_| is_ours)
    }

    /// Rewrites a key that [`key::write_key`] wrote as the rules of its route say, for a request that
    /// is looked up (GET or HEAD). `spare` is room to work in.
    pub fn rewrite(&self, key: &mut Vec<u8>, spare: &mut Vec<u8>) -> RouteId {
        let id = self.find(key, b"GET");
        self.rules(id).key.rewrite(key, spare);
        id
    }

    /// Whether a key stays as it is when it is looked up, so that what is kept under it is found.
    pub fn is_canonical(&self, key: &[u8]) -> bool {
        let mut rewritten = key.to_vec();
        self.rewrite(&mut rewritten, &mut Vec::new());
        rewritten == key
    }

    /// The cache key of a GET for `https://host[:port]/path[?query]`.
    pub fn key_of_url(&self, url: &str) -> Result<Vec<u8>, KeyError> {
        let mut key = key::key_of_url(url)?;
        self.rewrite(&mut key, &mut Vec::new());
        Ok(key)
    }
}

impl Route {
    pub(super) fn holds(&self, host: &[u8], path: &[u8], method: &[u8]) -> bool {
        let any_path = self.paths.is_empty() || self.paths.iter().any(|p| p.begins(path));
        any_path
            && (self.extensions.is_empty() || has_extension(path, &self.extensions))
            && (self.hosts.is_empty() || self.hosts.iter().any(|h| is_host(host, h)))
            && (self.methods.is_empty() || self.methods.iter().any(|m| is_method(method, m)))
    }
}

/// The number of a class among those that are counted. The last number is that of all for which there
/// is none.
fn number_of(rules: &Rules, classes: &mut Vec<String>) -> u8 {
    let known = classes.iter().position(|name| *name == rules.class_name);
    let number = known.unwrap_or_else(|| {
        if classes.len() < MAX_COUNTED {
            classes.push(rules.class_name.clone());
        }
        classes.len() - 1
    });
    number as u8
}

/// What answers GET answers HEAD.
fn is_method(method: &[u8], wanted: &Method) -> bool {
    let wanted = wanted.as_str().as_bytes();
    method == wanted || (method == b"HEAD" && wanted == b"GET")
}

fn is_host(host: &[u8], wanted: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end.as_bytes()),
        None => host == wanted.as_bytes(),
    }
}

fn has_extension(path: &[u8], wanted: &[String]) -> bool {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let dot = name.iter().rposition(|&b| b == b'.');
    let Some(extension) = dot.map(|at| &name[at + 1..]) else {
        return false;
    };
    let is = |wanted: &String| extension.eq_ignore_ascii_case(wanted.as_bytes());
    wanted.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::key_rules::Query;

    fn route(name: &str) -> Route {
        Route {
            name: name.to_owned(),
            hosts: Vec::new(),
            paths: Vec::new(),
            extensions: Vec::new(),
            methods: Vec::new(),
            rules: Rules::default(),
        }
    }

    fn id(number: u16) -> RouteId {
        RouteId {
            number,
            generation: 0,
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().filter_map(|text| Pattern::new(text)).collect()
    }

    fn routes() -> Routes {
        Routes::new(vec![
            Route {
                hosts: texts(&["img.test", "*.img.test"]),
                extensions: texts(&["png", "webp"]),
                ..route("pictures")
            },
            Route {
                paths: patterns(&["/live/", "/*/live/*"]),
                methods: vec![Method::GET],
                ..route("live")
            },
            Route {
                paths: patterns(&["/api/"]),
                ..route("api")
            },
        ])
    }

    fn found(key: &str, method: &str) -> Option<String> {
        let routes = routes();
        let id = routes.find(key.as_bytes(), method.as_bytes());
        routes.route(id).map(|route| route.name.clone())
    }

    #[test]
    fn every_condition_of_the_first_route_holds() {
        let cases = [
            ("img.test/a.png", "GET", Some("pictures")),
            ("eu.img.test:8443/x/a.PNG?b.gif", "GET", Some("pictures")),
            (".img.test/a.png", "GET", None),
            ("ximg.test/a.png", "GET", None),
            ("img.test/a.gif", "GET", None),
            ("img.test/a.b/png", "GET", None),
            ("e.test/live/a", "GET", Some("live")),
            ("e.test/live/a", "HEAD", Some("live")),
            ("e.test/live/a", "POST", None),
            ("e.test/x/live/y", "GET", Some("live")),
            ("e.test/api/live/y", "GET", Some("live")),
            ("e.test/api/y", "DELETE", Some("api")),
            ("e.test/?/api/", "GET", None),
        ];
        for (key, method, want) in cases {
            assert_eq!(found(key, method).as_deref(), want, "{key} {method}");
        }
    }

    #[test]
    fn no_route_has_the_plain_rules() {
        let routes = routes();
        assert_eq!(routes.rules(RouteId::default()), &Rules::default());
        assert!(Routes::default().is_empty());
        assert_eq!(routes.route(id(9)), None);
    }

    #[test]
    fn routes_of_one_class_are_counted_together() {
        let of = |class: &str| {
            let mut one = route(class);
            one.rules.class_name = class.to_owned();
            one
        };
        let routes = Routes::new(vec![of("emote"), of("other"), of("emote"), of("segment")]);
        assert_eq!(routes.classes(), ["other", "emote", "segment"]);
        let counted = [0, 1, 2, 3, 4, 9].map(|number| routes.counted(id(number)));
        assert_eq!(counted, [0, 1, 0, 1, 2, 0]);
        let names: Vec<String> = (0..200).map(|n| format!("c{n}")).collect();
        let many = Routes::new(names.iter().map(|name| of(name)).collect());
        assert_eq!(many.classes().len(), MAX_COUNTED);
        assert_eq!(usize::from(many.counted(id(200))), MAX_COUNTED - 1);
    }

    #[test]
    fn a_later_configuration_knows_ids_of_the_former_and_keeps_numbers_of_classes() {
        let of = |class: &str, path: &str| {
            let mut one = route(class);
            one.rules.class_name = class.to_owned();
            one.paths = patterns(&[path]);
            one
        };
        let former = Routes::new(vec![of("a", "/a/"), of("b", "/b/")]);
        let key = b"e.test/b/1";
        let old = former.find(key, b"GET");
        let later = Routes::new(vec![of("b", "/b/"), of("c", "/a/")]).after(&former);
        assert_eq!(later.classes(), ["other", "a", "b", "c"]);
        assert_eq!(later.route(old), None, "the second route is another one");
        assert_eq!(later.rules_of(old, key).class_name, "b");
        assert_eq!(later.rules_of(old, b"e.test/b/1\0x").class_name, "b");
        let new = later.find(key, b"GET");
        assert_eq!(later.counted(new), 2);
        assert_eq!(later.rules_of(new, b"e.test/a/1").class_name, "b");
        let budgets = later.with_budgets(|class| u8::from(class == "b") * 7);
        assert_eq!(budgets.rules_of(new, key).class, 7);
        assert_eq!(budgets.rules_of(old, b"e.test/a/1").class, 0);
    }

    #[test]
    fn urls_have_the_keys_of_their_requests() {
        let mut one = Route {
            paths: patterns(&["/a"]),
            ..route("a")
        };
        one.rules.key.query = Query::Without(patterns(&["t"]));
        let routes = Routes::new(vec![one]);
        let key = |url| String::from_utf8(routes.key_of_url(url).unwrap()).unwrap();
        assert_eq!(key("https://E.test/a?t=1&x=2"), "e.test/a?x=2");
        assert_eq!(key("https://e.test/b?t=1"), "e.test/b?t=1");
        assert_eq!(routes.key_of_url("a"), Err(KeyError::NotHttps));
    }
}
