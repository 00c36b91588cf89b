"""What a process holds: its tasks, threads and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from dataclasses import astuple, dataclass

from labkit.show.format import count

__all__ = ["Footprint"]

_OPEN = "/dev/fd"
"""Lists the file descriptors of this process."""


@dataclass(frozen=True)
class Footprint:
    """How many of each there are."""

    tasks: int
    threads: int
    sockets: int
    """Internet sockets only; a driver's socket pairs do not count."""

    @classmethod
    def now(cls) -> Footprint:
        """Those of this process and its running event loop."""
        # The loop's own pool keeps its threads for the next call: they are not left behind, any more than the pool is.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return cls(len(asyncio.all_tasks()), len(threads), sum(map(_is_internet, map(int, os.listdir(_OPEN)))))

    def beyond(self, before: Footprint) -> str:
        """What there is more than `before`, such as "1 task, 2 sockets"; "" for nothing."""
        pairs = zip(("task", "thread", "socket"), astuple(self), astuple(before), strict=True)
        return ", ".join(count(now - then, noun) for noun, now, then in pairs if now > then)


def _is_internet(number: int) -> bool:
    """Whether an open file is an internet socket. Looking it up in the system's list of all connections, as psutil
    does, would block the event loop for some 15 ms.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as found:
            return found.family in (socket.AF_INET, socket.AF_INET6)
    except OSError:
        return False  # closed meanwhile, like the descriptor of the listing itself
