"""What a shard is to the reader: something that is asked for a window of rows, and answers or fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from labkit._types import Ranges
from labkit.answer import Answer
from labkit.report import Status

__all__ = ["Ask", "Listens", "Shard", "ShardFailure"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What one shard is asked for in one read."""

    ranges: Ranges
    """The parts of its ranges that lie in the window, ascending: every row of the answer must be in one."""
    low: int | None
    """The window as the caller gave it. A shard returns all it holds in [low, high], so that a row
    which is not its own is found out, not filtered away; None is an open end."""
    high: int | None
    deadline: float
    """On the clock of the running event loop, in seconds (`loop.time()`)."""
    limit: int | None = None
    """The first so many rows by id will do, as for a page; None is all. A shard may return more."""


class ShardFailure(Exception):
    """Raised by a shard that knows how it failed: `status`, and the cause in one line."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status


@runtime_checkable
class Shard(Protocol):
    """One source of rows. `PostgresShard`, `RedisShard` and `MemoryShard` are such; write your own alike.

    It may be read on several event loops, in threads and in forked children: `labkit._loops.PerLoop` keeps what belongs
    to one of them.
    """

    def prepare(self, timeout: float) -> None:
        """Told once by each reader: no answer will be awaited for more than `timeout` seconds."""

    async def read(self, ask: Ask) -> Answer:
        """All rows held in the window (the first `ask.limit`), as (id, name), ascending by id.

        Fails by raising: `ShardFailure`, `TimeoutError`, or what the driver raises. It gives up at
        `ask.deadline` by itself and leaves no connection waiting; the reader returns then in any case.
        """

    async def aclose(self) -> None:
        """Closes every connection at once, on all event loops, without waiting for a server that does not answer. One
        that is being made meanwhile is closed too. May be called again."""


@runtime_checkable
class Listens(Protocol):
    """A shard that hears of changes by itself, so that they show sooner than at the interval of who watches it."""

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Calls `notify` once it listens, and whenever it hears that rows may have changed; runs until it is cancelled.

        Nobody relies on it: who watches reads every `beat` seconds in any case, so it need not poll, nor prove that it
        would hear. Raises, as `Shard.read` does, where there is no connection or it is lost, and is called again then.
        Leaves no connection behind.
        """
