"""The server processes of one keeper: start, kill, pause and resume each with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

__all__ = ["Processes", "User"]

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal a process gets when its parent dies."""
POLL = 0.002
"""Seconds between two looks at a process whose end or stop nobody tells."""


@dataclass(frozen=True)
class User:
    """Who runs servers that refuse to be root."""

    uid: int
    gid: int


class Processes:
    """Processes by name. `user` is taken for those started with `drop=True`, None = as we are."""

    def __init__(self, user: User | None) -> None:
        self._user = user
        self._started: dict[str, asyncio.subprocess.Process] = {}
        self._logs: dict[str, str] = {}
        self._farewells: dict[str, signal.Signals] = {}
        self._paused: set[str] = set()

    async def spawn(
        self, name: str, argv: Sequence[str], *, cwd: str, log: str, drop: bool, farewell: signal.Signals, told: str
    ) -> int:
        """Starts `argv` in `cwd`, output to the file `log`; returns its PID. `farewell` ends it at the end.

        It reads on its stdin what it is `told`, which is short.
        """
        with open(log, "ab") as output, _readable(told) as stdin:
            process = await self._exec(argv, cwd, drop, stdin=stdin, stdout=output, stderr=output)
        self._started[name] = process
        self._farewells[name] = farewell
        self._logs[name] = log
        return process.pid

    async def run(self, argv: Sequence[str], *, cwd: str, drop: bool) -> tuple[int, str]:
        """Runs `argv` to its end: exit code and output."""
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await self._exec(argv, cwd, drop, stdin=nothing, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
        name = f"run {process.pid}"
        self._started[name] = process
        output, _ = await process.communicate()
        del self._started[name]
        return process.returncode or 0, output.decode(errors="replace")

    def returncode(self, name: str) -> int | None:
        """The exit code of a process that ended, None while it runs."""
        return self._started[name].returncode

    async def ended(self, name: str) -> None:
        """Returns when the process has ended."""
        await self._started[name].wait()

    async def log(self, name: str) -> str:
        """The last line that the process wrote."""
        with contextlib.suppress(OSError, IndexError), open(self._logs[name], errors="replace") as log:
            return log.read().strip().splitlines()[-1]
        return ""

    async def pause(self, name: str) -> None:
        """SIGSTOP to the process and all its children; the parent first, so that it makes no more of them.

        Returns when they have stopped, which takes until each is scheduled again, or when they are resumed.
        """
        process = self._started[name]
        self._paused.add(name)
        everybody = _signal_tree(process, signal.SIGSTOP)
        while process.returncode is None and name in self._paused and not _all_are(everybody, "stopped", "zombie"):
            await asyncio.sleep(POLL)

    async def resume(self, name: str) -> None:
        """SIGCONT to the process and all its children."""
        self._paused.discard(name)
        _signal_tree(self._started[name], signal.SIGCONT)

    async def kill(self, name: str) -> None:
        """SIGKILL to the process and all its children; returns when all are gone."""
        await _kill_tree(self._started[name])

    async def stop_all(self, patience: float) -> None:
        """Sends each process its farewell; kills those still there after `patience` seconds, and children that outlive
        their parent.
        """
        running = {name: process for name, process in self._started.items() if process.returncode is None}
        trees = {name: _signal_tree(process, signal.SIGCONT) for name, process in running.items()}
        for name, process in running.items():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self._farewells.get(name, signal.SIGKILL))
        if running:
            await asyncio.wait([asyncio.ensure_future(p.wait()) for p in running.values()], timeout=patience)
        await asyncio.gather(*(_kill_tree(process, trees[name]) for name, process in running.items()))

    async def _exec(
        self, argv: Sequence[str], cwd: str, drop: bool, *, stdin: Any, stdout: Any, stderr: Any
    ) -> asyncio.subprocess.Process:
        user = self._user if drop else None
        return await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_dies_with_parent(),
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )


@contextlib.contextmanager
def _readable(text: str) -> Iterator[int]:
    """A descriptor from which the text can be read, to its end: a pipe has room for that much."""
    reading, writing = os.pipe()
    try:
        with open(writing, "w", encoding="utf-8") as pipe:
            pipe.write(text)
        yield reading
    finally:
        os.close(reading)


def _signal_tree(process: asyncio.subprocess.Process, sign: signal.Signals) -> list[psutil.Process]:
    """Signals the process and its children, however deep; returns them, the process first, or none if it has ended.

    One by one, since Postgres puts each backend in a session of its own.
    """
    import psutil

    found: list[psutil.Process] = []
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        if process.returncode is None:
            process.send_signal(sign)
            found = [psutil.Process(process.pid)]
            found += found[0].children(recursive=True)
    for child in found[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(sign)
    return found


async def _kill_tree(process: asyncio.subprocess.Process, seen: Sequence[psutil.Process] = ()) -> None:
    """Kills the process, its children, and what still runs of its tree as it was `seen` earlier.

    Stops the tree first: what is stopped forks no more and reaps no more.
    """
    import psutil

    everybody = {*_signal_tree(process, signal.SIGSTOP), *seen}
    for one in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil sees where its PID belongs to another one by now
            one.kill()
    await process.wait()
    while not _all_are(everybody, "zombie"):  # orphans are reaped elsewhere
        await asyncio.sleep(POLL)


def _all_are(processes: Iterable[psutil.Process], *states: str) -> bool:
    """Whether each process is in one of these states, by psutil's names, or gone."""
    import psutil

    def is_one(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() in states
        except psutil.NoSuchProcess:
            return True

    return all(map(is_one, processes))


def _dies_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel itself kills a server whose keeper was killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
