//! `[[class]]` and `[[route]]`: what holds for which requests.
//!
//! A class has rules and a budget; a route says which requests are of a class, and changes what it
//! likes of its rules. `paths` of a class stand for a route that has no other condition, after all
//! that are written.

use std::time::Duration;

use cache_core::conn::h3::priority::MAX_URGENCY;
use cache_core::http::classes;
use cache_core::http::key_rules::{KeyRules, Query};
use cache_core::http::routes::{NO_BOUND, Route, Routes, Rules};

use super::raw::{Reader, Section, nearest};
use super::route_kinds::{
    CODINGS, EXTENSIONS, HOST_PATTERNS, MEDIA_TYPES, METHODS, PARAMETERS, PATH_PATTERNS, SEGMENTS,
    USER_AGENTS,
};
use super::units::{BOOL, COUNT_U32, DURATION, FIELD_NAMES, SIZE, TOKEN};

/// A class as the file defines it.
pub(super) struct FoundClass {
    pub ram: u64,
    /// Of the requests with `paths`; its rules are those of every route of the class.
    pub route: Route,
}

pub(super) fn read_class(s: &mut Section<'_, '_, '_>) -> Option<FoundClass> {
    let name = s.required("name", &TOKEN, "how routes and the log call it");
    let paths = s.optional(
        "paths",
        &PATH_PATTERNS,
        "beginnings of paths, or whole ones with a *, of its objects where no route says otherwise",
    );
    let ram = s.setting(
        "ram",
        &SIZE,
        0,
        "memory of the node that its objects take before they are evicted ahead of all others; 0: no limit",
    );
    let rules = read_rules(s, classes::rules(name.as_deref().unwrap_or_default()));
    let route = Route {
        name: name?,
        hosts: Vec::new(),
        paths: paths.unwrap_or_default(),
        extensions: Vec::new(),
        methods: Vec::new(),
        rules,
    };
    Some(FoundClass { ram, route })
}

/// All routes: those of the file, then those of classes with paths.
pub(super) fn read_routes(reader: &mut Reader<'_, '_>, found: Vec<FoundClass>) -> Routes {
    let classes: Vec<Route> = found
        .into_iter()
        .zip(1u8..=255)
        .map(|(FoundClass { mut route, .. }, number)| {
            route.rules.class = number;
            route
        })
        .collect();
    let routes = reader.sections("route", |s| read_route(s, &classes));
    let mut routes: Vec<Route> = routes.into_iter().flatten().collect();
    routes.extend(classes.into_iter().filter(|class| !class.paths.is_empty()));
    if routes.len() > Routes::MAX {
        let message = format!("{} routes are more than {}", routes.len(), Routes::MAX);
        reader.problem(None, message, None);
    }
    Routes::new(routes)
}

fn read_route(s: &mut Section<'_, '_, '_>, classes: &[Route]) -> Option<Route> {
    let name = s.required("name", &TOKEN, "how `popcache explain` calls it");
    let hosts = s.optional(
        "hosts",
        &HOST_PATTERNS,
        "host names, \"*.example.com\" for all below one; unset: every host",
    );
    let paths = s.optional(
        "paths",
        &PATH_PATTERNS,
        "beginnings of paths, or whole ones with a * for any bytes; unset: every path",
    );
    let extensions = s.optional(
        "extensions",
        &EXTENSIONS,
        "what the path ends with after a dot; unset: anything",
    );
    let methods = s.optional("methods", &METHODS, "unset: every method");
    let class = s.setting(
        "class",
        &TOKEN,
        "other".to_owned(),
        "whose rules hold but for what follows",
    );
    let rules = match classes.iter().find(|known| known.name == class) {
        Some(known) => known.rules.clone(),
        None => {
            check_class(s, &class, classes);
            classes::rules(&class)
        }
    };
    let rules = read_rules(s, rules);
    Some(Route {
        name: name?,
        hosts: hosts.unwrap_or_default(),
        paths: paths.unwrap_or_default(),
        extensions: extensions.unwrap_or_default(),
        methods: methods.unwrap_or_default(),
        rules,
    })
}

fn check_class(s: &mut Section<'_, '_, '_>, class: &str, classes: &[Route]) {
    let names = || {
        let known = classes.iter().map(|class| class.name.as_str());
        known.chain(classes::NAMES).chain(["other"])
    };
    if names().any(|name| name == class) {
        return;
    }
    let hint = match nearest(class, names()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "add a [[class]] of that name".to_owned(),
    };
    s.refuse(
        "class",
        format!("class: there is no class {class:?}: {hint}"),
    );
}

fn read_rules(s: &mut Section<'_, '_, '_>, d: Rules) -> Rules {
    let any = Duration::ZERO..=NO_BOUND;
    let rules = Rules {
        cache: s.setting(
            "cache",
            &BOOL,
            d.cache,
            "false: every request goes to the origin for itself",
        ),
        respect_origin: s.setting(
            "respect_origin",
            &BOOL,
            d.respect_origin,
            "false: lifetimes and windows are those below; no-store, private and Set-Cookie count all the same",
        ),
        default_ttl: s
            .optional("default_ttl", &DURATION, "lifetime of a response that names none; unset: the class's, or that of [cache]")
            .or(d.default_ttl),
        negative_ttl: s
            .optional("negative_ttl", &DURATION, "the same of 404, 405, 410, 414 and 501; unset: the class's, or as of any other")
            .or(d.negative_ttl),
        error_ttl: s.bounded(
            "error_ttl",
            &DURATION,
            d.error_ttl,
            any.clone(),
            "the same of 500, 502, 503 and 504, so that a failing origin is asked once a while; 0s: they are not kept",
        ),
        negative_max: s.bounded(
            "negative_max",
            &DURATION,
            d.negative_max,
            any.clone(),
            "no error is kept longer, whatever lifetime it names",
        ),
        stale_while_revalidate: s.bounded(
            "stale_while_revalidate",
            &DURATION,
            d.stale_while_revalidate,
            any.clone(),
            "how long past its lifetime a response that names no such window is served while it is asked for again",
        ),
        stale_if_error: s
            .optional("stale_if_error", &DURATION, "the same while its origin fails; unset: the class's, or that of [cache]")
            .or(d.stale_if_error),
        min_ttl: s.bounded("min_ttl", &DURATION, d.min_ttl, any.clone(), "no lifetime is shorter, but that of no-cache and of errors"),
        max_ttl: s.bounded("max_ttl", &DURATION, d.max_ttl, any, "no lifetime is longer"),
        force_ttl: s
            .optional("force_ttl", &DURATION, "the lifetime of every response that may be kept, whatever it names")
            .or(d.force_ttl),
        max_variants: s.bounded(
            "max_variants",
            &COUNT_U32,
            d.max_variants.min(MAX_VARIANTS),
            1..=MAX_VARIANTS,
            "variants of one resource; past it, or past that of [limits], all of them are forgotten",
        ),
        store_authorized: s.setting(
            "store_authorized",
            &BOOL,
            d.store_authorized,
            "look up requests with Authorization too, and keep what public, s-maxage or must-revalidate lets others have; off, since then they reach the origin without their other fields",
        ),
        store_posted: s.setting(
            "store_posted",
            &BOOL,
            d.store_posted,
            "keep an answer to POST that names its own URL in Content-Location and a lifetime; off, since clients shape it",
        ),
        compress: s.setting(
            "compress",
            &BOOL,
            d.compress,
            "compress text that the origin sends as it is, in the request's bucket of `encodings`",
        ),
        urgency: s.bounded(
            "urgency",
            &COUNT_U32,
            d.urgency.into(),
            0..=u32::from(MAX_URGENCY),
            "which answers of a connection go first where requests do not say (RFC 9218): 0 before 7",
        ) as u8,
        key: read_key(s, d.key),
        class: d.class,
        class_name: d.class_name,
    };
    if rules.min_ttl > rules.max_ttl {
        s.refuse("min_ttl", "min_ttl is longer than max_ttl");
    }
    rules
}

/// As many as one resource may ever have.
const MAX_VARIANTS: u32 = 1 << 20;

fn read_key(s: &mut Section<'_, '_, '_>, d: KeyRules) -> KeyRules {
    let keep = s.optional(
        "query_keep",
        &PARAMETERS,
        "names of the query's parameters that are kept, with * for any bytes; all others are dropped, from the fetch too",
    );
    let drop = s.optional(
        "query_drop",
        &PARAMETERS,
        "names of those that are dropped, such as clients' tokens and marks of campaigns",
    );
    if keep.is_some() && drop.is_some() {
        s.refuse(
            "query_drop",
            "query_drop and query_keep: set one of the two",
        );
    }
    KeyRules {
        query: match (keep, drop) {
            (Some(names), _) => Query::Only(names),
            (None, Some(names)) => Query::Without(names),
            (None, None) => d.query,
        },
        sort: s.setting(
            "query_sort",
            &BOOL,
            d.sort,
            "sort parameters by name; off, since an origin may go by their order",
        ),
        strip: s
            .optional("strip_segments", &SEGMENTS, "segments of the path that are clients' tokens, with * for any bytes: left out of key and fetch")
            .unwrap_or(d.strip),
        headers: s
            .optional("key_headers", &FIELD_NAMES, "fields that the origin sees and that tell variants apart, whatever Vary says")
            .unwrap_or(d.headers),
        accept: s
            .optional("accept", &MEDIA_TYPES, "media types: requests are told apart by the first one that their Accept names")
            .unwrap_or(d.accept),
        codings: s
            .optional("encodings", &CODINGS, "content codings asked of the origin: the first one that Accept-Encoding has; unset: identity")
            .unwrap_or(d.codings),
        user_agents: s
            .optional("user_agents", &USER_AGENTS, "\"name: word|word\": requests are told apart by the first one with a word of their User-Agent")
            .unwrap_or(d.user_agents),
    }
}
