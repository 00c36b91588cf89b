"""Tasks that were cancelled and are not waited for: a driver may take its time to give up a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["Strays"]


class Strays:
    """Holds on to such tasks until they have ended, as the event loop itself does not."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Cancels a task and does not wait for its end; `aclose` sees to it."""
        if not task.done():
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Has asyncio not report the exception as one that nobody retrieved."""
    if not task.cancelled():
        task.exception()
