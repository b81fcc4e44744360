"""Asks for certificates by name (SNI) over TCP and QUIC; prints a line of JSON for each name with the
SHA-256 of what was shown.
"""

import argparse
import asyncio
import hashlib
import json
import socket
import ssl

from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.serialization import Encoding


def over_tcp(address, port, name):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=20) as plain:
        with context.wrap_socket(plain, server_hostname=name) as stream:
            return stream.getpeercert(binary_form=True)


async def over_quic(address, port, name):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=name, verify_mode=ssl.CERT_NONE
    )
    async with connect(address, port, configuration=configuration) as client:
        return client._quic.tls._peer_certificate.public_bytes(Encoding.DER)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", help="not looked at")
    parser.add_argument("--server", required=True, help="ADDRESS:PORT")
    parser.add_argument("name", nargs="+")
    options = parser.parse_args()
    address, port = options.server.rsplit(":", 1)
    for name in options.name:
        tcp = over_tcp(address, int(port), name)
        quic = asyncio.run(over_quic(address, int(port), name))
        shown = {"tcp": tcp, "quic": quic}
        print(json.dumps({over: hashlib.sha256(der).hexdigest() for over, der in shown.items()}))


main()
