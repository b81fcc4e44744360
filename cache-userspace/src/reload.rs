//! Another configuration for a node that runs: what of it comes into force, and what waits for a restart.
//!
//! The decision is pure. [`crate::node::NodeHandle::reload`] carries it out: whatever can fail is tried
//! first, so that a configuration that cannot be had changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use cache_core::config::{Caching, Limits, Policy};

use crate::config::explain::Setting;
use crate::config::{Config, OriginConfig};

/// Origins since the start, those that are served no more included: each keeps its number, since fetches
/// and objects on their way name it.
pub const MAX_ORIGINS: usize = 1024;

/// What a node is to go by from now on.
#[derive(Debug)]
pub struct Plan {
    /// The running configuration with what changes.
    pub config: Config,
    /// Settings that change.
    pub changed: Vec<String>,
    /// Settings that differ and stay as they are until a restart.
    pub waiting: Vec<String>,
    pub upstream_changed: bool,
}

/// Bounds that are only compared with, so that another value holds from the next comparison on. The
/// others are sizes of tables, windows that are agreed on with clients, or shared with what is made once.
const LIVE_LIMITS: [&str; 17] = [
    "max_connections",
    "retry_above",
    "max_arrivals",
    "tcp_answer_window",
    "max_target",
    "max_flights",
    "max_waiters",
    "max_passes",
    "max_kept_pass",
    "max_ranges",
    "max_sliced",
    "max_slice_fetches",
    "slice_wait",
    "max_heap_fill",
    "window_patience",
    "max_copied_out",
    "retry_after",
];

/// Whether a setting comes into force while the node runs.
fn is_live(section: &str, key: &str) -> bool {
    match section {
        "route" | "origin" | "shield" | "upstream" | "certificate" => true,
        "class" => key != "ram",
        "tls" => !["names", "early_data", "max_sessions"].contains(&key),
        "cache" => ![
            "max_object",
            "compress_threads",
            "compress_max",
            "slice_size",
        ]
        .contains(&key),
        "guard" => !["state_file", "cid_key_lifetime"].contains(&key),
        "limits" => LIVE_LIMITS.contains(&key),
        _ => false,
    }
}

/// Compares `wanted` with what is `running` and works out what the node is to go by.
///
/// # Errors
/// More origins than can be told apart.
pub fn plan(running: &Config, wanted: Config) -> Result<Plan, String> {
    let differ = differences(running, &wanted);
    let name = |(section, key): &(&'static str, &'static str)| shown(running, section, key);
    let (live, waiting): (BTreeSet<_>, BTreeSet<_>) = differ
        .iter()
        .partition(|(section, key)| is_live(section, key));
    let upstream_changed = live
        .iter()
        .any(|(section, _)| ["origin", "shield", "upstream"].contains(section));
    let changed: BTreeSet<String> = live.iter().map(name).collect();
    let waiting: BTreeSet<String> = waiting.iter().map(name).collect();
    Ok(Plan {
        config: merged(running, wanted)?,
        changed: changed.into_iter().collect(),
        waiting: waiting.into_iter().collect(),
        upstream_changed,
    })
}

/// What the shards are told.
pub fn policy(config: &Config) -> Policy {
    Policy {
        origins: config.routes(),
        caching: Caching {
            device: config.server.name.clone(),
            ..config.cache.clone()
        },
        limits: config.limits.clone(),
    }
}

type Key = (&'static str, &'static str);

/// Sections that repeat are compared as a whole list; of classes, budgets go by the class's name.
fn differences(running: &Config, wanted: &Config) -> BTreeSet<Key> {
    let (before, after) = (values(&running.settings), values(&wanted.settings));
    let keys = before.keys().chain(after.keys());
    let differ = keys.filter(|key| before.get(*key) != after.get(*key));
    let differ = differ.map(|(section, _, key)| (*section, *key));
    let mut differ: BTreeSet<Key> = differ.filter(|key| *key != CLASS_RAM).collect();
    if budgets(running) != budgets(wanted) {
        differ.insert(CLASS_RAM);
    }
    differ
}

const CLASS_RAM: Key = ("class", "ram");

fn values(settings: &[Setting]) -> BTreeMap<(&'static str, usize, &'static str), Option<&str>> {
    let keyed = settings.iter().map(|setting| {
        let index = setting.index.unwrap_or(0);
        let key = (setting.section, index, setting.key);
        (key, setting.value.as_deref())
    });
    keyed.collect()
}

fn budgets(config: &Config) -> BTreeMap<&str, u64> {
    let named = config.class_names.iter().map(String::as_str);
    let budgets = named.zip(config.class_bytes.iter().copied());
    budgets.filter(|(_, bytes)| *bytes > 0).collect()
}

fn shown(config: &Config, section: &str, key: &str) -> String {
    const REPEATED: [&str; 5] = ["route", "class", "origin", "shield", "certificate"];
    let is_repeated = REPEATED.contains(&section)
        || config
            .settings
            .iter()
            .any(|setting| setting.section == section && setting.index.is_some());
    match is_repeated {
        true => format!("[[{section}]] {key}"),
        false => format!("{section}.{key}"),
    }
}

/// `wanted`, but for what stays as it is.
fn merged(running: &Config, wanted: Config) -> Result<Config, String> {
    let mut config = Config {
        server: running.server.clone(),
        packet: running.packet.clone(),
        tcp: running.tcp.clone(),
        memory: running.memory.clone(),
        compress: running.compress,
        tier: running.tier.clone(),
        class_bytes: running.class_bytes.clone(),
        class_names: running.class_names.clone(),
        admin: running.admin.clone(),
        log: running.log.clone(),
        limits: limits(&running.limits, &wanted.limits),
        settings: settings(&running.settings, &wanted.settings),
        ..wanted
    };
    config.tls.names.clone_from(&running.tls.names);
    config.tls.early_data = running.tls.early_data;
    config.tls.max_sessions = running.tls.max_sessions;
    config.cache.slice_size = running.cache.slice_size;
    config
        .guard
        .state_file
        .clone_from(&running.guard.state_file);
    config.guard.cid_key_lifetime = running.guard.cid_key_lifetime;
    config
        .upstream
        .node_name
        .clone_from(&running.upstream.node_name);
    config
        .upstream
        .node_id
        .clone_from(&running.upstream.node_id);
    let routes = std::mem::take(&mut config.cache.routes);
    let number = |class: &str| {
        let known = running.class_names.iter().position(|name| name == class);
        known.map_or(0, |at| at as u8 + 1)
    };
    config.cache.routes = routes.with_budgets(number).after(&running.cache.routes);
    keep_numbers(running, &mut config)?;
    Ok(config)
}

/// Every origin has the number that it had; new ones follow.
fn keep_numbers(running: &Config, config: &mut Config) -> Result<(), String> {
    let wanted = std::mem::take(&mut config.origins);
    let asked = std::mem::take(&mut config.upstream.origins);
    let mut wanted: Vec<_> = wanted.into_iter().zip(asked).collect();
    for (former, asked) in running.origins.iter().zip(&running.upstream.origins) {
        let place = wanted.iter().position(|(one, _)| one.name == former.name);
        let (origin, asked) = match place {
            Some(place) => wanted.remove(place),
            None => (nowhere(former), asked.clone()),
        };
        config.origins.push(origin);
        config.upstream.origins.push(asked);
    }
    for (origin, asked) in wanted {
        config.origins.push(origin);
        config.upstream.origins.push(asked);
    }
    match config.origins.len() {
        ..=MAX_ORIGINS => Ok(()),
        many => Err(format!(
            "{many} origins were configured since the start, more than {MAX_ORIGINS}: restart instead"
        )),
    }
}

/// An origin that no host is served by any more.
fn nowhere(former: &OriginConfig) -> OriginConfig {
    OriginConfig {
        hosts: Vec::new(),
        ..former.clone()
    }
}

/// What is in force of the settings, so that what waits is found again the next time.
fn settings(running: &[Setting], wanted: &[Setting]) -> Vec<Setting> {
    let stays = |setting: &Setting| !is_live(setting.section, setting.key);
    let before = values(running);
    let in_force = wanted.iter().map(|setting| {
        let key = (setting.section, setting.index.unwrap_or(0), setting.key);
        let value = before.get(&key).map(|value| value.map(str::to_owned));
        Setting {
            value: match value {
                Some(value) if stays(setting) => value,
                _ => setting.value.clone(),
            },
            ..setting.clone()
        }
    });
    in_force.collect()
}

fn limits(running: &Limits, wanted: &Limits) -> Limits {
    Limits {
        max_connections: wanted.max_connections,
        retry_above: wanted.retry_above,
        max_arrivals: wanted.max_arrivals,
        tcp_answer_window: wanted.tcp_answer_window,
        max_target: wanted.max_target,
        max_flights: wanted.max_flights,
        max_waiters: wanted.max_waiters,
        max_passes: wanted.max_passes,
        max_kept_pass: wanted.max_kept_pass,
        max_ranges: wanted.max_ranges,
        max_sliced: wanted.max_sliced,
        max_slice_fetches: wanted.max_slice_fetches,
        slice_wait: wanted.slice_wait,
        max_heap_fill: wanted.max_heap_fill,
        window_patience: wanted.window_patience,
        max_copied_out: wanted.max_copied_out,
        retry_after: wanted.retry_after,
        ..running.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Machine, parse};

    const ORIGIN: &str =
        "[[origin]]\nname = \"a\"\nhosts = [\"a.test\"]\nurl = \"http://127.0.0.1:1\"\n";

    fn config(text: &str) -> Config {
        let machine = Machine {
            cpus: vec![0, 1],
            memory: 8 << 30,
        };
        parse(text, Path::new("/etc/popcache/popcache.toml"), &machine)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_did_not_change_is_not_named() {
        let running = config(ORIGIN);
        let same = config(&format!("# a line more\n\n{ORIGIN}"));
        let plan = plan(&running, same).expect("a plan");
        assert!(
            plan.changed.is_empty() && plan.waiting.is_empty(),
            "{plan:?}"
        );
        assert!(!plan.upstream_changed);
    }

    #[test]
    fn what_cannot_change_waits_and_is_named_every_time() {
        let running = config(ORIGIN);
        let wanted = || {
            config(&format!(
                "[server]\nname = \"other\"\n[memory]\nram = \"64 MiB\"\n[cache]\ndefault_ttl = \"7s\"\nslice_size = \"2 MiB\"\n\
                 {ORIGIN}[limits]\nmax_waiters = 7\nmax_varying = 9\n[guard]\nstate_file = \"/x\"\nversion = \"off\"\n"
            ))
        };
        let first = plan(&running, wanted()).expect("a plan");
        assert_eq!(
            first.changed,
            ["cache.default_ttl", "guard.version", "limits.max_waiters"]
        );
        let waiting = [
            "cache.slice_size",
            "guard.state_file",
            "limits.max_varying",
            "memory.ram",
            "server.name",
        ];
        assert_eq!(first.waiting, waiting);
        let effective = &first.config;
        assert_eq!(effective.limits.max_waiters, 7);
        assert_eq!(effective.limits.max_varying, running.limits.max_varying);
        assert_eq!(effective.memory.ram, running.memory.ram);
        assert_eq!(effective.cache.slice_size, running.cache.slice_size);
        assert_eq!(policy(effective).caching.default_ttl.as_secs(), 7);
        let again = plan(effective, wanted()).expect("a plan");
        assert!(again.changed.is_empty(), "{:?}", again.changed);
        assert_eq!(again.waiting, waiting);
    }

    #[test]
    fn origins_keep_their_numbers_and_those_that_are_gone_serve_nobody() {
        let running = config(ORIGIN);
        let more = ORIGIN.replace("\"a", "\"b");
        let both = plan(&running, config(&format!("{more}{ORIGIN}"))).expect("a plan");
        assert!(both.upstream_changed);
        let names = |config: &Config| -> Vec<(String, usize)> {
            let origins = config.origins.iter();
            origins
                .map(|one| (one.name.clone(), one.hosts.len()))
                .collect()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(names(&both.config), [(a.clone(), 1), (b.clone(), 1)]);
        let last = plan(&both.config, config(&more)).expect("a plan");
        assert_eq!(names(&last.config), [(a.clone(), 0), (b.clone(), 1)]);
        assert_eq!(last.config.upstream.origins[0].name, "a");
        let back = plan(&last.config, config(&format!("{ORIGIN}{more}"))).expect("a plan");
        assert_eq!(names(&back.config), [(a, 1), (b, 1)]);
    }

    #[test]
    fn budgets_go_by_the_class_that_had_them() {
        let class = |name: &str, ram: &str| {
            format!("[[class]]\nname = \"{name}\"\npaths = \"/{name}/\"\n{ram}")
        };
        let bulk = class("bulk", "ram = \"1 MiB\"\n");
        let running = config(&format!("{bulk}{ORIGIN}"));
        let wanted = config(&format!("{}{bulk}{ORIGIN}", class("new", "")));
        let plan = super::plan(&running, wanted).expect("a plan");
        assert!(plan.waiting.is_empty(), "{:?}", plan.waiting);
        let routes = &plan.config.cache.routes;
        let class_of = |key: &[u8]| routes.rules(routes.find(key, b"GET")).class;
        assert_eq!(class_of(b"a.test/bulk/1"), 1);
        assert_eq!(class_of(b"a.test/new/1"), 0);
        let more = config(&format!("{}{ORIGIN}", class("bulk", "ram = \"2 MiB\"\n")));
        let plan = super::plan(&running, more).expect("a plan");
        assert_eq!(plan.waiting, ["[[class]] ram"]);
    }
}
