//! The rules of the guard, in the order in which they are asked, and what each one does.
//!
//! A rule that matches drops the packet, or only counts it (monitor), or is off. Every rule has two
//! counters: what it dropped, and what it would have dropped.

/// Declares the enum, its list and its names from one table.
macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $dropped:literal, $monitored:literal;)*) => {
        /// One reason to drop a packet. The number is the rule's bit in [`Modes`].
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            /// Every rule in the order of its number.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant,)*];

            /// Names as an operator writes them, in the order of [`Self::ALL`].
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// Names of the counters of what each rule dropped.
            pub const DROPPED: &'static [&'static str] = &[$($dropped,)*];

            /// Names of the counters of what each rule would have dropped.
            pub const MONITORED: &'static [&'static str] = &[$($monitored,)*];
        }
    };
}

rules! {
    /// An IPv4 or IPv6 fragment, of any protocol. We never need one: QUIC forbids them (RFC 9000
    /// section 14).
    Fragment = "fragment": "dropped_fragment", "monitored_fragment";
    /// A datagram to a served port from a source port that reflectors answer from.
    Amplification = "amplification": "dropped_amplification", "monitored_amplification";
    /// Its source is in the block list. Asked for every protocol.
    BlockList = "block_list": "dropped_block_list", "monitored_block_list";
    /// Not a QUIC header, or lengths that do not fit into the datagram.
    Malformed = "malformed": "dropped_malformed", "monitored_malformed";
    /// An Initial, or a packet of an unknown version, in a datagram below 1,200 bytes: a server must
    /// not answer either (RFC 9000 sections 5.2.2 and 14.1).
    Undersized = "undersized": "dropped_undersized", "monitored_undersized";
    /// Retry or Version Negotiation, which only a server sends.
    FromServer = "from_server": "dropped_from_server", "monitored_from_server";
    /// A version that is neither 1 nor 2, in a datagram large enough for an answer.
    Version = "version": "dropped_version", "monitored_version";
    /// The fixed bit is clear. Peers may clear it (RFC 9287) once they know that we allow it.
    FixedBit = "fixed_bit": "dropped_fixed_bit", "monitored_fixed_bit";
    /// What follows the first packet of a datagram is not another packet of its version.
    Trailing = "trailing": "dropped_trailing", "monitored_trailing";
    /// A short header whose connection id was not issued by us.
    CidMac = "cid_mac": "dropped_cid_mac", "monitored_cid_mac";
    /// More packets from one source than its bucket holds.
    RatePackets = "rate_packets": "dropped_rate_packets", "monitored_rate_packets";
    /// More bytes from one source than its bucket holds.
    RateBytes = "rate_bytes": "dropped_rate_bytes", "monitored_rate_bytes";
    /// More Initials with an id of the client's own choice from one source than its bucket holds.
    RateHandshakes = "rate_handshakes": "dropped_rate_handshakes", "monitored_rate_handshakes";
    /// More TCP connections opened from one source than its bucket holds.
    RateSyns = "rate_syns": "dropped_rate_syns", "monitored_rate_syns";
}

impl Rule {
    /// The rule of this name.
    pub fn named(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        Some(Self::ALL[at])
    }

    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    #[inline(always)]
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Off,
    /// Counts what it would drop.
    Monitor,
    Drop,
}

/// The mode of every rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    drop: u32,
    monitor: u32,
}

impl Modes {
    pub const OFF: Self = Self {
        drop: 0,
        monitor: 0,
    };

    pub const fn set(&mut self, rule: Rule, mode: Mode) {
        self.drop &= !rule.bit();
        self.monitor &= !rule.bit();
        match mode {
            Mode::Off => {}
            Mode::Monitor => self.monitor |= rule.bit(),
            Mode::Drop => self.drop |= rule.bit(),
        }
    }

    pub const fn get(&self, rule: Rule) -> Mode {
        if self.drops(rule) {
            Mode::Drop
        } else if self.monitors(rule) {
            Mode::Monitor
        } else {
            Mode::Off
        }
    }

    #[inline(always)]
    pub const fn drops(&self, rule: Rule) -> bool {
        self.drop & rule.bit() != 0
    }

    #[inline(always)]
    pub const fn monitors(&self, rule: Rule) -> bool {
        self.monitor & rule.bit() != 0
    }

    /// Whether any of `rules` does anything.
    #[inline(always)]
    pub const fn any(&self, rules: [Rule; 4]) -> bool {
        let [a, b, c, d] = rules;
        (self.drop | self.monitor) & (a.bit() | b.bit() | c.bit() | d.bit()) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_together() {
        for (i, rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, i);
            assert_eq!(Rule::named(rule.name()), Some(*rule));
            assert_eq!(Rule::DROPPED[i].strip_prefix("dropped_"), Some(rule.name()));
            assert_eq!(
                Rule::MONITORED[i].strip_prefix("monitored_"),
                Some(rule.name())
            );
        }
        assert!(Rule::ALL.len() <= 32, "a bit each");
        assert_eq!(Rule::named("nonsense"), None);
    }

    #[test]
    fn a_rule_has_one_mode() {
        let mut modes = Modes::OFF;
        for mode in [
            Mode::Drop,
            Mode::Monitor,
            Mode::Off,
            Mode::Monitor,
            Mode::Drop,
        ] {
            modes.set(Rule::CidMac, mode);
            assert_eq!(modes.get(Rule::CidMac), mode);
            assert_eq!(modes.get(Rule::Fragment), Mode::Off);
        }
        use Rule::{CidMac, Fragment, RateSyns, Trailing, Version};
        assert!(modes.any([Fragment, CidMac, Trailing, RateSyns]));
        assert!(!modes.any([Fragment, Version, Trailing, RateSyns]));
    }
}
