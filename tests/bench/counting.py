"""The number of rows of three Postgres shards: the servers' own counts, and labkit's with its bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.bench.bulk import reader_of
from tests.bench.task import DATABASE, USER, Contestant, Ready, Task
from tests.bench.truth import Proof
from tests.bench.wire import drain, postgres, query

__all__ = ["CONTESTANTS"]

END = re.compile(
    rb"D\x00\x00\x00.\x00\x01\x00\x00\x00.(\d+)"  # DataRow: one value
    rb"C\x00\x00\x00\x0dSELECT 1\x00"  # CommandComplete
    rb"Z\x00\x00\x00\x05I\Z",  # ReadyForQuery, idle
    re.DOTALL,
)
"""How the answer to SELECT count(*) ends. Source: PostgreSQL documentation, "Message Formats"."""


@contextmanager
def floor(task: Task) -> Iterator[Ready]:
    """SELECT count(*) on three raw sockets at once, until the slowest shard has answered."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(closing(postgres(f"{place}/.s.PGSQL.5432", USER, DATABASE))) for place in task.places
        ]

        def read(table: str = task.table) -> int:
            for sock in sockets:
                sock.sendall(query(f"SELECT count(*) FROM {table}"))
            answers = [END.search(one.tail) for one in drain(sockets, END)]
            return sum(int(answer[1]) for answer in answers if answer)

        read(task.extra["tiny"])
        yield Ready(read, lambda count: Proof(count, None, None, None))


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`await reader.aggregate(count())`."""
    from labkit.aggregates import count

    with asyncio.Runner() as runner:
        reader = reader_of(task)

        def read() -> int:
            [found] = runner.run(reader.aggregate(count()))
            return -1 if found.missing else found.value

        for low, _, _ in reader.router.spans:
            runner.run(reader.aggregate(count(), low=low, high=low))
        yield Ready(read, lambda count: Proof(count, None, None, None))
        runner.run(reader.aclose())


CONTESTANTS: dict[str, Contestant] = {"floor": floor, "labkit": labkit}
