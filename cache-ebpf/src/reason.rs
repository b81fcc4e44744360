//! What a packet was found to be: exactly one reason for each packet that was not dropped, each with
//! its counter. What was dropped counts by its rule, see [`crate::rule`].

/// Declares the enum, its list and its names from one table.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a packet was found to be. The number is the counter's index.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// Names as an operator reads them, in the order of [`Self::ALL`].
            pub const NAMES: &'static [&'static str] = &[$($name,)*];
        }
    };
}

reasons! {
    /// The maps were laid out by another version, or are not filled in yet. Nothing was read.
    LayoutMismatch = "layout_mismatch",
    /// Neither IPv4 nor IPv6 below at most two VLAN tags.
    NotIp = "not_ip",
    /// A header up to UDP is cut off, or says that it is longer than the packet.
    Truncated = "truncated",
    /// An IPv4 or IPv6 fragment.
    Fragment = "fragment",
    /// More IPv6 extension headers than are followed.
    Ipv6Extensions = "ipv6_extensions",
    /// ICMP and the like, and TCP to a port that is not ours.
    NotUdp = "not_udp",
    /// UDP to a port that is not ours.
    OtherPort = "other_port",
    /// The beginning of a TCP connection to a port of ours.
    TcpSyn = "tcp_syn",
    /// Any other segment of TCP to a port of ours.
    Tcp = "tcp",
    /// A QUIC version 1 or 2 Initial, large enough (RFC 9000 section 14.1).
    QuicInitial = "quic_initial",
    /// An Initial in a datagram below 1,200 bytes.
    QuicInitialUndersized = "quic_initial_undersized",
    QuicZeroRtt = "quic_0rtt",
    QuicHandshake = "quic_handshake",
    /// A long header of a version that is neither 1 nor 2.
    QuicOtherVersion = "quic_other_version",
    /// The same in a datagram below 1,200 bytes, which gets no answer.
    QuicOtherVersionUndersized = "quic_other_version_undersized",
    /// A short header with a connection id that we issued.
    QuicShort = "quic_short",
    /// A short header whose connection id was not issued by us: forged, stale or corrupt.
    QuicShortUnknown = "quic_short_unknown",
    /// Retry or Version Negotiation, which only a server sends.
    QuicFromServer = "quic_from_server",
    /// Not a QUIC header: cut off, or with lengths that are impossible or do not fit.
    QuicMalformed = "quic_malformed",
}

impl Reason {
    /// Whether it is said of TCP to a served port.
    #[inline(always)]
    pub const fn is_tcp(self) -> bool {
        matches!(self, Reason::TcpSyn | Reason::Tcp)
    }

    /// Whether it is said of datagrams to a served port.
    #[inline(always)]
    pub const fn is_ours(self) -> bool {
        self as u32 >= Reason::QuicInitial as u32
    }
}
