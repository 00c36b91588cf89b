"""The event loop on which a lab does its own work, on a separate thread.

What a fault holds (a locked table, the last free connection) must last as long as the fault, and a lab may outlive the
loop that it was started on, so it binds nothing to a caller's loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

__all__ = ["Control", "at_the_caller"]

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]

_caller: ContextVar[asyncio.AbstractEventLoop] = ContextVar("caller")


class Control:
    """`await control.run(work)` awaits `work()` on the lab's loop, whatever the loop and thread of the caller.

    The thread runs while a caller waits for work, and while `lasting` is set. It is stopped during a fork, and resumes
    in the parent only.
    """

    def __init__(self) -> None:
        self.lasting = False
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.SelectorEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        _all.add(self)

    def __del__(self) -> None:
        """An unreferenced lab leaves no thread behind."""
        if self._loop is not None and self._thread is not None and not self._loop.is_closed():
            self._ending.set()
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def run(self, work: Work[T]) -> T:
        """Returns or raises what `work()` does. If the caller is cancelled, so is the work, and its end is awaited."""
        if self._loop is asyncio.get_running_loop():
            return await work()
        loop = self._join()
        try:
            return await _on(loop, work)
        finally:
            self._leave()

    def do(self, function: Callable[[], None]) -> None:
        """Calls a function on the lab's loop and waits for it; does nothing if there is no loop."""
        loop, done = self._loop, threading.Event()
        if threading.current_thread() is self._thread:
            function()
        elif loop is not None:
            loop.call_soon_threadsafe(function)
            loop.call_soon_threadsafe(done.set)
            done.wait()

    def _join(self) -> asyncio.SelectorEventLoop:
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
                self._resume(self._loop)
            return self._loop

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and not self.lasting and self._loop is not None:
                self._ending.set()
                self._suspend(self._loop)
                self._loop, self._ending = None, threading.Event()

    def _resume(self, loop: asyncio.SelectorEventLoop) -> None:
        self._thread = threading.Thread(target=_serve, args=[loop, self._ending], name="labkit-lab", daemon=True)
        self._thread.start()

    def _suspend(self, loop: asyncio.SelectorEventLoop) -> None:
        if self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            self._thread = None

    def _before_fork(self) -> None:
        if threading.current_thread() is not self._thread:
            self._lock.acquire()
            if self._loop is not None:
                self._suspend(self._loop)

    def _in_parent(self) -> None:
        if threading.current_thread() is not self._thread:
            if self._loop is not None:
                self._resume(self._loop)
            self._lock.release()

    def _in_child(self) -> None:
        self._lock, self._users, self.lasting = threading.Lock(), 0, False
        loop, self._loop, self._thread = self._loop, None, None
        if loop is not None:
            _drop(loop)


async def at_the_caller(work: Work[T]) -> T:
    """Inside `Control.run`: awaits `work()` on the loop of its caller, who waits there."""
    caller = _caller.get(None)
    return await (work() if caller is None or caller is asyncio.get_running_loop() else _on(caller, work))


async def _on(loop: asyncio.AbstractEventLoop, work: Work[T]) -> T:
    """Awaits `work()` on the loop of another thread."""
    here = asyncio.get_running_loop()
    ended = here.create_future()
    tasks: list[asyncio.Task[tuple[T | None, BaseException | None]]] = []

    def done(_task: object) -> None:
        with suppress(RuntimeError):  # the waiting loop was closed
            here.call_soon_threadsafe(ended.set_result, None)

    def begin() -> None:
        _caller.set(here)
        tasks.append(loop.create_task(_outcome(work)))
        tasks[0].add_done_callback(done)

    loop.call_soon_threadsafe(begin)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as why:
            cancelled = why
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
    if cancelled is not None:
        raise cancelled
    result, error = tasks[0].result()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


async def _outcome(work: Work[T]) -> tuple[T | None, BaseException | None]:
    """Catches even SystemExit, which would end the loop: it belongs to the caller."""
    try:
        return await work(), None
    except BaseException as error:
        return None, error


def _serve(loop: asyncio.SelectorEventLoop, ending: threading.Event) -> None:
    loop.run_forever()
    if ending.is_set():
        loop.run_until_complete(_end(loop))
        loop.close()


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancels all remaining tasks, and closes what belongs to the loop (see `_loops`)."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()


def _drop(loop: asyncio.SelectorEventLoop) -> None:
    """In a forked child: closes the loop without affecting the parent's, with which it shares an epoll."""
    selector: Any = loop._selector  # type: ignore[attr-defined]
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined] # it continues in the parent
    if hasattr(select, "epoll") and isinstance(selector, selectors.EpollSelector):
        with select.epoll() as nothing:
            os.dup2(nothing.fileno(), selector.fileno(), inheritable=False)
    loop.close()


_all: WeakSet[Control] = WeakSet()
_stopped: list[Control] = []
"""Stopped during a fork."""


def _before_fork() -> None:
    _stopped[:] = list(_all)
    for one in _stopped:
        one._before_fork()


def _in_parent() -> None:
    while _stopped:
        _stopped.pop()._in_parent()


def _in_child() -> None:
    while _stopped:
        _stopped.pop()._in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
