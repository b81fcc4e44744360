//! `[tcp]`: bounds of the connections of clients without UDP.

use std::time::Duration;

use super::kinds::COUNT_U64;
use super::raw::Section;
use super::units::{COUNT, COUNT_U32, DURATION};
use crate::tcp::TcpBounds;

pub(super) fn read(s: &mut Section<'_, '_, '_>) -> TcpBounds {
    let seconds = Duration::from_secs;
    let mut timeout = |key, default, why| {
        s.bounded(
            key,
            &DURATION,
            seconds(default),
            seconds(1)..=seconds(3600),
            why,
        )
    };
    let handshake_timeout = timeout("handshake_timeout", 10, "for the TLS handshake");
    let header_timeout = timeout(
        "header_timeout",
        10,
        "from a request's first byte to the end of its head, however slowly it trickles in",
    );
    let body_timeout = timeout("body_timeout", 60, "for the whole body of a request");
    let idle_timeout = timeout(
        "idle_timeout",
        30,
        "a connection without a request ends after this",
    );
    let send_timeout = timeout(
        "send_timeout",
        30,
        "a client that takes nothing of what waits for it is left after this",
    );
    TcpBounds {
        max_connections: s.bounded(
            "max_connections",
            &COUNT,
            10_000,
            1..=1 << 20,
            "TCP connections of a shard, 128 KiB each at most; past it new ones are closed",
        ),
        max_requests: s.bounded(
            "max_requests",
            &COUNT_U64,
            100_000,
            1..=1 << 40,
            "requests of one connection before the client is asked to open another",
        ),
        max_idle_frames: s.bounded(
            "max_idle_frames",
            &COUNT_U32,
            2_000,
            10..=1 << 20,
            "HTTP/2 frames that do nothing (PING, SETTINGS, RST_STREAM, empty DATA) in a burst; a tenth comes back each second",
        ),
        handshake_timeout,
        header_timeout,
        body_timeout,
        idle_timeout,
        send_timeout,
    }
}
