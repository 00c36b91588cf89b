"""`GET /data` for twenty concurrent clients: `labkit serve` compared with a hand-written endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.bench.task import DATABASE, USER, Contestant, Ready, Task
from tests.bench.truth import Proof, of_frame, spans
from tests.bench.worker import die_with_parent

__all__ = ["CLIENTS", "CONTESTANTS"]

CLIENTS = 20
"""Each sends its next request as soon as it has its answer, on the same connection."""
PATIENCE = 30.0
"""Seconds that a server may take to stop."""


class _Client:
    """A client without library or parsing, so that it takes little from the server on the same machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer = reader, writer
        self._request = f"GET /data HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    @classmethod
    async def of(cls, url: str) -> _Client:
        host, port = urlsplit(url).netloc.split(":")
        return cls(*await asyncio.open_connection(host, int(port)), f"{host}:{port}")

    async def get(self) -> bytes:
        """The body of the answer."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise ConnectionError(f"answered {head.splitlines()[0].decode()}")
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return await self._reader.readexactly(int(length))

    def close(self) -> None:
        self._writer.transport.abort()


async def _burst(url: str, count: int, server: psutil.Process) -> tuple[list[float], dict[str, Any]]:
    """`count` requests by all clients together: the seconds of each, the last body, requests per second, and the
    CPU seconds of the server's process per request."""
    # Connect for each burst: servers close connections that are idle for some seconds.
    clients = [await _Client.of(url) for _ in range(CLIENTS)]
    try:
        await _request_all(clients, 2 * CLIENTS)
        before = server.cpu_times()
        seconds, answer = await _request_all(clients, count)
        after = server.cpu_times()
        return seconds, {**answer, "work": (after.user + after.system - before.user - before.system) / count}
    finally:
        for client in clients:
            client.close()
        await asyncio.sleep(0)  # they are closed in the loop's next iteration


async def _request_all(clients: Sequence[_Client], count: int) -> tuple[list[float], dict[str, Any]]:
    seconds: list[float] = []
    left = iter(range(count))
    body = b""

    async def ask(client: _Client) -> None:
        nonlocal body
        for _ in left:
            began = time.perf_counter()
            body = await client.get()
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask(client) for client in clients))
    return seconds, {"body": body, "rate": count / (time.perf_counter() - began)}


def _proof(answer: dict[str, Any]) -> Proof:
    import pandas as pd

    return of_frame(pd.DataFrame(json.loads(answer["body"])["rows"], columns=["id", "name"]))


@contextmanager
def _served(command: Sequence[str]) -> Iterator[Ready]:
    """Runs a server that prints its URL, and warms it up with twenty clients."""
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    try:
        assert serving.stdout is not None
        words = serving.stdout.readline().split()
        url = next((word for word in words if word.startswith("http://")), "")
        process = psutil.Process(serving.pid)
        with asyncio.Runner() as runner:
            runner.run(_burst(url, 10 * CLIENTS, process))
            yield Ready(
                burst=lambda count: runner.run(_burst(url, count, process)),
                prove=_proof,
                figures=lambda answer: {"rate": answer["rate"], "work": answer["work"]},
            )
    finally:
        serving.terminate()
        serving.wait(PATIENCE)


@contextmanager
def handwritten(task: Task) -> Iterator[Ready]:
    """FastAPI, one asyncpg pool per shard, gather, merge; plain uvicorn."""
    pairs = [word for place in task.places for word in (place, task.table)]
    with _served([sys.executable, "-m", "tests.bench.handwritten", *pairs]) as ready:
        yield ready


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`labkit serve` on a topology file."""
    from labkit import RangeRouter
    from labkit.topology import ShardPlace, Topology

    urls = [f"postgresql+asyncpg://{USER}@/{DATABASE}?host={place}" for place in task.places]
    places = {number: ShardPlace(url, task.table) for number, url in enumerate(urls, start=1)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lab.toml"
        file.touch(0o600)
        file.write_text(Topology(10.0, RangeRouter(spans(task.rows, len(task.places))), places).to_toml())
        command = [sys.executable, "-m", "labkit", "serve", "--topology", os.fspath(file), "--port", "0"]
        with _served(command) as ready:
            yield ready


CONTESTANTS: dict[str, Contestant] = {"floor": handwritten, "labkit": labkit}
