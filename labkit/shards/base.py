"""What a shard is to the reader: something that is asked for a window of rows, and answers or fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from labkit.answer import Answer
from labkit.router import Ranges
from labkit.status import Status

__all__ = ["Ask", "Shard", "ShardFailure"]


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


class ShardFailure(Exception):
    """Raised by a shard that knows how it failed: `status`, and the cause in one line."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status


@runtime_checkable
class Shard(Protocol):
    """One source of rows. `PostgresShard`, `RedisShard` and `MemoryShard` are such; write your own alike."""

    def prepare(self, timeout: float) -> None:
        """Told once by each reader: no answer will be awaited for more than `timeout` seconds."""

    async def read(self, ask: Ask) -> Answer:
        """All rows held in the window, as (id, name), ascending by id.

        Fails by raising: `ShardFailure`, `TimeoutError`, or what the driver raises. It gives up at
        `ask.deadline` by itself and leaves no connection waiting; the reader returns then in any case.
        """

    async def aclose(self) -> None:
        """Closes every connection at once, without waiting for a server that does not answer."""
