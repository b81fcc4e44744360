"""Breaks one rule of HTTP/3 or QPACK per probe, each on a connection of its own; prints what the
server made of it, as one line of JSON for each.

`connection`: the error code of the connection's close. `stream`: that of the request stream's reset.
`status`: that of a response. `nothing`: none of these came in time.
"""

import argparse
import asyncio
import json

import quic
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.events import (
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from quic import frame, varint

DATA, HEADERS, PRIORITY, CANCEL_PUSH, SETTINGS, PUSH_PROMISE = 0x0, 0x1, 0x2, 0x3, 0x4, 0x5
GOAWAY, MAX_PUSH_ID = 0x7, 0xD
CONTROL, PUSH, ENCODER, DECODER = 0x0, 0x1, 0x2, 0x3
GREASE = 0x21 + 0x1F * 7

# Field lines of the QPACK static table, RFC 9204 appendix A.
PREFIX = b"\x00\x00"
GET, HTTPS, ROOT = b"\xd1", b"\xd7", b"\xc1"


def literal(name, value):
    """A literal field line with a literal name, RFC 9204 section 4.5.6."""
    length = bytes([0x20 | len(name)]) if len(name) < 7 else bytes([0x27, len(name) - 7])
    return length + name + bytes([len(value)]) + value


AUTHORITY = b"\x50" + bytes([len(quic.HOST)]) + quic.HOST.encode()
PATH = b"\x51\x0d/emotes/1.png"
REQUEST = PREFIX + GET + HTTPS + AUTHORITY + PATH


def number(prefix_bits, first, value):
    """An integer with a prefix, RFC 7541 section 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value > 127:
        out, value = out + [value & 127 | 128], value >> 7
    return bytes(out + [value])


def asked(method=b"GET", scheme=b"https", authority=quic.HOST.encode(), path=b"/emotes/1.png", more=()):
    """A field section without references; a pseudo-field that is None is left out."""
    pseudo = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
    lines = [(name, value) for name, value in pseudo if value is not None] + list(more)
    text = b"".join(number(3, 0x20, len(n)) + n + number(7, 0, len(v)) + v for n, v in lines)
    return frame(HEADERS, PREFIX + text)


class Prober(QuicConnectionProtocol):
    """Raw streams: what is sent is what the probe says."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.outcome = asyncio.get_running_loop().create_future()
        self.answer = b""
        self.request_stream = None

    def send(self, stream, data, end=False):
        self._quic.send_stream_data(stream, data, end)

    def unidirectional(self, kind, data=b"", end=False):
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream, varint(kind) + data, end)
        return stream

    def control(self, data=b"", settings=frame(SETTINGS), end=False):
        return self.unidirectional(CONTROL, settings + data, end)

    def request(self, data, end=True):
        self.request_stream = self._quic.get_next_available_stream_id()
        self.send(self.request_stream, data, end)
        return self.request_stream

    def settle(self, **outcome):
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.settle(connection=event.error_code, reason=event.reason_phrase)
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            # A connection error may follow at once, and says more.
            code = event.error_code
            asyncio.get_running_loop().call_later(0.3, lambda: self.settle(stream=code))
        elif isinstance(event, StreamDataReceived) and event.stream_id == self.request_stream:
            self.answer += event.data
            if event.end_stream:
                self.settle(status=status_of(self.answer))


def status_of(answer):
    """The status in a response's first HEADERS frame, whichever way it is written."""
    import pylsqpack

    kind, length = answer[0], answer[1]
    start = 2
    if length & 0x40:
        length, start = (length & 0x3F) << 8 | answer[2], 3
    if kind != HEADERS:
        return None
    _, fields = pylsqpack.Decoder(0, 0).feed_header(0, answer[start : start + length])
    return int(dict(fields)[b":status"])


def with_control(data=b"", settings=frame(SETTINGS)):
    return lambda p: p.control(data, settings)


def with_request(data, end=True):
    def act(p):
        p.control()
        p.request(data, end)

    return act


def with_stream(kind, data=b"", end=False):
    def act(p):
        p.control()
        p.unidirectional(kind, data, end)

    return act


def greased(p):
    p.control(frame(GREASE, b"?"), frame(SETTINGS, varint(GREASE) + varint(1)))
    p.unidirectional(GREASE, b"anything")
    p.request(frame(GREASE, b"?") + frame(HEADERS, REQUEST) + frame(GREASE))


PROBES = {
    # On the control stream
    "missing-settings": with_control(settings=frame(MAX_PUSH_ID, varint(1))),
    "second-settings": with_control(frame(SETTINGS)),
    "duplicate-setting": with_control(settings=frame(SETTINGS, b"\x06\x10\x06\x10")),
    "http2-setting": with_control(settings=frame(SETTINGS, b"\x02\x01")),
    "torn-settings": with_control(settings=frame(SETTINGS, b"\x06")),
    "data-on-control": with_control(frame(DATA, b"x")),
    "headers-on-control": with_control(frame(HEADERS, REQUEST)),
    "http2-frame-on-control": with_control(frame(PRIORITY, b"12345")),
    "smaller-max-push-id": with_control(frame(MAX_PUSH_ID, varint(9)) + frame(MAX_PUSH_ID, varint(3))),
    "control-ends": lambda p: p.control(end=True),
    # Unidirectional streams
    "second-control": with_stream(CONTROL, frame(SETTINGS)),
    "second-encoder": lambda p: (p.control(), p.unidirectional(ENCODER), p.unidirectional(ENCODER)),
    "push-stream": with_stream(PUSH, varint(0)),
    "encoder-ends": with_stream(ENCODER, end=True),
    "encoder-capacity": with_stream(ENCODER, b"\x3f\xe1\x1f"),
    "encoder-insert": with_stream(ENCODER, b"\xc1\x01x"),
    "decoder-zero-increment": with_stream(DECODER, b"\x00"),
    "decoder-unknown-section": with_stream(DECODER, b"\x84"),
    # On a request stream
    "data-before-headers": with_request(frame(DATA, b"x") + frame(HEADERS, REQUEST)),
    "settings-on-request": with_request(frame(SETTINGS)),
    "http2-frame-on-request": with_request(frame(PRIORITY, b"12345")),
    "push-promise": with_request(frame(HEADERS, REQUEST) + frame(PUSH_PROMISE, b"\x00" + REQUEST)),
    "goaway-on-request": with_request(frame(GOAWAY, varint(0))),
    "torn-frame": with_request(varint(HEADERS) + varint(50) + REQUEST[:10]),
    "no-headers": with_request(b""),
    # Field sections
    "unknown-static-index": with_request(frame(HEADERS, REQUEST + b"\xff\x24")),
    "dynamic-reference": with_request(frame(HEADERS, b"\x02\x00\x80")),
    "torn-field-section": with_request(frame(HEADERS, PREFIX + b"\x51\x20/short")),
    # Requests
    "no-path": with_request(frame(HEADERS, PREFIX + GET + HTTPS + AUTHORITY)),
    "two-methods": with_request(frame(HEADERS, PREFIX + GET + GET + HTTPS + AUTHORITY + PATH)),
    "unknown-pseudo": with_request(frame(HEADERS, REQUEST + literal(b":wrong", b"x"))),
    "pseudo-after-field": with_request(
        frame(HEADERS, PREFIX + GET + HTTPS + literal(b"x-a", b"1") + AUTHORITY + PATH)
    ),
    "upper-case-name": with_request(frame(HEADERS, REQUEST + literal(b"X-Bad", b"1"))),
    "connection-field": with_request(frame(HEADERS, REQUEST + literal(b"connection", b"close"))),
    "line-break-in-value": with_request(frame(HEADERS, REQUEST + literal(b"x-a", b"1\r\nb: 2"))),
    "short-body": with_request(
        frame(HEADERS, REQUEST + literal(b"content-length", b"5")) + frame(DATA, b"x")
    ),
    "two-lengths": with_request(
        asked(b"POST", more=[(b"content-length", b"1"), (b"content-length", b"2")]) + frame(DATA, b"x")
    ),
    "signed-length": with_request(asked(b"POST", more=[(b"content-length", b"+1")]) + frame(DATA, b"x")),
    "long-body": with_request(asked(b"POST", more=[(b"content-length", b"1")]) + frame(DATA, b"xy")),
    "transfer-encoding": with_request(asked(more=[(b"transfer-encoding", b"chunked")])),
    "te-gzip": with_request(asked(more=[(b"te", b"gzip")])),
    "upgrade": with_request(asked(more=[(b"upgrade", b"h2c")])),
    "nul-in-value": with_request(asked(more=[(b"x-a", b"a\0b")])),
    "carriage-return-in-value": with_request(asked(more=[(b"x-a", b"a\rb")])),
    "space-in-name": with_request(asked(more=[(b"x a", b"1")])),
    "colon-in-name": with_request(asked(more=[(b"x:a", b"1")])),
    "empty-name": with_request(asked(more=[(b"", b"1")])),
    "two-paths": with_request(asked(more=[(b":path", b"/b")])),
    "two-authorities": with_request(asked(authority=None, more=[(b":authority", b"a"), (b":authority", b"b")])),
    "empty-path": with_request(asked(path=b"")),
    "host-differs": with_request(asked(more=[(b"host", b"other.test")])),
    "no-authority": with_request(asked(authority=None)),
    "empty-authority": with_request(asked(authority=b"")),
    "userinfo": with_request(asked(authority=b"evil@edge.test")),
    "space-in-authority": with_request(asked(authority=b"edge.test x")),
    "path-in-authority": with_request(asked(authority=b"edge.test/a")),
    "port-no-number": with_request(asked(authority=b"edge.test:44x")),
    "absolute-path": with_request(asked(path=b"https://edge.test/b")),
    "no-slash": with_request(asked(path=b"b")),
    "dot-segments": with_request(asked(path=b"/a/../b")),
    "encoded-dot-segments": with_request(asked(path=b"/a/%2E%2e/b")),
    "backslash": with_request(asked(path=b"/a\\b")),
    "fragment": with_request(asked(path=b"/b#c")),
    "space-in-path": with_request(asked(path=b"/b HTTP/1.1")),
    "line-break-in-path": with_request(asked(path=b"/b\r\nx: y")),
    "connect": with_request(asked(b"CONNECT", scheme=None, path=None)),
    "trace": with_request(asked(b"TRACE")),
    "long-target": with_request(asked(path=b"/" + b"a" * 9000)),
    "long-field": with_request(asked(more=[(b"x-a", b"a" * 17_000)])),
    "many-fields": with_request(asked(more=[(b"x-%d" % n, b"a" * 60) for n in range(200)])),
    # Not errors
    "plain": with_request(frame(HEADERS, REQUEST)),
    "greased": greased,
    "no-control-stream": lambda p: p.request(frame(HEADERS, REQUEST)),
}


async def byte_by_byte(p):
    p.control()
    data = frame(HEADERS, REQUEST)
    stream = p.request(data[:1], end=False)
    for at in range(1, len(data)):
        p.transmit()
        await asyncio.sleep(0)
        p.send(stream, data[at : at + 1], at + 1 == len(data))


async def control_reset(p):
    """The server must have read the stream's type: a reset that overtakes it names no kind of stream."""
    stream = p.control()
    await p.ping()
    p._quic.reset_stream(stream, 0x100)


IN_STEPS = {"control-reset": control_reset, "byte-by-byte": byte_by_byte}


async def probe(options, name):
    async with quic.connection(options, Prober) as prober:
        if name in IN_STEPS:
            await IN_STEPS[name](prober)
        else:
            PROBES[name](prober)
        prober.transmit()
        try:
            return await asyncio.wait_for(prober.outcome, options.timeout)
        except asyncio.TimeoutError:
            return {"nothing": True}


async def main():
    options = arguments()
    outcomes = await asyncio.gather(*(probe(options, name) for name in options.probe))
    for outcome in outcomes:
        print(json.dumps(outcome), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--timeout", type=float, default=10)
    parser.add_argument("probe", nargs="+", choices=sorted(PROBES | IN_STEPS))
    return parser.parse_args()


asyncio.run(main())
