"""The proxies that run: they live in the keeper's process, and this is what their owner knows of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from labkit.errors import LabError, UsageError
from labkit.faults.network.address import Down
from labkit.lab.handle import NetworkHandle
from labkit.lab.injector import Injector
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.proxy.dial import Upstream, dial
from labkit.lab.proxy.door import Address
from labkit.proxies.routes import Route, text_of

__all__ = ["CannotListen", "Front", "Fronts"]

RECOVERY = 10.0
"""Seconds a server gets to accept a connection again once the last fault before it is undone."""
POLL = 0.05


class CannotListen(UsageError):
    """The address of a proxy is in use or is not this machine's: choose another; `reason` has the system's words."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"cannot listen at {text_of(address)}: {reason}; choose another port (0: any free one)")
        self.address, self.reason = text_of(address), reason


@dataclass
class Front:
    """One proxy. `route.listen` is where it really listens."""

    shard: Any
    route: Route

    @property
    def name(self) -> str:
        """The shard's name as text, which no other proxy has."""
        return str(self.shard)

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return text_of(self.route.listen)

    @property
    def dialled(self) -> str:
        """Where clients on this machine find it: loopback, if it listens on every network."""
        host, port = self.route.listen
        return text_of(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port))  # noqa: S104 - not bound here

    @property
    def upstream(self) -> str:
        """What is behind it, as host:port or a path."""
        return text_of(self.route.upstream)


class Fronts:
    """Proxies by name, and the injector of their faults. `make` makes the `NetworkHandle` of a front."""

    def __init__(self, keeper: KeeperClient, make: Callable[[Front], NetworkHandle]) -> None:
        self._keeper, self._make = keeper, make
        self.by_name: dict[str, Front] = {}
        self._targets: dict[Any, NetworkHandle] = {}
        self._first: dict[str, Front] = {}
        """What was first called by a name: a client may remove a shard's proxy and create it again."""
        self.injector = Injector(self._targets, self._arm, self._firings, self._healthy)

    async def add(self, shard: Any, route: Route, *, enabled: bool = True) -> Front:
        """A new proxy, which accepts as soon as it is `enabled`; `CannotListen` if it cannot be there."""
        first = self._first.setdefault(str(shard), Front(shard, route))
        front = Front(first.shard, replace(route, url=route.url or first.route.url))
        self._targets[front.shard], self.by_name[front.name] = self._make(front), front
        try:
            where = await self._keeper.ask(Keeper.listen, front.name, *route.listen)
            if isinstance(where, str):
                raise CannotListen(route.listen, where)
            front.route = replace(front.route, listen=(where[0], where[1]))
            if not enabled:
                await self.injector.start([(front.shard, Down())])
            await self._keeper.ask(Keeper.expose, front.name, route.upstream)
        except BaseException:
            await self.remove(front)
            raise
        return front

    async def remove(self, front: Front) -> None:
        """Undoes its faults and ends it."""
        if self.by_name.get(front.name) is front:
            await self.injector.forget(front.shard)
            del self.by_name[front.name], self._targets[front.shard]
            await self._keeper.ask(Keeper.withdraw, front.name)

    async def move(self, front: Front, listen: Address) -> None:
        """Has it listen elsewhere, which ends its connections; `CannotListen` if it cannot: then it stays."""
        where = await self._keeper.ask(Keeper.move, front.name, *listen)
        if isinstance(where, str):
            raise CannotListen(listen, where)
        front.route = replace(front.route, listen=(where[0], where[1]))

    async def redirect(self, front: Front, upstream: Upstream) -> None:
        """Puts it in front of another server, which ends its connections."""
        await self._keeper.ask(Keeper.redirect, front.name, upstream)
        front.route = replace(front.route, upstream=upstream)

    async def traffic(self) -> dict[str, dict[str, Any]]:
        """[received, sent] bytes by proxy and stream."""
        return dict(await self._keeper.ask(Keeper.traffic))

    async def _arm(self) -> None:
        await self._keeper.ask(Keeper.arm)

    async def _firings(self) -> list[tuple[int, float]]:
        return [(number, at) for number, at in await self._keeper.ask(Keeper.firings)]

    async def _healthy(self, shard: Any) -> None:
        """Returns when the server behind the proxy accepts a connection: no more is known of it.

        It is dialled past the proxy, whose own faults are undone by then, so that no toxic counts this connection.
        """
        front = next(front for front in self.by_name.values() if front.shard == shard)
        await _until_connects(lambda: dial(front.route.upstream), f"shard {shard!r}, {front.upstream},")


async def _until_connects(connect: Callable[[], Awaitable[Any]], what: str) -> None:
    clock = asyncio.get_running_loop().time
    ends, cause = clock() + RECOVERY, "no answer"
    while True:
        try:
            async with asyncio.timeout_at(ends):
                (await connect()).close()
                return
        except OSError as error:
            known = error.errno is not None and error.errno > 0  # those of getaddrinfo are not the system's
            words = os.strerror(error.errno or 0) if known else str(error.strerror or error)
            cause = words.lower() or cause  # a TimeoutError says nothing
        if clock() >= ends:
            raise LabError(f"{what} accepts no connection {RECOVERY:.0f} s after its fault: {cause}")
        await asyncio.sleep(POLL)
