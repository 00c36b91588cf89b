"""All rows of three Redis shards (sorted sets) to one sorted DataFrame."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from tests.bench.bulk import TIMEOUT, frame_bytes, frame_of, warm
from tests.bench.task import Contestant, Ready, Task
from tests.bench.truth import Proof, name_of, spans
from tests.bench.wire import PONG_END, Drained, drain

__all__ = ["CONTESTANTS"]


@contextmanager
def floor(task: Task) -> Iterator[Ready]:
    """Three raw sockets send ZRANGE key 0 -1 and a PING, and read all bytes up to the PONG."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(_dialled(place))) for place in task.places]

        def read(last: int = -1) -> list[Drained]:
            for sock in sockets:
                sock.sendall(f"ZRANGE {task.table} 0 {last}\r\nPING\r\n".encode())
            return drain(sockets, PONG_END)

        read(0)
        yield Ready(read, lambda drained: _floor_proof(task, drained))


def _dialled(place: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(place)
    return sock


def _floor_proof(task: Task, drained: list[Drained]) -> Proof:
    """A proof from bytes, all that the floor knows: right if each answer has as many as its rows require."""
    right = all(
        one.size == _size(ranges) for one, ranges in zip(drained, spans(task.rows, len(drained)).values(), strict=True)
    )
    return Proof(task.rows if right else -1, None, None, None)


def _size(ranges: list[tuple[int, int]]) -> int:
    """Bytes in RESP2 of an array of all members in these ranges, and of +PONG."""
    count = sum(high - low + 1 for low, high in ranges)
    size = len(f"*{count}\r\n") + len("+PONG\r\n")
    for low, high in ranges:
        for digits in range(len(str(low)), len(str(high)) + 1):
            many = min(high, 10**digits - 1) - max(low, 10 ** (digits - 1)) + 1
            member = len(json.dumps([1, name_of(1)], separators=(",", ":"))) + 2 * (digits - 1)
            size += many * (len(f"${member}\r\n") + member + 2)
    return size


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`(await reader.read()).frame`."""
    from labkit import RangeRouter, ShardReader
    from labkit.shards import RedisShard

    with asyncio.Runner() as runner:
        shards = {
            number: RedisShard(f"unix://{place}", task.table) for number, place in enumerate(task.places, start=1)
        }
        reader = ShardReader(RangeRouter(spans(task.rows)), shards, timeout=TIMEOUT)

        runner.run(warm(reader))
        yield Ready(lambda: frame_of(runner, reader), figures=frame_bytes)
        runner.run(reader.aclose())


@contextmanager
def redis_py(task: Task) -> Iterator[Ready]:
    """redis-py with its defaults in three threads: ZRANGE, json.loads, one sorted DataFrame."""
    import pandas as pd
    from redis import Redis

    with ExitStack() as stack, ThreadPoolExecutor(len(task.places)) as pool:
        clients = [stack.enter_context(Redis(unix_socket_path=place)) for place in task.places]

        def one(client: Any, last: int) -> list[Any]:
            return [json.loads(member) for member in client.zrange(task.table, 0, last)]

        def read(last: int = -1) -> Any:
            shards = pool.map(lambda client: one(client, last), clients)
            rows = [row for rows in shards for row in rows]
            return pd.DataFrame(rows, columns=["id", "name"]).sort_values("id", ignore_index=True)

        read(0)
        yield Ready(read, figures=frame_bytes)


CONTESTANTS: dict[str, Contestant] = {"floor": floor, "labkit": labkit, "redis_py": redis_py}
