"""How a Redis server tells of changes of a key: keyspace notifications, heard on a connection that subscribes.

Source: Redis documentation, "Redis keyspace notifications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

__all__ = ["listen_on"]

NEEDED = ({"K"}, {"g", "A"}, {"z", "A"})
"""Of each group one flag of `notify-keyspace-events`: by key; DEL, RENAME and the like; sorted sets."""


async def listen_on(
    connection: Any, key: str, database: int, notify: Callable[[], None], beat: float, patience: float | None
) -> None:
    """Subscribes on a connection of redis.asyncio (RESP2) until it ends; see `Listens.listen`.

    Each beat asks for a sign of life, which may take `patience` seconds.
    """
    if not await _tells(connection):
        while True:
            await _ping(connection, patience)
            notify()
            await asyncio.sleep(beat)
    await connection.send_command("SUBSCRIBE", f"__keyspace@{database}__:{key}")
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


async def _tells(connection: Any) -> bool:
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
    return all(flags & group for group in NEEDED)
