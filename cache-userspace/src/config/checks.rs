//! Checks that need more than one setting, or the files that the configuration names.

use std::collections::HashMap;
use std::path::Path;

use cache_core::store::LARGEST_OBJECT;
use hugepages::PagePolicy;

use super::kinds::MIN_SHARD_RAM;
use super::origins::{FoundOrigin, FoundShield};
use super::raw::{Problem, Reader};
use super::routes::FoundClass;
use super::typed::{Backend, Config};
use super::units::show_size;
use super::{Machine, explain, tier};
use crate::admin::token;

/// Classes are numbered by one byte.
const MAX_CLASSES: usize = 255;

/// Too many classes, or one defined twice.
pub(super) fn classes(reader: &mut Reader<'_, '_>, classes: &[FoundClass]) {
    if classes.len() > MAX_CLASSES {
        let message = format!("{} classes are more than {MAX_CLASSES}", classes.len());
        reader.problem(None, message, None);
    }
    for (index, class) in classes.iter().enumerate() {
        if classes[..index]
            .iter()
            .any(|other| other.route.name == class.route.name)
        {
            let message = format!("class {:?} is defined twice", class.route.name);
            reader.problem(None, message, None);
        }
    }
}

/// There is an origin, and every host name and origin name has one owner.
pub(super) fn origins(reader: &mut Reader<'_, '_>, found: &[FoundOrigin]) {
    if found.is_empty() && !reader.has("origin") {
        let hint = "add one: [[origin]] with name, hosts and url".to_owned();
        reader.problem(None, "no [[origin]]: there is nothing to serve", Some(hint));
    }
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut hosts: HashMap<&str, usize> = HashMap::new();
    for (
        index,
        FoundOrigin {
            origin,
            at,
            hosts_at,
        },
    ) in found.iter().enumerate()
    {
        let Some(origin) = origin else { continue };
        if let Some(first) = names.insert(&origin.name, index) {
            let message = format!(
                "origin {:?} is defined twice (first as number {})",
                origin.name,
                first + 1
            );
            reader.problem(at.clone(), message, None);
        }
        for host in &origin.hosts {
            if let Some(first) = hosts.insert(host, index) {
                let owner = found[first].origin.as_ref().map_or("", |o| o.name.as_str());
                let message = match first == index {
                    true => format!("hosts: {host:?} is listed twice"),
                    false => format!("hosts: {host:?} is already served by origin {owner:?}"),
                };
                reader.problem(hosts_at.clone(), message, None);
            }
        }
    }
}

/// Every shield has a name of its own and serves origins that there are.
pub(super) fn shields(
    reader: &mut Reader<'_, '_>,
    shields: &[FoundShield],
    origins: &[FoundOrigin],
) {
    let known: Vec<&str> = origins
        .iter()
        .filter_map(|found| Some(found.origin.as_ref()?.name.as_str()))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for shield in shields {
        for origin in &shield.origins {
            if !known.contains(&origin.as_str()) {
                let message = format!("origins: there is no [[origin]] named {origin:?}");
                reader.problem(shield.origins_at.clone(), message, None);
            }
        }
        let Some(endpoint) = &shield.endpoint else {
            continue;
        };
        if names.contains(&endpoint.name.as_str()) {
            let message = format!("shield {:?} is defined twice", endpoint.name);
            reader.problem(shield.at.clone(), message, None);
        }
        names.push(&endpoint.name);
    }
}

/// Settings that contradict each other.
pub(super) fn across(reader: &mut Reader<'_, '_>, config: &Config) {
    listen_once(reader, config);
    enough_memory(reader, config);
    tier::across(reader, config);
    let packet = &config.packet;
    if packet.backend == Backend::AfXdp && reader.span("packet", "interface").is_none() {
        let hint =
            "name the interface whose queues carry the traffic: interface = \"eth0\"".to_owned();
        let message = "backend = \"af_xdp\" needs `interface`";
        reader.problem(reader.span("packet", "backend"), message, Some(hint));
    }
    if config.admin.tcp.is_some() && reader.span("admin", "token_file").is_none() {
        let hint =
            "write a secret into a file of mode 0600 and name it: token_file = \"...\"".to_owned();
        let message = "tcp without `token_file`: the admin API is never open without a credential";
        reader.problem(reader.span("admin", "tcp"), message, Some(hint));
    }
    let upstream = &config.upstream;
    if upstream.total_timeout < upstream.first_byte_timeout {
        let message = "total_timeout is shorter than first_byte_timeout";
        let at = reader
            .span("upstream", "total_timeout")
            .or_else(|| reader.span("upstream", "first_byte_timeout"));
        reader.problem(at, message, None);
    }
    let (outlier, breaker) = (&upstream.policy.outlier, &upstream.policy.breaker);
    for (most, is_most, least, is_least) in [
        (
            "max_ejection",
            outlier.max_ejection,
            "ejection",
            outlier.ejection,
        ),
        (
            "breaker_max_open",
            breaker.max_open,
            "breaker_open",
            breaker.open,
        ),
    ] {
        if is_most < is_least {
            let at = reader
                .span("upstream", most)
                .or_else(|| reader.span("upstream", least));
            reader.problem(at, format!("{most} is shorter than {least}"), None);
        }
    }
}

fn listen_once(reader: &mut Reader<'_, '_>, config: &Config) {
    let listen = &config.server.listen;
    for (index, address) in listen.iter().enumerate() {
        if listen[..index].contains(address) {
            let at = reader.span("server", "listen");
            reader.problem(at, format!("listen: {address} is listed twice"), None);
        }
    }
}

fn enough_memory(reader: &mut Reader<'_, '_>, config: &Config) {
    let shards = config.server.cpus.len().max(1) as u64;
    let share = config.memory.ram / shards;
    let at = || {
        reader
            .span("memory", "ram")
            .or_else(|| reader.span("server", "cores"))
    };
    if share < MIN_SHARD_RAM {
        let message = format!(
            "ram: {} for {shards} shards is {} each; a shard needs {}",
            show_size(config.memory.ram),
            show_size(share),
            show_size(MIN_SHARD_RAM),
        );
        let hint = format!(
            "set ram to {} or name fewer cores",
            show_size(MIN_SHARD_RAM * shards)
        );
        reader.problem(at(), message, Some(hint));
    }
    if config.memory.pages == PagePolicy::Huge1G && !config.memory.ram.is_multiple_of(1 << 30) {
        let message = format!(
            "pages = \"1g\": ram ({}) is not whole pages of 1 GiB",
            show_size(config.memory.ram)
        );
        let whole = config.memory.ram.next_multiple_of(1 << 30);
        let hint = format!("set ram to {} or pages to \"2m\"", show_size(whole));
        reader.problem(reader.span("memory", "pages"), message, Some(hint));
    }
}

/// What is legal and probably not meant.
pub(super) fn warnings(config: &Config, machine: &Machine) -> Vec<String> {
    let mut out = Vec::new();
    if config.tls.files.is_none() {
        out.push(format!(
            "no tls.certificate: a self-signed one is made for {} at every start; browsers will not trust it",
            config.tls.names.join(", "),
        ));
    }
    if config.packet.interface.is_none() {
        out.push(
            "no packet.interface: no XDP program, the kernel spreads datagrams over the cores"
                .to_owned(),
        );
    }
    if config.admin.tcp.is_some_and(|tcp| !tcp.ip().is_loopback()) {
        out.push(
            "admin.tcp is not a loopback address: the token crosses the network unencrypted"
                .to_owned(),
        );
    }
    if config.admin.tcp.is_none() && config.admin.token_file.is_some() {
        out.push("admin.token_file has no effect without admin.tcp".to_owned());
    }
    let largest = largest_object(config);
    let asked = config.line_of("cache", "max_object").is_some();
    if asked && config.limits.max_object > largest {
        out.push(format!(
            "cache.max_object is {}, but a shard's memory keeps objects up to about {}: raise memory.ram",
            show_size(config.limits.max_object),
            explain::rounded(largest),
        ));
    }
    let worst = explain::MemoryUse::of(config).total();
    if machine.memory > 0 && worst > machine.memory / 10 * 9 {
        out.push(format!(
            "at every bound at once the node would use {}; the machine has {}",
            show_size(worst & !0xfffff),
            show_size(machine.memory & !0xfffff),
        ));
    }
    out
}

/// Half of what large bodies may take of a shard's memory, within the store's own bound.
fn largest_object(config: &Config) -> u64 {
    let share = config.memory.ram / config.server.cpus.len().max(1) as u64;
    let large = (share as f64 * f64::from(config.memory.large_share)) as u64;
    (large / 2).min(LARGEST_OBJECT)
}

/// Looks at the files that the configuration names; certificates are looked at by
/// [`crate::tls_files`].
pub(super) fn files(config: &mut Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let (Some(_), Some(path)) = (config.admin.tcp, &config.admin.token_file)
        && let Err(error) = token::Token::load(path)
    {
        problems.push(Problem {
            line: config.line_of("admin", "token_file"),
            column: None,
            message: format!("token_file: {error}"),
            hint: None,
        });
    }
    for (index, origin) in config.origins.iter().enumerate() {
        if let Some(path) = &origin.ca
            && let Err(error) = crate::tls_files::load_authorities(path)
        {
            problems.push(Problem {
                line: config.line_in("origin", index, "ca"),
                column: None,
                message: format!("ca: {error:#}"),
                hint: None,
            });
        }
    }
    for (index, shield) in config.upstream.shields.iter().enumerate() {
        let endpoint = &shield.endpoint;
        if let Some(path) = &endpoint.ca
            && let Err(error) = crate::tls_files::load_authorities(path)
        {
            problems.push(Problem {
                line: config.line_in("shield", index, "ca"),
                column: None,
                message: format!("ca: {error:#}"),
                hint: None,
            });
        }
    }
    if let Some(interface) = &config.packet.interface
        && !Path::new("/sys/class/net").join(interface).exists()
    {
        config.warnings.push(format!(
            "packet.interface: {interface:?} does not exist on this machine now"
        ));
    }
    problems
}
