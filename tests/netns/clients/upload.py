"""Sends a long body over HTTP/1.1, HTTP/2 or HTTP/3 and reads the answer meanwhile; prints one line of JSON.

--stall-at BYTES sends no more once that much is sent, and waits for an answer.
"""

import argparse
import asyncio
import hashlib
import http.client
import io
import itertools
import json
import select
import socket
import ssl
import time

from curl_cffi import Curl, CurlInfo, CurlOpt
from curl_cffi.const import CurlHttpVersion
from curl_cffi.curl import CURL_READFUNC_PAUSE

import quic

CHUNK = bytes(range(256)) * 256
# H3_NO_ERROR
NO_ERROR = 0x100


def chunks(length):
    for start in range(0, length, len(CHUNK)):
        yield CHUNK[: length - start]


def sent_hash(length):
    digest = hashlib.sha256()
    for chunk in chunks(length):
        digest.update(chunk)
    return digest.hexdigest()


class Answered:
    """What http.client reads an answer from."""

    def __init__(self, answer):
        self.answer = answer

    def makefile(self, mode):
        return io.BytesIO(self.answer)


def over_http1(options):
    address, port = options.server.rsplit(":", 1)
    context = ssl.create_default_context(cafile=options.ca)
    context.set_alpn_protocols(["http/1.1"])
    connection = socket.create_connection((address, int(port)), timeout=options.timeout)
    stream = context.wrap_socket(connection, server_hostname=quic.HOST)
    # One thread does both: a connection of OpenSSL's must not be read and written by two at once.
    stream.setblocking(False)
    head = f"POST {options.path} HTTP/1.1\r\nHost: {quic.HOST}\r\nContent-Length: {options.bytes}\r\nConnection: close\r\n\r\n"
    parts = itertools.chain([head.encode()], chunks(options.stall_at or options.bytes))
    part = next(parts)
    answer = bytearray()
    deadline = time.monotonic() + options.timeout
    while True:
        moved = False
        try:
            if part:
                sent = stream.send(part)
                moved = sent > 0
                part = part[sent:] or next(parts, None)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            # Answered before all of it was read.
            part = None
        try:
            more = stream.recv(1 << 16)
            if not more:
                break
            answer += more
            moved = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            break
        if not moved:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(answer)} bytes of an answer in {options.timeout} s")
            select.select([stream], [stream] if part else [], [], left)
    response = http.client.HTTPResponse(Answered(bytes(answer)), method="POST")
    response.begin()
    body = response.read()
    return {
        "status": response.status,
        "http_version": "http/1.1",
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


def over_http2(options):
    address, port = options.server.rsplit(":", 1)
    parts, answer = chunks(options.stall_at or options.bytes), io.BytesIO()
    part = b""

    def read(most):
        nonlocal part
        part = part or next(parts, b"")
        piece, part = part[:most], part[most:]
        return piece or (CURL_READFUNC_PAUSE if options.stall_at else b"")

    curl = Curl()
    curl.setopt(CurlOpt.URL, f"https://{quic.HOST}:{port}{options.path}".encode())
    curl.setopt(CurlOpt.RESOLVE, [f"{quic.HOST}:{port}:{address}"])
    curl.setopt(CurlOpt.CAINFO, options.ca.encode())
    curl.setopt(CurlOpt.HTTP_VERSION, CurlHttpVersion.V2_0)
    curl.setopt(CurlOpt.HTTPHEADER, [b"Expect:"])
    curl.setopt(CurlOpt.POST, 1)
    curl.setopt(CurlOpt.POSTFIELDSIZE_LARGE, options.bytes)
    curl.setopt(CurlOpt.READFUNCTION, read)
    curl.setopt(CurlOpt.WRITEDATA, answer)
    curl.setopt(CurlOpt.TIMEOUT_MS, int(options.timeout * 1000))
    curl.perform()
    return {
        "status": curl.getinfo(CurlInfo.RESPONSE_CODE),
        "http_version": "h2" if curl.getinfo(CurlInfo.HTTP_VERSION) == CurlHttpVersion.V2_0 else "?",
        "length": len(answer.getvalue()),
        "sha256": hashlib.sha256(answer.getvalue()).hexdigest(),
    }


class Client(quic.Client):
    """One whose upload may be refused: what is answered is still read (RFC 9114 section 4.1)."""

    def quic_event_received(self, event):
        if not isinstance(event, quic.StopSendingReceived) or event.error_code != NO_ERROR:
            super().quic_event_received(event)


async def over_http3(options):
    async with quic.connection(options, Client) as client:
        stream = client._quic.get_next_available_stream_id()
        client.downloads[stream] = download = quic.Download()
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", quic.HOST.encode()),
            (b":path", options.path.encode()),
            (b"content-length", str(options.bytes).encode()),
        ]
        client.http.send_headers(stream, fields)
        for chunk in chunks(options.stall_at or options.bytes):
            if download.done.is_set() or download.headers and options.path == "/early":
                break
            client.http.send_data(stream, chunk, end_stream=False)
            client.transmit()
            sender = client._quic._streams[stream].sender
            while len(sender._buffer) > (1 << 19) and not download.done.is_set():
                await asyncio.sleep(0.001)
        else:
            if not options.stall_at:
                client.http.send_data(stream, b"", end_stream=True)
                client.transmit()
        await asyncio.wait_for(download.done.wait(), options.timeout)
        return download.report()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--version", choices=["http/1.1", "h2", "h3"], required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--stall-at", type=int)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("path")
    return parser.parse_args()


def main():
    options = arguments()
    over = {"http/1.1": over_http1, "h2": over_http2, "h3": lambda o: asyncio.run(over_http3(o))}
    report = over[options.version](options)
    report["sent_sha256"] = sent_hash(options.bytes)
    print(json.dumps(report), flush=True)


main()
