"""What a process holds: its tasks, threads and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass

from labkit.show.format import count

__all__ = ["Footprint", "excess"]

PATIENCE = 2.0
"""Seconds until what a read has let go of must be gone: a driver may need a moment to take a connection back."""
_POLL = 0.02
_OPEN = "/dev/fd"
"""The numbers of this process's open files."""


@dataclass(frozen=True)
class Footprint:
    """How many of each there are."""

    tasks: int
    threads: int
    sockets: int
    """Of the internet; a driver's own socket pairs are none."""

    @classmethod
    def now(cls) -> Footprint:
        """Those of the running event loop's process."""
        # The loop's own pool keeps its threads for the next call: they are no more left than the pool is.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return cls(len(asyncio.all_tasks()), len(threads), sum(map(_is_internet, map(int, os.listdir(_OPEN)))))


def _is_internet(number: int) -> bool:
    """Whether an open file is a socket of the internet. To find it in the system's list of all its connections, as
    psutil does, takes some 15 ms, in which the event loop stands.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as found:
            return found.family in (socket.AF_INET, socket.AF_INET6)
    except OSError:
        return False  # closed meanwhile, as the folder's own number is


async def excess(before: Footprint | None, look: Callable[[], Awaitable[Footprint | None]]) -> str:
    """What there is more than `before` when everything had time to end, such as "1 task, 2 sockets"; "" for nothing.

    `look` tells what there is now; where one of both is not known, nothing is more.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + PATIENCE
    while (more := _more(before, await look())) and loop.time() < ends:
        await asyncio.sleep(_POLL)
    return more


def _more(before: Footprint | None, after: Footprint | None) -> str:
    if before is None or after is None:
        return ""
    pairs = zip(("task", "thread", "socket"), astuple(after), astuple(before), strict=True)
    return ", ".join(count(now - then, noun) for noun, now, then in pairs if now > then)
