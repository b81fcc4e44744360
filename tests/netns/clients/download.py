"""Downloads with aioquic; prints one line of JSON for each path.

--rebind-at BYTES goes on from another local port once that many bytes of the first path have come,
as a client behind a NAT does. --roam BYTES does so every time that many more have come, and asks for another path
(--ask) at once; with --new-ids it also goes on with another connection id. --vanish-at BYTES stops there without a word. `beside`: what had come of each
download when this one was complete.
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
        downloads = start_all(client, options)
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
        if options.roam is not None:
            downloads += await asyncio.wait_for(roam(client, options, ports), options.timeout)
        for download in downloads:
            await asyncio.wait_for(download.done.wait(), options.timeout)
            report = download.report()
            report["ports"] = ports
            if options.rebind_at is not None:
                report["rebound_at"] = rebound_at
            print(json.dumps(report), flush=True)


def start_all(client, options):
    priorities = options.priority or [""] * len(options.path)
    if options.by_update:
        first = client._quic.get_next_available_stream_id()
        for number, priority in enumerate(priorities):
            client.update_priority(first + 4 * number, priority)
        return [client.start(path, options.method) for path in options.path]
    fields = ([(b"priority", text.encode())] if text else [] for text in priorities)
    return [client.start(path, options.method, more) for path, more in zip(options.path, fields)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--rebind-at", type=int, metavar="BYTES")
    parser.add_argument("--roam", type=int, metavar="BYTES")
    parser.add_argument("--ask", default="/", metavar="PATH")
    parser.add_argument("--new-ids", action="store_true")
    parser.add_argument("--vanish-at", type=int, metavar="BYTES")
    parser.add_argument("--priority", action="append", metavar="TEXT", help="one for each path")
    parser.add_argument("--by-update", action="store_true", help="by PRIORITY_UPDATE, before the requests")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("path", nargs="+")
    return parser.parse_args()


async def roam(client, options, ports):
    """The requests sent from the new ports."""
    first = next(iter(client.downloads.values()))
    asked = []
    while not first.done.is_set():
        await first.reach(first.received + options.roam)
        if options.new_ids:
            client._quic.change_connection_id()
        await rebind(client)
        ports.append(local_port(client))
        asked.append(client.start(options.ask))
    return asked


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
