"""Keeps asking over HTTP/3 with aioquic, as a client does that goes by GOAWAY; prints one line of JSON.

Each of --connections asks for the paths one after the other until --seconds are over. After GOAWAY (RFC 9114
section 5.2) it opens another connection for what comes next and lets what was asked for before come to its end. What
the server refused without looking at it (H3_REQUEST_REJECTED, or an id that GOAWAY names) is asked for again and
counted as `retried`; everything else that goes wrong is in `failed`.
"""

import argparse
import asyncio
import contextlib
import json
import time

import quic
from aioquic.buffer import Buffer, BufferReadError
from aioquic.quic.events import StreamDataReceived

GOAWAY = 0x7
REJECTED = "reset with 0x10b"
# Between two attempts to connect.
PAUSE = 0.02


class Client(quic.Client):
    """Notes the ids of GOAWAY frames."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.goaways = []
        self.uni = {}

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == 3:
            self.uni[event.stream_id] = self.uni.get(event.stream_id, b"") + event.data
            self.goaways = goaways(self.uni) or self.goaways
        super().quic_event_received(event)

    def is_usable(self):
        return not self.goaways and self.terminated is None

    def stream_of(self, download):
        return next(id for id, one in self.downloads.items() if one is download)


def goaways(streams):
    """The ids of all GOAWAY frames on the control stream."""
    found = []
    for data in streams.values():
        buffer = Buffer(data=data)
        # The last frame may not be there whole yet.
        with contextlib.suppress(BufferReadError):
            is_control = buffer.pull_uint_var() == 0
            while is_control and not buffer.eof():
                kind = buffer.pull_uint_var()
                payload = Buffer(data=buffer.pull_bytes(buffer.pull_uint_var()))
                if kind == GOAWAY:
                    found.append(payload.pull_uint_var())
    return found


class Asker:
    """One connection at a time, and what became of its requests."""

    def __init__(self, options, tally):
        self.options = options
        self.tally = tally
        self.client = None

    async def run(self, until):
        number = 0
        async with contextlib.AsyncExitStack() as stack:
            while time.monotonic() < until:
                if self.client is None or not self.client.is_usable():
                    if not await self.connect(stack, until):
                        return
                path = self.options.path[number % len(self.options.path)]
                number += 1
                while not await self.ask(path):
                    if not await self.connect(stack, until):
                        return

    async def connect(self, stack, until):
        """False: not in time."""
        if self.client is not None and self.client.goaways:
            self.tally["goaways"] += 1
        while time.monotonic() < until:
            try:
                context = quic.connection(self.options, Client)
                self.client = await asyncio.wait_for(stack.enter_async_context(context), 5)
                self.tally["connections"] += 1
                return True
            except (ConnectionError, asyncio.TimeoutError) as error:
                self.tally["refused"].append(str(error) or "no answer")
                await asyncio.sleep(PAUSE)
        return False

    async def ask(self, path):
        """False: it was refused unseen, and may be asked for again."""
        client = self.client
        download = client.start(path)
        stream = client.stream_of(download)
        try:
            await asyncio.wait_for(download.done.wait(), 20)
        except asyncio.TimeoutError:
            download.end(error="no answer within 20 s")
        report = download.report()
        if report.get("status") == 200:
            self.tally["ok"] += 1
            self.tally["bodies"].setdefault(path, set()).add(report["sha256"])
        elif report.get("error") == REJECTED or (client.goaways and stream >= client.goaways[-1]):
            self.tally["retried"] += 1
            return False
        else:
            self.tally["failed"].append(report.get("error") or report["status"])
        del client.downloads[stream]
        return True


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    quic.add_target(parser)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("path", nargs="+")
    options = parser.parse_args()
    tally = {
        "ok": 0,
        "retried": 0,
        "connections": 0,
        "goaways": 0,
        "refused": [],
        "failed": [],
        "bodies": {},
    }
    until = time.monotonic() + options.seconds
    askers = [Asker(options, tally) for _ in range(options.connections)]
    await asyncio.gather(*(asker.run(until) for asker in askers))
    tally["bodies"] = {path: sorted(bodies) for path, bodies in tally["bodies"].items()}
    print(json.dumps(tally), flush=True)


asyncio.run(main())
