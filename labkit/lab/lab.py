"""`Lab`: real shards to read, to break and to heal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from labkit._checks import positive_seconds, shown
from labkit._imports import need
from labkit._replay import Urls, replaying
from labkit._types import ShardKey
from labkit.errors import LabError, LabkitError, UsageError
from labkit.lab.backends import backend as find_backend
from labkit.lab.connections import Connection
from labkit.lab.control import Control, at_the_caller
from labkit.lab.injecting import Injecting
from labkit.lab.injector import Injector, warn
from labkit.lab.launch import Servers, chosen, each
from labkit.lab.launchers.docker import ContainerShard
from labkit.lab.launchers.embedded import EmbeddedShard
from labkit.lab.progress import Progress
from labkit.lab.reading import LabReader
from labkit.lab.server import Role
from labkit.lab.truth import Rows, as_rows, by_shard, foreign, key_of, one_row, truth, with_row, without_row
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import CLASSIC, RangeRouter, as_id
from labkit.shards.base import Ask, Shard
from labkit.shards.failures import classify
from labkit.tables import to_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from labkit.faults.base import Row
    from labkit.faults.data import DataFault
    from labkit.lab.cluster.cluster import Cluster
    from labkit.lab.server import ServerHandle
    from labkit.lab.sync import SyncLab
    from labkit.result import ReadResult

__all__ = ["Lab"]

RECOVERY = 10.0
"""Seconds a shard gets to answer again once its last fault is undone."""
FIRST_ASK = 0.5
"""Of these, the seconds for the first query; each further one gets twice as many."""
AT_ONCE = 64
"""Shards that are reset side by side."""
NOT_RUNNING = "this lab is not running: await lab.start() first"


class Lab(Injecting):
    """Real servers, one per shard of `router`, loaded with `rows`, each behind a proxy on 127.0.0.1.

    `backend` is "postgres", "redis" or "redis-cluster". With "redis-cluster" the shards' servers are masters of one
    Redis Cluster with `masters` masters (None: one per shard, at least three) and `replicas` replicas for each.
    `rows` are (id, name) pairs, a mapping from id to name, or any table as a DataFrame or an Arrow table; None is a row
    "Test <id>" for every ID. `key` is the column of IDs, `table` what the table is called on the servers; None is
    data_1, data_2, … In a DataFrame NaN, NaT and NA are NULL; in an Arrow table NaN is a number.
    `launcher` is "embedded" (server processes), "docker" (containers, by testcontainers), or "auto": LABKIT_LAUNCHER if
    set, else docker if an engine answers and has the image, else embedded.
    `timeout` in seconds is the reader's. `seed` seeds all random choices of faults: the same seed hits the same
    connections, corrupts the same bytes, alters the same rows.

    `await Lab("redis").start()` … `await lab.stop()`, or `async with Lab("redis") as lab:`. However the owner of a
    lab ends, its servers end too, even frozen ones. Raises `UsageError` (a ValueError) for wrong arguments, `LabError`
    if no server can be started, `MissingExtra` if the extra `lab` is not installed.

    A lab may be used from any event loop and thread, not only from those that started it: `asyncio.run(lab.start())`,
    then `asyncio.run(lab.read())`. A forked child of its owner can read (`lab.reader`, `lab.read`); everything that
    would drive or stop the lab raises `UsageError` there, and the child's exit stops nothing. Servers and their
    administrator ignore the environment variables of libpq and redis-cli (PGHOST, PGOPTIONS, …).
    """

    def __init__(
        self,
        backend: str,
        *,
        router: RangeRouter = CLASSIC,
        rows: Rows | None = None,
        key: str = "id",
        table: str | None = None,
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
        self._truth = self._first = truth(router, rows, key)
        self._frame: tuple[pa.Table, pd.DataFrame] | None = None
        """`rows`, and the truth that it was made of."""
        if table is not None and (not isinstance(table, str) or not table):
            raise UsageError(f"table must be what the table is called on the servers, not {shown(table)}")
        self._backend.schema = self._truth.schema
        self.tables: dict[Any, str] = self._backend.tables(router.shards, table)
        """The table (or Redis key) of each shard: `table`, or data_1, data_2, …; in a cluster with a hash tag."""
        self._members = self._backend.members(router.shards)
        self._control = Control()
        self._servers = Servers(chosen(launcher), self._backend, self._control)
        self._shards: Mapping[Any, ServerHandle] = {}
        self._nodes: Mapping[Any, ServerHandle] = {}
        """All servers: those of the shards, and further nodes of a cluster."""
        self._reader: ShardReader | None = None
        self._injector: Injector | None = None
        self._owner = os.getpid()
        self._turn = asyncio.Lock()
        """Serialises starts and stops; on the loop of `_control`."""
        self._starting: asyncio.Task[Any] | None = None
        self._stops = 0
        """How often it was stopped, so that a caller waiting for a cancelled start does not start it again."""

    async def start(self) -> Lab:
        """Starts and loads all shards at once, and shows progress; returns this lab.

        Of concurrent calls one starts it, and all return when it runs. `LabError` if `stop()` is called meanwhile.
        """
        self._own()
        if self._reader is None:
            stops, progress, begun = self._stops, Progress(self.backend, self._members), list[bool]()
            try:
                await self._controlled(lambda: self._start(progress, stops, begun))
            except asyncio.CancelledError:
                if begun:
                    await self.stop()  # the start had just finished
                raise
        return self

    async def stop(self) -> None:
        """Closes the reader and ends all servers; returns when nothing is left. May be called twice; cancels a start in
        progress.
        """
        self._own()
        self._stops += 1
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                await reader.aclose()
        finally:
            await self._controlled(self._stop)

    def sync(self) -> SyncLab:
        """The same lab for code without an event loop: `with Lab("redis").sync() as lab: lab.read()`."""
        from labkit.lab.sync import SyncLab

        return SyncLab(self)

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._reader is not None

    @property
    def rows(self) -> pd.DataFrame:
        """The truth: the rows that a complete read returns. The same object until a row is written."""
        if self._frame is None or self._frame[0] is not self._truth:
            self._frame = self._truth, to_frame(self._truth)
        return self._frame[1]

    async def read(
        self,
        low: int | None = None,
        high: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Any] | None = None,
    ) -> ReadResult:
        """Reads through the lab's reader; the result's timeline shows the faults too. See `ShardReader.read`."""
        return await self.reader.read(low, high, columns=columns, filters=filters)

    async def put(self, row: Any, *name: str | None) -> None:
        """Writes a row to the shard that owns its key, replacing the existing one, as another client would: past the
        proxy, whatever the state of the network. Updates `lab.rows`, the truth.

        `put(12, "new")`, or a row with all values in the order of the columns, or a mapping from columns to values:
        `put({"order_id": 12, "amount": Decimal("9.50")})`; a column that is not in it is NULL.

        Raises `UsageError` for a key that no shard owns, for a value that is not of its column's type, and while a
        fault of the process, the server or the data acts on the shard; `LabError` if the server does not accept the
        write.
        """
        values, schema = (row, *name) if name else row, self._truth.schema
        _, shard = self._owner_of(key_of(values, schema))
        written = one_row(values, schema)
        [stored] = self._backend.stored(written)
        await self._write(shard, lambda server: server.put(stored), lambda truth: with_row(truth, written))

    async def delete(self, row_id: int) -> None:
        """Deletes a row, if there is one, from the shard that owns its id; raises what `put` does."""
        row_id, shard = self._owner_of(row_id)
        await self._write(shard, lambda server: server.delete(row_id), lambda truth: without_row(truth, row_id))

    async def reset(self) -> None:
        """Puts the lab back to where it began: undoes every fault, empties `events` and `connections()`, and puts back
        the lab's own table, or key, of each shard, with the rows that it was started with, whoever changed it, and
        however. Takes milliseconds if the table is small or nothing was written; as long as loading it if it must be
        written again.

        Postgres: rows are compared on the server. A table with another definition (columns, constraints, indexes,
        triggers, rules, policies, grants) is dropped, with everything that depends on it, and made again; a session
        that holds a lock on it from a write, or an open transaction, is ended. Redis: the key gets its content back and
        has no expiry; in a cluster with replicas, the first masters are masters again. Everything else stays: other
        tables and keys, roles, and settings.

        The reader keeps its connections. Warns of faults that never fired (`errors.NeverFired`). Raises `LabError` if a
        shard does not answer, or does not take its rows: then start another lab.
        """
        injector = self._started()
        warn(await self._controlled(lambda: injector.reset(self._put_back)))

    @property
    def reader(self) -> ShardReader:
        """The `ShardReader` over the lab's shards; the timelines of its results show the faults too."""
        if self._reader is None:
            raise UsageError(NOT_RUNNING)
        return self._reader

    @property
    def cluster(self) -> Cluster:
        """The Redis Cluster of the shards; `UsageError` if there is none, or the lab is not running."""
        cluster: Cluster | None = getattr(self._backend, "cluster", None)
        if cluster is None or self._reader is None:
            raise UsageError(
                NOT_RUNNING
                if self._reader is None
                else f"a {self.backend} lab is not a cluster: start Lab('redis-cluster')"
            )
        return cluster

    def sources(self) -> dict[Any, Shard]:
        """New sources, one per shard, for your own reader: `ShardReader(lab.router, lab.sources())`, which closes
        them.
        """
        return {shard: self._backend.source(url, self.tables[shard]) for shard, url in self.source_urls.items()}

    @property
    def urls(self) -> dict[Any, str]:
        """Each shard's URL for libpq and its drivers (`postgresql://…?sslmode=disable`) or Redis clients (`redis://…`);
        stable for the life of the lab. For other drivers see `dsn`.
        """
        return Urls({shard: self._backend.url(server.port) for shard, server in self._shards.items()})

    def dsn(self, shard: ShardKey, driver: str) -> str:
        """A shard's DSN for that driver.

        Postgres: "psycopg" (and every other driver on libpq), "asyncpg", "sqlalchemy" (for `create_async_engine` with
        asyncpg; for `create_engine` replace postgresql:// in the one for psycopg by postgresql+psycopg://) and "jdbc".
        Redis: "redis" (`Redis.from_url`); in a cluster it leads to the shard's first master. Raises `UsageError` for a
        shard or a driver this lab does not have, and while the lab is not running.
        """
        dsns = self._backend.dsns(self._server(shard).port)
        if driver not in list(dsns):
            raise UsageError(f"a {self.backend} lab has no DSN for driver {driver!r}: choose one of {', '.join(dsns)}")
        return dsns[driver]

    async def admin(self, shard: ShardKey) -> Any:
        """An administrator's connection to a shard's server, past the proxy, for what clients may not do (say, change
        settings): of asyncpg (`terminate()` it) or redis.asyncio (`async with await lab.admin(2) as …`).

        You must undo what you change with it. Raises `UsageError` for a shard this lab does not have, while the lab is
        not running, and in a forked child; OSError if the server refuses the connection or was killed.
        """
        self._own()
        return await self._server(shard).connect()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the lab's table, the key first."""
        return self._truth.schema

    @property
    def source_urls(self) -> dict[Any, str]:
        """The URLs as a topology file has them: for a cluster, URLs that name all its nodes."""
        return Urls({shard: self._backend.source_url(url) for shard, url in self.urls.items()})

    @property
    def launcher(self) -> str:
        """What starts the servers: "embedded" or "docker"; "auto" until that is decided."""
        return self._servers.launcher

    @property
    def launcher_reason(self) -> str:
        """Why "auto" did not use docker, in one line with what to do about it; "" if it did."""
        return self._servers.reason

    @property
    def pids(self) -> dict[Any, int]:
        """Launcher "embedded": the PID of each shard's server; it changes when the server restarts."""
        return {shard: server.pids[-1] for shard, server in self._shards.items() if isinstance(server, EmbeddedShard)}

    @property
    def containers(self) -> dict[Any, str]:
        """Launcher "docker": the name of each shard's container, as for `docker logs`."""
        return {shard: server.container for shard, server in self._shards.items() if isinstance(server, ContainerShard)}

    @property
    def folder(self) -> Path:
        """A folder for small files that belong to the lab: it is removed with its contents, however the owner ends.

        It may be in memory. Raises `UsageError` while the lab is not running.
        """
        if self._reader is None or self._servers.folder is None:
            raise UsageError(NOT_RUNNING)
        return self._servers.folder

    def leftovers(self) -> list[str]:
        """What this lab has on the machine: processes, folders, containers, volumes, its network. [] after `stop()`."""
        return self._servers.leftovers()

    async def connections(self) -> list[Connection]:
        """What the proxies saw: the connections to shards, and to further nodes of a cluster, that were open since the
        last call, the oldest first, with the bytes that have passed since then; the last 1,000 closed ones per shard.
        """
        self._started()
        traces = await self._controlled(self._servers.traces)
        seen = [(shard, trace) for shard, server in self._nodes.items() for trace in traces.get(server.keeper_name, ())]
        return sorted((Connection.of(*one) for one in seen), key=lambda one: one.opened)

    def altered(self, shard: ShardKey, fault: DataFault) -> list[Row]:
        """The rows that the shard has while the fault lasts, if it holds those of `lab.rows`: (id, name), or in a lab
        of another table the key and a tuple of the other values, as `labkit.tables.to_json` has them.
        """
        rows = as_rows(by_shard(self.router, self._truth)[shard])
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
            await self._reader.aclose()  # in a forked child: the lab belongs to its parent

    def __repr__(self) -> str:
        why = f" ({self.launcher_reason})" if self.launcher_reason else ""
        return self._shown(f"launcher={self.launcher!r}{why}, ")

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows: where outputs are compared, the same with every launcher."""
        printer.text(self._shown("") if replaying() else repr(self))

    def _shown(self, launcher: str) -> str:
        state = "running" if self._reader is not None else "not running"
        return f"Lab({self.backend!r}, {len(self.router.shards)} shards, {launcher}{state})"

    def _roles(self) -> dict[Any, Role]:
        return {
            shard: Role(table, foreign(self.router, shard), f"{self.seed}|{shard!r}")
            for shard, table in self.tables.items()
        }

    def _owner_of(self, row_id: int) -> tuple[int, ShardKey]:
        row_id = as_id(row_id)
        shard = self.router.locate(row_id)
        if shard is None:
            key = self._truth.schema.names[0]
            raise UsageError(f"no shard owns {key} {row_id}: this lab has {self.router!r}")
        return row_id, shard

    async def _write(
        self,
        shard: ShardKey,
        write: Callable[[ServerHandle], Awaitable[None]],
        written: Callable[[pa.Table], pa.Table],
    ) -> None:
        injector = self._started()

        async def work() -> None:
            async with injector.writable(shard) as server:
                await write(server)
            self._truth = written(self._truth)

        try:
            await self._controlled(work)
        except LabkitError:
            raise
        except Exception as error:
            raise LabError(f"shard {shard!r} did not accept the write: {error}") from error

    async def _put_back(self) -> None:
        """Puts the rows of all shards back, and the truth."""
        by_owner = cache(lambda: by_shard(self.router, self._first))

        async def put_back(shard: ShardKey) -> None:
            try:
                await self._put_right(shard)
                await self._shards[shard].reset(lambda: self._backend.stored(by_owner()[shard]))
            except LabkitError:
                raise
            except Exception as error:
                raise LabError(f"shard {shard!r} cannot be reset: {error}") from error

        await asyncio.gather(each(self.router.shards, put_back, AT_ONCE), self._servers.traces())
        self._truth, self._frame = self._first, None

    async def _put_right(self, shard: ShardKey) -> None:
        if self.backend == "redis-cluster":
            await self.cluster.put_right(shard)

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
        held = by_shard(self.router, self._truth).items()
        rows = {**dict.fromkeys(self._members, ()), **{shard: self._backend.stored(table) for shard, table in held}}
        self._nodes = await self._servers.start(rows, self._roles(), progress)
        self._shards = {shard: self._nodes[shard] for shard in self.router.shards}
        try:
            reader = LabReader(self.router, self.sources(), self.timeout, lambda: self._started().recorder)
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
            await self._collect_last()
            for server in self._nodes.values():
                await server.aclose()
        finally:
            await self._servers.aclose()
            self._shards = self._nodes = {}

    def _own(self) -> None:
        """`UsageError` in a forked child of the process that started the lab."""
        if self._owner != os.getpid() and (self._nodes or self._starting):
            raise UsageError(
                f"this lab belongs to process {self._owner}, which started it: "
                "a forked child can read through lab.reader, or start its own lab"
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
        """Returns when the shard answers a query for one row, through its address and the reader's pool."""
        await self._put_right(shard)
        await at_the_caller(lambda: self._answered(shard))

    async def _answered(self, shard: ShardKey) -> None:
        clock, seconds, cause = asyncio.get_running_loop().time, FIRST_ASK, ""
        ends = clock() + RECOVERY
        row_id = next(low for low, _, owner in self.router.spans if owner == shard)
        while True:
            ask = Ask(((row_id, row_id),), row_id, row_id, min(clock() + seconds, ends))
            try:
                await self.reader.shards[shard].read(ask)
                return
            except Exception as error:
                status, words = classify(error)
                cause = f"{status}: {words}" if status is not Status.TIMEOUT or not cause else cause
            if clock() >= ends:
                raise LabError(f"shard {shard!r} does not answer {RECOVERY:.0f} s after its fault: {cause}")
            seconds *= 2
            await asyncio.sleep(0.01)
