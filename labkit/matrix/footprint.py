"""What a process holds: its tasks, threads, child processes and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from labkit.show.format import count

__all__ = ["Footprint", "Peer"]

Peer: TypeAlias = "tuple[str, int] | None"
"""The address that a socket is connected to; None if it is not connected."""

_OPEN = "/dev/fd"
"""Lists the file descriptors of this process."""


@dataclass(frozen=True)
class Footprint:
    """How many of each there are."""

    tasks: int = 0
    threads: int = 0
    processes: int = 0
    sockets: tuple[Peer, ...] = ()
    """Internet sockets only, with what they are connected to; a driver's socket pairs do not count."""
    ports: frozenset[int] = frozenset()
    """Their ports on this side."""

    @classmethod
    def now(cls) -> Footprint:
        """Those of this process and its running event loop; its child processes are not counted."""
        # The loop's own pool keeps its threads for the next call: they are not left behind, any more than the pool is.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith(("asyncio_", "waitpid-"))]
        sockets = list(_sockets(map(int, os.listdir(_OPEN))))
        peers, ports = tuple(peer for peer, _ in sockets), frozenset(port for _, port in sockets)
        return cls(len(asyncio.all_tasks()), len(threads), 0, peers, ports)

    @classmethod
    def of_relatives(cls) -> Footprint:
        """The processes that descend from this one, whose parent adopts those whose own parents have ended."""
        import psutil

        family = psutil.Process(os.getppid()).children(recursive=True)
        return cls(processes=sum(process.pid != os.getpid() for process in family))

    @classmethod
    def of_listeners(cls, port: int) -> Footprint:
        """What all processes hold that listen on a port of this machine, as far as this user may see it."""
        import psutil

        sockets: dict[int, Peer] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found = process.net_connections("inet")
                if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found):
                    theirs = (one for one in found if one.raddr and one.laddr.port != port)
                    sockets |= {one.laddr.port: (one.raddr.ip, one.raddr.port) for one in theirs}
        return cls(sockets=tuple(sockets.values()), ports=frozenset(sockets))

    def beyond(self, before: Footprint, names: Mapping[Peer, Any] | None = None) -> str:
        """What there is more than `before`, such as "1 task, 1 socket to shard 2"; "" for nothing. `names` are those of
        the shards, by address.
        """
        more = {"task": self.tasks - before.tasks, "thread": self.threads - before.threads}
        found = [count(number, noun) for noun, number in more.items() if number > 0]
        if (number := self.processes - before.processes) > 0:
            found.append(f"{number:,} child process{'es' if number > 1 else ''}")
        if len(self.sockets) > len(before.sockets):
            now, then = (Counter((names or {}).get(peer) for peer in held.sockets) for held in (self, before))
            for name, number in (now - then).items():
                found.append(count(number, "socket") + ("" if name is None else f" to shard {name}"))
        return ", ".join(found)


def _sockets(numbers: Iterator[int]) -> Iterator[tuple[Peer, int]]:
    """The peer and the own port of those descriptors that are internet sockets. To look them up in the system's list of
    all connections, as psutil does, would block the event loop for some 15 ms.
    """
    for number in numbers:
        with suppress(OSError):  # closed meanwhile, like the descriptor of the listing itself
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as found:
                    if found.family in (socket.AF_INET, socket.AF_INET6):
                        yield _peer(found), found.getsockname()[1]


def _peer(sock: socket.socket) -> Peer:
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return None
    return host, port
