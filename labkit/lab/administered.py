"""A server as faults inside it see it: by its administrator's connection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from labkit._loops import PerLoop
from labkit.faults.base import Fault, UndoCommand
from labkit.faults.server.commands import carry_out
from labkit.lab.handle import NetworkHandle
from labkit.lab.keeper.client import KeeperClient

__all__ = ["AdministeredHandle", "Driver"]


class Driver(Protocol):
    """What to do with the connections of a kind of server."""

    async def alive(self, connection: Any) -> bool:
        """Whether it can still be used."""

    def hang_up(self, connection: Any) -> None:
        """Closes it at once, without waiting for the server."""

    def abandon(self, connection: Any) -> None:
        """Closes this process's end of one whose event loop is dead."""


class AdministeredHandle(NetworkHandle):
    """Keeps the administrator's connections of each event loop until all faults are undone."""

    def __init__(self, keeper: KeeperClient, name: str, driver: Driver, seed: str = "", kind: str = "") -> None:
        super().__init__(keeper, name, seed, kind)
        self._driver = driver
        self._admin: PerLoop[list[Any]] = PerLoop(list, self._close_admin, self._abandon_admin)

    @abstractmethod
    async def connect(self) -> Any:
        """Another connection of the administrator's, past the proxy; the caller closes it."""

    async def admin(self) -> Any:
        """The administrator's connection, past the proxy, reopened if it broke."""
        return (await self._kept())[0]

    async def promise(self, fault: Fault, command: UndoCommand) -> Callable[[], Awaitable[None]]:
        """The step that gives the command. It is written down nowhere: such a server ends with this process."""

        async def undo() -> None:
            await carry_out(await self.admin(), command)

        return undo

    def release(self) -> None:
        """Closes the administrator's connections of the running loop, without waiting for the server."""
        kept = self._admin.existing()
        if kept is not None:
            self._hang_up(kept)

    async def aclose(self) -> None:
        """Closes the administrator's connections of all loops, in the same way."""
        await self._admin.aclose()

    async def _open(self) -> list[Any]:
        """The connections to keep, that of `admin` first; opened together, since during a fault the server may have no
        room for another.
        """
        return [await self.connect()]

    async def _kept(self) -> list[Any]:
        kept = self._admin.here()
        for connection in kept:
            if not await self._driver.alive(connection):
                self._hang_up(kept)
                break
        if not kept:
            kept[:] = await self._open()
        return kept

    def _hang_up(self, kept: list[Any]) -> None:
        opened, kept[:] = list(kept), []
        for connection in opened:
            self._driver.hang_up(connection)

    async def _close_admin(self, kept: list[Any]) -> None:
        self._hang_up(kept)

    def _abandon_admin(self, kept: list[Any]) -> None:
        for connection in kept:
            self._driver.abandon(connection)
