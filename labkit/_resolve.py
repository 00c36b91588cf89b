"""Host names to addresses, such that a name that hangs delays neither other names nor the end of the program.

getaddrinfo in threads, not a separate resolver (c-ares by pycares): that one can be cancelled, but knows only files and
DNS, while `hosts:` in nsswitch.conf often lists more (mDNS, a directory), and a reader should find what every other
program finds. The price: a look-up that hangs keeps a thread until the system's resolver gives up, after some 10 s. A
name has at most one such thread, and nothing waits for it: no read, no event loop or process that ends.
"""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any, TypeAlias

__all__ = ["AddressInfo", "connected", "resolve"]

AddressInfo: TypeAlias = "tuple[int, int, int, str, Any]"
"""(family, type, protocol, canonical name, address), as `socket.getaddrinfo` returns it."""
ALL, NEW, HUNG = 1024, 960, 512
"""Running look-ups up to which another starts: for a name that resolved quickly last time, for a new name, for one that
hung last time. So names known to hang leave room for new ones, and both leave room for good ones.
"""
QUICK = 1.0
"""A look-up that takes longer than these seconds counts as hung."""
REMEMBERED = 4096
"""Names for which it is remembered whether they hung."""


async def resolve(host: str, port: int) -> list[AddressInfo]:
    """Looks up a host for a TCP connection: its addresses of either family, in the order in which to try them.

    It has no deadline; cancelling it does not affect others that wait for the same name. Literal addresses are answered
    at once. Raises `socket.gaierror`, also for text that cannot be a name, or another `OSError`.
    """
    literal = _literal(host, port)
    if literal is not None:
        return [literal]
    answer = asyncio.get_running_loop().create_future()
    _lookups.join(host, answer)
    try:
        outcome = await answer
    finally:
        _lookups.leave(host, answer)
    if isinstance(outcome, Exception):
        raise copy.copy(outcome)  # others raise it too, each with its own traceback
    return [(*kind, (where[0], port, *where[2:])) for *kind, where in outcome]


async def connected(host: str, port: int) -> socket.socket:
    """A TCP connection to the first address of the host that accepts one; the deadline is up to the caller.

    Raises what `resolve` raises or, if no address accepts, the OSError of the first.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in await resolve(host, port):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            failure = failure or error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _literal(host: str, port: int) -> AddressInfo | None:
    try:
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv4Address):
            return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
        zone = address.scope_id or "0"
        scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except (ValueError, OSError):
        return None
    plain = socket.inet_ntop(socket.AF_INET6, address.packed)
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (plain, port, 0, scope)


class _Lookups:
    """Look-ups queued and running in this process: one per name, whoever waits for it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts afresh; also called in a forked child, since the threads are the parent's."""
        self._lock = threading.RLock()  # a coroutine may be garbage-collected, and so leave, on any thread
        self._asked: dict[str, set[asyncio.Future[Any]]] = {}
        self._queued: dict[str, None] = {}
        self._running, self._starting = 0, False
        self._room = {"localhost": ALL}

    def join(self, name: str, answer: asyncio.Future[Any]) -> None:
        with self._lock:
            if name not in self._asked:
                self._asked[name], self._queued[name] = set(), None
            self._asked[name].add(answer)
            self._begin()

    def leave(self, name: str, answer: asyncio.Future[Any]) -> None:
        with self._lock:
            waiting = self._asked.get(name, set())
            waiting.discard(answer)
            if not waiting and name in self._queued:
                del self._queued[name], self._asked[name]

    def _begin(self) -> None:
        """Starts the next look-up that has room. Its thread starts another: a start would block a loop for 0.2 ms."""
        while not self._starting and self._running < ALL:
            name = next((name for name in list(self._queued) if self._running < self._room.get(name, NEW)), None)
            if name is None:
                return
            del self._queued[name]
            self._running, self._starting = self._running + 1, True
            try:
                threading.Thread(target=self._run, args=(name,), name=f"look-up of {name}", daemon=True).start()
            except RuntimeError:  # the system is out of threads
                self._starting = False
                self._end(name, socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))

    def _run(self, name: str) -> None:
        with self._lock:
            self._starting = False
            self._begin()
        began = time.monotonic()
        outcome = _found(name)
        with self._lock:
            self._room.pop(name, None)
            self._room[name] = ALL if time.monotonic() - began < QUICK else HUNG
            if len(self._room) > REMEMBERED:
                del self._room[next(iter(self._room))]
            self._end(name, outcome)
            self._begin()

    def _end(self, name: str, outcome: list[Any] | Exception) -> None:
        self._running -= 1
        for answer in self._asked.pop(name):
            with suppress(RuntimeError):  # its loop is closed
                answer.get_loop().call_soon_threadsafe(_give, answer, outcome)


def _found(name: str) -> list[Any] | Exception:
    try:
        return socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except ValueError:  # it cannot be encoded for DNS
        return socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    except Exception as error:
        return error


def _give(answer: asyncio.Future[Any], outcome: list[Any] | Exception) -> None:
    if not answer.done():
        answer.set_result(outcome)


_lookups = _Lookups()
os.register_at_fork(after_in_child=_lookups.forget)
