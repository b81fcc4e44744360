//! Packets and frames that break the rules: each gets the error code that its RFC asks for.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{Backend, Edge, Outcome, SERVER, within};

on_both_backends! {
    every_broken_rule_gets_its_error_code,
    junk_packets_harm_nobody,
    an_unknown_version_is_told_the_known_ones,
}

/// What a probe must lead to.
#[derive(Debug)]
enum Due {
    /// The connection is closed with this code.
    Connection(u64),
    /// The stream is reset with this code, or the request is answered with 400.
    Stream(u64),
    /// The request is answered with this status, and goes no further.
    Status(u16),
    /// Not an error: the request is answered.
    Answer,
}

use Due::{Answer, Connection, Status, Stream};

const STREAM_CREATION_ERROR: u64 = 0x103;
const CLOSED_CRITICAL_STREAM: u64 = 0x104;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const MISSING_SETTINGS: u64 = 0x10a;
const REQUEST_INCOMPLETE: u64 = 0x10d;
const MESSAGE_ERROR: u64 = 0x10e;
const DECOMPRESSION_FAILED: u64 = 0x200;
const ENCODER_STREAM_ERROR: u64 = 0x201;
const DECODER_STREAM_ERROR: u64 = 0x202;

/// Probe, what must come of it, and where that is written.
const RULES: &[(&str, Due, &str)] = &[
    (
        "missing-settings",
        Connection(MISSING_SETTINGS),
        "RFC 9114 6.2.1",
    ),
    (
        "second-settings",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.4",
    ),
    (
        "duplicate-setting",
        Connection(SETTINGS_ERROR),
        "RFC 9114 7.2.4",
    ),
    (
        "http2-setting",
        Connection(SETTINGS_ERROR),
        "RFC 9114 7.2.4.1",
    ),
    ("torn-settings", Connection(FRAME_ERROR), "RFC 9114 7.1"),
    (
        "data-on-control",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.1",
    ),
    (
        "headers-on-control",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.2",
    ),
    (
        "http2-frame-on-control",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.8",
    ),
    (
        "smaller-max-push-id",
        Connection(ID_ERROR),
        "RFC 9114 7.2.7",
    ),
    (
        "control-ends",
        Connection(CLOSED_CRITICAL_STREAM),
        "RFC 9114 6.2.1",
    ),
    (
        "control-reset",
        Connection(CLOSED_CRITICAL_STREAM),
        "RFC 9114 6.2.1",
    ),
    (
        "second-control",
        Connection(STREAM_CREATION_ERROR),
        "RFC 9114 6.2.1",
    ),
    (
        "second-encoder",
        Connection(STREAM_CREATION_ERROR),
        "RFC 9204 4.2",
    ),
    (
        "push-stream",
        Connection(STREAM_CREATION_ERROR),
        "RFC 9114 6.2.2",
    ),
    (
        "encoder-ends",
        Connection(CLOSED_CRITICAL_STREAM),
        "RFC 9204 4.2",
    ),
    (
        "encoder-capacity",
        Connection(ENCODER_STREAM_ERROR),
        "RFC 9204 4.3.1",
    ),
    (
        "encoder-insert",
        Connection(ENCODER_STREAM_ERROR),
        "RFC 9204 3.2.2",
    ),
    (
        "decoder-zero-increment",
        Connection(DECODER_STREAM_ERROR),
        "RFC 9204 4.4.3",
    ),
    (
        "decoder-unknown-section",
        Connection(DECODER_STREAM_ERROR),
        "RFC 9204 4.4.1",
    ),
    (
        "data-before-headers",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 4.1",
    ),
    (
        "settings-on-request",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.4",
    ),
    (
        "http2-frame-on-request",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.8",
    ),
    (
        "push-promise",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.5",
    ),
    (
        "goaway-on-request",
        Connection(FRAME_UNEXPECTED),
        "RFC 9114 7.2.6",
    ),
    ("torn-frame", Connection(FRAME_ERROR), "RFC 9114 7.1"),
    ("no-headers", Stream(REQUEST_INCOMPLETE), "RFC 9114 4.1"),
    (
        "unknown-static-index",
        Connection(DECOMPRESSION_FAILED),
        "RFC 9204 3.1",
    ),
    (
        "dynamic-reference",
        Connection(DECOMPRESSION_FAILED),
        "RFC 9204 4.5.1.1",
    ),
    (
        "torn-field-section",
        Connection(DECOMPRESSION_FAILED),
        "RFC 9204 2.2",
    ),
    ("no-path", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("two-methods", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("unknown-pseudo", Stream(MESSAGE_ERROR), "RFC 9114 4.3"),
    ("pseudo-after-field", Stream(MESSAGE_ERROR), "RFC 9114 4.3"),
    ("upper-case-name", Stream(MESSAGE_ERROR), "RFC 9114 4.2"),
    ("connection-field", Stream(MESSAGE_ERROR), "RFC 9114 4.2"),
    (
        "line-break-in-value",
        Stream(MESSAGE_ERROR),
        "RFC 9114 10.3",
    ),
    ("short-body", Stream(MESSAGE_ERROR), "RFC 9114 4.1.2"),
    ("two-lengths", Stream(MESSAGE_ERROR), "RFC 9114 4.1.2"),
    ("signed-length", Stream(MESSAGE_ERROR), "RFC 9110 8.6"),
    ("long-body", Stream(MESSAGE_ERROR), "RFC 9114 4.1.2"),
    ("transfer-encoding", Stream(MESSAGE_ERROR), "RFC 9114 4.2"),
    ("te-gzip", Stream(MESSAGE_ERROR), "RFC 9114 4.2"),
    ("upgrade", Stream(MESSAGE_ERROR), "RFC 9114 4.2"),
    ("nul-in-value", Stream(MESSAGE_ERROR), "RFC 9110 5.5"),
    (
        "carriage-return-in-value",
        Stream(MESSAGE_ERROR),
        "RFC 9110 5.5",
    ),
    ("space-in-name", Stream(MESSAGE_ERROR), "RFC 9114 10.3"),
    ("colon-in-name", Stream(MESSAGE_ERROR), "RFC 9114 10.3"),
    ("empty-name", Stream(MESSAGE_ERROR), "RFC 9110 5.1"),
    ("two-paths", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("two-authorities", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("empty-path", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("host-differs", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("no-authority", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("empty-authority", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("userinfo", Stream(MESSAGE_ERROR), "RFC 9110 4.2.4"),
    ("space-in-authority", Stream(MESSAGE_ERROR), "RFC 3986 3.2"),
    ("path-in-authority", Stream(MESSAGE_ERROR), "RFC 3986 3.2"),
    ("port-no-number", Stream(MESSAGE_ERROR), "RFC 3986 3.2.3"),
    ("absolute-path", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("no-slash", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("dot-segments", Status(400), "RFC 3986 5.2.4"),
    ("encoded-dot-segments", Status(400), "RFC 3986 6.2.2"),
    ("backslash", Status(400), "RFC 3986 3.3"),
    ("fragment", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("space-in-path", Stream(MESSAGE_ERROR), "RFC 9114 4.3.1"),
    ("line-break-in-path", Stream(MESSAGE_ERROR), "RFC 9114 10.3"),
    ("connect", Status(405), "RFC 9110 9.3.6"),
    ("trace", Status(405), "RFC 9110 9.3.8"),
    ("long-target", Status(414), "RFC 9110 15.5.15"),
    ("long-field", Status(431), "RFC 9114 4.2.2"),
    ("many-fields", Status(431), "RFC 9114 4.2.2"),
    ("plain", Answer, "RFC 9114 4.1"),
    ("greased", Answer, "RFC 9114 7.2.8"),
    ("no-control-stream", Answer, "RFC 9114 6.2"),
    ("byte-by-byte", Answer, "RFC 9000 2.2"),
];

const PROBES_AT_ONCE: usize = 20;

fn every_broken_rule_gets_its_error_code(backend: Backend) {
    let mut edge = Edge::start(backend);
    // Connections that wait for each other would not hear of their end in time.
    let some = |rules: &[(&'static str, Due, &str)]| {
        let names: Vec<_> = rules.iter().map(|(probe, ..)| *probe).collect();
        edge.probe(&names)
    };
    let outcomes: Vec<_> = RULES.chunks(PROBES_AT_ONCE).flat_map(some).collect();
    assert_eq!(outcomes.len(), RULES.len());
    let wrong: Vec<_> = RULES
        .iter()
        .zip(&outcomes)
        .filter(|((_, due, _), outcome)| !is_due(due, outcome))
        .map(|((probe, due, rfc), outcome)| {
            format!("{probe}: {outcome:x?} instead of {due:x?} ({rfc})")
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The four that are in order share one answer of the origin; nothing of the others came there.
    assert_eq!(edge.origin.requests("/emotes/1.png"), 1);
    for path in ["/", "/b", "/a/../b", "/a/b", "/a"] {
        assert_eq!(edge.origin.requests(path), 0, "{path}");
    }
    edge.assert_alive();
}

fn is_due(due: &Due, outcome: &Outcome) -> bool {
    let Outcome {
        connection,
        stream,
        status,
        ..
    } = outcome;
    match due {
        Connection(code) => *connection == Some(*code),
        Stream(code) => *stream == Some(*code) || *status == Some(400),
        Status(code) => *status == Some(*code),
        Answer => *status == Some(200),
    }
}

fn junk_packets_harm_nobody(backend: Backend) {
    let mut edge = Edge::start(backend);
    within(edge.network().client(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        for packet in junk() {
            socket.send_to(&packet, SERVER).expect("send junk");
        }
    });
    edge.curl(&["/emotes/3.png"])[0].assert_body(&edge.origin.body("/emotes/3.png"));
    edge.assert_alive();
}

/// Every first byte, at lengths around the ones that a parser looks at.
fn junk() -> impl Iterator<Item = Vec<u8>> {
    let lengths = [0, 1, 2, 6, 7, 8, 13, 20, 21, 50, 1199, 1200, 1472];
    (0..=u8::MAX).flat_map(move |first| {
        lengths.into_iter().map(move |length| {
            // Not random: a failure shows the same packets again.
            let mut packet: Vec<u8> = (0..length)
                .map(|at: usize| (at * 167 + usize::from(first)) as u8)
                .collect();
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            packet
        })
    })
}

fn an_unknown_version_is_told_the_known_ones(backend: Backend) {
    let edge = Edge::start(backend);
    let answer = within(edge.network().client(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("bound the wait");
        // A long header with version 0x1a2a3a4a, connection ids of 8 bytes, padded to 1,200 bytes.
        let mut packet = vec![
            0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9,
        ];
        packet.resize(1200, 0);
        socket.send_to(&packet, SERVER).expect("send");
        let mut answer = [0; 1500];
        let length = socket
            .recv(&mut answer)
            .expect("a Version Negotiation packet");
        answer[..length].to_vec()
    });
    // RFC 9000 section 17.2.1: version 0, the ids swapped, then the versions.
    assert_eq!(answer[0] & 0x80, 0x80);
    assert_eq!(answer[1..5], [0; 4]);
    assert_eq!(answer[5..14], [8, 9, 9, 9, 9, 9, 9, 9, 9]);
    assert_eq!(answer[14..23], [8, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(
        answer[23..]
            .chunks(4)
            .any(|version| version == [0, 0, 0, 1]),
        "{answer:?}"
    );
}
