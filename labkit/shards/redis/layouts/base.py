"""What a layout is to a shard: it reads a window with the commands that it needs, and writes rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask

__all__ = ["BATCH", "KNOWN", "Capabilities", "Layout", "Run", "few", "head", "inside"]

Run: TypeAlias = Callable[..., Awaitable[Any]]
"""`await run("ZRANGEBYSCORE", key, low, high)` sends one command on one connection and returns the raw RESP2 reply
(bytes, integers, lists); raises what redis-py raises."""

BATCH = 1000
"""Rows a command that writes, and keys a command that reads: quick, and no other client waits long for it."""
KNOWN = 1000
"""IDs in a window that are asked for one by one, where a layout has no order to ask for a range by."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server can do for this layout. The rest is done client-side after fetching every row."""

    order: bool
    """Rows come ascending by id."""
    prune: bool
    """Rows outside of a window stay on the server, however wide it is."""
    page: bool
    """The first n rows of a window that is open cost n rows."""
    moment: bool
    """All rows of an answer are of one moment: one command reads them, or several between which nobody wrote. They lie
    under one key, so in a cluster all are on one node."""


class Layout(Protocol):
    """One way to keep rows in Redis."""

    name: str
    """What it is called in a topology file."""
    can: Capabilities

    async def read(self, run: Run, key: str, ask: Ask) -> Answer:
        """All rows held in the window of `ask` (at least the first `ask.limit`), ascending by id.

        Raises `InvalidAnswer` for what is no row, and whatever `run` raises.
        """

    def write(self, key: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[tuple[Any, ...]]:
        """Commands, as words, that put rows in, at most `BATCH` each. A row that is there with the same id is replaced;
        from a sorted set it must be taken out before.
        """

    def subscription(self, key: str, database: int) -> tuple[str, str]:
        """The command, and the channel or pattern, that hears of changes."""


def few(ask: Ask) -> range | None:
    """Every ID of the window, where they are few enough to be asked for one by one."""
    if ask.low is None or ask.high is None or not 0 <= ask.high - ask.low < KNOWN:
        return None
    return range(ask.low, ask.high + 1)


def inside(row_id: int, ask: Ask) -> bool:
    """Whether an ID lies in the window."""
    return (ask.low is None or row_id >= ask.low) and (ask.high is None or row_id <= ask.high)


def head(answer: Answer, limit: int | None) -> Answer:
    """The first `limit` rows; all, where it is None."""
    if limit is None:
        return answer
    return answer.slice(0, limit) if isinstance(answer, pa.Table) else answer[:limit]
