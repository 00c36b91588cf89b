"""Observing a lab from outside: its processes, what a read leaves behind, and conditions that become true."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from labkit import Lab, ShardReader
from labkit.lab.access import ADMIN
from tests.support.containers import status_of, tell

PATIENCE = 30.0
"""Seconds to wait for a condition: not a promise, only a limit for a noisy machine."""


async def comes_true(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether `condition` becomes true within that many seconds, while the event loop runs."""
    ends = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return True
        if began > ends:
            return False
        await asyncio.sleep(pause_after(began))


def becomes_true(condition: Callable[[], bool]) -> bool:
    """`comes_true` for tests without an event loop."""
    ends = time.monotonic() + PATIENCE
    while True:
        began = time.monotonic()
        if condition():
            return True
        if began > ends:
            return False
        time.sleep(pause_after(began))


def pause_after(began: float) -> float:
    """Seconds until a condition that was checked since `began` is checked again: checking takes at most a quarter of
    the time, since some conditions look at every process.
    """
    return max(0.01, 3 * (time.monotonic() - began))


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants, the process first."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def command_line(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended, as Postgres backends do."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def status(process: psutil.Process) -> str:
    """The process status from psutil; dead if it has ended."""
    try:
        return process.status() if process.is_running() else psutil.STATUS_DEAD
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; zombies do not count."""
    return [process for process in processes if status(process) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)]


def keepers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The keepers among the processes and their children: a reaper process may be in between."""
    near = dict.fromkeys(one for process in processes for one in (process, *children(process)))
    return [process for process in near if "labkit.lab.keeper" in command_line(process)]


def children(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process; empty if it has ended."""
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def send(signum: signal.Signals, pid: int) -> None:
    """Sends a signal to a server and its children, as `kill` would."""
    processes = tree(pid)
    for process in processes:
        with suppress(ProcessLookupError):  # a backend that has just ended
            os.kill(process.pid, signum)
    if signum is signal.SIGSTOP:
        assert becomes_true(lambda: _still(processes))


def freeze(process: psutil.Process) -> None:
    """Stops this process alone with SIGSTOP; returns once it stands still."""
    process.suspend()
    assert becomes_true(lambda: _still([process]))


def _still(processes: list[psutil.Process]) -> bool:
    return {status(process) for process in running(processes)} <= {psutil.STATUS_STOPPED}


@contextmanager
def frozen_from_outside(lab: Lab, shard: int) -> Iterator[None]:
    """Freezes a shard's server with `kill -STOP` or `docker pause`, behind the lab's back."""
    _from_outside(lab, shard, signal.SIGSTOP, "pause")
    try:
        yield
    finally:
        _from_outside(lab, shard, signal.SIGCONT, "unpause")


def kill_from_outside(lab: Lab, shard: int) -> Callable[[], bool]:
    """Kills a shard's server with `kill -9` or `docker kill` behind the lab's back; returns a check that it is dead."""
    victims = [] if lab.containers else tree(lab.pids[shard])
    _from_outside(lab, shard, signal.SIGKILL, "kill")
    return lambda: status_of(lab.containers[shard]) == "exited" if lab.containers else not running(victims)


def _from_outside(lab: Lab, shard: int, signum: signal.Signals, command: str) -> None:
    if lab.containers:
        tell(lab.containers[shard], command)
    else:
        send(signum, lab.pids[shard])


def sockets() -> int:
    """The number of internet sockets of this process and of its keepers."""
    me = psutil.Process()
    return sum(map(_sockets_of, [me, *keepers(me.children())]))


def _sockets_of(process: psutil.Process) -> int:
    try:
        return len(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return 0


def footprint() -> tuple[int, int, int]:
    """The current numbers of tasks, threads and sockets."""
    return len(asyncio.all_tasks()), threading.active_count(), sockets()


def no_more_than(before: tuple[int, int, int]) -> Callable[[], bool]:
    """A condition: no more tasks, threads or sockets than `before`."""
    return lambda: all(now <= then for now, then in zip(footprint(), before, strict=True))


def refuses(port: int) -> bool:
    """Whether a connection to the port on 127.0.0.1 is refused."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def marked() -> list[psutil.Process]:
    """Processes that this test process or its children started and left running, recognised by their TMPDIR.

    Postgres and Redis write over their environment, but they end with their keeper, which does not.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.pid != os.getpid() and process.environ().get("TMPDIR") == os.environ["TMPDIR"]
            if ours and "resource_tracker" not in " ".join(process.cmdline()):  # multiprocessing's: it ends with us
                found.append(process)
    return running(found)


def folders() -> set[Path]:
    """The current lab folders of this test process and its children."""
    return set(Path(tempfile.gettempdir()).glob("labkit-*"))


def segments(creators: Iterable[int]) -> set[str]:
    """System V shared memory segments created by these PIDs; each Postgres server has one."""
    with suppress(FileNotFoundError):
        columns = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        return {column[1] for column in columns if int(column[4]) in set(creators)}
    return set()


async def admin(lab: Lab, shard: int = 2) -> Any:
    """A connection to a shard's server that bypasses the proxy."""
    return await lab._backend.connect(lab._shards[shard].located)


def as_admin(lab: Lab, url: str) -> str:
    """The administrator's form of a Redis lab's URL, with the right to change settings."""
    access = lab._backend.access  # type: ignore[attr-defined]
    return url.replace(f"//:{access.client}@", f"//{ADMIN}:{access.admin}@")


async def close_pools(lab: Lab) -> None:
    """Closes the connections that reads and the administrator keep for later, which do not count as left behind."""
    for source in lab.reader.shards.values():
        await source.aclose()
    for server in lab._shards.values():
        await server.aclose()  # also on the lab's own loop, which runs faults and writes


def cold(lab: Lab, timeout: float = 2.0) -> ShardReader:
    """A reader of the lab's shards without any connection yet; the caller closes it."""
    return ShardReader(lab.router, lab.sources(), timeout=timeout)
