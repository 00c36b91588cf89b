"""Faults inside a server: what they refuse before they act, and how the commands that undo them are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from labkit import faults
from labkit.errors import LabError
from labkit.faults import Undo, UndoCommand
from labkit.faults.server.commands import carry_out


class FakeRedis:
    """A server that gives one reply after another to each command; the last one stays."""

    def __init__(self, **replies: Sequence[Any]) -> None:
        self._replies = {name: list(values) for name, values in replies.items()}
        self.told: list[str] = []

    async def execute_command(self, *words: str) -> Any:
        replies = self._replies[words[0]]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.told.append(words[0])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def info(self, *section: str) -> dict[str, Any]:
        return {"connected_clients": 200, "connected_slaves": 3, "cluster_connections": 40}

    async def config_get(self, name: str) -> dict[str, str]:
        return {name: "10000"}


class FakeTarget:
    """A shard with that server, which takes no further connection."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self.promised: list[UndoCommand] = []

    async def admin(self) -> FakeRedis:
        return self._redis

    async def connect(self) -> Any:
        raise ConnectionError("no more")

    async def promise(self, fault: Any, command: UndoCommand) -> Callable[[], Awaitable[None]]:
        self.promised.append(command)
        return lambda: carry_out(self._redis, command)


BUSY = ResponseError("BUSY Redis is busy running a script.")
PUT_BACK = UndoCommand(("SET", "a", "1"), ("GET", "a"), "2")


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({"GET": [[b"a", b"2"]], "SET": [b"OK"]}, ["GET", "SET"]),
        ({"GET": [[b"a", b"3"]]}, ["GET"]),
        ({"GET": [None]}, ["GET"]),
        ({"GET": [[b"a", [b"b", [b"2"]]]], "SET": [b"OK"]}, ["GET", "SET"]),
        ({"GET": [BUSY, BUSY, [b"2"]], "SET": [b"OK"]}, ["GET", "GET", "GET", "SET"]),
        ({"GET": [[b"2"]], "SET": [BUSY, b"OK"]}, ["GET", "SET", "GET", "SET"]),
    ],
    ids=["needed", "changed by others", "nothing there", "nested", "busy at first", "busy then"],
)
async def test_a_command_is_given_only_while_it_is_needed(replies: dict[str, Any], told: list[str]) -> None:
    """The question comes first; a server that is busy with a script is asked again."""
    redis = FakeRedis(**replies)
    await carry_out(redis, PUT_BACK)
    assert redis.told == told


async def test_an_error_of_the_server_is_raised() -> None:
    """A refused command is not taken for done."""
    redis = FakeRedis(GET=[[b"2"]], SET=[ResponseError("ERR no such setting")])
    with pytest.raises(LabError, match="SET failed: ERR no such setting"):
        await carry_out(redis, PUT_BACK)


async def test_a_script_is_killed_once_and_another_one_is_spared() -> None:
    """SCRIPT KILL is given while the server is busy, and not again after it was accepted or found no script."""
    kill = UndoCommand(("SCRIPT", "KILL"), ("PING",), "BUSY")
    for answer in (b"OK", ResponseError("NOTBUSY No scripts in execution right now.")):
        redis = FakeRedis(PING=[BUSY], SCRIPT=[answer])
        await carry_out(redis, kill)
        assert redis.told == ["PING", "SCRIPT"]
    idle = FakeRedis(PING=[b"PONG"])
    await carry_out(idle, kill)
    assert idle.told == ["PING"]


async def test_maxclients_refuses_a_server_with_many_clients() -> None:
    """243 connections, replicas and cluster links included, are too many: nothing is promised or changed."""
    target = FakeTarget(FakeRedis())
    with pytest.raises(LabError, match="MaxClients cannot be undone surely on a server with 243 of 10000 clients"):
        await faults.MaxClients().start(target, Undo())  # type: ignore[arg-type]
    assert target.promised == []


async def test_maxclients_holds_its_connections_before_it_lowers_the_limit() -> None:
    """If not all of them can be had, the limit stays, and what was promised is undone without a further command."""
    redis, undo = FakeRedis(CONFIG=[[b"maxclients", b"10000"]]), Undo()
    redis.info = few  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="no more"):
        await faults.MaxClients().start(FakeTarget(redis), undo)  # type: ignore[arg-type]
    await undo.run()
    assert redis.told == ["CONFIG"]


async def few(*section: str) -> dict[str, Any]:
    return {"connected_clients": 2}
