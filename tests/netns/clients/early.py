"""Resumes sessions with aioquic, with requests in early data (0-RTT); prints one line of JSON for each request.

One connection gets a ticket, and each after it resumes the one before. `early`: the server has taken the
early data. `unconfirmed`: the answer came before the client had sent anything but its first flight.

--withhold SECONDS sends nothing after the first flight until every answer is there or the time is up.
--vanish leaves then, so that no handshake is ever complete. --replay N sends the last first flight again, from N
other ports, once its connection is forgotten.
"""

import argparse
import asyncio
import json
import os
import socket

import quic

# Three probe timeouts at the start of a connection, after which the server has forgotten one that was closed.
FORGOTTEN = 3

# What the first connection asks for.
BEFORE = "/size/10"


class Recorder:
    """A transport that keeps the first flight, and may hold back what follows."""

    def __init__(self, transport, withholds):
        self.transport = transport
        self.withholds = withholds
        self.first_flight = []
        self.heard = False
        self.held_back = []

    def sendto(self, data, address=None):
        if self.heard and self.withholds:
            self.held_back.append((data, address))
            return
        if not self.heard:
            self.first_flight.append(bytes(data))
        self.transport.sendto(data, address)

    def release(self):
        self.withholds = False
        for data, address in self.held_back:
            self.transport.sendto(data, address)

    def __getattr__(self, name):
        return getattr(self.transport, name)


class Early(quic.Client):
    withholds = False

    def connection_made(self, transport):
        self.recorder = Recorder(transport, self.withholds)
        super().connection_made(self.recorder)

    def datagram_received(self, data, address):
        self.recorder.heard = True
        super().datagram_received(data, address)


async def ticket_of(options):
    tickets = []
    async with quic.connection(options, quic.Client, on_ticket=tickets.append) as client:
        await asyncio.wait_for(client.start(BEFORE).done.wait(), options.timeout)
        return await first_of(tickets, options)


async def first_of(tickets, options):
    for _ in range(int(options.timeout * 100)):
        if tickets:
            return tickets[0]
        await asyncio.sleep(0.01)
    raise TimeoutError("the server gives no ticket")


async def resume(options, ticket):
    """The next ticket, and the first flight."""
    tickets = []
    Early.withholds = options.withhold is not None
    async with quic.connection(options, Early, ticket, tickets.append) as client:
        downloads = [client.start(path, options.method) for path in options.path]
        everything = asyncio.gather(*(download.done.wait() for download in downloads))
        unconfirmed = [False] * len(downloads)
        if options.withhold is not None:
            await asyncio.wait([everything], timeout=options.withhold)
            unconfirmed = [download.done.is_set() for download in downloads]
            if options.vanish:
                print_all(client, downloads, unconfirmed)
                # At once: leaving the block would say goodbye.
                os._exit(0)
            client.recorder.release()
        await asyncio.wait_for(everything, options.timeout)
        ticket = await first_of(tickets, options)
        print_all(client, downloads, unconfirmed)
        return ticket, client.recorder.first_flight


def print_all(client, downloads, unconfirmed):
    for download, came_at_once in zip(downloads, unconfirmed):
        report = download.report() if download.done.is_set() else {"error": "nothing came"}
        report["early"] = client._quic.tls.early_data_accepted
        report["unconfirmed"] = came_at_once
        print(json.dumps(report), flush=True)


async def replay(options, flight):
    await asyncio.sleep(FORGOTTEN)
    address, port = options.server.rsplit(":", 1)
    for _ in range(options.replay):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for datagram in flight:
                other.sendto(datagram, (address, int(port)))
            await asyncio.sleep(0.02)


async def main():
    options = arguments()
    ticket = await ticket_of(options)
    for _ in range(options.times):
        ticket, flight = await resume(options, ticket)
    if options.replay:
        await replay(options, flight)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--withhold", type=float, metavar="SECONDS")
    parser.add_argument("--vanish", action="store_true")
    parser.add_argument("--replay", type=int, default=0, metavar="N")
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("path", nargs="+")
    return parser.parse_args()


asyncio.run(main())
