"""Bounds per shard: how many reads it serves at a time, the rest in order of arrival, and how long an answer may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from labkit._loops import PerLoop
from labkit.errors import UsageError

__all__ = ["ANSWER_LIMIT", "Limiter", "checked_limit"]

ANSWER_LIMIT = 1 << 30
"""Default limit for the answer to one read, in bytes: 1 GiB."""


def checked_limit(limit: int) -> int:
    """`limit` if it is a positive number of bytes; else `UsageError`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"answer_limit must be a positive number of bytes, not {limit!r}")
    return limit


class Limiter:
    """`count` slots per event loop, since connections belong to one: each thread with its own loop has that many.

    Driver pools are not fair: a newcomer can take a slot promised to a waiter, or is turned away if there are too
    many. Under load a healthy shard would time out, or be unreachable.

    Raises `UsageError` for a count that is not a positive integer.
    """

    def __init__(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"pool_size must be a positive integer, not {count!r}")
        self.count = count
        self._free = PerLoop(lambda: asyncio.Semaphore(count), _nothing_to_close, lambda _: None)

    @asynccontextmanager
    async def one(self, deadline: float) -> AsyncIterator[None]:
        """Holds a slot during the block; TimeoutError if none is free before `deadline` (`loop.time()`)."""
        free = self._free.here()
        if free.locked():
            async with asyncio.timeout_at(deadline):
                await free.acquire()
        else:
            await free.acquire()
        try:
            yield
        finally:
            free.release()


async def _nothing_to_close(_free: asyncio.Semaphore) -> None:
    """Waiters end with their loop."""
