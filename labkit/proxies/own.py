"""Faults inside servers that labkit did not start: only with an administrator's URL, and undone whatever happens."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from labkit._checks import shown
from labkit.errors import LabError, LabkitError, UsageError
from labkit.faults.base import Fault, UndoCommand
from labkit.faults.server.commands import carry_out
from labkit.lab.administered import AdministeredHandle
from labkit.lab.handle import NetworkHandle
from labkit.lab.injector import Injector
from labkit.lab.keeper.client import KeeperClient
from labkit.proxies.administrators import Administrator, administrator
from labkit.proxies.fronts import Front
from labkit.proxies.journal import FIX, Entry, Journal
from labkit.proxies.routes import Route, text_of

__all__ = ["NEEDED", "OwnServer", "Owned", "Unowned"]

NEEDED = (
    "faults inside a server need an administrator's URL, and your word that the server is yours: "
    "admin={'eu': 'postgresql://…'}, own=True (labkit proxy --admin eu=URL --i-own-this-server)"
)


class Owned:
    """The servers behind proxies that are the user's own, by shard: `admin` has their administrators' URLs, `own` is
    the user's word, `tables` names what faults of a table act on.

    Raises `UsageError` for one of the first two without the other, and for URLs that cannot be used.
    """

    def __init__(self, admin: Mapping[Any, str], own: bool, tables: Mapping[Any, str | None]) -> None:
        if not isinstance(admin, Mapping) or not isinstance(own, bool) or bool(admin) is not own:
            raise UsageError(NEEDED)
        self._administrators = {shard: _named(shard, url) for shard, url in admin.items()}
        self._tables = tables
        self._upstreams: dict[Any, str] = {}
        """What the proxies were made for."""
        self._journal = Journal() if own else None
        self._handles: list[OwnServer] = []

    def check(self, routes: Mapping[Any, Route]) -> None:
        """`UsageError` for a shard that is not one of these, or whose server is of another kind."""
        self._upstreams = {shard: text_of(route.upstream) for shard, route in routes.items()}
        for shard in [*self._administrators, *self._tables]:
            if shard not in routes:
                raise UsageError(f"unknown shard {shown(shard)}: there is a proxy for {', '.join(map(repr, routes))}")
        for shard, named in self._administrators.items():
            kind = routes[shard].kind
            if kind not in ("", named.kind):
                raise UsageError(f"shard {shown(shard)} is {kind}, and its administrator's URL is {named.kind}")

    def handle(self, keeper: KeeperClient, front: Front, seed: str) -> NetworkHandle:
        """The target of faults on a front's server."""
        administrator = self._administrators.get(front.shard)
        if administrator is None or self._journal is None:
            return Unowned(keeper, front.name, seed, front.route.kind)
        made = OwnServer(
            keeper,
            front,
            seed,
            administrator,
            self._journal,
            upstream=self._upstreams[front.shard],
            table=self._tables.get(front.shard),
        )
        self._handles.append(made)
        return made

    def left(self, fronts: Iterable[Front]) -> list[str]:
        """One line for each server on which a fault inside it acts already, or was not undone."""
        lines = []
        try:
            journal = self._journal or Journal()
        except UsageError:  # there is no home folder, and so no journal
            return []
        for front in fronts:
            addresses = [_plain(front.upstream)]
            if front.shard in self._administrators:
                addresses.append(_plain(self._administrators[front.shard].server))
            try:
                journal.check(front.name, addresses)
            except LabkitError as error:
                lines.append(str(error))
        return lines

    async def undo(self, injector: Injector) -> None:
        """Ends the faults inside servers, which would outlive the proxies."""
        await injector.stop([active for active in injector.active if active.fault.layer == "server"], awaits=False)

    async def aclose(self) -> None:
        """Closes the administrators' connections. What could not be undone is then left to `labkit proxy --undo`."""
        for handle in self._handles:
            await handle.aclose()
        if self._journal is not None:
            self._journal.close()


class Unowned(NetworkHandle):
    """A server without an administrator."""

    only: ClassVar[str] = f"{NetworkHandle.only}; {NEEDED}"


class OwnServer(AdministeredHandle):
    """A server behind a proxy, with its administrator. `upstream` is its address; `table` is what faults of a table act
    on, if that is known.
    """

    layers: ClassVar[frozenset[str]] = frozenset({"network", "server"})
    only: ClassVar[str] = "labkit did not start it: choose a fault of the network, or one inside the server"

    def __init__(
        self,
        keeper: KeeperClient,
        front: Front,
        seed: str,
        administrator: Administrator,
        journal: Journal,
        *,
        upstream: str,
        table: str | None,
    ) -> None:
        super().__init__(keeper, front.name, administrator, seed, administrator.kind)
        self._administrator, self._journal = administrator, journal
        self._front, self._upstream = front, upstream
        self._table = table
        self._written: list[tuple[Fault, UndoCommand]] = []
        """What the entry in the journal holds."""
        self._path: Path | None = None
        """That entry; None while there is none."""

    @property
    def servers(self) -> tuple[str, ...]:
        """The server's addresses."""
        return tuple(dict.fromkeys([_plain(self._upstream), _plain(self._administrator.server)]))

    @property
    def table(self) -> str:
        """The table with its schema; `UsageError` if it is not known."""
        if self._table is None:
            raise UsageError(
                f"shard {self._name!r}: this fault acts on a table; say which one: tables={{{self._name!r}: 'orders'}} "
                f"(labkit proxy: --table {self._name}=orders, or a topology)"
            )
        return self._table if "." in self._table else f"public.{self._table}"

    @property
    def user(self) -> str:
        """`UsageError` if it is not known."""
        user = _user_of(self._front.route.url, self.backend)
        if user is None:
            raise UsageError(
                f"shard {self._name!r}: this fault acts on the clients' user; say who that is by the server's URL: "
                "postgresql://user@host:5432/database, or redis://user@host:6379"
            )
        return user

    def check(self, fault: Fault) -> None:
        """`UsageError` for a fault that cannot be undone surely, and while another one is left on the server."""
        if fault.layer != "server":
            return
        name = type(fault).__name__
        if not fault.own_servers:
            raise UsageError(
                f"{name} cannot be undone surely on a server that labkit did not start, such as shard {self._name!r}: "
                "try it in a lab"
            )
        if self._front.upstream != self._upstream:
            raise UsageError(
                f"the proxy of shard {self._name!r} is in front of {self._front.upstream} now, and the administrator's "
                f"URL is for {self._upstream}"
            )
        if self._path is None:
            self._journal.check(self._name, self.servers)

    def failed(self, fault: Fault, error: Exception) -> Exception:
        """`error`, if it is labkit's own; else one that says where it happened, without secrets."""
        if isinstance(error, LabkitError):
            return error
        self._administrator.secrets.scrub(error)
        words = str(error) or type(error).__name__
        left = f"; what it has done is left until `{FIX}`" if self._path else ""
        return LabError(f"{fault!r} on shard {self._name!r}: {words}{left}")

    async def connect(self) -> Any:
        return await self._administrator.connect()

    async def promise(self, fault: Fault, command: UndoCommand) -> Callable[[], Awaitable[None]]:
        """Writes the command to the journal before it returns; the step removes it once it was given."""
        promised = (fault, command)
        self._write([*self._written, promised])

        async def undo() -> None:
            await carry_out(await self.admin(), command)
            self._write([one for one in self._written if one is not promised])

        return undo

    def _write(self, written: list[tuple[Fault, UndoCommand]]) -> None:
        if written:
            faults = ", ".join(dict.fromkeys(repr(fault) for fault, _ in written))
            commands = tuple(command for _, command in written)
            entry = Entry(self._name, faults, self.servers, self._administrator.url, os.getpid(), commands)
            if self._path is None:
                self._path = self._journal.begin(entry)
            else:
                self._journal.update(self._path, entry)
        elif self._path is not None:
            self._journal.remove(self._path)
            self._path = None
        self._written = written


def _named(shard: Any, url: str) -> Administrator:
    try:
        return administrator(url)
    except UsageError as error:
        message = str(error)
    raise UsageError(f"the administrator of shard {shown(shard)}: {message}")


def _user_of(url: str | None, kind: str) -> str | None:
    """The user in a server's URL; None if it names none."""
    if url is None:
        return None
    if kind == "postgres":
        from labkit.shards.postgres.url import as_url, connect_args

        user: str | None = connect_args(as_url(url)).get("user")
        return user
    from labkit.shards.redis.url import as_url as as_redis_url
    from labkit.shards.redis.url import options_of

    return str(options_of(as_redis_url(url)).get("username") or "default")


def _plain(address: str) -> str:
    """An address for comparisons."""
    if address.startswith("/"):
        return address
    host, _, port = address.lower().rpartition(":")
    return f"127.0.0.1:{port}" if host in ("localhost", "[::1]") else f"{host}:{port}"
