"""`python reaper.py FD OWNER`: starts the keeper, and ends all that is left when the keeper or the owner is gone.

The keeper ends what it started, unless it is killed, or stopped, itself; so somebody has to look after it. On Linux
whatever has lost its parent below this process becomes its child, frozen or not, so it needs no list and misses none.
Only the standard library is used, and little of it: this process is to be small, and there before anything else.
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
"""Seconds between two looks whether the owner is still our parent: its socket may live on in a forked child."""
LINUX = sys.platform.startswith("linux")


def main(channel: int, owner: int) -> None:
    """Returns once the keeper, and on Linux everything below it, is gone."""
    if LINUX:
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # whoever stopped this process does not keep it from its work
    waker, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    told: list[int] = []
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, lambda number, _frame: told.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = _run("-P", "-m", "labkit.lab.keeper", str(channel), str(os.getpid()))
    os.close(channel)
    status, asked = None, False
    while status is None:
        if select.select([waker], [], [], POLL)[0]:
            os.read(waker, 4096)
        if told or os.getppid() != owner:
            if not asked:
                _send(keeper, signal.SIGTERM)
                asked = True
            _send(keeper, signal.SIGCONT)
        status = _reaped(keeper)
    _end_all()
    if status:  # it had no time to clean up
        os.waitpid(_run("-P", "-m", "labkit.lab.keeper", "sweep"), 0)


def _run(*arguments: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)


def _reaped(keeper: int) -> int | None:
    """Reads the ends of all children there are; that of the keeper is returned."""
    status = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == keeper else status
    return status


def _end_all() -> None:
    """Kills children until there are none; those of a child that is gone are ours then."""
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
                    # Behind the name, which may hold anything: the state, and the parent.
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                ours += [int(entry)] if parent == os.getpid() else []
    return ours


def _send(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
