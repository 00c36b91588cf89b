"""Name look-ups: a hung name costs other names nothing, and neither a read nor a program waits for it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from labkit import _resolve as module
from labkit._resolve import resolve
from tests.support.mocks import eventually

REAL = socket.getaddrinfo


class Resolver:
    """The system's resolver, except that names beginning with `hung` hang until released."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.released = threading.Event()

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        self.asked[host] += 1
        if host.startswith("hung"):
            self.released.wait()
        return REAL("127.0.0.1" if host.startswith(("hung", "good", "new")) else host, port, **options)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Replaces the system's resolver; no look-up is left when the test ends."""
    one = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", one.getaddrinfo)
    monkeypatch.setattr(module, "_lookups", module._Lookups())
    yield one
    one.released.set()
    while threads():
        time.sleep(0.001)


def threads() -> list[threading.Thread]:
    """The threads that run look-ups."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("look-up")]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0:0::1", "fe80::1%lo", "fe80::1%7", "::ffff:127.0.0.1"])
async def test_a_literal_address_is_answered_as_getaddrinfo_does_without_a_thread(
    host: str, resolver: Resolver
) -> None:
    """A literal address takes neither a thread nor a call to the system's resolver."""
    assert await resolve(host, 5) == REAL(host, 5, type=socket.SOCK_STREAM)
    assert not resolver.asked


@pytest.mark.parametrize("host", ["localhost", "127.1", "no-such-name.invalid.", "fe80::1%nowhere", "1.2.3.4%lo", ""])
async def test_a_name_gets_what_getaddrinfo_says(host: str) -> None:
    """`resolve` gives the same addresses and the same errors."""
    try:
        right: Any = REAL(host, 5, type=socket.SOCK_STREAM)
    except OSError as error:
        right = type(error), error.args
    try:
        found: Any = await resolve(host, 5)
    except OSError as error:
        found = type(error), error.args
    assert found == right


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "a\0b"])
async def test_what_cannot_be_a_name_is_not_found(host: str) -> None:
    """The error is gaierror, where getaddrinfo itself raises encoding errors."""
    with pytest.raises(socket.gaierror):
        await resolve(host, 5)


async def test_hundreds_of_hung_names_cost_a_good_one_nothing(resolver: Resolver) -> None:
    """A good name is found, whether or not it is in /etc/hosts; the loop starts one thread, which starts the next."""
    hung = [asyncio.create_task(resolve(f"hung-{n}", 5)) for n in range(700)]
    with module._lookups._lock:  # the first thread waits until all have been requested
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(threads()) == 1
    async with asyncio.timeout(30):
        assert await resolve("localhost", 7) == REAL("localhost", 7, type=socket.SOCK_STREAM)
        assert await resolve("good.test", 7) == REAL("127.0.0.1", 7, type=socket.SOCK_STREAM)
    assert not any(task.done() for task in hung)
    await cancel_all(hung)


async def test_names_that_hang_leave_room_for_others(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some look-ups of names that hung before run at a time, and more of new names, so others always have room."""
    monkeypatch.setattr(module, "ALL", 6)
    monkeypatch.setattr(module, "NEW", 4)
    monkeypatch.setattr(module, "HUNG", 2)
    monkeypatch.setattr(module, "QUICK", 0.05)
    resolver.released.set()
    await resolve("good.test", 5)
    resolver.released.clear()
    first = [asyncio.create_task(resolve(f"hung-{n}", 5)) for n in range(20)]
    await eventually(lambda: len(threads()) == 4)
    await asyncio.wait_for(resolve("good.test", 5), 5)
    await asyncio.sleep(0.06)
    await cancel_all(first[4:])
    resolver.released.set()
    await asyncio.gather(*first[:4])
    await eventually(lambda: not threads())
    resolver.released.clear()
    again = [asyncio.create_task(resolve(f"hung-{n}", 5)) for n in range(4)]
    await eventually(lambda: len(threads()) == 2)
    await asyncio.wait_for(resolve("new.test", 5), 5)
    assert len(threads()) == 2
    await cancel_all(again)


async def test_a_name_is_looked_up_once_for_all_who_wait(resolver: Resolver) -> None:
    """Callers may use other ports, loops and threads; cancelling one leaves the others."""
    found: list[Any] = []
    others = [threading.Thread(target=lambda: found.append(asyncio.run(resolve("hung", 5)))) for _ in range(3)]
    here = [asyncio.create_task(resolve("hung", port)) for port in (6, 7)]
    for thread in others:
        thread.start()
    await eventually(lambda: len(module._lookups._asked.get("hung", ())) == 5)
    await cancel_all(here[:1])
    resolver.released.set()
    assert await here[1] == REAL("127.0.0.1", 7, type=socket.SOCK_STREAM)
    for thread in others:
        await asyncio.to_thread(thread.join)


async def test_each_who_waits_gets_an_error_of_its_own() -> None:
    """A shared exception would collect the tracebacks of all callers."""
    both = await asyncio.gather(*(resolve("a..b", 5) for _ in range(2)), return_exceptions=True)
    assert both[0] is not both[1]


async def test_a_look_up_that_nobody_waits_for_is_not_begun(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queued look-up is dropped when every caller has left before there was room for it."""
    monkeypatch.setattr(module, "NEW", 1)
    first, second = (asyncio.create_task(resolve(host, 5)) for host in ("hung-1", "hung-2"))
    await eventually(lambda: resolver.asked["hung-1"] == 1)
    await cancel_all([second])
    resolver.released.set()
    await first
    await eventually(lambda: not threads())
    assert resolver.asked == {"hung-1": 1}


async def test_a_system_without_threads_gives_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of a temporarily failing resolver, and the next look-up is tried again."""
    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(socket.gaierror, match="Temporary failure"):
            await resolve("localhost", 5)
    assert await resolve("localhost", 5)


def test_a_loop_that_is_closed_is_left_alone(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late answer raises nothing in its thread, and the next look-up of that name is a new one."""
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    loop = asyncio.new_event_loop()
    module._lookups.join("hung", loop.create_future())
    loop.close()
    resolver.released.set()
    while threads():
        time.sleep(0.001)
    assert not failed
    assert asyncio.run(resolve("hung", 5))


FORKED = """
import asyncio, os, socket, sys, threading
begun, go, real = threading.Event(), threading.Event(), socket.getaddrinfo
def hung(*_, **__):
    begun.set()
    go.wait()
    return real("127.0.0.1", 0, type=socket.SOCK_STREAM)
socket.getaddrinfo = hung
from labkit._resolve import resolve
async def read():
    waiting = asyncio.create_task(resolve("hung", 5))
    await asyncio.sleep(0)
    begun.wait()
    return os.fork()
child = asyncio.run(read())
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go.set()
assert asyncio.run(resolve("hung", 5))[0][4] == ("127.0.0.1", 5)
"""


def test_a_forked_child_looks_up_anew() -> None:
    """A look-up that hangs in the parent does not hang in the child, where its thread does not exist."""
    subprocess.run([sys.executable, "-c", FORKED], timeout=20, check=True)


PROGRAM = """
import asyncio, socket, time
socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
from labkit._resolve import resolve
async def read():
    for _ in range(20):
        try:
            async with asyncio.timeout(0.001):
                await resolve(f"hung-{_}", 5)
        except TimeoutError:
            pass
asyncio.run(read())
print("ended")
"""


def test_no_program_waits_for_a_hung_name_when_it_ends() -> None:
    """Neither the program nor its loop waits for hung look-ups."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=20, check=True)
    assert (run.stdout, run.stderr) == ("ended\n", "")


def no_thread(_self: threading.Thread) -> None:
    """What `Thread.start` does when there are too many threads."""
    raise RuntimeError("can't start new thread")


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancels all tasks and waits for them to end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
