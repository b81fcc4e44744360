//! The kinds of value that belong to one setting each; the general ones are in [`super::units`].

use std::path::PathBuf;

use cache_core::config::{ClientCacheControl, Role};
use hugepages::PagePolicy;
use toml::de::DeValue;

use super::tier::Discard;
use super::typed::{Backend, XdpMode};
use super::units::{
    Invalid, Kind, Node, PATH, SIZE, number, one_or_more, parse_size, quote, show_list, show_size,
    text, word,
};
use crate::privileges::Seccomp;

/// Shards are numbered by one byte of the connection id.
pub const MAX_SHARDS: usize = 255;

/// The least memory in which one shard's log of segments can turn over.
pub const MIN_SHARD_RAM: u64 = 8 << 20;

pub const DEFAULT_SOCKET: &str = "/run/popcache/admin.sock";

/// `sun_path` of a Unix socket, without the final NUL
/// (107) and the suffix under which the socket is made before it gets its place.
const MAX_SOCKET_PATH: usize = 90;

pub enum Cores {
    Auto,
    List(Vec<usize>),
}

pub const CORES: Kind<Cores> = Kind {
    parse: |node| {
        if node.get_ref().is_str() {
            return word(node, &[("auto", ())]).map(|()| Cores::Auto);
        }
        let what = "\"auto\" or a list of CPU numbers such as [0, 1]";
        let Some(items) = node.get_ref().as_array() else {
            return Err(Invalid::new(node, format!("expected {what}")));
        };
        let mut cpus = Vec::new();
        for item in items.iter() {
            let cpu = number(item, what)?;
            if cpus.contains(&cpu) {
                return Err(Invalid::new(item, format!("CPU {cpu} is listed twice")));
            }
            cpus.push(cpu);
        }
        match cpus.len() {
            1..=MAX_SHARDS => Ok(Cores::List(cpus)),
            0 => Err(Invalid::new(
                node,
                "the list is empty: name at least one CPU",
            )),
            n => Err(Invalid::new(
                node,
                format!("{n} CPUs are more than {MAX_SHARDS} shards"),
            )),
        }
    },
    show: |cores| match cores {
        Cores::Auto => quote("auto"),
        Cores::List(cpus) => show_list(cpus, usize::to_string),
    },
};

const BACKENDS: [(&str, Backend); 3] = [
    ("auto", Backend::Auto),
    ("udp", Backend::Udp),
    ("af_xdp", Backend::AfXdp),
];

pub const BACKEND: Kind<Backend> = Kind {
    parse: |node| word(node, &BACKENDS),
    show: |backend| show_word(&BACKENDS, *backend),
};

const XDP_MODES: [(&str, XdpMode); 2] = [("native", XdpMode::Native), ("skb", XdpMode::Skb)];

pub const XDP_MODE: Kind<XdpMode> = Kind {
    parse: |node| word(node, &XDP_MODES),
    show: |mode| show_word(&XDP_MODES, *mode),
};

const CLIENT_CACHE_CONTROLS: [(&str, ClientCacheControl); 3] = [
    ("ignore", ClientCacheControl::Ignore),
    ("harmless", ClientCacheControl::Harmless),
    ("follow", ClientCacheControl::Follow),
];

pub const CLIENT_CACHE_CONTROL: Kind<ClientCacheControl> = Kind {
    parse: |node| word(node, &CLIENT_CACHE_CONTROLS),
    show: |mode| show_word(&CLIENT_CACHE_CONTROLS, *mode),
};

const PAGE_POLICIES: [(&str, PagePolicy); 5] = [
    ("auto", PagePolicy::Auto),
    ("1g", PagePolicy::Huge1G),
    ("2m", PagePolicy::Huge2M),
    ("thp", PagePolicy::Thp),
    ("plain", PagePolicy::Plain),
];

pub const PAGES: Kind<PagePolicy> = Kind {
    parse: |node| word(node, &PAGE_POLICIES),
    show: |policy| show_word(&PAGE_POLICIES, *policy),
};

const DISCARDS: [(&str, Discard); 3] = [
    ("auto", Discard::Auto),
    ("on", Discard::On),
    ("off", Discard::Off),
];

pub const DISCARD: Kind<Discard> = Kind {
    parse: |node| word(node, &DISCARDS),
    show: |discard| show_word(&DISCARDS, *discard),
};

fn show_word<T: PartialEq>(words: &[(&str, T)], value: T) -> String {
    let (name, _) = words
        .iter()
        .find(|(_, v)| *v == value)
        .expect("every variant has its word");
    quote(name)
}

pub const POWER_OF_TWO: Kind<u32> = Kind {
    parse: |node| match number::<u32>(node, "a power of two")? {
        n if n.is_power_of_two() => Ok(n),
        n => Err(Invalid::new(
            node,
            format!(
                "{n} is not a power of two: the nearest is {}",
                n.max(1).next_power_of_two()
            ),
        )),
    },
    show: u32::to_string,
};

pub const SIZE_U32: Kind<u32> = Kind {
    parse: |node| {
        let bytes = (SIZE.parse)(node)?;
        u32::try_from(bytes).map_err(|_| Invalid::new(node, "at most \"1 GiB\""))
    },
    show: |bytes| (SIZE.show)(&u64::from(*bytes)),
};

/// A part of a whole, such as 0.5.
pub const SHARE: Kind<f32> = Kind {
    parse: |node| match node.get_ref() {
        DeValue::Float(n) => n
            .as_str()
            .parse()
            .ok()
            .filter(|n: &f32| n.is_finite())
            .ok_or_else(|| Invalid::new(node, format!("{n} is not a share of a whole"))),
        _ => Err(Invalid::new(
            node,
            "expected a share of a whole such as 0.5",
        )),
    },
    show: |share| format!("{share:?}"),
};

/// Bytes a second: `"64 MiB/s"`, or a plain number. Zero is no limit.
pub const RATE: Kind<u64> = Kind {
    parse: |node| match node.get_ref().as_str() {
        None => (SIZE.parse)(node),
        Some(found) => {
            let what = "a rate such as \"64 MiB/s\"";
            let size = found
                .trim_end()
                .strip_suffix("/s")
                .ok_or_else(|| Invalid::new(node, format!("{found:?} is not {what}")))?;
            parse_size(size).map_err(|why| Invalid::new(node, why))
        }
    },
    show: |bytes| quote(&format!("{}/s", show_size(*bytes))),
};

/// How many times a day, such as 1.0 or 0.3. Zero is no limit.
pub const TIMES: Kind<f64> = Kind {
    parse: |node| {
        let digits = match node.get_ref() {
            DeValue::Float(n) => n.as_str(),
            DeValue::Integer(n) => n.as_str(),
            _ => return Err(Invalid::new(node, "expected a number such as 1.0")),
        };
        digits
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())
            .ok_or_else(|| Invalid::new(node, format!("{digits} is not a number such as 1.0")))
    },
    show: |times| format!("{times:?}"),
};

pub const COUNT_U64: Kind<u64> = Kind {
    parse: |node| number(node, "a whole number"),
    show: u64::to_string,
};

pub const SIZE_USIZE: Kind<usize> = Kind {
    parse: |node| {
        let bytes = (SIZE.parse)(node)?;
        usize::try_from(bytes).map_err(|_| Invalid::new(node, "more than this machine can address"))
    },
    show: |bytes| (SIZE.show)(&(*bytes as u64)),
};

pub const SOCKET_PATH: Kind<PathBuf> = Kind {
    parse: |node| {
        let path = (PATH.parse)(node)?;
        match path.as_os_str().len() {
            0..=MAX_SOCKET_PATH => Ok(path),
            n => Err(Invalid::new(
                node,
                format!("a socket's path has at most {MAX_SOCKET_PATH} bytes, this one {n}"),
            )),
        }
    },
    show: |path| (PATH.show)(path),
};

const ROLES: [(&str, Role); 2] = [("edge", Role::Edge), ("shield", Role::Shield)];

pub const ROLE: Kind<Role> = Kind {
    parse: |node| word(node, &ROLES),
    show: |role| show_word(&ROLES, *role),
};

const SECCOMP_WORDS: [(&str, Seccomp); 3] = [
    ("on", Seccomp::On),
    ("log", Seccomp::Log),
    ("off", Seccomp::Off),
];

pub const SECCOMP: Kind<Seccomp> = Kind {
    parse: |node| word(node, &SECCOMP_WORDS),
    show: |seccomp| show_word(&SECCOMP_WORDS, *seccomp),
};

/// One URL or a list of them.
pub const ORIGIN_URLS: Kind<Vec<http::Uri>> = Kind {
    parse: |node| {
        one_or_more(
            node,
            "a URL such as \"https://origin.example\"",
            ORIGIN_URL.parse,
        )
    },
    show: |urls| match &urls[..] {
        [url] => (ORIGIN_URL.show)(url),
        urls => show_list(urls, ORIGIN_URL.show),
    },
};

pub const HEALTH_PATH: Kind<String> = Kind {
    parse: |node| {
        let what = "a path such as \"/healthz\"";
        let found = text(node, what)?;
        let plain = found.bytes().all(|b| b.is_ascii_graphic());
        match found.starts_with('/') && plain {
            true => Ok(found.to_owned()),
            false => Err(Invalid::new(node, format!("{found:?} is not {what}"))),
        }
    },
    show: |path| quote(path),
};

pub const ORIGIN_URL: Kind<http::Uri> = Kind {
    parse: |node| {
        let found = text(node, "a URL such as \"https://origin.example\"")?;
        origin_url(found).map_err(|why| Invalid::new(node, format!("{found:?}: {why}")))
    },
    show: |url| quote(url.to_string().trim_end_matches('/')),
};

fn origin_url(found: &str) -> Result<http::Uri, &'static str> {
    let url: http::Uri = found
        .parse()
        .map_err(|_| "not a URL: write http://HOST:PORT or https://HOST")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("the scheme must be http:// or https://");
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return Err("credentials in the URL are not sent: leave them out");
        }
        Some(authority) if authority.host().is_empty() => return Err("the host is missing"),
        Some(_) => {}
        None => return Err("the host is missing"),
    }
    if url.path() != "/" || url.query().is_some() {
        return Err("a path here has no effect: the client's path is sent as it is");
    }
    Ok(url)
}

pub const LOG_LEVEL: Kind<String> = Kind {
    parse: |node| {
        let found = text(node, "a log level")?;
        match found.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) if !found.trim().is_empty() => plausible_level(node, found),
            Ok(_) => Err(Invalid::new(node, "empty: write \"info\"")),
            Err(error) => Err(Invalid::new(
                node,
                format!("{found:?} is not a log filter: {error}"),
            )),
        }
    },
    show: |level| quote(level),
};

/// A single unknown word would be taken for a module's name and silence everything.
fn plausible_level(node: &Node<'_>, found: &str) -> Result<String, Invalid> {
    const LEVELS: [(&str, ()); 6] = [
        ("off", ()),
        ("error", ()),
        ("warn", ()),
        ("info", ()),
        ("debug", ()),
        ("trace", ()),
    ];
    if found.chars().all(char::is_alphanumeric) {
        word(node, &LEVELS)?;
    }
    Ok(found.to_owned())
}
