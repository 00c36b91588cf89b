"""What belongs to one event loop of one process: connections, locks, tasks. Made where it is first used, never shared.

A socket that two loops, two threads or two processes use gives one the answers of the other, or crashes the driver.
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
    """One value for each event loop that asks for it by `here()`, made by `make()` on that loop.

    `close(value)` is awaited on its loop, by `aclose()`, or when the loop itself ends (`asyncio.run` and
    `asyncio.Runner` shut asynchronous generators down, and this is one). `abandon(value)` is called where that loop
    can do nothing any more: it was closed without that, or the process was forked and the loop is the parent's. It
    must not send anything, and must not touch the loop; `cut` does that to a transport.
    """

    def __init__(
        self, make: Callable[[], T], close: Callable[[T], Awaitable[None]], abandon: Callable[[T], None]
    ) -> None:
        self._make, self._close, self._abandon = make, close, abandon
        self._lock = threading.Lock()
        self._held: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}
        forget_in_children(self)

    def here(self) -> T:
        """The value of the running loop; made if there is none yet."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        return (self._begin(loop) if held is None else held)[0]

    def existing(self) -> T | None:
        """The value of the running loop, None where there is none."""
        held = self._held.get(asyncio.get_running_loop())
        return None if held is None else held[0]

    async def aclose(self) -> None:
        """Closes all values, each on its own loop, and returns when they are; later calls of `here` make new ones."""
        here = asyncio.get_running_loop()
        with self._lock:
            held, self._held = self._held, {}
        closing: list[Awaitable[None]] = []
        for loop, (value, guard) in held.items():
            if loop is here:
                closing.append(guard.aclose())
            elif loop.is_running():  # on another thread
                closing.append(self._ended_there(loop, guard))
            else:
                self._abandon(value)
        for one in closing:
            await one

    def _begin(self, loop: asyncio.AbstractEventLoop) -> tuple[T, AsyncGenerator[None, None]]:
        with self._lock:
            closed = [self._held.pop(other, None) for other in list(self._held) if other.is_closed()]
        for held in closed:
            if held is not None:  # its own loop, on another thread, may have been quicker
                self._abandon(held[0])
        value = self._make()
        guard = self._guard(loop, value)
        with contextlib.suppress(StopIteration):
            guard.__anext__().send(None)  # makes the loop know of it, and waits for nothing
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

    async def _ended_there(self, loop: asyncio.AbstractEventLoop, guard: AsyncGenerator[None, None]) -> None:
        """Returns when the guard was closed on its loop, on another thread; or with that loop, which closes it too."""
        ending = _ended(guard)
        try:
            ended = asyncio.run_coroutine_threadsafe(ending, loop)
        except RuntimeError:  # it was closed meanwhile
            ending.close()
            return
        while not ended.done() and not loop.is_closed():
            await asyncio.sleep(_GLANCE)

    def forget(self) -> None:
        """In a forked child: all there is belongs to the parent."""
        self._lock = threading.Lock()  # somebody may have held it
        held, self._held = self._held, {}
        _of_parents.append(held)  # not collected: that would touch the parent's loop
        _parents.update(held)
        for value, _ in held.values():
            self._abandon(value)


def cut(transport: Any) -> None:
    """Closes this process's end of a transport without its loop: nothing is sent, and a forked parent keeps its own.

    The descriptor then leads nowhere and is closed with the transport, so that its number is not taken meanwhile.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor >= 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


def asked_to_end() -> bool:
    """Whether the running task was cancelled, also where a library swallowed that: to be looked at in every turn of a
    loop. (`asyncio.wait_for` of Python 3.11 does it where what it waits for ends in the same moment.)
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls something on that loop: now where that is the running one, soon where it runs elsewhere, never where it is
    closed or a parent process's.
    """
    if loop is _running():
        call()
    elif loop not in _parents:
        with contextlib.suppress(RuntimeError):  # it was closed
            loop.call_soon_threadsafe(call)


def forget_in_children(holder: Forgets) -> None:
    """Has `holder.forget()` called in every forked child, before anything else runs there."""
    _holders.add(holder)


class Forgets(Protocol):
    """Holds what belongs to one process alone."""

    def forget(self) -> None:
        """Called in a forked child, where no other thread is."""


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _ended(guard: AsyncGenerator[None, None]) -> None:
    await guard.aclose()


_GLANCE = 0.005
"""Seconds between two looks at another thread's loop."""
_holders: WeakSet[Forgets] = WeakSet()
_of_parents: list[Any] = []
_parents: set[asyncio.AbstractEventLoop] = set()


def _after_fork() -> None:
    for one in list(_holders):
        one.forget()


os.register_at_fork(after_in_child=_after_fork)
