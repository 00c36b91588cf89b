"""Tasks that are cancelled but not awaited: a driver may take a while to give up a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["AGAIN", "AbandonedTasks", "cancelled"]

AGAIN = 0.25
"""Seconds after which a task is cancelled again: libraries sometimes swallow a cancel."""


class AbandonedTasks:
    """Keeps such tasks, all of one event loop, until they have ended: the loop itself holds only weak references."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Cancels a task without waiting for its end; it is cancelled again every `AGAIN` seconds until then."""
        if not task.done():
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if self._timer is None:
                self._timer = task.get_loop().call_later(AGAIN, self._again)

    async def let_all_go(self, tasks: Iterable[asyncio.Task[Any]], patience: float) -> None:
        """Likewise for several tasks, then waits for them, for at most `patience` seconds: most end at once.

        Their exceptions are ignored.
        """
        ending = list(tasks)
        for task in ending:
            self.let_go(task)
            task.add_done_callback(_ignore_exception)
        if any(not task.done() for task in ending):
            await asyncio.wait(ending, timeout=patience)

    async def aclose(self, patience: float) -> None:
        """Cancels all once more; returns when they have ended, or after `patience` seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)

    def _again(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._timer = asyncio.get_running_loop().call_later(AGAIN, self._again) if self._tasks else None


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks, again and again, until all have ended; their exceptions are ignored."""
    pending = set(tasks)
    for task in pending:
        task.add_done_callback(_ignore_exception)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN)


def _ignore_exception(task: asyncio.Task[Any]) -> None:
    """Retrieves the exception, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
