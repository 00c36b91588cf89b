"""`Lab`: real shards to read, to break and to put right."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from labkit._checks import positive_seconds
from labkit._imports import need
from labkit._types import ShardKey
from labkit.errors import LabError, LabkitError, UsageError
from labkit.lab.backends import backend as find_backend
from labkit.lab.control import Control, at_the_caller
from labkit.lab.events import Event
from labkit.lab.injector import Injector, warn
from labkit.lab.launch import Servers, chosen
from labkit.lab.launchers.docker.launcher import ContainerShard
from labkit.lab.launchers.embedded.launcher import EmbeddedShard
from labkit.lab.progress import Progress
from labkit.lab.rules import pairs
from labkit.lab.server import Role
from labkit.lab.truth import Rows, by_shard, foreign, one_row, truth, with_row, without_row
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC, RangeRouter, as_id
from labkit.shards.base import Ask, Shard
from labkit.shards.failures import classify

if TYPE_CHECKING:
    import pandas as pd

    from labkit.faults.base import Fault, Row
    from labkit.faults.data import DataFault
    from labkit.lab.cluster.cluster import Cluster
    from labkit.lab.injector import Active
    from labkit.lab.rules import Pair
    from labkit.lab.server import ServerHandle
    from labkit.result import ReadResult

__all__ = ["Lab"]

T = TypeVar("T")
RECOVERY = 10.0
"""Seconds a shard gets to answer again after its last fault was undone."""
FIRST_ASK = 0.5
"""Seconds of them that it gets for the first answer, before it is asked again and gets twice as many."""
NOT_RUNNING = "this lab is not running: await lab.start() first"


class Lab:
    """Real servers, one a shard of `router`, loaded with `rows`, each behind a proxy on 127.0.0.1.

    `backend` is "postgres", "redis" or "redis-cluster": then the servers of the shards are masters of one Redis
    Cluster, which has so many `masters` (None: one a shard, at least three), and for each of them so many `replicas`.
    `rows` are (id, name) pairs, a mapping or a DataFrame; None is a row "Test <id>" for every ID. `launcher` is
    "embedded" (server processes), "docker" (containers, by testcontainers), or "auto": what LABKIT_LAUNCHER says, else
    docker where an engine answers and has the image, else embedded.
    `timeout` in seconds is the reader's. `seed` is what faults that draw at random draw from: the same seed, the same
    connections hit, the same bytes corrupted, the same rows altered.

    `await Lab("redis").start()` … `await lab.stop()`, or `async with Lab("redis") as lab:`. However the owner of a
    lab ends, its servers end too, frozen ones as well. Raises `UsageError` (a ValueError) for wrong arguments,
    `LabError` where no server can be started, `MissingExtra` where the extra `lab` is not installed.

    A lab may be used from any event loop and thread, also one that it was not started on: `asyncio.run(lab.start())`,
    then `asyncio.run(lab.read())`. A forked child of its owner can read (`lab.reader`, `lab.read`); whatever would
    drive or stop the lab is a `UsageError` there, and the child's end ends nothing. Servers and their administrator
    hear of no variable of libpq or redis-cli (PGHOST, PGOPTIONS, …) in the environment.
    """

    def __init__(
        self,
        backend: str,
        *,
        router: RangeRouter = CLASSIC,
        rows: Rows | None = None,
        launcher: str = "auto",
        timeout: float = 2.0,
        seed: int = 0,
        masters: int | None = None,
        replicas: int = 0,
    ) -> None:
        need("lab")
        self.backend = backend
        self.router = router
        self.timeout = positive_seconds(timeout)
        self.seed = seed
        self._backend = find_backend(backend, masters=masters, replicas=replicas)
        self.tables: dict[Any, str] = self._backend.tables(router.shards)
        """The table (or Redis key) of each shard: data_1, data_2, …; in a cluster with a hash tag."""
        self._members = self._backend.members(router.shards)
        self._control = Control()
        self._servers = Servers(chosen(launcher), self._backend, self._control)
        self.rows = truth(router, rows)
        """The truth: what a complete read returns."""
        self._shards: Mapping[Any, ServerHandle] = {}
        self._nodes: Mapping[Any, ServerHandle] = {}
        """The servers of the shards, and those beside them."""
        self._reader: ShardReader | None = None
        self._injector: Injector | None = None
        self._owner = os.getpid()
        self._turn = asyncio.Lock()
        """Of starts and stops; on the loop of `_control`."""
        self._starting: asyncio.Task[Any] | None = None
        self._stops = 0
        """How often it was stopped: whoever waits for a start that was called off does not begin anew."""

    async def start(self) -> Lab:
        """Starts and loads all shards at once, and shows how far it is; returns this lab.

        Of several at once one starts it, and all return when it runs. `LabError` where `stop()` came in between.
        """
        self._own()
        if self._reader is None:
            stops, progress, begun = self._stops, Progress(self.backend, self._members), list[bool]()
            try:
                await self._controlled(lambda: self._start(progress, stops, begun))
            except asyncio.CancelledError:
                if begun:
                    await self.stop()  # it had come to its end just then
                raise
        return self

    async def stop(self) -> None:
        """Closes the reader and ends all servers; returns when nothing is left. May be called twice, and ends a start
        that is under way.
        """
        self._own()
        self._stops += 1
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                await reader.aclose()
        finally:
            await self._controlled(self._stop)

    async def read(self, low: int | None = None, high: int | None = None) -> ReadResult:
        """Reads through the lab's reader; the result's timeline shows the faults as well. See `ShardReader.read`."""
        started = monotonic()
        result = await self.reader.read(low, high)
        return replace(result, windows=self._started().recorder.windows(started, started + result.elapsed))

    async def put(self, row_id: int, name: str | None) -> None:
        """Writes a row to the shard that owns its id, in the place of the one there is, as somebody else would: past
        the proxy, whatever the network does. `lab.rows`, the truth, has it then.

        Raises `UsageError` for an id that no shard owns, for a name that is no text, and while a fault of the process,
        the server or the data acts on the shard; `LabError` where the server does not take it.
        """
        row_id, shard = self._owner_of(row_id)
        row = one_row(row_id, name)
        await self._write(shard, lambda server: server.put((row_id, name)), lambda rows: with_row(rows, row))

    async def delete(self, row_id: int) -> None:
        """Takes a row out of the shard that owns its id, where there is one; raises what `put` does."""
        row_id, shard = self._owner_of(row_id)
        await self._write(shard, lambda server: server.delete(row_id), lambda rows: without_row(rows, row_id))

    @asynccontextmanager
    async def fault(self, shard: Any, *faults: Fault) -> AsyncIterator[None]:
        """`async with lab.fault(2, faults.Pause()):` — undone on exit, whatever happens inside.

        Of several shards at once, all or none: `lab.fault({2: faults.Pause(), 3: [faults.Latency(), …]})`.
        Faults of the network take effect on all of them in the same moment. Raises `UsageError` for a shard this lab
        does not have, for what is no fault, and for one that cannot act there. Warns of one that never fired
        (`errors.NeverFired`).
        """
        begun = await self._inject(pairs(shard, faults))
        try:
            yield
        except BaseException:
            await self._undo(begun)  # quietly: what went wrong inside is what counts
            raise
        warn(await self._undo(begun))

    async def inject(self, shard: Any, *faults: Fault) -> None:
        """Starts faults that last until `heal()`: for use across notebook cells. Takes and raises what `fault` does."""
        await self._inject(pairs(shard, faults))

    async def heal(self) -> None:
        """Undoes every fault and returns when all shards answer again; `LabError` names one that does not."""
        injector = self._started()
        warn(await self._controlled(injector.heal))

    @property
    def reader(self) -> ShardReader:
        """The `ShardReader` over the lab's shards."""
        if self._reader is None:
            raise UsageError(NOT_RUNNING)
        return self._reader

    @property
    def cluster(self) -> Cluster:
        """The Redis Cluster that the shards are in; `UsageError` where there is none, or not yet."""
        cluster: Cluster | None = getattr(self._backend, "cluster", None)
        if cluster is None or self._reader is None:
            raise UsageError(
                NOT_RUNNING
                if self._reader is None
                else f"a {self.backend} lab is no cluster: start Lab('redis-cluster')"
            )
        return cluster

    def sources(self) -> dict[Any, Shard]:
        """New sources, one a shard, for a reader of your own: `ShardReader(lab.router, lab.sources())`, which closes
        them.
        """
        return {shard: self._backend.source(url, self.tables[shard]) for shard, url in self.source_urls.items()}

    @property
    def urls(self) -> dict[Any, str]:
        """How a client dials each shard, as libpq and its drivers (`postgresql://…?sslmode=disable`) or Redis clients
        (`redis://…`) take it; stable for the life of the lab. For other drivers see `dsn`.
        """
        return {shard: self._backend.url(server.port) for shard, server in self._shards.items()}

    def dsn(self, shard: ShardKey, driver: str) -> str:
        """How that driver dials a shard.

        Of Postgres: "psycopg" (any other driver on libpq, too), "asyncpg", "sqlalchemy" (for `create_async_engine`, by
        asyncpg; for `create_engine` write postgresql+psycopg:// before the rest of the one for psycopg) and "jdbc". Of
        Redis: "redis" (`Redis.from_url`); in a cluster it leads to the shard's first master. Raises `UsageError` for a
        shard this lab does not have, for a driver that it has no DSN for, and while the lab does not run.
        """
        dsns = self._backend.dsns(self._server(shard).port)
        if driver not in list(dsns):
            raise UsageError(f"a {self.backend} lab has no DSN for driver {driver!r}: choose one of {', '.join(dsns)}")
        return dsns[driver]

    async def admin(self, shard: ShardKey) -> Any:
        """A connection of the administrator's to a shard's server, past the proxy, for what clients may not: settings,
        say. It is of asyncpg (`terminate()` it) or a client of redis.asyncio (`async with await lab.admin(2) as …`).

        What is changed so is for you to put back. Raises `UsageError` for a shard this lab does not have, while the lab
        does not run, and in a forked child; OSError where the server takes no connection.
        """
        self._own()
        return await self._server(shard).connect()

    @property
    def source_urls(self) -> dict[Any, str]:
        """The same as a topology file has them: of a cluster, URLs that name all its nodes."""
        return {shard: self._backend.source_url(url) for shard, url in self.urls.items()}

    @property
    def launcher(self) -> str:
        """What the servers are started by: "embedded" or "docker"; "auto" until one of them was taken."""
        return self._servers.launcher

    @property
    def launcher_reason(self) -> str:
        """Why "auto" did not take docker, in one line with what to do about it; "" where nothing stood in its way."""
        return self._servers.reason

    @property
    def pids(self) -> dict[Any, int]:
        """Launcher "embedded": the process of each shard's server; changes when it is killed and starts again."""
        return {shard: server.pids[-1] for shard, server in self._shards.items() if isinstance(server, EmbeddedShard)}

    @property
    def containers(self) -> dict[Any, str]:
        """Launcher "docker": the name of each shard's container, as for `docker logs`."""
        return {shard: server.container for shard, server in self._shards.items() if isinstance(server, ContainerShard)}

    @property
    def folder(self) -> Path:
        """A place for what goes with the lab: it is removed, with all that was put there, however the owner ends.

        It may be in memory, so it is no place for much. Raises `UsageError` while the lab does not run.
        """
        if self._reader is None or self._servers.folder is None:
            raise UsageError(NOT_RUNNING)
        return self._servers.folder

    def leftovers(self) -> list[str]:
        """What there is of this lab on the machine: processes, folders, containers, volumes, its network.

        [] after `stop()`.
        """
        return self._servers.leftovers()

    @property
    def events(self) -> list[Event]:
        """Every start, firing and stop of a fault, in order; firings of one that still lasts need `record()`."""
        return list(self._injector.recorder.events) if self._injector else []

    async def record(self) -> list[Event]:
        """`events`, with the firings until now of faults that still last."""
        injector = self._started()
        await self._controlled(injector.collect)
        return self.events

    def altered(self, shard: ShardKey, fault: DataFault) -> list[Row]:
        """The rows that the shard has while the fault lasts, where it was loaded with those of `lab.rows`."""
        rows = by_shard(self.router, self.rows)[shard]
        target = self._shards[shard]
        return fault.alter(rows, target.random(fault), target.foreign)

    async def __aenter__(self) -> Lab:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._owner:
            await self.stop()
        elif self._reader is not None:
            await self._reader.aclose()  # a forked child leaves the block: the lab is its parent's

    def __repr__(self) -> str:
        state = "running" if self._reader is not None else "not running"
        why = f" ({self.launcher_reason})" if self.launcher_reason else ""
        return f"Lab({self.backend!r}, {len(self.router.shards)} shards, launcher={self.launcher!r}{why}, {state})"

    def _roles(self) -> dict[Any, Role]:
        return {
            shard: Role(table, foreign(self.router, shard), f"{self.seed}|{shard!r}")
            for shard, table in self.tables.items()
        }

    def _owner_of(self, row_id: int) -> tuple[int, ShardKey]:
        row_id = as_id(row_id)
        shard = self.router.locate(row_id)
        if shard is None:
            raise UsageError(f"no shard owns id {row_id}: this lab has {self.router!r}")
        return row_id, shard

    async def _write(
        self,
        shard: ShardKey,
        write: Callable[[ServerHandle], Awaitable[None]],
        written: Callable[[pd.DataFrame], pd.DataFrame],
    ) -> None:
        injector = self._started()

        async def work() -> None:
            await injector.write(shard, write)
            self.rows = written(self.rows)

        try:
            await self._controlled(work)
        except LabkitError:
            raise
        except Exception as error:
            raise LabError(f"shard {shard!r} did not take the write: {error}") from error

    async def _inject(self, wanted: Sequence[Pair]) -> list[Active]:
        injector = self._started()
        begun: list[Active] = []

        async def work() -> None:
            begun.extend(await injector.start(wanted))

        try:
            await self._controlled(work)
            for _ in range(2):  # so that this loop, too, has seen that connections ended
                await asyncio.sleep(0)
        except BaseException:  # who is cancelled just then has faults that nobody else will undo
            await self._undo(begun)
            raise
        return begun

    async def _undo(self, begun: Sequence[Active]) -> list[Active]:
        if not begun or os.getpid() != self._owner:
            return []  # a forked child leaves the block: the fault is its parent's
        injector = self._started()
        return await self._controlled(lambda: injector.stop(begun))

    async def _start(self, progress: Progress, stops: int, begun: list[bool]) -> None:
        async with self._turn:
            if self._reader is not None:
                return
            if self._stops != stops:
                raise LabError("the lab was stopped while it started")
            self._owner, self._starting = os.getpid(), asyncio.current_task()
            try:
                await self._bring_up(progress)
                begun.append(True)
            except asyncio.CancelledError:
                if self._stops != stops:
                    raise LabError("the lab was stopped while it started") from None
                raise
            finally:
                self._starting = None

    async def _bring_up(self, progress: Progress) -> None:
        rows = {**dict.fromkeys(self._members, ()), **by_shard(self.router, self.rows)}
        self._nodes = await self._servers.start(rows, self._roles(), progress)
        self._shards = {shard: self._nodes[shard] for shard in self.router.shards}
        try:
            reader = ShardReader(self.router, self.sources(), timeout=self.timeout)
        except BaseException:
            await self._end()
            raise
        self._injector = Injector(self._shards, self._servers.arm, self._servers.firings, self._answers_again)
        self._reader, self._control.lasting = reader, True

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        self._control.lasting = False
        try:
            for server in self._nodes.values():
                await server.aclose()
        finally:
            await self._servers.aclose()
            self._shards = self._nodes = {}

    async def _controlled(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._own()
        return await self._control.run(work)

    def _own(self) -> None:
        """`UsageError` in a forked child of the process that started the lab."""
        if self._owner != os.getpid() and (self._nodes or self._starting):
            raise UsageError(
                f"this lab belongs to process {self._owner}, which started it: "
                "a forked child reads through lab.reader, and starts a lab of its own"
            )

    def _started(self) -> Injector:
        if self._injector is None or self._reader is None:
            raise UsageError(NOT_RUNNING)
        return self._injector

    def _server(self, shard: ShardKey) -> ServerHandle:
        self._started()
        if shard not in list(self._shards):
            raise UsageError(f"unknown shard {shard!r}: this lab has {list(self._shards)}")
        return self._shards[shard]

    async def _answers_again(self, shard: ShardKey) -> None:
        """Asks the shard for one row, through its address and the reader's pool, until it answers."""
        if self.backend == "redis-cluster":
            await self.cluster.put_right(shard)
        await at_the_caller(lambda: self._answered(shard))

    async def _answered(self, shard: ShardKey) -> None:
        clock, patience, cause = asyncio.get_running_loop().time, FIRST_ASK, ""
        patience_ends = clock() + RECOVERY
        row_id = next(low for low, _, owner in self.router.spans if owner == shard)
        while True:
            ask = Ask(((row_id, row_id),), row_id, row_id, min(clock() + patience, patience_ends))
            try:
                await self.reader.shards[shard].read(ask)
                return
            except Exception as error:
                status, words = classify(error)
                cause = f"{status}: {words}" if status is not Status.TIMEOUT or not cause else cause
            if clock() >= patience_ends:
                raise LabError(f"shard {shard!r} does not answer {RECOVERY:.0f} s after its fault: {cause}")
            patience *= 2
            await asyncio.sleep(0.01)
