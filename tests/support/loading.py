"""A generator of load: clients that ask over HTTP/1.1 as fast as they are answered, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

__all__ = ["Load", "loading", "percentile"]


class Load:
    """Clients of 127.0.0.1:`port` that ask for `target` again and again, and what came of it.

    `judge` gets the status and the body of each answer and says of which kind it is; what it raises ends all.
    """

    def __init__(self, port: int, target: str, judge: Callable[[int, bytes], str]) -> None:
        self.port = port
        self.request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.judge = judge
        self.stopping = False
        self.latencies: list[float] = []
        """Seconds from sending a request until its answer was read, one an answer, in the order of the answers."""
        self.kinds: Counter[str] = Counter()
        """How many answers there were of each kind."""
        self.errors: Counter[str] = Counter()
        """What clients met that was no answer."""

    async def client(self) -> None:
        """Asks until it is told to stop; a connection that ends without being told to is an error."""
        while not self.stopping:
            try:
                await self._connection()
            except (OSError, EOFError) as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
                await asyncio.sleep(0.1)  # a server that is down is not to be asked a thousand times a second

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
    """Status and body of an answer that says how long it is."""
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
    return int(start.split()[1]), await reader.readexactly(int(headers["content-length"]))


@asynccontextmanager
async def loading(port: int, target: str, judge: Callable[[int, bytes], str], clients: int) -> AsyncIterator[Load]:
    """So many clients, all at once, while the block lasts; at its end the last answers are awaited."""
    load = Load(port, target, judge)
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(load.client())
        try:
            yield load
        finally:
            load.stopping = True


def percentile(latencies: list[float], part: float) -> float:
    """The seconds that `part` (0 to 1) of them did not exceed."""
    return sorted(latencies)[max(0, round(part * len(latencies)) - 1)]
