"""What belongs to an event loop stays with it, across loops, threads and forks, and is closed when the loop ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

from labkit._loops import PerLoop, cut


class Traced:
    """Counts the values made, closed and abandoned."""

    def __init__(self) -> None:
        self.made = self.closed = self.abandoned = 0
        self.per_loop: PerLoop[int] = PerLoop(self._make, self._close, self._abandon)

    def _make(self) -> int:
        self.made += 1
        return self.made

    async def _close(self, _value: int) -> None:
        await asyncio.sleep(0)
        self.closed += 1

    def _abandon(self, _value: int) -> None:
        self.abandoned += 1

    async def here(self) -> tuple[int, int]:
        """Two calls on the running loop."""
        return self.per_loop.here(), self.per_loop.here()


def test_a_loop_has_one_value_and_it_is_closed_when_the_loop_ends() -> None:
    """Each `asyncio.run` gets its own value, which is closed before the next begins."""
    traced = Traced()
    assert [asyncio.run(traced.here()) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
    assert (traced.closed, traced.abandoned) == (3, 0)


def test_what_a_loop_left_that_was_closed_by_hand_is_abandoned() -> None:
    """A loop closed without `shutdown_asyncgens` can no longer close its value, so the value is abandoned."""
    traced = Traced()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(traced.here())
    loop.close()
    assert asyncio.run(traced.here()) == (2, 2)
    assert traced.abandoned == 1


def test_aclose_closes_each_value_on_its_own_loop() -> None:
    """Each value is closed on its own loop, even if that loop runs on another thread."""
    traced = Traced()
    ready, done = threading.Event(), threading.Event()
    where: list[threading.Thread] = []

    async def close(_value: int) -> None:
        where.append(threading.current_thread())

    traced.per_loop = PerLoop(traced._make, close, traced._abandon)

    async def wait() -> None:
        traced.per_loop.here()
        ready.set()
        await asyncio.to_thread(done.wait)

    other = threading.Thread(target=lambda: asyncio.run(wait()))
    other.start()
    ready.wait()

    async def end() -> None:
        traced.per_loop.here()
        await traced.per_loop.aclose()

    asyncio.run(end())
    done.set()
    other.join()
    assert set(where) == {threading.current_thread(), other}
    assert len(where) == 2
    assert traced.abandoned == 0


async def test_a_forked_child_abandons_what_is_the_parents() -> None:
    """The parent keeps its value; a forked child abandons its copy and would make its own."""
    traced = Traced()
    assert traced.per_loop.here() == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if traced.abandoned == 1 and not traced.per_loop._held else 1)
    assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it ends at once
    assert traced.per_loop.here() == 1
    assert traced.abandoned == 0


async def test_a_transport_that_is_cut_in_a_child_lives_on_in_the_parent() -> None:
    """`cut` closes only the child's end and sends nothing to the peer."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    reader, writer = await asyncio.open_connection(sock=ours)
    child = os.fork()
    if child == 0:
        cut(writer.transport)
        os._exit(0)
    os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
    theirs.sendall(b"still here\n")
    assert await reader.readline() == b"still here\n"
    writer.write(b"yes\n")
    assert theirs.recv(10) == b"yes\n"
    cut(writer.transport)
    assert theirs.recv(10) == b""
    writer.close()
    theirs.close()
