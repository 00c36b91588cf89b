"""Work in a child process that is ended together with all its descendants, even when its owner is killed."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

__all__ = ["fork", "guarded"]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""linux/prctl.h: the signal sent when the parent dies; who adopts orphaned descendants."""
FAILED = 70
"""sysexits.h, EX_SOFTWARE: the exit code of work that raised."""
_POLL = 0.05


def guarded(leash: socket.socket, owner: int, work: Callable[[], object]) -> NoReturn:
    """Runs `work` in a child of this process, and exits with it; `owner` is the process at the other end of `leash`.

    When the child ends, the other end of the leash is closed or the owner is gone, all descendants of this process are
    killed, including those in other sessions. Then the child's wait status is sent on the leash as decimal text, or "-"
    if the child had to be killed.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    child = fork()
    if child == 0:
        leash.close()
        _run_child(guard, work)
    status = _wait_for(leash, owner, child)
    _kill_descendants()
    with suppress(OSError):
        leash.sendall(b"-" if status is None else str(status).encode())
    os._exit(0)


def fork() -> int:
    """`os.fork`, even with other threads running: the child must not need any of their locks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run_child(guard: int, work: Callable[[], object]) -> NoReturn:
    code = FAILED
    try:
        os.setsid()  # so that a signal to its own group reaches only itself
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            work()
            code = 0
    finally:
        os._exit(code)


def _wait_for(leash: socket.socket, owner: int, child: int) -> int | None:
    """The child's wait status; None if it must be killed."""
    while os.getppid() == owner:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if select.select([leash], [], [], _POLL)[0]:
            return None
    return None


def _kill_descendants() -> None:
    import psutil

    me = psutil.Process()
    while descendants := me.children(recursive=True):
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in me.children():
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value)
