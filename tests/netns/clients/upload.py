"""Sends a long body over HTTP/1.1 or HTTP/3 and reads the answer meanwhile; prints one line of JSON.

--stall-at BYTES sends no more once that much is sent, and waits for an answer.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import socket
import ssl
import threading

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


def over_http1(options):
    address, port = options.server.rsplit(":", 1)
    context = ssl.create_default_context(cafile=options.ca)
    context.set_alpn_protocols(["http/1.1"])
    connection = socket.create_connection((address, int(port)), timeout=options.timeout)
    stream = context.wrap_socket(connection, server_hostname=quic.HOST)
    head = f"POST {options.path} HTTP/1.1\r\nHost: {quic.HOST}\r\nContent-Length: {options.bytes}\r\n\r\n"

    def send():
        try:
            stream.sendall(head.encode())
            for chunk in chunks(options.stall_at or options.bytes):
                stream.sendall(chunk)
        except OSError:
            # Answered before all of it was read.
            pass

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    response = http.client.HTTPResponse(stream, method="POST")
    response.begin()
    digest, length = hashlib.sha256(), 0
    while part := response.read1(1 << 16):
        digest.update(part)
        length += len(part)
    return {"status": response.status, "http_version": "http/1.1", "length": length, "sha256": digest.hexdigest()}


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
    parser.add_argument("--version", choices=["http/1.1", "h3"], required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--stall-at", type=int)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("path")
    return parser.parse_args()


def main():
    options = arguments()
    report = over_http1(options) if options.version == "http/1.1" else asyncio.run(over_http3(options))
    report["sent_sha256"] = sent_hash(options.bytes)
    print(json.dumps(report), flush=True)


main()
