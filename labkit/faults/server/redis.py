"""Faults inside Redis: it is busy, pauses its clients, accepts no more of them, or has lost its master."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from labkit.errors import LabError
from labkit.faults.base import POLL, Fault, Fires, Sample, Target, Undo, UndoCommand, check_seconds, wait_until
from labkit.faults.server.commands import BUSY, answer_of, carry_out
from labkit.report import Status

__all__ = ["Busy", "ClientPause", "MasterDown", "MaxClients", "change"]


async def change(fault: Fault, target: Target, undo: Undo, name: str, value: Any) -> None:
    """Changes one of the server's settings, until that is undone, or somebody changes it again."""
    before = (await (await target.admin()).config_get(name))[name]
    undo.push(await target.promise(fault, _put_back(name, before, value)))
    await (await target.admin()).config_set(name, value)


def _put_back(name: str, before: str, value: Any) -> UndoCommand:
    return UndoCommand(("CONFIG", "SET", name, before), ("CONFIG", "GET", name), str(value))


BUSY_AFTER = 5
"""Milliseconds that a script may run until the server answers BUSY to others, instead of letting them wait."""
KILL = UndoCommand(("SCRIPT", "KILL"), ("PING",), BUSY)


@dataclass(frozen=True)
class Busy(Fault):
    """A Lua script runs for ever, and the server answers "BUSY" to everybody else.

    By default Redis does so after 5 s; here after 5 ms (lua-time-limit). The script takes a whole core. Undone: SCRIPT
    KILL, and the setting is put back.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        client = await target.connect()
        undo.push(client.aclose)
        connection = await client.connection_pool.get_connection()
        undo.push(connection.disconnect)
        await change(self, target, undo, "lua-time-limit", BUSY_AFTER)
        undo.push(await target.promise(self, KILL))
        waiting = [connection]
        undo.push(partial(_end_script, target, waiting))
        await connection.send_command("EVAL", "while true do end", 0)
        await wait_until(partial(_busy, target), "a busy server")

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]


async def _busy(target: Target) -> bool:
    return await answer_of(await target.admin(), ("PING",)) == [BUSY]


async def _end_script(target: Target, waiting: list[Any]) -> None:
    """Kills the script for whose reply a connection is waiting; returns when that is there, or the connection is lost.

    A script that was sent and has not begun cannot be killed yet.
    """
    if not waiting:
        return
    replied: asyncio.Future[Any] = asyncio.ensure_future(waiting[0].read_response(disconnect_on_error=False))

    async def killed() -> bool:
        await carry_out(await target.admin(), KILL)
        await asyncio.wait([replied], timeout=POLL)
        return replied.done()

    try:
        await wait_until(killed, "the end of a script")
        waiting.clear()
    finally:
        replied.cancel()
        await asyncio.gather(replied, return_exceptions=True)


BATCH = 8
"""Connections opened side by side."""
LONGEST = 60
"""Seconds of a `ClientPause`, which cannot be ended early."""


@dataclass(frozen=True)
class ClientPause(Fault):
    """CLIENT PAUSE: for `seconds` the server accepts every command and answers none.

    It cannot be ended early, since CLIENT UNPAUSE is delayed too: undoing waits for its end. Raises `UsageError` for
    `seconds` that are not positive, or more than 60.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    seconds: float = 3.0

    def __post_init__(self) -> None:
        check_seconds(self, self.seconds, LONGEST)

    async def start(self, target: Target, undo: Undo) -> None:
        clock = asyncio.get_running_loop().time
        admin = await target.admin()
        ends = clock() + self.seconds

        async def over() -> None:
            await asyncio.sleep(ends - clock())
            await (await target.admin()).ping()

        undo.push(over)
        await admin.client_pause(max(1, round(self.seconds * 1000)))

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(round(timeout + 0.5, 3)), {Status.TIMEOUT})]


FEWEST = 16
"""Connections that the server has room for once a `MaxClients` ended without being undone."""
MOST = 500
"""Connections that a `MaxClients` may hold: each takes a file descriptor."""


@dataclass(frozen=True)
class MaxClients(Fault):
    """The server has as many clients as it may have: new ones get "max number of clients reached".

    maxclients is lowered to a number of connections that the fault itself holds, at least 16 more than those of others.
    Existing connections go on. Undone: the connections are closed, and the setting is put back. If the process that
    holds them is killed, there is room again for whoever puts the setting back.

    Raises `LabError` on a server with too many clients for that.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis", "redis-cluster")
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        admin = await target.admin()
        number = await _clients(admin)
        before = int((await admin.config_get("maxclients"))["maxclients"])
        count, held = 2 * number + FEWEST, list[Any]()
        if count > MOST or number + count >= before:
            raise LabError(f"MaxClients cannot be undone surely on a server with {number} of {before} clients")
        put_back = UndoCommand(
            ("CONFIG", "SET", "maxclients", str(before)), ("CONFIG", "GET", "maxclients"), str(count)
        )
        undo.push(await target.promise(self, put_back))
        undo.push(partial(_close, held))

        async def one_more() -> None:
            held.append(await target.connect())

        while len(held) < count:
            batch = (one_more() for _ in range(min(BATCH, count - len(held))))
            for failed in filter(None, await asyncio.gather(*batch, return_exceptions=True)):
                raise failed
        await admin.config_set("maxclients", count)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        # The server refuses and hangs up before any command: one already sent may meet the closed connection first.
        return [Sample.of(cls(), {Status.REJECTED, Status.DISCONNECTED}, warm={Status.OK})]


async def _clients(admin: Any) -> int:
    """All connections that count against maxclients."""
    info = await admin.info()
    return sum(info.get(name, 0) for name in ("connected_clients", "connected_slaves", "cluster_connections"))


async def _close(held: list[Any]) -> None:
    while held:
        await held[-1].aclose()
        held.pop()


NO_MASTER = ("127.0.0.1", "1")
"""An address where no master listens."""


@dataclass(frozen=True)
class MasterDown(Fault):
    """The server is a replica without its master that may not serve stale data: every read gets "MASTERDOWN".

    It keeps its data, since there is no master to copy from. Undone: it gets its old role back (REPLICAOF NO ONE, or
    its own master), and replica-serve-stale-data is restored.

    Raises `LabError` on a server with replicas: one of them could be promoted meanwhile.
    """

    layer: ClassVar[str] = "server"
    backends: ClassVar[tuple[str, ...]] = ("redis",)
    fires: ClassVar[str] = Fires.ON_DATA
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        role = await (await target.admin()).info("replication")
        if role["connected_slaves"]:
            raise LabError("MasterDown does not act on a server with replicas: one could be promoted meanwhile")
        await change(self, target, undo, "replica-serve-stale-data", "no")
        own = (role["master_host"], str(role["master_port"])) if role["role"] == "slave" else ("NO", "ONE")
        again = UndoCommand(("REPLICAOF", *own), ("CONFIG", "GET", "replicaof"), " ".join(NO_MASTER))
        undo.push(await target.promise(self, again))
        await (await target.admin()).execute_command("REPLICAOF", *NO_MASTER)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED})]
