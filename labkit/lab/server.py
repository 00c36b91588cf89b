"""A shard of a lab: one server that the keeper runs, and the proxy in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from labkit._loops import PerLoop
from labkit.errors import LabError, UsageError
from labkit.faults.base import Fault, Row
from labkit.faults.network.toxic import Toxic
from labkit.lab.backends.base import Backend, Place
from labkit.lab.keeper.client import KeeperClient

__all__ = ["Admin", "Role", "ServerHandle"]


@dataclass
class _Kept:
    connection: Any = None
    for_rows: Any = None
    """Another one for the rows, where the backend has such."""


class Admin:
    """`located` says where the server is dialled just now; `table` is its table (or key). One connection is kept for
    each event loop.
    """

    def __init__(self, backend: Backend, located: Callable[[], Place], table: str) -> None:
        self._backend = backend
        self._located = located
        self._table = table
        self._kept: PerLoop[_Kept] = PerLoop(_Kept, self._close, self._abandon)

    async def connection(self) -> Any:
        """The connection that is kept; another one where it broke."""
        return (await self._both()).connection

    async def connect(self) -> Any:
        """One more; the caller closes it."""
        return await self._backend.connect(self._located())

    def release(self) -> None:
        """Closes the connection that is kept for the running loop, without waiting for the server."""
        kept = self._kept.existing()
        if kept is not None:
            self._hang_up(kept)

    async def aclose(self) -> None:
        """Closes all that are kept, in the same way."""
        await self._kept.aclose()

    async def _both(self) -> _Kept:
        """Opened together: while a fault lasts there may be no place left for another."""
        kept = self._kept.here()
        for connection in (kept.connection, kept.for_rows):
            if connection is not None and not await self._backend.alive(connection):
                self.release()
                break
        if kept.connection is None:
            kept.connection = await self.connect()
            try:
                kept.for_rows = await self._backend.connect_for_rows(self._located())
            except BaseException:
                self._hang_up(kept)
                raise
        return kept

    async def _for_rows(self) -> Any:
        kept = await self._both()
        return kept.connection if kept.for_rows is None else kept.for_rows

    async def rows(self) -> list[Row]:
        """What the server holds now, ascending by id."""
        return await self._backend.rows(await self._for_rows(), self._table)

    async def put(self, row: Row) -> None:
        """Writes a row, in the place of the one with its id."""
        await self._backend.put(await self._for_rows(), self._table, row)

    async def delete(self, row_id: int) -> None:
        """Takes a row out, where there is one."""
        await self._backend.delete(await self._for_rows(), self._table, row_id)

    async def stand_in(self, rows: Iterable[Row]) -> None:
        """Puts the table aside as it is and has one of these rows in its place."""
        await self._backend.stand_in(await self._for_rows(), self._table, list(rows))

    async def bring_back(self) -> None:
        """Undoes `stand_in`; does nothing where the table is in its place."""
        await self._backend.bring_back(await self.connection(), self._table)

    def _hang_up(self, kept: _Kept) -> None:
        held, kept.connection, kept.for_rows = (kept.connection, kept.for_rows), None, None
        for connection in held:
            if connection is not None:
                self._backend.hang_up(connection)

    async def _close(self, kept: _Kept) -> None:
        self._hang_up(kept)

    def _abandon(self, kept: _Kept) -> None:
        for connection in (kept.connection, kept.for_rows):
            if connection is not None:
                self._backend.abandon(connection)


_numbers = itertools.count(1)
"""Of toxics, in all labs of this process."""


@dataclass(frozen=True)
class Role:
    """What a server is in its lab."""

    table: str = ""
    foreign: Sequence[int] = ()
    """Some IDs that it does not own."""
    seed: str = ""
    """What its random numbers derive from."""


class ServerHandle(ABC):
    """A `faults.Target`. What differs is how the server is started, and what faults there can be."""

    layers: ClassVar[frozenset[str]] = frozenset({"network", "process", "server", "data"})
    patience: ClassVar[float]
    """Seconds a server may take to answer after it was started; a slow disk is no fault."""
    poll: ClassVar[float]
    """Seconds between two questions whether it does."""

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str) -> None:
        self._keeper = keeper
        self._backend = backend
        self._name = name
        self.place: Place | None = None
        """Where the server itself is dialled, past the proxy; None while nowhere."""
        self.port = 0
        self._role = Role()
        self._handed: list[int] = []
        self._admin = Admin(backend, lambda: self.located, "")

    def assign(self, role: Role) -> None:
        """What it is in its lab."""
        self._role = role
        self._admin.release()
        self._admin = Admin(self._backend, lambda: self.located, role.table)

    @property
    def table(self) -> str:
        """The name of its table, or Redis key."""
        return self._role.table

    @property
    def foreign(self) -> Sequence[int]:
        """Some IDs that it does not own."""
        return self._role.foreign

    @property
    def backend(self) -> str:
        """The kind of its server."""
        return self._backend.name

    @property
    def located(self) -> Place:
        """`place`; ConnectionError while the server listens nowhere."""
        if self.place is None:
            raise ConnectionError("it listens nowhere")
        return self.place

    @abstractmethod
    async def launch(self) -> None:
        """Starts the server, for the first time or again, and sets `place`; need not wait for its answer."""

    async def start(self) -> None:
        """Starts the server and returns when it answers; `LabError` with its last words when it does not."""
        await self.launch()
        await self._answers()

    async def expose(self) -> int:
        """Puts the proxy in front, turned to where the server is now; returns its port, which never changes."""
        self.port = await self._keeper.ask("proxy", name=self._name, upstream=self.place)
        return self.port

    async def kill(self) -> None:
        await self._keeper.ask("kill", name=self._name)

    async def restart(self) -> None:
        if await self._keeper.ask("returncode", name=self._name) is not None:
            await self.start()
        await self.expose()

    async def pause(self) -> None:
        await self._keeper.ask("pause", name=self._name)

    async def resume(self) -> None:
        await self._keeper.ask("resume", name=self._name)

    async def blackhole(self, on: bool) -> None:
        await self._keeper.ask("blackhole", name=self._name, on=on)

    async def down(self, on: bool) -> None:
        await self._keeper.ask("down", name=self._name, on=on)

    async def toxic(self, toxic: Toxic) -> Callable[[], Awaitable[None]]:
        """It works once the keeper is told to `arm` all that it was handed."""
        kind, number = type(toxic), next(_numbers)
        module = kind.__module__
        told = {"module": module, "kind": kind.__qualname__, "root": _root(module), "fields": asdict(toxic)}

        async def remove() -> None:
            await self._keeper.ask("remove_toxic", name=self._name, toxic=number)

        try:
            await self._keeper.ask("toxic", name=self._name, toxic=number, seed=self._role.seed, **told)
        except BaseException:
            # It may be there all the same: who was interrupted has not heard the answer.
            with contextlib.suppress(LabError):
                await remove()
            raise
        self._handed.append(number)
        return remove

    def handed(self) -> list[int]:
        """The numbers of the toxics that it was handed since this was asked last."""
        numbers, self._handed = self._handed, []
        return numbers

    def random(self, fault: Fault) -> Random:
        return Random(f"{self._role.seed}|{fault!r}")

    async def admin(self) -> Any:
        return await self._admin.connection()

    async def connect(self) -> Any:
        return await self._admin.connect()

    async def answers(self) -> None:
        await self._answers()

    async def rows(self) -> list[Row]:
        return await self._admin.rows()

    async def stand_in(self, rows: Iterable[Row]) -> None:
        await self._admin.stand_in(rows)

    async def bring_back(self) -> None:
        await self._admin.bring_back()

    async def lose_identity(self) -> None:
        raise UsageError("a server that is no node of a cluster has no identity to lose")

    async def regain_identity(self) -> None:
        raise UsageError("a server that is no node of a cluster has no identity to regain")

    async def overtaken(self) -> None:
        raise UsageError("nobody takes over from a server that is no node of a cluster")

    @property
    def replicated(self) -> bool:
        """Whether another server takes over when this one is gone."""
        return False

    async def put(self, row: Row) -> None:
        """Writes a row, in the place of the one with its id."""
        await self._admin.put(row)

    async def delete(self, row_id: int) -> None:
        """Takes a row out, where there is one."""
        await self._admin.delete(row_id)

    def release(self) -> None:
        """Closes the administrator's connection of the running loop."""
        self._admin.release()

    async def aclose(self) -> None:
        """Closes all connections of the administrator."""
        await self._admin.aclose()

    async def disconnect(self) -> None:
        raise UsageError("a server process has no network to be taken off")

    async def reconnect(self) -> None:
        raise UsageError("a server process has no network to be put back on")

    async def _answers(self) -> None:
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + self.patience
        while True:
            try:
                async with asyncio.timeout_at(patience_ends):
                    return await self._backend.ping(self.located)
            except (OSError, TimeoutError) as error:
                exited = await self._keeper.ask("returncode", name=self._name)
                if exited is not None:
                    words = await self._keeper.ask("log", name=self._name)
                    raise LabError(f"a server did not start (exit {exited}): {words}") from None
                if loop.time() >= patience_ends:
                    words = await self._keeper.ask("log", name=self._name)
                    raise LabError(
                        f"a server gives no answer after {self.patience:.0f} s ({error}); its last words: {words}"
                    ) from None
            await asyncio.sleep(self.poll)


def _root(module: str) -> str | None:
    """The folder that a module was found in, from which its whole name counts; None for what is in no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    inner = module.count(".") + (Path(file).stem == "__init__")
    return str(Path(file).absolute().parents[inner])
