"""`Proxies`: network faults in front of your own servers."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from labkit._checks import shown
from labkit._imports import need
from labkit._replay import Urls
from labkit.errors import UsageError
from labkit.lab.control import Control
from labkit.lab.handle import NetworkHandle
from labkit.lab.injecting import Injecting
from labkit.lab.injector import Injector
from labkit.lab.keeper.client import KeeperClient
from labkit.proxies.fronts import Front, Fronts
from labkit.proxies.own import Owned
from labkit.proxies.routes import URL, Route, listen_address, of_url, route, with_address
from labkit.topology import Topology
from labkit.topology.url import escaped

if TYPE_CHECKING:
    from labkit.lab.sync import SyncLab
    from labkit.proxies.server import ApiServer

__all__ = ["Proxies"]

T = TypeVar("T")
NOT_RUNNING = "these proxies are not running: await proxies.start() first"


class Proxies(Injecting):
    """A proxy in front of each of `servers`, which labkit did not start, and does not touch for faults of the network.

    Keys are the shards' names, integers or text. Values say where a server is: "host:port" (a name, 127.0.0.1, [::1]),
    the path of a unix socket, or a URL (`postgresql://…`, `redis://…`); "127.0.0.1:5541->host:port" also chooses where
    the proxy listens, otherwise at a free port of 127.0.0.1. `seed` seeds all random choices of faults.

    `async with Proxies({"eu": "127.0.0.1:5432"}) as p, p.fault("eu", faults.Latency(200)):`, or `await p.start()` …
    `await p.stop()`. The proxies run in a separate process, which ends with its owner, even by SIGKILL; the servers
    lose their connections through it, as with any client that goes. A client of a server that cannot be reached is
    closed. `fault`, `inject`, `heal`, `events` and `record` are as in `Lab`; `heal`, and the end of a `fault` block,
    return when the server behind the proxy accepts connections, and raise `LabError` if it does not within 10 s.

    `admin`, with `own=True` as your word that these servers are yours, has the URLs of some shards' administrators:
    then faults inside the server act too, if they can be undone surely. What undoes them is on disk (README, "Faults
    inside the server") until it is done, by the end of the fault, by `stop`, or by `labkit proxy --undo`. `tables`
    names the tables of shards for faults that act on one: "orders" (in the schema public) or "schema.orders".

    Raises `UsageError` for what is not an address, for the URL of a Redis Cluster, for `admin` without `own`, and on
    start for an address that is in use.
    """

    def __init__(
        self,
        servers: Mapping[Any, str],
        *,
        seed: int = 0,
        admin: Mapping[Any, str] | None = None,
        own: bool = False,
        tables: Mapping[Any, str] | None = None,
    ) -> None:
        need("lab")
        if not isinstance(servers, Mapping):
            raise UsageError(f"servers must be a mapping such as {{'eu': '127.0.0.1:5432'}}, not {shown(servers)}")
        self.seed = seed
        self._routes = {shard: _named(shard, partial(route, text)) for shard, text in servers.items()}
        _check_names(self._routes)
        self._topology: Topology | None = None
        self._owned = Owned(admin or {}, own, tables or {})
        self._owned.check(self._routes)
        self._control = Control()
        self._owner = os.getpid()
        self._keeper: KeeperClient | None = None
        self._fronts: Fronts | None = None
        self._injector: Injector | None = None
        self._api: ApiServer | None = None
        self._turn = asyncio.Lock()
        """Serialises starts and stops; on the loop of `_control`."""

    @classmethod
    def of(
        cls,
        topology: Topology,
        listen: Mapping[Any, str] | None = None,
        *,
        seed: int = 0,
        admin: Mapping[Any, str] | None = None,
        own: bool = False,
        tables: Mapping[Any, str] | None = None,
    ) -> Proxies:
        """Proxies in front of the shards of a topology, which names their tables; `listen` chooses where those of some
        shards listen ("127.0.0.1:5541"), or with "listen->host:port" adds a server that is not a shard.
        """
        given = dict(listen or {})
        routes = {
            shard: _named(shard, partial(_of_place, place.url, given.pop(shard, None)))
            for shard, place in topology.shards.items()
        }
        for shard, text in given.items():
            if "->" not in text:
                raise UsageError(f"unknown shard {shard!r}: the topology has {list(topology.shards)}")
        made = cls(given, seed=seed)
        made._topology, made._routes = topology, routes | made._routes
        _check_names(made._routes)
        named = {shard: place.table for shard, place in topology.shards.items()}
        made._owned = Owned(admin or {}, own, {**named, **(tables or {})})
        made._owned.check(made._routes)
        return made

    async def start(self) -> Proxies:
        """Starts all proxies; returns this object. Does nothing if they run."""
        begun: list[bool] = []
        try:
            await self._controlled(lambda: self._start(begun))
        except asyncio.CancelledError:
            if begun:
                await self.stop()  # the start had just finished
            raise
        return self

    async def stop(self) -> None:
        """Ends the proxies, their connections and the API; returns when nothing is left. May be called twice."""
        await self._controlled(self._stop)

    def sync(self) -> SyncLab:
        """The same for code without an event loop: `with Proxies(…).sync() as p, p.fault("eu", …):`."""
        from labkit.lab.sync import SyncLab

        return SyncLab(self)

    @property
    def addresses(self) -> dict[Any, str]:
        """Where each proxy listens, as host:port; empty while they do not run."""
        return Urls({front.shard: front.address for front in self._listed()})

    @property
    def urls(self) -> dict[Any, str]:
        """For each server that was given by a URL, the same URL through its proxy; empty while they do not run."""
        return Urls(
            {front.shard: with_address(front.route.url, front.dialled) for front in self._listed() if front.route.url}
        )

    @property
    def topology(self) -> Topology:
        """The topology that goes through the proxies: only addresses differ from the one they were made `of`.

        `UsageError` while they do not run, and if they were not made of one.
        """
        self._started()
        if self._topology is None:
            raise UsageError("these proxies were not made of a topology: use Proxies.of(topology)")
        addresses = {front.shard: front.dialled for front in self._listed()}
        gone = [shard for shard in self._topology.shards if shard not in addresses]
        if gone:
            raise UsageError(f"a client of the API has removed the proxy of shard {gone[0]!r}")
        places = {
            shard: replace(
                place,
                url=with_address(place.url, addresses[shard]),
                written=_written(place.written, place.url, addresses[shard]),
            )
            for shard, place in self._topology.shards.items()
        }
        return replace(self._topology, shards=places, path=None)

    async def api(self, host: str = "127.0.0.1", port: int = 8474) -> str:
        """Serves Toxiproxy's HTTP API, until the proxies stop; returns its URL. Port 0 is a free one.

        It runs beside the caller's event loop, so that blocking clients may be used. Anyone who can connect may use
        it. Raises `MissingExtra` without the extra `serve`, `UsageError` if it is served already or the address is in
        use.
        """
        need("serve")
        from labkit.proxies.server import ApiServer

        self._started()
        return await self._controlled(lambda: self._serve(ApiServer, host, port))

    def left_on_servers(self) -> list[str]:
        """One line for each server on which a fault inside it acts already, started by another process, or was left by
        a killed one: there, no further one starts.
        """
        return self._owned.left(self._listed())

    def leftovers(self) -> list[str]:
        """What these proxies have on the machine; [] after `stop()`."""
        return self._keeper.leftovers() if self._keeper else []

    async def __aenter__(self) -> Proxies:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._owner:
            await self.stop()

    def __repr__(self) -> str:
        state = "running" if self._fronts is not None else "not running"
        return f"Proxies({', '.join(map(repr, self.addresses or self._routes))}, {state})"

    def _handle(self, front: Front) -> NetworkHandle:
        assert self._keeper is not None
        return self._owned.handle(self._keeper, front, f"{self.seed}|{front.shard!r}")

    def _listed(self) -> list[Front]:
        return list(self._fronts.by_name.values()) if self._fronts else []

    async def _start(self, begun: list[bool]) -> None:
        async with self._turn:
            if self._fronts is not None:
                return
            self._owner = os.getpid()
            self._keeper = KeeperClient(self._control)
            try:
                await self._keeper.greet()
                fronts = Fronts(self._keeper, self._handle)
                for shard, where in self._routes.items():
                    await fronts.add(shard, where)
            except BaseException:
                await self._keeper.aclose()
                raise
            self._fronts, self._injector, self._control.lasting = fronts, fronts.injector, True
            begun.append(True)

    async def _stop(self) -> None:
        async with self._turn:
            await self._collect_last()
            self._control.lasting, fronts, self._fronts = False, self._fronts, None
            api, self._api = self._api, None
            try:
                if api is not None:
                    await api.aclose()
                if fronts is not None:
                    await self._owned.undo(fronts.injector)
            finally:
                await self._owned.aclose()
                if self._keeper is not None:
                    await self._keeper.aclose()

    async def _serve(self, kind: type[ApiServer], host: str, port: int) -> str:
        async with self._turn:
            if self._fronts is None:
                raise UsageError(NOT_RUNNING)
            if self._api is not None:
                raise UsageError(f"the API is served already, at {self._api.url}")
            api = kind(self._fronts, host, port)
            await api.start()
            self._api = api
            return api.url

    def _started(self) -> Injector:
        if self._injector is None or self._fronts is None:
            raise UsageError(NOT_RUNNING)
        return self._injector

    def _own(self) -> None:
        if self._owner != os.getpid() and self._fronts is not None:
            raise UsageError(f"these proxies belong to process {self._owner}, which started them")


def _of_place(url: str, listen: str | None) -> Route:
    if listen is None:
        return of_url(url)
    if "->" in listen:
        raise UsageError("the topology says what is behind it: write only where it listens, such as 127.0.0.1:5541")
    return of_url(url, listen_address(listen))


def _written(written: str | None, url: str, address: str) -> str:
    """The URL as the file had it, ${NAME} included, unless its address is in a variable."""
    found = URL.fullmatch(written or "")
    if written is not None and found is not None and "$" not in found["hosts"]:
        return with_address(written, address)
    return escaped(with_address(url, address))


def _named(shard: Any, make: Callable[[], T]) -> T:
    """`make()`, whose error is about that shard."""
    try:
        return make()
    except UsageError as error:
        message = str(error)
    raise UsageError(f"shard {shown(shard)}: {message}")


def _check_names(routes: Mapping[Any, Route]) -> None:
    for shard in routes:
        if isinstance(shard, bool) or not isinstance(shard, int | str) or not str(shard).strip():
            raise UsageError(f"the name of a shard must be an integer or text, not {shown(shard)}")
    text, count = Counter(map(str, routes)).most_common(1)[0] if routes else ("", 0)
    if count > 1:
        raise UsageError(f"two shards are called {text!r}: give each a different name")
