"""The server processes of one keeper: starts, kills, pauses and resumes each with all its children."""

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
"""Seconds between two checks of a process whose end or stop is not reported to us."""


@dataclass(frozen=True)
class User:
    """The user that runs servers which refuse to run as root."""

    uid: int
    gid: int


class Processes:
    """Processes by name. Those started with `drop=True` run as `user`; None is our own user."""

    def __init__(self, user: User | None) -> None:
        self._user = user
        self._started: dict[str, asyncio.subprocess.Process] = {}
        self._logs: dict[str, str] = {}
        self._farewells: dict[str, signal.Signals] = {}
        self._paused: dict[str, list[psutil.Process]] = {}

    async def spawn(
        self, name: str, argv: Sequence[str], *, cwd: str, log: str, drop: bool, farewell: signal.Signals, stdin: str
    ) -> int:
        """Starts `argv` in `cwd`, with its output in the file `log`; returns its PID.

        The signal `farewell` ends it in `stop_all`. It can read `stdin`, a short text.
        """
        with open(log, "ab") as output, _readable(stdin) as pipe:
            process = await self._exec(argv, cwd, drop, stdin=pipe, stdout=output, stderr=output)
        self._started[name] = process
        self._farewells[name] = farewell
        self._logs[name] = log
        return process.pid

    async def run(self, argv: Sequence[str], *, cwd: str, drop: bool) -> tuple[int, str]:
        """Runs `argv` to its end; returns exit code and output."""
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await self._exec(argv, cwd, drop, stdin=nothing, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
        name = f"run {process.pid}"
        self._started[name] = process
        output, _ = await process.communicate()
        del self._started[name]
        return process.returncode or 0, output.decode(errors="replace")

    def returncode(self, name: str) -> int | None:
        """The exit code of a process, None while it runs."""
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
        """SIGSTOP to the process and all its children; the parent first, so that it forks no more.

        Returns when all have stopped, which takes until each is scheduled again, or are resumed.
        """
        process = self._started[name]
        everybody = self._paused[name] = _signal_tree(process, signal.SIGSTOP)
        while process.returncode is None and name in self._paused and not _all_are(everybody, "stopped", "zombie"):
            await asyncio.sleep(POLL)

    async def resume(self, name: str) -> None:
        """SIGCONT to the process and all its children: those that were paused, since none has forked meanwhile."""
        import psutil

        for one in self._paused.pop(name, ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)

    async def kill(self, name: str) -> None:
        """SIGKILL to the process and all its children; returns when all have ended."""
        await _kill_tree(self._started[name])

    async def stop_all(self, grace: float) -> None:
        """Sends each process its farewell signal; kills those still running after `grace` seconds, and children that
        outlive their parent.
        """
        running = {name: process for name, process in self._started.items() if process.returncode is None}
        trees = {name: _signal_tree(process, signal.SIGCONT) for name, process in running.items()}
        for name, process in running.items():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self._farewells.get(name, signal.SIGKILL))
        if running:
            await asyncio.wait([asyncio.ensure_future(p.wait()) for p in running.values()], timeout=grace)
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
    """A descriptor to read the text from, short enough for the buffer of a pipe."""
    reading, writing = os.pipe()
    try:
        with open(writing, "w", encoding="utf-8") as pipe:
            pipe.write(text)
        yield reading
    finally:
        os.close(reading)


def _signal_tree(process: asyncio.subprocess.Process, sign: signal.Signals) -> list[psutil.Process]:
    """Signals the process and all its descendants; returns them, the process first, or none if it has ended.

    By parent, since Postgres puts each backend into a separate session.
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
    """Kills the process, its descendants, and those of `seen`, noted earlier, that still run.

    Stops the tree first: a stopped process neither forks nor reaps, so no PID is reused.
    """
    import psutil

    everybody = {*_signal_tree(process, signal.SIGSTOP), *seen}
    for one in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):  # raised too if the PID belongs to another process by now
            one.kill()
    await process.wait()
    while not _all_are(everybody, "zombie"):  # orphans are reaped elsewhere
        await asyncio.sleep(POLL)


def _all_are(processes: Iterable[psutil.Process], *states: str) -> bool:
    """Whether each process has ended or is in one of these states (psutil's names)."""
    import psutil

    def is_one(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() in states
        except psutil.NoSuchProcess:
            return True

    return all(map(is_one, processes))


def _dies_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel kills a server when its keeper dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
