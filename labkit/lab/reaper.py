"""`python reaper.py FD OWNER`: starts the keeper, and ends everything left when the keeper or the owner is gone.

The keeper ends what it started, unless it is itself killed or stopped; this process covers for that. On Linux every
descendant that loses its parent becomes a child of this process, frozen or not, so it needs no list and misses none.
It uses little, and only of the standard library, to be small and to start before anything else.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress

__all__ = ["main"]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""linux/prctl.h."""
POLL = 0.1
"""Seconds between two checks that the owner is still our parent: its socket may live on in a forked child."""
LINUX = sys.platform.startswith("linux")


def main(channel: int, owner: int) -> None:
    """Returns once the keeper, and on Linux every descendant of it, is gone."""
    if LINUX:
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # wakes this process if somebody stopped it
    waker, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signals: list[int] = []
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, lambda number, _frame: signals.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = _run("-P", "-m", "labkit.lab.keeper", str(channel), str(os.getpid()))
    os.close(channel)
    status, terminated = None, False
    while status is None:
        if select.select([waker], [], [], POLL)[0]:
            os.read(waker, 4096)
        if signals or os.getppid() != owner:
            if not terminated:
                _send(keeper, signal.SIGTERM)
                terminated = True
            _send(keeper, signal.SIGCONT)
        status = _reaped(keeper)
    _end_all()
    if status:  # it did not clean up
        os.waitpid(_run("-P", "-m", "labkit.lab.keeper", "sweep"), 0)


def _run(*arguments: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)


def _reaped(keeper: int) -> int | None:
    """Reaps all children that have ended; returns the keeper's exit status if it is among them."""
    status = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == keeper else status
    return status


def _end_all() -> None:
    """Kills children until there are none; those of a dead child become ours."""
    with suppress(ChildProcessError):
        while True:
            for child in _children():
                _send(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    ours = []
    for entry in os.listdir("/proc") if LINUX else []:
        with suppress(OSError, IndexError):
            if entry.isdecimal():
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    # After the name, which may contain anything: the state, then the parent.
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                ours += [int(entry)] if parent == os.getpid() else []
    return ours


def _send(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
