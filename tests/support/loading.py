"""A load generator: clients that send HTTP/1.1 requests as fast as they are answered, each on its own connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

__all__ = ["Load", "loading", "percentile"]


class Load:
    """Clients of 127.0.0.1:`port` that request `target` repeatedly, and their results.

    `judge` maps status and body of an answer to a kind; an exception from it ends the load.
    """

    def __init__(self, port: int, target: str, judge: Callable[[int, bytes], str]) -> None:
        self.port = port
        self.request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.judge = judge
        self.stopping = False
        self.latencies: list[float] = []
        """Seconds from sending a request to the end of its answer, one per answer, in order of arrival."""
        self.kinds: Counter[str] = Counter()
        """Number of answers by kind."""
        self.errors: Counter[str] = Counter()
        """Number of failures by error."""

    async def client(self) -> None:
        """Sends requests until `stopping`; a connection that ends earlier is an error."""
        while not self.stopping:
            try:
                await self._connection()
            except (OSError, EOFError) as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
                await asyncio.sleep(0.1)  # do not query a server that is down a thousand times a second

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while not self.stopping:
                asked = perf_counter()
                writer.write(self.request)
                status, body = await _answer(reader)
                self.latencies.append(perf_counter() - asked)
                self.kinds[self.judge(status, body)] += 1
        finally:
            writer.transport.abort()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer with a Content-Length."""
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
    return int(start.split()[1]), await reader.readexactly(int(headers["content-length"]))


@asynccontextmanager
async def loading(port: int, target: str, judge: Callable[[int, bytes], str], clients: int) -> AsyncIterator[Load]:
    """That many concurrent clients during the block; its end awaits the last answers."""
    load = Load(port, target, judge)
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(load.client())
        try:
            yield load
        finally:
            load.stopping = True


def percentile(latencies: list[float], part: float) -> float:
    """The seconds that a fraction `part` (0 to 1) of them did not exceed."""
    return sorted(latencies)[max(0, round(part * len(latencies)) - 1)]
