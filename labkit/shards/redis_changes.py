"""How a Redis server tells of changes of a key: keyspace notifications, heard on a connection that subscribes.

Source: Redis documentation, "Redis keyspace notifications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from labkit.shards.layouts import Layout

__all__ = ["listen_on"]

EVERYTHING = "A"
"""The flag of `notify-keyspace-events` that stands for those of all types, and for DEL, RENAME and the like."""


async def listen_on(
    connection: Any,
    layout: Layout,
    key: str,
    database: int,
    notify: Callable[[], None],
    beat: float,
    patience: float | None,
) -> None:
    """Subscribes on a connection of redis.asyncio (RESP2) until it ends; see `Listens.listen`.

    Each beat asks for a sign of life, which may take `patience` seconds.
    """
    if not await _tells(connection, layout.event):
        while True:
            await _ping(connection, patience)
            notify()
            await asyncio.sleep(beat)
    await connection.send_command(*layout.subscription(key, database))
    while True:
        # The first message says that the subscription holds: from now on nothing is missed.
        message = await connection.read_response(timeout=beat)
        if message is None:
            message = await _ping(connection, patience)
        if message[0] != b"pong":
            notify()


async def _ping(connection: Any, patience: float | None) -> Any:
    await connection.send_command("PING")
    answer = await connection.read_response(timeout=patience)
    if answer is None:
        raise TimeoutError
    return answer


async def _tells(connection: Any, event: str) -> bool:
    """Whether the server tells of changes by key (K): of keys that are deleted or renamed (g), and of `event`."""
    await connection.send_command("CONFIG", "GET", "notify-keyspace-events")
    try:
        answer = await connection.read_response()
    except NoPermissionError:
        return False
    except ResponseError as error:
        if "unknown command" in str(error).lower():
            return False  # managed servers may do without CONFIG
        raise
    flags = set((answer[1] if len(answer) == 2 else b"").decode())
    return "K" in flags and (EVERYTHING in flags or {"g", event} <= flags)
