"""All rows of three Postgres shards to one sorted DataFrame: the floor and labkit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from tests.bench.task import DATABASE, USER, Contestant, Ready, Task
from tests.bench.truth import Proof, expected, spans
from tests.bench.wire import BINARY_END, Drained, copied, drain, postgres, query

__all__ = ["CONTESTANTS", "TIMEOUT", "frame_bytes", "frame_of", "reader_of", "warm"]

TIMEOUT = 600.0
"""The timeout of labkit's reads in seconds, high enough never to matter."""
ROW = 5 + 2 + 4 + 4 + 4
"""Bytes of a row in COPY BINARY without its name: the message's head, the field count, an INT and two lengths."""
FRAME = 12 + 19 + 7 + 5 + 6
"""Bytes of an answer without its rows and its CommandComplete: CopyOutResponse, the binary format's head and trailer,
CopyDone, ReadyForQuery."""


@contextmanager
def floor(task: Task) -> Iterator[Ready]:
    """Three raw sockets read all bytes of COPY BINARY and decode nothing."""
    select = f"SELECT {task.columns} FROM {task.table} ORDER BY {task.key}"
    ask = query(f"COPY ({select}) TO STDOUT (FORMAT binary)")
    few = query(f"COPY ({select} LIMIT 1) TO STDOUT (FORMAT binary)")
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(closing(postgres(f"{place}/.s.PGSQL.5432", USER, DATABASE))) for place in task.places
        ]

        def read(words: bytes = ask) -> list[Drained]:
            for sock in sockets:
                sock.sendall(words)
            return drain(sockets, BINARY_END)

        read(few)
        yield Ready(read, lambda drained: _floor_proof(task, drained), _floor_figures)


def _floor_proof(task: Task, drained: list[Drained]) -> Proof:
    """A proof from rows and bytes, all that the floor knows: the text is what remains of the bytes, of two columns."""
    rows, right = copied(drained), expected(task.rows)
    if task.part == "wide":
        return Proof(rows, None, None, None)
    answers = sum(FRAME + _command_complete(one) for one in drained)
    text = sum(one.size for one in drained) - rows * ROW - answers
    return Proof(rows, None, None, text if rows == right.rows else -1)


def _command_complete(one: Drained) -> int:
    """Bytes of CommandComplete: `C`, its length, "COPY <rows>" and a zero byte."""
    return 1 + 4 + len(f"COPY {copied([one])}") + 1


def _floor_figures(drained: list[Drained]) -> dict[str, float]:
    return {"wire": sum(one.size for one in drained)}


def reader_of(task: Task) -> Any:
    """labkit's reader of the three shards, as any user would set it up."""
    from labkit import RangeRouter, ShardReader
    from labkit.shards import PostgresShard

    urls = [f"postgresql+asyncpg://{USER}@/{DATABASE}?host={place}" for place in task.places]
    shards = {number: PostgresShard(url, task.table, key=task.key) for number, url in enumerate(urls, start=1)}
    return ShardReader(RangeRouter(spans(task.rows)), shards, timeout=TIMEOUT)


async def warm(reader: Any) -> None:
    """Opens connections by reading a few rows of each shard, with COPY like the measured read."""
    from labkit.shards.postgres import BULK

    for low, high, _ in reader.router.spans:
        result = (await reader.read(low, min(high, low + BULK))).raise_for_missing()
        assert len(result.frame)


def frame_bytes(frame: Any) -> dict[str, float]:
    """The memory that a DataFrame takes."""
    return {"bytes": int(frame.memory_usage(deep=True).sum())}


def frame_of(runner: asyncio.Runner, reader: Any) -> Any:
    """The frame of one read. The coroutine does not return it, since asyncio.Runner would spend time on its repr."""
    found = []

    async def read() -> None:
        found.append((await reader.read()).raise_for_missing().frame)

    runner.run(read())
    return found.pop()


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`(await reader.read()).frame`."""
    with asyncio.Runner() as runner:
        reader = reader_of(task)

        runner.run(warm(reader))
        yield Ready(lambda: frame_of(runner, reader), figures=frame_bytes)
        runner.run(reader.aclose())


CONTESTANTS: dict[str, Contestant] = {"floor": floor, "labkit": labkit}
