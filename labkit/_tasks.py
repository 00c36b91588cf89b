"""Tasks that were cancelled and are not waited for: a driver may take its time to give up a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["AGAIN", "AbandonedTasks", "ended"]

AGAIN = 0.25
"""Seconds after which a task is cancelled once more: libraries swallow a cancel now and then."""


class AbandonedTasks:
    """Holds on to such tasks until they have ended, as the event loop itself does not; all are of one loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Cancels a task and does not wait for its end; it is cancelled again every `AGAIN` seconds until it comes."""
        if not task.done():
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if self._timer is None:
                self._timer = task.get_loop().call_later(AGAIN, self._again)

    async def let_all_go(self, tasks: Iterable[asyncio.Task[Any]], patience: float) -> None:
        """The same for several, and waits as long as that: most end in the moment in which they are cancelled.

        What they raise is not looked at any more.
        """
        ending = list(tasks)
        for task in ending:
            self.let_go(task)
            task.add_done_callback(_looked_at)
        if any(not task.done() for task in ending):
            await asyncio.wait(ending, timeout=patience)

    async def aclose(self, patience: float) -> None:
        """Cancels them once more, and returns when they have ended, or after so many seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)

    def _again(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._timer = asyncio.get_running_loop().call_later(AGAIN, self._again) if self._tasks else None


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until all have ended; what they raise is not looked at."""
    pending = set(tasks)
    for task in pending:
        task.add_done_callback(_looked_at)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN)


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Has asyncio not report the exception as one that nobody retrieved."""
    if not task.cancelled():
        task.exception()
