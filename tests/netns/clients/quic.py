"""What the aioquic clients share: a connection, a download, and the words of the wire."""

import asyncio
import contextlib
import hashlib

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

HOST = "edge.test"


def add_target(parser):
    parser.add_argument("--ca", required=True, help="PEM file of the certificate to trust")
    parser.add_argument("--server", required=True, help="ADDRESS:PORT")


@contextlib.asynccontextmanager
async def connection(options, protocol, ticket=None, on_ticket=None):
    """A connection to the server under its name HOST. With a ticket of an earlier one nothing is sent
    before the block sends it, in early data."""
    address, port = options.server.rsplit(":", 1)
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name=HOST,
        max_datagram_size=1280,
        session_ticket=ticket,
    )
    configuration.load_verify_locations(options.ca)
    async with connect(
        address,
        int(port),
        configuration=configuration,
        create_protocol=protocol,
        session_ticket_handler=on_ticket,
        wait_connected=ticket is None,
    ) as client:
        yield client


class Client(QuicConnectionProtocol):
    """Downloads over HTTP/3 and notes how streams and the connection end."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.downloads = {}
        self.terminated = None
        self.over = asyncio.Event()

    def start(self, path, method="GET", more=()):
        stream = self._quic.get_next_available_stream_id()
        self.downloads[stream] = download = Download()
        fields = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", HOST.encode()),
            (b":path", path.encode()),
            *more,
        ]
        self.http.send_headers(stream, fields, end_stream=True)
        self.transmit()
        return download

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            self.over.set()
            for download in self.downloads.values():
                download.end(error=f"connection closed with {event.error_code:#x}")
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            if event.stream_id in self.downloads:
                self.downloads[event.stream_id].end(error=f"reset with {event.error_code:#x}")
        for http_event in self.http.handle_event(event):
            download = self.downloads.get(http_event.stream_id)
            if download and isinstance(http_event, HeadersReceived):
                download.head(http_event.headers)
            elif download and isinstance(http_event, DataReceived):
                download.data(http_event.data)
            if download and getattr(http_event, "stream_ended", False):
                download.beside = [other.received for other in self.downloads.values()]
                download.end()

    def update_priority(self, stream, value):
        """PRIORITY_UPDATE of a request, RFC 9218 section 7.2."""
        control = self.http._local_control_stream_id
        self._quic.send_stream_data(control, frame(0xF0700, varint(stream) + value.encode()))


class Download:
    """One response as it arrives."""

    def __init__(self):
        self.headers = []
        self.received = 0
        self.beside = []
        self.error = None
        self.hash = hashlib.sha256()
        self.done = asyncio.Event()

    def head(self, headers):
        self.headers = [[name.decode(), value.decode()] for name, value in headers]

    def data(self, data):
        self.received += len(data)
        self.hash.update(data)

    def end(self, error=None):
        if not self.done.is_set():
            self.error = error
            self.done.set()

    async def reach(self, length):
        """Waits until this many bytes have come, or the download has ended."""
        while self.received < length and not self.done.is_set():
            await asyncio.sleep(0.001)

    def report(self):
        if self.error:
            return {"error": self.error, "length": self.received}
        fields = dict(self.headers)
        return {
            "status": int(fields.pop(":status")),
            "http_version": "h3",
            "headers": [field for field in self.headers if field[0] != ":status"],
            "length": self.received,
            "beside": self.beside,
            "sha256": self.hash.hexdigest(),
        }


def varint(number):
    return encode_uint_var(number)


def frame(kind, payload=b""):
    """An HTTP/3 frame, RFC 9114 section 7.1."""
    return varint(kind) + varint(len(payload)) + payload
