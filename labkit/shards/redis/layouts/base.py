"""The interface of layouts: each reads a window, and writes rows, with its own commands."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.writing import Rows

__all__ = ["BATCH", "KNOWN", "Capabilities", "Layout", "Run", "head", "inside", "narrow"]


class Run(Protocol):
    """Sends commands on one connection; raises what redis-py raises."""

    def __call__(self, *words: Any) -> Awaitable[Any]:
        """`await run("ZRANGEBYSCORE", key, low, high)` is the raw RESP2 reply (bytes, integers, lists)."""

    def many(self, questions: Sequence[tuple[Any, ...]]) -> Awaitable[list[Any]]:
        """Sends several commands at once; the replies in their order, of which each may be a `ResponseError`."""


BATCH = 1000
"""Rows per write command, and keys per read command: fast enough that no other client waits long."""
KNOWN = 1000
"""Largest window, in IDs, that a layout without order requests ID by ID."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server can do for this layout. The rest is done client-side after fetching every row."""

    order: bool
    """Rows are sent ascending by id."""
    prune: bool
    """Rows outside the window are not sent, however wide it is."""
    page: bool
    """The first n rows of an open window cost n rows."""
    moment: bool
    """All rows of an answer are from one moment: read by one command, or by several without a write in between. They
    are under one key, so in a cluster all are on one node."""


class Layout(Protocol):
    """One way to keep rows in Redis."""

    name: str
    """Its name in a topology file."""
    can: Capabilities
    schema: pa.Schema
    """The columns of its rows, the key first."""

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """All rows held in the window of `ask` (at least the first `ask.limit`), ascending by id.

        Raises `InvalidAnswer` for anything that is not a row, and whatever `run` raises.
        """

    def write(self, key: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """Commands, as words, that insert rows, at most `BATCH` each: those of a table of any columns, the key first,
        or (id, name) pairs. A row with the same id is replaced, but from a sorted set it must be removed first.
        """

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """The command, and the channel or pattern, that subscribes to changes."""


def narrow(ask: Ask) -> range | None:
    """Every ID of the window, if it is narrow enough to request them one by one."""
    if ask.low is None or ask.high is None or not 0 <= ask.high - ask.low < KNOWN:
        return None
    return range(ask.low, ask.high + 1)


def inside(row_id: int, ask: Ask) -> bool:
    """Whether an ID is in the window."""
    return (ask.low is None or row_id >= ask.low) and (ask.high is None or row_id <= ask.high)


def head(answer: Answer, limit: int | None) -> Answer:
    """The first `limit` rows; all if it is None."""
    if limit is None:
        return answer
    return answer.slice(0, limit) if isinstance(answer, pa.Table) else answer[:limit]
