"""Names of hosts into addresses, where a name that hangs costs no other name anything, and no program its end.

getaddrinfo in threads, not a resolver of our own (c-ares by pycares): that can be cancelled, but knows only files and
DNS, where `hosts:` in nsswitch.conf often has more (mDNS, a directory), and a reader should find what every other
program finds. The price: a look-up that hangs keeps a thread until the system's resolver gives up, after some 10 s. A
name has one such thread at most, and nothing waits for it: no read, no end of an event loop, no end of the process.
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
"""(family, type, protocol, canonical name, address), as `socket.getaddrinfo` has it."""
ALL, NEW, HUNG = 1024, 960, 512
"""Look-ups at a time: of names found before, of those never heard of, of those that hung last time. So names that are
known to hang leave room for new ones, and both leave room for good ones.
"""
QUICK = 1.0
"""Seconds within which a name that does not hang is found, or known not to exist."""
REMEMBERED = 4096
"""Names of which it is known whether they hang."""


async def resolve(host: str, port: int) -> list[AddressInfo]:
    """Looks a host up for a TCP connection: its addresses of either family, in the order in which to try them.

    It has no deadline of its own, and whoever else waits for that name still does when this is cancelled. Literal
    addresses are answered at once. Raises `socket.gaierror`, also for what cannot be a name, or another `OSError`.
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
        raise copy.copy(outcome)  # others raise it too, each with a traceback of its own
    return [(*kind, (where[0], port, *where[2:])) for *kind, where in outcome]


async def connected(host: str, port: int) -> socket.socket:
    """A TCP connection to the first address of the host that takes one; the caller has the deadline.

    Raises what `resolve` does, or where no address takes one the OSError of the first.
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
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew; also in a forked child, since the threads are the parent's."""
        self._lock = threading.RLock()  # a coroutine that is collected leaves on whatever thread that happens
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
        """Starts what has room. Each thread starts the next, since an event loop would stand for 0.2 ms each."""
        while not self._starting and self._running < ALL:
            name = next((name for name in list(self._queued) if self._running < self._room.get(name, NEW)), None)
            if name is None:
                return
            del self._queued[name]
            self._running, self._starting = self._running + 1, True
            try:
                threading.Thread(target=self._run, args=(name,), name=f"look-up of {name}", daemon=True).start()
            except RuntimeError:  # the system has no more threads
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
    except ValueError:  # it cannot be written in DNS
        return socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    except Exception as error:
        return error


def _give(answer: asyncio.Future[Any], outcome: list[Any] | Exception) -> None:
    if not answer.done():
        answer.set_result(outcome)


_lookups = _Lookups()
os.register_at_fork(after_in_child=_lookups.forget)
