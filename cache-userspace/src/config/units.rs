//! How values are written in the configuration: sizes, durations, counts, addresses, names.
//!
//! A [`Kind`] reads one TOML value into one Rust type and shows it again in the same notation, so
//! that what `popcache check` prints can be pasted back into the file.

use cache_core::config::ClientFields;
use http::HeaderName;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

/// A TOML value and where it stands in the text.
pub type Node<'t> = Spanned<DeValue<'t>>;

/// Reads and shows one type of value.
pub struct Kind<T> {
    /// Turns a node into a value, or says what is wrong with it.
    pub parse: fn(&Node<'_>) -> Result<T, Invalid>,
    /// The value as it would be written in the file.
    pub show: fn(&T) -> String,
}

/// Why a value was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Bytes of the text that are to blame.
    pub span: Range<usize>,
    /// What was expected and what was found.
    pub message: String,
}

impl Invalid {
    pub fn new(node: &Node<'_>, message: impl Into<String>) -> Self {
        Self {
            span: node.span(),
            message: message.into(),
        }
    }

    pub fn expected(what: &str, node: &Node<'_>) -> Self {
        Self::new(node, format!("expected {what}, found {}", describe(node)))
    }
}

/// Bytes: `"256 MiB"`, `"1 GB"`, or a plain number.
pub const SIZE: Kind<u64> = Kind {
    parse: |node| match node.get_ref() {
        DeValue::Integer(_) => number(node, "a size such as \"64 MiB\""),
        DeValue::String(text) => parse_size(text).map_err(|e| Invalid::new(node, e)),
        _ => Err(Invalid::expected("a size such as \"64 MiB\"", node)),
    },
    show: |bytes| quote(&show_size(*bytes)),
};

/// A length of time: `"50us"`, `"2s"`, `"5m"`. The unit is never left out.
pub const DURATION: Kind<Duration> = Kind {
    parse: |node| match node.get_ref() {
        DeValue::String(text) => parse_duration(text).map_err(|e| Invalid::new(node, e)),
        DeValue::Integer(n) => Err(Invalid::new(
            node,
            format!("a duration needs a unit: write \"{n}s\" or \"{n}ms\""),
        )),
        _ => Err(Invalid::expected("a duration such as \"2s\"", node)),
    },
    show: |duration| quote(&show_duration(*duration)),
};

pub const COUNT: Kind<usize> = Kind {
    parse: |node| number(node, "a whole number"),
    show: usize::to_string,
};

pub const COUNT_U32: Kind<u32> = Kind {
    parse: |node| number(node, "a whole number"),
    show: u32::to_string,
};

pub const BOOL: Kind<bool> = Kind {
    parse: |node| match node.get_ref() {
        DeValue::Boolean(value) => Ok(*value),
        _ => Err(Invalid::expected("true or false", node)),
    },
    show: bool::to_string,
};

pub const TEXT: Kind<String> = Kind {
    parse: |node| text(node, "a string").map(str::to_owned),
    show: |value| quote(value),
};

pub const PATH: Kind<PathBuf> = Kind {
    parse: |node| match text(node, "a file path")? {
        "" => Err(Invalid::new(node, "a path cannot be empty")),
        path => Ok(PathBuf::from(path)),
    },
    show: |path| quote(&path.display().to_string()),
};

/// One file path or a list of them.
pub const PATHS: Kind<Vec<PathBuf>> = Kind {
    parse: |node| one_or_more(node, "a file path", PATH.parse),
    show: |paths| show_list(paths, |path| quote(&path.display().to_string())),
};

/// One beginning of URL paths or a list of them.
pub const PATH_PREFIXES: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "the beginning of a URL path", path_prefix),
    show: |paths| show_list(paths, |path| quote(path)),
};

fn path_prefix(node: &Node<'_>) -> Result<String, Invalid> {
    match text(node, "the beginning of a URL path such as \"/emotes/\"")? {
        path if path.starts_with('/') => Ok(path.to_owned()),
        path => Err(Invalid::new(
            node,
            format!("{path:?} does not begin with `/`, as the paths of URLs do"),
        )),
    }
}

/// A token of RFC 9110 section 5.6.2, as Via and Cache-Status need it.
pub const TOKEN: Kind<String> = Kind {
    parse: |node| match text(node, "a name")? {
        "" => Err(Invalid::new(node, "a name cannot be empty")),
        name => match name.chars().find(|c| !is_token_char(*c)) {
            None => Ok(name.to_owned()),
            Some(c) => Err(Invalid::new(
                node,
                format!("{c:?} cannot stand in a name: use letters, digits and any of -._"),
            )),
        },
    },
    show: |value| quote(value),
};

/// One such name or a list of them.
pub const TOKENS: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a name", TOKEN.parse),
    show: |names| show_list(names, |name| quote(name)),
};

/// A network interface's name: at most 15 bytes (IFNAMSIZ), without `/` and spaces.
pub const INTERFACE: Kind<String> = Kind {
    parse: |node| match text(node, "an interface name")? {
        name if name.is_empty() || name.len() > 15 => Err(Invalid::new(
            node,
            "an interface name has 1 to 15 characters",
        )),
        name if name.contains(['/', ' ', ':']) => Err(Invalid::new(
            node,
            format!("{name:?} is not an interface name (see `ip link`)"),
        )),
        name => Ok(name.to_owned()),
    },
    show: |value| quote(value),
};

pub const ADDRESS: Kind<SocketAddr> = Kind {
    parse: address,
    show: |address| quote(&address.to_string()),
};

/// One address or a list of them.
pub const ADDRESSES: Kind<Vec<SocketAddr>> = Kind {
    parse: |node| one_or_more(node, "an address such as \"192.0.2.1:443\"", address),
    show: |addresses| show_list(addresses, |a| quote(&a.to_string())),
};

/// One address or a list of them, which may be empty.
pub const ANY_ADDRESSES: Kind<Vec<SocketAddr>> = Kind {
    parse: |node| match node.get_ref() {
        DeValue::Array(items) if items.is_empty() => Ok(Vec::new()),
        _ => (ADDRESSES.parse)(node),
    },
    show: ADDRESSES.show,
};

/// One host name, lower-cased.
pub const HOST: Kind<String> = Kind {
    parse: named_host,
    show: |host| quote(host),
};

/// One host name or a list of them, lower-cased.
pub const NAMES: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a host name", named_host),
    show: |hosts| show_list(hosts, |h| quote(h)),
};

/// One host name or a list of them, lower-cased. `*` stands for every host.
pub const HOSTS: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a host name", host),
    show: |hosts| show_list(hosts, |h| quote(h)),
};

pub const FIELD_NAMES: Kind<Vec<HeaderName>> = Kind {
    parse: |node| {
        let what = "a list of field names such as [\"CDN-Cache-Control\"]";
        let Some(items) = node.get_ref().as_array() else {
            return Err(Invalid::expected(what, node));
        };
        items.iter().map(|item| field_name(item, what)).collect()
    },
    show: |names| show_list(names, |name| quote(name.as_str())),
};

fn field_name(node: &Node<'_>, what: &str) -> Result<HeaderName, Invalid> {
    let name = text(node, what)?;
    name.parse()
        .map_err(|_| Invalid::new(node, format!("{name:?} is no field name")))
}

pub const FIELDS: Kind<ClientFields> = Kind {
    parse: |node| {
        let what = "a list of field names such as [\"Accept-Language\"], or [\"*\"]";
        let Some(items) = node.get_ref().as_array() else {
            return Err(Invalid::expected(what, node));
        };
        let mut fields = ClientFields::default();
        for item in items.iter() {
            match text(item, what)? {
                "*" => fields.all = true,
                _ => fields.names.push(field_name(item, what)?),
            }
        }
        Ok(fields)
    },
    show: |fields| {
        let names = fields.names.iter().map(|name| name.as_str());
        let names: Vec<&str> = fields.all.then_some("*").into_iter().chain(names).collect();
        show_list(&names, |name| quote(name))
    },
};

/// Shows a list in TOML.
pub fn show_list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(show).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML basic string.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The string of a node.
pub fn text<'n>(node: &'n Node<'_>, what: &str) -> Result<&'n str, Invalid> {
    node.get_ref()
        .as_str()
        .ok_or_else(|| Invalid::expected(what, node))
}

/// One of a few words. `words` are shown in the message, with the nearest one suggested.
pub fn word<T: Copy>(node: &Node<'_>, words: &[(&str, T)]) -> Result<T, Invalid> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let found = text(node, &format!("one of {}", names.join(", ")))?;
    if let Some((_, value)) = words.iter().find(|(name, _)| *name == found) {
        return Ok(*value);
    }
    let suggestion = match super::raw::nearest(found, names.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    Err(Invalid::new(
        node,
        format!("{found:?} is not one of {}{suggestion}", names.join(", ")),
    ))
}

/// A single value, or an array of at least one.
pub fn one_or_more<T>(
    node: &Node<'_>,
    what: &str,
    parse: fn(&Node<'_>) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    match node.get_ref() {
        DeValue::Array(items) if items.is_empty() => Err(Invalid::new(
            node,
            format!("the list is empty: give {what}"),
        )),
        DeValue::Array(items) => items.iter().map(parse).collect(),
        _ => Ok(vec![parse(node)?]),
    }
}

/// A non-negative integer that fits `T`.
pub fn number<T: TryFrom<i64>>(node: &Node<'_>, what: &str) -> Result<T, Invalid> {
    let DeValue::Integer(n) = node.get_ref() else {
        return Err(Invalid::expected(what, node));
    };
    i64::from_str_radix(n.as_str(), n.radix())
        .ok()
        .filter(|n| *n >= 0)
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| Invalid::new(node, format!("{n} is out of range for {what}")))
}

const SIZE_UNITS: [(&str, u64); 15] = [
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("", 1),
    ("bytes", 1),
];

/// Bytes, as [`SIZE`] reads them.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let count: u64 = digits.parse().map_err(|_| {
        format!("{text:?} is not a size: write a whole number and a unit, such as \"64 MiB\"")
    })?;
    let lower = unit.to_ascii_lowercase();
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == lower)
        .ok_or_else(|| {
            format!("{unit:?} is not a unit of size: use B, KiB, MiB, GiB, TiB or KB, MB, GB, TB")
        })?;
    count
        .checked_mul(*factor)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| format!("{text:?} is more than this machine can address"))
}

/// Bytes in the largest binary unit that divides them.
pub fn show_size(bytes: u64) -> String {
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    for (factor, name) in units {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {name}", bytes / factor);
        }
    }
    format!("{bytes} B")
}

const DURATION_UNITS: [(&str, u64); 9] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let count: u64 = digits.parse().map_err(|_| {
        format!("{text:?} is not a duration: write a whole number and a unit, such as \"500ms\"")
    })?;
    if unit.is_empty() {
        return Err(format!(
            "a duration needs a unit: write \"{count}s\" or \"{count}ms\""
        ));
    }
    let (_, factor) = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("{unit:?} is not a unit of time: use ns, us, ms, s, m, h or d"))?;
    count
        .checked_mul(*factor)
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// A duration in the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (name, factor) in DURATION_UNITS {
        if name != "min" && name != "µs" && nanos.is_multiple_of(u128::from(factor)) {
            return format!("{}{name}", nanos / u128::from(factor));
        }
    }
    format!("{nanos}ns")
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !"+-.,_".contains(c))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn address(node: &Node<'_>) -> Result<SocketAddr, Invalid> {
    let found = text(node, "an address such as \"192.0.2.1:443\"")?;
    if let Ok(address) = found.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(Invalid::new(
                node,
                format!("{found:?} has port 0: name the port"),
            ));
        }
        return Ok(address);
    }
    let hint = if found.parse::<std::net::IpAddr>().is_ok() {
        "the port is missing (and IPv6 goes in brackets)"
    } else {
        "write IP:port, such as \"192.0.2.1:443\" or \"[2001:db8::1]:443\""
    };
    Err(Invalid::new(
        node,
        format!("{found:?} is not an address: {hint}"),
    ))
}

fn named_host(node: &Node<'_>) -> Result<String, Invalid> {
    match host(node)? {
        star if star == "*" => Err(Invalid::new(node, "\"*\" is not the name of one host")),
        name => Ok(name),
    }
}

fn host(node: &Node<'_>) -> Result<String, Invalid> {
    let found = text(node, "a host name")?.to_ascii_lowercase();
    let labels_ok = found.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    let is_v6 = found
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if found == "*" || is_v6 || (labels_ok && found.len() <= 253) {
        return Ok(found);
    }
    let hint = if found.contains("://") {
        "leave out the scheme"
    } else if found.contains(':') {
        "leave out the port"
    } else if found.contains('*') {
        "a `*` stands alone and means every host"
    } else {
        "write it as in a URL, such as \"edge.example\""
    };
    Err(Invalid::new(
        node,
        format!("{found:?} is not a host name: {hint}"),
    ))
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn describe(node: &Node<'_>) -> String {
    match node.get_ref() {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(n) => format!("the number {n}"),
        DeValue::Float(n) => format!("the number {n}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("256 MiB", 256 << 20),
            ("256MiB", 256 << 20),
            ("1 GB", 1_000_000_000),
            ("64k", 64 << 10),
            ("17", 17),
            ("3 b", 3),
            ("2 tib", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1 MiB",
            "1.5 GiB",
            "1 GiBs",
            "99999999 TiB",
            "1 2",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("50us", 50_000),
            ("50 µs", 50_000),
            ("2s", 2_000_000_000),
            ("5m", 300_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in ["", "2", "s", "2 sec", "1.5s", "99999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_values_read_back() {
        for bytes in [0, 1, 1023, 1024, 1_000_000, 64 << 20, 3 << 40] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for nanos in [
            0,
            1,
            999,
            50_000,
            1_500_000,
            2_000_000_000,
            3_600_000_000_000,
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn quoting_survives_hostile_text() {
        for text in ["plain", "with \"quotes\"", "back\\slash", "line\nbreak"] {
            let line = format!("a = {}", quote(text));
            let table: toml::Table = line.parse().expect("valid TOML");
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }
}
