//! `[guard]`: what the XDP program drops, and whom it knows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cache_ebpf::lists::Prefix;
use cache_ebpf::maps::MAX_REFLECTORS;
use cache_ebpf::rule::{Mode, Modes, Rule};
use toml::de::DeValue;

use super::kinds::COUNT_U64;
use super::raw::Section;
use super::units::{
    COUNT, COUNT_U32, DURATION, Invalid, Kind, Node, PATH, PATHS, SIZE, number, one_or_more, quote,
    show_list, text, word,
};
use crate::guard::GuardConfig;
use crate::guard::prefixes;
use crate::guard::settings::{MODES, REFLECTOR_PORTS, Rate, SourceLimits, default_mode, mode_name};

/// Where QUIC answers come from: never a reflector's port to us.
const HTTPS: u16 = 443;

const MODE: Kind<Mode> = Kind {
    parse: |node| word(node, &MODES),
    show: |mode| quote(mode_name(*mode)),
};

/// Any number of prefixes.
const PREFIXES: Kind<Vec<Prefix>> = Kind {
    parse: |node| list(node, "a prefix such as \"192.0.2.0/24\"", prefix),
    show: |prefixes| show_list(prefixes, |prefix| quote(&prefixes::show(prefix))),
};

/// Any number of files.
const FILES: Kind<Vec<PathBuf>> = Kind {
    parse: |node| list(node, "a file path", PATH.parse),
    show: PATHS.show,
};

const PORTS: Kind<Vec<u16>> = Kind {
    parse: |node| {
        let ports = list(node, "a port", port)?;
        if ports.len() <= MAX_REFLECTORS {
            return Ok(ports);
        }
        let message = format!("{} ports are more than {MAX_REFLECTORS}", ports.len());
        Err(Invalid::new(node, message))
    },
    show: |ports| show_list(ports, u16::to_string),
};

fn list<T>(
    node: &Node<'_>,
    what: &str,
    parse: fn(&Node<'_>) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    match node.get_ref() {
        DeValue::Array(items) if items.is_empty() => Ok(Vec::new()),
        _ => one_or_more(node, what, parse),
    }
}

fn prefix(node: &Node<'_>) -> Result<Prefix, Invalid> {
    let text = text(node, "a prefix such as \"192.0.2.0/24\"")?;
    prefixes::parse(text).map_err(|why| Invalid::new(node, why))
}

fn port(node: &Node<'_>) -> Result<u16, Invalid> {
    match number(node, "a port")? {
        0 => Err(Invalid::new(node, "0 is no port")),
        HTTPS => Err(Invalid::new(node, "443 is where QUIC comes from, too")),
        port => Ok(port),
    }
}

pub(super) fn read(s: &mut Section<'_, '_, '_>, base: &Path) -> GuardConfig {
    let modes = read_modes(s);
    let mut files = |key, why| -> Vec<PathBuf> {
        let files = s.setting(key, &FILES, Vec::new(), why);
        files.into_iter().map(|file| base.join(file)).collect()
    };
    let allow_files = files(
        "allow_files",
        "feeds: files with one prefix a line, `#` begins a comment; `popcache guard reload` reads them again",
    );
    let block_files = files("block_files", "the same of the block list");
    let mut prefixes = |key, why| s.setting(key, &PREFIXES, Vec::new(), why);
    let allow = prefixes(
        "allow",
        "prefixes that are neither blocked nor metered, whatever else lists them",
    );
    let block = prefixes(
        "block",
        "prefixes that nothing is taken from, whatever the protocol",
    );
    GuardConfig {
        modes,
        allow,
        block,
        allow_files,
        block_files,
        reflector_ports: s.setting(
            "reflector_ports",
            &PORTS,
            REFLECTOR_PORTS.to_vec(),
            "source ports that reflectors answer from, for `amplification`; 443 cannot be among them",
        ),
        limits: read_limits(s),
        event_sample: read_sample(s),
        max_entries: s.bounded(
            "max_entries",
            &COUNT,
            65_536,
            0..=1 << 20,
            "prefixes listed by `popcache guard block` and `allow`; past it they are refused: use a feed",
        ),
        bucket_key_lifetime: s.bounded(
            "bucket_key_lifetime",
            &DURATION,
            Duration::from_secs(600),
            Duration::from_secs(1)..=Duration::from_secs(86_400),
            "after this sources share their meters with others than before",
        ),
        cid_key_lifetime: s.bounded(
            "cid_key_lifetime",
            &DURATION,
            Duration::from_secs(6 * 3600),
            Duration::from_secs(1)..=Duration::from_secs(30 * 86_400),
            "after this connection ids are made with another key; ids of the three before it stay valid",
        ),
        state_file: base.join(s.setting(
            "state_file",
            &PATH,
            PathBuf::from("/var/lib/popcache/guard.json"),
            "what `popcache guard` changes is kept here over a restart",
        )),
    }
}

fn read_modes(s: &mut Section<'_, '_, '_>) -> Modes {
    let mut modes = Modes::OFF;
    for rule in Rule::ALL {
        let mode = s.setting(rule.name(), &MODE, default_mode(*rule), why(*rule));
        modes.set(*rule, mode);
    }
    modes
}

/// What a rule matches, and why its default is what it is.
fn why(rule: Rule) -> &'static str {
    match rule {
        Rule::Fragment => {
            "IP fragments of any protocol, which QUIC forbids; monitor: answers to this machine's own questions may come in some"
        }
        Rule::Amplification => "datagrams to our ports from `reflector_ports`",
        Rule::BlockList => "sources in the block list; monitor tries a list out",
        Rule::Malformed => "no QUIC header, or lengths that do not fit into the datagram",
        Rule::Undersized => {
            "Initials and unknown versions below 1200 bytes, which a server must not answer (RFC 9000)"
        }
        Rule::FromServer => "Retry and Version Negotiation, which only servers send",
        Rule::Version => {
            "versions other than 1 and 2; monitor: a client of a new one wants to hear which there are"
        }
        Rule::FixedBit => "the fixed bit is clear, which grease may do (RFC 9287)",
        Rule::Trailing => {
            "something behind the first packet that is not another; monitor: an old client may pad so"
        }
        Rule::CidMac => {
            "short headers whose connection id this node has not made: forged, or of a connection long gone"
        }
        Rule::RatePackets => "more packets from a source than `packets_per_source`",
        Rule::RateBytes => "more bytes from a source than `bytes_per_source`",
        Rule::RateHandshakes => {
            "more new connections from a source than `handshakes_per_source`; monitor: thousands may share an address"
        }
        Rule::RateSyns => {
            "more SYNs to our TCP ports from a source than `syns_per_source`; monitor, as with handshakes"
        }
    }
}

/// What the meters can count at once.
const MOST_PACKETS: u64 = 1 << 20;
const MOST_BYTES: u64 = u32::MAX as u64;
const MOST_HANDSHAKES: u64 = u16::MAX as u64;

fn read_limits(s: &mut Section<'_, '_, '_>) -> SourceLimits {
    let d = SourceLimits::default();
    let mut rate = |keys: (&'static str, &'static str), kind, default: Rate, most, why| Rate {
        rate: s.bounded(keys.0, kind, default.rate, 1..=most, why),
        burst: s.bounded(
            keys.1,
            kind,
            default.burst,
            0..=most,
            "how many at once; 0: they are not counted",
        ),
    };
    SourceLimits {
        packets: rate(
            ("packets_per_source", "packets_burst"),
            &COUNT_U64,
            d.packets,
            MOST_PACKETS,
            "packets a second from an IPv4 address or an IPv6 /64, of QUIC and of TCP each",
        ),
        bytes: rate(
            ("bytes_per_source", "bytes_burst"),
            &SIZE,
            d.bytes,
            MOST_BYTES,
            "bytes of UDP payload a second from one source, and as many of TCP",
        ),
        handshakes: rate(
            ("handshakes_per_source", "handshakes_burst"),
            &COUNT_U64,
            d.handshakes,
            MOST_HANDSHAKES,
            "new connections a second from one source",
        ),
        syns: rate(
            ("syns_per_source", "syns_burst"),
            &COUNT_U64,
            d.syns,
            MOST_HANDSHAKES,
            "the same of TCP: SYNs a second from one source",
        ),
    }
}

fn read_sample(s: &mut Section<'_, '_, '_>) -> u32 {
    let sample = s.bounded(
        "event_sample",
        &COUNT_U32,
        1024,
        1..=1 << 30,
        "of so many matches of a rule on a core one is shown by `popcache guard events`; a power of two",
    );
    if !sample.is_power_of_two() {
        s.refuse("event_sample", "event_sample must be a power of two");
        return 1;
    }
    sample
}
