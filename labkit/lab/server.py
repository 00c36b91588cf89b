"""A server of a lab: the keeper runs it, with a proxy in front of it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from labkit.errors import LabError, UsageError
from labkit.faults.base import Row
from labkit.faults.drift import Drift
from labkit.lab.administered import AdministeredHandle
from labkit.lab.backends.base import Backend, Place
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.keeper.keeper import Keeper

__all__ = ["Role", "ServerHandle"]


@dataclass(frozen=True)
class Role:
    """What a server is in its lab."""

    table: str = ""
    foreign: Sequence[int] = ()
    """Some IDs that it does not own."""
    seed: str = ""
    """The seed of its random numbers."""


class ServerHandle(AdministeredHandle, ABC):
    """A `faults.Target`. Subclasses differ in how they start the server, and in the faults that can act on it."""

    layers: ClassVar[frozenset[str]] = frozenset({"network", "process", "server", "data"})
    only: ClassVar[str] = "start the lab with launcher='docker', or use faults.BlackHole()"
    start_timeout: ClassVar[float]
    """Seconds a server may take to answer after a start; a slow disk is not a fault."""
    poll: ClassVar[float]
    """Seconds between two checks whether it answers."""

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str) -> None:
        super().__init__(keeper, name, backend)
        self._backend = backend
        self.place: Place | None = None
        """The server's own address, past the proxy; None while it has none."""
        self.killed = False
        """Whether it was killed and not launched since: another program may have its port by now."""
        self.port = 0
        self._role = Role()
        self._loaded: Any = None
        """What the backend knows of the table as it was loaded."""
        self._lasting = False
        """Whether the administrator's connections are kept for the next reset."""

    def assign(self, role: Role) -> None:
        """Sets its role in the lab."""
        self._role, self.seed = role, role.seed
        self.release()

    @property
    def keeper_name(self) -> str:
        """What the keeper calls it."""
        return self._name

    @property
    def table(self) -> str:
        """The name of its table, or Redis key."""
        return self._role.table

    @property
    def user(self) -> str:
        """The user that clients are on the server."""
        return self._backend.user

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
        """`place`; ConnectionError while the server is killed or has none: another program may listen at its port."""
        if self.place is None or self.killed:
            raise ConnectionError("it listens nowhere")
        return self.place

    @abstractmethod
    async def launch(self) -> None:
        """Starts the server, for the first time or again, sets `place` and clears `killed`; need not wait until it
        answers.
        """

    async def start(self) -> None:
        """Starts the server and returns when it answers; `LabError` with its last log line if it does not."""
        await self.launch()
        await self.answers()

    async def expose(self) -> int:
        """Puts the proxy in front of the server's current address; returns the proxy's port, which never changes."""
        self.port = await self._keeper.ask(Keeper.expose, self._name, self.located)
        return self.port

    async def kill(self) -> None:
        await self._keeper.ask(Keeper.kill, self._name)
        self.killed = True

    async def restart(self) -> None:
        if await self._keeper.ask(Keeper.returncode, self._name) is not None:
            await self.start()
        await self.expose()

    async def pause(self) -> None:
        await self._keeper.ask(Keeper.pause, self._name)

    async def resume(self) -> None:
        await self._keeper.ask(Keeper.resume, self._name)

    async def disconnect(self) -> None:
        raise UsageError("a server process has no network to be taken off")

    async def reconnect(self) -> None:
        raise UsageError("a server process has no network to be put back on")

    async def lose_identity(self) -> None:
        raise UsageError("only a node of a cluster has an identity to lose")

    async def regain_identity(self) -> None:
        raise UsageError("only a node of a cluster has an identity to regain")

    async def overtaken(self) -> None:
        raise UsageError("only a node of a cluster has a replica that takes over")

    async def connect(self) -> Any:
        return await self._backend.connect(self.located)

    async def rows(self) -> list[Row]:
        return await self._backend.rows(await self._for_rows(), self.table)

    async def put(self, row: Row) -> None:
        """Writes a row, replacing the one with its id."""
        await self._backend.put(await self._for_rows(), self.table, row)

    async def delete(self, row_id: int) -> None:
        """Deletes a row, if there is one."""
        await self._backend.delete(await self._for_rows(), self.table, row_id)

    async def load(self, rows: Sequence[Row]) -> None:
        """Creates the table, with these rows."""
        self._loaded = await self._backend.load(self.located, self.table, rows)

    async def reset(self, rows: Callable[[], list[Row]]) -> None:
        """Puts the table back as it was loaded; `rows()` makes its rows, and is called if they are needed."""
        self._lasting = True
        held = list(self._admin.here())
        kept = self._admin.here() if held else await self._kept()
        try:
            await self._put_back(kept, rows)
        except Exception:
            if not held or list(await self._kept()) == held:
                raise
            await self._put_back(kept, rows)  # the connections had broken since the last reset, as when it was killed

    async def _put_back(self, kept: list[Any], rows: Callable[[], list[Row]]) -> None:
        self._loaded = await self._backend.reset(kept[0], kept[-1], self.table, rows, self._loaded)

    async def stand_in(self, rows: Iterable[Row]) -> None:
        await self._backend.stand_in(await self._for_rows(), self.table, list(rows))

    @property
    def schema(self) -> pa.Schema:
        return self._backend.schema

    async def drift(self, drift: Drift) -> None:
        await self._backend.drift(await self._for_rows(), self.table, drift)

    async def bring_back(self) -> None:
        await self._backend.bring_back(await self.admin(), self.table)

    def release(self) -> None:
        """Closes the administrator's connections, not in a lab that was reset, and may be again soon."""
        if not self._lasting:
            super().release()

    async def answers(self) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.start_timeout
        while True:
            try:
                async with asyncio.timeout_at(ends):
                    return await self._backend.ping(self.located)
            except (OSError, TimeoutError) as error:
                exited = await self._keeper.ask(Keeper.returncode, self._name)
                if exited is not None:
                    line = await self._keeper.ask(Keeper.log, self._name)
                    raise LabError(f"a server did not start (exit {exited}): {line}") from None
                if loop.time() >= ends:
                    line = await self._keeper.ask(Keeper.log, self._name)
                    waited = f"{self.start_timeout:.0f} s"
                    raise LabError(
                        f"a server does not answer after {waited} ({error}); its last log line: {line}"
                    ) from None
            await asyncio.sleep(self.poll)

    async def _open(self) -> list[Any]:
        """With a separate one for rows, if the backend has such."""
        opened = [await self.connect()]
        try:
            for_rows = await self._backend.connect_for_rows(self.located)
        except BaseException:
            self._backend.hang_up(opened[0])
            raise
        return opened if for_rows is None else [*opened, for_rows]

    async def _for_rows(self) -> Any:
        return (await self._kept())[-1]
