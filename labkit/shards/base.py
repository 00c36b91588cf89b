"""The interface between a reader and a shard: a query for a window of rows, and an answer or a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from labkit._filters import Filters
from labkit._types import Ranges
from labkit.aggregates import Aggregate, Partial
from labkit.answer import Answer
from labkit.report import Status

__all__ = ["Aggregates", "Ask", "Describes", "Listens", "Selects", "Shard", "ShardFailure"]


@dataclass(frozen=True, slots=True)
class Ask:
    """The query to one shard in one read."""

    ranges: Ranges
    """The parts of the shard's ranges that lie in the window, ascending: every row of the answer must be in one."""
    low: int | None
    """The window as the caller gave it; None is an open end. A shard returns all rows it holds in [low, high], so that
    a foreign row is detected, not filtered out."""
    high: int | None
    deadline: float
    """In seconds, on the clock of the running event loop (`loop.time()`)."""
    limit: int | None = None
    """How many rows suffice, the first ones by id, as for a page; None is all. A shard may return more."""
    columns: tuple[str, ...] | None = None
    """Which columns suffice, besides the key; None is all. A shard may return more, in any order behind the key."""
    filters: Filters | None = None
    """Which rows are wanted. None is all, and what every shard gets that does not say that it `Selects`."""
    aggregates: tuple[Aggregate, ...] = ()
    """What is wanted of the rows, if not they themselves: only a shard that says that it `Aggregates` gets any."""


class ShardFailure(Exception):
    """Raised by a shard that knows why it failed: `status`, and the cause in one line."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status


@runtime_checkable
class Shard(Protocol):
    """One source of rows, such as `PostgresShard`, `RedisShard`, `MemoryShard` or your own.

    It may be read on several event loops, in threads and in forked children: `labkit._loops.PerLoop` holds what belongs
    to one of them.
    """

    def prepare(self, timeout: float) -> None:
        """Called once by each reader, which awaits no answer for longer than `timeout` seconds."""

    async def read(self, ask: Ask) -> Answer | Partial:
        """All rows held in the window (the first `ask.limit`), ascending by key: a table, the key first, or a sequence
        of (id, name).

        Raises `ShardFailure`, `TimeoutError`, or what the driver raises. It gives up at `ask.deadline` and leaves no
        connection waiting; the reader returns then in any case.
        """

    async def aclose(self) -> None:
        """Closes every connection immediately, on all event loops, even those still connecting, without waiting for a
        server that does not answer. May be called again."""


@runtime_checkable
class Describes(Protocol):
    """A shard that knows its columns, or whose server does, without reading rows."""

    async def describe(self, deadline: float) -> pa.Schema:
        """The columns as they are now, the key first. Raises as `Shard.read` does."""


@runtime_checkable
class Selects(Protocol):
    """A shard that returns only the rows that `Ask.filters` wants; from others all rows are read, and filtered here."""

    selects: bool


@runtime_checkable
class Aggregates(Protocol):
    """A shard that computes `Ask.aggregates`: its `read` then returns a `labkit.aggregates.Partial`. It checks what the
    reader checks of rows: a NULL, repeated or foreign ID makes it raise `labkit.tables.InvalidAnswer`. Of others all
    rows are read, and the aggregates are computed here.
    """

    aggregates: bool


@runtime_checkable
class Listens(Protocol):
    """A shard that is notified of changes, so that a watcher sees them before its next interval."""

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Calls `notify` once it listens, and whenever rows may have changed; runs until cancelled.

        Best effort: a watcher reads every `beat` seconds in any case, so this need not poll, nor prove that it still
        hears. Raises as `Shard.read` does if there is no connection or it is lost; the watcher then calls it again.
        Leaves no connection behind.
        """
