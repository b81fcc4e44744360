"""Asks an HTTP/2 server, section by section, whether it keeps RFC 9113 and RFC 7541.

Each case makes a connection of its own, does what its name says, and says what must come of it: an answer, an
error of the stream or an error of the connection, with the error codes that the RFC names. Where it asks for an
error of a stream, one of the connection will do. So will another code, if the connection ends with it: h2 says
PROTOCOL_ERROR of most frames that it cannot read.

Prints one line of JSON for each case: `kept`, and what was `seen`.
"""

import argparse
import itertools
import json
import socket
import ssl
import struct
import time

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST = range(1, 7)
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 5

BODY = "/size/10"
LARGE = "/size/100000"
CASES = {}
SLOW = itertools.count()


def case(name):
    def add(check):
        assert name not in CASES, name
        CASES[name] = check
        return check

    return add


def slow():
    """What the origin takes its time for, and nobody has asked for before."""
    return f"{BODY}?delay=1000&v={next(SLOW)}"


# Frames.


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs, flags=0, stream=0):
    return frame(SETTINGS, flags, stream, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def priority(stream, depends=0, weight=15, exclusive=False):
    return frame(PRIORITY, 0, stream, dependency(depends, weight, exclusive))


def dependency(depends=0, weight=15, exclusive=False):
    return struct.pack(">IB", depends | exclusive << 31, weight)


def window(stream, increment):
    return frame(WINDOW, 0, stream, struct.pack(">I", increment))


def reset(stream, code=CANCEL):
    return frame(RST, 0, stream, struct.pack(">I", code))


PONG = b"pingpong"


def ping(payload=PONG, flags=0, stream=0):
    return frame(PING, flags, stream, payload)


# Fields, none of them compressed unless it is said.


def number(value, bits, flags):
    most = (1 << bits) - 1
    if value < most:
        return bytes([flags | value])
    out, value = bytearray([flags | most]), value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def text(data):
    return number(len(data), 7, 0) + data


def huffman(coded):
    return number(len(coded), 7, 0x80) + coded


def field(name, value):
    return b"\x00" + text(name.encode()) + text(value.encode())


def fields(*pairs):
    return b"".join(field(*pair) for pair in pairs)


def pseudo(method="GET", path=BODY, authority="edge.test", without=()):
    pairs = [(":method", method), (":scheme", "https"), (":path", path), (":authority", authority)]
    return fields(*(pair for pair in pairs if pair[0] not in without))


def get(stream=1, block=None, flags=END_STREAM | END_HEADERS, **more):
    return frame(HEADERS, flags, stream, pseudo(**more) if block is None else block)


def post(stream=1, block=b"", flags=END_HEADERS):
    return frame(HEADERS, flags, stream, pseudo("POST", "/echo") + block)


def data(stream, payload=b"x", flags=END_STREAM):
    return frame(DATA, flags, stream, payload)


class Connection:
    """A connection over TLS; what has come over it is kept by stream."""

    def __init__(self, options, preface=PREFACE + settings(), patience=PATIENCE):
        context = ssl.create_default_context(cafile=options.ca)
        context.set_alpn_protocols(["h2"])
        host, port = options.server.split(":")
        plain = socket.create_connection((host, int(port)), timeout=20)
        self.tls = context.wrap_socket(plain, server_hostname="edge.test")
        self.patience = patience
        self.buffer = b""
        self.closed = False
        self.goaway = None
        self.settings = None
        self.acks = 0
        self.pongs = []
        self.resets, self.statuses, self.bodies, self.ended = {}, {}, {}, set()
        self.send(preface)

    def open(self):
        """Waits for the server's settings and takes them."""
        self.wait(lambda: self.settings is not None)
        self.send(settings(flags=ACK))
        return self

    def send(self, *frames):
        try:
            self.tls.sendall(b"".join(frames))
        except OSError:
            self.closed = True

    def wait(self, seen, seconds=None):
        """Reads until it is seen, the connection has ended or nobody waits any longer. Says whether it is."""
        deadline = time.monotonic() + (seconds or self.patience)
        while not seen() and not self.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.tls.settimeout(left)
            try:
                more = self.tls.recv(65536)
                self.closed = not more
                self.buffer += more
            except TimeoutError:
                break
            except OSError:
                self.closed = True
            self.parse()
        return bool(seen())

    def parse(self):
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
            payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
            self.take(kind, flags, stream, payload)

    def take(self, kind, flags, stream, payload):
        if kind == SETTINGS and flags & ACK:
            self.acks += 1
        elif kind == SETTINGS:
            self.settings = dict(struct.iter_unpack(">HI", payload))
        elif kind == PING and flags & ACK:
            self.pongs.append(payload)
        elif kind == GOAWAY and self.goaway is None:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind == RST:
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == HEADERS:
            self.statuses.setdefault(stream, status(payload))
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + payload
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def seen(self):
        return {
            "goaway": self.goaway,
            "closed": self.closed,
            "resets": self.resets,
            "statuses": self.statuses,
            "bytes": {stream: len(body) for stream, body in self.bodies.items()},
        }

    # What must come.

    def is_served(self, stream=1, wanted=200):
        self.wait(lambda: stream in self.ended or stream in self.resets or self.goaway is not None)
        return stream in self.ended and self.statuses.get(stream) == wanted

    def answers_ping(self):
        self.send(ping())
        return self.wait(lambda: PONG in self.pongs or self.goaway is not None) and self.goaway is None

    def ends(self, *codes):
        self.wait(lambda: self.goaway is not None)
        return self.goaway in codes or self.wait(lambda: self.closed)

    def is_reset(self, *codes, stream=1):
        self.wait(lambda: stream in self.resets or self.goaway is not None)
        return self.resets[stream] in codes if stream in self.resets else self.ends(*codes)

    def is_refused(self, stream=1):
        """By an error, or by an answer that says so."""
        self.wait(lambda: stream in self.resets or stream in self.ended or self.goaway is not None)
        return self.statuses.get(stream) == 400 or self.is_reset(PROTOCOL, stream=stream)


def status(block):
    """Of a response's field block, which begins with it."""
    known = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    return known.get(block[0], 0) if block else 0


def sends(name, *frames, then):
    """A case that only sends frames; `then` says what must come of them."""

    def check(options):
        one = Connection(options).open()
        one.send(*frames)
        return then(one), one.seen()

    case(name)(check)


def served(stream=1, wanted=200):
    return lambda one: one.is_served(stream, wanted)


def served_and_alive(one):
    return one.is_served() and one.answers_ping()


def pongs(one):
    return one.answers_ping()


def ends(*codes):
    return lambda one: one.ends(*codes)


def stream_error(*codes, stream=1):
    return lambda one: one.is_reset(*codes, stream=stream)


MALFORMED = stream_error(PROTOCOL)

# 3.4: the preface.


@case("3.4 settings come first")
def _(options):
    one = Connection(options)
    return one.wait(lambda: one.settings is not None), one.seen()


@case("3.4 settings are confirmed")
def _(options):
    one = Connection(options).open()
    return one.wait(lambda: one.acks == 1), one.seen()


@case("3.4 a preface that is none")
def _(options):
    one = Connection(options, preface=b"INVALID CONNECTION PREFACE\r\n\r\n")
    return one.ends(PROTOCOL), one.seen()


# 4: frames.

sends("4.1 an unknown type", frame(0x42, 0, 0, bytes(8)), then=pongs)
sends("4.1 an unknown flag", ping(flags=0x16), then=lambda one: one.wait(lambda: PONG in one.pongs))
sends("4.1 the reserved bit", ping(stream=1 << 31), then=lambda one: one.wait(lambda: PONG in one.pongs))
sends("4.2 a frame of 2^14 bytes", post(), data(1, bytes(1 << 14)), then=served())
sends("4.2 a longer DATA", post(), data(1, bytes((1 << 14) + 1)), then=stream_error(SIZE))
sends(
    "4.2 a longer HEADERS",
    get(block=pseudo() + fields(*((f"x-{n}", "a" * 1000) for n in range(17)))),
    then=ends(SIZE),
)
sends("4.3 a block that cannot be read", get(block=b"\x40\x01\x61"), then=ends(COMPRESSION))
sends(
    "4.3 PRIORITY within a block",
    get(flags=END_STREAM), priority(1), frame(CONTINUATION, END_HEADERS, 1),
    then=ends(PROTOCOL),
)
sends("4.3 HEADERS of another stream within a block", get(flags=END_STREAM), get(3), then=ends(PROTOCOL))

# 5.1: states of streams.

IDLE = ends(PROTOCOL)
sends("5.1 idle: DATA", data(1), then=IDLE)
sends("5.1 idle: RST_STREAM", reset(1), then=IDLE)
sends("5.1 idle: WINDOW_UPDATE", window(1, 100), then=IDLE)
sends("5.1 idle: CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, pseudo()), then=IDLE)
sends("5.1 idle: PRIORITY", priority(1), get(), then=served())
GONE = stream_error(CLOSED)
sends("5.1 half-closed: DATA", get(path=slow()), data(1), then=GONE)
sends("5.1 half-closed: HEADERS", get(path=slow()), get(), then=GONE)
sends(
    "5.1 half-closed: CONTINUATION",
    get(path=slow()), frame(CONTINUATION, END_HEADERS, 1, field("x-a", "b")),
    then=stream_error(CLOSED, PROTOCOL),
)
sends("5.1 half-closed: WINDOW_UPDATE", get(), window(1, 1), then=served_and_alive)
sends("5.1 half-closed: PRIORITY", get(), priority(1), then=served_and_alive)
sends("5.1 half-closed: RST_STREAM", get(path=slow()), reset(1), then=pongs)
sends("5.1 reset: DATA", post(), reset(1), data(1), then=GONE)
sends("5.1 reset: HEADERS", post(), reset(1), get(), then=GONE)
sends(
    "5.1 reset: CONTINUATION",
    post(), reset(1), frame(CONTINUATION, END_HEADERS, 1, field("x-a", "b")),
    then=stream_error(CLOSED, PROTOCOL),
)


def after_the_answer(name, *frames, then):
    """A case of a stream that both sides have closed."""

    def check(options):
        one = Connection(options).open()
        one.send(get())
        served = one.is_served()
        one.send(*frames)
        return served and then(one), one.seen()

    case(name)(check)


after_the_answer("5.1 closed: DATA", data(1), then=GONE)
after_the_answer("5.1 closed: HEADERS", get(), then=stream_error(CLOSED, PROTOCOL))
after_the_answer(
    "5.1 closed: CONTINUATION",
    frame(CONTINUATION, END_HEADERS, 1, field("x-a", "b")),
    then=stream_error(CLOSED, PROTOCOL),
)
after_the_answer("5.1 closed: PRIORITY", priority(1), then=pongs)
after_the_answer("5.1 closed: WINDOW_UPDATE", window(1, 1), then=pongs)

sends("5.1.1 an even number", get(2), then=ends(PROTOCOL))
sends("5.1.1 a smaller number", get(5), get(3), then=ends(PROTOCOL))


@case("5.1.2 more streams than allowed")
def _(options):
    one = Connection(options).open()
    most = one.settings.get(MAX_STREAMS, 1000)
    one.send(settings((INITIAL_WINDOW, 0)))
    one.send(*(get(2 * n + 1, path=LARGE) for n in range(most + 1)))
    return one.is_reset(PROTOCOL, REFUSED, stream=2 * most + 1), one.seen()


ON_ITSELF = stream_error(PROTOCOL)
sends(
    "5.3.1 HEADERS that depend on themselves",
    frame(HEADERS, 5 | WITH_PRIORITY, 1, dependency(1) + pseudo()),
    then=lambda one: one.is_reset(PROTOCOL) or one.is_served(),  # RFC 9113 has no more rules of priority.
)
sends(
    "5.3.1 PRIORITY that depends on itself",
    priority(1, depends=1), get(),
    then=lambda one: one.is_reset(PROTOCOL) or one.is_served(),
)


@case("5.4.1 GOAWAY, then the end")
def _(options):
    one = Connection(options).open()
    one.send(ping(bytes(6)))
    return one.ends(SIZE) and one.wait(lambda: one.closed), one.seen()


sends("5.4.1 the last stream is named", get(), ping(bytes(6)), then=ends(SIZE))
sends("5.5 an unknown frame beside a request", frame(0x42, 0, 1, bytes(8)), get(), then=served())
sends(
    "5.5 an unknown frame within a block",
    get(flags=END_STREAM), frame(0x42, 0, 1, bytes(8)), frame(CONTINUATION, END_HEADERS, 1),
    then=ends(PROTOCOL),
)

# 6.1: DATA.

sends("6.1 DATA", post(), data(1, b"hello"), then=served())
sends("6.1 several DATA", post(), data(1, b"he", 0), data(1, b"llo"), then=served())
sends("6.1 padded DATA", post(), data(1, b"\x05hello" + bytes(5), END_STREAM | PADDED), then=served())
sends("6.1 DATA on stream 0", data(0), then=ends(PROTOCOL))
sends("6.1 DATA where none may be", get(path=slow()), data(1), then=GONE)
sends("6.1 padding as long as the frame", post(), data(1, b"\x06hello", END_STREAM | PADDED), then=ends(PROTOCOL))
sends("6.1 padding without its length", post(), data(1, b"", END_STREAM | PADDED), then=ends(PROTOCOL, SIZE))

# 6.2: HEADERS.

sends("6.2 HEADERS", get(), then=served())
sends("6.2 padded HEADERS", get(block=b"\x05" + pseudo() + bytes(5), flags=5 | PADDED), then=served())
sends("6.2 HEADERS with a priority", get(block=dependency() + pseudo(), flags=5 | WITH_PRIORITY), then=served())
sends(
    "6.2 padded HEADERS with a priority",
    get(block=b"\x05" + dependency() + pseudo() + bytes(5), flags=5 | PADDED | WITH_PRIORITY),
    then=served(),
)
sends("6.2 PRIORITY before the block has ended", get(flags=END_STREAM), priority(1), then=ends(PROTOCOL))
sends("6.2 another stream before the block has ended", get(flags=END_STREAM), get(3), then=ends(PROTOCOL))
sends("6.2 HEADERS on stream 0", get(0), then=ends(PROTOCOL))
sends("6.2 padding longer than the frame", get(block=b"\xff" + pseudo()[:50], flags=5 | PADDED), then=ends(PROTOCOL))

# 6.3: PRIORITY.

sends("6.3 the least weight", priority(1, weight=0), get(), then=served())
sends("6.3 the greatest weight", priority(1, weight=255), get(), then=served())
sends("6.3 a dependency", priority(1, depends=3), get(), then=served())
sends("6.3 an exclusive dependency", priority(1, depends=3, exclusive=True), get(), then=served())
sends("6.3 of a stream above the next", priority(5, depends=1), get(3), then=served(3))
sends("6.3 PRIORITY on stream 0", priority(0), then=ends(PROTOCOL))
sends("6.3 PRIORITY of 4 bytes", get(path=slow()), frame(PRIORITY, 0, 1, bytes(4)), then=stream_error(SIZE))

# 6.4: RST_STREAM.

sends("6.4 RST_STREAM", post(), reset(1), then=pongs)
sends("6.4 RST_STREAM on stream 0", reset(0), then=ends(PROTOCOL))
sends("6.4 RST_STREAM of an idle stream", reset(1), then=ends(PROTOCOL))
sends("6.4 RST_STREAM of 3 bytes", post(), frame(RST, 0, 1, bytes(3)), then=ends(SIZE))

# 6.5: SETTINGS.

sends("6.5 SETTINGS", settings((MAX_STREAMS, 100)), then=lambda one: one.wait(lambda: one.acks == 2))
sends("6.5 an empty SETTINGS", settings(), then=lambda one: one.wait(lambda: one.acks == 2))
sends("6.5 a confirmation with a payload", settings((MAX_STREAMS, 1), flags=ACK), then=ends(SIZE))
sends("6.5 SETTINGS on a stream", settings((MAX_STREAMS, 1), stream=1), then=ends(PROTOCOL))
sends("6.5 SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, bytes(3)), then=ends(SIZE))
sends("6.5.2 ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), then=ends(PROTOCOL))
sends("6.5.2 INITIAL_WINDOW_SIZE of 2^31", settings((INITIAL_WINDOW, 1 << 31)), then=ends(FLOW))
sends("6.5.2 MAX_FRAME_SIZE too small", settings((MAX_FRAME, (1 << 14) - 1)), then=ends(PROTOCOL))
sends("6.5.2 MAX_FRAME_SIZE too large", settings((MAX_FRAME, 1 << 24)), then=ends(PROTOCOL))
sends("6.5.2 an unknown setting", settings((0xFF, 1)), then=pongs)
sends("6.5.2 HEADER_TABLE_SIZE of 0", settings((TABLE_SIZE, 0)), get(), get(3), then=served(3))


@case("6.5.3 of several values the last one holds")
def _(options):
    one = Connection(options).open()
    one.send(settings((INITIAL_WINDOW, 100), (INITIAL_WINDOW, 1)), get())
    arrived = one.wait(lambda: one.bodies.get(1))
    return arrived and not one.wait(lambda: len(one.bodies[1]) > 1, 0.3), one.seen()


sends(
    "6.5.3 each SETTINGS is confirmed",
    settings((MAX_STREAMS, 100)), settings((MAX_STREAMS, 99)),
    then=lambda one: one.wait(lambda: one.acks == 3),
)

# 6.6: PUSH_PROMISE comes from no client.

sends("6.6 PUSH_PROMISE", frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + pseudo()), then=ends(PROTOCOL))
sends("8.4 PUSH_PROMISE on an open stream", post(), frame(PUSH, 4, 1, struct.pack(">I", 2) + pseudo()), then=ends(PROTOCOL))

# 6.7: PING.

sends("6.7 PING", ping(b"01234567"), then=lambda one: one.wait(lambda: b"01234567" in one.pongs))
sends(
    "6.7 an answer to no PING",
    ping(b"unasked!", flags=ACK), ping(),
    then=lambda one: one.wait(lambda: one.pongs) and one.pongs == [PONG],
)
sends("6.7 PING on a stream", ping(stream=1), then=ends(PROTOCOL))
sends("6.7 PING of 6 bytes", ping(bytes(6)), then=ends(SIZE))

# 6.8: GOAWAY.

sends("6.8 GOAWAY", frame(GOAWAY, 0, 0, bytes(8)), then=lambda one: one.answers_ping() or one.closed or one.goaway == 0)
sends("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), then=ends(PROTOCOL))

# 6.9: WINDOW_UPDATE.

sends("6.9 of the connection", window(0, 1), get(), then=served())
sends("6.9 of a stream", post(), window(1, 1), data(1), then=served())
sends("6.9 of nothing", window(0, 0), then=ends(PROTOCOL))
sends("6.9 of nothing on a stream", post(), window(1, 0), then=stream_error(PROTOCOL))
sends("6.9 WINDOW_UPDATE of 3 bytes", frame(WINDOW, 0, 0, bytes(3)), then=ends(SIZE))
sends("6.9.1 of the connection beyond 2^31-1", window(0, (1 << 31) - 1), window(0, (1 << 31) - 1), then=ends(FLOW))
sends(
    "6.9.1 of a stream beyond 2^31-1",
    post(), window(1, (1 << 31) - 1), window(1, (1 << 31) - 1),
    then=stream_error(FLOW),
)


@case("6.9.1 a window of one byte")
def _(options):
    one = Connection(options).open()
    one.send(settings((INITIAL_WINDOW, 1)), get())
    arrived = one.wait(lambda: one.bodies.get(1))
    return arrived and not one.wait(lambda: len(one.bodies[1]) > 1, 0.3), one.seen()


@case("6.9.2 a window that opens after the request")
def _(options):
    one = Connection(options).open()
    one.send(settings((INITIAL_WINDOW, 0)), get())
    one.wait(lambda: 1 in one.statuses)
    none = not one.wait(lambda: one.bodies.get(1), 0.3)
    one.send(settings((INITIAL_WINDOW, 1)))
    arrived = one.wait(lambda: one.bodies.get(1))
    return none and arrived and len(one.bodies[1]) == 1, one.seen()


@case("6.9.2 a window below nothing")
def _(options):
    one = Connection(options).open()
    one.send(settings((INITIAL_WINDOW, 3)), get())
    arrived = one.wait(lambda: len(one.bodies.get(1, b"")) == 3)
    one.send(settings((INITIAL_WINDOW, 2)))  # one below nothing
    one.wait(lambda: one.acks == 3)
    one.send(window(1, 2))  # one byte
    more = one.wait(lambda: len(one.bodies[1]) > 3)
    return arrived and more and not one.wait(lambda: len(one.bodies[1]) > 4, 0.3), one.seen()


sends("6.9.2 a stream's window beyond 2^31-1 by SETTINGS",
      post(), window(1, (1 << 31) - 1 - 65_535), settings((INITIAL_WINDOW, 65_536)), then=ends(FLOW))

# 6.10: CONTINUATION.


def pieces(*flags, stream=1):
    """A request in as many frames as there are flags."""
    block = pseudo()
    size = len(block) // (len(flags) + 1)
    cut = [block[n * size : (n + 1) * size] for n in range(len(flags))]
    rest = [frame(CONTINUATION, flag, stream, piece) for flag, piece in zip(flags, [*cut[1:], block[len(flags) * size :]])]
    return get(block=cut[0], flags=END_STREAM) + b"".join(rest)


sends("6.10 CONTINUATION", pieces(END_HEADERS), then=served())
sends("6.10 several CONTINUATION", pieces(0, 0, END_HEADERS), then=served())
sends("6.10 an empty CONTINUATION", get(flags=END_STREAM), frame(CONTINUATION, END_HEADERS, 1), then=served())
sends("6.10 another frame before the block has ended", pieces(0), data(1), then=ends(PROTOCOL))
sends("6.10 CONTINUATION on stream 0", get(flags=END_STREAM), frame(CONTINUATION, END_HEADERS, 0), then=ends(PROTOCOL))
sends(
    "6.10 CONTINUATION of another stream",
    get(flags=END_STREAM), frame(CONTINUATION, END_HEADERS, 3),
    then=ends(PROTOCOL),
)
sends(
    "6.10 CONTINUATION after a whole block",
    post(), frame(CONTINUATION, END_HEADERS, 1, field("x-a", "b")),
    then=ends(PROTOCOL),
)
sends(
    "6.10 CONTINUATION after the last one",
    pieces(END_HEADERS), frame(CONTINUATION, END_HEADERS, 1, field("x-a", "b")),
    then=ends(PROTOCOL, CLOSED),
)
sends("6.10 CONTINUATION after DATA", post(), data(1, flags=0), frame(CONTINUATION, 4, 1, field("x-a", "b")), then=ends(PROTOCOL))

# 7: error codes that nobody knows are errors as others.

sends(
    "7 GOAWAY with an unknown code",
    frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0xFF)), ping(),
    then=lambda one: one.wait(lambda: PONG in one.pongs) or one.closed or one.goaway is not None,
)
sends("7 RST_STREAM with an unknown code", post(), reset(1, 0xFF), then=pongs)

# 8: messages.

sends("8.1 GET", get(), then=served())
sends("8.1 HEAD", get(method="HEAD"), then=served())
sends("8.1 POST", post(), data(1, b"hello"), then=served())
sends("8.1 POST with trailers", post(), data(1, b"hello", 0), get(block=field("x-sum", "1")), then=served())
sends("8.1 a request without a body", post(flags=END_STREAM | END_HEADERS), then=served())
sends("8.1 several requests at once", get(1), get(3), get(5), then=lambda one: all(one.is_served(n) for n in (1, 3, 5)))
sends("8.1 a second HEADERS that ends nothing", post(), get(block=field("x-a", "b"), flags=END_HEADERS), then=MALFORMED)
sends(
    "8.1 pseudo-fields in trailers",
    post(), data(1, flags=0), get(block=field(":method", "GET")),
    then=lambda one: one.is_served() or one.is_reset(PROTOCOL),  # h2 drops them.
)


def malformed(name, block, **more):
    sends(name, get(block=block, **more), then=MALFORMED)


malformed("8.2 a name in upper case", pseudo() + field("X-A", "b"))
malformed("8.2.1 a name with a space", pseudo() + field("x a", "b"))
malformed("8.2.1 a name with a colon", pseudo() + field("x:a", "b"))
malformed("8.2.1 an empty name", pseudo() + field("", "b"))
malformed("8.2.1 a value with NUL", pseudo() + field("x-a", "b\0c"))
malformed("8.2.1 a value with a line feed", pseudo() + field("x-a", "b\nc"))
malformed("8.2.1 a value with a carriage return", pseudo() + field("x-a", "b\rc"))
malformed("8.2.2 Connection", pseudo() + field("connection", "keep-alive"))
malformed("8.2.2 Proxy-Connection", pseudo() + field("proxy-connection", "keep-alive"))
malformed("8.2.2 Keep-Alive", pseudo() + field("keep-alive", "1"))
malformed("8.2.2 Upgrade", pseudo() + field("upgrade", "h2c"))
malformed("8.2.2 Transfer-Encoding", pseudo() + field("transfer-encoding", "chunked"))
malformed("8.2.2 TE but trailers", pseudo() + field("te", "trailers, deflate"))
sends("8.2.2 TE: trailers", get(block=pseudo() + field("te", "trailers")), then=served())
malformed("8.3 an unknown pseudo-field", pseudo() + field(":test", "ok"))
malformed("8.3 a pseudo-field of responses", pseudo() + field(":status", "200"))
malformed("8.3 a pseudo-field after others", field("x-a", "b") + pseudo())
malformed("8.3.1 an empty :path", pseudo(path=""))
for one in (":method", ":scheme", ":path"):
    malformed(f"8.3.1 no {one}", pseudo(without=(one,)))
for one, value in ((":method", "GET"), (":scheme", "https"), (":path", "/b"), (":authority", "b.test")):
    malformed(f"8.3.1 {one} twice", field(one, value) + pseudo())
LONGER = fields(("content-length", "1"))
sends("8.1.1 more than Content-Length", post(block=LONGER), data(1, b"hello"), then=MALFORMED)
sends("8.1.1 more than Content-Length, in several", post(block=LONGER), data(1, b"he", 0), data(1, b"llo"), then=MALFORMED)
sends("8.1.1 less than Content-Length", post(block=fields(("content-length", "9"))), data(1, b"hello"), then=MALFORMED)

sends(
    "8.1.1 two of Content-Length",
    post(block=fields(("content-length", "1"), ("content-length", "2"))), data(1),
    then=lambda one: one.is_refused(),
)

# What no cache may pass on or take for another's: refused by an error, or with 400.


def refused(name, *more, **wanted):
    sends(f"refused: {name}", get(block=pseudo(**wanted) + fields(*more)), then=lambda one: one.is_refused())


refused("Host differs", ("host", "other.test"))
refused("no authority", without=(":authority",))
refused("user information", authority="evil@edge.test")
refused("an authority with a space", authority="edge.test x")
refused("an absolute path", path="https://edge.test/b")
refused("dot segments", path="/a/%2e%2E/b")
refused("a backslash", path="/a\\b")
refused("a line break", path="/b\r\nx: y")

# RFC 7541: fields.

METHOD_GET, SCHEME_HTTPS, PATH, AUTHORITY = 2, 7, 4, 1
REST = field(":path", BODY) + field(":authority", "edge.test")


def block(name, payload, then=None):
    sends(f"hpack {name}", get(block=payload), then=then or served())


block("2.3.3 an index beyond the tables", pseudo() + number(70, 7, 0x80), then=ends(COMPRESSION))
block("2.3.3 a name beyond the tables", pseudo() + number(70, 4, 0) + text(b"b"), then=ends(COMPRESSION))
block("4.2 a table size after a field", pseudo() + number(0, 5, 0x20), then=ends(COMPRESSION))
block("5.2 padding longer than 7 bits", pseudo() + b"\x00" + text(b"x-a") + huffman(bytes.fromhex("1fff")), then=ends(COMPRESSION))
block("5.2 padding that is not EOS", pseudo() + b"\x00" + text(b"x-a") + huffman(bytes.fromhex("18")), then=ends(COMPRESSION))
block("5.2 EOS", pseudo() + b"\x00" + text(b"x-a") + huffman(b"\xff\xff\xff\xff"), then=ends(COMPRESSION))
block("6.1 index 0", pseudo() + b"\x80", then=ends(COMPRESSION))
block("6.3 a table size beyond the limit", number(65_537, 5, 0x20) + pseudo(), then=ends(COMPRESSION))
block("5.1 a number without end", pseudo() + b"\xff" * 12, then=ends(COMPRESSION))
block("5.2 a string longer than the block", pseudo() + b"\x00" + number(100, 7, 0) + b"x", then=ends(COMPRESSION, PROTOCOL))
INDEXED = number(METHOD_GET, 7, 0x80) + number(SCHEME_HTTPS, 7, 0x80)
block("6.1 indexed", INDEXED + REST)
for title, bits, flags in (("6.2.1 added", 6, 0x40), ("6.2.2 not added", 4, 0), ("6.2.3 never added", 4, 0x10)):
    block(f"{title}, the name indexed", INDEXED + number(PATH, bits, flags) + text(BODY.encode()) + field(":authority", "edge.test"))
    block(f"{title}, a new name", INDEXED + REST + bytes([flags]) + text(b"x-a") + text(b"b"))
    block(
        f"{title}, in the Huffman code",
        INDEXED + REST + bytes([flags]) + huffman(bytes.fromhex("25a849e95ba97d7f")) + huffman(bytes.fromhex("25a849e95bb8e8b4bf")),
    )
block("6.3 a table size", number(0, 5, 0x20) + pseudo())
block("6.3 two table sizes", number(0, 5, 0x20) + number(4096, 5, 0x20) + pseudo())
sends(
    "hpack 2.3.2 a field that was added before",
    get(1, INDEXED + field(":authority", "edge.test") + number(PATH, 6, 0x40) + text(BODY.encode())),
    get(3, INDEXED + field(":authority", "edge.test") + number(62, 7, 0x80)),
    then=lambda one: one.is_served(1) and one.is_served(3),
)
sends(
    "hpack 4.4 a field that the table has no room for",
    get(1, INDEXED + REST + b"\x40" + text(b"x-a") + text(b"b" * 5000)),
    get(3, INDEXED + REST + number(62, 7, 0x80)),
    then=ends(COMPRESSION),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", required=True, help="PEM file of the certificate to trust")
    parser.add_argument("--server", required=True, help="ADDRESS:PORT")
    parser.add_argument("case", nargs="*", help="all of them, if none is named")
    options = parser.parse_args()
    for name in options.case or CASES:
        kept, seen = CASES[name](options)
        print(json.dumps({"name": name, "kept": bool(kept), "seen": seen}), flush=True)


main()
