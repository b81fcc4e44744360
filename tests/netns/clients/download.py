"""Downloads with aioquic; prints one line of JSON for each path.

--rebind-at BYTES goes on from another local port once that many bytes of the first path have come,
as a client behind a NAT does. --vanish-at BYTES stops there without a word.
"""

import argparse
import asyncio
import json
import os
import socket

import quic


async def main():
    options = arguments()
    async with quic.connection(options, quic.Client) as client:
        downloads = [client.start(path, options.method) for path in options.path]
        if options.vanish_at is not None:
            await asyncio.wait_for(downloads[0].reach(options.vanish_at), options.timeout)
            print(json.dumps({"vanished_after": downloads[0].received}), flush=True)
            # At once: leaving the block would say goodbye.
            os._exit(0)
        ports = [local_port(client)]
        if options.rebind_at is not None:
            await asyncio.wait_for(downloads[0].reach(options.rebind_at), options.timeout)
            rebound_at = downloads[0].received
            await rebind(client)
            ports.append(local_port(client))
        for download in downloads:
            await asyncio.wait_for(download.done.wait(), options.timeout)
            report = download.report()
            report["ports"] = ports
            if options.rebind_at is not None:
                report["rebound_at"] = rebound_at
            print(json.dumps(report), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--rebind-at", type=int, metavar="BYTES")
    parser.add_argument("--vanish-at", type=int, metavar="BYTES")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("path", nargs="+")
    return parser.parse_args()


def local_port(client):
    return client._transport.get_extra_info("sockname")[1]


async def rebind(client):
    """Gives the connection a new socket; the old one is closed."""
    before = client._transport
    family = before.get_extra_info("socket").family
    local = "::" if family == socket.AF_INET6 else "0.0.0.0"
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: client, local_addr=(local, 0), family=family)
    before.close()
    client._quic.send_ping(1)
    client.transmit()


asyncio.run(main())
