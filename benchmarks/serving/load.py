"""
A load generator: one process, raw sockets on uvloop, one request under way per connection.

`python load.py URL BODIES --connections 64 --seconds 10 [--token …]`, BODIES being a file with one JSON body per line.
Prints JSON. Requests per second and latencies, in milliseconds, are those of answers with status 200. `client_core` is
the share of a core that it used itself (near 1.0 it would be measuring itself), `server_us` the processor time that the
server and its children used per answered request, in microseconds: a figure that holds on a busy machine, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer to the one before is whole."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.received = b""
        self.sent_at = 0.0
        self.next = itertools.cycle(load.requests)
        for _ in range(next(load.offset) % len(load.requests)):
            next(self.next)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(next(self.next))

    def data_received(self, data: bytes) -> None:
        self.received = self.received + data if self.received else data
        head = self.received.find(_END)
        if head < 0:
            return
        at = self.received.lower().find(_LENGTH, 0, head)
        length = int(self.received[at + len(_LENGTH) : self.received.index(b"\r\n", at)])
        if len(self.received) < head + len(_END) + length:
            return
        self.load.note(int(self.received[9:12]), self.sent_at)
        self.received = b""
        if self.load.over:
            self.transport.close()
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.load.left(self)


class Load:
    """What all connections share."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.offset = itertools.count()
        self.over = self.counting = False
        self.began = 0.0
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.lost = 0
        self.open = 0
        self.done = asyncio.Event()

    def note(self, status: int, sent_at: float) -> None:
        # Not what was sent before: a queue of connections that overflowed at the begin makes TCP wait for seconds.
        if self.counting and sent_at >= self.began:
            self.statuses[status] += 1
            if status == 200:
                self.seconds.append(time.perf_counter() - sent_at)

    def left(self, connection: Connection) -> None:
        self.lost += not self.over
        self.open -= 1
        if not self.open:
            self.done.set()


async def run(
    url: str, bodies: list[bytes], *, connections: int, seconds: float, warm_up: float, headers: str, pid: int
) -> dict:
    """Load *url* and say how it went; *pid* is the server, 0 if its use of the processor is not asked for."""
    where = urlsplit(url)
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n{headers}"
    load = Load([f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies])
    loop = asyncio.get_running_loop()
    load.open = connections
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), where.hostname, where.port)
    await asyncio.sleep(warm_up)
    server = psutil.Process(pid) if pid else None
    load.began = began = time.perf_counter()
    load.counting, cpu, served = True, time.process_time(), _used(server)
    await asyncio.sleep(seconds)
    load.counting, took, used = False, time.perf_counter() - began, time.process_time() - cpu
    served = _used(server) - served
    load.over = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.done.wait(), 10)
    times = sorted(load.seconds) or [0.0]
    at = {f"p{q}": round(times[min(len(times) - 1, int(len(times) * q / 100))] * 1000, 2) for q in (50, 90, 99)}
    return {
        "per_second": round(len(load.seconds) / took, 1), **at, "longest": round(times[-1] * 1000, 2),
        "statuses": dict(load.statuses), "lost": load.lost, "client_core": round(used / took, 2),
        "server_core": round(served / took, 2), "server_us": round(served / max(1, len(load.seconds)) * 1e6, 1),
    }  # fmt: skip


def _used(process: psutil.Process | None) -> float:
    """Seconds of processor time that a process has taken."""
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True))) if process else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=2.0)
    parser.add_argument("--token", default="")
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--header", action="append", default=[])
    told = parser.parse_args()
    extra = [*told.header, *([f"Authorization: Bearer {told.token}"] if told.token else [])]
    print(
        json.dumps(
            uvloop.run(
                run(
                    told.url, told.bodies.read_bytes().splitlines(), connections=told.connections, seconds=told.seconds,
                    warm_up=told.warm_up, headers="".join(f"{line}\r\n" for line in extra), pid=told.pid,
                )
            )
        )
    )  # fmt: skip
