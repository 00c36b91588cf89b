"""Work in a child process that ends for good: with all that it started, also when its owner is killed."""

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
"""linux/prctl.h: the signal for when the parent dies; whose children orphans become."""
FAILED = 70
"""sysexits.h, EX_SOFTWARE: the exit code of work that raised."""
_POLL = 0.05


def guarded(leash: socket.socket, owner: int, work: Callable[[], object]) -> NoReturn:
    """Runs `work` in a child of this process, and ends with it; `owner` is the process at the other end of `leash`.

    When the child ends, the leash is let go or the owner is gone, everything below this process is killed, also what
    has made itself a session of its own. The child's wait status is then sent on the leash, as a number in text; "-"
    where it had to be killed.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    child = fork()
    if child == 0:
        leash.close()
        _as_a_child(guard, work)
    status = _wait(leash, owner, child)
    _kill_below()
    with suppress(OSError):
        leash.sendall(b"-" if status is None else str(status).encode())
    os._exit(0)


def fork() -> int:
    """`os.fork`, also where other threads run: the child must only do what needs none of their locks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _as_a_child(guard: int, work: Callable[[], object]) -> NoReturn:
    code = FAILED
    try:
        os.setsid()  # a signal to its own group is for itself alone
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            work()
            code = 0
    finally:
        os._exit(code)


def _wait(leash: socket.socket, owner: int, child: int) -> int | None:
    """The child's wait status; None when it is to be ended."""
    while os.getppid() == owner:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if select.select([leash], [], [], _POLL)[0]:
            return None
    return None


def _kill_below() -> None:
    import psutil

    me = psutil.Process()
    while below := me.children(recursive=True):
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in me.children():
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value)
