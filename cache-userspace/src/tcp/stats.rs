//! Counters of a core's TCP connections.

use cache_core::stats::Stat;

use super::watch::Verdict;

macro_rules! tcp_stats {
    ($($(#[$doc:meta])* $name:ident => $shown:literal,)*) => {
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct TcpStats {
            $($(#[$doc])* pub $name: Stat,)*
        }

        impl TcpStats {
            /// Names and values, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$(($shown, self.$name.get()),)*]
            }
        }
    };
}

tcp_stats! {
    /// Open (gauge).
    connections => "tcp_connections",
    /// Open, of HTTP/2 (gauge).
    h2_connections => "h2_connections",
    /// Open, of HTTP/1.1 (gauge).
    h1_connections => "h1_connections",
    connections_accepted => "tcp_connections_accepted",
    /// `tcp.max_connections`, or a drain.
    connections_refused => "tcp_connections_refused",
    /// TLS that came to nothing.
    handshakes_failed => "tcp_handshakes_failed",
    /// `tcp.handshake_timeout`.
    handshake_timeouts => "tcp_handshake_timeouts",
    /// `tcp.header_timeout`.
    header_timeouts => "tcp_header_timeouts",
    /// `tcp.body_timeout`.
    body_timeouts => "tcp_body_timeouts",
    /// `tcp.idle_timeout`.
    idle_timeouts => "tcp_idle_timeouts",
    /// `tcp.send_timeout`.
    send_timeouts => "tcp_send_timeouts",
    /// `tcp.max_requests`.
    requests_exhausted => "tcp_requests_exhausted",
    /// `tcp.max_idle_frames`.
    floods => "tcp_floods",
    /// Connections that ended because the client broke HTTP.
    protocol_errors => "tcp_protocol_errors",
    /// Requests with more than one length.
    ambiguous_lengths => "tcp_ambiguous_lengths",
    /// `limits.max_request_body`.
    bodies_too_large => "tcp_bodies_too_large",
    /// `limits.max_request_bodies`.
    bodies_refused => "tcp_bodies_refused",
}

impl TcpStats {
    pub fn count(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Keep | Verdict::Drain | Verdict::Leftover => {}
            Verdict::Idle => self.idle_timeouts.inc(),
            Verdict::SlowHandshake => self.handshake_timeouts.inc(),
            Verdict::SlowHead => self.header_timeouts.inc(),
            Verdict::SlowBody => self.body_timeouts.inc(),
            Verdict::SlowReader => self.send_timeouts.inc(),
            Verdict::Flood => self.floods.inc(),
        }
    }
}
