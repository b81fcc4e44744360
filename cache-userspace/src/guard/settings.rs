//! What the guard is told to do: by the configuration, and while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cache_ebpf::lists::Prefix;
use cache_ebpf::meter::{HANDSHAKE, Meter, Meters, PACKET};
use cache_ebpf::rule::{Mode, Modes, Rule};
use nix::time::{ClockId, clock_getres};
use serde::{Deserialize, Serialize};

/// `[guard]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    pub modes: Modes,
    pub allow: Vec<Prefix>,
    pub block: Vec<Prefix>,
    pub allow_files: Vec<PathBuf>,
    pub block_files: Vec<PathBuf>,
    /// Source ports of [`Rule::Amplification`].
    pub reflector_ports: Vec<u16>,
    pub limits: SourceLimits,
    /// Of so many matches of a rule on a CPU one is told; a power of two.
    pub event_sample: u32,
    /// Prefixes that may be listed while running.
    pub max_entries: usize,
    pub bucket_key_lifetime: Duration,
    pub cid_key_lifetime: Duration,
    /// What is changed while running is kept here.
    pub state_file: PathBuf,
}

/// The mode of each rule where nothing else is said: dropped is what no good client sends.
pub const fn default_mode(rule: Rule) -> Mode {
    match rule {
        Rule::Amplification
        | Rule::BlockList
        | Rule::Malformed
        | Rule::Undersized
        | Rule::FromServer
        | Rule::CidMac => Mode::Drop,
        // Answers to our own questions may come in fragments; unknown versions want an answer; the
        // fixed bit and what follows a packet may be grease; behind one address may be thousands.
        Rule::Fragment
        | Rule::Version
        | Rule::FixedBit
        | Rule::Trailing
        | Rule::RatePackets
        | Rule::RateBytes
        | Rule::RateHandshakes
        | Rule::RateSyns => Mode::Monitor,
    }
}

/// Ports that reflectors answer from, of those that clients have no reason to use (RFC 9308 section
/// 8.1): quote of the day, chargen, DNS, portmap, NTP, NetBIOS, SNMP, CLDAP, SSDP, WS-Discovery, mDNS,
/// memcached.
pub const REFLECTOR_PORTS: [u16; 12] = [
    17, 19, 53, 111, 123, 137, 161, 389, 1900, 3702, 5353, 11_211,
];

pub const MODES: [(&str, Mode); 3] = [
    ("monitor", Mode::Monitor),
    ("drop", Mode::Drop),
    ("off", Mode::Off),
];

pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Monitor => "monitor",
        Mode::Drop => "drop",
        Mode::Off => "off",
    }
}

/// How much of a thing a source may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// A second, in the long run.
    pub rate: u64,
    /// At once. 0: the thing is not counted.
    pub burst: u64,
}

/// What one source (an IPv4 address, an IPv6 /64) may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLimits {
    pub packets: Rate,
    pub bytes: Rate,
    pub handshakes: Rate,
    /// Absent from what older versions kept.
    #[serde(default = "default_syns")]
    pub syns: Rate,
}

const fn default_syns() -> Rate {
    Rate {
        rate: 200,
        burst: 1_000,
    }
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            packets: Rate {
                rate: 50_000,
                burst: 100_000,
            },
            bytes: Rate {
                rate: 64 << 20,
                burst: 128 << 20,
            },
            handshakes: Rate {
                rate: 200,
                burst: 1_000,
            },
            syns: default_syns(),
        }
    }
}

/// One of [`SourceLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    Packets,
    Bytes,
    Handshakes,
    Syns,
}

impl SourceLimits {
    pub fn set(&mut self, limit: Limit, rate: Rate) {
        match limit {
            Limit::Packets => self.packets = rate,
            Limit::Bytes => self.bytes = rate,
            Limit::Handshakes => self.handshakes = rate,
            Limit::Syns => self.syns = rate,
        }
    }

    /// As the program counts, by the kernel's tick.
    pub fn meters(&self) -> Meters {
        let tick = tick_ns();
        let meter = |Rate { rate, burst }, cost| Meter::new(rate, burst, cost, tick);
        Meters {
            packets: meter(self.packets, PACKET),
            bytes: meter(self.bytes, 1),
            handshakes: meter(self.handshakes, HANDSHAKE),
            syns: meter(self.syns, HANDSHAKE),
        }
    }
}

/// Nanoseconds of the kernel's tick, which is the resolution of its coarse clock.
fn tick_ns() -> u64 {
    const HZ_250: u64 = 4_000_000;
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .ok()
        .and_then(|tick| u64::try_from(tick.tv_nsec()).ok())
        .filter(|ns| *ns > 0)
        .unwrap_or(HZ_250)
}

/// What was changed while running, and goes before the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// By the rule's name.
    #[serde(default)]
    pub modes: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: BTreeMap<Limit, Rate>,
}

impl Overrides {
    /// What is in force for `config`. Names that are not known any more are left out.
    pub fn apply(&self, config: &GuardConfig) -> (Modes, SourceLimits) {
        let (mut modes, mut limits) = (config.modes, config.limits);
        for (rule, mode) in &self.modes {
            if let (Some(rule), Some(mode)) = (Rule::named(rule), mode_named(mode)) {
                modes.set(rule, mode);
            }
        }
        for (limit, rate) in &self.limits {
            limits.set(*limit, *rate);
        }
        (modes, limits)
    }
}

pub fn mode_named(name: &str) -> Option<Mode> {
    let known = MODES.iter().find(|(known, _)| *known == name);
    known.map(|(_, mode)| *mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_send_what_its_limit_says() {
        let limits = SourceLimits::default();
        let meters = limits.meters();
        let a_second = 1_000_000_000 / tick_ns();
        let packets = u64::from(meters.packets.per_tick) * a_second / u64::from(PACKET);
        assert!(
            packets.abs_diff(limits.packets.rate) <= limits.packets.rate / 100,
            "{packets}"
        );
        assert_eq!(meters.bytes.burst, 128 << 20);
        let off = Rate { rate: 5, burst: 0 };
        let none = SourceLimits {
            handshakes: off,
            ..limits
        };
        assert_eq!(none.meters().handshakes.burst, 0);
    }

    #[test]
    fn what_was_changed_goes_before_the_configuration() {
        let mut config = crate::guard::tests::config();
        config.modes.set(Rule::CidMac, Mode::Drop);
        let mut overrides = Overrides::default();
        assert_eq!(overrides.apply(&config), (config.modes, config.limits));
        let rate = Rate { rate: 1, burst: 2 };
        overrides.modes.insert("cid_mac".into(), "monitor".into());
        overrides.modes.insert("no_such_rule".into(), "drop".into());
        overrides.limits.insert(Limit::Bytes, rate);
        let (modes, limits) = overrides.apply(&config);
        assert_eq!(modes.get(Rule::CidMac), Mode::Monitor);
        assert_eq!(limits.bytes, rate);
        assert_eq!(limits.packets, config.limits.packets);
    }
}
