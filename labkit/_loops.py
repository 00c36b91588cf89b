"""State that belongs to one event loop of one process: connections, locks, tasks. Made on first use, never shared.

If two loops, threads or processes share a socket, one gets the other's answers, or the driver crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

__all__ = ["Forgets", "PerLoop", "asked_to_end", "cut", "forget_in_children", "on"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One value per event loop that calls `here()`, made by `make()` on that loop.

    `close(value)` is awaited on the value's loop, by `aclose()` or when the loop ends: `asyncio.run` and
    `asyncio.Runner` shut asynchronous generators down, and each value is held by one. `abandon(value)` is called if the
    loop can no longer run: it was closed without that, or the process was forked and the loop is the parent's. It must
    not send anything or touch the loop; for a transport, that is `cut`.
    """

    def __init__(
        self, make: Callable[[], T], close: Callable[[T], Awaitable[None]], abandon: Callable[[T], None]
    ) -> None:
        self._make, self._close, self._abandon = make, close, abandon
        self._lock = threading.Lock()
        self._held: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}
        forget_in_children(self)

    def here(self) -> T:
        """The value of the running loop, made on first use."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        return (self._begin(loop) if held is None else held)[0]

    def existing(self) -> T | None:
        """The value of the running loop; None if there is none yet."""
        held = self._held.get(asyncio.get_running_loop())
        return None if held is None else held[0]

    async def aclose(self) -> None:
        """Closes all values, each on its own loop, and waits for that; later calls of `here` make new ones."""
        here = asyncio.get_running_loop()
        with self._lock:
            held, self._held = self._held, {}
        closing: list[Awaitable[None]] = []
        for loop, (value, guard) in held.items():
            if loop is here:
                closing.append(guard.aclose())
            elif loop.is_running():  # on another thread
                closing.append(self._close_elsewhere(loop, guard))
            else:
                self._abandon(value)
        for one in closing:
            await one

    def _begin(self, loop: asyncio.AbstractEventLoop) -> tuple[T, AsyncGenerator[None, None]]:
        with self._lock:
            closed = [self._held.pop(other, None) for other in list(self._held) if other.is_closed()]
        for held in closed:
            if held is not None:  # another thread may have been faster
                self._abandon(held[0])
        value = self._make()
        guard = self._guard(loop, value)
        with contextlib.suppress(StopIteration):
            guard.__anext__().send(None)  # registers it with the loop, without waiting
        with self._lock:
            self._held[loop] = value, guard
        return value, guard

    async def _guard(self, loop: asyncio.AbstractEventLoop, value: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            held = self._held.get(loop)
            if held is not None and held[0] is value:
                self._held.pop(loop, None)
            await self._close(value)

    async def _close_elsewhere(self, loop: asyncio.AbstractEventLoop, guard: AsyncGenerator[None, None]) -> None:
        """Closes the guard on its loop, on another thread; also returns once that loop, which closes it too, ended."""
        ending = _close(guard)
        try:
            ended = asyncio.run_coroutine_threadsafe(ending, loop)
        except RuntimeError:  # the loop was closed meanwhile
            ending.close()
            return
        while not ended.done() and not loop.is_closed():
            await asyncio.sleep(_POLL)

    def forget(self) -> None:
        """Called in a forked child: abandons all values, which belong to the parent."""
        self._lock = threading.Lock()  # another thread of the parent may hold it
        held, self._held = self._held, {}
        _kept_alive.append(held)  # collecting it would touch the parent's loop
        _parents.update(held)
        for value, _ in held.values():
            self._abandon(value)


def cut(transport: Any) -> None:
    """Disconnects a transport without its loop: nothing is sent, and a forked parent keeps its own connection.

    The descriptor then refers to /dev/null and is closed with the transport, so that its number is not reused before.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor >= 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


def asked_to_end() -> bool:
    """Whether the running task was cancelled, even if a library swallowed the cancel: check it in each iteration of a
    loop. (`asyncio.wait_for` of Python 3.11 swallows it if the awaited task ends at the same moment.)
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls `call` on the loop: now if it is the running one, soon if it runs on another thread, never if it is closed
    or belongs to a parent process.
    """
    if loop is _running():
        call()
    elif loop not in _parents:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)


def forget_in_children(holder: Forgets) -> None:
    """Has `holder.forget()` called in every forked child before anything else runs there."""
    _holders.add(holder)


class Forgets(Protocol):
    """Holds state that belongs to one process."""

    def forget(self) -> None:
        """Called in a forked child, which has no other thread."""


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _close(guard: AsyncGenerator[None, None]) -> None:
    await guard.aclose()


_POLL = 0.005
"""Seconds between two checks of another thread's loop."""
_holders: WeakSet[Forgets] = WeakSet()
_kept_alive: list[Any] = []
_parents: set[asyncio.AbstractEventLoop] = set()


def _after_fork() -> None:
    for holder in list(_holders):
        holder.forget()


os.register_at_fork(after_in_child=_after_fork)
