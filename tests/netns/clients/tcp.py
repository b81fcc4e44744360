"""Attacks over HTTP/2, and breaks rules of HTTP/1.1, frame by frame and byte by byte.

Prints one line of JSON for each case: `goaway` holds the error code, `status` is the last response's, `closed` says
whether the server ended the connection.
"""

import argparse
import json
import socket
import ssl
import struct
import time

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A field that is not indexed, its strings as they are (shorter than 127 bytes, or continued)."""
    def text(data):
        if len(data) < 127:
            return bytes([len(data)]) + data
        rest, out = len(data) - 127, bytearray([127])
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        return bytes(out) + bytes([rest]) + data
    return b"\x00" + text(name) + text(value)


def request(path=b"/size/10", method=b"GET", extra=(), authority=b"edge.test"):
    fields = [(b":method", method), (b":scheme", b"https"), (b":path", path)]
    if authority is not None:
        fields.append((b":authority", authority))
    return b"".join(literal(*field) for field in fields + list(extra))


def get(stream, **more):
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, request(**more))


class Wire:
    def __init__(self, options, alpn):
        context = ssl.create_default_context(cafile=options.ca)
        context.set_alpn_protocols([alpn])
        host, port = options.server.split(":")
        plain = socket.create_connection((host, int(port)), timeout=20)
        self.tls = context.wrap_socket(plain, server_hostname="edge.test")
        assert self.tls.selected_alpn_protocol() == alpn
        self.closed = False

    def send(self, data):
        """False once the server has gone."""
        try:
            self.tls.sendall(data)
            return True
        except OSError:
            self.closed = True
            return False

    def receive(self, seconds):
        """What comes until nothing has for so long, or the end."""
        out = bytearray()
        self.tls.settimeout(seconds)
        try:
            while True:
                data = self.tls.recv(65536)
                if not data:
                    self.closed = True
                    break
                out += data
        except TimeoutError:
            pass
        except OSError:
            self.closed = True
        return bytes(out)


def h2(options, *frames, settings=b"", flood=None, patience=1.5):
    """Sends frames; with `flood` that one again and again until the server has had enough."""
    wire = Wire(options, "h2")
    wire.send(PREFACE + frame(SETTINGS, 0, 0, settings))
    for one in frames:
        wire.send(one)
    if flood:
        deadline = time.monotonic() + 20
        number = 0
        while time.monotonic() < deadline:
            batch = b"".join(flood(number + n) for n in range(100))
            number += 100
            if not wire.send(batch):
                break
    got = wire.receive(patience)
    result = {"goaway": None, "status": None}
    at = 0
    while at + 9 <= len(got):
        length = int.from_bytes(got[at : at + 3], "big")
        kind, payload = got[at + 3], got[at + 9 : at + 9 + length]
        at += 9 + length
        if kind == GOAWAY and len(payload) >= 8:
            result["goaway"] = int.from_bytes(payload[4:8], "big")
        if kind == HEADERS and payload:
            result["status"] = status(payload)
    return result | {"closed": wire.closed}


def status(block):
    """Of a response's field block, where it begins with it."""
    indexed = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    while block and block[0] & 0xE0 == 0x20:  # table size
        block = block[1:]
    if block[0] in indexed:
        return indexed[block[0]]
    # Literal with the name :status; the digits may be in the Huffman code, where 0 to 2 have five
    # bits and 3 to 9 have six.
    if block[1] & 0x80 == 0:
        return int(block[2 : 2 + (block[1] & 0x7F)])
    bits = "".join(f"{b:08b}" for b in block[2 : 2 + (block[1] & 0x7F)])
    digits = ""
    while len(digits) < 3:
        short = bits[:5]
        if short in ("00000", "00001", "00010"):
            digits, bits = digits + str(int(short, 2)), bits[5:]
        else:
            digits, bits = digits + str(int(bits[:6], 2) - 0b011001 + 3), bits[6:]
    return int(digits)


def h1(options, data, patience=1.5):
    wire = Wire(options, "http/1.1")
    wire.send(data)
    got = wire.receive(patience)
    answers = [part.split(b" ", 2)[1] for part in got.split(b"HTTP/1.")[1:]]
    return {"status": int(answers[-1]) if answers else None, "closed": wire.closed}


HOST = b"Host: edge.test\r\n"
POST = b"POST /size/10 HTTP/1.1\r\n" + HOST
GET = b"GET /size/10 HTTP/1.1\r\n"
PING_FRAME = frame(PING, 0, 0, bytes(8))

CASES = {
    # Attacks: the server ends the connection, whatever it says.
    "h2-ping-flood": lambda o: h2(o, flood=lambda n: PING_FRAME),
    "h2-settings-flood": lambda o: h2(o, flood=lambda n: frame(SETTINGS, 0, 0)),
    "h2-empty-data-flood": lambda o: h2(
        o, frame(HEADERS, 4, 1, request(method=b"POST")), flood=lambda n: frame(DATA, 0, 1)
    ),
    "h2-rapid-reset": lambda o: h2(o, flood=lambda n: get(2 * n + 1) + frame(RST, 0, 2 * n + 1, bytes(4))),
    "h2-made-you-reset": lambda o: h2(
        o, flood=lambda n: get(2 * n + 1) + frame(WINDOW, 0, 2 * n + 1, bytes(4))
    ),
    "h2-continuation-flood": lambda o: h2(
        o, frame(HEADERS, 1, 1, request()), flood=lambda n: frame(CONTINUATION, 0, 1, literal(b"x", b"y"))
    ),
    "h2-priority-flood": lambda o: h2(o, flood=lambda n: frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 0))),
    "h2-zero-window": lambda o: h2(
        o, get(1, path=b"/size/100000"), settings=struct.pack(">HI", 4, 0), patience=20
    ),
    "h1-slow-head": lambda o: h1(o, GET + b"Host: e", patience=20),
    "h1-slow-body": lambda o: h1(o, POST + b"Content-Length: 10\r\n\r\nabc", patience=20),
    "h1-idle": lambda o: h1(o, b"", patience=20),
    # RFC 9112: refused, and the connection is of no more use.
    "h1-no-host": lambda o: h1(o, GET + b"\r\n"),
    "h1-two-hosts": lambda o: h1(o, GET + HOST * 2 + b"\r\n"),
    "h1-bad-host": lambda o: h1(o, GET + b"Host: a b\r\n\r\n"),
    "h1-absolute-differs": lambda o: h1(o, b"GET https://other.test/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-both-lengths": lambda o: h1(
        o, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "h1-lengths-reversed": lambda o: h1(
        o, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    ),
    "h1-two-lengths": lambda o: h1(o, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "h1-other-lengths": lambda o: h1(o, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    "h1-signed-length": lambda o: h1(o, POST + b"Content-Length: +5\r\n\r\nhello"),
    "h1-coding-space": lambda o: h1(o, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "h1-coding-1.0": lambda o: h1(
        o, b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "h1-coding-gzip": lambda o: h1(o, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "h1-bad-chunk": lambda o: h1(o, POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
    "h1-obs-fold": lambda o: h1(o, GET + HOST + b"X-A: a\r\n b\r\n\r\n"),
    "h1-nul": lambda o: h1(o, GET + HOST + b"X-A: a\0b\r\n\r\n"),
    "h1-bare-cr": lambda o: h1(o, GET + HOST + b"X-A: a\rb\r\n\r\n"),
    "h1-userinfo": lambda o: h1(o, GET + b"Host: evil@edge.test\r\n\r\n"),
    "h1-name-space": lambda o: h1(o, GET + HOST + b"X A: b\r\n\r\n"),
    "h1-no-colon": lambda o: h1(o, GET + HOST + b"X-A\r\n\r\n"),
    "h1-backslash": lambda o: h1(o, b"GET /a\\b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-encoded-dots": lambda o: h1(o, b"GET /a/%2e%2E/b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-length-list": lambda o: h1(o, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "h1-two-codings": lambda o: h1(
        o, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "h1-huge-chunk": lambda o: h1(
        o, POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"
    ),
    "h1-dot-segments": lambda o: h1(o, b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-connect": lambda o: h1(o, b"CONNECT edge.test HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-trace": lambda o: h1(o, b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-long-target": lambda o: h1(o, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-long-field": lambda o: h1(o, GET + HOST + b"X-A: " + b"a" * 17_000 + b"\r\n\r\n"),
    "h1-many-fields": lambda o: h1(
        o, GET + HOST + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n"
    ),
    "h1-large-body": lambda o: h1(o, POST + b"Content-Length: 200000000\r\n\r\n"),
    "h1-absolute": lambda o: h1(o, b"GET https://edge.test/size/10 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "h1-pipelined": lambda o: h1(o, (GET + HOST + b"\r\n") * 3),
    "h1-expect": lambda o: h1(
        o, POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", required=True, help="PEM file of the certificate to trust")
    parser.add_argument("--server", required=True, help="ADDRESS:PORT")
    parser.add_argument("case", nargs="*", help="all of them, if none is named")
    options = parser.parse_args()
    for name in options.case or CASES:
        print(json.dumps({"name": name} | CASES[name](options)), flush=True)


main()
